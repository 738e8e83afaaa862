"""What holds the zero of a component: what the user gave, else the gauge of the stage.

Differences leave one constant of a component free, and where planes are matched one whole plane. A member that holds
the zero is held in the solve, but for a reference where slopes have a prior: its plane is taken out afterwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from levelmatch_core.images.given import ANCHOR
from levelmatch_core.matching import graph
from levelmatch_core.matching.model.constraints import Constraints
from levelmatch_core.matching.results import Gauge, Member, PairFit
from levelmatch_core.settings import FitType, MatchSettings

NAMED = 5
"""Most pairs or members that a note names."""


@dataclass(frozen=True)
class GaugeChoice:
    """What holds the zero of a component; nothing held: the mean."""

    fixed: frozenset[str] = frozenset()
    """Members whose whole correction is known."""
    reference: str | None = None
    """The member that holds the zero, if one does."""
    reason: str = ""
    """Why it does."""
    notes: tuple[str, ...] = ()
    """What the user should know."""
    given: bool = False
    """Whether the user gave it."""
    slopes_of: str | None = None
    """Where levels alone are given: the member whose slopes are 0."""
    level_only: bool = False
    """Whether the reference holds the level alone, the mean slopes being 0."""
    taken_out: bool = False
    """Whether the reference's plane is taken out of all in the end, and not held in the solve."""


def gauge_of(  # noqa: PLR0917 - a problem in the order in which one would tell it
    members: Sequence[Member],
    fits: Sequence[PairFit],
    stage: str,
    gauge: Gauge,
    settings: MatchSettings,
    preferred: Sequence[str],
    known: Constraints,
) -> GaugeChoice:
    """Return what holds the zero of a component.

    Parameters
    ----------
    members, fits
        Of the component.
    stage, gauge
        The stage and what it holds the zero with.
    settings
        `reference`, `plane_gauge` and the fit type are read.
    preferred
        Tiles that an earlier run took as references.
    known
        What the user gave: it comes first.
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
        if settings.fit_type(stage) == "level+slope" and settings.plane_gauge == "mean" and len(members) > 1:
            return GaugeChoice(frozenset(), name, reason, level_only=True)
        if _has_prior(settings.fit_type(stage), settings) and len(members) > 1:
            return GaugeChoice(frozenset(), name, reason, taken_out=True)
        return GaugeChoice(frozenset({name}), name, reason)
    return GaugeChoice() if gauge is Gauge.MEAN else _anchored(members, stage)


def _has_prior(fit_type: FitType, settings: MatchSettings) -> bool:
    """Return whether slopes have a prior.

    It says that all slopes are drawn alike about 0. Those relative to a reference are about minus its own: with the
    reference held, the prior would bend the mosaic about it to bring the others' mean to 0. So none is held, and the
    reference's plane is taken out afterwards, which changes no difference.
    """
    return fit_type == "level+slope" and settings.slope_prior != "off" and settings.solver == "least_squares"


def _anchored(members: Sequence[Member], stage: str) -> GaugeChoice:
    fixed = frozenset(member.name for member in members if stage in member.anchors)
    if fixed:
        return GaugeChoice(fixed, min(fixed), f"keeps correction 0 in {stage}")
    note = f"no member that keeps correction 0 in {stage} is tied to {some([member.name for member in members])}"
    return GaugeChoice(notes=(note + ("" if len(members) == 1 else ": their mean correction is 0 instead"),))


def some(names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
