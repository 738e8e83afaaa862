"""Compiled products with the factors of the members' noise covariance, which are stored one after another, by rows.

A member with d pairs has d k rows. Its factor is a lower triangle if the number of rows does not exceed the number of
sample points, and otherwise a rectangle with one column per point.
"""

import numpy as np

from levelmatch_core.matching.graph_kernels import Floats, Index
from levelmatch_core.process.compilation import njit
from levelmatch_core.process.small_work import compiled_when_large

Roots = tuple[Index, Floats, int]
"""(N + 1,) where each member's factor starts; the factors; the number of sample points."""


@njit(nogil=True, cache=True)
def spread(begin: Index, number: Index, roots: Roots, noise: Floats, drawn: Floats) -> None:  # pragma: no cover
    """Add the response to white noise, one value per column of the members' factors, to `drawn` (K, k).

    Parameters
    ----------
    begin, number
        Where the pairs of each member start (N + 1), and the pairs.
    roots
        The factors of the members.
    noise
        White noise for the columns of all members in turn.
    drawn
        Changed in place.
    """
    starts, packed, points = roots
    k, source = drawn.shape[1], 0
    for member in range(begin.size - 1):
        at, wide = starts[member], k * (begin[member + 1] - begin[member])
        for r in range(wide):
            value, length = 0.0, r + 1 if wide <= points else points
            for c in range(length):
                value += packed[at + c] * noise[source + c]
            at += length
            drawn[number[begin[member] + r // k], r % k] += value
        source += min(wide, points)


@njit(nogil=True, cache=True)
def covariance_times(  # pragma: no cover - compiled
    begin: Index, number: Index, roots: Roots, values: Floats, product: Floats
) -> None:
    """Add the product of the covariance, a sum of factors times their transposes, and values (K, k) to `product`."""
    starts, packed, points = roots
    k, back = values.shape[1], np.empty(points)
    for member in range(begin.size - 1):
        at, wide = starts[member], k * (begin[member + 1] - begin[member])
        for c in range(min(wide, points)):
            back[c] = 0.0
        for r in range(wide):
            value, length = values[number[begin[member] + r // k], r % k], r + 1 if wide <= points else points
            for c in range(length):
                back[c] += packed[at + c] * value
            at += length
        at = starts[member]
        for r in range(wide):
            value, length = 0.0, r + 1 if wide <= points else points
            for c in range(length):
                value += packed[at + c] * back[c]
            at += length
            product[number[begin[member] + r // k], r % k] += value


@compiled_when_large(lambda *given: 2 * given[2][1].size)
@njit(nogil=True, cache=True)
def as_rows(begin: Index, number: Index, roots: Roots, k: int) -> tuple[Floats, Index, Index]:  # pragma: no cover
    """Return the columns of all factors as rows of one sparse matrix: values, columns and row starts."""
    starts, packed, points = roots
    sources = 0
    for member in range(begin.size - 1):
        sources += min(k * (begin[member + 1] - begin[member]), points)
    values, columns = np.empty(packed.size), np.empty(packed.size, dtype=np.int64)
    row_starts, at, row = np.zeros(sources + 1, dtype=np.int64), 0, 0
    for member in range(begin.size - 1):
        wide = k * (begin[member + 1] - begin[member])
        for c in range(min(wide, points)):
            for r in range(c if wide <= points else 0, wide):
                value = packed[starts[member] + (r * (r + 1) // 2 if wide <= points else r * points) + c]
                if value != 0:
                    values[at], columns[at] = value, number[begin[member] + r // k] * k + r % k
                    at += 1
            row += 1
            row_starts[row] = at
    return values[:at].copy(), columns[:at].copy(), row_starts
