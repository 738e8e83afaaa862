"""The effect of pixel noise on the right-hand side b = B' W d, where all pairs over the same pixels share their noise.

Each member i is assigned a pixel variance s_i^2 (from rms_ij^2 = s_i^2 + s_j^2 over its pairs) and a few hundred evenly
spaced sample points. The noise of the member at a point enters every pair whose overlap contains that point, so that
overlaps of three and more members are treated correctly. S, the covariance of b, is a sum over members and points of
outer products, and therefore positive semidefinite by construction (section 8 of matching/MODEL.md). The variance of
each single pair is exact: its points are matched to the true moments of the overlap and scaled to its standard error.

The excess of a median's variance over that of a mean, about (pi/2 - 1) rms^2 / n, is taken as independent between
pairs: the signs of differences that share an exposure (rho = 1/2) have a correlation given by arcsin(rho) = 0.52.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_array, vstack

from levelmatch_core.matching.graph_kernels import neighbours
from levelmatch_core.matching.linear.cholesky import Cholesky
from levelmatch_core.matching.linear.nested_dissection import Elimination
from levelmatch_core.matching.linear.normal_equations import DENSE_UNKNOWNS
from levelmatch_core.matching.model.frames import Views, from_centroid
from levelmatch_core.matching.model.problem import Array, Index, Problem
from levelmatch_core.matching.model.sample_points import POINTS, Shapes, holds, points_beside, shapes_of, spread_evenly
from levelmatch_core.matching.uncertainty.packed_roots import as_rows, covariance_times, spread
from levelmatch_core.matching.uncertainty.plain_points import NO_PIVOT, noise_by_member, points_inside
from levelmatch_core.process.compilation import njit
from levelmatch_core.process.small_work import compiled_when_large

FEWEST = 12
"""A pair with fewer sample points in its overlap is treated as independent of the others."""
TINY = 1e-12
"""Added to the diagonal of moments (in units of half a member) so that a one-dimensional overlap has a Cholesky
factor."""
SPLIT_PRIOR = 1e-3
"""Weight of the assumption that members are equally noisy, where the pairs do not determine it (a single pair, a
chain)."""
WEIGHTIEST = 1e3
"""Largest weight of a pair's equation relative to a typical one: that of noise-free pairs would be infinite."""


def pixel_variances(problem: Problem) -> Array:
    """Return (N,) the pixel variance of each member; see :func:`split_variances`."""
    return split_variances(problem.rms, problem.first, problem.second, problem.on_map)


def split_variances(rms: Array, first: Index, second: Index, centres: Array) -> Array:
    """Return (N,) the pixel variance s_i^2 > 0 of each member, by a least-squares fit of rms_ij^2 = s_i^2 + s_j^2.

    Where the pairs do not determine the split (a bipartite graph), equal variances are preferred.

    Parameters
    ----------
    rms
        (K,) scatter of each pair's difference; infinite if the difference was given instead of measured.
    first, second
        (K,) indices of its members.
    centres
        (N, 2) centres of the members.
    """
    n = len(centres)
    square = rms**2  # infinite if a difference was given by the user instead of measured
    measured = square[np.isfinite(square)]
    typical = float(np.median(measured)) / 2 if len(measured) else 1.0
    # equations relative to the typical variance, and N weak ones s_i^2 = typical
    weight = np.minimum(typical / square, WEIGHTIEST) ** 2
    scaled = weight * np.where(np.isfinite(square), square, 0.0) / typical
    own, right = np.full(n, SPLIT_PRIOR**2), np.full(n, SPLIT_PRIOR**2)
    for ends in (first, second):
        own += np.bincount(ends, weights=weight, minlength=n)
        right += np.bincount(ends, weights=scaled, minlength=n)
    if n <= DENSE_UNKNOWNS:
        matrix = np.diag(own)
        np.add.at(matrix, (first, second), weight)
        np.add.at(matrix, (second, first), weight)
        solved = np.linalg.solve(matrix, right)
    else:
        plan = Elimination.of(centres, first, second, np.zeros(n, dtype=bool))
        factor = Cholesky.of(plan, own.reshape(n, 1, 1), weight.reshape(-1, 1, 1), own.reshape(n, 1) ** -0.5)
        solved = factor.solve(right)
    return typical * np.maximum(solved, 1e-6)


def noise_roots(problem: Problem) -> Array:
    """Return (K, k, k) R, where R R' is the covariance of y = M e for errors e of unit level variance.

    The covariance of e is the inverse of the moments that pixels have, whatever weight slopes are given.
    """
    root = np.linalg.cholesky(problem.moments + TINY * np.eye(problem.k))
    return np.asarray(problem.slope_scales[:, None] * root, dtype=float)


def unit_covariances(problem: Problem) -> Array:
    """Return (K, k, k) the covariance of each pair's difference for a level of unit variance."""
    scales, inverse = problem.slope_scales, np.linalg.inv(problem.moments + TINY * np.eye(problem.k))
    return np.asarray(scales[:, None] * inverse * scales, dtype=float)


@dataclass(frozen=True)
class PairNoise:
    """The noise of the differences of all pairs, as a linear function of white noise.

    It is expressed as y = M e, where e is the error of a pair's difference and M its moments (weighted ones, where
    slopes have a weight of their own): the error of the right-hand side b is the sum over pairs of weight times B' y.
    """

    problem: Problem
    roots: Array
    """(K, k, k) lower factors of the covariance of y for a level of unit variance; see :func:`noise_roots`."""
    alone: Array
    """(K,) variance of each pair's level that is not shared with any other pair."""
    begin: Index
    """(N + 1,) where the pairs of each member start in `number`."""
    number: Index
    """The pairs of each member that share its noise."""
    starts: Index
    """(N + 1,) where the factor of each member starts in `packed`."""
    packed: Array
    """Factor of the covariance, between a member's pairs, of the part of y that its noise causes (see
    `packed_roots`)."""

    @classmethod
    def of(cls, problem: Problem) -> "PairNoise":
        """Sample the noise of the members of a component."""
        k = problem.k
        shapes = shapes_of((*problem.outlines, *problem.facing.outlines))
        unit = spread_evenly(POINTS)
        ends = np.stack([problem.first, problem.second], axis=1)
        seen = ends[:, ::-1] if problem.facing.seen is None else problem.facing.seen
        root = noise_roots(problem)
        views = problem.views
        within, sums = _inside(unit, shapes, ends, np.ascontiguousarray(seen), views, problem.scale, k)
        sampled = within.min(axis=1) >= FEWEST
        shared = np.where(sampled, problem.variance * problem.shared, 0.0)
        variances = pixel_variances(problem)[ends]
        part = shared[:, None] * variances / variances.sum(axis=1)[:, None] / np.maximum(within, 1)
        # the basis [1, x, y] at the points, transformed so that its mean outer product equals the moments of the
        # overlap
        own = np.linalg.cholesky(sums / np.maximum(within, 1)[:, :, None, None] + TINY * np.eye(k))
        matched = root[:, None] @ np.linalg.inv(own)
        matched *= (np.array([-1.0, 1.0]) * np.sqrt(part))[:, :, None, None]
        counting = np.flatnonzero(sampled)
        begin, adjacent, number = neighbours(len(problem.names), ends[counting, 0], ends[counting, 1])
        number = counting[number]
        if problem.facing.seen is not None:
            mine = np.repeat(np.arange(len(begin) - 1), np.diff(begin))
            adjacent = seen[number, (problem.second[number] == mine).astype(np.int64)]
        starts, packed = _by_member(
            unit, shapes, (begin, adjacent, number), problem.first, views, problem.scale, matched
        )
        alone = np.maximum(problem.variance - shared, 0.0)
        return cls(problem, root, alone, begin, number, starts, packed)

    def with_excess_scatter(self, excess_scatter: float) -> "PairNoise":
        """Return the noise with an additional independent error of every measured pair's level, of this 1 sigma."""
        if excess_scatter == 0:
            return self
        return replace(self, alone=self.alone + np.where(np.isfinite(self.problem.rms), excess_scatter**2, 0.0))

    def with_structure(self) -> "PairNoise":
        """Return the noise with the additional variance of each pair (`Problem.structure`)."""
        return replace(self, alone=self.alone + self.problem.structure_variance)

    @property
    def sources(self) -> int:
        """Number of independent sources: k for each pair and, for each member, k per pair but at most `POINTS`."""
        return self.problem.delta.size + int(np.minimum(self.problem.k * np.diff(self.begin), POINTS).sum())

    def draw(self, noise: Array) -> Array:
        """Return (K, k) the y that results from white noise (sources,)."""
        own = self.problem.delta.size
        drawn = np.sqrt(self.alone)[:, None] * np.einsum(
            "nab,nb->na", self.roots, noise[:own].reshape(-1, self.problem.k)
        )
        spread(self.begin, self.number, (self.starts, self.packed, POINTS), noise[own:], drawn)
        return drawn

    def covariance_times(self, values: Array) -> Array:
        """Return (K, k) the product of the covariance of y and values (K, k)."""
        back = np.einsum("nba,nb->na", self.roots, values)
        product = self.alone[:, None] * np.einsum("nab,nb->na", self.roots, back)
        covariance_times(self.begin, self.number, (self.starts, self.packed, POINTS), values, product)
        return product

    def shared_factor(self) -> csr_array:
        """Return F (R, K k), where F'F is the covariance of y due to the noise of the members."""
        values, columns, starts = as_rows(self.begin, self.number, (self.starts, self.packed, POINTS), self.problem.k)
        return csr_array((values, columns, starts), shape=(len(starts) - 1, self.problem.delta.size))


def right_hand_side_factor(problem: Problem) -> csr_array:
    """Return F (R, N k), where S = F'F is the covariance of b; each row is the response to one unit noise source."""
    noise = PairNoise.of(problem)
    own = block_diagonal(np.sqrt(noise.alone)[:, None, None] * noise.roots.transpose(0, 2, 1))
    own = own[np.repeat(noise.alone > 0, problem.k)]
    weighted = design(problem).T * np.repeat(problem.weights, problem.k)
    return csr_array(vstack([own, noise.shared_factor()]) @ weighted.T)


def design(problem: Problem) -> csr_array:
    """Return the design matrix B (K k, N k), which maps corrections to the differences of the pairs."""
    k, pairs = problem.k, len(problem.rms)
    row = (np.arange(pairs)[:, None, None] * k + np.arange(k)[:, None]) + np.zeros(k, dtype=np.int64)
    inner = np.zeros((k, 1), dtype=np.int64) + np.arange(k)
    column = [end[:, None, None] * k + inner for end in (problem.first, problem.second)]
    value = [-problem.shifts(0), problem.shifts(1)]
    entries = np.concatenate(value).ravel(), (np.concatenate([row, row]).ravel(), np.concatenate(column).ravel())
    return csr_array(entries, shape=(pairs * k, len(problem.names) * k))


def times_blocks(matrix: Array, blocks: Array) -> Array:
    """Return the product of a matrix (R, K k) and the block-diagonal matrix of blocks (K, k, k)."""
    count, k, _ = blocks.shape
    return np.asarray(matrix.reshape(-1, count, k).transpose(1, 0, 2) @ blocks).transpose(1, 0, 2).reshape(matrix.shape)


def block_diagonal(blocks: Array) -> csr_array:
    """Return (K k, K k) the block-diagonal matrix of blocks (K, k, k)."""
    count, k, _ = blocks.shape
    columns = np.repeat(np.arange(count * k).reshape(count, k), k, axis=0)
    return csr_array((blocks.ravel(), columns.ravel(), np.arange(0, blocks.size + 1, k)), shape=(count * k, count * k))


@compiled_when_large(lambda _, __, ends, *___: 50 * ends.size, points_inside)
@njit(nogil=True, cache=True)
def _inside(  # noqa: PLR0917 - compiled  # pragma: no cover
    unit: Array, shapes: Shapes, ends: Index, seen: Index, views: Views, scale: float, k: int
) -> tuple[Index, Array]:
    """Return (K, 2) the number of points of each member within the other, and (K, 2, k, k) their summed moments.

    `seen` is the polygon of the other member, as each member sees it.
    """
    edges, starts, boxes = shapes
    count = np.zeros(ends.shape, dtype=np.int64)
    sums = np.zeros((len(ends), 2, k, k))
    basis = np.ones(3)
    for pair in range(len(ends)):
        for side in range(2):
            mine, other = ends[pair, side], seen[pair, side]
            low, high = points_beside(unit, boxes, mine, other)
            start, stop, bottom, top = starts[other], starts[other + 1], boxes[other, 1], boxes[other, 3]
            for q in range(low, high):
                x = boxes[mine, 0] + unit[q, 0] * (boxes[mine, 2] - boxes[mine, 0])
                y = boxes[mine, 1] + unit[q, 1] * (boxes[mine, 3] - boxes[mine, 1])
                if bottom < y < top and holds(edges, start, stop, x, y):
                    count[pair, side] += 1
                    right, up = from_centroid(views, pair, side, x, y)
                    basis[1], basis[2] = right / scale, up / scale
                    for a in range(k):
                        for b in range(k):
                            sums[pair, side, a, b] += basis[a] * basis[b]
    return count, sums


@compiled_when_large(
    lambda _, __, lists, *rest: lists[1].size * rest[-1].shape[2] ** 2 * (100 + 3 * lists[1].size // len(lists[0])),
    noise_by_member,
)
@njit(nogil=True, cache=True)
def _by_member(  # noqa: C901, PLR0912, PLR0917 - compiled: one loop  # pragma: no cover
    unit: Array,
    shapes: Shapes,
    lists: tuple[Index, Index, Index],
    first: Index,
    views: Views,
    scale: float,
    matched: Array,
) -> tuple[Index, Array]:
    """Return where each member's factor starts, and the factors of the covariance between its pairs due to its noise.

    These are Cholesky factors in which vanishing pivots are skipped, since there may be fewer points than pairs. If
    there are far fewer, the responses to the single points are used as the factor.
    """
    edges, corners, boxes = shapes
    begin, adjacent, number = lists
    n, k, points, most = len(begin) - 1, matched.shape[2], len(unit), 0
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
            other = adjacent[place]
            left, right = points_beside(unit, boxes, member, other)
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
                right, up = from_centroid(views, pair, side, x, y)
                for a in range(k):
                    value = matched[pair, side, a, 0]
                    for b in range(1, k):
                        value += matched[pair, side, a, b] * (right if b == 1 else up) / scale
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
    """Replace a positive semidefinite matrix, of which the lower triangle is read, by its lower Cholesky factor."""
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
