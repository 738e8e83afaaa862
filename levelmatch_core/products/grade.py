"""How far a result may be trusted: a grade, which rests on measured quantities only, each with its limits.

A pair's residual and the sum around a loop of overlaps are compared with what pixel noise makes of them; differences
that grow with brightness (a gain), members that show another sky, and what nothing tests are named. The grade of a run
is the worst that any of these gives.
"""

from collections.abc import Iterable
from enum import StrEnum

from pydantic import Field as Described

from levelmatch_core.records import Record


class Grade(StrEnum):
    """How far a result may be trusted, the worst first."""

    FAILED = "failed"
    """Nothing could be matched."""
    DOUBTFUL = "doubtful"
    """Something measured contradicts the solution, or nothing tests it."""
    FAIR = "fair"
    """More is left than noise, up to five times."""
    GOOD = "good"
    """What is left is noise."""

    @property
    def rank(self) -> int:
        """0 for failed to 3 for good."""
        return list(Grade).index(self)


class Criterion(Record):
    """One measured quantity, and the grade that it gives."""

    name: str = Described(
        description="residuals, pair, loops, gain, structure, unlike, scale, pieces, untested, unmatched"
    )
    stage: str = Described(default="", description="the stage that it is of, '' for the whole field")
    grade: Grade
    value: float = Described(description="what was measured")
    limit: float = Described(description="up to which it would be good")
    cost: float | None = Described(default=None, description="what it may cost in the data's unit, where that is known")
    words: str = Described(description="the same as a sentence")


def worst_of(criteria: Iterable[Criterion]) -> Grade:
    """Return the worst grade of some criteria; good where there are none."""
    return min((one.grade for one in criteria), key=lambda grade: grade.rank, default=Grade.GOOD)


def told(grade: Grade, criteria: Iterable[Criterion]) -> str:
    """Return the grade with what it rests on, a line: what is worse than good, else what was tested."""
    below = [one for one in criteria if one.grade is not Grade.GOOD]
    shown = below or [one for one in criteria if one.name in {"residuals", "loops"}]
    place = [f"{one.stage.replace('_', ' ')}: {one.words}" if one.stage else one.words for one in shown]
    return f"{grade.value}: " + ("; ".join(place) if place else "nothing overlaps, and nothing was to be matched")
