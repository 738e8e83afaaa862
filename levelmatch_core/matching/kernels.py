"""The compiled inner loops of this room: walks over the graph of members and pairs, without the interpreter's lock."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Index = NDArray[np.int64]
Flags = NDArray[np.bool_]


@njit(nogil=True, cache=True)
def neighbours(n: int, first: Index, second: Index) -> tuple[Index, Index, Index]:  # pragma: no cover - compiled
    """Return where each member's list starts (n + 1), the members beside it and the pairs that join them (2 K).

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
    beside = np.empty(2 * first.size, dtype=np.int64)
    number = np.empty(2 * first.size, dtype=np.int64)
    filled = start[:-1].copy()
    for pair in range(first.size):
        a, b = first[pair], second[pair]
        beside[filled[a]], number[filled[a]] = b, pair
        filled[a] += 1
        beside[filled[b]], number[filled[b]] = a, pair
        filled[b] += 1
    return start, beside, number


@njit(nogil=True, cache=True)
def bridge_flags(n: int, first: Index, second: Index) -> Flags:  # pragma: no cover - compiled
    """Return (K,) whether two parts hang together by this pair alone (Tarjan's low links, linear time)."""
    start, beside, number = neighbours(n, first, second)
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
                other, pair = beside[place[node]], number[place[node]]
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
def nested_dissection(  # noqa: C901, PLR0912 - compiled: one loop  # pragma: no cover
    centres: Floats, first: Index, second: Index, leaf: int
) -> tuple[Index, int]:
    """Order members so that a sparse factorisation fills in little (George 1973, SIAM J. Numer. Anal. 10, 345).

    Members are halved along the longer side of the box around them; those of the upper half that have a neighbour in
    the lower come last, and the halves, which nothing joins now, are halved again.

    Parameters
    ----------
    centres
        (N, 2) places: near members should be those that have pairs.
    first, second
        (K,) members of each pair.
    leaf
        Parts of so many members are not halved.

    Returns
    -------
    order
        (N,) members, first to be eliminated first.
    largest
        Size of the largest part that could not be halved because its members are on one place.
    """
    n = len(centres)
    start, beside, _ = neighbours(n, first, second)
    order, buffer, half = np.arange(n), np.empty(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    parts = [(0, n)]
    stamp, largest = 0, 0
    while len(parts) > 0:
        low, high = parts.pop()
        if high - low <= leaf:
            continue
        here = order[low:high].copy()
        axis, extent = 0, -1.0
        for a in range(2):
            values = centres[here, a]
            if values.max() - values.min() > extent:
                axis, extent = a, values.max() - values.min()
        if not extent > 0:
            largest = max(largest, high - low)
            continue
        values = centres[here, axis]
        middle = np.median(values)
        if middle == values.min():  # half of the members share the lowest place: they are the lower part
            middle = values[values > middle].min()
        stamp += 1
        lower = 0
        for i in range(here.size):
            if values[i] < middle:
                half[here[i]] = stamp
                order[low + lower] = here[i]
                lower += 1
        inner, border = low + lower, 0
        for i in range(here.size):
            if values[i] < middle:
                continue
            node, apart = here[i], True
            for place in range(start[node], start[node + 1]):
                if half[beside[place]] == stamp:
                    apart = False
                    break
            if apart:
                order[inner] = node
                inner += 1
            else:
                buffer[border] = node
                border += 1
        order[inner:high] = buffer[:border]
        parts.append((low, low + lower))
        parts.append((low + lower, inner))
    return order, largest


@njit(nogil=True, cache=True)
def agreeing_moves(  # noqa: PLR0917 - compiled  # pragma: no cover
    left: Floats, moments: Floats, variance: Floats, pairs: tuple[Index, Index], free: Flags, limit: float
) -> None:
    """Move each member in turn to the level that most of its pairs agree on, its neighbours staying.

    Parameters
    ----------
    left
        (K, k) residuals; changed in place.
    moments, variance
        (K, k, k) and (K,): a residual's square is left' moments left / variance, counted up to the limit's.
    pairs
        First and second member of each pair.
    free
        (N,) members that may move.
    limit
        Residuals beyond it count as this much.
    """
    first, second = pairs
    start, _, number = neighbours(free.size, first, second)
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
