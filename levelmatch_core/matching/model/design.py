"""Compiled loops over the pairs of a problem, which apply the design matrix B without forming it.

The block row of B for the pair (i, j) is -T_i at i and T_j at j, where T moves a member's coefficients to the centroid
of the pair (section 2 of matching/MODEL.md), and turns its slopes where they lie on another grid than the pair. The
functions return B' W B, d - B c, B' y and B c.
"""

import numpy as np

from levelmatch_core.matching.graph_kernels import Floats, Index
from levelmatch_core.process.compilation import njit
from levelmatch_core.process.small_work import compiled_when_large

Geometry = tuple[Index, Index, Floats, Floats, Floats, Floats, float]
"""First and second member of each pair; centres of the members; centroids of the pairs; where members are on several
grids, (K, 2, 2) centroids as either member sees them and (K, 2, 2, 2) turns of their slopes (else empty); pixels over
which a slope is counted."""

_AT_A_TIME = 1 << 16
"""So many numbers stay in the processor's cache."""


@njit(nogil=True, cache=True, inline="always")
def _way(geometry: Geometry, pair: int, side: int, a: int) -> float:  # pragma: no cover - compiled
    """Return the step, pixels, from a member's centre to the centroid of the pair along one axis of its grid."""
    first, second, centres, centroids, places, _, _ = geometry
    end = first[pair] if side == 0 else second[pair]
    if len(places):
        return places[pair, side, a - 1] - centres[end, a - 1]
    return centroids[pair, a - 1] - centres[end, a - 1]


@compiled_when_large(lambda _, weighted: 8 * weighted.size)
@njit(nogil=True, cache=True)
def normal_blocks(  # noqa: C901 - compiled: one loop  # pragma: no cover
    geometry: Geometry, weighted: Floats
) -> tuple[Floats, Floats]:
    """Return (N, k, k) the diagonal blocks of B' W B, and (K, k, k) those in the row of first and column of second.

    Parameters
    ----------
    geometry
        The pairs.
    weighted
        (K, k, k) the block of W of each pair, weight times moments; symmetric.
    """
    first, second, centres, _, _, turns, scale = geometry
    k = weighted.shape[1]
    own, across = np.zeros((len(centres), k, k)), np.empty(weighted.shape)
    ways, right, left = np.zeros((2, k)), np.empty((k, k)), np.empty((k, k))
    for pair in range(first.size):
        ends = (first[pair], second[pair])
        for side in range(2):
            for b in range(1, k):
                ways[side, b] = _way(geometry, pair, side, b) / scale
        for side in range(2):  # W T of either member on the right
            for a in range(k):
                right[a, 0] = weighted[pair, a, 0]
                for b in range(1, k):
                    turned = weighted[pair, a, b]
                    if len(turns):
                        turned = weighted[pair, a, 1] * turns[pair, side, 0, b - 1]
                        turned += weighted[pair, a, 2] * turns[pair, side, 1, b - 1]
                    right[a, b] = turned + ways[side, b] * weighted[pair, a, 0]
            _turned_rows(turns, pair, side, right, left)
            for b in range(k):
                own[ends[side], 0, b] += right[0, b]
                for a in range(1, k):
                    own[ends[side], a, b] += left[a, b] + ways[side, a] * right[0, b]
        _turned_rows(turns, pair, 0, right, left)
        for b in range(k):
            across[pair, 0, b] = -right[0, b]
            for a in range(1, k):
                across[pair, a, b] = -left[a, b] - ways[0, a] * right[0, b]
    return own, across


@njit(nogil=True, cache=True, inline="always")
def _turned_rows(turns: Floats, pair: int, side: int, rows: Floats, out: Floats) -> None:  # pragma: no cover - compiled
    """Write the rows of slopes of a matrix, from the grid of a pair back to that of one of its members."""
    k = len(rows)
    for b in range(k):
        for a in range(1, k):
            out[a, b] = rows[a, b]
            if len(turns):
                out[a, b] = turns[pair, side, 0, a - 1] * rows[1, b] + turns[pair, side, 1, a - 1] * rows[2, b]


@compiled_when_large(lambda _, delta, *__: 4 * delta.size)
@njit(nogil=True, cache=True)
def pair_residuals(geometry: Geometry, delta: Floats, corrections: Floats) -> Floats:  # pragma: no cover - compiled
    """Return (K, k) d - B c: the residuals of the pairs' differences for corrections c (N, k)."""
    first, second, _, _, _, turns, scale = geometry
    left = delta.copy()
    k = delta.shape[1]
    for pair in range(first.size):
        i, j = first[pair], second[pair]
        level = corrections[j, 0] - corrections[i, 0]
        for a in range(1, k):
            if len(turns):
                for b in range(1, k):
                    left[pair, a] -= turns[pair, 1, a - 1, b - 1] * corrections[j, b]
                    left[pair, a] += turns[pair, 0, a - 1, b - 1] * corrections[i, b]
            else:
                left[pair, a] -= corrections[j, a] - corrections[i, a]
            level += corrections[j, a] * _way(geometry, pair, 1, a) / scale
            level -= corrections[i, a] * _way(geometry, pair, 0, a) / scale
        left[pair, 0] -= level
    return left


@compiled_when_large(lambda _, pulls, *__: 4 * pulls.size)
@njit(nogil=True, cache=True)
def to_members(geometry: Geometry, pulls: Floats, total: Floats) -> None:  # pragma: no cover - compiled
    """Add B' y to `total` (N, k), for values y (K, k) of the pairs."""
    first, second, _, _, _, turns, scale = geometry
    k = pulls.shape[1]
    for pair in range(first.size):
        i, j = first[pair], second[pair]
        total[j, 0] += pulls[pair, 0]
        total[i, 0] -= pulls[pair, 0]
        for a in range(1, k):
            there, here = pulls[pair, a], pulls[pair, a]
            if len(turns):
                there = turns[pair, 1, 0, a - 1] * pulls[pair, 1] + turns[pair, 1, 1, a - 1] * pulls[pair, 2]
                here = turns[pair, 0, 0, a - 1] * pulls[pair, 1] + turns[pair, 0, 1, a - 1] * pulls[pair, 2]
            total[j, a] += there + pulls[pair, 0] * _way(geometry, pair, 1, a) / scale
            total[i, a] -= here + pulls[pair, 0] * _way(geometry, pair, 0, a) / scale


def to_pairs(geometry: Geometry, corrections: Floats) -> Floats:
    """Return (K, k, M) B c: the differences of the pairs that corrections c (N, k, M) imply.

    Of many columns, numpy's passes over a part of the pairs cost what compiled ones would.
    """
    first, second, centres, centroids, places, turns, scale = geometry
    _, k, several = corrections.shape
    made = np.empty((first.size, k, several))
    step = max(1, _AT_A_TIME // max(k * several, 1))
    for start in range(0, first.size, step):
        part, made_here = slice(start, start + step), made[start : start + step]
        ends = first[part], second[part]
        here, there = (corrections[each] for each in ends)
        np.subtract(there, here, out=made_here)
        for a in range(1, k):
            at = [places[part, side, a - 1] if len(places) else centroids[part, a - 1] for side in range(2)]
            mine, other = (((at[side] - centres[ends[side], a - 1]) / scale)[:, None] for side in range(2))
            made_here[:, 0] += other * there[:, a] - mine * here[:, a]
            if len(turns):
                made_here[:, a] = 0.0
                for b in range(1, k):
                    made_here[:, a] += turns[part, 1, a - 1, b - 1, None] * there[:, b]
                    made_here[:, a] -= turns[part, 0, a - 1, b - 1, None] * here[:, b]
    return made
