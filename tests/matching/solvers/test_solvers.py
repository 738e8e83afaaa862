"""Both solvers against the truth, and least squares against dense pixel-level algebra."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from levelmatch_core.matching.linear import normal_equations
from levelmatch_core.matching.model.problem import Problem, SlopePrior, build
from levelmatch_core.matching.results import Member, PairFit
from levelmatch_core.matching.solvers import iterative, least_squares, solve
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.plane import Plane
from tests.matching.fakes import (
    NO_REJECTION,
    fit_all,
    grid_positions,
    made_up_fit,
    make_cutout,
    member,
    plane_at,
    scene,
    settings_for,
)

METHODS = ["equal", "npix", "rms", "error"]


def consistent(
    rng: np.random.Generator, n: int, edges: list[tuple[int, int]], size: float = 100.0
) -> tuple[list[Member], list[PairFit], np.ndarray]:
    """Members anywhere, with noise-free deltas over made-up overlaps, and the true planes about their centres."""
    cutouts = [make_cutout(f"m{i:03d}", np.zeros((40, 50)), *rng.integers(0, size, 2)) for i in range(n)]
    members = [member(cutout) for cutout in cutouts]
    truth = rng.normal(size=(n, 3)) * [10, 0.05, 0.05]
    planes = [plane_at(cutout.record, row) for cutout, row in zip(cutouts, truth, strict=True)]
    fits = []
    for i, j in edges:
        middle = (np.array(members[i].cutout.centre) + members[j].cutout.centre) / 2 + rng.uniform(-5, 5, 2)
        half = rng.uniform(15, 25, 2)
        box = (*(middle - half), *(middle + half))
        fits.append(made_up_fit(members[i], members[j], planes[j] + -planes[i], box, rms=rng.uniform(0.5, 2)))
    return members, fits, truth


def random_graph(rng: np.random.Generator, n: int) -> list[tuple[int, int]]:
    """A random tree, and a few pairs more."""
    tree = {(int(rng.integers(0, i)), i) for i in range(1, n)}
    more = {pair for pair in itertools.combinations(range(n), 2) if rng.random() < 0.3}
    return sorted(tree | more)


def relative(problem: Problem, truth: np.ndarray) -> np.ndarray:
    """Return the truth in the solvers' scaled coefficients and in the problem's gauge."""
    scaled = (truth * [1, problem.scale, problem.scale])[:, : problem.k]
    if problem.mean_gauge:
        return problem.to_gauge(scaled)
    return scaled - problem.plane_of(int(np.argmax(problem.fixed)), scaled)


def tight(fit_type: str, **values: object) -> MatchSettings:
    return settings_for(
        "dithers", fit_type, convergence_rel_tol=0.0, convergence_abs_tol=1e-8, n_iter=400_000, **values
    )


@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
@settings(max_examples=25, deadline=None)
@given(st.integers(2, 9), st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from(METHODS))
def test_both_solvers_find_the_truth_on_any_connected_graph(
    fit_type: str, n: int, seed: int, fixed: bool, method: str
) -> None:
    rng = np.random.default_rng(seed)
    members, fits, truth = consistent(rng, n, random_graph(rng, n))
    if fit_type == "level":
        truth[:, 1:] = 0
        fits = [
            fit.model_copy(update={"plane": Plane(level=truth[int(fit.second[1:]), 0] - truth[int(fit.first[1:]), 0])})
            for fit in fits
        ]
    options = tight(fit_type, weight_method=method)
    problem = build(members, fits, fit_type, {members[-1].name} if fixed else (), options)  # type: ignore[arg-type]
    exact = least_squares.solve(problem)
    swept = iterative.solve(problem, options)
    np.testing.assert_allclose(exact.corrections, relative(problem, truth), atol=1e-9)
    assert exact.rank == problem.unknowns
    assert swept.converged
    np.testing.assert_allclose(swept.corrections, exact.corrections, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
def test_both_solvers_agree_on_a_mosaic(fit_type: str, method: str) -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(9, 3)) * [5, 0.01, 0.01] * (1 if fit_type == "level+slope" else [1, 0, 0])
    cutouts = scene(grid_positions(3, 3, 40, 0.3), (40, 40), truth, 0.0, rng)
    options = tight(fit_type, weight_method=method, **NO_REJECTION)
    members, fits = fit_all(cutouts, fit_type, options)
    problem = build(members, fits, fit_type, (), options)  # type: ignore[arg-type]
    exact, swept = least_squares.solve(problem), iterative.solve(problem, options)
    np.testing.assert_allclose(exact.corrections, relative(problem, truth), atol=1e-10)
    assert swept.converged
    np.testing.assert_allclose(swept.corrections, exact.corrections, atol=1e-6)


@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
def test_weighted_by_pixels_it_is_least_squares_over_all_pixels(fit_type: str) -> None:
    """The oracle never sees a pair fit: one row for each pixel of each overlap, solved densely."""
    rng = np.random.default_rng(2)
    cutouts = scene(grid_positions(3, 2, 16, 0.4), (16, 16), rng.normal(size=(6, 3)), 1.0, rng)
    cutouts[0].data[3:9, 10:] = np.nan
    options = settings_for("dithers", "level+slope", weight_method="npix", sigma=1e3, **NO_REJECTION)
    members, fits = fit_all(cutouts, "level+slope", options)
    k = 1 if fit_type == "level" else 3
    if fit_type == "level":  # the level solve takes any level: here the mean, which least squares over pixels gives
        fits = [
            fit.model_copy(update={"plane": fit.plane.model_copy(update={"slope_x": 0, "slope_y": 0})}) for fit in fits
        ]
    problem = build(members, fits, fit_type, (), options)  # type: ignore[arg-type]
    rows, right = [], []
    for fit in fits:
        i, j = (next(n for n, m in enumerate(members) if m.name == name) for name in (fit.first, fit.second))
        canvas = np.full((2, 60, 60), np.nan)
        for level, c in zip(canvas, (cutouts[i], cutouts[j]), strict=True):
            level[c.record.y0 : c.record.y0 + 16, c.record.x0 : c.record.x0 + 16] = c.data
        y, x = np.nonzero(np.isfinite(canvas[1] - canvas[0]))
        block = np.zeros((x.size, len(members), k))
        for number, sign in ((i, -1.0), (j, 1.0)):
            cx, cy = members[number].cutout.centre
            block[:, number] = sign * np.stack([np.ones(x.size), x - cx, y - cy], axis=1)[:, :k]
        rows.append(block.reshape(x.size, -1))
        right.append((canvas[1] - canvas[0])[y, x])
    expected = np.linalg.lstsq(np.concatenate(rows), np.concatenate(right), rcond=1e-10)[0].reshape(-1, k)
    expected = problem.to_gauge(expected * np.array([1, problem.scale, problem.scale])[:k])
    np.testing.assert_allclose(least_squares.solve(problem).corrections, expected, atol=1e-8)


@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
@pytest.mark.parametrize("fixed", [(), ("m0003",), ("m0000", "m0005")])
def test_sparse_and_dense_agree(fit_type: str, fixed: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    options = settings_for("dithers", fit_type, weight_method="error", **NO_REJECTION)
    cutouts = scene(grid_positions(4, 3, 30, 0.3), (30, 30), rng.normal(size=(12, 3)), 1.0, rng)
    members, fits = fit_all(cutouts, fit_type, options)
    problem = build(members, fits, fit_type, fixed, options)  # type: ignore[arg-type]
    for prior in (None, SlopePrior(0.5, 0.5)):
        dense = least_squares.solve(problem, prior)
        with monkeypatch.context() as patch:
            patch.setattr(normal_equations, "DENSE_UNKNOWNS", 0)
            sparse = least_squares.solve(problem, prior)
        np.testing.assert_allclose(sparse.corrections, dense.corrections, atol=1e-10)
        assert sparse.rank == dense.rank == problem.unknowns
        assert dense.condition is not None
        assert sparse.condition is not None
        # the 1-norm condition of an n x n matrix is within a factor n of the 2-norm's
        assert dense.condition / 36 < sparse.condition < dense.condition * 36
        assert not dense.corrections[problem.fixed].any()
        if not fixed:
            np.testing.assert_allclose(problem.mean_plane(dense.corrections), 0, atol=1e-12)


def test_a_slope_prior_is_the_dense_bayesian_answer() -> None:
    rng = np.random.default_rng(4)
    options = settings_for("dithers", "level+slope", weight_method="error", **NO_REJECTION)
    cutouts = scene(grid_positions(3, 1, 30, 0.2), (30, 30), rng.normal(size=(3, 3)), 1.0, rng)
    members, fits = fit_all(cutouts, "level+slope", options)
    problem = build(members, fits, "level+slope", {members[1].name}, options)
    rows, right = [], []
    for k in range(len(fits)):
        root = np.linalg.cholesky(problem.weights[k] * problem.moments[k]).T
        block = np.zeros((3, 3, 3))
        block[:, problem.first[k]] = -problem.shifts(0)[k]
        block[:, problem.second[k]] = problem.shifts(1)[k]
        rows.append(root @ block.reshape(3, 9))
        right.append(root @ problem.delta[k])
    prior = np.eye(9)[[1, 2, 7, 8]] / 0.3
    matrix = np.concatenate([*rows, prior])[:, [0, 1, 2, 6, 7, 8]]
    expected = np.linalg.lstsq(matrix, np.concatenate([*right, np.zeros(4)]), rcond=None)[0].reshape(2, 3)
    np.testing.assert_allclose(
        least_squares.solve(problem, SlopePrior(0.3, 0.3)).corrections[[0, 2]], expected, atol=1e-9
    )


def test_thin_overlaps_need_the_joint_solve() -> None:
    """A chain of thin overlaps whose slopes across are unknown, closed by others: seams at the noise."""
    rng = np.random.default_rng(5)
    truth = rng.normal(size=(16, 3)) * [5, 0.05, 0.05]
    cutouts = scene(grid_positions(4, 4, 100, 0.1), (100, 100), truth, 1.0, rng)
    options = settings_for("dithers", "level+slope", weight_method="error", **NO_REJECTION)
    members, fits = fit_all(cutouts, "level+slope", options)
    problem = build(members, fits, "level+slope", (), options)
    left = problem.residuals(least_squares.solve(problem).corrections)
    planes = np.einsum("ka,kab,kb->k", left, problem.moments, left)
    edges = problem.n_used > 300  # 10 x 100 pixels; corners have 10 x 10
    # a pair's plane has three free numbers of sd sqrt(2 / 1000): their rms over the overlap is 0.077
    assert np.sqrt(np.mean(planes[edges])) < 0.09
    apart = np.stack([_coefficient_alone(problem, a) for a in range(3)], axis=1)
    left = problem.residuals(apart)
    assert np.sqrt(np.mean(np.einsum("ka,kab,kb->k", left, problem.moments, left)[edges])) > 0.5


def _coefficient_alone(problem: Problem, a: int) -> np.ndarray:
    """Solve one coefficient (about each pair's centroid taken as about the members' centres) as the peers do."""
    size = len(problem.names)
    matrix = np.zeros((len(problem.delta), size))
    rows = np.arange(len(problem.delta))
    matrix[rows, problem.first], matrix[rows, problem.second] = -1, 1
    common = problem.delta.copy()
    common[:, 0] -= np.einsum("ka,ka->k", problem.delta[:, 1:], problem.centroids / problem.scale)  # about the origin
    solved = np.linalg.lstsq(matrix, common[:, a], rcond=None)[0]
    if a == 0:
        slopes = np.linalg.lstsq(matrix, common[:, 1:], rcond=None)[0]
        solved = solved + np.einsum("na,na->n", slopes, problem.centres / problem.scale)
    return solved


@pytest.mark.parametrize(("dense", "atol"), [(True, 1e-12), (False, 1e-9)], ids=["dense", "sparse"])
def test_a_line_of_pixels_leaves_the_slope_across_unmeasured(
    monkeypatch: pytest.MonkeyPatch, dense: bool, atol: float
) -> None:
    if not dense:
        monkeypatch.setattr(normal_equations, "DENSE_UNKNOWNS", 0)
    members = [member(make_cutout(name, np.zeros((50, 50)), 0, y)) for name, y in (("a", 0), ("b", 49))]
    fit = made_up_fit(members[0], members[1], Plane(level=2.0, slope_x=0.1), (0.0, 49.0, 49.0, 49.0), npix=50)
    problem = build(members, [fit], "level+slope", {"a"}, settings_for())
    answer = least_squares.solve(problem)
    assert answer.rank == 2 < problem.unknowns == 3
    assert "1 of 3 unknowns" in answer.notes[0]
    np.testing.assert_allclose(problem.residuals(answer.corrections)[:, :2], 0, atol=atol)
    assert np.all(np.isfinite(answer.corrections))


def test_a_solve_that_has_not_settled_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step goes half of the way, as a factor that is no good would make it."""
    members, fits, _ = strip(30, np.random.default_rng(11))
    problem = build(members, fits, "level", (), settings_for())
    whole = normal_equations.NormalEquations.apply_inverse
    monkeypatch.setattr(normal_equations.NormalEquations, "apply_inverse", lambda self, right: whole(self, right) / 2)
    answer = least_squares.solve(problem)
    assert not answer.converged
    assert "did not converge" in answer.notes[0]


def test_one_noise_free_pair_does_not_divide_by_zero() -> None:
    rng = np.random.default_rng(6)
    members, fits, _ = consistent(rng, 3, [(0, 1), (1, 2), (0, 2)])
    fits[0] = fits[0].model_copy(update={"rms": 0.0, "stderr": 0.0})
    for method in METHODS:
        problem = build(members, fits, "level", (), settings_for(weight_method=method))
        assert np.all(np.isfinite(problem.weights))
        assert np.all(np.isfinite(least_squares.solve(problem).corrections))
    ratio = problem.weights[0] / problem.weights[1:]
    assert np.all(ratio > 1e4)


def strip(n: int, rng: np.random.Generator) -> tuple[list[Member], list[PairFit], np.ndarray]:
    cutouts = [make_cutout(f"m{i:03d}", np.zeros((4, 10)), 8 * i, 0) for i in range(n)]
    members = [member(cutout) for cutout in cutouts]
    truth = np.cumsum(rng.normal(0.3, 1, n))
    fits = [
        made_up_fit(members[i], members[i + 1], Plane(level=truth[i + 1] - truth[i]), (8 * i + 8, 0, 8 * i + 10, 4))
        for i in range(n - 1)
    ]
    return members, fits, truth - truth.mean()


def test_strip_of_400_with_drift_is_exact_by_least_squares_and_not_by_sweeps() -> None:
    members, fits, truth = strip(400, np.random.default_rng(7))
    options = settings_for()
    problem = build(members, fits, "level", (), options)
    exact, swept = least_squares.solve(problem), iterative.solve(problem, options)
    np.testing.assert_allclose(exact.corrections[:, 0], truth, atol=1e-9)
    assert exact.converged
    assert not swept.converged
    assert swept.iterations == options.n_iter
    assert "not converged" in swept.notes[0]
    assert np.std(swept.corrections[:, 0] - truth) > 1.0
    (story,) = swept.history
    assert len(story.steps) == iterative.HISTORY
    assert story.steps[0] > story.steps[-1]


def test_converged_means_near_the_answer_and_not_slow() -> None:
    """Steps of a chain shrink slowly: a test of the last step alone would stop far from the answer."""
    members, fits, truth = strip(30, np.random.default_rng(8))
    options = settings_for(convergence_rel_tol=1e-4, n_iter=100_000)
    problem = build(members, fits, "level", (), options)
    swept = iterative.solve(problem, options)
    assert swept.converged
    assert np.abs(swept.corrections[:, 0] - truth).max() < 5e-4 * np.ptp(truth)


def test_the_draws_are_seeded() -> None:
    rng = np.random.default_rng(9)
    members, fits, _ = consistent(rng, 5, random_graph(rng, 5))
    fits = [fit.model_copy(update={"plane": fit.plane + Plane(level=rng.normal())}) for fit in fits]
    one, again, other = (
        solve(
            build(members, fits, "level+slope", (), options),
            options,
        )
        for options in (settings_for("dithers", "level+slope", solver="iterative", seed=seed) for seed in (1, 1, 2))
    )
    np.testing.assert_array_equal(one.corrections, again.corrections)
    assert not np.array_equal(one.corrections, other.corrections)
    assert [story.coefficient for story in one.history] == ["level", "plane"]


def test_several_held_members_stay_at_zero_in_both_solvers() -> None:
    rng = np.random.default_rng(10)
    members, fits, _ = consistent(rng, 5, random_graph(rng, 5))
    options = tight("level")
    problem = build(members, fits, "level", {"m000", "m002"}, options)
    exact, swept = least_squares.solve(problem), iterative.solve(problem, options)
    assert not exact.corrections[[0, 2]].any()
    assert not swept.corrections[[0, 2]].any()
    np.testing.assert_allclose(swept.corrections, exact.corrections, atol=1e-6)
