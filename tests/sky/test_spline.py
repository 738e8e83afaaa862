"""Cubic spline interpolation, against scipy's, and what it is there for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates, spline_filter

from levelmatch_core.sky import spline
from levelmatch_core.sky.grid import Grid
from levelmatch_core.sky.pixelmap import Box, grid_to_image
from levelmatch_core.sky.resample import bilinear
from levelmatch_core.sky.robust.clipping import MAD_TO_SIGMA, pixel_noise

GRID = Grid(ra=83.0, dec=-5.0, angle=0.0, scale=1.0)
NO_MAP = np.empty((0,) * 5), np.zeros(4)


def at(data: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values of the spline at scattered positions."""
    frozen = data.copy()
    frozen.flags.writeable = False
    out = np.zeros((1, x.size))
    spline.sharpen(spline.coefficients(frozen)[0], *NO_MAP, np.array([x, y])[:, None, :], (0.0, 0.0), out, out[:0])
    return out[0]


@settings(deadline=None)
@given(st.integers(4, 70), st.integers(4, 70), st.integers(0, 1000))
def test_it_is_the_spline_of_scipy(ny: int, nx: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = rng.normal(size=(ny, nx))
    x, y = rng.uniform(0, nx - 1, 50), rng.uniform(0, ny - 1, 50)
    assert at(data, x, y) == pytest.approx(map_coordinates(data, [y, x], order=3, mode="mirror"), abs=1e-12)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 1), (2, 2), (3, 40), (30, 21), (70, 70)])
def test_without_a_compiler_the_filter_gives_the_same_bytes(shape: tuple[int, int]) -> None:
    padded = np.full([n + 2 * spline.MARGIN for n in shape], 7.0)
    inner = padded[spline.MARGIN : -spline.MARGIN, spline.MARGIN : -spline.MARGIN]
    inner[...] = np.random.default_rng(4).normal(size=shape) * 1e5
    if shape[0] > 9:
        inner[3, 4], inner[8, 2] = np.inf, -0.0
    compiled, plain = padded.copy(), padded.copy()
    spline.prefilter.compiled(compiled)
    with np.errstate(all="ignore"):
        spline.prefilter.plain(plain)
    assert plain.tobytes() == compiled.tobytes()


def test_the_coefficients_are_those_of_scipy() -> None:
    data = np.random.default_rng(1).normal(size=(50, 40))
    found, wild = spline.coefficients(data)
    assert not wild.any()
    inner = found[spline.MARGIN : -spline.MARGIN, spline.MARGIN : -spline.MARGIN]
    assert inner == pytest.approx(spline_filter(data, 3, mode="mirror"), abs=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.37, 0.5, 0.9])
def test_the_gain_is_that_of_white_noise(shift: float) -> None:
    """By the responses to unit impulses of scipy's spline."""
    impulses = [map_coordinates(np.eye(41)[k], [[20 + shift]], order=3, mode="mirror")[0] for k in range(41)]
    weights = spline._weights.py_func(shift)
    assert spline._gain.py_func(*weights) == pytest.approx(np.sum(np.square(impulses)), rel=1e-9)


def test_pixels_that_stand_alone_are_wild_and_stars_are_not() -> None:
    rng = np.random.default_rng(3)
    y, x = np.indices((60, 60))
    data = rng.normal(size=(60, 60))
    for star, phase in (((15, 15), 0.0), ((15, 40), 0.5)):
        # no wider than 1.1 pixels at half maximum, pixels included
        data += 400 * np.exp(-((y - star[0] - phase) ** 2 + (x - star[1]) ** 2) / (2 * 0.55**2))
    data[40, 20] += 60
    data[45, 45] += 300
    data[46, 45] += 80  # a hit of two pixels
    _, wild = spline.coefficients(data)
    assert {(int(r), int(c)) for r, c in zip(*np.nonzero(wild), strict=True)} >= {(40, 20), (45, 45)}
    assert not wild[10:22, 10:46].any()


def test_faint_undersampled_stars_are_not_wild_either() -> None:
    """Their neighbours are lost in the noise one by one; without their cores, a crowd's levels were a quarter worse."""
    rng = np.random.default_rng(8)
    y, x = np.indices((400, 400)).astype(float)
    data = rng.normal(size=y.shape)
    rows, columns = (grid.ravel() for grid in np.meshgrid(np.arange(10, 390, 10), np.arange(10, 390, 10)))
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        near = np.s_[row - 4 : row + 5, column - 4 : column + 5]
        data[near] += 15 * np.exp(-((y[near] - row) ** 2 + (x[near] - column) ** 2) / (2 * 0.55**2))
    _, wild = spline.coefficients(data)
    assert wild[rows, columns].sum() < 0.05 * len(rows)


def test_a_wild_pixel_does_not_ring() -> None:
    rng = np.random.default_rng(4)
    data = rng.normal(size=(40, 40))
    hit = data.copy()
    hit[20, 20] += 1e4
    rng = np.random.default_rng(5)
    x, y = rng.uniform(5, 35, 2000), rng.uniform(5, 35, 2000)
    far = np.hypot(x - 20, y - 20) > 1.5
    assert np.abs(at(hit, x, y) - at(data, x, y))[far].max() < 5


def test_dead_pixels_are_wild_and_gaps_between_stars_are_not() -> None:
    rng = np.random.default_rng(9)
    y, x = np.indices((200, 200)).astype(float)
    data = 100 + rng.normal(size=y.shape)
    dead = (rng.integers(5, 195, 30), rng.integers(5, 195, 30))
    hit = data.copy()
    hit[dead] = 0.0
    _, wild = spline.coefficients(hit)
    assert wild[dead].mean() > 0.9  # but those next to another
    assert wild.sum() == wild[dead].sum()
    for row, column in rng.uniform(0, 200, (4000, 2)):
        near = np.s_[max(0, int(row) - 4) : int(row) + 5, max(0, int(column) - 4) : int(column) + 5]
        star = np.exp(-((y[near] - row) ** 2 + (x[near] - column) ** 2) / (2 * 0.47**2))
        data[near] += 30 * rng.pareto(1.2) * star
    dark = spline.coefficients(data)[1].astype(bool) & (data < np.median(data))
    assert not dark.any()


@pytest.mark.parametrize("height", [25.0, 40.0, 1e4])
def test_what_a_cosmic_ray_touches_is_invalid_and_the_rest_as_without_it(height: float) -> None:
    """Half a pixel between the grid and the image: a hit touches four pixels of the grid."""
    data = np.random.default_rng(6).normal(size=(60, 60))
    hit = data.copy()
    hits = (np.arange(6, 54, 8)[:, None], np.arange(6, 54, 8))
    hit[hits] = height + data[hits] / 4
    clean, found = resampled(data, 0.5, sharp=True), resampled(hit, 0.5, sharp=True)
    invalid = np.isnan(found[0])
    struck = 4 * hits[0].size * hits[1].size
    assert invalid.sum() == pytest.approx(struck, rel=0.05)
    near = np.abs((found - clean)[0][~invalid])
    assert np.mean(near > 2.5) < 0.01


def resampled(data: NDArray[np.float64], shift: float, *, sharp: bool) -> NDArray[np.float64]:
    """The data on a grid that is shifted against its pixels."""
    wcs = GRID.wcs(0, 0)
    wcs.wcs.crpix -= shift
    box = Box(2, 2, (data.shape[0] - 4, data.shape[1] - 4))
    to_image = grid_to_image(GRID, wcs, data.shape, box)
    return bilinear(data, np.ones_like(data), to_image, box, sharp=sharp).planes


def test_the_valid_area_is_that_of_bilinear_interpolation_and_the_variance_follows_the_weights() -> None:
    rng = np.random.default_rng(2)
    data = rng.normal(size=(80, 90))
    data[rng.random(data.shape) < 0.02] = np.nan
    data[20:30, 40:60] = np.nan
    data[50] = np.nan
    plain, sharp = resampled(data, 0.4, sharp=False), resampled(data, 0.4, sharp=True)
    assert np.array_equal(np.isnan(plain), np.isnan(sharp))
    assert np.nanmean(plain[1]) == pytest.approx(0.52**2, rel=0.01)
    gain = spline._gain.py_func(*spline._weights.py_func(0.4)) ** 2
    assert np.nanmedian(sharp[1]) == pytest.approx(gain, rel=0.01)


def test_undersampled_stars_keep_their_shape() -> None:
    """The blur of bilinear interpolation is what biased the levels of crowds."""
    rng = np.random.default_rng(7)
    y, x = np.indices((120, 120)).astype(float)
    places = rng.uniform(8, 112, (300, 2))

    def sky(shift: float) -> NDArray[np.float64]:
        image = np.zeros(y.shape)
        for row, column in places:
            image += np.exp(-((y - row + shift) ** 2 + (x - column + shift) ** 2) / (2 * 0.7**2))
        return image

    truth = sky(0.5)[2:-2, 2:-2]  # a grid pixel lies half a pixel further on
    error = [np.std(resampled(sky(0.0), -0.5, sharp=sharp)[0] - truth) for sharp in (False, True)]
    error += [np.std(resampled(sky(0.0), 0.5, sharp=sharp)[0] - sky(-0.5)[2:-2, 2:-2]) for sharp in (False, True)]
    best = min(error[1], error[3]), min(error[0], error[2])
    assert best[0] < 0.5 * best[1]


@pytest.mark.parametrize("columns", [1, 2, 40, 41])
def test_noise_is_the_median_of_numpy(columns: int) -> None:
    data = np.random.default_rng(columns).normal(size=(7, columns)).astype(np.float32)
    data[1, 0] = np.nan
    steps = np.abs(np.diff(data.astype(np.float64), axis=1))
    expected = MAD_TO_SIGMA * np.nanmedian(steps) / np.sqrt(2) if columns > 1 else 0.0
    assert pixel_noise(data) == expected
