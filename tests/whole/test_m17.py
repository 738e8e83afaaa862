"""Eight real 2MASS images of M17: seams measured independently, and known levels that come back."""

import gzip
import itertools
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from numpy.typing import NDArray
from reproject import reproject_interp
from reproject.mosaicking import find_optimal_celestial_wcs

SAME_SCAN = (0.595, 1.347, 1.444, 2.029)
"""|median difference| of the four pairs that lie in one scan, DN: near-pure constants."""


def seams(folder: Path) -> dict[tuple[str, str], float]:
    """Return the median difference of each overlapping pair, resampled by reproject to one grid, nothing masked."""
    images: dict[str, NDArray[np.float64]] = {}
    hdus = [(path.name, fits.getdata(path), fits.getheader(path)) for path in sorted(folder.glob("*.fits.gz"))]
    target, shape = find_optimal_celestial_wcs([(data, WCS(header)) for _, data, header in hdus])
    for name, data, header in hdus:
        images[name] = reproject_interp((data, WCS(header)), target, shape_out=shape, return_footprint=False)
    differences = {}
    for first, second in itertools.combinations(images, 2):
        difference = images[second] - images[first]
        if np.isfinite(difference).any():
            differences[first, second] = float(np.nanmedian(difference))
    return differences


def rms(values: object) -> float:
    return float(np.sqrt(np.mean(np.square(list(values)))))  # type: ignore[call-overload]


@pytest.fixture(scope="session")
def raw_seams(m17: Path) -> dict[tuple[str, str], float]:
    return seams(m17)


@pytest.mark.slow
def test_raw_seams_are_what_the_data_are_known_for(raw_seams):
    assert len(raw_seams) == 13
    assert rms(raw_seams.values()) == pytest.approx(3.45, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("fit_type", "bound"), [("level", 0.80), ("level+slope", 0.05)])
def test_seams_vanish(m17, level_match, tmp_path, fit_type, bound):
    result = level_match(m17, fit_type_mosaic_tiles=fit_type)
    assert result.complete
    after = seams(tmp_path / "out" / "tiles")
    assert len(after) == 13
    assert rms(after.values()) <= bound


@pytest.mark.slow
def test_same_scan_pairs_are_measured(m17, level_match, tmp_path):
    level_match(m17)
    pairs = Table.read(tmp_path / "out" / "pairs.ecsv")
    scan = [name.split("s")[-1][:3] for name in pairs["first"]], [name.split("s")[-1][:3] for name in pairs["second"]]
    levels = sorted(abs(level) for level, one, other in zip(pairs["level"], *scan, strict=True) if one == other)
    assert levels == pytest.approx(SAME_SCAN, abs=1e-3)


@pytest.mark.slow
def test_known_levels_come_back(m17, level_match, tmp_path):
    """Adding a constant to an image moves its correction by that constant, relative to the reference."""
    added = dict(zip(sorted(path.name for path in m17.glob("*.fits.gz")), np.linspace(-40, 30, 8), strict=True))
    shifted = tmp_path / "shifted"
    shifted.mkdir()
    for name, level in added.items():
        with fits.open(m17 / name) as hdus:
            hdus[0].data = (hdus[0].data.astype(float) + level).astype(np.float32)
            plain = tmp_path / "plain.fits"
            hdus.writeto(plain, overwrite=True)
        (shifted / name).write_bytes(gzip.compress(plain.read_bytes()))
    found = {}
    for label, folder in (("raw", m17), ("shifted", shifted)):
        result = level_match(folder, output=tmp_path / label, do_local_subtraction=False)
        found[label] = {correction.exposure.file: correction.total.level for correction in result.corrections}
    change = np.array([found["shifted"][name] - found["raw"][name] - added[name] for name in added])
    assert np.abs(change - change[0]).max() < 1e-3
