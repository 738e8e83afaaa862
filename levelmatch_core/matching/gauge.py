"""The choice of the gauge of a component: the user's constraints, else the gauge of the stage.

Differences leave one constant of a component undetermined or, if planes are matched, a whole plane. Members that define
the zero are fixed in the solve, except for a reference if slopes have a prior: its plane is subtracted afterwards
(section 4 of matching/MODEL.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from levelmatch_core.images.given import ANCHOR
from levelmatch_core.matching import graph
from levelmatch_core.matching.model.constraints import Constraints
from levelmatch_core.matching.results import Gauge, Member, PairFit
from levelmatch_core.settings import FitType, MatchSettings
from levelmatch_core.text.naming import some_of

NAMED = 5
"""Largest number of pairs or members named in a note."""


@dataclass(frozen=True)
class GaugeChoice:
    """The gauge of a component; if no member is fixed, the mean is 0."""

    fixed: frozenset[str] = frozenset()
    """Members whose whole correction is known."""
    reference: str | None = None
    """The member that defines the zero, if there is one."""
    reason: str = ""
    """The reason for the choice."""
    notes: tuple[str, ...] = ()
    """Notes for the user."""
    given: bool = False
    """Whether it was given by the user."""
    slopes_of: str | None = None
    """If only levels are given: the member whose slopes are 0."""
    level_only: bool = False
    """Whether the reference only defines the level, while the mean slopes are 0."""
    taken_out: bool = False
    """Whether the plane of the reference is subtracted from all after the solve, instead of being fixed in it."""


def gauge_of(  # noqa: PLR0917 - the parts of the problem in their natural order
    members: Sequence[Member],
    fits: Sequence[PairFit],
    stage: str,
    gauge: Gauge,
    settings: MatchSettings,
    preferred: Sequence[str],
    known: Constraints,
) -> GaugeChoice:
    """Return the gauge of a component.

    Parameters
    ----------
    members, fits
        The members and used pairs of the component.
    stage, gauge
        The stage and its gauge.
    settings
        `reference`, `plane_gauge` and the fit type are read; planes of members on several grids have no reference but
        of their levels.
    preferred
        Reference tiles of an earlier run.
    known
        The user's constraints, which take precedence.
    """
    names = {member.name for member in members}
    locked = frozenset(known.locked.keys() & names)
    if locked:
        first = min(locked, key=lambda name: (not name.startswith(ANCHOR), name))
        reason = "the anchor image" if first.startswith(ANCHOR) else "locked by the user"
        return GaugeChoice(locked, first, reason, given=True)
    levels = known.levels.keys() & names
    keys = [(fit.first, fit.second) for fit in fits]
    if levels:
        chosen, _ = graph.choose_reference(members, keys, settings.reference, preferred)
        reason = f"the levels that the user gave of {len(levels)} of its {len(names)} members"
        return GaugeChoice(reason=reason, given=True, slopes_of=chosen)
    if gauge is Gauge.REFERENCE:
        name, reason = graph.choose_reference(members, keys, settings.reference, preferred)
        several = any(member.grid is not None for member in members)  # no plane goes round the sky
        slopes = settings.fit_type(stage) == "level+slope" and len(members) > 1
        if slopes and (several or settings.plane_gauge == "mean"):
            return GaugeChoice(frozenset(), name, reason, level_only=True)
        if _has_prior(settings.fit_type(stage), settings) and len(members) > 1:
            return GaugeChoice(frozenset(), name, reason, taken_out=True)
        return GaugeChoice(frozenset({name}), name, reason)
    return GaugeChoice() if gauge is Gauge.MEAN else _anchored(members, stage)


def _has_prior(fit_type: FitType, settings: MatchSettings) -> bool:
    """Return whether slopes have a prior.

    The prior assumes that all slopes are drawn from a distribution about 0, but slopes relative to a reference are
    distributed about minus its own slope. If the reference were fixed, the prior would bend the mosaic around it to
    bring the mean of the others to 0. Therefore no member is fixed, and the plane of the reference is subtracted
    afterwards, which changes no difference.
    """
    return fit_type == "level+slope" and settings.slope_prior != "off" and settings.solver == "least_squares"


def _anchored(members: Sequence[Member], stage: str) -> GaugeChoice:
    fixed = frozenset(member.name for member in members if stage in member.anchors)
    if fixed:
        return GaugeChoice(fixed, min(fixed), f"keeps correction 0 in {stage}")
    note = (
        f"no member that keeps correction 0 in {stage} is tied to {some_of([member.name for member in members], NAMED)}"
    )
    return GaugeChoice(notes=(note + ("" if len(members) == 1 else ": their mean correction is 0 instead"),))
