"""Other telescopes through the command: HST's two chips, Spitzer's frames, a mosaic camera, and one by a table."""

import os
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

SIZE = 96
SCALE = 0.5  # arcsec


def wcs_at(x, y, *, sip=False):
    """Return a WCS whose image begins x, y pixels from the field's middle."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"] if sip else ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0, 2.0]
    wcs.wcs.crpix = [1 - x, 1 - y]
    wcs.wcs.cd = np.array([[-1, 0], [0, 1]]) * SCALE / 3600
    header = wcs.to_header()
    if sip:
        for name in "AB":
            header[f"{name}_ORDER"] = 2
            header[f"{name}_2_0"] = 2e-6
    return WCS(header)


def image(rng, x, y, level, *, sip=False):
    """Return an image of a sky with structure, at a level, and its header."""
    wcs = wcs_at(x, y, sip=sip)
    rows, columns = np.indices((SIZE, SIZE))
    ra, dec = wcs.all_pix2world(columns, rows, 0)
    sky = 5 * np.sin((ra - 150) * 3600 / 17) * np.cos((dec - 2) * 3600 / 23)
    return (sky + level + rng.normal(0, 0.1, (SIZE, SIZE))).astype("f4"), wcs.to_header(relax=True)


def hst(folder, rng, levels):
    """Two chips above each other, each with ERR and DQ; four exposures of one association."""
    for number, (x, y) in enumerate([(0, 0), (20, 10), (5, 30), (25, 35)]):
        hdus = [fits.PrimaryHDU()]
        hdus[0].header.update({"TELESCOP": "HST", "INSTRUME": "ACS", "FILTER1": "F606W", "FILTER2": "CLEAR2L"})
        hdus[0].header["ASN_ID"] = "JAAA01010"
        for chip in (1, 2):
            name = f"jaaa01{number}q_flc.fits"
            levels[f"{name}#{chip}"] = level = rng.normal(0, 3)
            data, header = image(rng, x, y + (chip - 1) * (SIZE - 30), level, sip=True)
            quality = np.zeros(data.shape, "i2")
            quality[40:60, 40:50] = 4096  # cosmic rays: what they hold must not count
            data[40:60, 40:50] += 1e4
            header["BUNIT"] = "ELECTRONS/S"
            hdus += [
                fits.ImageHDU(data, header, name="SCI", ver=chip),
                fits.ImageHDU(np.full(data.shape, 0.1, "f4"), name="ERR", ver=chip),
                fits.ImageHDU(quality, name="DQ", ver=chip),
            ]
        fits.HDUList(hdus).writeto(folder / name)


def spitzer(folder, rng, levels):
    for number, (x, y) in enumerate([(0, 0), (30, 0), (0, 40), (40, 40)]):
        name = f"SPITZER_I1_12345678_000{number}_0000_1_bcd.fits"
        levels[name] = level = rng.normal(0, 3)
        data, header = image(rng, x, y, level)
        data[:3] = np.nan
        header.update({"TELESCOP": "Spitzer", "INSTRUME": "IRAC", "CHNLNUM": 1, "BUNIT": "MJy/sr"})
        fits.PrimaryHDU(data, header).writeto(folder / name)


def mosaic_camera(folder, rng, levels):
    """Three exposures of two chips, compressed, with a gap between them that dithers close."""
    for number, (x, y) in enumerate([(0, 0), (50, 10), (25, 45)]):
        name = f"c4d_24010{number}_ooi_g.fits.fz"
        hdus = [fits.PrimaryHDU()]
        hdus[0].header.update({"TELESCOP": "CTIO 4.0-m telescope", "INSTRUME": "DECam", "FILTER": "g DECam SDSS"})
        for chip, ccd in enumerate(("S29", "N4"), start=1):
            levels[f"{name}#{chip}"] = level = rng.normal(0, 3)
            data, header = image(rng, x + (chip - 1) * (SIZE + 6), y, level)
            hdus.append(fits.CompImageHDU(data, header, name=ccd, quantize_level=64))
        fits.HDUList(hdus).writeto(folder / name)


def own_camera(folder, rng, levels):
    for number, (x, y) in enumerate([(0, 0), (40, 20)]):
        name = f"box{number}.fits"
        levels[name] = level = rng.normal(0, 3)
        data, header = image(rng, x, y, level)
        bad = np.zeros(data.shape, "u1")
        bad[:, :10] = 1
        data[:, :10] -= 1e4
        primary = fits.PrimaryHDU()
        primary.header["INSTRUME"] = "BOX"
        hdus = [primary, fits.ImageHDU(bad, name="BAD"), fits.ImageHDU(data, header, name="PIC")]
        fits.HDUList(hdus).writeto(folder / name)


BOX = """
name = "box"
[header]
INSTRUME = ["BOX"]
[images]
sci = "PIC"
dq = "BAD"
[dq]
bits = [0]
"""


def levelmatch(tmp_path, *arguments):
    command = [Path(sysconfig.get_path("scripts")) / "levelmatch", *map(str, arguments)]
    environment = {**os.environ, "LEVELMATCH_HOME": str(tmp_path / "home")}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_known_levels_come_back_from_every_telescope(tmp_path):
    folder, out, rng, levels = tmp_path / "in", tmp_path / "out", np.random.default_rng(5), {}
    folder.mkdir()
    for write in (hst, spitzer, mosaic_camera, own_camera):
        write(folder, rng, levels)
    (tmp_path / "box.toml").write_text(BOX)
    settings = ("figures=none", f"instruments={tmp_path / 'box.toml'}", "do_local_subtraction=false")
    assigned = [part for setting in settings for part in ("--set", setting)]
    done = levelmatch(tmp_path, "run", folder, "--output", out, *assigned)
    assert done.returncode == 0, done.stderr
    table = Table.read(out / "corrections.ecsv")
    assert sorted(table["exposure"]) == sorted(levels)
    assert len(set(table["field"])) == 4
    for field in set(table["field"]):
        rows = table[table["field"] == field]
        assert set(rows["component"]) == {1}
        off = np.array(rows["level"]) - [levels[name] for name in rows["exposure"]]
        assert np.ptp(off) < 0.05, field
    assert levelmatch(tmp_path, "verify", out).returncode == 0
    assert "AstroDrizzle" in levelmatch(tmp_path, "explain", out).stdout
    undone = levelmatch(tmp_path, "undo", out, "--output", tmp_path / "back")
    assert undone.returncode == 0, undone.stderr
    again = levelmatch(tmp_path, "apply", out / "corrections.ecsv", folder, "--output", tmp_path / "again")
    assert again.returncode == 0, again.stderr
    for name in ("box0.fits", "jaaa010q_flc.fits"):
        extension = "PIC" if name.startswith("box") else ("SCI", 2)
        came, back = fits.getdata(folder / name, extension), fits.getdata(tmp_path / "back" / name, extension)
        np.testing.assert_allclose(back, came, rtol=1e-6, atol=1e-5)
        assert (tmp_path / "again" / name).read_bytes() == (out / "tiles" / name).read_bytes()


def test_a_table_that_cannot_be_used_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "box.toml").write_text(BOX.replace("[images]", "[image]"))
    arguments = ("run", tmp_path, "--output", tmp_path / "out", "--set", f"instruments={tmp_path / 'box.toml'}")
    done = levelmatch(tmp_path, *arguments)
    assert done.returncode == 2
    assert "unknown entry image: did you mean images?" in done.stderr
    assert not (tmp_path / "out").exists()
