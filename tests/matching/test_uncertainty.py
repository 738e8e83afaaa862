"""Uncertainties against the scatter over simulated programs."""

import numpy as np
import pytest

from levelmatch_core.matching.match import Gauge, match
from levelmatch_core.matching.solvers import least_squares, normal
from levelmatch_core.matching.solvers.problem import build
from levelmatch_core.matching.solvers.uncertainty import pixel_variances, score_factor, sigmas
from levelmatch_core.sky.plane import Plane
from tests.matching.fakes import (
    NO_REJECTION,
    fit_all,
    grid_positions,
    made_up_fit,
    make_cutout,
    member,
    scene,
    settings_for,
)

DITHERS = [(0, 0), (5, 3), (2, 7), (8, 1), (4, 4), (1, 9), (7, 6), (9, 9)]


def pulls(
    positions: list[tuple[int, int]],
    fit_type: str,
    method: str,
    gauge: Gauge,
    *,
    programs: int,
    noise: list[float],
) -> np.ndarray:
    """Return (programs, members, 3): found over sigma where the truth is 0 (0 where sigma is 0)."""
    rng = np.random.default_rng(11)
    options = settings_for("dithers", fit_type, weight_method=method, **NO_REJECTION)
    out = []
    for _ in range(programs):
        cutouts = [
            make_cutout(f"m{n:03d}", noise[n % len(noise)] * rng.standard_normal((24, 24)), *position)
            for n, position in enumerate(positions)
        ]
        members, fits = fit_all(cutouts, fit_type, options)
        members[0] = members[0].model_copy(update={"anchors": ("dithers",)})
        solution = match("dithers", "t", members, fits, gauge, options)
        found = np.array([(m.plane.level, m.plane.slope_x, m.plane.slope_y) for m in solution.members])
        sigma = np.array([m.sigma for m in solution.members])
        out.append(np.divide(found, sigma, out=np.zeros_like(found), where=sigma > 0))
    return np.array(out)


@pytest.mark.full
@pytest.mark.parametrize("count", [4, 8])
@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
@pytest.mark.parametrize("method", ["equal", "error"])
@pytest.mark.parametrize("gauge", [Gauge.MEAN, Gauge.ANCHOR])
def test_pulls_of_dithers_in_200_programs(count: int, fit_type: str, method: str, gauge: Gauge) -> None:
    found = pulls(DITHERS[:count], fit_type, method, gauge, programs=200, noise=[1.0, 1.5])
    seen = found[:, 1:, : 1 if fit_type == "level" else 3]
    assert np.sqrt(np.mean(seen**2)) == pytest.approx(1.0, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("fit_type", "gauge"), [("level", Gauge.ANCHOR), ("level+slope", Gauge.MEAN)])
def test_pulls_of_dithers(fit_type: str, gauge: Gauge) -> None:
    found = pulls(DITHERS[:5], fit_type, "error", gauge, programs=100, noise=[1.0, 1.5])
    seen = found[:, 1:, : 1 if fit_type == "level" else 3]
    assert np.sqrt(np.mean(seen**2)) == pytest.approx(1.0, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
def test_pulls_of_a_mosaic(fit_type: str) -> None:
    found = pulls(grid_positions(3, 3, 24, 0.25), fit_type, "equal", Gauge.MEAN, programs=80, noise=[1.0])
    assert np.sqrt(np.mean(found[:, :, : 1 if fit_type == "level" else 3] ** 2)) == pytest.approx(1.0, abs=0.1)


def test_dithers_on_top_of_each_other_are_no_independent_pairs() -> None:
    """N members on one place: the level error is that of N means, sqrt(1 - 1/N) / sqrt(n), not sqrt(2/N) of it."""
    rng = np.random.default_rng(0)
    options = settings_for("dithers", "level+slope", weight_method="equal", sigma=50.0)
    members, fits = fit_all(
        [make_cutout(f"m{n}", rng.standard_normal((60, 60))) for n in range(8)], "level+slope", options
    )
    problem = build(members, fits, "level+slope", (), options)
    found = sigmas(problem)
    np.testing.assert_allclose(found[:, 0], np.sqrt(1 - 1 / 8) / 60, rtol=0.03)
    np.testing.assert_allclose(found[:, 1] / 30, np.sqrt(1 - 1 / 8) / 60 / np.sqrt((60**2 - 1) / 12), rtol=0.03)


def test_one_pair_has_its_own_standard_error() -> None:
    rng = np.random.default_rng(1)
    for fit_type in ("level", "level+slope"):
        options = settings_for("dithers", fit_type)
        cutouts = [make_cutout(name, rng.standard_normal((30, 30)), noise_gain=0.5) for name in "ab"]
        members, fits = fit_all(cutouts, fit_type, options)
        problem = build(members, fits, fit_type, {"a"}, options)  # type: ignore[arg-type]
        found = sigmas(problem)
        assert not found[0].any()
        # a plane's level is best known at the centroid, which clipping puts beside the centre
        assert found[1, 0] == pytest.approx(fits[0].stderr, rel=1e-6 if fit_type == "level" else 1e-4)


def test_members_of_unequal_noise_are_told_apart() -> None:
    rng = np.random.default_rng(2)
    noise = np.array([1.0, 2.0, 3.0, 0.5, 1.5])
    members = [member(make_cutout(f"m{i}", np.zeros((40, 40)))) for i in range(5)]
    fits = [
        made_up_fit(members[i], members[j], Plane(), (0, 0, 40, 40), rms=float(np.hypot(noise[i], noise[j])))
        for i in range(5)
        for j in range(i + 1, 5)
    ]
    problem = build(members, fits, "level", (), settings_for())
    np.testing.assert_allclose(np.sqrt(pixel_variances(problem)), noise, rtol=0.02)
    odd = [fit.model_copy(update={"rms": fit.rms * rng.uniform(0.5, 2)}) for fit in fits]
    assert np.all(pixel_variances(build(members, odd, "level", (), settings_for())) > 0)
    alone = pixel_variances(build(members[:2], fits[:1], "level", (), settings_for()))
    np.testing.assert_allclose(alone, fits[0].rms ** 2 / 2, rtol=1e-3)


def test_tiny_overlaps_are_counted_as_independent() -> None:
    members = [member(make_cutout(name, np.zeros((100, 100)), x)) for name, x in (("a", 0), ("b", 99))]
    fit = made_up_fit(members[0], members[1], Plane(), (98.5, 0, 99.5, 100), rms=1.0)
    problem = build(members, [fit], "level+slope", {"a"}, settings_for())
    covariance = np.linalg.inv(problem.moments[0]) * fit.stderr**2
    moved = problem.shifts(problem.second)[0]
    expected = np.linalg.inv(moved) @ covariance @ np.linalg.inv(moved).T
    np.testing.assert_allclose(sigmas(problem)[1], np.sqrt(np.diag(expected)), rtol=1e-6)
    assert score_factor(problem).shape[1] == 6


@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
@pytest.mark.parametrize("held", [(), ("m0003",)])
def test_draws_agree_with_dense_propagation(
    fit_type: str, held: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(3)
    options = settings_for("dithers", fit_type, weight_method="npix", **NO_REJECTION)
    cutouts = scene(grid_positions(4, 4, 40, 0.3), (40, 40), np.zeros((16, 3)), 1.0, rng)
    members, fits = fit_all(cutouts, fit_type, options)
    problem = build(members, fits, fit_type, held, options)  # type: ignore[arg-type]
    exact = sigmas(problem)
    monkeypatch.setattr(normal, "DENSE_UNKNOWNS", 0)
    drawn = sigmas(problem, seed=1)
    # 200 draws: 5 % (1 sigma)
    np.testing.assert_allclose(drawn, exact, rtol=0.2)
    assert np.mean(drawn[exact > 0] / exact[exact > 0]) == pytest.approx(1, abs=0.05)
    np.testing.assert_array_equal(drawn, sigmas(problem, seed=1))


def test_a_slope_prior_shrinks_the_weak_modes() -> None:
    rng = np.random.default_rng(4)
    options = settings_for("dithers", "level+slope", weight_method="error", **NO_REJECTION)
    cutouts = scene(grid_positions(4, 4, 60, 0.1), (60, 60), np.zeros((16, 3)), 1.0, rng)
    problem = build(*fit_all(cutouts, "level+slope", options), "level+slope", (), options)
    free, prior = sigmas(problem), sigmas(problem, slope_sd=0.05)
    assert np.all(prior[:, 1:] < free[:, 1:])
    small = least_squares.solve(problem, 0.05).corrections
    assert np.abs(small[:, 1:]).max() < np.abs(least_squares.solve(problem).corrections[:, 1:]).max()
