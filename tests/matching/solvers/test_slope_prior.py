"""The slope prior: ramps and bowls of the whole mosaic stay bounded, and what the overlaps know is left alone."""

import numpy as np
import pytest

from levelmatch_core.errors import SettingsError
from levelmatch_core.images.given import Given, GivenLevel
from levelmatch_core.matching.linear import normal_equations
from levelmatch_core.matching.match import match
from levelmatch_core.matching.model.problem import build
from levelmatch_core.matching.results import Gauge, PairFit, Solution
from levelmatch_core.matching.solvers import least_squares
from levelmatch_core.matching.solvers.slope_prior import slope_prior_of
from levelmatch_core.matching.uncertainty import component
from levelmatch_core.matching.uncertainty.component import sigmas
from levelmatch_core.sky.plane import Plane
from tests.benchmarks.accuracy import Mosaic, errors
from tests.matching.fakes import NO_REJECTION, fit_all, grid_positions, scene, settings_for

THIN = Mosaic(side=6, size=128, overlap=0.05)


def truth_of(rng: np.random.Generator, width: float, n: int = 36) -> np.ndarray:
    return np.hstack([10 * rng.standard_normal((n, 1)), width * rng.standard_normal((n, 2))])


def solved(seed: int, truth: np.ndarray, **settings: object) -> tuple[Solution, np.ndarray]:
    options = settings_for("mosaic_tiles", "level+slope", weight_method="error", min_linear_frac=0.0, **settings)
    members, fits = fit_all(THIN.tiles(truth, np.random.default_rng(100 + seed)), "level+slope", options)
    solution = match("mosaic_tiles", "f", members, fits, Gauge.REFERENCE, options)
    return solution, errors(THIN, solution, truth)


def leave_one_out(error: np.ndarray) -> float:
    """Return the rms of the true steps at the middles of the seams."""
    tiles = error.reshape(6, 6, 3)
    across = (tiles[:, :-1, 0] + tiles[:, :-1, 1]) - (tiles[:, 1:, 0] - tiles[:, 1:, 1])
    along = (tiles[:-1, :, 0] + tiles[:-1, :, 2]) - (tiles[1:, :, 0] - tiles[1:, :, 2])
    return float(np.sqrt(np.mean(np.concatenate([across.ravel(), along.ravel()]) ** 2)))


def test_ramps_and_bowls_stay_bounded_and_seams_are_no_worse() -> None:
    values = THIN.values(3)
    found = {}
    for setting in ("auto", "off"):
        left, steps = [], []
        for seed in range(3):
            _, error = solved(seed, truth_of(np.random.default_rng(seed), 0.1), slope_prior=setting)
            left.append(np.mean((values @ error.ravel()) ** 2))
            steps.append(leave_one_out(error))
        found[setting] = np.sqrt(np.mean(left)), np.mean(steps)
    assert found["auto"][0] < 0.15
    assert found["off"][0] > 0.5
    assert found["auto"][1] < 1.05 * found["off"][1]


@pytest.mark.parametrize("gauge", ["reference", "mean"])
def test_large_slopes_do_not_bend_the_mosaic_about_its_reference(gauge: str) -> None:
    """The reference's own slope is as large as any other: a prior about 0 relative to it would say all lean its way."""
    mosaic = Mosaic(side=6, size=64, overlap=0.15)
    values, bound, left = mosaic.values(3), mosaic.bound(3), []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        truth = truth_of(rng, 1.0)
        options = settings_for("mosaic_tiles", "level+slope", weight_method="error", plane_gauge=gauge, **NO_REJECTION)
        members, fits = fit_all(mosaic.tiles(truth, rng), "level+slope", options)
        solution = match("mosaic_tiles", "f", members, fits, Gauge.REFERENCE, options)
        reference = next(m for m in solution.members if m.name == solution.components[0].reference)
        assert reference.plane.level == 0
        assert reference.plane.is_level is (gauge == "reference")
        left.append(np.mean((values @ errors(mosaic, solution, truth).ravel()) ** 2))
    assert np.sqrt(np.mean(left)) < bound  # which holds where nothing is known of the slopes beforehand


def test_the_two_gauges_differ_by_one_plane() -> None:
    """To rounding: what is common to all members is a matter of gauge, and of nothing else."""
    truth = truth_of(np.random.default_rng(6), 1.0)
    by_gauge = [solved(6, truth, plane_gauge=gauge, reference="m0014")[1] for gauge in ("reference", "mean")]
    apart = by_gauge[0] - by_gauge[1]
    np.testing.assert_allclose(THIN.values(3) @ apart.ravel(), 0, atol=1e-9)
    np.testing.assert_allclose(apart[:, 1:], apart[:1, 1:].repeat(36, axis=0), atol=1e-9)


@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
def test_sigmas_about_a_reference_are_what_the_covariance_gives(fit_type: str) -> None:
    """Dense and drawn, against the transformation of unit vectors: the plane of one member taken out of all."""
    rng = np.random.default_rng(7)
    options = settings_for("dithers", fit_type, **NO_REJECTION)
    cutouts = scene(grid_positions(3, 2, 30, 0.3), (30, 30), np.zeros((6, 3)), 1.0, rng)
    members, fits = fit_all(cutouts, fit_type, options)
    free = build(members, fits, fit_type, (), options)  # type: ignore[arg-type]
    zero = build(members, fits, fit_type, (), options, plane_reference="m0002")  # type: ignore[arg-type]
    fixed = build(members, fits, fit_type, ("m0002",), options)  # type: ignore[arg-type]
    np.testing.assert_allclose(sigmas(zero), sigmas(fixed), atol=1e-9)
    unit = np.eye(6 * free.k)
    there = np.stack([zero.to_gauge(row.reshape(6, -1)).ravel() for row in unit])
    np.testing.assert_allclose(component.to_gauge(zero, unit), there.T, atol=1e-12)
    np.testing.assert_allclose(component._from_gauge(zero, unit), there, atol=1e-12)


@pytest.mark.parametrize("width", [0.05, 0.3, 2.0])
def test_the_width_is_learned_from_the_pairs(width: float) -> None:
    options = settings_for("mosaic_tiles", "level+slope", weight_method="error", **NO_REJECTION)
    ratios = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        mosaic = Mosaic(side=5, size=128, overlap=0.15)
        members, fits = fit_all(mosaic.tiles(truth_of(rng, width, 25), rng), "level+slope", options)
        prior = slope_prior_of(build(members, fits, "level+slope", (), options), options)
        assert prior is not None
        ratios.append(prior.width / width)
    assert 0.75 < np.median(ratios) < 1.3


def test_slopes_that_the_overlaps_know_are_not_shrunk() -> None:
    rng = np.random.default_rng(2)
    truth = rng.normal(size=(9, 3)) * [5, 0.02, 0.02]
    cutouts = scene(grid_positions(3, 3, 40, 0.5), (40, 40), truth, 0.01, rng)
    options = settings_for("dithers", "level+slope", **NO_REJECTION)
    problem = build(*fit_all(cutouts, "level+slope", options), "level+slope", (), options)
    prior = slope_prior_of(problem, options)
    free, shrunk = least_squares.solve(problem).corrections, least_squares.solve(problem, prior).corrections
    np.testing.assert_allclose(shrunk, free, atol=2e-5)  # a hundredth of the noise that the slopes have


def test_noise_that_all_pairs_share_is_not_taken_for_slopes() -> None:
    """Eight exposures on top of each other: 28 pairs agree on gradients that are noise."""
    options = settings_for("dithers", "level+slope", **NO_REJECTION)
    places = [(0, 0), (5, 3), (2, 7), (8, 1), (4, 4), (1, 9), (7, 6), (9, 9)]
    found, flat = [], []
    for seed in range(10):
        cutouts = scene(places, (48, 48), np.zeros((8, 3)), 1.0, np.random.default_rng(seed))
        members, fits = fit_all(cutouts, "level+slope", options)
        solution = match("dithers", "t", members, fits, Gauge.MEAN, options)
        found.append([(m.plane.slope_x, m.plane.slope_y) for m in solution.members])
        flat.append(
            [
                (m.plane.slope_x, m.plane.slope_y)
                for m in match(
                    "dithers", "t", members, fits, Gauge.MEAN, options.model_copy(update={"slope_prior": "off"})
                ).members
            ]
        )
    assert np.sqrt(np.mean(np.square(found))) < 0.4 * np.sqrt(np.mean(np.square(flat)))


def plane_of(coefficients: np.ndarray, fit: PairFit) -> Plane:
    level, slope_x, slope_y = coefficients.tolist()
    return Plane(level=level, slope_x=slope_x, slope_y=slope_y, x0=fit.plane.x0, y0=fit.plane.y0)


@pytest.mark.parametrize("weights", ["equal", "error"])
def test_pairs_cut_from_one_scan_do_not_say_that_there_are_no_slopes(weights: str) -> None:
    """Two images of each scan share slopes and pixels, so that their differences are exact; others are off by more.

    As in 2MASS, where the differences between scans are off by ten times what their pixels' noise makes.
    """
    rng = np.random.default_rng(8)
    truth = np.tile(truth_of(rng, 4.0, 6), (2, 1)) / [1, 20, 20]
    cutouts = scene(grid_positions(6, 2, 40, 0.25), (40, 40), truth, 1.0, rng)
    options = settings_for("dithers", "level+slope", weight_method=weights, **NO_REJECTION)
    members, fits = fit_all(cutouts, "level+slope", options)
    measured = []
    for fit in fits:
        root = np.linalg.inv(np.linalg.cholesky(np.reshape(fit.moments, (3, 3)) / fit.n_used)).T
        off = plane_of(10 * fit.stderr * root @ rng.standard_normal(3), fit)
        changed = {"plane": fit.plane + off}
        if int(fit.first[1:]) + 6 == int(fit.second[1:]):
            flat = {"slope_x": 0.0, "slope_y": 0.0}
            changed = {"rms": 1e-3, "stderr": 1e-3 * fit.stderr, "plane": fit.plane.model_copy(update=flat)}
        measured.append(fit.model_copy(update=changed))
    prior = slope_prior_of(build(members, measured, "level+slope", (), options), options)
    assert prior is not None
    assert 1.6 < prior.width < 8


def test_given_levels_are_the_prior_that_bounds_the_drift_of_a_strip() -> None:
    """Each tile given as 0 +- what levels are known to scatter by: a long strip drifts no further than that."""
    strip = Mosaic(side=80, size=24, overlap=0.15, rows=1)
    options = settings_for("mosaic_tiles", weight_method="error", statistic="clipped_mean", **NO_REJECTION)
    free, bounded = [], []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        truth = 0.1 * rng.standard_normal((80, 3)) * [1, 0, 0]
        members, fits = fit_all(strip.tiles(truth, rng), "level", options)
        known = Given(levels=tuple(GivenLevel(tile=one.tile, level=0.0, error=0.1) for one in members))
        for given, left in ((Given(), free), (known, bounded)):
            solution = match("mosaic_tiles", "f", members, fits, Gauge.REFERENCE, options, given=given)
            error = errors(strip, solution, truth)[:, 0]
            left.append(np.std(error))
    assert np.mean(free) > 3 * np.mean(bounded)
    assert np.mean(bounded) < 0.1


def test_levels_have_no_prior_and_off_is_off() -> None:
    rng = np.random.default_rng(3)
    cutouts = scene(grid_positions(2, 2, 30, 0.3), (30, 30), np.zeros((4, 3)), 1.0, rng)
    for fit_type, setting in (("level", "auto"), ("level+slope", "off")):
        options = settings_for("dithers", fit_type, slope_prior=setting)
        problem = build(*fit_all(cutouts, fit_type, options), fit_type, (), options)  # type: ignore[arg-type]
        assert slope_prior_of(problem, options) is None


def test_sparse_and_dense_learn_the_same_width(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    options = settings_for("mosaic_tiles", "level+slope", weight_method="error", **NO_REJECTION)
    cutouts = Mosaic(side=4, size=64, overlap=0.15).tiles(truth_of(rng, 0.2, 16), rng)
    problem = build(*fit_all(cutouts, "level+slope", options), "level+slope", ("m0005",), options)
    dense = slope_prior_of(problem, options)
    monkeypatch.setattr(normal_equations, "DENSE_UNKNOWNS", 0)
    sparse = slope_prior_of(problem, options)
    assert dense is not None
    assert sparse is not None
    assert sparse.width == pytest.approx(dense.width, rel=1e-6)


def test_mean_gauge_holds_the_references_level_and_the_mean_slope() -> None:
    truth = truth_of(np.random.default_rng(5), 0.1)
    solution, _ = solved(5, truth, plane_gauge="mean", reference="m0014")
    reference = solution.members[14]
    assert solution.components[0].reference == "m0014"
    assert reference.plane.level == pytest.approx(0, abs=1e-12)
    assert reference.sigma[0] == pytest.approx(0, abs=1e-12)
    assert abs(reference.plane.slope_x) > 0
    assert np.mean([m.plane.slope_x for m in solution.members]) == pytest.approx(0, abs=1e-12)
    assert np.mean([m.plane.slope_y for m in solution.members]) == pytest.approx(0, abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("gauge", ["reference", "mean"])
def test_sigmas_allow_for_what_the_prior_takes(gauge: str) -> None:
    pulls = []
    half = THIN.size / 2
    places = np.array(THIN.positions) / half
    for seed in range(12):
        truth = truth_of(np.random.default_rng(seed), 0.1)
        solution, error = solved(seed, truth, plane_gauge=gauge, reference="m0014")
        if gauge == "reference":
            error[:, 0] += truth[14, 0] + (places - places[14]) @ truth[14, 1:]
            error[:, 1:] += truth[14, 1:]
        else:
            mean = truth[:, 1:].mean(axis=0)
            error[:, 0] += truth[14, 0] + (places - places[14]) @ mean
            error[:, 1:] += mean
        sigma = np.array([m.sigma for m in solution.members]) * [1, half, half]
        pulls.append(np.delete(error / np.where(sigma > 0, sigma, 1.0), 14, axis=0))
    size = np.sqrt(np.mean(np.square(pulls), axis=(0, 1)))
    assert np.all((size > 0.6) & (size < 1.15)), size


@pytest.mark.parametrize("value", [0.0, -1.0, "yes"])
def test_a_width_is_positive(value: object) -> None:
    with pytest.raises(SettingsError, match="slope_prior"):
        settings_for(slope_prior=value)


@pytest.mark.parametrize("width", [0.0, 0.02, 0.5])
def test_two_exposures_keep_the_slopes_that_they_measure(width: float) -> None:
    """A pair of its own has no residual: nothing says that its slopes are noise but their measured error."""
    off, auto = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        truth = np.concatenate([5 * rng.standard_normal((2, 1)), width * rng.standard_normal((2, 2))], axis=1) / 20
        cutouts = scene([(0, 0), (4, 3)], (40, 40), truth, 0.1, rng)
        for setting, left in (("off", off), ("auto", auto)):
            options = settings_for("dithers", "level+slope", slope_prior=setting, **NO_REJECTION)
            solution = match("dithers", "t", *fit_all(cutouts, "level+slope", options), Gauge.MEAN, options)
            (one, two), (a, b) = solution.members, truth
            slopes = two.plane.slope_x - one.plane.slope_x, two.plane.slope_y - one.plane.slope_y
            left.append(np.subtract(slopes, (b - a)[1:]))
            assert (one.slope_change is None) is (setting == "off" or solution.components[0].slope_prior is None)
    rms_off, rms_auto = (np.sqrt(np.mean(np.square(left))) for left in (off, auto))
    assert rms_auto < 1.1 * rms_off


def test_what_the_prior_did_to_a_slope_is_said() -> None:
    truth = truth_of(np.random.default_rng(8), 0.05)
    auto, off = (solved(8, truth, slope_prior=setting)[0] for setting in (0.05, "off"))
    for held, free in zip(auto.members, off.members, strict=True):
        assert held.slope_change is not None
        assert free.slope_change is None
    apart = np.array(
        [
            (a.plane.slope_x - b.plane.slope_x, a.plane.slope_y - b.plane.slope_y)
            for a, b in zip(auto.members, off.members, strict=True)
        ]
    )
    said = np.array([one.slope_change for one in auto.members])
    np.testing.assert_allclose(said - said.mean(axis=0), apart - apart.mean(axis=0), atol=1e-6 * np.abs(apart).max())
    assert np.abs(apart).max() > 1e-4


@pytest.mark.parametrize(
    ("places", "size", "width"),
    [
        (grid_positions(2, 2, 64, 0.15), 64, 0.3),
        (grid_positions(2, 2, 64, 0.15), 64, 1.0),
        ([(0, 0), (9, 2), (4, 8), (1, 5)], 64, 0.2),
        ([(0, 0), (9, 2), (4, 8), (1, 5)], 64, 0.3),
        ([(0, 0), (9, 2), (4, 8), (1, 5)], 64, 0.1),
        ([(0, 0), (9, 2), (4, 8), (1, 5)], 64, 0.03),
        ([(0, 0), (9, 2)], 64, 0.1),
        ([(0, 0), (9, 2)], 64, 0.03),
    ],
)
def test_few_slopes_that_pairs_show_are_no_worse_than_as_they_are_measured(
    places: list[tuple[int, int]], size: int, width: float
) -> None:
    """The most probable width of few slopes is by chance far too small: single programs were worse by up to 2."""
    stage, gauge = ("mosaic_tiles", Gauge.REFERENCE) if places[1][0] > 32 else ("dithers", Gauge.MEAN)
    options = settings_for(stage, "level+slope", weight_method="error", **NO_REJECTION)
    u = np.linspace(-1, 1, 9)
    x, y = (grid.ravel() for grid in np.meshgrid(u, u))
    points = np.concatenate([np.stack([np.ones_like(x), a / 32 + x, b / 32 + y], axis=1) for a, b in places])
    for seed in range(12):
        rng = np.random.default_rng(seed)
        truth = truth_of(rng, width, len(places)) / [1, size / 2, size / 2]
        members, fits = fit_all(scene(places, (size, size), truth, 1.0, rng), "level+slope", options)
        left = {}
        for setting in ("auto", "off"):
            chosen = options.model_copy(update={"slope_prior": setting})
            found = match(stage, "f", members, fits, gauge, chosen).members
            wrong = np.array([(m.plane.level, m.plane.slope_x, m.plane.slope_y) for m in found]) - truth
            values = np.concatenate([a + 32 * b * x + 32 * c * y for a, b, c in wrong])
            values -= points @ np.linalg.lstsq(points, values, rcond=None)[0]
            left[setting] = np.sqrt(np.mean(values**2))
        assert left["auto"] < 1.1 * left["off"]
