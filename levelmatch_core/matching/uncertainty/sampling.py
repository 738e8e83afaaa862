"""Exposures, members and pairs of all stages in compiled form: which pairs the noise of each exposure affects."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.matching.graph_kernels import neighbours
from levelmatch_core.matching.model.facing import Grids, numbers_of, seen_on
from levelmatch_core.matching.model.frames import Views, from_centroid
from levelmatch_core.matching.model.problem import Array, Index, Problem
from levelmatch_core.matching.model.sample_points import POINTS, Shapes, holds, shapes_of, spread_evenly
from levelmatch_core.matching.uncertainty.pair_noise import semidefinite_root
from levelmatch_core.matching.uncertainty.plain_sampling import roots_by_exposure, sums_by_link
from levelmatch_core.process.compilation import njit
from levelmatch_core.process.small_work import compiled_when_large

PASSES = 20
"""For a point of a link; more than numpy takes, since who has many such links has them in the next run, too."""
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


# -- compiled: one pass over all points ------------------------------------------------------------------------------
@njit(nogil=True, cache=True, inline="always")
def _seen_by(  # noqa: PLR0917 - compiled  # pragma: no cover
    shapes: Shapes, parts: Lists, weight: Array, member: int, x: float, y: float
) -> float:
    """Return the sum of the weights of a member's exposures that contain a point; 0 for none."""
    edges, starts, boxes = shapes
    total = 0.0
    for place in range(parts[0][member], parts[0][member + 1]):
        one = parts[1][place]
        if boxes[one, 0] <= x <= boxes[one, 2] and boxes[one, 1] <= y <= boxes[one, 3]:
            total += weight[place] if holds(edges, starts[one], starts[one + 1], x, y) else 0.0
    return total


@njit(nogil=True, cache=True)
def _links_of(scene: Scene, one: int, pair_of: Index, side_of: Index) -> None:  # pragma: no cover - compiled
    """Write the pairs of an exposure's members, and on which side of them the member is, into the two arrays."""
    link = 0
    for place in range(scene.members[0][one], scene.members[0][one + 1]):
        member = scene.members[1][place]
        for at in range(scene.adjacent[0][member], scene.adjacent[0][member + 1]):
            pair_of[link] = scene.adjacent[2][at]
            side_of[link] = 0 if scene.first[scene.adjacent[2][at]] == member else 1
            link += 1


@njit(nogil=True, cache=True)
def _touched(  # noqa: PLR0917 - compiled  # pragma: no cover
    scene: Scene, one: int, x: float, y: float, links: Index, shares: Array
) -> int:
    """Find the links of an exposure whose overlap contains a point, and its weight in the mean; return their number."""
    edges, starts, _ = scene.shapes
    if not holds(edges, starts[one], starts[one + 1], x, y):
        return 0
    many, link = 0, 0
    for place in range(scene.members[0][one], scene.members[0][one + 1]):
        member, covered = scene.members[1][place], 0.0
        for at in range(scene.adjacent[0][member], scene.adjacent[0][member + 1]):
            if _seen_by(scene.shapes, scene.parts, scene.part_weight, scene.adjacent[1][at], x, y) > 0.0:
                if covered == 0.0:
                    covered = _seen_by(scene.shapes, scene.parts, scene.part_weight, member, x, y)
                links[many], shares[many] = link, scene.member_weight[place] / covered
                many += 1
            link += 1
    return many


@compiled_when_large(lambda scene, start: PASSES * int(start[-1]) * len(scene.unit), sums_by_link)
@njit(nogil=True, cache=True)
def sums(scene: Scene, start: Index) -> tuple[Index, Index, Index, Array, Array, Array]:  # pragma: no cover
    """Return the fields of `_Links`."""
    unit, boxes, links = scene.unit, scene.shapes[2], start[-1]
    pair_of, side_of = np.empty(links, dtype=np.int64), np.empty(links, dtype=np.int64)
    count, area = np.zeros(links, dtype=np.int64), np.zeros(links)
    power, share = np.zeros(links), np.zeros((links, 3, 3))
    basis = np.ones(3)
    for one in range(len(start) - 1):
        base, most = start[one], start[one + 1] - start[one]
        _links_of(scene, one, pair_of[base : base + most], side_of[base : base + most])
        found, shares = np.empty(most, dtype=np.int64), np.empty(most)
        wide, high = boxes[one, 2] - boxes[one, 0], boxes[one, 3] - boxes[one, 1]
        cell = wide * high / len(unit)
        for q in range(len(unit)):
            x, y = boxes[one, 0] + unit[q, 0] * wide, boxes[one, 1] + unit[q, 1] * high
            for t in range(_touched(scene, one, x, y, found, shares)):
                link = base + found[t]
                pair = pair_of[link]
                right, up = from_centroid(scene.views, pair, side_of[link], x, y)
                basis[1], basis[2] = right / scene.scales[pair], up / scene.scales[pair]
                count[link] += 1
                area[link] += cell * shares[t]
                power[link] += (scene.amplitude[one] * shares[t]) ** 2
                for a in range(3):
                    for b in range(3):
                        share[link, a, b] += cell * shares[t] * basis[a] * basis[b]
    return pair_of, side_of, count, area, power, share


@njit(nogil=True, cache=True)
def _columns_of(pair_of: Index, seen: NDArray[np.bool_], rows: Index, slot_of: Index, column_of: Index) -> int:
    """Assign rows of y to each link of an exposure; return the number of rows that its noise affects."""
    wide = 0
    for link in range(len(pair_of)):
        pair = pair_of[link]
        slot_of[link] = -1
        if seen[pair]:
            slot_of[link] = wide
            for row in range(rows[pair], rows[pair + 1]):
                column_of[wide] = row
                wide += 1
    return wide


@njit(nogil=True, cache=True)
def _gram_of(  # noqa: PLR0917 - compiled  # pragma: no cover
    scene: Scene, one: int, links: tuple[Index, Index, Index], matched: Array, rows: Index, wide: int
) -> Array:
    """Return the lower triangle of the covariance of the rows of y that an exposure's noise affects."""
    pair_of, side_of, slot_of = links
    unit, boxes = scene.unit, scene.shapes[2]
    gram, noise, basis = np.zeros((wide, wide)), np.zeros(wide), np.ones(3)
    found, shares = np.empty(len(pair_of), dtype=np.int64), np.empty(len(pair_of))
    touched = np.empty(wide, dtype=np.int64)
    for q in range(len(unit)):
        x = boxes[one, 0] + unit[q, 0] * (boxes[one, 2] - boxes[one, 0])
        y = boxes[one, 1] + unit[q, 1] * (boxes[one, 3] - boxes[one, 1])
        many = 0
        for t in range(_touched(scene, one, x, y, found, shares)):
            slot, pair = slot_of[found[t]], pair_of[found[t]]
            if slot < 0:
                continue
            right, up = from_centroid(scene.views, pair, side_of[found[t]], x, y)
            basis[1], basis[2] = right / scene.scales[pair], up / scene.scales[pair]
            k = rows[pair + 1] - rows[pair]
            for a in range(k):
                total = 0.0
                for b in range(k):
                    total += matched[pair, side_of[found[t]], a, b] * basis[b]
                noise[slot + a] = total * scene.amplitude[one] * shares[t]
                touched[many] = slot + a
                many += 1
        for i in range(many):
            for j in range(i + 1):
                gram[touched[i], touched[j]] += noise[touched[i]] * noise[touched[j]]
    return gram


@compiled_when_large(lambda scene, start, *_: PASSES * int(start[-1]) * len(scene.unit), roots_by_exposure)
@njit(nogil=True, cache=True)
def roots(
    scene: Scene, start: Index, matched: Array, seen: NDArray[np.bool_], rows: Index
) -> tuple[Array, Index, Index]:
    """Return the response to the noise of all exposures in turn: values, columns (rows of y), row starts (sources).

    The noise of an exposure affects the pairs of all members that contain it. The columns of the Cholesky factor of
    their covariance are the responses to independent sources.
    """
    most = 3 * start[-1]
    row_starts = np.zeros(most + 1, dtype=np.int64)
    values, columns = np.empty(0), np.empty(0, dtype=np.int64)
    filled, row = 0, 0
    for one in range(len(start) - 1):
        count = start[one + 1] - start[one]
        pair_of, side_of, slot_of = (
            np.empty(count, dtype=np.int64),
            np.empty(count, dtype=np.int64),
            np.empty(count, dtype=np.int64),
        )
        column_of = np.empty(3 * count, dtype=np.int64)
        _links_of(scene, one, pair_of, side_of)
        wide = _columns_of(pair_of, seen, rows, slot_of, column_of)
        gram = _gram_of(scene, one, (pair_of, side_of, slot_of), matched, rows, wide)
        semidefinite_root(gram)
        if filled + wide * (wide + 1) // 2 > len(values):
            room = 2 * (filled + wide * (wide + 1))
            values, columns = _longer(values, room), _longer(columns, room)
        for r in range(wide):
            for c in range(r, wide):
                if gram[c, r] != 0:
                    values[filled], columns[filled] = gram[c, r], column_of[c]
                    filled += 1
            row += 1
            row_starts[row] = filled
    return values[:filled].copy(), columns[:filled].copy(), row_starts[: row + 1].copy()


@njit(nogil=True, cache=True)
def _longer(numbers: NDArray[np.generic], size: int) -> NDArray[np.generic]:  # pragma: no cover - compiled
    longer = np.empty(size, dtype=numbers.dtype)
    for at in range(numbers.size):  # assigned as a slice, it has numba compile the text of an error about shapes
        longer[at] = numbers[at]
    return longer
