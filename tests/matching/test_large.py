"""What large problems get in place of the dense algebra: the order of elimination, the patches of the prior."""

import numpy as np
import pytest

from levelmatch_core.matching.kernels import nested_dissection
from levelmatch_core.matching.match import Gauge, match
from levelmatch_core.matching.solvers import least_squares, normal, prior, solve
from levelmatch_core.matching.solvers.problem import Problem
from levelmatch_core.settings import MatchSettings
from tests.benchmarks.surveys import KINDS, survey

SETTINGS = MatchSettings(weight_method="error")


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_elimination_is_one_and_keeps_the_factors_small(kind: str) -> None:
    given = survey(kind, 2500)
    order, stuck = nested_dissection(given.centres, given.first, given.second, 8)
    assert np.array_equal(np.sort(order), np.arange(len(given.centres)))
    assert stuck == 0
    equations = normal.NormalEquations(given.problem(1, held=0))
    entries = equations._factor.L.nnz  # type: ignore[attr-defined]
    n = len(given.centres)
    assert entries < 6 * n * np.log2(n)  # George 1973: of the order of n log n, where the order of the rows gives n^1.5


def test_members_on_one_place_are_left_to_the_matrix() -> None:
    centres = np.zeros((300, 2))
    first, second = np.arange(299), np.arange(1, 300)
    order, stuck = nested_dissection(centres, first, second, 8)
    assert stuck == 300
    assert np.array_equal(np.sort(order), np.arange(300))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 3])
def test_large_and_small_ways_give_the_same_answer(kind: str, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = survey(kind, 180, slope=0.3).problem(k, held=5)
    dense = least_squares.solve(problem)
    monkeypatch.setattr(normal, "DENSE_UNKNOWNS", 0)
    sparse = least_squares.solve(problem)
    np.testing.assert_allclose(sparse.corrections, dense.corrections, atol=1e-7)
    assert sparse.rank == dense.rank


def test_patches_learn_the_same_width(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = survey("grid", 1600, slope=0.3).problem(3, held=0)
    whole = prior.slope_prior(problem, SETTINGS)
    monkeypatch.setattr(prior, "ALL", 1000)
    monkeypatch.setattr(prior, "PATCHES", 4)
    parts = prior.slope_prior(problem, SETTINGS)
    assert whole is not None
    assert parts is not None
    assert whole.width == pytest.approx(0.3, rel=0.1)
    assert parts.width == pytest.approx(whole.width, rel=0.15)


def test_a_part_is_the_problem_of_its_pairs() -> None:
    problem = survey("scans", 100).problem(1, held=3)
    part = problem.part(np.arange(40))
    assert isinstance(part, Problem)
    assert part.names == problem.names[:40]
    assert np.count_nonzero(part.held) == 1
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
