from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from astropy.wcs import WCS
from numpy.typing import NDArray
from reproject import reproject_adaptive, reproject_exact, reproject_interp
from scipy.ndimage import map_coordinates

from levelmatch_core.sky import interpolation
from levelmatch_core.sky.grid import Grid
from levelmatch_core.sky.pixelmap import MAX_ERROR, Box, PixelMap, grid_to_image, place
from levelmatch_core.sky.resample import bilinear, by_reproject

GRID = Grid(ra=83.0, dec=-5.0, angle=10.0, scale=1.0)
Make = Callable[..., WCS]


def plain_bilinear(
    data: NDArray[Any], variance: NDArray[Any], x: NDArray[Any], y: NDArray[Any]
) -> tuple[Any, Any, Any]:
    """The kernel in plain numpy: value, variance, summed squared weights."""
    ny, nx = data.shape
    seen = (x >= -0.5) & (y >= -0.5) & (x < nx - 0.5) & (y < ny - 0.5)
    x, y = np.clip(np.where(seen, x, 0), 0, nx - 1), np.clip(np.where(seen, y, 0), 0, ny - 1)
    j, i = np.minimum(x.astype(int), max(nx - 2, 0)), np.minimum(y.astype(int), max(ny - 2, 0))
    fx, fy = x - j, y - i
    value, spread, squares = (np.zeros(x.shape) for _ in range(3))
    for di, wy in ((0, 1 - fy), (1, fy)):
        for dj, wx in ((0, 1 - fx), (1, fx)):
            at = np.minimum(i + di, ny - 1), np.minimum(j + dj, nx - 1)
            value += wy * wx * data[at]
            spread += (wy * wx) ** 2 * variance[at]
            squares += (wy * wx) ** 2
    bad = ~seen | ~np.isfinite(value)
    for image in (value, spread, squares):
        image[bad] = np.nan
    return value, spread, squares


def smooth(shape: tuple[int, int]) -> NDArray[np.float64]:
    y, x = np.indices(shape)
    return 100 + 10 * np.sin(x / 7.0) + 8 * np.cos(y / 5.0) + 0.1 * x


def with_holes(data: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    data = data.copy()
    data[rng.random(data.shape) < 0.02] = np.nan
    data[3:9, 20:30] = np.nan
    data[:, -1] = np.where(rng.random(len(data)) < 0.3, np.nan, data[:, -1])
    return data


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((150, 220), {"angle": 12.0}),
        ((150, 220), {"angle": 33.0, "distortion": 2e-5}),
        ((220, 90), {"angle": -71.0, "scale": 1.3, "distortion": -4e-5}),
        ((64, 64), {"angle": 190.0, "scale": 0.7, "ra": 83.02, "dec": -5.01}),
    ],
)
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_agrees_with_reproject_interp(make_wcs: Make, shape: tuple[int, int], options: Any, kind: Any) -> None:
    wcs = make_wcs(shape, **options)
    data = with_holes(smooth(shape), np.random.default_rng(1)).astype(kind)
    box = place(GRID, wcs, (0, shape[0]), (0, shape[1])).box
    to_image = grid_to_image(GRID, wcs, shape, box)
    assert to_image.pieces is not None
    ours = bilinear(data, None, to_image, box)
    theirs = reproject_interp((data, wcs), GRID.wcs(box.x0, box.y0), box.shape, return_footprint=False)

    assert ours.data.dtype == kind
    # astropy inverts SIP to 1e-4 pixel only, and the slope of the picture is 3 a pixel
    assert np.nanmax(np.abs(ours.data - theirs)) < 3e-4
    # seen or not may differ only where a position is within that of an edge or of a pixel's centre line
    x, y = to_image.on(box)
    differ = np.isfinite(ours.data) != np.isfinite(theirs)
    doubtful = np.minimum(np.abs(2 * x - np.round(2 * x)), np.abs(2 * y - np.round(2 * y))) < 2 * MAX_ERROR
    assert not np.any(differ & ~doubtful)
    assert np.count_nonzero(differ) <= 2
    # none is missed: all that reproject sees on a box with a margin lies in ours
    wide = reproject_interp(
        (data, wcs), GRID.wcs(box.x0 - 9, box.y0 - 9), (box.shape[0] + 18, box.shape[1] + 18), return_footprint=False
    )
    assert np.isfinite(wide).sum() == np.isfinite(theirs).sum()


@pytest.mark.parametrize("shape", [(7, 5), (1, 6), (6, 1), (2, 2)])
def test_edges_as_scipy_has_them(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(2)
    data = rng.normal(size=shape)
    data[0, 0] = np.nan
    data[-1, shape[1] // 2] = np.nan
    x, y = np.meshgrid(np.arange(-1.5, shape[1] + 1, 0.25), np.arange(-1.5, shape[0] + 1, 0.25))

    def clipped(values: NDArray[Any], size: int) -> NDArray[Any]:
        outside = (values < -0.5) | (values >= size - 0.5)
        return np.where(outside, -9, np.clip(values, 0, size - 1))

    oracle = map_coordinates(data, [clipped(y, shape[0]), clipped(x, shape[1])], order=1, cval=np.nan)
    out, ends = np.empty(x.shape), np.empty((len(x), 3), np.int64)
    empty = np.empty((0, 0))
    nothing = np.empty((0,) * 5), np.empty(4)
    interpolation.bilinear_kernel(data, empty, *nothing, np.stack([x, y]), (0.0, 0.0), out, empty, ends)
    np.testing.assert_allclose(out, oracle, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_kernel_agrees_with_plain_numpy(make_wcs: Make, kind: Any) -> None:
    rng = np.random.default_rng(3)
    shape = (120, 170)
    data = with_holes(rng.normal(size=shape), rng).astype(kind)
    variance = rng.uniform(0.5, 2, size=shape).astype(kind)
    wcs = make_wcs(shape, angle=27.0, distortion=1e-5)
    box = place(GRID, wcs, (0, shape[0]), (0, shape[1])).box
    to_image = grid_to_image(GRID, wcs, shape, box)
    ours = bilinear(data, variance, to_image, box)
    value, spread, squares = plain_bilinear(data.astype(float), variance.astype(float), *to_image.on(box))

    tolerance = 1e-6 if kind is np.float32 else 1e-12
    np.testing.assert_allclose(ours.data, value, rtol=tolerance, atol=tolerance)
    assert ours.variance is not None
    np.testing.assert_allclose(ours.variance, spread, rtol=tolerance, atol=tolerance)
    assert ours.noise_gain == pytest.approx(np.nanmean(squares), rel=1e-12)
    valid = np.isfinite(value)
    assert ours.n_valid == valid.sum()
    rows = np.flatnonzero(valid.any(axis=1))
    assert np.array_equal(ours.ends[rows, 0], valid[rows].argmax(axis=1))
    assert np.array_equal(ours.ends[rows, 1], valid.shape[1] - 1 - valid[rows, ::-1].argmax(axis=1))
    assert np.array_equal(ours.ends[:, 2], valid.sum(axis=1))


def test_the_exact_map_gives_the_same(make_wcs: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    shape = (60, 80)
    data, variance = rng.normal(size=shape), rng.uniform(1, 2, size=shape)
    wcs = make_wcs(shape, angle=5.0)
    box = place(GRID, wcs, (0, 60), (0, 80)).box
    fast = grid_to_image(GRID, wcs, shape, box)
    exact = PixelMap(fast.exact, None, fast.lattice, 0.0)
    monkeypatch.setattr("levelmatch_core.sky.pixelmap.BAND_PIXELS", 1000)  # several bands
    one, other = bilinear(data, variance, fast, box), bilinear(data, variance, exact, box)
    np.testing.assert_allclose(one.planes, other.planes, atol=1e-6)
    assert one.noise_gain == pytest.approx(other.noise_gain, abs=1e-6)


def test_variance_is_that_of_noise(make_wcs: Make) -> None:
    rng = np.random.default_rng(5)
    shape = (40, 40)
    sigma = rng.uniform(0.5, 2.0, size=shape)
    wcs = make_wcs(shape, angle=20.0)
    box = place(GRID, wcs, (0, 40), (0, 40)).box
    to_image = grid_to_image(GRID, wcs, shape, box)
    draws = np.stack([bilinear(rng.normal(size=shape) * sigma, None, to_image, box).data for _ in range(2000)])
    predicted = bilinear(sigma, sigma**2, to_image, box).variance
    seen = np.isfinite(draws[0])
    assert predicted is not None
    ratio = draws[:, seen].var(axis=0) / predicted[seen]
    assert np.mean(ratio) == pytest.approx(1.0, abs=0.005)
    assert np.std(ratio) < 1.2 * np.sqrt(2 / 2000)


@pytest.mark.parametrize("method", ["adaptive", "exact"])
def test_reproject_methods(make_wcs: Make, method: Any) -> None:
    rng = np.random.default_rng(6)
    shape = (90, 120)
    wcs = make_wcs(shape, angle=30.0, distortion=1e-5)
    data = smooth(shape)
    data[40:44, 50:60] = np.nan
    sigma = 2.0
    variance = np.full(shape, sigma**2)
    box = place(GRID, wcs, (0, 90), (0, 120)).box
    to_image = grid_to_image(GRID, wcs, shape, box)
    ours = by_reproject(method, data=data, variance=variance, wcs=wcs, pixel_map=to_image, grid=GRID, box=box)
    target = GRID.wcs(box.x0, box.y0)
    if method == "adaptive":
        options = {"boundary_mode": "ignore_threshold", "return_footprint": False}
        theirs = reproject_adaptive((data, wcs), target, box.shape, **options)
    else:
        theirs = reproject_exact((data, wcs), target, box.shape, return_footprint=False)
    both = np.isfinite(ours.data) & np.isfinite(theirs)
    assert both.sum() > 0.95 * shape[0] * shape[1]
    assert np.max(np.abs(ours.data - theirs)[both]) < 1e-3
    assert np.count_nonzero(np.isfinite(ours.data) != np.isfinite(theirs)) < 10
    # the gain and the variance against independent noise
    noise = rng.normal(scale=sigma, size=shape)
    noise[40:44, 50:60] = np.nan
    other = by_reproject(method, data=noise, variance=None, wcs=wcs, pixel_map=to_image, grid=GRID, box=box)
    assert ours.noise_gain == pytest.approx(np.nanvar(other.data) / sigma**2, rel=0.1)
    assert ours.variance is not None
    assert np.nanmean(ours.variance) == pytest.approx(np.nanvar(other.data), rel=0.1)
    assert np.array_equal(np.isnan(ours.variance), np.isnan(ours.data))


def test_nothing_seen(make_wcs: Make) -> None:
    wcs = make_wcs((20, 20))
    box = Box(5000, 5000, (8, 8))
    image = bilinear(np.ones((20, 20)), None, grid_to_image(GRID, wcs, (20, 20), box), box)
    assert image.n_valid == 0
    assert np.isnan(image.noise_gain)
    assert np.isnan(image.data).all()


def test_big_endian_and_integers_are_taken(make_wcs: Make) -> None:
    wcs = make_wcs((20, 20), angle=10.0)
    box = place(GRID, wcs, (0, 20), (0, 20)).box
    to_image = grid_to_image(GRID, wcs, (20, 20), box)
    data = np.arange(400).reshape(20, 20)
    expected = bilinear(data.astype(float), None, to_image, box).data
    np.testing.assert_array_equal(bilinear(data.astype(">f8"), None, to_image, box).data, expected)
    np.testing.assert_array_equal(bilinear(data, None, to_image, box).data, expected)
