import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from levelmatch_core.errors import SolveError
from levelmatch_core.matching.match import match
from levelmatch_core.matching.results import Gauge, Member, PairFit, Rejection, Solution
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.plane import Plane
from tests.benchmarks.surveys import survey
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

BOX = (0.0, 0.0, 10.0, 10.0)


def planes(solution: Solution) -> dict[str, Plane]:
    return {result.name: result.plane for result in solution.members}


def linked(names: str, pairs: dict[str, float], **changed: object) -> tuple[list[Member], list[PairFit]]:
    """Members of one letter each, and levels of pairs named by two letters."""
    members = {name: member(make_cutout(name, np.zeros((20, 20)))) for name in names}
    fits = [made_up_fit(members[a], members[b], Plane(level=level), BOX) for (a, b), level in pairs.items()]
    return list(members.values()), [fit.model_copy(update=changed) for fit in fits]


@pytest.mark.parametrize("solver", ["least_squares", "iterative"])
@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
def test_sign_a_brighter_second_gets_the_larger_correction_which_is_subtracted(fit_type: str, solver: str) -> None:
    rng = np.random.default_rng(0)
    data = rng.normal(size=(30, 30))
    cutouts = [make_cutout("one", data), make_cutout("two", data + 5)]
    options = settings_for("dithers", fit_type, solver=solver)
    members, fits = fit_all(cutouts, fit_type, options)
    assert fits[0].plane.level == pytest.approx(5, abs=1e-12)
    solution = match("dithers", "t", members, fits, Gauge.MEAN, options)
    found = planes(solution)
    assert found["two"].level - found["one"].level == pytest.approx(5, abs=1e-6)
    assert found["two"].level == pytest.approx(2.5, abs=1e-6)
    corrected = [cutout.data - found[cutout.record.name].level for cutout in cutouts]
    np.testing.assert_allclose(corrected[0], corrected[1], atol=1e-6)
    assert solution.status.residual_before == pytest.approx(5)
    assert solution.status.residual_after < 1e-6
    assert solution.pairs[0].residual == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("method", ["equal", "npix", "rms", "error"])
@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
def test_a_constant_on_one_member_moves_its_correction_by_just_that(fit_type: str, method: str) -> None:
    rng = np.random.default_rng(1)
    cutouts = scene(grid_positions(3, 2, 40, 0.3), (40, 40), rng.normal(size=(6, 3)) * [5, 0.01, 0.01], 1.0, rng)
    options = settings_for("mosaic_tiles", fit_type, weight_method=method, reference="m0000")
    before = planes(match("mosaic_tiles", "f", *fit_all(cutouts, fit_type, options), Gauge.REFERENCE, options))
    raised = [*cutouts[:4], make_cutout("m0004", cutouts[4].data + 64.0, *_origin(cutouts[4])), cutouts[5]]
    after = planes(match("mosaic_tiles", "f", *fit_all(raised, fit_type, options), Gauge.REFERENCE, options))
    for name, plane in after.items():
        moved = 64.0 if name == "m0004" else 0.0
        assert plane.level - before[name].level == pytest.approx(moved, abs=1e-9)
        assert plane.slope_x == pytest.approx(before[name].slope_x, abs=1e-10)


def _origin(cutout: object) -> tuple[int, int]:
    return cutout.record.x0, cutout.record.y0  # type: ignore[attr-defined]


SHUFFLED = scene(
    grid_positions(3, 3, 30, 0.3),
    (30, 30),
    np.random.default_rng(2).normal(size=(9, 3)) * [5, 0.01, 0.01],
    1.0,
    np.random.default_rng(3),
)


@settings(max_examples=12, deadline=None)
@given(
    st.randoms(use_true_random=False),
    st.sampled_from(["level", "level+slope"]),
    st.sampled_from(["least_squares", "iterative"]),
    st.sampled_from(list(Gauge)),
)
def test_the_order_of_the_input_changes_no_bit(shuffle: object, fit_type: str, solver: str, gauge: Gauge) -> None:
    options = settings_for("dithers", fit_type, solver=solver, n_iter=200, weight_method="error")
    members, fits = fit_all(SHUFFLED, fit_type, options)
    members[4] = members[4].model_copy(update={"anchors": ("dithers",)})
    first = match("dithers", "t", members, fits, gauge, options)
    shuffle.shuffle(members)  # type: ignore[attr-defined]
    shuffle.shuffle(fits)  # type: ignore[attr-defined]
    assert match("dithers", "t", members, fits, gauge, options) == first


def test_every_reason_of_rejection_is_kept_with_its_numbers() -> None:
    members, fits = linked(
        "abcdefghijk",
        {"ab": 1, "bc": 1, "cd": 1, "ad": 3, "ac": 2, "bd": 2, "ae": 0, "af": 0, "ag": 0, "bf": 0, "bg": 0, "bj": 0},
    )
    fits[6] = fits[6].model_copy(update={"npix": 0})
    fits[7] = fits[7].model_copy(update={"linear": (0.1, 0.0)})
    fits[8] = fits[8].model_copy(update={"rms": 50.0})
    solution = match("mosaic_tiles", "f", members, fits, Gauge.REFERENCE, settings_for("mosaic_tiles"))
    rejected = {pair.fit.first + pair.fit.second: pair.rejected for pair in solution.pairs if pair.rejected}
    assert rejected == {"ae": Rejection.TOO_FEW_PIXELS, "af": Rejection.TOO_SHORT, "ag": Rejection.TOO_NOISY}
    assert {pair.weight for pair in solution.pairs if pair.rejected} == {0.0}
    assert next(pair for pair in solution.pairs if pair.fit.second == "g").fit.rms == 50.0
    notes = " ".join(solution.status.notes)
    assert "rejected pairs that would have joined components: a - e (too few pixels)" in notes
    assert "a - f" not in notes  # which two other pairs join


def test_no_rule_of_extent_or_noise_fells_the_last_pair_between_two_parts() -> None:
    """A strip whose middle lies over the brightest nebula: its pair is the noisiest by far, and all that joins them."""
    rng = np.random.default_rng(5)
    cutouts = scene(grid_positions(8, 1, 30, 0.3), (30, 30), 5 * rng.normal(size=(8, 1)), 0.1, rng)
    members, fits = fit_all(cutouts, "level", settings_for("mosaic_tiles"))
    fits[3] = fits[3].model_copy(update={"rms": 60.0})
    fits[5] = fits[5].model_copy(update={"linear": (0.1, 0.1)})
    solution = match("mosaic_tiles", "f", members, fits, Gauge.REFERENCE, settings_for("mosaic_tiles"))
    assert len(solution.components) == 1
    assert {pair.fit.first: pair.spared for pair in solution.pairs if pair.spared} == {
        fits[3].first: Rejection.TOO_NOISY,
        fits[5].first: Rejection.TOO_SHORT,
    }
    assert not any(pair.rejected for pair in solution.pairs)
    assert any("used because nothing else joins" in note and "rms too high" in note for note in solution.status.notes)


def test_disconnected_components_and_a_member_alone() -> None:
    members, fits = linked("abcdexyz", {"ab": 1, "bc": 2, "ac": 3, "de": 7, "xy": 4})
    solution = match("mosaic_tiles", "f", members, fits, Gauge.REFERENCE, settings_for("mosaic_tiles"))
    assert [component.members for component in solution.components] == [("a", "b", "c"), ("d", "e"), ("x", "y"), ("z",)]
    assert [component.reference for component in solution.components] == ["a", "d", "x", "z"]
    levels = {name: plane.level for name, plane in planes(solution).items()}
    assert levels == pytest.approx({"a": 0, "b": 1, "c": 3, "d": 0, "e": 7, "x": 0, "y": 4, "z": 0})
    assert [result.name for result in solution.members] == sorted("abcdexyz")
    assert {result.name: result.component for result in solution.members}["y"] == 2
    assert solution.status.rank == solution.status.unknowns == 4
    assert [pair.fit.first + pair.fit.second for pair in solution.pairs] == ["ab", "ac", "bc", "de", "xy"]


def test_nothing_to_solve() -> None:
    members, _ = linked("ab", {})
    solution = match("dithers", "t", members, [], Gauge.MEAN, settings_for())
    assert solution.status.converged
    assert solution.status.unknowns == 0
    assert [result.plane.level for result in solution.members] == [0, 0]
    assert match("dithers", "t", [], [], Gauge.MEAN, settings_for()).members == ()


def test_bridges_are_marked_and_named() -> None:
    members, fits = linked("abcdef", {"ab": 1, "bc": 1, "ac": 2, "cd": 5, "de": 1, "ef": 1, "df": 2})
    solution = match("dithers", "t", members, fits, Gauge.MEAN, settings_for())
    assert [pair.fit.first + pair.fit.second for pair in solution.pairs if pair.bridge] == ["cd"]
    assert any("bridges" in note and "c - d" in note for note in solution.status.notes)
    pair = match("dithers", "t", *linked("ab", {"ab": 1}), Gauge.MEAN, settings_for())
    assert pair.pairs[0].bridge
    assert pair.status.notes == ()


def test_mean_gauge_is_the_zero_mean_plane() -> None:
    options = settings_for("dithers", "level+slope", **NO_REJECTION)
    solution = match("dithers", "t", *fit_all(SHUFFLED, "level+slope", options), Gauge.MEAN, options)
    total = sum(planes(solution).values(), start=Plane())
    assert (total.level, total.slope_x, total.slope_y) == pytest.approx((0, 0, 0), abs=1e-10)
    assert solution.components[0].reference is None


def test_anchors_are_held_and_a_component_without_one_says_so() -> None:
    members, fits = linked("abcxy", {"ab": 1, "bc": 2, "ac": 3, "xy": 4})
    members = [m.model_copy(update={"anchors": ("recombine_lyot",)}) if m.name == "b" else m for m in members]
    solution = match("recombine_lyot", "t", members, fits, Gauge.ANCHOR, settings_for("recombine_lyot"))
    levels = {name: plane.level for name, plane in planes(solution).items()}
    assert levels == pytest.approx({"a": -1, "b": 0, "c": 2, "x": -2, "y": 2})
    assert levels["b"] == 0
    assert [component.reference for component in solution.components] == ["b", None]
    assert any("no member that keeps correction 0" in note and "x, y" in note for note in solution.status.notes)


@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
@pytest.mark.parametrize("solver", ["least_squares", "iterative"])
def test_the_reference_is_exactly_zero(fit_type: str, solver: str) -> None:
    options = settings_for("mosaic_tiles", fit_type, solver=solver, **NO_REJECTION)
    members, fits = fit_all(SHUFFLED, fit_type, options)
    members[7] = members[7].model_copy(update={"background_time": -12.0})
    solution = match("mosaic_tiles", "f", members, fits, Gauge.REFERENCE, options)
    assert solution.components[0].reference == "m0007"
    assert "DT_BGR" in solution.components[0].reference_reason
    result = solution.members[7]
    assert (result.plane.level, result.plane.is_level, result.sigma) == (0.0, True, (0.0, 0.0, 0.0))
    kept = match("mosaic_tiles", "f", members, fits, Gauge.REFERENCE, options, preferred=["m0002"])
    assert kept.components[0].reference == "m0002"


def test_planes_are_about_the_cutouts_centre_and_true() -> None:
    rng = np.random.default_rng(4)
    truth = rng.normal(size=(16, 3)) * [5, 0.02, 0.02]
    cutouts = scene(grid_positions(4, 4, 48, 0.2), (60, 48), truth, 0.0, rng)
    options = settings_for("mosaic_tiles", "level+slope", reference="m0005", **NO_REJECTION)
    solution = match("mosaic_tiles", "f", *fit_all(cutouts, "level+slope", options), Gauge.REFERENCE, options)
    zero = plane_at(cutouts[5].record, truth[5])
    for cutout, row, result in zip(cutouts, truth, solution.members, strict=True):
        expected = plane_at(cutout.record, row) + -zero
        assert (result.plane.x0, result.plane.y0) == cutout.record.centre
        assert (result.plane.level, result.plane.slope_x, result.plane.slope_y) == pytest.approx(
            (expected.level, expected.slope_x, expected.slope_y), abs=1e-9
        )
    assert solution.status.condition is not None


def test_residuals_are_those_of_the_corrected_data() -> None:
    rng = np.random.default_rng(5)
    cutouts = scene(grid_positions(2, 2, 40, 0.4), (40, 40), rng.normal(size=(4, 3)) * [5, 0.05, 0.05], 1.0, rng)
    options = settings_for("dithers", "level+slope", sigma=100.0, **NO_REJECTION)
    members, fits = fit_all(cutouts, "level+slope", options)
    solution = match("dithers", "t", members, fits, Gauge.MEAN, options)
    corrected = []
    for cutout, result in zip(cutouts, solution.members, strict=True):
        y, x = np.mgrid[:40, :40]
        data = cutout.data - result.plane(x + cutout.record.x0, y + cutout.record.y0)
        corrected.append(make_cutout(cutout.record.name, data, *_origin(cutout)))
    _, again = fit_all(corrected, "level+slope", options)
    for pair, fit in zip(solution.pairs, again, strict=True):
        assert pair.residual == pytest.approx(fit.plane.level, abs=1e-10)
        vector = np.array([fit.plane.level, fit.plane.slope_x, fit.plane.slope_y])
        rms = np.sqrt(vector @ np.reshape(fit.moments, (3, 3)) @ vector / fit.n_used)
        assert pair.residual_rms == pytest.approx(rms, abs=1e-10)


def test_the_stated_weights_are_those_of_the_method() -> None:
    members, fits = linked("abc", {"ab": 1, "bc": 2, "ac": 3}, shared=0.0)
    fits[1] = fits[1].model_copy(update={"rms": 2.0, "stderr": 0.2, "n_used": 50})
    expected = {"equal": 1.0, "npix": 50.0, "rms": 0.25, "error": 25.0}
    for method, value in expected.items():
        options = settings_for(weight_method=method, **NO_REJECTION)
        solution = match("dithers", "t", members, fits, Gauge.MEAN, options)
        assert next(pair for pair in solution.pairs if pair.fit.first == "b").weight == pytest.approx(value)


def test_a_solve_that_did_not_converge_is_told() -> None:
    members, fits = linked("abcdefgh", {a + b: 1.0 for a, b in zip("abcdefg", "bcdefgh", strict=True)})
    options = settings_for(solver="iterative", n_iter=25)
    solution = match("dithers", "t", members, fits, Gauge.MEAN, options)
    assert not solution.status.converged
    assert solution.status.iterations == 25
    assert any("not converged" in note for note in solution.status.notes)
    restless = match("dithers", "t", *linked("ab", {"ab": 1}, converged=False), Gauge.MEAN, settings_for())
    assert any("did not settle" in note and "a - b" in note for note in restless.status.notes)


def test_one_image_twice_is_told() -> None:
    members, fits = linked("abc", {"ab": 0, "bc": 2, "ac": 2})
    fits[0] = fits[0].model_copy(update={"rms": 0.0, "stderr": 0.0})
    (note,) = match("dithers", "t", members, fits, Gauge.MEAN, settings_for(**NO_REJECTION)).status.notes
    assert "differ by no noise at all: a - b; if they are one image twice, leave one out" in note


def test_histories_of_components_are_kept_apart() -> None:
    members, fits = linked("abcd", {"ab": 1, "cd": 2})
    options = MatchSettings(solver="iterative")
    names = [story.coefficient for story in match("dithers", "t", members, fits, Gauge.MEAN, options).status.history]
    assert names == ["level 0", "level 1"]


@pytest.mark.parametrize("wrong", ["member twice", "pair twice", "stranger", "turned"])
def test_malformed_input_is_refused(wrong: str) -> None:
    members, fits = linked("abc", {"ab": 1, "bc": 1})
    if wrong == "member twice":
        members.append(members[0])
    elif wrong == "pair twice":
        fits.append(fits[0])
    elif wrong == "stranger":
        members.pop()
    else:
        fits[0] = fits[0].model_copy(update={"first": "b", "second": "a"})
    with pytest.raises(SolveError, match="match of t"):
        match("dithers", "t", members, fits, Gauge.MEAN, settings_for())


@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
def test_members_that_are_all_locked_stay_as_they_are(fit_type: str) -> None:
    members, fits = survey("grid", 4).records()
    members = [member.model_copy(update={"locked": True}) for member in members]
    solution = match("dithers", "t", members, fits, Gauge.REFERENCE, settings_for("dithers", fit_type))
    assert all(member.plane.level == 0 and member.sigma == (0, 0, 0) for member in solution.members)
    assert (solution.status.converged, solution.status.nullity) == (True, 0)


def test_pairs_cut_from_one_scan_do_not_decide_for_all_others() -> None:
    """Their differences are exact, but no better than the others, which are off by four times their noise."""
    rng = np.random.default_rng(5)
    left: dict[str, list[float]] = {"error": [], "equal": []}
    for _ in range(6):
        truth = np.zeros((12, 3))
        truth[:, 0] = rng.standard_normal(12)
        cutouts = scene(grid_positions(4, 3, 40, 0.3), (40, 40), truth, 1.0, rng)
        options = settings_for("dithers", "level", **NO_REJECTION)
        members, fits = fit_all(cutouts, "level", options)
        measured = []
        for number, fit in enumerate(fits):
            level = fit.plane.model_copy(update={"level": fit.plane.level + 0.3 * rng.standard_normal()})
            changed = {"rms": 1e-3, "stderr": 1e-3 * fit.stderr} if number % 5 == 0 else {}
            measured.append(fit.model_copy(update={"plane": level, **changed}))
        for weights, errors in left.items():
            chosen = options.model_copy(update={"weight_method": weights})
            found = match("dithers", "t", members, measured, Gauge.MEAN, chosen).members
            errors.append(float(np.std([m.plane.level for m in found] - truth[:, 0])))
    assert np.mean(left["error"]) < 1.3 * np.mean(left["equal"])
