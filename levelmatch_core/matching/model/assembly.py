"""From a component's members, pairs and zero to the problem that is solved: once to solve it, again for its errors."""

from collections.abc import Sequence
from dataclasses import dataclass

from levelmatch_core.matching.model.constraints import Constrained, Constraints, constrained
from levelmatch_core.matching.model.pair_arrays import PairArrays
from levelmatch_core.matching.model.problem import Problem, build
from levelmatch_core.matching.results import GaugeCondition, Member, PairFit
from levelmatch_core.settings import FitType, MatchSettings


@dataclass(frozen=True)
class ComponentProblem:
    """A component as it is put to the solvers."""

    pairs: Problem
    """Its measured pairs alone."""
    whole: Constrained
    """The same with what the user gave."""


def assemble(  # noqa: PLR0917 - a problem in the order in which one would tell it
    members: Sequence[Member],
    fits: Sequence[PairFit],
    fit_type: FitType,
    gauge_condition: GaugeCondition,
    settings: MatchSettings,
    known: Constraints,
    arrays: PairArrays | None = None,
) -> ComponentProblem:
    """Arrange a component for the solvers.

    Parameters
    ----------
    members, fits
        Of the component, sorted; the pairs that are used.
    fit_type
        "level" or "level+slope".
    gauge_condition
        What is 0.
    settings
        `weight_method` is read.
    known
        What the user gave.
    arrays
        The pairs as arrays, where they are there already.
    """
    pairs = build(
        members,
        fits,
        fit_type,
        gauge_condition.fixed,
        settings,
        level_reference=gauge_condition.level_reference,
        plane_reference=gauge_condition.plane_reference,
        arrays=arrays,
    )
    return ComponentProblem(pairs, constrained(pairs, known, gauge_condition.slopes_of))
