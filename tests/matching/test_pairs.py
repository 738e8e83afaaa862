import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from levelmatch_core.matching.graph import components
from levelmatch_core.matching.match import match
from levelmatch_core.matching.pair_matrices import PairMatrices
from levelmatch_core.matching.pairs import candidate_pairs
from levelmatch_core.matching.rejection import reject, spared
from levelmatch_core.matching.results import Gauge, Rejection
from levelmatch_core.sky.plane import Plane
from tests.matching.fakes import fit_all, grid_positions, made_up_fit, make_cutout, member, scene, settings_for

BOX = (0.0, 0.0, 10.0, 10.0)


def some_fits(rms: list[float], npix: list[int] | None = None) -> list:
    cutouts = [make_cutout(f"m{i:02d}", np.zeros((20, 20))) for i in range(len(rms) + 1)]
    members = [member(cutout) for cutout in cutouts]
    return [
        made_up_fit(members[i], members[i + 1], Plane(level=1.0), BOX, rms=value, npix=npix[i] if npix else 100)
        for i, value in enumerate(rms)
    ]


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(-60, 60), st.integers(-60, 60)), min_size=0, max_size=25))
def test_candidates_are_the_boxes_that_meet(positions: list[tuple[int, int]]) -> None:
    cutouts = [make_cutout(f"m{i:02d}", np.zeros((20, 30)), *position) for i, position in enumerate(positions)]
    expected = [
        (f"m{i:02d}", f"m{j:02d}")
        for i, (x, y) in enumerate(positions)
        for j, (u, v) in enumerate(positions)
        if i < j and abs(x - u) <= 30 and abs(y - v) <= 20
    ]
    assert candidate_pairs([member(cutout) for cutout in reversed(cutouts)]) == expected


def test_turned_outlines_are_used_and_not_boxes() -> None:
    diamond = ((0.0, 10.0), (10.0, 0.0), (0.0, -10.0), (-10.0, 0.0))
    records = [
        make_cutout(name, np.zeros((20, 20))).record.model_copy(
            update={"outline": tuple((x + shift, y + shift) for x, y in diamond)}
        )
        for name, shift in (("a", 0.0), ("b", 9.0), ("c", 11.0))
    ]
    assert candidate_pairs([member(record) for record in records]) == [("a", "b"), ("b", "c")]


def test_a_member_without_outline_is_known_by_its_box() -> None:
    a = make_cutout("a", np.zeros((5, 5))).record.model_copy(update={"outline": ()})
    b = make_cutout("b", np.zeros((5, 5)), 3, 3).record
    assert candidate_pairs([member(a), member(b)]) == [("a", "b")]


def test_candidates_of_a_large_mosaic_are_close_to_linear(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: the index is asked once, and no pair is tested in Python."""
    cutout = make_cutout("x", np.zeros((10, 10))).record
    members = [
        member(
            cutout.model_copy(
                update={
                    "name": f"m{i:04d}",
                    "outline": tuple(
                        shapely.box(8 * (i % 60), 8 * (i // 60), 8 * (i % 60) + 10, 8 * (i // 60) + 10).exterior.coords
                    ),
                }
            )
        )
        for i in range(3600)
    ]
    calls = []
    plain = shapely.STRtree.query
    monkeypatch.setattr(shapely.STRtree, "query", lambda *a, **k: calls.append(1) or plain(*a, **k))
    assert len(candidate_pairs(members)) == 2 * 60 * 59 + 2 * 59 * 59
    assert len(calls) == 1


def test_too_few_pixels_and_too_short() -> None:
    fits = some_fits([1.0] * 4, npix=[1000, 1000, 1, 1000])
    fits[3] = fits[3].model_copy(update={"linear": (0.19, 0.1)})
    fits[1] = fits[1].model_copy(update={"linear": (0.01, 0.2)})  # one axis is enough
    assert reject(fits, settings_for()) == {
        ("m02", "m03"): Rejection.TOO_FEW_PIXELS,
        ("m03", "m04"): Rejection.TOO_SHORT,
    }
    assert reject([], settings_for()) == {}


def test_too_noisy_is_judged_among_the_survivors() -> None:
    noisy = some_fits([1.0, 1.1, 0.9, 1.0, 1.1, 0.9, 1.0, 3.0])
    assert reject(noisy, settings_for()) == {("m07", "m08"): Rejection.TOO_NOISY}
    # a sliver with a huge rms would widen the limit, were it not gone before
    sliver = some_fits([1.0, 1.1, 0.9, 1.0, 1.1, 0.9, 1.0, 3.0, 100.0], npix=[100] * 8 + [0])
    sliver[8] = sliver[8].model_copy(update={"npix": 0})
    assert set(reject(sliver, settings_for())) == {("m07", "m08"), ("m08", "m09")}


def test_noise_of_two_pairs_or_of_equal_ones_rejects_nothing() -> None:
    limit = settings_for(rms_sig_limit=0.0)
    assert reject(some_fits([1.0, 50.0]), limit) == {}
    assert reject(some_fits([0.3] * 7), limit) == {}
    assert reject(some_fits([0.0, 1e-16, 2e-16, 1e-15]), limit) == {}  # noise-free: rounding is no noise
    assert reject(some_fits([1.0, 1.0, 2.0]), limit) != {}


def test_what_chance_makes_of_pairs_that_are_alike_is_no_noise() -> None:
    """A hundred pairs of 600 pixels scatter by 3 % in rms; one that is truly noisier is told."""
    rng = np.random.default_rng(4)
    alike = (1 + 0.03 * rng.standard_normal(100)).tolist()
    assert max(alike) > np.mean(alike) + 2 * np.std(alike)
    assert reject(some_fits(alike, npix=[600] * 100), settings_for()) == {}
    worse = some_fits([*alike, 1.2], npix=[600] * 101)
    assert reject(worse, settings_for()) == {("m100", "m101"): Rejection.TOO_NOISY}
    correlated = [fit.model_copy(update={"correlation": 4.0}) for fit in worse]
    assert reject(correlated, settings_for()) == {}


def test_matrices_are_antisymmetric_and_name_the_used_pairs() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(4, 3)) * [5, 0.01, 0.01]
    options = settings_for("mosaic_tiles", "level+slope")
    members, fits = fit_all(scene(grid_positions(2, 2, 40, 0.3), (40, 40), truth, 0.1, rng), "level+slope", options)
    fits[0] = fits[0].model_copy(update={"linear": (0.0, 0.0)})
    solution = match("mosaic_tiles", "f", members, fits, Gauge.MEAN, options)
    dense = PairMatrices.of(solution)
    assert dense is not None
    assert dense.delta.shape == (4, 4, 3)
    np.testing.assert_array_equal(dense.delta, -dense.delta.transpose(1, 0, 2))
    i, j = dense.names.index(fits[1].first), dense.names.index(fits[1].second)
    assert dense.delta[j, i, 0] == fits[1].plane.level
    assert dense.delta[j, i, 0] == pytest.approx(truth[j, 0] - truth[i, 0], abs=1.0)
    for square in (dense.npix, dense.rms, dense.valid):
        np.testing.assert_array_equal(square, square.T)
    assert dense.valid.sum() == 2 * sum(pair.rejected is None for pair in solution.pairs) == 10
    assert dense.linear.shape == (4, 4, 2)
    with pytest.raises(ValueError, match="read-only"):
        dense.delta[0, 0, 0] = 1
    flat = PairMatrices.columns_of(solution)
    np.testing.assert_array_equal(flat.delta, dense.delta[flat.second, flat.first])


def test_no_dense_matrices_above_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("levelmatch_core.matching.pair_matrices.DENSE_MEMBERS", 1)
    solution = match(
        "mosaic_tiles", "f", [member(make_cutout(n, np.ones((2, 2)))) for n in "ab"], [], Gauge.MEAN, settings_for()
    )
    assert PairMatrices.of(solution).first is not None
    assert PairMatrices.columns_of(solution).delta.shape == (0, 1)


@st.composite
def measured_graphs(draw: st.DrawFn) -> tuple[int, dict[tuple[int, int], tuple[Rejection | None, float]]]:
    """A number of members, and of some pairs the rule that they fail and their rms."""
    n = draw(st.integers(2, 9))
    ends = st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)).filter(lambda pair: pair[0] < pair[1])
    return n, draw(st.dictionaries(ends, st.tuples(st.sampled_from([None, *Rejection]), st.floats(0.1, 9.0))))


@settings(max_examples=60)
@given(measured_graphs())
def test_the_spared_pairs_complete_a_forest_by_the_best(
    case: tuple[int, dict[tuple[int, int], tuple[Rejection | None, float]]],
) -> None:
    """Against plain search: what extent and noise reject is used where no better pair joins its members, only there."""
    n, edges = case
    members = [member(make_cutout(f"m{i:02d}", np.zeros((20, 20)))) for i in range(n)]
    fits = [made_up_fit(members[a], members[b], Plane(), BOX, rms=rms) for (a, b), (_, rms) in sorted(edges.items())]
    names = {(members[a].name, members[b].name): why for (a, b), (why, _) in edges.items()}
    rejected = {key: why for key, why in names.items() if why is not None}
    kept = spared(fits, rejected)
    rules = {Rejection.TOO_SHORT, Rejection.TOO_NOISY}
    assert all(rejected[key] is why and why in rules for key, why in kept.items())
    accepted = [key for key in names if key not in rejected]
    usable = [key for key in names if rejected.get(key) is None or rejected[key] in rules]
    every = [one.name for one in members]
    assert components(every, [*accepted, *kept]) == components(every, usable)
    stderr = {(fit.first, fit.second): fit.stderr for fit in fits}
    for key in kept:  # without it two parts fall apart, which no better pair joins
        better = [one for one in usable if one in accepted or (stderr[one], one) < (stderr[key], key)]
        parts = components(every, better)
        assert not any(set(key) <= set(part) for part in parts)
