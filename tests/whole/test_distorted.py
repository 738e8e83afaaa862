"""Distorted images through a whole run: a steep sky shows where a WCS puts pixels, by a formula not of astropy."""

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

SIZE = 120
CUBIC = 3.0 / 60**3 * 3600**2
"""Cubic term, per square degree: 3 pixels of 1 arcsec at the middle of an edge."""
LEVELS = {"a.fits": 5.0, "b.fits": -3.0, "c.fits": 11.0, "d.fits": 7.0}
NOISE = 0.3


def sky_of(crval: tuple[float, float], flip: int) -> np.ndarray:
    """A sky that rises by 1 unit an arcsec, on the pixels of an image: cubic in the tangent plane, then gnomonic."""
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    xi, eta = -flip * x / 3600, flip * y / 3600
    xi, eta = xi + CUBIC * xi**3, eta + CUBIC * eta**3
    u, v, d0 = np.radians(xi), np.radians(eta), np.radians(crval[1])
    below = np.cos(d0) - v * np.sin(d0)
    ra = crval[0] + np.degrees(np.arctan2(u, below))
    dec = np.degrees(np.arctan((np.sin(d0) + v * np.cos(d0)) / np.hypot(u, below)))
    return 500 + (ra - 150) * 3600 + 0.7 * (dec - 2) * 3600


def header_of(kind: str, crval: tuple[float, float], flip: int) -> fits.Header:
    """Return a header with that cubic term, in the convention of a kind."""
    code = {"TNX": "TNX", "TPV": "TPV", "TPV beside stale SIP": "TPV", "SIP beside PV": "TAN-SIP"}.get(kind, "TAN")
    code = "TAN-SIP" if kind == "SIP" or kind.startswith("CUNIT") else code
    header = fits.Header({"CTYPE1": f"RA---{code}", "CTYPE2": f"DEC--{code}", "CRVAL1": crval[0], "CRVAL2": crval[1]})
    header.update({"CRPIX1": (SIZE + 1) / 2, "CRPIX2": (SIZE + 1) / 2, "CD1_1": -flip / 3600, "CD2_2": flip / 3600})
    header.update({"CD1_2": 0.0, "CD2_1": 0.0, "BUNIT": "MJy/sr", "FILTER": "z"})
    if "PV" in kind:
        for axis in (1, 2):
            header.update({f"PV{axis}_0": 0.0, f"PV{axis}_1": 1.0, f"PV{axis}_7": CUBIC})
    if "SIP" in kind or kind.startswith("CUNIT"):
        term = 2 * CUBIC if "stale" in kind else CUBIC
        header.update({"A_ORDER": 3, "B_ORDER": 3, "A_3_0": term / 3600**2, "B_0_3": term / 3600**2})
    if kind == "TNX":
        # powers of xi up to 3 for each power of eta, cross terms by half: the cubic ones are the 4th and the 10th;
        # wcslib ends at a term that is 0 to the last bit, which fits never are
        for axis, name, word, cubic in ((1, "ra", "lngcor", 3), (2, "dec", "latcor", 9)):
            terms = " ".join(repr(CUBIC) if place == cubic else "1.0E-30" for place in range(10))
            text = f'wtype=tnx axtype={name} {word} = "3. 4. 4. 2. -1. 1. -1. 1. {terms} "'
            for number, start in enumerate(range(0, len(text), 68), start=1):
                header[f"WAT{axis}_{number:03d}"] = text[start : start + 68]
        header["WAT0_001"] = "system=image"
    if kind.startswith("CUNIT"):
        header["CUNIT1"] = header["CUNIT2"] = kind.split()[1]
    return header


@pytest.mark.parametrize(
    "kind",
    ["TNX", "TPV", "TPV beside stale SIP", "SIP beside PV", "TAN with PV", "SIP", "CUNIT degree", "CUNIT DEG"],
)
def test_a_distortion_counts_once_and_counts(tmp_path: Path, level_match, kind: str) -> None:
    """Levels come out right where a pixel's displacement by one would be one unit; every second image is turned."""
    (tmp_path / "in").mkdir()
    for number, (name, level) in enumerate(LEVELS.items()):
        crval, flip = (150 + 60 * (number % 2) / 3600, 2 + 60 * (number // 2) / 3600), (-1) ** number
        noise = np.random.default_rng(number).normal(0, NOISE, (SIZE, SIZE))
        data = (sky_of(crval, flip) + level + noise).astype("f4")
        fits.PrimaryHDU(data, header_of(kind, crval, flip)).writeto(tmp_path / "in" / name)
    result = level_match(tmp_path / "in")
    assert result.complete
    rows = {row["exposure"]: row["level"] for row in Table.read(tmp_path / "out" / "corrections.ecsv")}
    off = np.array([rows[name] - level for name, level in LEVELS.items()])
    assert np.abs(off - off.mean()).max() < 0.05
    rms = Table.read(tmp_path / "out" / "pairs.ecsv")["rms"]
    assert max(rms) < NOISE * np.sqrt(2)  # resampling averages some of it
