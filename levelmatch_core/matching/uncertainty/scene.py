"""Exposures, members and pairs of all stages as arrays: what compiled functions take."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.matching.graph_kernels import neighbours
from levelmatch_core.matching.model.facing import Grids, numbers_of, seen_on
from levelmatch_core.matching.model.frames import Views
from levelmatch_core.matching.model.problem import Array, Index, Problem
from levelmatch_core.matching.model.sample_points import POINTS, Shapes, shapes_of, spread_evenly

Lists = tuple[Index, Index]
"""Concatenated lists: where each one starts (with one more entry than there are lists), and their elements."""


@dataclass(frozen=True)
class Exposures:
    """The exposures, which are the origin of the noise in all stages."""

    outlines: NDArray[np.object_]
    """(E,) polygons (shapely), grid pixels."""
    centres: Array
    """(E, 2) x, y of the point to which each exposure's correction refers, grid pixels."""
    sigma: Array
    """(E,) scatter of a pixel, data unit."""
    grids: Grids = ()
    """The grid of each exposure; empty if all are on one."""


@dataclass(frozen=True)
class MatchedGroup:
    """One component of one stage, with the exposures in each of its members."""

    problem: Problem
    parts: tuple[tuple[int, ...], ...]
    """Indices of each member's exposures; empty for a member that is not an image."""
    excess_scatter: float = 0.0
    """1 sigma of an additional error of every measured pair's level, data unit."""
    weights: tuple[tuple[float, ...], ...] = ()
    """Weights of each member's exposures in its stack; empty if all are equal."""


class Scene(NamedTuple):
    """Exposures, members and pairs of all components in the form that the compiled functions take."""

    unit: Array
    """(Q, 2) the sample points of every exposure, in the unit square."""
    shapes: Shapes
    """The exposures' outlines."""
    amplitude: Array
    """(E,) standard deviation of the mean of the pixels around a point, times their area."""
    members: Lists
    """For each exposure, the members that contain it."""
    member_weight: Array
    """The weight of the exposure in each of these members."""
    parts: Lists
    """For each member, its exposures (their outlines); then those of members as they are seen on other grids."""
    part_weight: Array
    """The weight of each of these exposures in the member."""
    adjacent: tuple[Index, Index, Index]
    """Where the pairs of each member start, its neighbours, and the pairs."""
    first: Index
    """(K,) first member of each pair."""
    views: Views
    """How either member of each pair sees its centroid, and steps from there."""
    scales: Array
    """(K,) grid pixels over which slopes are counted."""

    @classmethod
    def of(cls, groups: Sequence[MatchedGroup], exposures: Exposures) -> "Scene":
        """Combine the components of all stages, with members and pairs numbered consecutively."""
        offsets = np.cumsum([0, *(len(part.parts) for part in groups)]).tolist()
        first = np.concatenate([part.problem.first + at for part, at in zip(groups, offsets, strict=False)])
        second = np.concatenate([part.problem.second + at for part, at in zip(groups, offsets, strict=False)])
        every = [part for each in groups for part in each.parts]
        parts = _lists(every)
        weight = np.concatenate([_weights(each) for each in groups])
        adjacent = neighbours(offsets[-1], first, second)
        elsewhere = _elsewhere(every, exposures, adjacent)
        shapes = shapes_of((*exposures.outlines, *elsewhere.outlines))
        left, bottom, right, top = shapes[2][: len(exposures.sigma)].T
        scales = np.repeat([float(part.problem.scale) for part in groups], [len(part.problem.rms) for part in groups])
        return cls(
            unit=spread_evenly(POINTS),
            shapes=shapes,
            amplitude=exposures.sigma * np.sqrt((right - left) * (top - bottom) / POINTS),
            members=_lists_of(parts, len(exposures.sigma)),
            member_weight=weight[np.argsort(parts[1], kind="stable")],
            parts=_lists([*every, *elsewhere.parts]),
            part_weight=np.concatenate(
                [weight, *(weight[slice(*parts[0][one : one + 2])] for one in elsewhere.members)]
            ),
            adjacent=(adjacent[0], elsewhere.adjacent, adjacent[2]),
            first=first,
            views=_views_of([part.problem for part in groups]),
            scales=scales,
        )


@dataclass(frozen=True)
class _Elsewhere:
    """Members as they are seen on the grids of their neighbours."""

    outlines: list[object]
    """Outlines of exposures, numbered after those of all exposures on their own grids."""
    members: list[int]
    """The members, which are numbered again after all members."""
    parts: list[list[int]]
    """Their exposures' outlines."""
    adjacent: Index
    """The neighbours of all members, as each member sees them."""


def _elsewhere(
    parts: Sequence[Sequence[int]], exposures: Exposures, adjacent: tuple[Index, Index, Index]
) -> _Elsewhere:
    """Return the neighbours of members on other grids as they are seen there; nothing if all are on one grid."""
    begin, other, _ = adjacent
    found = _Elsewhere([], [], [], other.copy())
    grids = numbers_of(exposures.grids)
    if not len(grids) or (grids == grids[0]).all():
        return found
    home = np.array([grids[part[0]] if part else -1 for part in parts])
    mine = np.repeat(np.arange(len(parts)), np.diff(begin))
    places: dict[tuple[int, int], int] = {}
    numbers: dict[tuple[int, int], int] = {}
    for at in np.flatnonzero((home[mine] != home[other]) & (home[mine] >= 0) & (home[other] >= 0)).tolist():
        member, grid = int(other[at]), exposures.grids[parts[mine[at]][0]]
        key = member, int(home[mine[at]])
        if key not in places:
            places[key] = len(parts) + len(found.members)
            found.members.append(member)
            for one in parts[member]:
                if (one, key[1]) not in numbers:
                    numbers[one, key[1]] = len(exposures.sigma) + len(found.outlines)
                    found.outlines.append(seen_on(exposures.outlines[one], exposures.grids[one], grid))
            found.parts.append([numbers[one, key[1]] for one in parts[member]])
        found.adjacent[at] = places[key]
    return found


def _views_of(problems: Sequence[Problem]) -> Views:
    """Return the views of the pairs of all components in turn."""
    places, back = zip(*(problem.views for problem in problems), strict=True)
    if not any(map(len, back)):
        return np.concatenate(places), back[0]
    own = [
        one if len(one) else np.broadcast_to(np.eye(2), (len(at), 2, 2, 2))
        for one, at in zip(back, places, strict=True)
    ]
    return np.concatenate(places), np.concatenate(own)


def _weights(group: MatchedGroup) -> Array:
    """Return the weights of the exposures of all members in turn."""
    if not group.weights:
        return np.ones(sum(map(len, group.parts)))
    return np.array([weight for weights in group.weights for weight in weights], dtype=float)


def _lists(parts: Sequence[Sequence[int]]) -> Lists:
    starts = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    return starts, np.array([item for part in parts for item in part], dtype=np.int64)


def _lists_of(lists: Lists, count: int) -> Lists:
    """Return for each item the indices of the lists that contain it."""
    starts, items = lists
    owner = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    order = np.argsort(items, kind="stable")
    return np.concatenate([[0], np.cumsum(np.bincount(items, minlength=count))]), owner[order]
