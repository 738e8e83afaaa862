"""How a match ended: the reports of the solvers of all components, as notes and a status."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

import numpy as np

from levelmatch_core.matching import graph
from levelmatch_core.matching.gauge import NAMED
from levelmatch_core.matching.linear.answer import Answer
from levelmatch_core.matching.model.frames import frames_of
from levelmatch_core.matching.model.pair_arrays import Array, PairArrays
from levelmatch_core.matching.pairs import Pair
from levelmatch_core.matching.results import Component, LoopClosure, Member, PairFit, Rejection, SolveStatus, WeakMode
from levelmatch_core.matching.uncertainty.leave_one_out import pooled_freedom, pooled_tail
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.plane import Plane
from levelmatch_core.text.naming import some_of

UNTESTABLE = 2
"""With at most this many pairs of a member, a bad one cannot be distinguished from a good one."""


class PairReport(NamedTuple):
    """What a solve reports about a pair, with the fields of its result; the defaults are those of an unused pair."""

    weight: float = 0.0
    sigma: float | None = None
    predicted: Plane | None = None
    left_out_optimism: float = 0.0
    redundancy: float = 0.0
    fit_optimism: float = 0.0


@dataclass(frozen=True)
class Pairs:
    """The measured pairs of a group, sorted by name."""

    fits: Sequence[PairFit]
    keys: Sequence[Pair]
    arrays: PairArrays

    def at(self, where: Sequence[int]) -> "Pairs":
        """Return the pairs with these indices."""
        return Pairs([self.fits[i] for i in where], [self.keys[i] for i in where], self.arrays.at(where))

    def __len__(self) -> int:
        return len(self.fits)


@dataclass(frozen=True)
class SolvedComponent:
    """A component with its solution (no answer if there was nothing to solve)."""

    component: Component
    results: Mapping[str, tuple[Plane, tuple[float, float, float]]]
    answer: Answer | None = None
    unknowns: int = 0
    notes: tuple[str, ...] = ()
    outliers: frozenset[int] = frozenset()
    """Indices of the pairs that were left out."""
    slope_changes: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Change of the slopes of each member by the prior, data unit per grid pixel; empty if it is not known."""
    modes: tuple[tuple[float, float, Array], ...] = ()
    loops: LoopClosure | None = None
    pairs: Sequence[PairReport] = ()
    """The report on each pair that was not left out."""
    freedom: float = 0.0
    tail: float = 0.0
    """Of the residuals of these pairs."""
    exact: bool = True
    """Whether the sigmas of these residuals are exact."""


def doubts(pairs: Pairs, suspects: Collection[int], *, left_out: bool) -> tuple[str, ...]:
    """Return the notes on pairs that contradict the others, whether or not they were left out."""
    if not suspects:
        return ()
    named = some_of(["{} - {}".format(*pairs.keys[i]) for i in sorted(suspects)], NAMED)
    found = f"{len(suspects)} of {len(pairs)} pairs contradict the others"
    if left_out:
        return (f"{found} and were left out: {named}",)
    return (f"{found}, too many to tell which are wrong: none was left out, this solve cannot be trusted: {named}",)


def untestable_members(used: Collection[Pair]) -> set[str]:
    """Return the members with so few pairs that a bad one cannot be identified."""
    degree = Counter(chain.from_iterable(used))
    return {name for name, count in degree.items() if count <= UNTESTABLE}


def residual_planes(pairs: Pairs, planes: Mapping[str, Plane], members: Sequence[Member] = ()) -> tuple[Array, Array]:
    """Return (K,) the residual level of each pair at its centroid, and (K,) the residual rms over its overlap."""
    left = left_of(pairs, planes, members)
    return left[:, 0], pairs.arrays.plane_rms(left)


def left_of(pairs: Pairs, planes: Mapping[str, Plane], members: Sequence[Member]) -> Array:
    """Return (K, 3) what corrections leave of the planes of pairs, about their centroids.

    Parameters
    ----------
    pairs
        The pairs of one group.
    planes
        The correction of each member.
    members
        The members, which may be on several grids; none needs be given if they are all on one.
    """
    place = {name: number for number, name in enumerate(planes)}
    at = np.array([(one.level, one.slope_x, one.slope_y, one.x0, one.y0) for one in planes.values()]).reshape(-1, 5)
    corrected = pairs.arrays.planes.copy()
    ends = np.array([(place[first], place[second]) for first, second in pairs.keys], dtype=np.int64).reshape(-1, 2)
    by_name = {member.name: member for member in members}
    ordered = [by_name[name] for name in place] if by_name else []
    frames = frames_of(ordered, pairs.arrays.centroids, pairs.arrays.moments, *ends.T)
    for end, sign in ((1, -1.0), (0, 1.0)):
        mine = at[ends[:, end]]
        there = frames.places[:, end] if frames else pairs.arrays.centroids
        slopes = np.einsum("kab,kb->ka", frames.turns[:, end], mine[:, 1:3]) if frames else mine[:, 1:3]
        corrected[:, 0] += sign * mine[:, 0]
        corrected[:, 1:] += sign * slopes
        corrected[:, 0] += sign * np.sum(mine[:, 1:3] * (there - mine[:, 3:]), axis=1)
    return corrected


def graph_notes(
    parts: Sequence[tuple[str, ...]],
    rejected: Mapping[Pair, Rejection],
    used: Pairs,
    is_bridge: set[Pair],
    few: set[str],
    *,
    spared: Mapping[Pair, Rejection],
) -> list[str]:
    """Return notes on which members are connected, and by which pairs.

    Parameters
    ----------
    parts
        Names of the members of each component.
    rejected
        Pairs that are not used.
    used
        Pairs that are used.
    is_bridge
        Bridges that are worth a note.
    few
        Members whose bad pairs cannot be identified, if bad pairs are looked for.
    spared
        Pairs that are used although they fail a rule.
    """
    notes: list[str] = []
    if spared:
        named = [f"{a} - {b} ({why})" for (a, b), why in sorted(spared.items())]
        notes.append(f"pairs beyond a limit, used because nothing else joins their members: {some_of(named, NAMED)}")
    cut = graph.cut_by(parts, rejected)
    if cut:
        named = [f"{a} - {b} ({rejected[a, b]})" for a, b in cut]
        notes.append(f"rejected pairs that would have joined components: {some_of(named, NAMED)}")
    if is_bridge:
        named = [f"{a} - {b}" for a, b in sorted(is_bridge)]
        notes.append(f"bridges, whose levels no other pair can test: {some_of(named, NAMED)}")
    if few and len(used) > 1:  # two members have only this pair
        notes.append(
            f"{len(few)} members with two pairs or fewer, whose bad pairs cannot be told: {some_of(sorted(few), NAMED)}"
        )
    restless = [fit for fit in used.fits if not fit.converged]
    if restless:
        shown = some_of([f"{fit.first} - {fit.second}" for fit in restless], NAMED)
        cost = max(fit.last_step for fit in restless)
        part = max(fit.last_step / fit.stderr if fit.stderr else 0.0 for fit in restless)
        notes.append(
            f"pair fits that did not settle within their iterations: {shown}; one more would move them by up to "
            f"{cost:.2g} (data unit), {part:.2g} of their error; raise maxiters or plane_fit_maxiters"
        )
    same = [fit for fit in used.fits if fit.rms == 0 and fit.n_used > 1]
    if same:
        shown = some_of([f"{fit.first} - {fit.second}" for fit in same], NAMED)
        notes.append(
            f"pairs that differ by no noise at all: {shown}; if they are one image twice, leave one out: its noise "
            "counts as two, and the errors are too small"
        )
    return notes


def status_of(
    parts: Sequence[SolvedComponent],
    notes: Sequence[str],
    settings: MatchSettings,
    untestable: Collection[str],
    residuals: tuple[float, float],
) -> SolveStatus:
    """Return how the solves of all components ended.

    Parameters
    ----------
    parts
        The components.
    notes
        Notes on the whole group.
    settings
        `solver` is recorded.
    untestable
        Members whose bad pairs cannot be identified.
    residuals
        Rms of the used pairs' differences before and after.
    """
    answers = [(number, part.answer) for number, part in enumerate(parts) if part.answer is not None]
    several = len(answers) > 1
    history = [
        story.model_copy(update={"coefficient": f"{story.coefficient} {number}"}) if several else story
        for number, answer in answers
        for story in answer.history
    ]
    own = [
        f"component {number}: {note}" if several else note
        for number, part in enumerate(parts)
        for note in (*part.notes, *(part.answer.notes if part.answer else ()))
    ]
    conditions = [answer.condition for _, answer in answers if answer.condition is not None]
    return SolveStatus(
        converged=all(answer.converged for _, answer in answers),
        solver=settings.solver,
        iterations=max((answer.iterations for _, answer in answers), default=0),
        residual_before=residuals[0],
        residual_after=residuals[1],
        rank=sum(answer.rank for _, answer in answers),
        unknowns=sum(part.unknowns for part in parts),
        condition=max(conditions, default=None),
        nullity=sum(part.unknowns - part.answer.rank for part in parts if part.answer is not None),
        slope_prior=tuple(answer.prior.width for _, answer in answers if answer.prior is not None),
        modes=tuple(
            WeakMode(component=number, sigma=sigma, share=share, pattern=tuple(pattern.tolist()))
            for number, part in enumerate(parts)
            for sigma, share, pattern in part.modes
        ),
        loops=tuple(part.loops for part in parts if part.loops is not None),
        untestable=tuple(sorted(untestable)),
        residual_freedom=pooled_freedom(
            (sum(pair.sigma is not None for pair in one.pairs), one.freedom) for one in parts
        ),
        residual_tail=pooled_tail(
            (sum(pair.sigma is not None for pair in one.pairs), one.freedom, one.tail) for one in parts
        ),
        residuals_exact=all(one.exact for one in parts),
        history=tuple(history),
        notes=(*notes, *own),
    )


def rms_of(values: Array) -> float:
    """Return the root mean square; 0 if there are no values."""
    return float(np.sqrt(np.mean(np.square(values)))) if len(values) else 0.0
