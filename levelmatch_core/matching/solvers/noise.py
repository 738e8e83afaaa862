"""What the exposures' noise does to the scores of the normal equations, shared by all pairs over the same pixels.

Each member i is given a pixel variance s_i^2 (rms_ij^2 = s_i^2 + s_j^2 over its pairs) and a few hundred evenly spread
sample points. At each point the noise of the member enters the score of every pair whose overlap holds it, so that
coverage by three and more members counts as it is. S, the covariance of the scores, is the sum over members and points
of these scores' outer squares: positive by construction. Each pair's own variance is made exact: its points are
moment-matched to the overlap's true moments, and scaled to its standard error.

The part of a median's variance that exceeds the mean's, about (pi/2 - 1) rms^2 / n, is taken as independent between
pairs: signs of differences that share an exposure (rho = 1/2) correlate by arcsin(rho) = 0.52.
"""

import numpy as np
import shapely
from numba import njit
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array, vstack
from scipy.sparse.linalg import lsqr

from levelmatch_core.matching.kernels import neighbours
from levelmatch_core.matching.solvers.problem import Array, Index, Problem

POINTS = 600
"""Sample points a member."""
FEWEST = 12
"""A pair with fewer sample points in its overlap is taken as independent of the others."""
TINY = 1e-12
"""Added to moments, whose members' half size is 1, so that an overlap that is a line has a root."""
SPLIT_PRIOR = 1e-3
"""Weight of the wish that members are equally noisy, where the pairs do not tell (a single pair, a chain)."""
NO_PIVOT = 1e-14
"""Pivots below this part of the largest are rounding."""

Shapes = tuple[Array, Index, Array]
"""Convex polygons: (E, 3) half planes a x + b y + c > 0 inside; (N + 1,) where each polygon's start; (N, 4) boxes."""


def pixel_variances(problem: Problem) -> Array:
    """Return (N,) each member's pixel variance s_i^2, by least squares of rms_ij^2 = s_i^2 + s_j^2, none negative.

    Where the pairs leave the split open (a bipartite graph), members of equal noise are preferred.
    """
    n, pairs = len(problem.names), len(problem.rms)
    square = problem.rms**2  # infinite where a difference was given, and not measured
    measured = square[np.isfinite(square)]
    typical = float(np.median(measured)) / 2 if len(measured) else 1.0
    # relative equations, each about 1, and N weak ones s_i^2 = typical
    row = np.concatenate([np.arange(pairs), np.arange(pairs), pairs + np.arange(n)])
    column = np.concatenate([problem.first, problem.second, np.arange(n)])
    value = np.concatenate([typical / square, typical / square, np.full(n, SPLIT_PRIOR)])
    system = csr_array((value, (row, column)), shape=(pairs + n, n))
    right = np.concatenate([np.ones(pairs), np.full(n, SPLIT_PRIOR)])
    few = n <= 1000
    tolerance, most = (1e-10, 4 * n + 100) if few else (1e-4, 300)
    solved = lsqr(system, right, atol=tolerance, btol=tolerance, iter_lim=most, x0=np.ones(n))[0]
    return typical * np.maximum(solved, 1e-6)


def score_factor(problem: Problem) -> csr_array:
    """Return H (R, N k): the covariance of the scores is H'H; each row is what one unit of one noise source makes.

    Parameters
    ----------
    problem
        The component.
    """
    k, n, pairs = problem.k, len(problem.names), len(problem.rms)
    shapes = _shapes_of(problem.outlines)
    unit = spread_evenly(POINTS)
    ends = np.stack([problem.first, problem.second], axis=1)
    root = np.linalg.cholesky(problem.moments + TINY * np.eye(k))
    # what a unit of each pair's plane at its centroid does to the scores of its two members
    shifts = [-problem.shifts(problem.first), problem.shifts(problem.second)]
    reach = problem.weights[:, None, None] * np.concatenate(shifts, axis=2)
    inside, sums = _inside(unit, shapes, ends, problem.centroids, problem.scale)
    sampled = inside.min(axis=1) >= FEWEST
    shared = np.where(sampled, problem.variance * problem.shared, 0.0)
    variances = pixel_variances(problem)[ends]
    part = shared[:, None] * variances / variances.sum(axis=1)[:, None] / np.maximum(inside, 1)
    # the basis [1, x, y] at the points, transformed so that its mean outer square is the overlap's
    own = np.linalg.cholesky(sums[:, :, :k, :k] / np.maximum(inside, 1)[:, :, None, None] + TINY * np.eye(k))
    matched = np.linalg.inv(own).transpose(0, 1, 3, 2) @ (root.transpose(0, 2, 1) @ reach)[:, None]
    matched *= (np.array([-1.0, 1.0]) * np.sqrt(part))[:, :, None, None]
    alone = np.sqrt(np.maximum(problem.variance - shared, 0.0))[:, None, None] * (root.transpose(0, 2, 1) @ reach)
    alone = alone[problem.variance > shared]
    columns = (ends[problem.variance > shared][:, :, None] * k + np.arange(k)).reshape(-1, 1, 2 * k)
    rows = np.arange(len(alone) * k).reshape(-1, k, 1)
    row, column = (np.broadcast_to(index, alone.shape).ravel() for index in (rows, columns))
    by_pair = csr_array(coo_array((alone.ravel(), (row, column)), shape=(len(alone) * k, n * k)))
    values, indices, starts = _by_member(
        unit, shapes, ends[sampled], problem.centroids[sampled], problem.scale, matched[sampled]
    )
    by_member = csr_array((values, indices, starts), shape=(len(starts) - 1, n * k))
    return csr_array(vstack([by_pair, by_member])) if pairs else by_pair


def _shapes_of(polygons: tuple[object, ...] | NDArray[np.object_]) -> Shapes:
    shapes = shapely.orient_polygons(np.asarray(polygons, dtype=object))
    corners, owner = shapely.get_coordinates(shapes, return_index=True)
    step = np.roll(corners, -1, axis=0) - corners
    edges = np.stack([-step[:, 1], step[:, 0], corners[:, 0] * step[:, 1] - corners[:, 1] * step[:, 0]], axis=1)
    closing = np.append(owner[1:] != owner[:-1], [True])  # the last corner is the first again
    count = np.bincount(owner[~closing], minlength=len(shapes))
    starts = np.concatenate([[0], np.cumsum(count)])
    return np.ascontiguousarray(edges[~closing]), starts, np.ascontiguousarray(shapely.bounds(shapes))


def spread_evenly(points: int) -> Array:
    """Return (points, 2) evenly spread points in the unit square, by x: the R2 low-discrepancy sequence.

    A lattice would alias with thin overlaps: one of its columns is in or out as a whole. (M. Roberts 2018, "The
    unreasonable effectiveness of quasirandom sequences": steps of 1/g and 1/g^2 with g^3 = g + 1.)
    """
    golden = 1.324717957244746
    spread = (0.5 + np.arange(points)[:, None] * np.array([1 / golden, 1 / golden**2])) % 1.0
    return np.asarray(spread[np.argsort(spread[:, 0])])


@njit(nogil=True, cache=True, inline="always")
def _holds(edges: Array, start: int, stop: int, x: float, y: float) -> bool:  # pragma: no cover - compiled
    for e in range(start, stop):  # noqa: SIM110 - compiled
        if not edges[e, 0] * x + edges[e, 1] * y + edges[e, 2] > 0:
            return False
    return True


@njit(nogil=True, cache=True, inline="always")
def _reach(unit: Array, boxes: Array, mine: int, other: int) -> tuple[int, int]:  # pragma: no cover - compiled
    """Return which of a member's points, which are in the order of x, may lie in another one."""
    width = boxes[mine, 2] - boxes[mine, 0]
    low = np.searchsorted(unit[:, 0], (boxes[other, 0] - boxes[mine, 0]) / width)
    high = np.searchsorted(unit[:, 0], (boxes[other, 2] - boxes[mine, 0]) / width, side="right")
    return low, high


@njit(nogil=True, cache=True)
def _inside(  # pragma: no cover - compiled
    unit: Array, shapes: Shapes, ends: Index, centroids: Array, scale: float
) -> tuple[Index, Array]:
    """Return (K, 2) how many points of either member lie in the other, and (K, 2, 3, 3) their summed moments."""
    edges, starts, boxes = shapes
    count = np.zeros(ends.shape, dtype=np.int64)
    sums = np.zeros((len(ends), 2, 3, 3))
    basis = np.ones(3)
    for pair in range(len(ends)):
        for side in range(2):
            mine, other = ends[pair, side], ends[pair, 1 - side]
            low, high = _reach(unit, boxes, mine, other)
            for q in range(low, high):
                x = boxes[mine, 0] + unit[q, 0] * (boxes[mine, 2] - boxes[mine, 0])
                y = boxes[mine, 1] + unit[q, 1] * (boxes[mine, 3] - boxes[mine, 1])
                if _holds(edges, starts[other], starts[other + 1], x, y):
                    count[pair, side] += 1
                    basis[1], basis[2] = (x - centroids[pair, 0]) / scale, (y - centroids[pair, 1]) / scale
                    for a in range(3):
                        for b in range(3):
                            sums[pair, side, a, b] += basis[a] * basis[b]
    return count, sums


@njit(nogil=True, cache=True)
def _by_member(  # noqa: C901, PLR0912, PLR0917 - compiled: one loop  # pragma: no cover
    unit: Array, shapes: Shapes, ends: Index, centroids: Array, scale: float, matched: Array
) -> tuple[Array, Index, Index]:
    """Return the factor's rows that are the members' noise, as values, columns and row starts.

    The noise at one member's points touches the scores of it and of its neighbours; their covariance has as many rows
    as it has columns in its root (Cholesky, with vanishing pivots passed over).
    """
    edges, starts, boxes = shapes
    n, k = len(boxes), matched.shape[2]
    begin, beside, number = neighbours(n, np.ascontiguousarray(ends[:, 0]), np.ascontiguousarray(ends[:, 1]))
    size, rows = 0, 0
    for member in range(n):
        wide = k * (1 + begin[member + 1] - begin[member])
        size += wide * (wide + 1) // 2
        rows += wide
    values, columns = np.empty(size), np.empty(size, dtype=np.int64)
    row_starts = np.zeros(rows + 1, dtype=np.int64)
    at, row = 0, 0
    for member in range(n):
        low, high = begin[member], begin[member + 1]
        wide = k * (1 + high - low)
        gram, noise = np.zeros((wide, wide)), np.zeros(wide)
        slots = np.zeros(1 + high - low, dtype=np.int64)
        reach = np.empty((high - low, 2), dtype=np.int64)
        for place in range(low, high):
            reach[place - low] = _reach(unit, boxes, member, beside[place])
        for q in range(len(unit)):
            x = boxes[member, 0] + unit[q, 0] * (boxes[member, 2] - boxes[member, 0])
            y = boxes[member, 1] + unit[q, 1] * (boxes[member, 3] - boxes[member, 1])
            many = 0
            noise[:k] = 0.0
            for place in range(low, high):
                pair, other = number[place], beside[place]
                if not reach[place - low, 0] <= q < reach[place - low, 1]:
                    continue
                if not _holds(edges, starts[other], starts[other + 1], x, y):
                    continue
                side = 0 if ends[pair, 0] == member else 1
                slot = k * (1 + place - low)
                many += 1
                slots[many] = slot
                for a in range(k):
                    mine, theirs = 0.0, 0.0
                    for b in range(k):
                        basis = 1.0
                        if b > 0:
                            basis = ((x if b == 1 else y) - centroids[pair, b - 1]) / scale
                        mine += basis * matched[pair, side, b, side * k + a]
                        theirs += basis * matched[pair, side, b, (1 - side) * k + a]
                    noise[a] += mine
                    noise[slot + a] = theirs
            for i in range(many + 1 if many else 0):
                for j in range(i + 1):
                    for a in range(k):
                        for b in range(k):
                            gram[slots[i] + a, slots[j] + b] += noise[slots[i] + a] * noise[slots[j] + b]
        _semidefinite_root(gram)
        for r in range(wide):
            for c in range(r, wide):
                value = gram[c, r]
                if value != 0:
                    slot, a = c // k, c % k
                    owner = member if slot == 0 else beside[low + slot - 1]
                    values[at], columns[at] = value, owner * k + a
                    at += 1
            row += 1
            row_starts[row] = at
    return values[:at].copy(), columns[:at].copy(), row_starts


@njit(nogil=True, cache=True)
def _semidefinite_root(matrix: Array) -> None:  # pragma: no cover - compiled
    """Put the lower Cholesky factor in the place of a positive semidefinite matrix (its lower triangle is read)."""
    n = len(matrix)
    least = 0.0
    for j in range(n):
        least = max(least, NO_PIVOT * matrix[j, j])
    for j in range(n):
        if matrix[j, j] <= least:
            for i in range(j, n):
                matrix[i, j] = 0.0
            continue
        pivot = np.sqrt(matrix[j, j])
        matrix[j, j] = pivot
        for i in range(j + 1, n):
            matrix[i, j] /= pivot
        for c in range(j + 1, n):
            if matrix[c, j] != 0:
                for i in range(c, n):
                    matrix[i, c] -= matrix[i, j] * matrix[c, j]
