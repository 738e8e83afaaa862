"""Compiled algorithms on the graph of members and pairs, which release the GIL."""

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.process.compilation import njit
from levelmatch_core.process.small_work import compiled_when_large

Floats = NDArray[np.float64]
Index = NDArray[np.int64]
Flags = NDArray[np.bool_]


@njit(nogil=True, cache=True)
def _neighbours(n: int, first: Index, second: Index) -> tuple[Index, Index, Index]:  # pragma: no cover - compiled
    """Return where each member's list starts (n + 1), its neighbours, and the pairs that connect them (2 K each).

    Parameters
    ----------
    n
        Number of members.
    first, second
        (K,) members of each pair.
    """
    start = np.zeros(n + 1, dtype=np.int64)
    for pair in range(first.size):
        start[first[pair] + 1] += 1
        start[second[pair] + 1] += 1
    for node in range(n):
        start[node + 1] += start[node]
    adjacent = np.empty(2 * first.size, dtype=np.int64)
    number = np.empty(2 * first.size, dtype=np.int64)
    filled = start[:-1].copy()
    for pair in range(first.size):
        a, b = first[pair], second[pair]
        adjacent[filled[a]], number[filled[a]] = b, pair
        filled[a] += 1
        adjacent[filled[b]], number[filled[b]] = a, pair
        filled[b] += 1
    return start, adjacent, number


neighbours = compiled_when_large(lambda n, first, _: n + 8 * first.size)(_neighbours)
"""As :func:`_neighbours`, for those that are not compiled."""


@compiled_when_large(lambda n, first, _: 4 * n + 16 * first.size)
@njit(nogil=True, cache=True)
def bridge_flags(n: int, first: Index, second: Index) -> Flags:  # pragma: no cover - compiled
    """Return (K,) whether each pair is a bridge (Tarjan's low links, linear time)."""
    start, adjacent, number = _neighbours(n, first, second)
    flags = np.zeros(first.size, dtype=np.bool_)
    entered, low = np.full(n, -1), np.empty(n, dtype=np.int64)
    came_by, stack, place = np.full(n, -1), np.empty(n, dtype=np.int64), start[:-1].copy()
    count = 0
    for root in range(n):
        if entered[root] >= 0:
            continue
        entered[root] = low[root] = count
        count += 1
        stack[0], depth = root, 1
        while depth > 0:
            node = stack[depth - 1]
            if place[node] < start[node + 1]:
                other, pair = adjacent[place[node]], number[place[node]]
                place[node] += 1
                if pair == came_by[node]:
                    continue
                if entered[other] >= 0:
                    low[node] = min(low[node], entered[other])
                else:
                    entered[other] = low[other] = count
                    count += 1
                    came_by[other] = pair
                    stack[depth] = other
                    depth += 1
            else:
                depth -= 1
                if depth > 0:
                    parent = stack[depth - 1]
                    low[parent] = min(low[parent], low[node])
                    if low[node] > entered[parent]:
                        flags[came_by[node]] = True
    return flags


@njit(nogil=True, cache=True)
def agreeing_moves(  # noqa: PLR0917 - compiled  # pragma: no cover
    left: Floats, moments: Floats, variance: Floats, pairs: tuple[Index, Index], free: Flags, limit: float
) -> None:
    """Move each member in turn to the level that most of its pairs agree on, while its neighbours stay.

    Parameters
    ----------
    left
        (K, k) residuals; changed in place.
    moments, variance
        (K, k, k) and (K,): the square of a residual r is r' moments r / variance, truncated at that of the limit.
    pairs
        First and second member of each pair.
    free
        (N,) members that may move.
    limit
        Limit at which residuals are truncated.
    """
    first, second = pairs
    start, _, number = _neighbours(free.size, first, second)
    k = left.shape[1]
    for member in range(free.size):
        if not free[member]:
            continue
        mine = number[start[member] : start[member + 1]]
        best, taken = np.inf, 0.0
        for choice in range(-1, mine.size):
            shift = 0.0
            if choice >= 0:
                shift = left[mine[choice], 0] * (1.0 if second[mine[choice]] == member else -1.0)
            total = 0.0
            for pair in mine:
                moved = shift if second[pair] == member else -shift
                square = 0.0
                for a in range(k):
                    value = left[pair, a] - (moved if a == 0 else 0.0)
                    for b in range(k):
                        square += value * moments[pair, a, b] * (left[pair, b] - (moved if b == 0 else 0.0))
                total += min(square / variance[pair], limit * limit)
            if total < best:
                best, taken = total, shift
        for pair in mine:
            left[pair, 0] -= taken if second[pair] == member else -taken
