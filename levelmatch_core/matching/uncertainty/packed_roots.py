"""The compiled products with the roots of the members' noise, which lie one behind the other, each row by row.

A member with d pairs has a row for each of their k coefficients. Its root is a lower triangle where it has no more rows
than points were sampled, and otherwise a rectangle with a column for each point.
"""

import numpy as np
from numba import njit

from levelmatch_core.matching.graph_kernels import Floats, Index

Roots = tuple[Index, Floats, int]
"""(N + 1,) where each member's root starts; the roots; points that were sampled."""


@njit(nogil=True, cache=True)
def spread(begin: Index, number: Index, roots: Roots, noise: Floats, drawn: Floats) -> None:  # pragma: no cover
    """Add to `drawn` (K, k) what white noise, a number for each column of the members' roots, makes.

    Parameters
    ----------
    begin, number
        Where each member's pairs start (N + 1), and the pairs.
    roots
        Of the members.
    noise
        One member's columns after the other.
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
    """Add to `product` (K, k) the sum of the members' covariances, root times its transpose, times values (K, k)."""
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


@njit(nogil=True, cache=True)
def as_rows(begin: Index, number: Index, roots: Roots, k: int) -> tuple[Floats, Index, Index]:  # pragma: no cover
    """Return the columns of the members' roots as rows of one sparse matrix: values, columns and row starts."""
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
