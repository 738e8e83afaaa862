"""Level or plane, chosen by what foretells left-out pairs: a suite of programs with and without planes.

What counts is the error against the truth, a free plane removed: choosing must cost at most a fifth of it, whatever the
program is. Planes matter where levels cost more than that; there, levels are not to be chosen. `slope` is the true
slopes' standard deviation, from a tile's middle to its edge, in units of the pixels' noise; one pair of these tiles
measures its slope along the overlap to 0.1, so that 0.5 is five sigma of a pair. At three sigma levels were chosen in 1
of 1,500 programs where planes would have been better by more than a fifth: one of four tiles that had lost a pair.
"""

from dataclasses import dataclass

import numpy as np
import pytest

from levelmatch_core.matching.match import match
from levelmatch_core.matching.model_selection import choose
from levelmatch_core.matching.results import Choice, Gauge, PairFit, Solution
from levelmatch_core.matching.uncertainty.leave_one_out import leave_one_out
from levelmatch_core.sky.plane import Plane
from tests.matching.fakes import (
    NO_REJECTION,
    fit_all,
    grid_positions,
    made_up_fit,
    make_cutout,
    member,
    settings_for,
)

SIZE = 48
LAYOUTS = {
    "2x2": grid_positions(2, 2, SIZE, 0.25),
    "3x3": grid_positions(3, 3, SIZE, 0.25),
    "6x6": grid_positions(6, 6, SIZE, 0.15),
    "10x10": grid_positions(10, 10, SIZE, 0.15),
    "strip": grid_positions(8, 1, SIZE, 0.25),
    "two rows": grid_positions(12, 2, SIZE, 0.2),
    "3 dithers": [(0, 0), (5, 3), (2, 7)],
    "4 dithers": [(0, 0), (5, 3), (2, 7), (8, 9)],
    "8 dithers": [(0, 0), (5, 3), (2, 7), (8, 1), (4, 4), (1, 9), (7, 6), (9, 9)],
    "wide dithers": [(0, 0), (24, 3), (2, 24), (22, 21)],
}
COST = 1.2
"""Most that choosing may cost: error over that of the better fit type."""
DETECTED = 0.5
"""Slopes from which levels are never chosen where planes matter."""


@dataclass(frozen=True)
class Scene:
    """What else is in a program."""

    unequal: bool = False
    """Noise of 0.3 to 3 an exposure."""
    bright: bool = False
    """A nebula of 300 times the noise."""
    bad: bool = False
    """One pair off by 30 of its own sigmas."""
    robust: bool = False


PLAIN = Scene()
SCENES = {
    "plain": PLAIN,
    "unequal": Scene(unequal=True),
    "bright": Scene(bright=True),
    "bad pair": Scene(bad=True),
    "bad pair, robust": Scene(bad=True, robust=True),
}


@dataclass(frozen=True)
class Trial:
    """One program, solved both ways."""

    choice: Choice
    level: float
    plane: float
    """Errors against the truth."""

    @property
    def chosen(self) -> float:
        """Error of the fit type that was chosen."""
        return self.level if self.choice.chosen == "level" else self.plane


def trial(layout: str, slope: float, seed: int, scene: Scene = PLAIN, weights: str = "error") -> Trial:
    """Solve a program with levels and with planes, and choose."""
    rng = np.random.default_rng(seed)
    positions = LAYOUTS[layout]
    truth = rng.standard_normal((len(positions), 3)) * [10.0, slope * 2 / SIZE, slope * 2 / SIZE]
    noise = rng.uniform(0.3, 3, len(positions)) if scene.unequal else np.ones(len(positions))
    u = np.arange(SIZE) - (SIZE - 1) / 2
    cutouts = []
    for number, ((x0, y0), (level, along, up)) in enumerate(zip(positions, truth, strict=True)):
        x, y = u + x0, (u + y0)[:, None]
        sky = 3 * np.sin(x / 17) + 2 * np.cos(y / 23)
        if scene.bright:
            sky = 100 * sky + 300 * np.exp(-((x - 20) ** 2 + (y - 10) ** 2) / 500)
        data = sky + level + along * u + up * u[:, None] + noise[number] * rng.standard_normal((SIZE, SIZE))
        cutouts.append(make_cutout(f"m{number:04d}", data, x0, y0))
    dithers = "dithers" in layout
    stage, gauge = ("dithers", Gauge.MEAN) if dithers else ("mosaic_tiles", Gauge.REFERENCE)
    solutions: list[list[Solution]] = []
    for fit_type in ("level", "level+slope"):
        options = settings_for(
            stage,
            fit_type,
            statistic="clipped_mean",  # the median's own inefficiency would speak for planes, which have none
            weight_method=weights,
            robust=scene.robust,
            slope_prior="probable",  # as where the fit type is chosen
            **NO_REJECTION,
        )
        members, fits = fit_all(cutouts, fit_type, options)
        if scene.bad:
            bad = seed % len(fits)
            off = fits[bad].plane + Plane(level=30 * fits[bad].stderr)
            fits[bad] = fits[bad].model_copy(update={"plane": off})
        solutions.append([match(stage, "all", members, fits, gauge, options)])
    level, plane = (error_of(solution, truth, positions) for (solution,) in solutions)
    return Trial(choose(*solutions), level, plane)


def error_of(found: Solution, truth: np.ndarray, positions: list[tuple[int, int]]) -> float:
    """Return the rms over all pixels of correction minus truth, a free plane over all of them taken out."""
    step = (np.arange(8) + 0.5) / 8 * SIZE - SIZE / 2
    u, v = (grid.ravel() for grid in np.meshgrid(step, step))
    left = np.concatenate([
        one.plane.level - a + (one.plane.slope_x - b) * u + (one.plane.slope_y - c) * v
        for one, (a, b, c) in zip(found.members, truth, strict=True)
    ])  # fmt: skip
    places = np.concatenate([np.column_stack([np.ones_like(u), u + x, v + y]) for x, y in positions])
    return float(np.std(left - places @ np.linalg.lstsq(places, left)[0]))


def rms(values: list[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def hold(trials: list[Trial], slope: float, scene: Scene = PLAIN) -> None:
    """Choosing costs at most a fifth; where planes matter and can be seen, levels are not chosen at all.

    But for programs with a bad pair that nobody looks for: it decides their errors.
    """
    level, plane = rms([one.level for one in trials]), rms([one.plane for one in trials])
    assert rms([one.chosen for one in trials]) <= COST * min(level, plane)
    if slope >= DETECTED and level > COST * plane and (scene.robust or not scene.bad):
        for one in trials:
            assert one.choice.chosen == "level+slope" or one.level <= COST * one.plane, one.choice.reason


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "seeds"), [("2x2", 6), ("3x3", 4), ("strip", 4), ("4 dithers", 6)])
@pytest.mark.parametrize("weights", ["error", "equal"])
def test_where_planes_matter_levels_are_never_chosen(layout: str, seeds: int, weights: str) -> None:
    for slope in (0.3, 1.0, 5.0):
        found = [trial(layout, slope, seed, weights=weights) for seed in range(seeds)]
        hold(found, slope)
        assert all(one.choice.chosen == "level+slope" for one in found)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["2x2", "3x3", "4 dithers", "8 dithers"])
def test_where_there_are_no_planes_the_choice_costs_at_most_a_fifth(layout: str) -> None:
    hold([trial(layout, 0.0, seed + 100) for seed in range(30)], 0.0)


@pytest.mark.full
@pytest.mark.parametrize("scene", list(SCENES))
@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_the_whole_suite(layout: str, scene: str) -> None:
    """10 layouts of 3 to 100 tiles, 5 scenes, 5 slopes, 2 weights.

    Without slopes there are many programs: in few of them noise looks like slopes, and they make most of the cost.
    """
    if layout == "10x10" and scene != "plain":
        pytest.skip("large mosaics are looked at without more")
    without = 250 if len(LAYOUTS[layout]) <= 4 else 100
    large = {"6x6": 6, "10x10": 3, "two rows": 10}
    for weights in ("error", "equal"):
        for slope in (0.0, 0.1, 0.3, DETECTED, 5.0):
            seeds = range(large.get(layout, 16 if slope else without))
            hold([trial(layout, slope, seed, SCENES[scene], weights) for seed in seeds], slope, SCENES[scene])


# -- what it rests on -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
def test_echo_and_pull_are_what_a_fresh_measurement_would_differ_by(fit_type: str) -> None:
    """Four exposures on top of each other, measured twice: what was foretold and found is right about its own noise."""
    rng = np.random.default_rng(3)
    options = settings_for("dithers", fit_type, statistic="clipped_mean", slope_prior="off", **NO_REJECTION)
    same, fresh, echoes = [], [], []
    found, found_fresh, pulls = [], [], []
    for _ in range(90):
        twice = []
        for _ in range(2):
            cutouts = [
                make_cutout(f"m{n}", rng.standard_normal((24, 24)), *at) for n, at in enumerate(LAYOUTS["4 dithers"])
            ]
            members, fits = fit_all(cutouts, fit_type, options)
            twice.append(match("dithers", "t", members, fits, Gauge.MEAN, options))
        planes = {one.name: one.plane for one in twice[0].members}
        for mine, again in zip(*(solution.pairs for solution in twice), strict=True):
            x0, y0 = mine.fit.plane.x0, mine.fit.plane.y0
            solved = planes[mine.fit.second].about(x0, y0) + -planes[mine.fit.first].about(x0, y0)
            found.append(square_of(mine.fit, mine.fit.plane + -solved, fit_type))
            found_fresh.append(square_of(mine.fit, again.fit.plane + -solved, fit_type))
            pulls.append(mine.fit_optimism)
            same.append(square_of(mine.fit, mine.fit.plane + -mine.predicted, fit_type))
            fresh.append(square_of(mine.fit, again.fit.plane + -mine.predicted, fit_type))
            echoes.append(mine.left_out_optimism)
    assert np.mean(fresh) - np.mean(same) == pytest.approx(np.mean(echoes), rel=0.1)
    assert np.mean(echoes) > (0.9 if fit_type == "level" else 2.5)  # of 1 and 3 coefficients, twice, nearly all
    assert np.mean(found_fresh) - np.mean(found) == pytest.approx(np.mean(pulls), rel=0.1)
    assert np.mean(pulls) > np.mean(echoes)


def square_of(fit: PairFit, left: Plane, fit_type: str) -> float:
    """Return the square of what is left over the level's variance."""
    coefficients = np.array([left.level, left.slope_x, left.slope_y])[: 1 if fit_type == "level" else 3]
    moments = np.reshape(fit.moments, (3, 3))[: len(coefficients), : len(coefficients)] / fit.n_used
    return float(coefficients @ moments @ coefficients / fit.stderr**2)


def solved(fits: list[PairFit], fit_type: str, **settings: object) -> Solution:
    names = sorted({name for fit in fits for name in (fit.first, fit.second)})
    members = [member(make_cutout(name, np.zeros((40, 40)))) for name in names]
    options = settings_for("dithers", fit_type, weight_method="error", **{**NO_REJECTION, **settings})
    return match("dithers", "all", members, fits, Gauge.MEAN, options)


def pair(first: str, second: str, *, level: float = 0.0, slope: float = 0.0) -> PairFit:
    ends = [member(make_cutout(name, np.zeros((40, 40)))) for name in (first, second)]
    return made_up_fit(*ends, Plane(level=level, slope_x=slope, x0=20, y0=20), (0, 0, 40, 40))


@pytest.mark.parametrize(("slope", "chosen"), [(0.0, "level"), (0.005, "level+slope")])
def test_a_pair_that_nothing_tests_is_judged_by_its_slope(slope: float, chosen: str) -> None:
    """Its 1 sigma is 0.002 a pixel."""
    fits = [pair("a", "b", level=3, slope=slope)]
    choice = choose([solved(fits, "level")], [solved(fits, "level+slope")])
    assert (choice.chosen, choice.tested, choice.bridges) == (chosen, 0, 1)
    assert "judged by their slopes: 1" in choice.reason


def test_a_bridge_has_nothing_to_spare_and_pulls_all() -> None:
    alone = solved([pair("a", "b", level=3)], "level+slope", slope_prior="off").pairs[0]
    assert (alone.redundancy, alone.predicted) == (0.0, None)
    assert alone.fit_optimism == pytest.approx(
        6, rel=0.03
    )  # twice its three coefficients; clipping makes some noise its own
    many = solved([pair(a, b, level=1) for a in "abcdefgh" for b in "abcdefgh" if a < b], "level").pairs
    assert all(
        one.redundancy == pytest.approx(1 - 2 / 8) for one in many
    )  # of N members each pair is held to 2/N by itself


def test_what_levels_leave_out_as_outliers_speaks_against_them() -> None:
    """Pairs whose levels do not close, since there are slopes, are no reason to trust the ones that are left."""
    rng = np.random.default_rng(1)
    names = [f"m{number}" for number in range(6)]
    levels, slopes = rng.normal(0, 5, 6), rng.normal(0, 1, 6)
    fits = []
    for i in range(6):
        for j in range(i + 1, 6):
            ends = [member(make_cutout(names[n], np.zeros((40, 40)), 10 * n)) for n in (i, j)]
            middle = (ends[0].cutout.centre[0] + ends[1].cutout.centre[0]) / 2
            at = [levels[n] + slopes[n] * (middle - ends[e].cutout.centre[0]) for e, n in enumerate((i, j))]
            plane = Plane(level=at[1] - at[0], slope_x=slopes[j] - slopes[i], x0=middle, y0=20)
            fits.append(made_up_fit(*ends, plane, (middle - 10, 0, middle + 10, 40)))
    members = [member(make_cutout(name, np.zeros((40, 40)), 10 * n)) for n, name in enumerate(names)]
    found = [
        [match("dithers", "all", members, fits, Gauge.MEAN, settings_for("dithers", kind, robust=True, **NO_REJECTION))]
        for kind in ("level", "level+slope")
    ]
    # so many contradict each other that none is left out, which is said; and they speak against levels all the same
    assert any("cannot be trusted" in note for note in found[0][0].status.notes)
    choice = choose(*found)
    assert choice.chosen == "level+slope"
    assert choice.tested == 15
    assert choice.level_seam > 100 * choice.plane_seam


def test_nothing_measured_leaves_levels() -> None:
    choice = choose([], [])
    assert (choice.chosen, choice.tested, choice.bridges) == ("level", 0, 0)
    assert "no pair is measured" in choice.reason


def test_independent_pairs_have_no_echo(monkeypatch: pytest.MonkeyPatch) -> None:
    """A strip's pairs share no pixel; and where matrices would be too large, none is told."""
    rng = np.random.default_rng(5)
    ring = [pair(f"m{n}", f"m{n + 1}", level=rng.normal()) for n in range(5)] + [pair("m0", "m5", level=rng.normal())]
    alone = [fit.model_copy(update={"shared": 0.0}) for fit in ring]
    assert max(one.left_out_optimism for one in solved(alone, "level").pairs) < 0.1
    assert max(one.left_out_optimism for one in solved(ring, "level").pairs) > 0.5
    monkeypatch.setattr(leave_one_out.__module__ + ".EXACT", 0)
    assert {one.left_out_optimism for one in solved(ring, "level").pairs} == {0.0}
