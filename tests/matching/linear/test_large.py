"""What large problems get in place of the dense algebra: the order of elimination, the patches of the prior."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import diags_array
from scipy.sparse.linalg import splu

from levelmatch_core.matching.linear import normal_equations
from levelmatch_core.matching.linear.cholesky import Cholesky
from levelmatch_core.matching.linear.nested_dissection import Elimination
from levelmatch_core.matching.match import match
from levelmatch_core.matching.model.problem import Problem
from levelmatch_core.matching.results import Gauge
from levelmatch_core.matching.solvers import least_squares, slope_prior, solve
from levelmatch_core.settings import MatchSettings
from tests.benchmarks.surveys import KINDS, survey

SETTINGS = MatchSettings(weight_method="error")


def plan_of(problem: Problem) -> Elimination:
    return Elimination.of(problem.centres, problem.first, problem.second, problem.fixed)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_elimination_is_one_and_keeps_the_factors_small(kind: str) -> None:
    problem = survey(kind, 2500).problem(1, fixed=0)
    plan = plan_of(problem)
    n = len(problem.names)
    assert np.array_equal(np.sort(plan.order), np.arange(n))
    above = np.where(plan.parent < 0, len(plan.parent), plan.parent)
    assert np.all(above > np.arange(len(above)))  # children come before their parents
    entries = len(normal_equations.NormalEquations(problem)._factor.numbers)
    assert entries < 6 * n * np.log2(n)  # George 1973: of the order of n log n, where the order of the rows gives n^1.5


def anywhere(rng: np.random.Generator, n: int, k: int, pairs: int, *, one_place: bool = False) -> Problem:
    """Members anywhere and pairs of any of them, beside a tree that joins all."""
    tree = np.stack([rng.integers(0, np.arange(1, n)), np.arange(1, n)])
    more = rng.integers(0, n, (2, pairs))
    first, second = np.sort(np.concatenate([tree, more[:, more[0] != more[1]]], axis=1), axis=0)
    given = survey("grid", 4).problem(k)
    centres = np.zeros((n, 2)) if one_place else rng.uniform(0, 1000, (n, 2))
    basis = np.concatenate([np.ones((len(first), 30, 1)), rng.uniform(-1, 1, (len(first), 30, 2))], axis=2)[:, :, :k]
    return replace(
        given,
        names=tuple(f"{i:05d}" for i in range(n)),
        centres=centres,
        outlines=(given.outlines[0],) * n,
        fixed=np.zeros(n, dtype=bool),
        first=first,
        second=second,
        centroids=(centres[first] + centres[second]) / 2,
        delta=rng.standard_normal((len(first), k)),
        moments=np.einsum("nqa,nqb->nab", basis, basis) / 30,
        **{name: rng.uniform(0.5, 2, len(first)) for name in ("weights", "n_used", "rms", "variance", "shared")},
    )


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize(
    ("n", "pairs", "one_place"), [(40, 0, False), (300, 200, False), (150, 80, True), (90, 9000, True)]
)
def test_the_factors_solve_any_graph(
    n: int, pairs: int, one_place: bool, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oracle is SuperLU on the assembled matrix."""
    rng = np.random.default_rng(n)
    problem = anywhere(rng, n, k, pairs, one_place=one_place)
    monkeypatch.setattr(normal_equations, "DENSE_UNKNOWNS", 0)
    equations = normal_equations.NormalEquations(problem, 0.5)
    matrix = (normal_equations.sparse_matrix(problem, equations.pairs.blocks) + diags_array(equations.prior)).tocsc()
    matrix = matrix[equations.free][:, equations.free]
    right = rng.standard_normal((n * k, 3))
    factor = splu(matrix)
    found = equations.apply_inverse(right)
    np.testing.assert_allclose(found[equations.free], factor.solve(right[equations.free]), rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(np.delete(found, equations.free, axis=0), 0)
    np.testing.assert_allclose(equations.apply_inverse(right[:, 1]), found[:, 1], rtol=1e-6, atol=1e-9)
    assert equations.log_determinant == pytest.approx(np.sum(np.log(np.abs(factor.U.diagonal()))), rel=1e-9)
    exact = np.abs(equations._reduced).sum(axis=0).max()
    assert (1 - 1e-9) * exact <= equations._norm <= 1.1 * exact  # blocks of pairs that are told twice count apart


def test_members_on_one_place_are_halved_by_their_distance_in_the_graph() -> None:
    n = 3000
    first = np.arange(n - 1)
    plan = Elimination.of(np.zeros((n, 2)), first, first + 1, np.zeros(n, dtype=bool))
    factor = Cholesky.of(plan, np.full((n, 1, 1), 2.0), np.full((n - 1, 1, 1), -1.0), np.full((n, 1), 0.5**0.5))
    assert len(factor.numbers) < 30 * n
    assert factor.missing == 0
    np.testing.assert_allclose(factor.solve(np.ones(n)), 0.5 * np.arange(1, n + 1) * np.arange(n, 0, -1), rtol=1e-7)


def test_a_held_member_that_all_are_tied_to_fills_nothing_in() -> None:
    """Given levels are differences to one member, the ground, which lies in the middle."""
    problem = survey("grid", 2500).problem(1)
    n = len(problem.names)
    centres = np.concatenate([problem.centres, problem.centres.mean(axis=0)[None]])
    first = np.concatenate([problem.first, np.arange(n)])
    second = np.concatenate([problem.second, np.full(n, n)])
    plan = Elimination.of(centres, first, second, np.arange(n + 1) == n)
    assert len(plan.rows) < 1.1 * len(plan_of(problem).rows)


def test_a_member_that_lies_over_all_is_eliminated_last() -> None:
    """A wide image among many tiles: as a neighbour of all it would make a border of half of them."""
    problem = survey("grid", 2500).problem(1)
    n = len(problem.names)
    first = np.concatenate([problem.first, np.arange(n)])
    second = np.concatenate([problem.second, np.full(n, n)])
    centres = np.concatenate([problem.centres, problem.centres.mean(axis=0)[None]])
    plan = Elimination.of(centres, first, second, np.zeros(n + 1, dtype=bool))
    assert plan.order[-1] == n
    assert len(plan.rows) < len(plan_of(problem).rows) + len(plan.parent)
    own, across = np.full((n + 1, 1, 1), 2.0 * n), np.full((len(first), 1, 1), -1.0)
    factor = Cholesky.of(plan, own, across, own[:, 0] ** -0.5)
    right = np.random.default_rng(0).standard_normal(n + 1)
    back = 2.0 * n * factor.solve(right)
    np.add.at(back, first, -factor.solve(right)[second])
    np.add.at(back, second, -factor.solve(right)[first])
    np.testing.assert_allclose(back, right, atol=1e-12)


def test_the_same_condition_whatever_is_drawn_elsewhere() -> None:
    problem = survey("scans", 900).problem(1, fixed=0)
    found = set()
    for seed in range(3):
        np.random.seed(seed)  # noqa: NPY002 - the state that scipy's estimator would draw from
        found.add(least_squares.solve(problem).condition)
    assert len(found) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 3])
def test_large_and_small_ways_give_the_same_answer(kind: str, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = survey(kind, 180, slope=0.3).problem(k, fixed=5)
    dense = least_squares.solve(problem)
    monkeypatch.setattr(normal_equations, "DENSE_UNKNOWNS", 0)
    sparse = least_squares.solve(problem)
    np.testing.assert_allclose(sparse.corrections, dense.corrections, atol=1e-7)
    assert sparse.rank == dense.rank


def test_patches_learn_the_same_width(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = survey("grid", 1600, slope=0.3).problem(3, fixed=0)
    whole = slope_prior.slope_prior_of(problem, SETTINGS)
    monkeypatch.setattr(slope_prior, "ALL", 1000)
    monkeypatch.setattr(slope_prior, "PATCHES", 4)
    parts = slope_prior.slope_prior_of(problem, SETTINGS)
    assert whole is not None
    assert parts is not None
    assert whole.width == pytest.approx(0.3, rel=0.1)
    assert parts.width == pytest.approx(whole.width, rel=0.15)


def test_a_part_is_the_problem_of_its_pairs() -> None:
    problem = survey("scans", 100).problem(1, fixed=3)
    part = problem.part(np.arange(40))
    assert isinstance(part, Problem)
    assert part.names == problem.names[:40]
    assert np.count_nonzero(part.fixed) == 1
    inside = (problem.first < 40) & (problem.second < 40)
    np.testing.assert_array_equal(part.delta, problem.delta[inside])
    assert len(part.largest_component()) == 40
    assert np.all(np.isfinite(solve(part, SETTINGS).corrections))


@pytest.mark.slow
@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
def test_a_survey_of_2000_tiles_comes_back(fit_type: str) -> None:
    given = survey("scans", 2000, slope=0.3 if fit_type == "level+slope" else 0.0)
    options = SETTINGS.model_copy(update={"fit_type_dithers": fit_type})
    solution = match("dithers", "field", *given.records(), Gauge.MEAN, options)
    found = np.array([(one.plane.level, one.plane.slope_x * 50, one.plane.slope_y * 50) for one in solution.members])
    sigma = np.array([one.sigma for one in solution.members]) * [1, 50, 50]
    pull = (found - (given.truth - given.truth.mean(axis=0))) / np.where(sigma > 0, sigma, 1)
    # levels of planes are relative to a mean plane that the slopes tilt: their slopes are compared
    seen = pull[:, 0] if fit_type == "level" else pull[:, 1:]
    assert 0.7 < np.sqrt(np.mean(seen**2)) < 1.3
