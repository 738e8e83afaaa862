"""The grade rests on measured quantities, each with its limit."""

from typing import Any

import numpy as np
import pytest

from levelmatch_core.matching.match import match
from levelmatch_core.matching.results import Gauge, Loop, Member, PairFit
from levelmatch_core.matching.uncertainty import leave_one_out
from levelmatch_core.products.explain import seam_lines
from levelmatch_core.products.grade import Grade, told, worst_of
from levelmatch_core.products.grading import FAIR_RESIDUAL, criteria_of, good_residual, good_worst
from levelmatch_core.products.runrecord import field_summary
from levelmatch_core.products.summaries import FieldSummary, GainError
from tests.matching.fakes import NO_REJECTION, fit_all, grid_positions, scene, settings_for

SETTINGS = settings_for("mosaic_tiles", "level", weight_method="error", **NO_REJECTION)


def summary(make: Any, **changes: Any) -> FieldSummary:
    """Return the summary of a simulated field whose mosaic stage was changed."""
    found = field_summary(make.match(3, 3), None)
    stages = tuple(
        stage.model_copy(update=changes if stage.stage == "mosaic_tiles" else {"seam_scatter": 1.0, "loops_failed": 0})
        for stage in found.stages
    )
    return found.model_copy(update={"stages": stages})


QUIET = {
    "seam_scatter": 1.0,
    "seams_tested": 12,
    "loops": 4,
    "loops_failed": 0,
    "loops_unexplained": 0,
    "gains": (),
    "gains_found": 0,
    "cut": 0,
}


def grade_of(make: Any, **changes: Any) -> Grade:
    return worst_of(criteria_of(summary(make, **QUIET | changes)))


def test_what_is_left_is_noise_is_good(make: Any) -> None:
    assert grade_of(make) is Grade.GOOD
    assert told(Grade.GOOD, criteria_of(summary(make, **QUIET))).startswith("good: ")


@pytest.mark.parametrize(("scatter", "grade"), [(2.1, Grade.FAIR), (FAIR_RESIDUAL + 0.1, Grade.DOUBTFUL)])
def test_residuals_beyond_noise_cost_a_grade_and_say_what(make: Any, scatter: float, grade: Grade) -> None:
    assert grade_of(make, seam_scatter=scatter) is grade
    worst = criteria_of(summary(make, **QUIET | {"seam_scatter": scatter}))[0]
    assert (worst.name, worst.value) == ("residuals", scatter)
    assert worst.cost is not None


def test_the_limit_of_good_follows_the_degrees_of_freedom() -> None:
    """Of many residuals a scatter of 1.4 is no chance; of three it is."""
    assert good_residual(27) < 1.4 < good_residual(3) <= 2.0
    assert good_residual(10**6) == pytest.approx(1.25)
    assert good_residual(9.0, 9.0) == good_residual(9.0, 0.0) == good_residual(9.0)
    assert good_residual(9.0) + 0.02 < good_residual(9.0, 6.0) < good_residual(6.0)  # skewed: large ones are no rarity


def test_the_freedom_of_the_residuals_makes_the_limit_and_not_the_number_of_loops(make: Any) -> None:
    """A mosaic of 3x3 tiles with 11 loops: 1.64 is chance of the 8.7 independent residuals that they are worth."""
    changed = {"seam_scatter": 1.64, "seams_tested": 19, "loops": 11}
    assert grade_of(make, **changed, residual_freedom=8.7) is Grade.GOOD
    assert grade_of(make, **changed, residual_freedom=11.0) is Grade.FAIR
    assert grade_of(make, **changed) is Grade.FAIR  # a record of an earlier version


def test_the_groups_of_a_stage_add_up_their_freedom(make: Any) -> None:
    match = make.match(3, 3)
    (solution,) = match.stages[-1].solutions
    pairs = tuple(pair.model_copy(update={"sigma": 0.003}) for pair in solution.pairs)
    status = solution.status.model_copy(update={"residual_freedom": 3.5})
    tested = solution.model_copy(update={"pairs": pairs, "status": status})
    for solutions, freedom in (
        ((tested,), 3.5),
        ((tested, tested), 7.0),
        ((tested, solution), 3.5),
        ((solution,), 0.0),
    ):
        stage = match.stages[-1].model_copy(update={"solutions": solutions})
        found = field_summary(match.model_copy(update={"stages": (*match.stages[:-1], stage)}), None)
        assert found.stages[-1].residual_freedom == pytest.approx(freedom)


def test_loops_that_do_not_close(make: Any) -> None:
    worst = (Loop(members=("a", "b", "c"), sum=0.5, sigma=0.01),)
    one, three = ({"loops_failed": count, "loops_unexplained": count, "worst_loops": worst} for count in (1, 3))
    assert grade_of(make, **one) is Grade.FAIR  # one may be chance
    assert grade_of(make, **three) is Grade.DOUBTFUL
    words = criteria_of(summary(make, **QUIET | three))[0].words
    assert words == "3 of 4 loops of overlaps do not close, the worst by 0.5 MJy/sr, 50 sigma"


def test_the_worst_of_many_loops_may_be_beyond_four_sigma_by_chance(make: Any) -> None:
    """One of 342 loops is beyond 4 sigma in two of a hundred mosaics of noise; of 38, in two of a thousand."""
    assert good_worst(1) == good_worst(38) == 4.0
    assert good_worst(342) == pytest.approx(4.48, abs=0.01)
    for sigmas, loops, grade in ((4.3, 342, Grade.GOOD), (4.6, 342, Grade.FAIR), (4.3, 38, Grade.FAIR)):
        worst = (Loop(members=("a", "b", "c"), sum=-sigmas * 0.01, sigma=0.01),)
        changed = {"loops": loops, "loops_failed": 1, "loops_unexplained": 1, "worst_loops": worst}
        assert grade_of(make, **changed) is grade
        told_of = next(one for one in criteria_of(summary(make, **QUIET | changed)) if one.name == "loops")
        assert told_of.words.startswith(f"1 of {loops} loops of overlaps do not close, the worst by 0.04")
        assert told_of.words.endswith("chance makes of so many") is (grade is Grade.GOOD)


@pytest.fixture(scope="module")
def tiles() -> tuple[list[Member], list[PairFit]]:
    """Return 6x6 tiles of noise."""
    rng = np.random.default_rng(3)
    positions = grid_positions(6, 6, 40, 0.2)
    return fit_all(scene(positions, (40, 40), np.zeros((36, 3)), 1.0, rng), "level", SETTINGS)


def summary_of(make: Any, members: list[Member], fits: list[PairFit]) -> FieldSummary:
    """Return the summary of a field whose mosaic stage is solved from these pairs."""
    solution = match("mosaic_tiles", "f", members, fits, Gauge.REFERENCE, SETTINGS)
    plain = make.match(3, 3)
    stage = plain.stages[-1].model_copy(update={"solutions": (solution,)})
    return field_summary(plain.model_copy(update={"stages": (stage,)}), None)


def test_one_wrong_pair_among_many_is_named(make: Any, tiles: tuple[list[Member], list[PairFit]]) -> None:
    """A side is wrong by 7 sigma: in the rms of 110 residuals it is lost, and a loop of four sees half of it."""
    members, fits = tiles
    clean = summary_of(make, members, fits)
    assert {one.name for one in criteria_of(clean)} >= {"residuals", "loops"}
    assert worst_of(criteria_of(clean)) is Grade.GOOD
    worst = clean.stages[0].worst_seam
    assert worst is not None
    assert worst.size < 4
    assert worst.among == len(fits)
    bad = next(n for n, fit in enumerate(fits) if (fit.first, fit.second) == ("m0014", "m0015"))
    off = fits[bad]
    wrong = off.plane.model_copy(update={"level": off.plane.level + 7 * off.stderr})
    spoilt = [*fits[:bad], off.model_copy(update={"plane": wrong}), *fits[bad + 1 :]]
    found = summary_of(make, members, spoilt)
    (pair,) = [one for one in criteria_of(found) if one.grade is not Grade.GOOD]
    assert (pair.name, pair.grade) == ("pair", Grade.FAIR)
    assert pair.limit == good_worst(len(fits) + len(fits) - 35)  # one chance for all loops and pairs together
    assert pair.cost == pytest.approx(7 * off.stderr, rel=0.4)
    assert pair.words.startswith("m0014 - m0015 is off by ")
    lines = list(seam_lines(found.stages[0], "MJy/sr"))
    assert lines[1].strip().startswith("m0014 - m0015 is off by ")
    assert len(list(seam_lines(clean.stages[0], "MJy/sr"))) == 1


def test_a_pair_whose_error_is_not_known_exactly_is_not_judged_alone(
    make: Any, tiles: tuple[list[Member], list[PairFit]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leave_one_out, "EXACT", 0)
    assert summary_of(make, *tiles).stages[0].worst_seam is None


def test_loops_that_close_to_what_their_pairs_show_are_no_contradiction(make: Any) -> None:
    """A thing that moves through a few exposures: the errors that are stated contain what it leaves."""
    assert grade_of(make, loops_failed=2, loops_unexplained=0) is Grade.GOOD
    assert grade_of(make, loops_failed=2, loops_unexplained=1) is Grade.FAIR
    assert grade_of(make, loops_failed=2, loops_unexplained=0, structure=3.0) is Grade.DOUBTFUL  # typical: no excuse


@pytest.mark.parametrize(
    ("structure", "grade"), [(1.9, Grade.GOOD), (2.1, Grade.FAIR), (5.1, Grade.DOUBTFUL), (50.0, Grade.DOUBTFUL)]
)
def test_errors_that_the_typical_pair_shows_beyond_noise(make: Any, structure: float, grade: Grade) -> None:
    assert grade_of(make, structure=structure) is grade


def test_a_gain_is_named_with_the_level_that_it_stands_for(make: Any) -> None:
    gains = tuple(GainError(first="a", second=f"b{n}", gain=0.01, sigma=0.001, false_level=0.2 + n) for n in range(3))
    changed = {"gains": gains, "gains_found": 3, "gains_tested": 12}
    assert grade_of(make, **changed) is Grade.DOUBTFUL
    worst = criteria_of(summary(make, **QUIET | changed))[0]
    assert (worst.name, worst.cost) == ("gain", 2.2)


def test_pieces_although_footprints_touch(make: Any) -> None:
    broken = summary(make, **QUIET).model_copy(update={"pieces": 3})
    assert worst_of(criteria_of(broken)) is Grade.DOUBTFUL


def test_a_tree_that_nothing_tests_is_doubtful(make: Any) -> None:
    assert grade_of(make, seams_tested=0, seam_scatter=None, loops=0) is Grade.DOUBTFUL


def test_grades_are_ordered() -> None:
    assert [grade.rank for grade in (Grade.FAILED, Grade.DOUBTFUL, Grade.FAIR, Grade.GOOD)] == [0, 1, 2, 3]


def test_a_scale_that_is_not_known_is_doubtful(make: Any) -> None:
    unsure = summary(make, **QUIET).model_copy(update={"scale_doubt": "exposure times differ (1 to 4 s)"})
    assert worst_of(criteria_of(unsure)) is Grade.DOUBTFUL
    words = "doubtful: the scale of the values is not known: exposure times differ (1 to 4 s)"
    assert told(Grade.DOUBTFUL, criteria_of(unsure)) == words
