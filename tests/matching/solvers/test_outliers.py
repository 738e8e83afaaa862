"""Bad pairs: found among the others, left out, named; and what cannot be told is said."""

import numpy as np
import pytest

from levelmatch_core.matching.match import match
from levelmatch_core.matching.model.problem import build
from levelmatch_core.matching.pairs import candidate_pairs
from levelmatch_core.matching.results import Gauge, Member, PairFit, Rejection
from levelmatch_core.matching.solvers import least_squares
from levelmatch_core.matching.solvers.outliers import find_outliers, may_be_left_out
from levelmatch_core.sky.plane import Plane
from tests.benchmarks.accuracy import Mosaic
from tests.matching.fakes import NO_REJECTION, fit_all, grid_positions, made_up_fit, make_cutout, member, settings_for

SIDE = 8
BLANK = np.zeros((40, 40))
MEMBERS = [member(make_cutout(f"m{n:04d}", BLANK, *at)) for n, at in enumerate(grid_positions(SIDE, SIDE, 40, 0.25))]
PAIRS = candidate_pairs(MEMBERS)


def contaminated(seed: int, part: float, fit_type: str = "level") -> tuple[list[PairFit], set[tuple[str, str]]]:
    """Return pairs of zero difference with noise of 1 pair-sigma, some of them off by 5 to 50."""
    rng = np.random.default_rng(seed)
    by_name = {one.name: one for one in MEMBERS}
    bad = {PAIRS[i] for i in rng.choice(len(PAIRS), round(part * len(PAIRS)), replace=False)}
    fits = []
    for key in PAIRS:
        first, second = by_name[key[0]], by_name[key[1]]
        places = np.array([(one.cutout.x0, one.cutout.y0) for one in (first, second)])
        (x0, y0), (x1, y1) = places.max(axis=0).tolist(), (places.min(axis=0) + 40).tolist()
        fit = made_up_fit(first, second, Plane(), (x0, y0, x1, y1))
        moments = np.reshape(fit.moments, (3, 3)) / fit.n_used
        noise = fit.stderr * np.linalg.cholesky(np.linalg.inv(moments)) @ rng.standard_normal(3)
        if fit_type == "level":
            noise[1:] = 0
        if key in bad:
            noise[0] += fit.stderr * rng.choice([-1, 1]) * rng.uniform(5, 50)
        plane = Plane(level=noise[0], slope_x=noise[1], slope_y=noise[2], x0=fit.plane.x0, y0=fit.plane.y0)
        fits.append(fit.model_copy(update={"plane": plane}))
    return fits, bad


def ratio(part: float, seeds: int) -> tuple[float, float, float]:
    """Return the median error over the oracle's, over that of plain least squares, and how often it was distrusted."""
    options = settings_for("dithers", weight_method="error", **NO_REJECTION)

    def error(fits: list[PairFit]) -> float:
        return float(np.std(least_squares.solve(build(MEMBERS, fits, "level", (), options)).corrections))

    errors = []
    for seed in range(seeds):
        fits, bad = contaminated(seed, part)
        found = find_outliers(build(MEMBERS, fits, "level", (), options))
        kept = [fit for fit, out in zip(fits, found.outliers, strict=True) if not out]
        known = [fit for fit in fits if (fit.first, fit.second) not in bad]
        errors.append((error(kept), error(known), error(fits), not found.trusted))
    median = np.median(errors, axis=0)
    return float(median[0] / median[1]), float(median[0] / median[2]), float(np.mean(errors, axis=0)[3])


@pytest.mark.parametrize(
    ("part", "seeds", "most"),
    [
        (0.05, 5, 1.15),
        (0.15, 5, 1.3),
        pytest.param(0.05, 100, 1.15, marks=pytest.mark.full),
        pytest.param(0.15, 100, 1.3, marks=pytest.mark.full),
    ],
)
def test_bad_pairs_cost_little_more_than_if_they_were_known(part: float, seeds: int, most: float) -> None:
    over_oracle, over_plain, doubted = ratio(part, seeds)
    assert over_oracle < most
    assert over_plain < 0.5
    assert doubted < 0.1


@pytest.mark.parametrize("seeds", [4, pytest.param(100, marks=pytest.mark.full)])
def test_too_many_bad_pairs_are_told(seeds: int) -> None:
    assert ratio(0.30, seeds)[2] > 0.9


def test_without_bad_pairs_it_changes_next_to_nothing() -> None:
    assert ratio(0.0, 3)[0] < 1.02


@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
def test_outliers_keep_their_numbers_and_their_reason(fit_type: str) -> None:
    fits, bad = contaminated(3, 0.05, fit_type)
    options = settings_for("dithers", fit_type, robust=True, weight_method="error", **NO_REJECTION)
    solution = match("dithers", "t", MEMBERS, fits, Gauge.MEAN, options)
    out = {(pair.fit.first, pair.fit.second) for pair in solution.pairs if pair.rejected is Rejection.OUTLIER}
    assert len(out & bad) >= 0.8 * len(bad)
    assert len(out - bad) <= 3
    assert {pair.weight for pair in solution.pairs if pair.rejected} == {0.0}
    assert [pair.fit for pair in solution.pairs] == sorted(fits, key=lambda fit: (fit.first, fit.second))
    assert all(pair.rejected is None or pair.rejected in Rejection for pair in solution.pairs)
    assert all(pair.residual for pair in solution.pairs if pair.rejected)
    assert any("contradict the others" in note for note in solution.status.notes)
    assert len(solution.components) == 1


def test_a_bridge_is_never_left_out_and_weak_members_are_named() -> None:
    members = [member(make_cutout(name, BLANK)) for name in "abcdef"]
    levels = {"ab": 0.0, "bc": 0.0, "ac": 0.0, "cd": 900.0, "de": 0.0, "ef": 0.0, "df": 0.0}
    by_name: dict[str, Member] = {one.name: one for one in members}
    fits = [made_up_fit(by_name[a], by_name[b], Plane(level=level), (0, 0, 9, 9)) for (a, b), level in levels.items()]
    options = settings_for(robust=True, **NO_REJECTION)
    solution = match("dithers", "t", members, fits, Gauge.MEAN, options)
    assert not [pair for pair in solution.pairs if pair.rejected]
    assert len(solution.components) == 1
    notes = " ".join(solution.status.notes)
    assert "c - d" in notes
    assert "4 members with two pairs or fewer" in notes
    assert solution.status.untestable == tuple("abcdef")  # and the two at the bridge


@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
def test_what_is_bad_does_not_hang_on_what_pairs_weigh(fit_type: str) -> None:
    """One over a corner that counts as much as two over whole sides would be believed, and they not."""
    mosaic = Mosaic(side=5, size=32, overlap=0.15)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        options = settings_for("mosaic_tiles", fit_type, **NO_REJECTION)
        members, fits = fit_all(mosaic.tiles(0.1 * rng.standard_normal((25, 3)), rng), fit_type, options)
        for number in rng.choice(len(fits), 6, replace=False).tolist():
            off = fits[number].plane + Plane(level=rng.uniform(3, 30) * fits[number].stderr)
            fits[number] = fits[number].model_copy(update={"plane": off})
        found = [
            find_outliers(build(members, fits, fit_type, (), options.model_copy(update={"weight_method": method})))  # type: ignore[arg-type]
            for method in ("equal", "npix", "rms", "error")
        ]
        assert all(np.array_equal(one.outliers, found[0].outliers) for one in found)
        assert found[0].outliers.any()


def with_planes(seed: int, side: int) -> tuple[list[Member], list[PairFit]]:
    """Return tiles with planes and their pairs, as they were measured."""
    rng = np.random.default_rng(seed)
    mosaic, options = Mosaic(side=side, size=48, overlap=0.25), settings_for("mosaic_tiles", **NO_REJECTION)
    truth = rng.standard_normal((side * side, 3)) * [10, 0.5, 0.5]
    return fit_all(mosaic.tiles(truth, rng), "level+slope", options)


def off_by(fit: PairFit, sigmas: float) -> PairFit:
    """Return a pair whose level is off by so many of its own sigmas."""
    return fit.model_copy(update={"plane": fit.plane + Plane(level=sigmas * fit.stderr)})


def left_out(members: list[Member], fits: list[PairFit]) -> list[int]:
    options = settings_for("mosaic_tiles", "level+slope", weight_method="error", robust=True, **NO_REJECTION)
    pairs = match("mosaic_tiles", "all", members, fits, Gauge.REFERENCE, options).pairs
    return [number for number, pair in enumerate(pairs) if pair.rejected is Rejection.OUTLIER]


def test_one_bad_pair_of_few_is_told_though_all_scatter_by_it() -> None:
    for seed in range(30):
        members, fits = with_planes(seed, 2)
        bad = seed % len(fits)
        fits[bad] = off_by(fits[bad], 30)
        assert left_out(members, fits) == [bad], seed


def test_where_all_pairs_scatter_hardly_one_is_left_out() -> None:
    out, pairs = 0, 0
    for seed in range(20):
        members, fits = with_planes(seed, 3)
        scatter = np.random.default_rng(seed).standard_normal(len(fits))
        out += len(left_out(members, [off_by(fit, 5 * one) for fit, one in zip(fits, scatter.tolist(), strict=True)]))
        pairs += len(fits)
    assert out < 0.08 * pairs


def test_no_more_than_a_tenth_and_never_the_last_loop_is_left_out() -> None:
    """Nine members, 13 pairs, two in five of them wrong: without the wrong ones a tree would be left, at peace."""
    members = [member(make_cutout(name, BLANK)) for name in "abcdefghi"]
    by_name = {one.name: one for one in members}
    names = ["ab", "bc", "cd", "de", "ef", "fg", "gh", "hi", "ai", "ac", "ce", "eg", "gi"]
    plain, robust = settings_for(**NO_REJECTION), settings_for(robust=True, **NO_REJECTION)
    distrusted = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        levels = np.where(rng.random(len(names)) < 0.4, rng.uniform(-90, 90, len(names)), 0.0)
        fits = [
            made_up_fit(by_name[a], by_name[b], Plane(level=level), (0, 0, 9, 9))
            for (a, b), level in zip(names, levels.tolist(), strict=True)
        ]
        found = match("dithers", "t", members, fits, Gauge.MEAN, robust)
        out = sum(pair.rejected is Rejection.OUTLIER for pair in found.pairs)
        assert out <= 1
        if not out:
            assert found.members == match("dithers", "t", members, fits, Gauge.MEAN, plain).members
        distrusted += any("cannot be trusted" in note for note in found.status.notes)
    assert distrusted >= 5


def test_what_may_be_left_out() -> None:
    assert [may_be_left_out(one, 30, 9) for one in (0, 1, 3, 4)] == [True, True, True, False]
    assert may_be_left_out(1, 6, 4)  # four exposures on top of each other
    assert not may_be_left_out(1, 4, 4)  # the one loop of a ring


def test_what_is_left_out_counts_as_scatter() -> None:
    """Of pairs that scatter by five of their sigmas the worst are left out: the others' errors must not forget them."""
    ratios, out = [], 0
    for seed in range(6):
        members, fits = with_planes(seed, 4)
        scatter = 5 * np.random.default_rng(seed).standard_normal(len(fits))
        fits = [off_by(fit, one) for fit, one in zip(fits, scatter.tolist(), strict=True)]
        found = {}
        for robust in (True, False):
            options = settings_for("mosaic_tiles", "level+slope", weight_method="error", robust=robust, **NO_REJECTION)
            solution = match("mosaic_tiles", "all", members, fits, Gauge.REFERENCE, options)
            found[robust] = solution.components[0].excess_scatter
            out += sum(pair.rejected is Rejection.OUTLIER for pair in solution.pairs)
        ratios.append(found[True] / found[False])
    assert out > 0
    assert min(ratios) > 0.8
