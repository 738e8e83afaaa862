"""Assembly of the problem of a component from its members, pairs and gauge, for the solve and for error propagation."""

from collections.abc import Sequence
from dataclasses import dataclass

from levelmatch_core.matching.model.constraints import Constrained, Constraints, constrained
from levelmatch_core.matching.model.pair_arrays import PairArrays
from levelmatch_core.matching.model.problem import Problem, build
from levelmatch_core.matching.results import GaugeCondition, Member, PairFit
from levelmatch_core.settings import FitType, MatchSettings


@dataclass(frozen=True)
class ComponentProblem:
    """A component in the form that the solvers take."""

    pairs: Problem
    """The measured pairs only."""
    whole: Constrained
    """The measured pairs together with the user's constraints."""


def assemble(  # noqa: PLR0917 - the parts of the problem in their natural order
    members: Sequence[Member],
    fits: Sequence[PairFit],
    fit_type: FitType,
    gauge_condition: GaugeCondition,
    settings: MatchSettings,
    known: Constraints,
    arrays: PairArrays | None = None,
) -> ComponentProblem:
    """Assemble the problem of a component.

    Parameters
    ----------
    members, fits
        The members of the component and the pairs that are used, both sorted.
    fit_type
        "level" or "level+slope".
    gauge_condition
        Which corrections are 0.
    settings
        `weight_method` is read.
    known
        The user's constraints.
    arrays
        The pairs as arrays, if they have been built already.
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
