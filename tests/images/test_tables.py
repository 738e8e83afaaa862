"""Instruments that are tables: HST, Spitzer, 2MASS, and what a wrong table is told."""

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from levelmatch_core.errors import SettingsError
from levelmatch_core.images.instruments import by_name, instrument_of
from levelmatch_core.images.instruments.base import Source
from levelmatch_core.images.instruments.table import of_table
from levelmatch_core.images.inventory import take_inventory
from levelmatch_core.instrument_tables import InstrumentTable, read_table
from levelmatch_core.products.output.folder import numbers_settings
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.cutouts import cutout_key
from levelmatch_core.sky.grid import choose_grid
from tests.images.pixels import read_pixels

SHAPE = (40, 60)


def header(dec: float) -> fits.Header:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [10, dec]
    wcs.wcs.crpix = [30, 20]
    wcs.wcs.cdelt = [-0.05 / 3600, 0.05 / 3600]
    found = wcs.to_header()
    found["BUNIT"] = "ELECTRONS/S"
    return found


def hst_file(path: Path, seed: int, **cards: str) -> Path:
    """Write two chips, each with ERR and DQ, as calacs does."""
    rng = np.random.default_rng(seed)
    primary = fits.PrimaryHDU()
    primary.header.update({"TELESCOP": "HST", "INSTRUME": "ACS", "DETECTOR": "WFC", **cards})
    hdus = [primary]
    for chip in (1, 2):
        quality = np.zeros(SHAPE, "i2")
        quality[0, :7] = [1, 16, 32, 64, 256, 512, 4096]
        data = rng.normal(5, 0.1, SHAPE).astype("f4")
        data[1, 0] = 0  # a value as any other
        hdus += [
            fits.ImageHDU(data, header(5 + 0.0005 * chip), name="SCI", ver=chip),
            fits.ImageHDU(np.full(SHAPE, 0.1, "f4"), name="ERR", ver=chip),
            fits.ImageHDU(quality, name="DQ", ver=chip),
        ]
    fits.HDUList(hdus).writeto(path)
    return path


def test_hst_has_an_exposure_a_chip_tiles_by_association_and_its_own_bits(tmp_path: Path) -> None:
    cards = {"FILTER1": "CLEAR1L", "FILTER2": "F814W", "ASN_ID": "J12345010"}
    for number, name in enumerate(("j12345a1q_flc.fits", "j12345a2q_flc.fits")):
        hst_file(tmp_path / name, number, **cards)
    hst_file(tmp_path / "j12345b1q_flc.fits", 9, FILTER1="CLEAR1L", FILTER2="F814W", ASN_ID="NONE")
    inventory = take_inventory([tmp_path], MatchSettings())
    assert inventory.failures == ()
    (field,) = inventory.fields
    assert (field.instrument, field.band, field.unit) == ("hst", "f814w", "ELECTRONS/S")
    tiles = {exposure.name: exposure.tile for exposure in field.exposures}
    assert tiles == {
        "j12345a1q_flc.fits#1": "j12345010#1",
        "j12345a1q_flc.fits#2": "j12345010#2",
        "j12345a2q_flc.fits#1": "j12345010#1",
        "j12345a2q_flc.fits#2": "j12345010#2",
        "j12345b1q_flc.fits#1": "j12345b1q_flc.fits#1",
        "j12345b1q_flc.fits#2": "j12345b1q_flc.fits#2",
    }
    second = field.exposures[1]
    assert (second.sci, second.err, second.dq, second.detector) == (4, 5, 6, "wfc#2")
    data = read_pixels(second).data
    # hot, saturated and cosmic-ray pixels go; unstable, warm and flat-field ones stay
    assert np.isfinite(data[0, :7]).tolist() == [False, False, True, True, False, True, False]
    assert data[1, 0] == 0


def test_wfc3_names_its_filter_in_one_card(tmp_path: Path) -> None:
    hst_file(tmp_path / "i12345a1q_flt.fits", 0, FILTER="F160W", INSTRUME="WFC3")
    assert take_inventory([tmp_path], MatchSettings(band="F160W")).fields[0].band == "f160w"


@pytest.mark.parametrize(
    ("file", "tile"),
    [
        ("SPITZER_I1_12345678_0003_0000_1_bcd.fits", "spitzer_i1_12345678_0003"),
        ("a/SPITZER_I1_12345678_0003_0001_1_cbcd.fits", "spitzer_i1_12345678_0003"),
        ("SPITZER_M1_12345678_0004_0000_1_bcd.fits", "spitzer_m1_12345678_0004"),
        ("renamed.fits", "renamed.fits"),
    ],
)
def test_spitzer_frames_of_one_exposure_are_a_tile(file: str, tile: str) -> None:
    source = Source(file, "", SHAPE, fits.Header({"TELESCOP": "Spitzer"}))
    (part,) = by_name("spitzer").split(source, MatchSettings())
    assert part.tile == tile


def test_a_tile_that_the_user_names_wins() -> None:
    source = Source("SPITZER_I1_12345678_0003_0000_1_bcd.fits", "", SHAPE, fits.Header(), tile="mine")
    assert by_name("spitzer").split(source, MatchSettings())[0].tile == "mine"


def test_a_window_is_left_out() -> None:
    content = {"name": "x", "header": {"TELESCOP": ["X"]}, "exclude": {"rows": [0, 4], "columns": [0, 60]}}
    (part,) = of_table(InstrumentTable.model_validate(content)).split(
        Source("a.fits", "", SHAPE, fits.Header()), MatchSettings()
    )
    assert part.window is not None
    assert not part.window.inside


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('name = "x"', "header: Field required"),
        ('name = "x"\nhaeder = 1\n[header]\nTELESCOP = ["X"]', "unknown entry haeder: did you mean header"),
        (
            'name = "x"\n[header]\nA = ["X"]\n[images]\nblank = true',
            r"unknown entry images\.blank: did you mean blank_z",
        ),
        ('name = "x"\n[header]\nA = ["X"]\n[exclude]\nrows = [0, 1]\ncolumns = [0, 1]\nqq = 1', "known are rows, colu"),
        ('name = "x"\n[header]\nTELESCOP = ["X"]\n[tile]\npattern = "("', "not a regular expression"),
        (
            'name = "x"\n[header]\nTELESCOP = ["X"]\n[dq]\nbits = [4096]',
            "the numbers of bits, 0 to 63, not their values",
        ),
        ('name = "x"\n[header]\nTELESCOP = "X"', r"header\.TELESCOP: Input should be a valid tuple"),
        ("not toml", "Expected"),
    ],
)
def test_a_wrong_table_is_refused_by_name(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=rf"instrument table .*wrong\.toml: .*{reason}"):
        read_table(path)
    with pytest.raises(SettingsError, match=r"wrong\.toml"):
        MatchSettings.load(assignments=[f"instruments={path}"])
    with pytest.raises(SettingsError, match=r"gone\.toml"):
        MatchSettings(instruments=[tmp_path / "gone.toml"])


OWN = """
name = "box camera"
[header]
INSTRUME = ["BOX"]
[images]
sci = "IMAGE"
err = "SIGMA"
dq = "FLAGS"
blank_zero = true
[dq]
bits = [2]
[tile]
pattern = "^(night[0-9]+)_"
[next]
step = "bake it"
"""


def own_file(path: Path, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    flags = np.zeros(SHAPE, "i2")
    flags[0, :2] = 4, 8
    data = rng.normal(5, 0.1, SHAPE).astype("f4")
    data[1, 0] = 0
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(data, header(5), name="IMAGE"), fits.ImageHDU(flags, name="FLAGS")]
    hdus[0].header["INSTRUME"] = "BOX"
    fits.HDUList(hdus).writeto(path)
    return path


def test_a_table_of_the_users_own_is_read_from_settings_and_counts_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    table, config = tmp_path / "conf" / "box.toml", tmp_path / "conf" / "run.toml"
    table.write_text(OWN)
    config.write_text('instruments = ["box.toml"]\n')
    for number in range(2):
        own_file(tmp_path / f"night1_{number}.fits", number)
    settings = MatchSettings.load(config)
    assert settings == MatchSettings.load(assignments=[f"instruments={table}"])
    assert settings == MatchSettings.from_mapping(settings.model_dump(mode="json"))
    (field,) = take_inventory([tmp_path], settings).fields
    assert (field.instrument, {one.tile for one in field.exposures}) == ("box camera", {"night1"})
    one = field.exposures[0]
    data = read_pixels(one).data
    assert np.isnan(data[0, 0])
    assert np.isfinite(data[0, 1])
    assert np.isnan(data[1, 0])
    assert instrument_of(one).next_step == "bake it"
    # other bits: another key, and a field that was made with the one is refused with the other
    table.write_text(OWN.replace("[2]", "[3]"))
    other = MatchSettings.load(config)
    (changed,) = take_inventory([tmp_path], other).fields
    grid = choose_grid(field)
    assert cutout_key(one, grid, settings) != cutout_key(changed.exposures[0], grid, other)
    assert numbers_settings(settings.model_dump()) != numbers_settings(other.model_dump())
    # without the table it is any image, of which nothing is known
    assert take_inventory([tmp_path], MatchSettings()).fields[0].instrument == "generic"


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    own_file(tmp_path / "night1_0.fits", 0)
    for name in ("hst", "jwst", "box camera"):
        table = InstrumentTable.model_validate({"name": name, "header": {"INSTRUME": ["BOX"]}})
        tables = (table, table) if name == "box camera" else (table,)
        with pytest.raises(SettingsError, match=f"another one of the name '{name}'"):
            take_inventory([tmp_path], MatchSettings(instruments=tables))


def test_every_chip_of_a_mosaic_camera_is_an_exposure(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    hdus = [fits.PrimaryHDU()]
    hdus[0].header.update({"INSTRUME": "DECam", "FILTER": "g DECam SDSS c0001 4720.0 1520.0"})
    for number, name in enumerate(("S29", "S30", "N1")):
        hdus.append(fits.CompImageHDU(rng.normal(size=SHAPE).astype("f4"), header(5 + 0.0001 * number), name=name))
    fits.HDUList(hdus).writeto(tmp_path / "c4d_1.fits")
    (field,) = take_inventory([tmp_path], MatchSettings()).fields
    assert field.instrument == "mosaic camera"
    assert [one.name for one in field.exposures] == ["c4d_1.fits#1", "c4d_1.fits#2", "c4d_1.fits#3"]
    assert len({one.tile for one in field.exposures}) == 3
