"""The residuals of pairs are worth fewer independent ones: against white noise through the same equations."""

import numpy as np
import pytest
from scipy.stats import chi2

from levelmatch_core.matching.graph_kernels import bridge_flags
from levelmatch_core.matching.match import match
from levelmatch_core.matching.model.problem import Problem, build
from levelmatch_core.matching.results import Gauge
from levelmatch_core.matching.solvers import solve
from levelmatch_core.matching.uncertainty import leave_one_out as module
from levelmatch_core.matching.uncertainty.leave_one_out import (
    LeaveOneOut,
    leave_one_out,
    pair_covariance,
    pooled_freedom,
    pooled_tail,
)
from levelmatch_core.matching.uncertainty.pair_noise import design
from levelmatch_core.products.grading import good_residual
from tests.matching.fakes import NO_REJECTION, fit_all, grid_positions, scene, settings_for

pytestmark = pytest.mark.fast

STACKED = [(0, 0), (3, 1), (1, 4), (5, 5)]
TILES = grid_positions(3, 3, 40, 0.15)
CASES = [(TILES, "level"), (TILES, "level+slope"), (grid_positions(2, 3, 40, 0.15), "level"), (STACKED, "level")]
PROGRAMS = 20_000

Places = list[tuple[int, int]]


def of(positions: Places, fit_type: str = "level", structure: float = 0.0) -> tuple[Problem, LeaveOneOut]:
    rng = np.random.default_rng(4)
    options = settings_for("dithers", fit_type, weight_method="error", slope_prior="off", **NO_REJECTION)
    members, fits = fit_all(scene(positions, (40, 40), np.zeros((len(positions), 3)), 1.0, rng), fit_type, options)
    fits = [fit.model_copy(update={"structure": structure * (n % 3) * fit.stderr}) for n, fit in enumerate(fits)]
    problem = build(members, fits, fit_type, (), options)
    return problem, found_of(problem, options)


def found_of(problem: Problem, options: object) -> LeaveOneOut:
    bridges = bridge_flags(len(problem.names), problem.first, problem.second)
    return leave_one_out(problem, solve(problem, options), bridges, pair_covariance(problem, structure=True))


def scatters(problem: Problem, sigma: np.ndarray) -> np.ndarray:
    """Return (programs,) the rms of the residual levels in their sigmas, for noise with the covariance of the pairs."""
    noise = np.random.default_rng(6).standard_normal((problem.delta.size, PROGRAMS))
    noise = np.linalg.cholesky(pair_covariance(problem, structure=True).toarray()) @ noise
    weights = np.linalg.cholesky(problem.weights[:, None, None] * problem.moments).transpose(0, 2, 1)
    equations, size = design(problem).toarray(), (len(weights), problem.k, -1)
    scaled = (weights @ equations.reshape(size)).reshape(equations.shape)
    corrections = np.linalg.lstsq(scaled, (weights @ noise.reshape(size)).reshape(noise.shape))[0]
    left = (noise - equations @ corrections)[:: problem.k]
    return np.sqrt(np.mean((left / sigma[:, None]) ** 2, axis=0))


@pytest.mark.parametrize(("positions", "fit_type"), CASES)
@pytest.mark.parametrize("structure", [0.0, 2.0])
def test_the_mean_square_residual_scatters_as_that_of_so_many(
    positions: Places, fit_type: str, structure: float
) -> None:
    problem, found = of(positions, fit_type, structure)
    squares = scatters(problem, found.sigma) ** 2
    assert squares.mean() == pytest.approx(1, abs=4 * np.sqrt(2 / found.freedom / PROGRAMS))
    assert found.freedom == pytest.approx(2 / squares.var(), rel=0.06)


@pytest.mark.parametrize("positions", [TILES, grid_positions(4, 4, 40, 0.15)])
def test_noise_is_beyond_the_limit_of_good_as_often_as_it_should_be(positions: Places) -> None:
    problem, found = of(positions)
    seen = scatters(problem, found.sigma)
    loops = len(problem.rms) - len(problem.names) + 1
    should = float(chi2.sf(good_residual(found.freedom) ** 2 * found.freedom, found.freedom))
    assert 0.0025 < should < 0.0035
    assert np.mean(seen > good_residual(found.freedom, found.tail)) < 1.3 * should
    assert np.mean(seen > good_residual(found.freedom)) > 1.3 * should  # as if all residuals counted the same
    assert np.mean(seen > good_residual(loops)) > 1.6 * should  # as if each loop counted as one


@pytest.mark.parametrize(("positions", "fit_type"), CASES)
def test_where_matrices_are_too_large_it_is_that_of_equal_leverages(
    positions: Places, fit_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = of(positions, fit_type)[1].freedom
    monkeypatch.setattr(module, "EXACT", 0)
    assert exact <= of(positions, fit_type)[1].freedom < 1.25 * exact


def test_what_nothing_tests_has_none() -> None:
    assert of([(0, 0), (20, 0), (40, 0)])[1].freedom == 0


@pytest.mark.parametrize("positions", [TILES, grid_positions(4, 4, 40, 0.15)])
def test_noise_is_taken_for_excess_scatter_no_more_often_than_by_two_sigma(positions: Places) -> None:
    """A twentieth of all programs, as skewed sums of squares are; with a freedom for each loop 1.4 times as many."""
    problem, found = of(positions)
    squares, tested = scatters(problem, found.sigma) ** 2, len(found.sigma)
    loops = len(problem.rms) - len(problem.names) + 1

    def seen(freedom: float) -> float:
        """Return the fraction of programs with excess scatter: that of residuals of such a mean square."""
        least = next(
            float(one)
            for one in np.arange(1.0, 4.0, 0.01)
            if module._excess_scatter(np.full(tested, one**0.5), np.ones(tested), np.ones(tested), freedom) > 0
        )
        return float(np.mean(squares > least))

    assert seen(found.freedom) < 0.05
    assert seen(loops) > 1.3 * seen(found.freedom)


def test_the_skewness_of_parts_adds_up() -> None:
    assert pooled_tail([(6, 2.5, 2.0), (6, 2.5, 2.0)]) == pytest.approx(4)
    assert pooled_tail([(6, 2.5, 2.0), (0, 0.0, 0.0)]) == pytest.approx(2)
    assert pooled_tail([]) == 0
    rng = np.random.default_rng(3)
    parts = [np.array([3.0, 3.0, 1.0, 1.0]), np.array([2.0, 0.5, 0.5])]  # eigenvalues of the correlations
    counts = [int(each.sum()) for each in parts]
    cumulants = [
        (n, n**2 / np.sum(each**2), np.sum(each**2) ** 3 / np.sum(each**3) ** 2)
        for n, each in zip(counts, parts, strict=True)
    ]
    every = np.concatenate(parts)
    sums = rng.standard_normal((2_000_000, len(every))) ** 2 @ every
    skewness = float(np.mean((sums - sums.mean()) ** 3) / np.std(sums) ** 3)
    assert np.sqrt(8 / pooled_tail(cumulants)) == pytest.approx(skewness, rel=0.02)


def test_groups_and_components_add_up() -> None:
    """Two equal parts have twice the freedom; a part without residuals, or of few, does not count as much."""
    assert pooled_freedom([(6, 2.5), (6, 2.5)]) == pytest.approx(5)
    assert pooled_freedom([(6, 2.5), (0, 0.0)]) == pytest.approx(2.5)
    assert pooled_freedom([]) == 0
    options = settings_for("dithers", "level", **NO_REJECTION)
    rng = np.random.default_rng(2)
    one, two = (
        fit_all(scene(at, (40, 40), np.zeros((len(at), 3)), 1.0, rng), "level", options)
        for at in (TILES, [(x + 1000, y) for x, y in STACKED])
    )
    two = [
        [item.model_copy(update={end: f"z{getattr(item, end)}" for end in ends}) for item in items]
        for items, ends in zip(two, (("name",), ("first", "second")), strict=True)
    ]
    both = [[*a, *b] for a, b in zip(one, two, strict=True)]
    single, double, whole = (match("dithers", "t", *each, Gauge.MEAN, options).status for each in (one, two, both))
    pooled = pooled_freedom([(len(one[1]), single.residual_freedom), (len(two[1]), double.residual_freedom)])
    assert whole.residual_freedom == pytest.approx(pooled)
    assert 8 < single.residual_freedom < 12 - 1
