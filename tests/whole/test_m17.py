"""Eight real 2MASS images of M17: seams measured independently, and known levels that come back."""

import gzip
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from numpy.typing import NDArray
from reproject import reproject_interp

from levelmatch_core.images.inventory import take_inventory
from levelmatch_core.products.explain import explain
from levelmatch_core.products.verdict import residual_of
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.grid import Grid, choose_grid

SAME_SCAN = (0.595, 1.347, 1.444, 2.029)
"""|median difference| of the four pairs that lie in one scan, DN: near-pure constants."""


def seams(folder: Path, grid: Grid, off: tuple[float, float] = (0.0, 0.0)) -> dict[tuple[str, str], float]:
    """Return the median difference of each overlapping pair, resampled by reproject to one grid, nothing masked.

    The grid is the match's own. The median of a difference in a crowded field depends on where the pixels fall: on
    grids shifted by fractions of a pixel the medians of the corrected pairs differ by 0.04 to 0.11 DN (rms over pairs),
    whatever statistic the planes were fitted with. `off` shifts the grid, pixels.
    """
    images = [(path.name, *_on_grid(path, grid, off)) for path in sorted(folder.glob("*.fits.gz"))]
    differences = {}
    for (first, one, x1, y1), (second, other, x2, y2) in itertools.combinations(images, 2):
        x, y = max(x1, x2), max(y1, y2)
        difference = other[y - y2 :, x - x2 :]
        base = one[y - y1 :, x - x1 :]
        ny, nx = (min(a, b) for a, b in zip(base.shape, difference.shape, strict=True))
        if ny > 0 and nx > 0:
            apart = difference[:ny, :nx] - base[:ny, :nx]
            if np.isfinite(apart).any():
                differences[first, second] = float(np.nanmedian(apart))
    return differences


def _on_grid(path: Path, grid: Grid, off: tuple[float, float]) -> tuple[NDArray[np.float64], int, int]:
    """Return an image on the grid within its bounding box, and the box's first column and row."""
    data, wcs = fits.getdata(path), WCS(fits.getheader(path))
    x, y = grid.wcs().world_to_pixel(wcs.pixel_to_world(*zip(*_corners(data.shape), strict=True)))
    x0, y0 = int(x.min()) - 2, int(y.min()) - 2
    shape = int(y.max()) - y0 + 3, int(x.max()) - x0 + 3
    target = grid.wcs(x0, y0)
    target.wcs.crpix = target.wcs.crpix - off
    image = reproject_interp((data.astype(float), wcs), target, shape_out=shape, return_footprint=False)
    return image, x0, y0


def _corners(shape: tuple[int, int]) -> list[tuple[int, int]]:
    ny, nx = shape
    return [(0, 0), (nx, 0), (nx, ny), (0, ny)]


def rms(values: object) -> float:
    return float(np.sqrt(np.mean(np.square(list(values)))))  # type: ignore[call-overload]


@pytest.fixture(scope="session")
def grid(m17: Path) -> Grid:
    return choose_grid(take_inventory([m17], MatchSettings()).fields[0])


@pytest.fixture(scope="session")
def raw_seams(m17: Path, grid: Grid) -> dict[tuple[str, str], float]:
    return seams(m17, grid)


@pytest.mark.slow
def test_raw_seams_are_what_the_data_are_known_for(raw_seams):
    assert len(raw_seams) == 13
    assert rms(raw_seams.values()) == pytest.approx(3.45, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("fit_type", "bound"), [("level", 0.80), ("level+slope", 0.05)])
def test_seams_vanish(m17, level_match, tmp_path, fit_type, bound):
    result = level_match(m17, fit_type_mosaic_tiles=fit_type)
    assert result.complete
    after = seams(tmp_path / "out" / "tiles", result.matches[0].grid)
    assert len(after) == 13
    assert rms(after.values()) <= bound


@pytest.mark.full
def test_seams_on_any_grid_are_those_of_the_sampling(m17, level_match, tmp_path):
    """Ten grids, shifted at random by parts of a pixel, among which the medians themselves scatter by 0.037 DN."""
    result = level_match(m17, preset="best", fit_type_mosaic_tiles="level+slope", figures="none")
    shifts = np.random.default_rng(0).uniform(0, 1, (10, 2)).tolist()
    tiles, grid = tmp_path / "out" / "tiles", result.matches[0].grid
    after = np.array([list(seams(tiles, grid, (dx, dy)).values()) for dx, dy in shifts])
    assert np.median([rms(values) for values in after]) <= 0.05
    assert 0.03 < np.sqrt(np.mean(np.var(after, axis=0))) < 0.045


@pytest.mark.slow
def test_the_tutorial_has_the_numbers_that_the_program_shows(m17, level_match, tmp_path):
    """Tutorial, terminal, `explain` and report tell one number for what is left, to the digits that it has."""
    text = (Path(__file__).resolve().parents[2] / "deployments/docs/tutorials/m17.md").read_text(encoding="utf-8")
    found = re.search(
        r"constants bring .* from ([\d.]+) to ([\d.]+) DN rms, and planes from ([\d.]+) to ([\d.]+)\.",
        " ".join(text.split()),
    )
    numbers = [float(number) for number in found.groups()]
    for fit_type, before, after in (("level", *numbers[:2]), ("level+slope", *numbers[2:])):
        out = tmp_path / fit_type
        result = level_match(m17, output=out, preset="best", fit_type_mosaic_tiles=fit_type, figures="none")
        residual = residual_of(result.matches[0])
        assert residual.before == pytest.approx(before, abs=0.006)
        assert residual.after == pytest.approx(after, abs=0.006)
        assert result.record.grade == "doubtful"
        assert f"rms before and {residual.after:.4g} after" in explain(out)
        assert f"became {residual.after:.4g}" in explain(out)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"weight_method": "equal"},
        {"weight_method": "npix"},
        {"weight_method": "rms"},
        {"weight_method": "error"},
        {"weight_method": "error", "robust": True},
        {"weight_method": "error", "do_sigma_clip": True},
    ],
    ids=lambda settings: " ".join(map(str, settings.values())),
)
def test_planes_are_chosen_whatever_pairs_weigh(m17, level_match, settings):
    """Pairs of one scan scatter by a thousandth of the others, which are off by ten times their noise."""
    result = level_match(m17, fit_type_mosaic_tiles="auto", **settings)
    (solution,) = result.matches[0].stages[-1].solutions
    choice = solution.status.choice
    assert choice.chosen == solution.fit_type == "level+slope"
    assert choice.gain > choice.gain_error
    if not settings.get("robust"):  # which leaves little but the exact pairs, and says that it is not to be trusted
        assert 0.3 < solution.status.slope_prior[0] < 3


@pytest.mark.slow
def test_same_scan_pairs_are_measured(m17, level_match, tmp_path):
    level_match(m17)
    pairs = Table.read(tmp_path / "out" / "pairs.ecsv")
    scan = ([name.split("990502s")[1][:3] for name in pairs[side]] for side in ("first", "second"))
    levels = sorted(abs(level) for level, one, other in zip(pairs["level"], *scan, strict=True) if one == other)
    assert levels == pytest.approx(SAME_SCAN, abs=1e-3)


@pytest.mark.slow
def test_known_levels_come_back(m17, level_match, tmp_path):
    """Adding a constant to an image moves its correction by that constant, relative to the reference."""
    added = dict(zip(sorted(path.name for path in m17.glob("*.fits.gz")), np.linspace(-40, 30, 8), strict=True))
    shifted = tmp_path / "input"
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
