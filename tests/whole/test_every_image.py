"""Files of cameras that no table knows, through a whole run and back: many chips, radio images of four axes."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from levelmatch_core.products.corrected.undo import undo
from levelmatch_core.products.corrected.verify import verify

SIZE = 80
Y, X = np.mgrid[:SIZE, :SIZE].astype(float)


def header_at(x: float, y: float) -> fits.Header:
    """Return the WCS of an image of 1 arcsec pixels that begins x, y pixels from the field's middle."""
    cards = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 2.0, "CRPIX1": 1 - x}
    return fits.Header(cards | {"CRPIX2": 1 - y, "CDELT1": -1 / 3600, "CDELT2": 1 / 3600, "RADESYS": "ICRS"})


def sky_of(header: fits.Header) -> np.ndarray:
    """A sky that rises and waves."""
    ra, dec = WCS(header).all_pix2world(X, Y, 0)
    x, y = (150 - ra) * 3600, (dec - 2) * 3600
    return 100 + 0.2 * x - 0.1 * y + 5 * np.sin(x / 17) * np.cos(y / 23)


def worst(out: Path, truth: dict[str, float]) -> float:
    """Return the largest error of the levels, one constant being free."""
    rows = {row["exposure"]: row["level"] for row in Table.read(out / "corrections.ecsv")}
    assert rows.keys() == truth.keys()
    off = np.array([rows[name] - level for name, level in truth.items()])
    return float(np.abs(off - off.mean()).max())


def given_back(folder: Path, tmp_path: Path) -> None:
    """Check that the output is sound, and that undo gives each value back to within its rounding."""
    assert verify(tmp_path / "out").mismatches == ()
    assert undo(tmp_path / "out", tmp_path / "back").complete
    for path in folder.iterdir():
        with fits.open(path) as before, fits.open(tmp_path / "back" / path.name) as after:
            for one, other in zip(before, after, strict=True):
                if one.data is not None:
                    assert other.data.shape == one.data.shape
                    np.testing.assert_allclose(other.data, one.data, rtol=0, atol=2e-5)


def test_every_chip_of_an_unknown_camera_is_matched(tmp_path: Path, level_match) -> None:
    rng, truth = np.random.default_rng(9), {}
    (tmp_path / "in").mkdir()
    for number, (dx, dy) in enumerate([(0, 0), (35, 25), (-25, 35)]):
        hdus = [fits.PrimaryHDU()]
        hdus[0].header.update({"INSTRUME": "WFCAM", "FILTER": "K"})
        for chip, (x, y) in enumerate([(0, 0), (90, 0), (0, 90), (90, 90)], start=1):
            header = header_at(x + dx, y + dy)
            truth[f"e{number}.fits#{chip}"] = level = float(rng.normal(0, 10))
            data = sky_of(header) + level + rng.normal(0, 0.3, X.shape)
            hdus.append(fits.ImageHDU(data.astype("f4"), header, name=f"CCD{chip}"))
            hdus.append(fits.ImageHDU(np.ones(X.shape, "f4"), header, name=f"CCD{chip}.WHT"))
        fits.HDUList(hdus).writeto(tmp_path / "in" / f"e{number}.fits")
    result = level_match(tmp_path / "in")
    assert result.complete
    assert worst(tmp_path / "out", truth) < 0.03
    with fits.open(tmp_path / "in" / "e1.fits") as before, fits.open(tmp_path / "out" / "tiles" / "e1.fits") as after:
        for index in range(1, 9):
            changed = not np.array_equal(before[index].data, after[index].data)
            assert changed == (index % 2 == 1)  # chips, not their weights
    given_back(tmp_path / "in", tmp_path)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "compressed"])
def test_axes_of_length_one_come_back(tmp_path: Path, level_match, *, packed: bool) -> None:
    """Radio images have a channel and a Stokes parameter: their output has them too, and the levels are right."""
    rng, truth = np.random.default_rng(4), {}
    (tmp_path / "in").mkdir()
    for number, (x, y) in enumerate([(0, 0), (40, 0), (0, 40), (40, 40)]):
        header = header_at(x, y)
        level = truth[f"r{number}.fits"] = float(rng.normal(0, 10))
        data = (sky_of(header) + level + rng.normal(0, 0.3, X.shape)).astype("f4")[None, None]
        header.update({"CTYPE3": "FREQ", "CRVAL3": 1.4e9, "CDELT3": 1e6, "CRPIX3": 1.0, "CTYPE4": "STOKES"})
        header.update({"CRVAL4": 1.0, "CDELT4": 1.0, "CRPIX4": 1.0, "BUNIT": "MJy/sr"})
        image = fits.CompImageHDU(data, header, quantize_level=0, compression_type="GZIP_2") if packed else None
        hdus = [fits.PrimaryHDU(), image] if image else [fits.PrimaryHDU(data, header)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fits.HDUList(hdus).writeto(tmp_path / "in" / f"r{number}.fits")
    result = level_match(tmp_path / "in", fit_type_mosaic_tiles="level+slope")
    assert result.complete
    assert worst(tmp_path / "out", truth) < 0.1
    for path in (tmp_path / "in").iterdir():
        with fits.open(path) as before, fits.open(tmp_path / "out" / "tiles" / path.name) as after:
            assert after[-1].data.shape == before[-1].data.shape == (1, 1, SIZE, SIZE)
            assert after[-1].header["CTYPE4"] == "STOKES"
            assert not np.array_equal(after[-1].data, before[-1].data)
    given_back(tmp_path / "in", tmp_path)
