"""Points that stand for the pixels of each member, and the convex polygons in which they lie."""

import numpy as np
import shapely
from numpy.typing import NDArray

from levelmatch_core.process.compilation import njit

Array = NDArray[np.float64]
Index = NDArray[np.int64]

POINTS = 600
"""Number of sample points per member."""
Shapes = tuple[Array, Index, Array]
"""Convex polygons: (E, 3) edges, with a x + b y + c > 0 inside; (N + 1,) where the edges of each polygon start; (N, 4)
bounding boxes."""


def shapes_of(polygons: tuple[object, ...] | NDArray[np.object_]) -> Shapes:
    """Return convex polygons (shapely) in the form that the compiled functions take: edges, their starts, and boxes."""
    shapes = shapely.orient_polygons(np.asarray(polygons, dtype=object))
    corners, owner = shapely.get_coordinates(shapes, return_index=True)
    step = np.roll(corners, -1, axis=0) - corners
    edges = np.stack([-step[:, 1], step[:, 0], corners[:, 0] * step[:, 1] - corners[:, 1] * step[:, 0]], axis=1)
    closing = np.append(owner[1:] != owner[:-1], [True])  # the last corner repeats the first
    count = np.bincount(owner[~closing], minlength=len(shapes))
    starts = np.concatenate([[0], np.cumsum(count)])
    return np.ascontiguousarray(edges[~closing]), starts, np.ascontiguousarray(shapely.bounds(shapes))


def spread_evenly(points: int) -> Array:
    """Return (points, 2) evenly distributed points in the unit square, sorted by x: the R2 low-discrepancy sequence.

    A regular lattice would alias with thin overlaps, which contain a column of it either completely or not at all.
    (M. Roberts 2018, "The unreasonable effectiveness of quasirandom sequences": steps of 1/g and 1/g^2 with
    g^3 = g + 1.)
    """
    golden = 1.324717957244746
    spread = (0.5 + np.arange(points)[:, None] * np.array([1 / golden, 1 / golden**2])) % 1.0
    return np.asarray(spread[np.argsort(spread[:, 0])])


@njit(nogil=True, cache=True, inline="always")
def holds(edges: Array, start: int, stop: int, x: float, y: float) -> bool:  # pragma: no cover - compiled
    """Return whether the convex polygon with the given edges contains a point."""
    for e in range(start, stop):  # noqa: SIM110 - compiled
        if not edges[e, 0] * x + edges[e, 1] * y + edges[e, 2] > 0:
            return False
    return True


@njit(nogil=True, cache=True)
def _points_below(unit: Array, x: float) -> int:  # pragma: no cover - compiled
    """Return the number of points, sorted by x, that lie below `x`."""
    low, high = 0, len(unit)
    while low < high:
        middle = (low + high) // 2
        if unit[middle, 0] < x:
            low = middle + 1
        else:
            high = middle
    return low


@njit(nogil=True, cache=True)
def points_beside(unit: Array, boxes: Array, mine: int, other: int) -> tuple[int, int]:  # pragma: no cover - compiled
    """Return the range of a member's points that may lie within another member."""
    width = boxes[mine, 2] - boxes[mine, 0]
    low, high = (boxes[other, 0] - boxes[mine, 0]) / width, (boxes[other, 2] - boxes[mine, 0]) / width
    return _points_below(unit, low), _points_below(unit, high)


def points_within(unit: Array, shapes: Shapes, mine: Index, other: Index) -> tuple[Index, Index, Array, Array]:
    """Return which points of some members lie within others, and where they are: by numpy, for few members.

    Parameters
    ----------
    unit, shapes
        As :func:`spread_evenly` and :func:`shapes_of` return them.
    mine, other
        (M,) members whose points are asked for, and in which these may lie.

    Returns
    -------
    (M + 1,) where those of each begin; then the number of each point, and its x and y.
    """
    edges, starts, boxes = shapes
    left, bottom, right, top = boxes[mine].T
    width, height = right - left, top - bottom
    low, high = (np.searchsorted(unit[:, 0], (boxes[other, side] - left) / width) for side in (0, 2))
    count = high - low
    begin = np.concatenate([[0], np.cumsum(count)])
    point = np.arange(begin[-1]) - np.repeat(begin[:-1] - low, count)
    y = np.repeat(bottom, count) + unit[:, 1][point] * np.repeat(height, count)
    held = np.flatnonzero((np.repeat(boxes[other, 1], count) < y) & (y < np.repeat(boxes[other, 3], count)))
    which, point, y = np.repeat(np.arange(len(mine)), count)[held], point[held], y[held]
    x = left[which] + unit[point, 0] * width[which]
    count = np.bincount(which, minlength=len(mine))
    sides = starts[other + 1] - starts[other]
    inside = np.ones(which.size, dtype=np.bool_)
    for side in range(int(sides.max(initial=0))):
        there = side < sides
        a, b, c = np.where(there, edges[np.where(there, starts[other] + side, 0)].T, [[0.0], [0.0], [1.0]])
        inside &= np.repeat(a, count) * x + np.repeat(b, count) * y + np.repeat(c, count) > 0
    which = which[inside]
    return np.searchsorted(which, np.arange(len(mine) + 1)), point[inside], x[inside], y[inside]


def plain_holds(edges: Array, x: Array, y: Array) -> NDArray[np.bool_]:
    """Return whether the convex polygon with the given edges contains points, as :func:`holds` does of one."""
    a, b, c = edges.T[:, :, None]
    return np.asarray((a * x + b * y + c > 0).all(axis=0))
