"""Uncertainties against the scatter over simulated programs."""

from dataclasses import replace

import numpy as np
import pytest

from levelmatch_core.matching.linear import normal_equations
from levelmatch_core.matching.match import match
from levelmatch_core.matching.model.problem import SlopePrior, build
from levelmatch_core.matching.results import Gauge
from levelmatch_core.matching.solvers import least_squares
from levelmatch_core.matching.uncertainty import pair_noise as noise_module
from levelmatch_core.matching.uncertainty.component import sigmas, uncertainties
from levelmatch_core.matching.uncertainty.pair_noise import PairNoise, design, pixel_variances, right_hand_side_factor
from levelmatch_core.sky.plane import Plane
from tests.benchmarks.surveys import survey
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
    statistic: str = "median",
    slopes: float = 0.0,
) -> np.ndarray:
    """Return (programs, members, 3): the error over sigma (0 where sigma is 0), relative to the gauge.

    With `slopes`, the sd of the true slopes from centre to edge, the prior learns them; without, it is off: where all
    slopes are exactly 0 a width of a normal distribution is no description of them.
    """
    rng = np.random.default_rng(11)
    prior = "auto" if slopes else "off"
    options = settings_for(
        "dithers", fit_type, weight_method=method, slope_prior=prior, statistic=statistic, **NO_REJECTION
    )
    out = []
    for _ in range(programs):
        truth = slopes / 12 * rng.standard_normal((len(positions), 3)) * [0, 1, 1]
        truth = truth if fit_type == "level+slope" else np.zeros_like(truth)
        cutouts = []
        for n, ((x0, y0), row) in enumerate(zip(positions, truth, strict=True)):
            u = np.arange(24) - 11.5
            data = noise[n % len(noise)] * rng.standard_normal((24, 24)) + row[1] * u + row[2] * u[:, None]
            cutouts.append(make_cutout(f"m{n:03d}", data, x0, y0))
        members, fits = fit_all(cutouts, fit_type, options)
        members[0] = members[0].model_copy(update={"anchors": ("dithers",)})
        solution = match("dithers", "t", members, fits, gauge, options)
        found = np.array([(m.plane.level, m.plane.slope_x, m.plane.slope_y) for m in solution.members])
        sigma = np.array([m.sigma for m in solution.members])
        error = found - _in_gauge(truth, np.array(positions, dtype=float), gauge)
        out.append(np.divide(error, sigma, out=np.zeros_like(found), where=sigma > 0))
    return np.array(out)


def _in_gauge(truth: np.ndarray, places: np.ndarray, gauge: Gauge) -> np.ndarray:
    """Return planes about each member's centre less the first member's (anchor), or less their mean plane."""
    zero = truth[0] if gauge is Gauge.ANCHOR else truth.mean(axis=0)
    at = places[0] if gauge is Gauge.ANCHOR else places.mean(axis=0)
    offset = (
        zero[0] if gauge is Gauge.ANCHOR else np.mean(truth[:, 0] + np.einsum("na,na->n", at - places, truth[:, 1:]))
    )
    moved = truth - zero
    moved[:, 0] = truth[:, 0] - (offset + (places - at) @ zero[1:])
    return moved


@pytest.mark.full
@pytest.mark.parametrize("count", [4, 8])
@pytest.mark.parametrize(("fit_type", "slopes"), [("level", 0.0), ("level+slope", 0.0), ("level+slope", 1.0)])
@pytest.mark.parametrize("method", ["equal", "error"])
@pytest.mark.parametrize("gauge", [Gauge.MEAN, Gauge.ANCHOR])
def test_pulls_of_dithers_in_200_programs(count: int, fit_type: str, slopes: float, method: str, gauge: Gauge) -> None:
    found = pulls(DITHERS[:count], fit_type, method, gauge, programs=200, noise=[1.0, 1.5], slopes=slopes)
    seen = found[:, 1:, : 1 if fit_type == "level" else 3]
    assert np.sqrt(np.mean(seen**2)) == pytest.approx(1.0, abs=0.1)


@pytest.mark.full
@pytest.mark.parametrize("statistic", ["clipped_mean", "huber"])
@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
def test_pulls_of_the_other_statistics(fit_type: str, statistic: str) -> None:
    found = pulls(
        DITHERS, fit_type, "error", Gauge.MEAN, programs=200, noise=[1.0, 1.5], statistic=statistic, slopes=1.0
    )
    seen = found[:, :, : 1 if fit_type == "level" else 3]
    assert np.sqrt(np.mean(seen**2)) == pytest.approx(1.0, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fit_type", "gauge", "slopes"),
    [("level", Gauge.ANCHOR, 0.0), ("level+slope", Gauge.MEAN, 0.0), ("level+slope", Gauge.MEAN, 1.0)],
)
def test_pulls_of_dithers(fit_type: str, gauge: Gauge, slopes: float) -> None:
    found = pulls(DITHERS[:5], fit_type, "error", gauge, programs=60, noise=[1.0, 1.5], slopes=slopes)
    seen = found[:, 1:, : 1 if fit_type == "level" else 3]
    assert np.sqrt(np.mean(seen**2)) == pytest.approx(1.0, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("fit_type", "slopes"), [("level", 0.0), ("level+slope", 0.0), ("level+slope", 1.0)])
def test_pulls_of_a_mosaic(fit_type: str, slopes: float) -> None:
    positions = grid_positions(3, 3, 24, 0.25)
    found = pulls(positions, fit_type, "equal", Gauge.MEAN, programs=80, noise=[1.0], slopes=slopes)
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


def test_many_members_of_unequal_noise_are_told_apart_as_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = survey("scans", 100).problem(1)
    sigma = np.random.default_rng(0).uniform(0.5, 2, 100)
    rms = np.hypot(sigma[problem.first], sigma[problem.second])
    np.testing.assert_allclose(np.sqrt(pixel_variances(replace(problem, rms=rms))), sigma, rtol=0.01)
    odd = np.concatenate([[1e-4, np.inf, 1e-4], rms[3:]])  # noise-free pairs, and one that was given
    problem = replace(problem, rms=odd)
    few = pixel_variances(problem)
    monkeypatch.setattr(noise_module, "DENSE_UNKNOWNS", 0)
    np.testing.assert_allclose(pixel_variances(problem), few, rtol=1e-6)


def test_tiny_overlaps_are_counted_as_independent() -> None:
    members = [member(make_cutout(name, np.zeros((100, 100)), x)) for name, x in (("a", 0), ("b", 99))]
    fit = made_up_fit(members[0], members[1], Plane(), (98.5, 0, 99.5, 100), rms=1.0)
    problem = build(members, [fit], "level+slope", {"a"}, settings_for())
    covariance = np.linalg.inv(problem.moments[0]) * fit.stderr**2
    moved = problem.shifts(1)[0]
    expected = np.linalg.inv(moved) @ covariance @ np.linalg.inv(moved).T
    np.testing.assert_allclose(sigmas(problem)[1], np.sqrt(np.diag(expected)), rtol=1e-6)
    assert right_hand_side_factor(problem).shape[1] == 6


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize(("kind", "points"), [("grid", 600), ("scans", 600), ("scans", 17)])
def test_a_unit_of_each_source_makes_the_covariance_of_pairs_and_scores(
    kind: str, points: int, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 17 points members have more coefficients than points."""
    monkeypatch.setattr(noise_module, "POINTS", points)
    monkeypatch.setattr(noise_module, "FEWEST", min(12, points // 8))
    problem = survey(kind, 20).problem(k)
    noise = PairNoise.of(problem)
    made = np.stack([noise.draw(unit).ravel() for unit in np.eye(noise.sources)], axis=1)
    covariance = made @ made.T
    given = np.random.default_rng(0).standard_normal(problem.delta.shape)
    np.testing.assert_allclose(noise.covariance_times(given).ravel(), covariance @ given.ravel(), rtol=1e-9, atol=1e-15)
    # each pair's own variance is what was measured
    inverse = np.linalg.inv(problem.moments)
    own = covariance.reshape(len(problem.rms), k, len(problem.rms), k)[
        np.arange(len(problem.rms)), :, np.arange(len(problem.rms))
    ]
    np.testing.assert_allclose((inverse @ own @ inverse)[:, 0, 0], problem.variance * inverse[:, 0, 0], rtol=1e-6)
    factor = right_hand_side_factor(problem).toarray()
    right_hand_side = (design(problem).T * np.repeat(problem.weights, k)) @ made
    np.testing.assert_allclose(factor.T @ factor, right_hand_side @ right_hand_side.T, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
@pytest.mark.parametrize("fixed", [(), ("m0003",)])
def test_draws_agree_with_dense_propagation(
    fit_type: str, fixed: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(3)
    options = settings_for("dithers", fit_type, weight_method="npix", **NO_REJECTION)
    cutouts = scene(grid_positions(4, 4, 40, 0.3), (40, 40), np.zeros((16, 3)), 1.0, rng)
    members, fits = fit_all(cutouts, fit_type, options)
    problem = build(members, fits, fit_type, fixed, options)  # type: ignore[arg-type]
    exact = sigmas(problem)
    monkeypatch.setattr(normal_equations, "DENSE_UNKNOWNS", 0)
    drawn = sigmas(problem, seed=1)
    # 200 draws: 5 % (1 sigma)
    np.testing.assert_allclose(drawn, exact, rtol=0.2)
    assert np.mean(drawn[exact > 0] / exact[exact > 0]) == pytest.approx(1, abs=0.05)
    np.testing.assert_array_equal(drawn, sigmas(problem, seed=1))


@pytest.mark.parametrize(("fit_type", "fixed"), [("level", ("m0003",)), ("level+slope", ())])
def test_weakest_modes_by_lanczos_are_those_of_the_dense_covariance(
    fit_type: str, fixed: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(6)
    options = settings_for("dithers", fit_type, weight_method="error", **NO_REJECTION)
    cutouts = scene(grid_positions(7, 3, 40, 0.4), (40, 40), np.zeros((21, 3)), 1.0, rng)
    problem = build(*fit_all(cutouts, fit_type, options), fit_type, fixed, options)  # type: ignore[arg-type]
    prior = SlopePrior(0.1, 0.2) if fit_type == "level+slope" else None
    _, exact = uncertainties(problem, prior=prior)
    monkeypatch.setattr(normal_equations, "DENSE_UNKNOWNS", 0)
    _, found = uncertainties(problem, prior=prior)
    for (sigma, share, pattern), (other, part, likeness) in zip(exact, found, strict=True):
        assert other == pytest.approx(sigma, rel=1e-3)
        assert part == pytest.approx(share, rel=0.05)  # what is left of the variance is drawn
        assert np.mean(pattern * likeness) > 0.99


def test_drifts_of_a_strip_are_known_better_than_by_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = survey("chain", 300).problem(1, fixed=0)
    exact = sigmas(problem)
    monkeypatch.setattr(normal_equations, "DENSE_UNKNOWNS", 0)
    np.testing.assert_allclose(sigmas(problem)[100:], exact[100:], rtol=0.02)  # 200 draws alone: 5 %
    assert sum(share for _, share, _ in uncertainties(problem)[1]) < 1


def test_a_slope_prior_shrinks_the_weak_modes() -> None:
    rng = np.random.default_rng(4)
    options = settings_for("dithers", "level+slope", weight_method="error", **NO_REJECTION)
    cutouts = scene(grid_positions(4, 4, 60, 0.1), (60, 60), np.zeros((16, 3)), 1.0, rng)
    problem = build(*fit_all(cutouts, "level+slope", options), "level+slope", (), options)
    free, prior = sigmas(problem), sigmas(problem, prior=SlopePrior(0.05, 0.05))
    assert np.all(prior[:, 1:] < free[:, 1:])
    small = least_squares.solve(problem, SlopePrior(0.05, 0.05)).corrections
    assert np.abs(small[:, 1:]).max() < np.abs(least_squares.solve(problem).corrections[:, 1:]).max()


def test_the_weakest_mode_of_a_strip_is_its_drift() -> None:
    rng = np.random.default_rng(5)
    options = settings_for("dithers", weight_method="error", **NO_REJECTION)
    cutouts = scene(grid_positions(8, 1, 20, 0.3), (20, 20), np.zeros((8, 3)), 1.0, rng)
    solution = match("dithers", "t", *fit_all(cutouts, "level", options), Gauge.MEAN, options)
    weakest, *others = solution.status.modes
    assert all(weakest.sigma > other.sigma for other in others)
    pattern = np.array(weakest.pattern)
    assert np.sqrt(np.mean(pattern**2)) == pytest.approx(1)
    assert abs(np.corrcoef(pattern, np.arange(8))[0, 1]) > 0.95
    total = sum(member.sigma[0] ** 2 for member in solution.members) / 8
    assert weakest.sigma**2 == pytest.approx(weakest.share * total, rel=1e-6)
    assert sum(mode.share for mode in solution.status.modes) < 1
    assert solution.status.nullity == 0


def test_unmeasured_unknowns_are_counted() -> None:
    members = [member(make_cutout(name, np.zeros((20, 20)), x)) for name, x in (("a", 0), ("b", 19))]
    fit = made_up_fit(members[0], members[1], Plane(), (19, 0, 20, 20))
    line = fit.model_copy(update={"moments": (20.0, 0, 0, 0, 0, 0, 0, 0, 665.0)})
    options = settings_for("dithers", "level+slope", slope_prior="off", **NO_REJECTION)
    assert match("dithers", "t", members, [line], Gauge.MEAN, options).status.nullity == 1


def unmodelled(extra: float, seed: int) -> tuple[np.ndarray, float]:
    """Return pulls (N,) of levels whose pairs have one more error each, so many times their noise; and the misfit."""
    rng = np.random.default_rng(seed)
    options = settings_for("mosaic_tiles", "level", weight_method="error", **NO_REJECTION)
    cutouts = scene(grid_positions(4, 4, 24, 0.25), (24, 24), np.zeros((16, 3)), 1.0, rng)
    members, fits = fit_all(cutouts, "level", options)
    size = extra * float(np.median([fit.stderr for fit in fits]))
    moved = [
        fit.model_copy(update={"plane": fit.plane + Plane(level=size * float(rng.standard_normal()))}) for fit in fits
    ]
    solution = match("mosaic_tiles", "f", members, moved, Gauge.REFERENCE, options)
    fixed = [m.sigma[0] > 0 for m in solution.members]
    found = np.array([m.plane.level / m.sigma[0] for m in solution.members if m.sigma[0] > 0])
    assert sum(fixed) == 15
    return found, solution.components[0].excess_scatter / size if extra else solution.components[0].excess_scatter


@pytest.mark.slow
def test_what_the_fit_does_not_describe_is_allowed_for() -> None:
    """Differences that disagree by five times their noise: stated errors hold, and the misfit is found."""
    runs = [unmodelled(5.0, seed) for seed in range(40)]
    assert np.sqrt(np.mean([pulls**2 for pulls, _ in runs])) == pytest.approx(1.0, abs=0.15)
    assert np.median([excess_scatter for _, excess_scatter in runs]) == pytest.approx(1.0, abs=0.15)


@pytest.mark.slow
def test_noise_alone_is_no_misfit() -> None:
    runs = [unmodelled(0.0, seed) for seed in range(40)]
    assert np.sqrt(np.mean([pulls**2 for pulls, _ in runs])) == pytest.approx(1.0, abs=0.15)
    assert sum(excess_scatter > 0 for _, excess_scatter in runs) <= 5
