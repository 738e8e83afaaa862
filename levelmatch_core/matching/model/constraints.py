"""The user's constraints on a component as rows of its problem: given levels, ties, locked members.

A given level is a difference, with the given error, to an additional member, the ground, whose correction is 0. A tie
is a pair without pixels. Solver, prior and uncertainties therefore only deal with pairs and fixed members. A level that
is known exactly is subtracted from the differences beforehand, and its member is fixed. See section 4 of
matching/MODEL.md.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import shapely

from levelmatch_core.images.given import Action, Given, PairRule
from levelmatch_core.matching.model.facing import Facing
from levelmatch_core.matching.model.frames import Frames
from levelmatch_core.matching.model.problem import Array, Index, Problem
from levelmatch_core.matching.pairs import Pair
from levelmatch_core.matching.results import Member

GROUND = "~ground"
"""Name of the additional member to which given levels are differences."""
SLOPES_HELD = 1e-6
"""Where only levels are given, one member's slopes are constrained to 0 with this variance, relative to that of a
typical pair."""


@dataclass(frozen=True)
class Constraints:
    """The user's constraints on the members of one group, by member name."""

    levels: Mapping[str, tuple[float, float]]
    """Level and its 1-sigma error, which is positive."""
    locked: Mapping[str, float]
    """Level of a member that is fixed."""
    ties: Mapping[Pair, tuple[float, float]]
    """Level of second - first, and its 1-sigma error."""
    forced: frozenset[Pair]
    forbidden: frozenset[Pair]


def constraints_of(members: Sequence[Member], given: Given, *, with_levels: bool) -> Constraints:
    """Return the constraints on these members; a constraint names a member, its tile, or one of its tiles.

    Parameters
    ----------
    members
        The members of one group, sorted.
    given
        The user's levels and rules.
    with_levels
        Whether given levels apply to the members of this stage.
    """
    locked: dict[str, float] = {member.name: 0.0 for member in members if member.locked}
    levels: dict[str, tuple[float, float]] = {}
    pairs: dict[Action, dict[Pair, PairRule]] = {action: {} for action in Action}
    named = _by_any_name(members) if given.levels or given.rules else {}
    for one in given.levels if with_levels else ():
        for name in named.get(one.tile, ()):
            if one.error == 0:
                locked[name] = one.level
            else:
                levels[name] = one.level, one.error
    for rule in given.rules:
        for first, second in product(named.get(rule.first, ()), named.get(rule.second, ())):
            if second != first:
                turned = first > second
                difference = -rule.difference if turned else rule.difference
                key = (second, first) if turned else (first, second)
                pairs[rule.action][key] = rule.model_copy(update={"difference": difference})
    return Constraints(
        levels=levels,
        locked=locked,
        ties={key: (rule.difference, rule.error) for key, rule in sorted(pairs[Action.TIE].items())},
        forced=frozenset(pairs[Action.FORCE]),
        forbidden=frozenset(pairs[Action.FORBID]),
    )


def _by_any_name(members: Sequence[Member]) -> dict[str, list[str]]:
    """Return the members that each name refers to (see :func:`~levelmatch_core.matching.graph.is_named`)."""
    named: dict[str, list[str]] = {}
    for member in members:
        for name in {member.name, member.tile, *member.tile.split("+")}:
            named.setdefault(name, []).append(member.name)
    return named


@dataclass(frozen=True)
class Constrained:
    """A problem with its constraints as rows that follow the pairs, and the levels that were subtracted beforehand."""

    problem: Problem
    known: Array
    """(N,) level of each member that was subtracted from the differences, and has to be added to its correction."""


def constrained(problem: Problem, known: Constraints, slopes_of: str | None) -> Constrained:
    """Return the problem with the constraints on its members.

    Parameters
    ----------
    problem
        The component, in which locked members are fixed.
    known
        The constraints on its group.
    slopes_of
        The member whose slopes are 0, where only levels are given; None where another member is fixed.
    """
    index = {name: number for number, name in enumerate(problem.names)}
    offset = np.array([known.locked.get(name, 0.0) for name in problem.names])
    delta = problem.delta.copy()
    delta[:, 0] -= offset[problem.second] - offset[problem.first]
    ground = len(problem.names)
    rows: list[tuple[int, int, float, float, tuple[float, float]]] = []
    for name, (level, error) in known.levels.items():
        if name in index and name not in known.locked:
            rows.append((ground, index[name], level, error**2, (1.0, 0.0)))
    for (first, second), (difference, error) in known.ties.items():
        if first in index and second in index:
            i, j = index[first], index[second]
            rows.append((i, j, difference - (offset[j] - offset[i]), error**2, (1.0, 0.0)))
    if problem.k == 3 and slopes_of is not None and not problem.frames:
        typical = float(np.median(problem.variance)) if len(problem.variance) else 1.0
        rows.append((ground, index[slopes_of], 0.0, SLOPES_HELD * typical, (0.0, 1.0)))
    if not rows:
        return Constrained(replace(problem, delta=delta), offset)
    return Constrained(_with_rows(replace(problem, delta=delta), rows), offset)


def _with_rows(problem: Problem, rows: Sequence[tuple[int, int, float, float, tuple[float, float]]]) -> Problem:
    k, n, count = problem.k, len(problem.names), len(rows)
    grounded = any(n in row[:2] for row in rows)
    first, second = (np.array([row[end] for row in rows], dtype=np.int64) for end in (0, 1))
    middle = problem.centres.mean(axis=0)
    centres = np.concatenate([problem.centres, middle[None]]) if grounded else problem.centres
    delta, moments = np.zeros((count, k)), np.zeros((count, k, k))
    delta[:, 0] = [row[2] for row in rows]
    for number, row in enumerate(rows):
        moments[number, 0, 0] = row[4][0]
        if k == 3:
            moments[number, 1, 1] = moments[number, 2, 2] = row[4][1]
    # a given level refers to the member's own centre; a tie to the point midway between its two members
    places = np.where((first == n)[:, None], centres[second], (centres[first] + centres[second]) / 2)
    variance = np.array([row[3] for row in rows])
    frames = problem.frames
    if frames:  # a tie of members on two grids refers to either's own centre
        own = np.stack([centres[first], centres[second]], axis=1)
        on_map = np.concatenate([frames.on_map, frames.on_map.mean(axis=0)[None]]) if grounded else frames.on_map
        turns = np.broadcast_to(np.eye(2), (count, 2, 2, 2))
        frames = Frames(on_map, np.concatenate([frames.places, own]), np.concatenate([frames.turns, turns]))

    def longer(values: Array, more: Array) -> Array:
        return np.concatenate([values, more])

    return replace(
        problem,
        names=(*problem.names, GROUND) if grounded else problem.names,
        centres=centres,
        outlines=(*problem.outlines, shapely.Point(*middle).buffer(1e-3)) if grounded else problem.outlines,
        fixed=np.append(problem.fixed, True) if grounded else problem.fixed,
        first=np.concatenate([problem.first, first]),
        second=np.concatenate([problem.second, second]),
        centroids=longer(problem.centroids, places),
        delta=longer(problem.delta, delta),
        moments=longer(problem.moments, moments),
        weights=longer(problem.weights, 1 / variance),
        n_used=longer(problem.n_used, np.ones(count)),
        rms=longer(problem.rms, np.full(count, math.inf)),
        variance=longer(problem.variance, variance),
        frames=frames,
        facing=_with_ends(problem.facing, len(problem.outlines), first, second, grounded=grounded),
        structure=longer(problem.structure, np.zeros(count)) if len(problem.structure) else problem.structure,
        apart=longer(problem.apart, 1 / variance) if len(problem.apart) else problem.apart,
        shared=longer(problem.shared, np.zeros(count)),
    )


def _with_ends(known: Facing, members: int, first: Index, second: Index, *, grounded: bool) -> Facing:
    """Return the outlines that pairs and further rows see; the ground comes after the members."""
    if known.seen is None:
        return known
    seen = np.where(known.seen >= members, known.seen + grounded, known.seen)
    return Facing(known.outlines, np.concatenate([seen, np.stack([second, first], axis=1)]))
