"""What the exposures' noise does to the scores of the normal equations, shared by all pairs over the same pixels.

Each member i is given a pixel variance s_i^2 (rms_ij^2 = s_i^2 + s_j^2 over its pairs) and a few hundred evenly spread
sample points. At each point the noise of the member enters the score of every pair whose overlap holds it, so that
coverage by three and more members counts as it is. S, the covariance of the scores, is the sum over members and points
of these scores' outer squares: positive by construction. Each pair's own variance is made exact: its points are
moment-matched to the overlap's true moments, and scaled to its standard error.

The part of a median's variance that exceeds the mean's, about (pi/2 - 1) rms^2 / n, is taken as independent between
pairs: signs of differences that share an exposure (rho = 1/2) correlate by arcsin(rho) = 0.52.
"""

from dataclasses import dataclass, replace

import numpy as np
import shapely
from numba import njit
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from levelmatch_core.matching.graph_kernels import neighbours
from levelmatch_core.matching.linear.cholesky import Cholesky
from levelmatch_core.matching.linear.nested_dissection import Elimination
from levelmatch_core.matching.linear.normal_equations import DENSE_UNKNOWNS
from levelmatch_core.matching.model.design import Geometry
from levelmatch_core.matching.model.problem import Array, Index, Problem
from levelmatch_core.matching.uncertainty.packed_roots import as_rows, covariance_times, spread

POINTS = 600
"""Sample points a member."""
FEWEST = 12
"""A pair with fewer sample points in its overlap is taken as independent of the others."""
TINY = 1e-12
"""Added to moments, whose members' half size is 1, so that an overlap that is a line has a root."""
SPLIT_PRIOR = 1e-3
"""Weight of the wish that members are equally noisy, where the pairs do not tell (a single pair, a chain)."""
WEIGHTIEST = 1e3
"""Most weight of a pair's equation over the typical one's: noise-free pairs have no end of it."""
NO_PIVOT = 1e-14
"""Pivots below this part of the largest are rounding."""

Shapes = tuple[Array, Index, Array]
"""Convex polygons: (E, 3) half planes a x + b y + c > 0 inside; (N + 1,) where each polygon's start; (N, 4) boxes."""


def pixel_variances(problem: Problem) -> Array:
    """Return (N,) each member's pixel variance s_i^2, by least squares of rms_ij^2 = s_i^2 + s_j^2, none negative.

    Where the pairs leave the split open (a bipartite graph), members of equal noise are preferred.
    """
    n = len(problem.names)
    square = problem.rms**2  # infinite where a difference was given, and not measured
    measured = square[np.isfinite(square)]
    typical = float(np.median(measured)) / 2 if len(measured) else 1.0
    # relative equations, each about 1, and N weak ones s_i^2 = typical
    weight = np.minimum(typical / square, WEIGHTIEST) ** 2
    told = weight * np.where(np.isfinite(square), square, 0.0) / typical
    own, right = np.full(n, SPLIT_PRIOR**2), np.full(n, SPLIT_PRIOR**2)
    for ends in (problem.first, problem.second):
        own += np.bincount(ends, weights=weight, minlength=n)
        right += np.bincount(ends, weights=told, minlength=n)
    if n <= DENSE_UNKNOWNS:
        matrix = np.diag(own)
        np.add.at(matrix, (problem.first, problem.second), weight)
        np.add.at(matrix, (problem.second, problem.first), weight)
        solved = np.linalg.solve(matrix, right)
    else:
        plan = Elimination.of(problem.centres, problem.first, problem.second, np.zeros(n, dtype=bool))
        factor = Cholesky.of(plan, own.reshape(n, 1, 1), weight.reshape(-1, 1, 1), own.reshape(n, 1) ** -0.5)
        solved = factor.solve(right)
    return typical * np.maximum(solved, 1e-6)


@dataclass(frozen=True)
class PairNoise:
    """The noise of all pairs' differences as draws of white noise make it.

    It is told as y = M d, the error d of a pair's difference times its moments: the scores are the sum of weight B' y.
    """

    problem: Problem
    roots: Array
    """(K, k, k) lower roots of the moments."""
    alone: Array
    """(K,) variance of each pair's level that it shares with no other."""
    begin: Index
    """(N + 1,) where each member's pairs start."""
    number: Index
    """The pairs of each member over which its noise is shared."""
    starts: Index
    """(N + 1,) where each member's root starts."""
    packed: Array
    """Root of the covariance, between a member's pairs, of what its noise makes of y (see `roots`)."""

    @classmethod
    def of(cls, problem: Problem) -> "PairNoise":
        """Sample the noise of a component's members."""
        k = problem.k
        shapes = shapes_of(problem.outlines)
        unit = spread_evenly(POINTS)
        ends = np.stack([problem.first, problem.second], axis=1)
        root = np.asarray(np.linalg.cholesky(problem.moments + TINY * np.eye(k)), dtype=float)
        inside, sums = _inside(unit, shapes, ends, problem.centroids, problem.scale, k)
        sampled = inside.min(axis=1) >= FEWEST
        shared = np.where(sampled, problem.variance * problem.shared, 0.0)
        variances = pixel_variances(problem)[ends]
        part = shared[:, None] * variances / variances.sum(axis=1)[:, None] / np.maximum(inside, 1)
        # the basis [1, x, y] at the points, transformed so that its mean outer square is the overlap's
        own = np.linalg.cholesky(sums / np.maximum(inside, 1)[:, :, None, None] + TINY * np.eye(k))
        matched = root[:, None] @ np.linalg.inv(own)
        matched *= (np.array([-1.0, 1.0]) * np.sqrt(part))[:, :, None, None]
        counting = np.flatnonzero(sampled)
        begin, beside, number = neighbours(len(problem.names), ends[counting, 0], ends[counting, 1])
        number = counting[number]
        starts, packed = _by_member(unit, shapes, (begin, beside, number), problem.geometry, matched)
        alone = np.maximum(problem.variance - shared, 0.0)
        return cls(problem, root, alone, begin, number, starts, packed)

    def with_excess_scatter(self, excess_scatter: float) -> "PairNoise":
        """Return the noise with one more error of every measured pair's level, of this 1 sigma."""
        if excess_scatter == 0:
            return self
        return replace(self, alone=self.alone + np.where(np.isfinite(self.problem.rms), excess_scatter**2, 0.0))

    @property
    def sources(self) -> int:
        """Independent sources of noise: k of each pair alone, and k of each member for each pair, `POINTS` at most."""
        return self.problem.delta.size + int(np.minimum(self.problem.k * np.diff(self.begin), POINTS).sum())

    def draw(self, noise: Array) -> Array:
        """Return (K, k) the y that white noise (sources,) makes."""
        own = self.problem.delta.size
        drawn = np.sqrt(self.alone)[:, None] * np.einsum(
            "nab,nb->na", self.roots, noise[:own].reshape(-1, self.problem.k)
        )
        spread(self.begin, self.number, (self.starts, self.packed, POINTS), noise[own:], drawn)
        return drawn

    def covariance_times(self, values: Array) -> Array:
        """Return (K, k) the covariance of y times values (K, k)."""
        back = np.einsum("nba,nb->na", self.roots, values)
        product = self.alone[:, None] * np.einsum("nab,nb->na", self.roots, back)
        covariance_times(self.begin, self.number, (self.starts, self.packed, POINTS), values, product)
        return product

    def shared_factor(self) -> csr_array:
        """Return F (R, K k): F'F is the covariance of y that the members' noise makes."""
        values, columns, starts = as_rows(self.begin, self.number, (self.starts, self.packed, POINTS), self.problem.k)
        return csr_array((values, columns, starts), shape=(len(starts) - 1, self.problem.delta.size))


def right_hand_side_factor(problem: Problem, noise: PairNoise | None = None) -> csr_array:
    """Return H (R, N k): the covariance of the scores is H'H; each row is what one unit of one noise source makes.

    Parameters
    ----------
    problem
        The component.
    noise
        Of its pairs, where it is there already.
    """
    noise = noise or PairNoise.of(problem)
    own = block_diagonal(np.sqrt(noise.alone)[:, None, None] * noise.roots.transpose(0, 2, 1))
    own = own[np.repeat(noise.alone > 0, problem.k)]
    weighted = design(problem).T * np.repeat(problem.weights, problem.k)
    return csr_array(vstack([own, noise.shared_factor()]) @ weighted.T)


def design(problem: Problem) -> csr_array:
    """Return B (K k, N k): from the corrections to what they make of each pair's difference."""
    k, pairs = problem.k, len(problem.rms)
    row = (np.arange(pairs)[:, None, None] * k + np.arange(k)[:, None]) + np.zeros(k, dtype=np.int64)
    inner = np.zeros((k, 1), dtype=np.int64) + np.arange(k)
    column = [end[:, None, None] * k + inner for end in (problem.first, problem.second)]
    value = [-problem.shifts(problem.first), problem.shifts(problem.second)]
    entries = np.concatenate(value).ravel(), (np.concatenate([row, row]).ravel(), np.concatenate(column).ravel())
    return csr_array(entries, shape=(pairs * k, len(problem.names) * k))


def times_blocks(matrix: Array, blocks: Array) -> Array:
    """Return a matrix (R, K k) times that with blocks (K, k, k) along its diagonal."""
    count, k, _ = blocks.shape
    return np.asarray(matrix.reshape(-1, count, k).transpose(1, 0, 2) @ blocks).transpose(1, 0, 2).reshape(matrix.shape)


def block_diagonal(blocks: Array) -> csr_array:
    """Return (K k, K k) the matrix with blocks (K, k, k) along its diagonal."""
    count, k, _ = blocks.shape
    columns = np.repeat(np.arange(count * k).reshape(count, k), k, axis=0)
    return csr_array((blocks.ravel(), columns.ravel(), np.arange(0, blocks.size + 1, k)), shape=(count * k, count * k))


def shapes_of(polygons: tuple[object, ...] | NDArray[np.object_]) -> Shapes:
    """Return convex polygons (shapely) as compiled loops take them: edges, where each one's start, and boxes."""
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
def holds(edges: Array, start: int, stop: int, x: float, y: float) -> bool:  # pragma: no cover - compiled
    """Return whether a convex polygon, whose edges are the given ones, holds a point."""
    for e in range(start, stop):  # noqa: SIM110 - compiled
        if not edges[e, 0] * x + edges[e, 1] * y + edges[e, 2] > 0:
            return False
    return True


@njit(nogil=True, cache=True)
def _before(unit: Array, x: float) -> int:  # pragma: no cover - compiled
    """Return how many points, which are in the order of x, come before it."""
    low, high = 0, len(unit)
    while low < high:
        middle = (low + high) // 2
        if unit[middle, 0] < x:
            low = middle + 1
        else:
            high = middle
    return low


@njit(nogil=True, cache=True)
def _reach(unit: Array, boxes: Array, mine: int, other: int) -> tuple[int, int]:  # pragma: no cover - compiled
    """Return which of a member's points may lie in another one: from, and up to."""
    width = boxes[mine, 2] - boxes[mine, 0]
    low, high = (boxes[other, 0] - boxes[mine, 0]) / width, (boxes[other, 2] - boxes[mine, 0]) / width
    return _before(unit, low), _before(unit, high)


@njit(nogil=True, cache=True)
def _inside(  # noqa: PLR0917 - compiled  # pragma: no cover
    unit: Array, shapes: Shapes, ends: Index, centroids: Array, scale: float, k: int
) -> tuple[Index, Array]:
    """Return (K, 2) how many points of either member lie in the other, and (K, 2, k, k) their summed moments."""
    edges, starts, boxes = shapes
    count = np.zeros(ends.shape, dtype=np.int64)
    sums = np.zeros((len(ends), 2, k, k))
    basis = np.ones(3)
    for pair in range(len(ends)):
        for side in range(2):
            mine, other = ends[pair, side], ends[pair, 1 - side]
            low, high = _reach(unit, boxes, mine, other)
            start, stop, bottom, top = starts[other], starts[other + 1], boxes[other, 1], boxes[other, 3]
            for q in range(low, high):
                x = boxes[mine, 0] + unit[q, 0] * (boxes[mine, 2] - boxes[mine, 0])
                y = boxes[mine, 1] + unit[q, 1] * (boxes[mine, 3] - boxes[mine, 1])
                if bottom < y < top and holds(edges, start, stop, x, y):
                    count[pair, side] += 1
                    basis[1], basis[2] = (x - centroids[pair, 0]) / scale, (y - centroids[pair, 1]) / scale
                    for a in range(k):
                        for b in range(k):
                            sums[pair, side, a, b] += basis[a] * basis[b]
    return count, sums


@njit(nogil=True, cache=True)
def _by_member(  # noqa: C901, PLR0912 - compiled: one loop  # pragma: no cover
    unit: Array, shapes: Shapes, lists: tuple[Index, Index, Index], geometry: Geometry, matched: Array
) -> tuple[Index, Array]:
    """Return where each member's root starts, and the roots: of the covariance that its noise makes between its pairs.

    (Cholesky, with vanishing pivots passed over: there may be fewer points than pairs. Where there are far fewer, what
    each point makes is a root as it is.)
    """
    edges, corners, boxes = shapes
    begin, beside, number = lists
    first, _, _, centroids, scale = geometry
    n, k, points, most = len(boxes), matched.shape[2], len(unit), 0
    starts = np.zeros(n + 1, dtype=np.int64)
    for member in range(n):
        wide = k * (begin[member + 1] - begin[member])
        starts[member + 1] = starts[member] + (wide * (wide + 1) // 2 if wide <= points else wide * points)
        most = max(most, begin[member + 1] - begin[member])
    packed, noise = np.zeros(starts[n]), np.empty(k * most)
    many, holders = np.empty(len(unit), dtype=np.int64), np.empty((len(unit), most), dtype=np.int64)
    for member in range(n):
        low, high = begin[member], begin[member + 1]
        wide = k * (high - low)
        gram = np.zeros((wide, wide) if wide <= points else (0, 0))
        at = starts[member]
        x0, y0 = boxes[member, 0], boxes[member, 1]
        width, height = boxes[member, 2] - x0, boxes[member, 3] - y0
        for q in range(len(unit)):
            many[q] = 0
        for place in range(low, high):
            other = beside[place]
            left, right = _reach(unit, boxes, member, other)
            start, stop, bottom, top = corners[other], corners[other + 1], boxes[other, 1], boxes[other, 3]
            for q in range(left, right):
                x, y = x0 + unit[q, 0] * width, y0 + unit[q, 1] * height
                if bottom < y < top and holds(edges, start, stop, x, y):
                    holders[q, many[q]] = place
                    many[q] += 1
        for q in range(len(unit)):
            x, y = x0 + unit[q, 0] * width, y0 + unit[q, 1] * height
            for i in range(many[q]):
                pair = number[holders[q, i]]
                side, slot = 0 if first[pair] == member else 1, k * (holders[q, i] - low)
                for a in range(k):
                    value = matched[pair, side, a, 0]
                    for b in range(1, k):
                        value += matched[pair, side, a, b] * ((x if b == 1 else y) - centroids[pair, b - 1]) / scale
                    noise[slot + a] = value
                    if wide > points:
                        packed[at + (slot + a) * points + q] = value
                for j in range(i + 1 if wide <= points else 0):
                    other = k * (holders[q, j] - low)
                    for a in range(k):
                        for b in range(k):
                            gram[slot + a, other + b] += noise[slot + a] * noise[other + b]
        semidefinite_root(gram)
        for r in range(len(gram)):
            for c in range(r + 1):
                packed[at] = gram[r, c]
                at += 1
    return starts, packed


@njit(nogil=True, cache=True)
def semidefinite_root(matrix: Array) -> None:  # pragma: no cover - compiled
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
