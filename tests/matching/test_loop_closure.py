"""Loops of overlaps: their sums, how far these may be from 0, and which pair explains those that are."""

import numpy as np
import pytest

from levelmatch_core.matching.loop_closure import closure, independent_loops
from levelmatch_core.matching.match import match
from levelmatch_core.matching.model.problem import build
from levelmatch_core.matching.results import Gauge
from levelmatch_core.matching.uncertainty.leave_one_out import pair_covariance
from tests.matching.fakes import NO_REJECTION, fit_all, grid_positions, scene, settings_for


def mosaic(seed, positions, fit_type="level", size=48, sharing=True, **options):
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((len(positions), 3)) * [10, 0.05, 0.05]
    if fit_type == "level":
        truth[:, 1:] = 0
    chosen = settings_for("mosaic_tiles", fit_type, weight_method="error", **NO_REJECTION | options)
    members, fits = fit_all(scene(positions, (size, size), truth, 1.0, rng), fit_type, chosen)
    if not sharing:
        fits = [fit.model_copy(update={"shared": 0.0}) for fit in fits]
    return members, fits, chosen


def closed(members, fits, chosen, fit_type="level"):
    problem = build(members, fits, fit_type, {members[0].name}, chosen)
    return closure(problem, pair_covariance(problem))


GRID = grid_positions(5, 5, 48, 0.25)


def test_loops_are_independent_and_as_many_as_there_can_be_and_short():
    members, fits, chosen = mosaic(0, GRID)
    problem = build(members, fits, "level", (), chosen)
    loops = independent_loops(25, problem.first, problem.second, 1000)
    walk = np.zeros((len(loops), len(fits)))
    for number, loop in enumerate(loops):
        for pair, sign in zip(*loop, strict=True):
            walk[number, pair] = sign
        ends = [(problem.second if sign > 0 else problem.first)[pair] for pair, sign in zip(*loop, strict=True)]
        starts = [(problem.first if sign > 0 else problem.second)[pair] for pair, sign in zip(*loop, strict=True)]
        assert starts == ends[-1:] + ends[:-1]  # each pair begins where the one before ended
    assert len(loops) == len(fits) - 24 == np.linalg.matrix_rank(walk)
    assert np.diff(loops.starts).max() <= 4
    # the sums do not hang on the levels
    levels = np.random.default_rng(1).normal(0, 100, 25)
    assert np.abs(walk @ (levels[problem.second] - levels[problem.first])).max() < 1e-9


@pytest.mark.parametrize("value", [np.inf, np.nan, np.finfo(float).max, 0.0])
def test_pairs_without_a_finite_variance_are_in_loops_too(value):
    """A way of infinite variance was no way, and the search went on for ever."""
    members, fits, chosen = mosaic(0, grid_positions(3, 3, 48, 0.25))
    problem = build(members, fits, "level", (), chosen)
    for some in (slice(None), slice(0, None, 2)):
        variance = problem.variance.copy()
        variance[some] = value
        loops = independent_loops(9, problem.first, problem.second, 1000, variance)
        assert len(loops) == len(fits) - 8


def test_the_noise_of_corners_does_not_hide_what_is_wrong_with_a_side():
    """Each side is in a loop of four, which sees its error at half its sigma; a triangle with a corner does not."""
    members, fits, chosen = mosaic(0, grid_positions(4, 4, 48, 0.15))
    problem = build(members, fits, "level", (), chosen)
    sides = problem.variance < 2 * np.median(problem.variance)
    assert sides.sum() == 24
    covariance = pair_covariance(problem).toarray()
    seen = []
    for variance in (problem.variance, None):
        loops = independent_loops(16, problem.first, problem.second, 1000, variance)
        walk = np.zeros((len(loops), len(fits)))
        for number, (pairs, signs) in enumerate(loops):
            walk[number, pairs] = signs
        assert np.linalg.matrix_rank(walk) == len(loops) == len(fits) - 15
        sigma = np.sqrt(np.einsum("ij,jk,ik->i", walk, covariance, walk))
        seen.append((np.abs(walk) / sigma[:, None]).max(axis=0)[sides] * problem.variance[sides] ** 0.5)
    assert seen[0].min() > 0.45
    assert np.median(seen[1]) < 0.4  # shortest loops


def test_loops_are_those_of_least_variance():
    """Found by hand: a square of light pairs, one diagonal that is light, and one that is heavy."""
    ends = np.array([(0, 1), (1, 2), (2, 3), (0, 3), (0, 2), (1, 3)])
    variance = np.array([1.0, 1.0, 1.0, 1.0, 0.5, 9.0])
    loops = independent_loops(4, *ends.T, 9, variance)
    assert sorted(sorted(pairs.tolist()) for pairs, _ in loops) == [[0, 1, 4], [0, 3, 5], [2, 3, 4]]
    variance[4] = 9.0
    loops = independent_loops(4, *ends.T, 9, variance)
    assert min(sorted(pairs.tolist()) for pairs, _ in loops) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("positions", "fit_type"),
    [
        (GRID, "level"),
        (GRID, "level+slope"),
        ([(0, 0), (3, 1), (1, 4), (5, 5)], "level"),
        ([(0, 0), (3, 1), (1, 4)], "level+slope"),
    ],
)
@pytest.mark.parametrize("statistic", ["median", "clipped_mean"])
def test_sums_are_as_large_as_they_are_expected_to_be(positions, fit_type, statistic):
    """Of exposures on top of each other too, whose loops close better than independent pairs would."""
    sizes = []
    for seed in range(12 if len(positions) < 5 else 2):
        found = closed(*mosaic(seed, positions, fit_type, statistic=statistic), fit_type)
        assert (found.failed, found.suspects, found.untested) == (0, (), 0)
        sizes += [loop.sum / loop.sigma for loop in found.worst] if len(positions) < 5 else [found.scatter]
    spread = np.sqrt(np.mean(np.square(sizes)))
    if statistic == "median":
        assert 0.7 < spread < 1.4
    else:
        assert spread < 1.4  # means over the same pixels close but for clipping, which is overestimated


def test_noise_that_pairs_share_leaves_the_loop():
    """Three exposures on top of each other: independent pairs would give the loop sqrt(3) times a pair's error."""
    members, fits, chosen = mosaic(3, [(0, 0), (1, 1), (2, 0)], statistic="clipped_mean")
    sigma = closed(members, fits, chosen).worst[0].sigma
    alone = closed(*mosaic(3, [(0, 0), (1, 1), (2, 0)], sharing=False, statistic="clipped_mean")).worst[0].sigma
    assert alone == pytest.approx(np.sqrt(sum(fit.stderr**2 for fit in fits)), rel=1e-9)
    assert sigma < 0.5 * alone


@pytest.mark.parametrize("seed", range(5))
def test_the_pair_that_explains_the_failures_is_named(seed):
    members, fits, chosen = mosaic(seed, GRID)
    rng = np.random.default_rng(seed)
    middle = [n for n, fit in enumerate(fits) if {fit.first, fit.second} & {"m0012"} and fit.npix > 300]
    bad = middle[rng.integers(len(middle))]
    wrong = fits[bad].plane.model_copy(update={"level": fits[bad].plane.level + 40 * fits[bad].stderr})
    spoilt = [*fits[:bad], fits[bad].model_copy(update={"plane": wrong}), *fits[bad + 1 :]]
    found = closed(members, spoilt, chosen)
    assert found.failed >= 1
    first = found.suspects[0]
    assert (fits[bad].first, fits[bad].second) in first.pairs
    assert first.error == pytest.approx(40 * fits[bad].stderr, rel=0.2)
    assert len(found.suspects) == 1


def test_they_are_in_the_status_with_what_cannot_be_tested():
    """A ring, and a tail that hangs on a bridge."""
    positions = [(0, 0), (36, 0), (72, 0), (0, 36), (72, 36), (0, 72), (36, 72), (72, 72), (108, 72)]
    members, fits, chosen = mosaic(1, positions)
    ring = [fit for fit in fits if fit.npix > 12 * 12]
    solution = match("mosaic_tiles", "f", members, ring, Gauge.REFERENCE, chosen)
    (found,) = solution.status.loops
    assert (found.tested, found.failed) == (1, 0)
    assert len(found.worst[0].members) == 8
    assert solution.status.untestable == tuple(member.name for member in members)
    assert [(pair.fit.first, pair.fit.second) for pair in solution.pairs if pair.bridge] == [("m0007", "m0008")]
    tail = next(pair for pair in solution.pairs if pair.bridge)
    assert (tail.sigma, tail.predicted) == (None, None)


@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
def test_residuals_are_as_large_as_they_are_expected_to_be(fit_type):
    sizes = []
    for seed in range(3):
        members, fits, chosen = mosaic(seed, GRID, fit_type)
        solution = match("mosaic_tiles", "f", members, fits, Gauge.REFERENCE, chosen)
        sizes += [pair.residual / pair.sigma for pair in solution.pairs if pair.sigma]
    assert len(sizes) == 3 * len(fits)
    assert 0.85 < np.std(sizes) < 1.15


def test_many_members_cost_little():
    """A strip of 20,000 members: what is looked at is bounded, and what is not is counted."""
    n = 20_000
    first = np.array([*range(n - 1), *range(n - 2)])
    second = np.array([*range(1, n), *range(2, n)])
    loops = independent_loops(n, first, second, 5000, np.random.default_rng(0).uniform(1, 2, len(first)))
    assert len(loops) == 5000
    assert np.diff(loops.starts).max() <= 4


def test_a_cutout_alone_has_no_loop():
    members, fits, chosen = mosaic(0, [(0, 0), (20, 0)])
    assert closed(members, fits, chosen) is None


def test_loops_that_what_their_pairs_show_would_close_are_counted_apart() -> None:
    members, fits, chosen = mosaic(3, GRID)
    off = fits[7]
    wrong = 40 * off.stderr
    fits[7] = off.model_copy(update={"plane": off.plane.model_copy(update={"level": off.plane.level + wrong})})
    for shown, unexplained in ((0.0, True), (wrong / 2, False)):
        fits[7] = fits[7].model_copy(update={"structure": shown})
        (found,) = match("mosaic_tiles", "f", members, fits, Gauge.REFERENCE, chosen).status.loops
        assert found.failed > 0
        assert (found.unexplained > 0) is unexplained
