"""Compiled loops over the pairs of a problem, which apply the design matrix B without forming it.

The block row of B for the pair (i, j) is -T_i at i and T_j at j, where T moves a member's coefficients to the centroid
of the pair (section 2 of matching/MODEL.md). The functions return B' W B, d - B c, B' y and B c.
"""

import numpy as np

from levelmatch_core.matching.graph_kernels import Floats, Index
from levelmatch_core.process.compilation import njit

Geometry = tuple[Index, Index, Floats, Floats, float]
"""First and second member of each pair; centres of the members; centroids of the pairs; pixels over which a slope is
counted."""


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
    first, second, centres, centroids, scale = geometry
    k = weighted.shape[1]
    own, across = np.zeros((len(centres), k, k)), np.empty(weighted.shape)
    ways, right = np.zeros((2, k)), np.empty((k, k))
    for pair in range(first.size):
        ends = (first[pair], second[pair])
        for side in range(2):
            for b in range(1, k):
                ways[side, b] = (centroids[pair, b - 1] - centres[ends[side], b - 1]) / scale
        for side in range(2):  # W T of either member on the right
            for a in range(k):
                right[a, 0] = weighted[pair, a, 0]
                for b in range(1, k):
                    right[a, b] = weighted[pair, a, b] + ways[side, b] * weighted[pair, a, 0]
            for b in range(k):
                own[ends[side], 0, b] += right[0, b]
                for a in range(1, k):
                    own[ends[side], a, b] += right[a, b] + ways[side, a] * right[0, b]
        for b in range(k):
            across[pair, 0, b] = -right[0, b]
            for a in range(1, k):
                across[pair, a, b] = -right[a, b] - ways[0, a] * right[0, b]
    return own, across


@njit(nogil=True, cache=True)
def pair_residuals(geometry: Geometry, delta: Floats, corrections: Floats) -> Floats:  # pragma: no cover - compiled
    """Return (K, k) d - B c: the residuals of the pairs' differences for corrections c (N, k)."""
    first, second, centres, centroids, scale = geometry
    left = delta.copy()
    k = delta.shape[1]
    for pair in range(first.size):
        i, j = first[pair], second[pair]
        level = corrections[j, 0] - corrections[i, 0]
        for a in range(1, k):
            left[pair, a] -= corrections[j, a] - corrections[i, a]
            level += corrections[j, a] * (centroids[pair, a - 1] - centres[j, a - 1]) / scale
            level -= corrections[i, a] * (centroids[pair, a - 1] - centres[i, a - 1]) / scale
        left[pair, 0] -= level
    return left


@njit(nogil=True, cache=True)
def to_members(geometry: Geometry, pulls: Floats, total: Floats) -> None:  # pragma: no cover - compiled
    """Add B' y to `total` (N, k), for values y (K, k) of the pairs."""
    first, second, centres, centroids, scale = geometry
    k = pulls.shape[1]
    for pair in range(first.size):
        i, j = first[pair], second[pair]
        total[j, 0] += pulls[pair, 0]
        total[i, 0] -= pulls[pair, 0]
        for a in range(1, k):
            total[j, a] += pulls[pair, a] + pulls[pair, 0] * (centroids[pair, a - 1] - centres[j, a - 1]) / scale
            total[i, a] -= pulls[pair, a] + pulls[pair, 0] * (centroids[pair, a - 1] - centres[i, a - 1]) / scale


@njit(nogil=True, cache=True)
def to_pairs(geometry: Geometry, corrections: Floats) -> Floats:  # pragma: no cover - compiled
    """Return (K, k, M) B c: the differences of the pairs that corrections c (N, k, M) imply."""
    first, second, centres, centroids, scale = geometry
    _, k, several = corrections.shape
    made = np.empty((first.size, k, several))
    for pair in range(first.size):
        i, j = first[pair], second[pair]
        for a in range(k):
            for m in range(several):
                made[pair, a, m] = corrections[j, a, m] - corrections[i, a, m]
        for a in range(1, k):
            here = (centroids[pair, a - 1] - centres[i, a - 1]) / scale
            there = (centroids[pair, a - 1] - centres[j, a - 1]) / scale
            for m in range(several):
                made[pair, 0, m] += there * corrections[j, a, m] - here * corrections[i, a, m]
    return made
