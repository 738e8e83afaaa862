"""Up to a fifth of an overlap may hold any value whatever: no fit moves by much more than its stated error."""

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from levelmatch_core.images.contents.blanks import HUGE
from levelmatch_core.matching.measure.pair_fit import fit_pair
from levelmatch_core.matching.results import PairFit
from levelmatch_core.sky.cutouts import Cutout
from levelmatch_core.sky.grid import Grid
from levelmatch_core.sky.lone_pixels import lone_pixels, rough_noise
from levelmatch_core.sky.pixelmap import Box, PixelMap, grid_to_image
from levelmatch_core.sky.resample import bilinear
from levelmatch_core.sky.robust.clipping import clipped
from tests.matching import fakes
from tests.matching.fakes import make_cutout, settings_for

SHAPE = (40, 60)
SIGMA = 0.5
LEVEL = 7.0
SLOPES = {"level": (0.0, 0.0), "level+slope": (0.02, -0.03)}
Y, X = np.mgrid[: SHAPE[0], : SHAPE[1]]
RNG = np.random.default_rng(26)
BASE = RNG.normal(100.0, 3.0, SHAPE)
NOISE = RNG.normal(0.0, SIGMA, SHAPE)
SCATTERED = RNG.permutation(X.size).reshape(SHAPE)
"""Places, in the order in which they become wild: anywhere, or from one edge on."""
PLACES = {"scattered": SCATTERED, "a block": X * SHAPE[0] + Y}

FIT_TYPES = st.sampled_from(["level", "level+slope"])
STATISTICS = st.sampled_from(["median", "clipped_mean", "huber"])
ANYTHING = st.floats(allow_nan=True, allow_infinity=True)
FAR = ANYTHING.filter(lambda value: not abs(value - LEVEL) <= 12 * SIGMA)


def fitted(fit_type: str, statistic: str, wild: list[float], part: float, place: str) -> PairFit:
    """Fit a pair whose difference is a plane and noise, with so large a part of it replaced by the values in turn."""
    slope_x, slope_y = SLOPES[fit_type]
    delta = LEVEL + slope_x * (X - X.mean()) + slope_y * (Y - Y.mean()) + NOISE
    bad = PLACES[place] < part * X.size
    if wild:
        with np.errstate(over="ignore"):
            delta[bad] = np.resize(np.array(wild), np.count_nonzero(bad))
    with np.errstate(over="ignore"):
        second = BASE + delta
    fit = fit_pair(make_cutout("a", BASE), make_cutout("b", second), fit_type, settings_for(statistic=statistic))
    assert fit is not None
    return fit


def furthest(fit: PairFit, other: PairFit) -> float:
    """Return by how much two fits differ at most, at the middle for levels and in a corner for planes."""
    x, y = (X[[0, 0, -1, -1], [0, -1, 0, -1]], Y[[0, 0, -1, -1], [0, -1, 0, -1]])
    return float(np.abs(fit.plane(x, y) - other.plane(x, y)).max())


@settings(deadline=None, max_examples=200)
@given(FIT_TYPES, STATISTICS, st.lists(FAR, min_size=1, max_size=5), st.floats(0, 0.2), st.sampled_from(sorted(PLACES)))
def test_far_values_move_nothing(fit_type: str, statistic: str, wild: list[float], part: float, place: str) -> None:
    clean, fit = fitted(fit_type, statistic, [], 0, place), fitted(fit_type, statistic, wild, part, place)
    # in a corner a plane's variance is about 1 + 3 + 3 times that of its middle, and more where an edge is missing
    factor = 3 * math.sqrt(7 if fit_type == "level+slope" else 1) / (1 - part)
    assert furthest(fit, clean) <= factor * clean.stderr
    assert fit.rms == pytest.approx(clean.rms, rel=0.05)
    assert fit.stderr == pytest.approx(clean.stderr, rel=0.2)
    assert fit.n_used <= fit.npix <= X.size


@settings(deadline=None, max_examples=200)
@given(FIT_TYPES, STATISTICS, st.lists(ANYTHING, min_size=1, max_size=5), st.floats(0, 0.2))
def test_no_value_moves_a_fit_beyond_the_noise(fit_type: str, statistic: str, wild: list[float], part: float) -> None:
    """Those that hide among the noise may pull at it (a median by 0.32 of its width), and no more."""
    clean, fit = fitted(fit_type, statistic, [], 0, "scattered"), fitted(fit_type, statistic, wild, part, "scattered")
    assert furthest(fit, clean) <= SIGMA
    assert fit.rms <= 2 * SIGMA
    assert math.isfinite(fit.stderr)


@settings(deadline=None, max_examples=100)
@given(st.lists(FAR, min_size=1, max_size=5), st.floats(0, 0.2))
def test_nor_a_clip(wild: list[float], part: float) -> None:
    values = LEVEL + NOISE
    bad = PLACES["scattered"] < part * X.size
    values[bad] = np.resize(np.array(wild), np.count_nonzero(bad))
    found = clipped(values, 3.0, 20)
    assert found is not None
    assert found.median == pytest.approx(LEVEL, abs=4 * SIGMA / math.sqrt(X.size))
    assert found.std == pytest.approx(SIGMA, rel=0.06)


@pytest.mark.parametrize("fit_type", SLOPES)
@pytest.mark.parametrize("value", [1.7e308, -1.7e308, 1e30, math.inf])
def test_one_pixel(fit_type: str, value: float) -> None:
    clean, fit = fitted(fit_type, "median", [], 0, "scattered"), fitted(fit_type, "median", [value], 1e-4, "scattered")
    assert furthest(fit, clean) <= 0.1 * clean.stderr


# -- through resampling, which spreads them ----------------------------------------------------------------------------
GRID = Grid(ra=83.0, dec=-5.0, angle=0.0, scale=1.0)
FAR_OFF = ANYTHING.filter(lambda value: not abs(value - 100.0) <= 15 * SIGMA)


@cache
def to_grid(shift: float) -> tuple[PixelMap, Box]:
    """A map from the grid to an image whose pixels are off by so much."""
    wcs = GRID.wcs(0, 0)
    wcs.wcs.crpix -= shift
    box = Box(2, 2, (96, 116))
    return grid_to_image(GRID, wcs, (100, 120), box), box


def seen(  # noqa: PLR0917 - a program in small
    seed: int,
    level: float,
    shift: float,
    wild: list[float],
    part: float,
    side: tuple[int, int] = (1, 1),
    *,
    sharp: bool,
) -> Cutout:
    """A cutout of an image of a soft sky, of which so large a part holds the values in turn."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:100, :120] + shift
    data = 100 + level + 3 * np.sin(x / 20) * np.cos(y / 25) + 0.01 * level * (x - 60) + rng.normal(0, SIGMA, y.shape)
    blocks = rng.random((100 // side[0], 120 // side[1])) < part
    bad = np.repeat(np.repeat(blocks, side[0], axis=0), side[1], axis=1)
    data[bad] = rng.permutation(np.resize(np.array(wild or [0.0]), np.count_nonzero(bad)))
    data[~np.isfinite(data) | (np.abs(data) > HUGE)] = np.nan  # as reading has it
    data.flags.writeable = False
    lone = lone_pixels(data, rough_noise(data))
    if lone is not None:
        data = np.where(lone, np.nan, data)
    image = bilinear(data, None, *to_grid(shift), sharp=sharp)
    return fakes.make_cutout(str(seed), image.data, noise_gain=image.noise_gain)


@settings(deadline=None, max_examples=60)
@given(
    FIT_TYPES,
    STATISTICS,
    st.booleans(),
    st.lists(FAR_OFF, min_size=1, max_size=4),
    st.tuples(st.floats(0, 0.2), st.sampled_from([0.0, 1.0])),
)
def test_nor_do_they_move_what_is_resampled(
    fit_type: str, statistic: str, sharp: bool, wild: list[float], parts: tuple[float, float]
) -> None:
    """Scattered over one image or both, on the pixels' own grids, which are off the common one."""
    here, other = parts[0], parts[0] * parts[1]
    chosen = settings_for(statistic=statistic)

    def fitted(one: float, two: float) -> PairFit:
        pair = seen(1, 0.0, 0.4, wild, one, sharp=sharp), seen(2, LEVEL, -0.3, wild, two, sharp=sharp)
        fit = fit_pair(*pair, fit_type, chosen)
        assert fit is not None
        return fit

    clean, fit = fitted(0.0, 0.0), fitted(here, other)
    x, y = np.array([2, 2, 113, 113]), np.array([2, 93, 2, 93])
    far = float(np.abs(fit.plane(x, y) - clean.plane(x, y)).max())
    assert far <= 4 * math.sqrt(7 if fit_type == "level+slope" else 1) * fit.stderr
    # five sixths of the pixels at most are lost with those that touch a wild one
    assert fit.stderr <= 3.5 * clean.stderr


@settings(deadline=None, max_examples=60)
@given(
    FIT_TYPES,
    STATISTICS,
    st.booleans(),
    st.lists(FAR_OFF, min_size=1, max_size=2),
    st.tuples(st.floats(0, 0.2), st.sampled_from([0.0, 1.0]), st.sampled_from([(2, 2), (5, 5), (100, 1), (1, 120)])),
)
def test_where_they_are_not_alone_the_error_is_said(
    fit_type: str, statistic: str, sharp: bool, wild: list[float], parts: tuple[float, float, tuple[int, int]]
) -> None:
    """Blocks, columns and rows of them are spread as well, and look like what a sky may have: they are not found.

    Up to twice the noise, or half of the scatter that is left, the densest differences cannot tell from chance.
    """
    one, two, side = parts[0], parts[0] * parts[1], parts[2]
    pair = seen(1, 0.0, 0.4, wild, one, side, sharp=sharp), seen(2, LEVEL, -0.3, wild, two, side, sharp=sharp)
    fit = fit_pair(*pair, fit_type, settings_for(statistic=statistic))
    if fit is not None:
        off = abs(float(fit.plane(np.array([57.5]), np.array([47.5]))[0]) - LEVEL)
        assert off <= 4 * math.hypot(fit.stderr, fit.structure) + max(2 * SIGMA, 0.5 * fit.rms)


# -- just above the noise, where no clip finds them --------------------------------------------------------------------
LARGE = 300
OFFSETS = st.one_of(st.floats(2, 12), st.floats(2, 12), st.sampled_from([30.0, 1e4, 1e30]))


@cache
def of_large(seed: int, level: float, off: float, part: float, side: tuple[int, int], *, sharp: bool) -> Cutout:
    """A cutout of a larger image, of which a part of the pixels is too high by so many times the noise."""
    rng = np.random.default_rng(seed)
    shape, shift = (LARGE, LARGE), (0.4, 0.35) if seed == 1 else (-0.3, -0.25)
    y, x = np.mgrid[:LARGE, :LARGE].astype(float)
    sky = 3 * np.sin((x + shift[0]) / 20) * np.cos((y + shift[1]) / 25)
    data = 100 + level + sky + rng.normal(0, SIGMA, shape)
    blocks = rng.random((-(-LARGE // side[0]), -(-LARGE // side[1]))) < part
    bad = np.repeat(np.repeat(blocks, side[0], axis=0), side[1], axis=1)[:LARGE, :LARGE]
    data[bad] += off * SIGMA
    data[np.abs(data) > HUGE] = np.nan  # as reading has it
    data.flags.writeable = False
    lone = lone_pixels(data, rough_noise(data))
    data = data if lone is None else np.where(lone, np.nan, data)
    wcs, box = GRID.wcs(0, 0), Box(2, 2, (LARGE - 4, LARGE - 4))
    wcs.wcs.crpix -= np.array(shift)
    image = bilinear(data, None, grid_to_image(GRID, wcs, shape, box), box, sharp=sharp)
    return fakes.make_cutout(str(seed), image.data, noise_gain=image.noise_gain)


@settings(deadline=None, max_examples=40)
@given(
    FIT_TYPES,
    st.sampled_from(["median", "clipped_mean", "huber", "adaptive"]),
    st.booleans(),
    OFFSETS,
    st.tuples(st.floats(0, 0.2), st.sampled_from([(1, 1), (2, 2), (5, 5), (LARGE, 1), (1, LARGE)])),
)
def test_where_they_hide_in_the_noise_the_error_is_said(
    fit_type: str, statistic: str, sharp: bool, off: float, parts: tuple[float, tuple[int, int]]
) -> None:
    """A fifth of one image's pixels 2 to 1e30 standard deviations too high moved a level by up to 45 of its errors.

    What cannot be told from noise is a few per cent of them: a fifth of the noise of a pixel at most.
    """
    pair = of_large(1, 0.0, off, *parts, sharp=sharp), of_large(2, LEVEL, 0.0, 0.0, (1, 1), sharp=sharp)
    fit = fit_pair(*pair, fit_type, settings_for(statistic=statistic))
    assert fit is not None
    middle = np.array([(LARGE - 1) / 2])
    wrong = abs(float(fit.plane(middle, middle)[0]) - LEVEL)
    assert wrong <= 4 * math.hypot(fit.stderr, fit.structure) + 0.2 * SIGMA


def test_whole_numbers_keep_their_scatter() -> None:
    """Of differences of counts many are the same: the start is no narrower than the noise is wide."""
    for width in (0.5, 1.0, 2.0):
        values = np.round(RNG.normal(0, width, 50_000))
        found = clipped(values, 3.0, 10)
        assert found is not None
        assert found.std == pytest.approx(math.hypot(width, 1 / math.sqrt(12)), rel=0.05)


def test_photons_that_are_few_are_no_wild_pixels() -> None:
    values = RNG.poisson(0.15, 50_000).astype(float)
    values[:10] = 1e30
    found = clipped(values, 5.0, 1)
    assert found is not None
    assert found.high == 1.0
