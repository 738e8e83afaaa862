"""The part of its weight that a pair keeps, where three and more members see the same pixels.

Where n members see a pixel, it enters n (n - 1)/2 pairs, but tells only n - 1 differences: with weights that take pairs
for independent, it counts n/2 times as much as one that two members see. The corners of a mosaic are therefore too
heavy, and with them the pairs of diagonal neighbours, which see nothing that the larger overlaps of the sides do not.
What a pixel tells is shared among its pairs in proportion to their size here (section 3 of matching/MODEL.md).
"""

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.matching.graph_kernels import neighbours
from levelmatch_core.matching.model.facing import Facing
from levelmatch_core.matching.model.sample_points import (
    POINTS,
    Shapes,
    holds,
    plain_holds,
    points_beside,
    points_within,
    shapes_of,
    spread_evenly,
)
from levelmatch_core.process.compilation import njit
from levelmatch_core.process.small_work import compiled_when_large

Array = NDArray[np.float64]
Index = NDArray[np.int64]

FEWEST = 12
"""A pair with fewer sample points of a member in its overlap is judged by its centroid instead."""


def kept_weights(  # noqa: PLR0917 - the parts of the problem in their natural order
    outlines: tuple[object, ...], facing: Facing, first: Index, second: Index, places: Array, sizes: Array
) -> Array:
    """Return (K,) the part of its weight that each pair keeps, if all of its noise is shared: 1 where none is.

    Parameters
    ----------
    outlines, facing
        N polygons, each on the grid of its member, and as the members on other grids see them.
    first, second
        (K,) the members of each pair.
    places
        (K, 2, 2) the centroid of each pair as either member sees it.
    sizes
        (K,) in proportion to which a pixel's information is shared among its pairs.
    """
    if len(first) < 2:
        return np.ones(len(first))
    ends = np.stack([first, second], axis=1)
    begin, adjacent, number = neighbours(len(outlines), ends[:, 0], ends[:, 1])
    if facing.seen is not None:
        mine = np.repeat(np.arange(len(begin) - 1), np.diff(begin))
        adjacent = facing.seen[number, (second[number] == mine).astype(np.int64)]
    shapes = shapes_of((*outlines, *facing.outlines))
    sides = _parts(spread_evenly(POINTS), shapes, (begin, adjacent, number), ends[:, 0], places, sizes)
    return np.asarray(sides.mean(axis=1), dtype=float)


def plain_parts(  # noqa: PLR0917 - those of the compiled function
    unit: Array, shapes: Shapes, lists: tuple[Index, Index, Index], first: Index, places: Array, sizes: Array
) -> Array:
    """Return what :func:`_parts` does, by numpy; sums in the order of its loops, so that both give the same."""
    edges, corners, boxes = shapes
    begin, adjacent, number = lists
    part = np.ones((len(sizes), 2))
    bounds, point, _, _ = points_within(unit, shapes, np.repeat(np.arange(len(begin) - 1), np.diff(begin)), adjacent)
    for member in range(len(begin) - 1):
        here = range(begin[member], begin[member + 1])
        many, total = np.zeros(len(unit), dtype=np.int64), np.zeros(len(unit))
        held = [point[bounds[place] : bounds[place + 1]] for place in here]
        for place, points in zip(here, held, strict=True):
            many[points] += 1
            total[points] += sizes[number[place]]
        left, bottom, right, top = boxes[member].tolist()
        x, y = left + unit[:, 0] * (right - left), bottom + unit[:, 1] * (top - bottom)
        own = plain_holds(edges[corners[member] : corners[member + 1]], x, y) & (many > 0)
        each = np.zeros(len(unit))
        each[own] = 2.0 * many[own] / ((many[own] + 1) * total[own])
        for place, within in zip(here, held, strict=True):
            pair = number[place]
            side = 0 if first[pair] == member else 1
            points = within[own[within]]
            if points.size >= FEWEST:
                part[pair, side] = np.add.accumulate(each[points] * sizes[pair])[-1] / points.size
                continue
            beside = [
                one for one in here if one != place and _holds_place(edges, corners, adjacent[one], places[pair, side])
            ]
            all_of_them = 1 + len(beside)
            sum_of_them = sizes[pair]
            for one in beside:
                sum_of_them += sizes[number[one]]
            part[pair, side] = 2.0 * all_of_them / (all_of_them + 1) * sizes[pair] / sum_of_them
    return part


def _holds_place(edges: Array, corners: Index, other: int, place: Array) -> bool:
    x, y = place[:1], place[1:]
    return bool(plain_holds(edges[corners[other] : corners[other + 1]], x, y)[0])


@compiled_when_large(lambda _, __, lists, *___: 100 * lists[1].size, plain_parts)
@njit(nogil=True, cache=True)
def _parts(  # noqa: C901, PLR0912, PLR0917 - compiled: one loop  # pragma: no cover
    unit: Array, shapes: Shapes, lists: tuple[Index, Index, Index], first: Index, places: Array, sizes: Array
) -> Array:
    """Return (K, 2) the part of the weight of each pair that the points of either member leave to it."""
    edges, corners, boxes = shapes
    begin, adjacent, number = lists
    part = np.ones((len(sizes), 2))
    most = 0
    for member in range(len(begin) - 1):
        most = max(most, begin[member + 1] - begin[member])
    many, total = np.zeros(len(unit), dtype=np.int64), np.zeros(len(unit))
    holders = np.zeros((len(unit), most), dtype=np.int64)
    kept, count = np.zeros(most), np.zeros(most, dtype=np.int64)
    for member in range(len(begin) - 1):
        low, high = begin[member], begin[member + 1]
        x0, y0 = boxes[member, 0], boxes[member, 1]
        width, height = boxes[member, 2] - x0, boxes[member, 3] - y0
        for q in range(len(unit)):
            many[q], total[q] = 0, 0.0
        for place in range(low, high):
            other, size = adjacent[place], sizes[number[place]]
            kept[place - low], count[place - low] = 0.0, 0
            left, right = points_beside(unit, boxes, member, other)
            start, stop, bottom, top = corners[other], corners[other + 1], boxes[other, 1], boxes[other, 3]
            for q in range(left, right):
                x, y = x0 + unit[q, 0] * width, y0 + unit[q, 1] * height
                if bottom < y < top and holds(edges, start, stop, x, y):
                    holders[q, many[q]] = place - low
                    many[q] += 1
                    total[q] += size
        for q in range(len(unit)):
            if many[q] == 0:
                continue
            x, y = x0 + unit[q, 0] * width, y0 + unit[q, 1] * height
            if not holds(edges, corners[member], corners[member + 1], x, y):
                continue
            each = 2.0 * many[q] / ((many[q] + 1) * total[q])
            for i in range(many[q]):
                kept[holders[q, i]] += each * sizes[number[low + holders[q, i]]]
                count[holders[q, i]] += 1
        for place in range(low, high):
            pair = number[place]
            side = 0 if first[pair] == member else 1
            if count[place - low] >= FEWEST:
                part[pair, side] = kept[place - low] / count[place - low]
                continue
            x, y = places[pair, side, 0], places[pair, side, 1]
            all_of_them, sum_of_them = 1, sizes[pair]
            for beside in range(low, high):
                other = adjacent[beside]
                if beside != place and holds(edges, corners[other], corners[other + 1], x, y):
                    all_of_them += 1
                    sum_of_them += sizes[number[beside]]
            part[pair, side] = 2.0 * all_of_them / (all_of_them + 1) * sizes[pair] / sum_of_them
    return part
