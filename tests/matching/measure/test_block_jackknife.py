"""The error of a level beyond pixel noise: none where there is noise alone, the true one where structure is left."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from levelmatch_core.matching.measure.block_jackknife import shown_by
from levelmatch_core.matching.measure.block_kernels import BlockFindings, block_statistics, block_sums
from levelmatch_core.matching.measure.core_level import off_core
from levelmatch_core.matching.measure.pair_fit import fit_pair
from levelmatch_core.matching.measure.tilts import NOT_TILTED, tilted
from levelmatch_core.process.small_work import interpreted
from levelmatch_core.settings import FitType
from levelmatch_core.sky.kernels import as_compiled
from tests.matching.fakes import make_cutout, settings_for
from tests.matching.measure.plain_blocks import blocks_of, plain_blocks, table_of

SHAPE = (96, 128)


def fitted(data: np.ndarray, sky: np.ndarray | float = 0.0, **settings: object):
    cutouts = make_cutout("a", np.zeros(SHAPE) + sky), make_cutout("b", data + sky)
    fit = fit_pair(*cutouts, "level", settings_for(**settings))
    assert fit is not None
    return fit


@pytest.mark.parametrize("statistic", ["median", "clipped_mean"])
def test_noise_alone_shows_no_structure(statistic: str) -> None:
    shown = [
        fitted(np.random.default_rng(seed).standard_normal(SHAPE), statistic=statistic).structure for seed in range(60)
    ]
    assert np.count_nonzero(shown) <= 3


def test_structure_larger_than_pixels_is_the_error_of_the_level() -> None:
    """Smooth patches of unit rms over noise: the levels of many draws scatter by what each draw says of itself."""
    levels, said = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        patches = gaussian_filter(rng.standard_normal(SHAPE), 5, mode="wrap")
        fit = fitted(patches / 0.0564 + rng.standard_normal(SHAPE))
        levels.append(fit.plane.level)
        said.append(np.hypot(fit.structure, fit.stderr))
    assert np.std(levels) == pytest.approx(np.sqrt(np.mean(np.square(said))), rel=0.4)
    assert np.std(levels) > 5 * fit.stderr


def test_two_statistics_that_disagree_say_so() -> None:
    """A tail on one side, alike all over: no block differs from any other, and the median is not the mean."""
    rng = np.random.default_rng(1)
    data = rng.standard_normal(SHAPE) + 1.5 * (rng.random(SHAPE) < 0.3)
    fit = fitted(data)
    mean = fitted(data, statistic="clipped_mean").plane.level
    assert abs(mean - fit.plane.level) < fit.structure < 0.45  # what the tail moves the mean by


@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
@pytest.mark.parametrize("statistic", ["median", "clipped_mean", "huber", "adaptive"])
def test_where_most_pixels_are_wild_the_densest_tell(fit_type: FitType, statistic: str) -> None:
    """Two fifths are the sky, the others anything above it, as resampling spreads it: no clip tells them apart."""
    rng = np.random.default_rng(4)
    data = rng.standard_normal(SHAPE) + rng.uniform(0, 50, SHAPE) * (rng.random(SHAPE) < 0.6)
    cutouts = make_cutout("a", np.zeros(SHAPE)), make_cutout("b", data)
    fit = fit_pair(*cutouts, fit_type, settings_for(statistic=statistic))
    assert fit is not None
    assert abs(fit.plane.level) > 5  # the least squares of all, or their median, which is among the wild ones
    assert 0.8 * abs(fit.plane.level) < np.hypot(fit.structure, fit.stderr) < 1.5 * abs(fit.plane.level)


@pytest.mark.parametrize("freedom", [1.5, 3.0])
def test_wings_on_both_sides_are_no_doubt(freedom: float) -> None:
    for seed in range(20):
        data = np.random.default_rng(seed).standard_t(freedom, SHAPE)
        cut = (0.0, 0.0, 0.0, -30.0, 30.0)
        images = as_compiled(np.zeros(SHAPE)), as_compiled(data)
        assert off_core(*images, (0, 0, 0, 0, *SHAPE), cut, (0.0, 0.0, 0.0)) == 0.0
        assert off_core(*images, (0, 0, 0, 0, *SHAPE), cut, (5.0, 0.0, 0.0)) == pytest.approx(5.0, abs=1.0)


def test_a_gain_stands_for_a_level() -> None:
    rng = np.random.default_rng(2)
    sky = 1000 + 300 * gaussian_filter(rng.standard_normal(SHAPE), 4) / 0.07
    fit = fitted(0.01 * sky + 0.1 * rng.standard_normal(SHAPE), sky)
    assert fit.gain is not None
    assert fit.structure > 0.7 * 0.01 * float(sky.mean())


def test_the_jackknife_is_that_of_leaving_out_blocks() -> None:
    rng = np.random.default_rng(3)
    means = rng.standard_normal(20)
    found = blocks_of(table_of(np.full(20, 36.0), means, winsorised=18.0 * means), 6, 5)
    left_out = np.array([np.delete(means, one).mean() for one in range(20)])
    assert found.number == 20
    assert found.variance == pytest.approx(19 / 20 * np.sum((left_out - left_out.mean()) ** 2))
    assert found.robust == pytest.approx(found.variance / 4)


@pytest.mark.parametrize("number", [0, 1])
def test_of_one_block_nothing_is_said(number: int) -> None:
    counts = np.where(np.arange(6) < number, 36.0, 5.0)
    found = blocks_of(table_of(counts, np.ones(6)), 6, 3)
    assert found == BlockFindings(counts.sum(), counts.sum(), number, 36.0 * number, *[0.0] * 9)


@pytest.mark.parametrize("across", [1, 8, 48])
def test_what_blocks_show_is_what_numpy_says(across: int) -> None:
    """Also in a line, where the other slope is 0."""
    rng = np.random.default_rng(7)
    counts = np.where(rng.random(48) < 0.2, 5.0, rng.integers(20, 37, 48)).astype(float)
    values = [rng.gamma(2.0, 1.0, int(count)) + 0.1 * block for block, count in enumerate(counts)]
    table = np.array([[(each**power).sum() for power in range(4)] + [each.clip(0, 2).sum()] for each in values])
    expected = plain_blocks(table, 6, across)
    assert blocks_of(table, 6, across) == pytest.approx(expected)
    assert expected.number < 48


def test_a_gain_that_no_camera_has_stands_for_no_level():
    """A slope of 0.45 +- 0.13, as few pixels of a crowd gave it, made an error 300 times the pair's own."""
    noise = np.random.default_rng(0).normal(0, 0.1, (2, 60, 60)).astype(np.float32)
    box, cut = (0, 0, 0, 0, 60, 60), (0.0, 0.0, 0.0, -10.0, 10.0)
    level = (float(np.mean(noise[1] - noise[0])), 0.0, 0.0)
    stderr = 0.1 * np.sqrt(2) / 60
    none, absurd, weak = (
        shown_by(noise[0], noise[1], box, cut, level, (0.14, stderr), stderr, 1.0, gain).structure
        for gain in (None, (-0.45, 0.05, 6.5), (0.02, 0.01, 6.5))
    )
    assert none == absurd == weak
    assert (
        shown_by(noise[0], noise[1], box, cut, level, (0.14, stderr), stderr, 1.0, (0.01, 0.001, 6.5)).structure > 0.06
    )


def test_a_slope_across_the_overlap_is_an_error_of_its_own_size() -> None:
    """Flat field and glow go on beyond the overlap: many blocks that follow one slope make the level no better."""
    rng = np.random.default_rng(4)
    y, x = np.indices(SHAPE)
    slope = 0.5 * (x / SHAPE[1] - 0.5) - 0.3 * (y / SHAPE[0] - 0.5)
    data = slope + rng.standard_normal(SHAPE)
    assert fitted(data).structure == pytest.approx(np.std(slope), rel=0.2)
    plane = fit_pair(
        *(make_cutout(*one) for one in (("a", np.zeros(SHAPE)), ("b", data))), "level+slope", settings_for()
    )
    assert plane is not None
    assert plane.structure == 0


def test_the_plane_of_the_blocks_is_that_of_least_squares() -> None:
    rng = np.random.default_rng(5)
    counts = np.where(rng.random(48) < 0.1, 0.0, rng.integers(20, 37, 48)).astype(float)
    row, column = np.divmod(np.arange(48), 8)
    means = 0.3 * column - 0.2 * row + 0.1 * rng.standard_normal(48)
    used = counts > 0
    found = tilted(blocks_of(table_of(counts, means), 6, 8), 1.0)
    design = np.stack([np.ones(48), column, row], axis=1)[used]
    weight = np.sqrt(counts[used])
    coefficients = np.linalg.lstsq(weight[:, None] * design, weight * means[used], rcond=None)[0]
    plane = design @ coefficients
    plane -= np.average(plane, weights=counts[used])
    assert found.mean_square == pytest.approx(np.average(plane**2, weights=counts[used]))
    assert found.slopes == pytest.approx(coefficients[1:] / 6)
    assert tilted(blocks_of(table_of(counts, rng.standard_normal(48)), 6, 8), 1.0) == NOT_TILTED
    # a plane, and as much of something else
    more = means + np.where(np.cumsum(used) % 3, 0.5, -0.5)
    beside = tilted(blocks_of(table_of(counts, more), 6, 8), 0.01)
    assert beside.mean_square > 0
    assert beside.slopes == (0.0, 0.0)


def test_the_sums_over_blocks_are_those_of_numpy() -> None:
    rng = np.random.default_rng(6)
    first, second = rng.standard_normal((2, 40, 57))
    second[rng.random(second.shape) < 0.1] = np.nan
    box, sides, limit = (3, 2, 0, 5, 33, 50), (11, 14), 0.8
    cut, fitted_plane = (0.1, 0.2, -0.3, -2.0, 1.5), (0.05, 0.1, -0.2)
    given = first, second, box, cut, fitted_plane, sides, limit
    *tables, within = interpreted(block_sums)(*given)
    row, column = np.indices((33, 50))
    y, x = (row - 16) / 16.5, (column - 24.5) / 25
    delta = second[:33, 5:55] - first[3:36, 2:52]
    left = delta - (cut[0] + cut[1] * x + cut[2] * y)
    kept = (left >= cut[3]) & (left <= cut[4])
    value = (delta - (fitted_plane[0] + fitted_plane[1] * x + fitted_plane[2] * y))[kept]
    clamped = np.clip(value, -limit, limit)
    for side, table in zip(sides, tables, strict=True):
        block = (row // side * (50 // side + 1) + column // side)[kept]
        for found, weights in zip(table.T, (np.ones(len(value)), value, value**2, value**3, clamped), strict=True):
            assert found == pytest.approx(np.bincount(block, weights, minlength=len(table)))
    assert within == np.count_nonzero(np.abs(value) <= limit)
    *compiled, compiled_within = block_statistics(*given)
    assert compiled_within == within
    for side, table, found in zip(sides, tables, compiled, strict=True):
        assert found == pytest.approx(plain_blocks(table, side, 50 // side + 1))
