"""The compiled passes of sigma clipping, and numpy's of the same; see :mod:`levelmatch_core.sky.robust.clipping`.

Sums run over columns or over eight interleaved parts, so that they use the processor's vector units and do not depend
on the width of these.
"""

from typing import cast

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.process.compilation import njit
from levelmatch_core.process.small_work import bands, compiled_when_large, in_turn, replaced_by

Floats = NDArray[np.float64]
Cuts = tuple[float, float, float, float, float]
"""Values below the second number, from the third to the fourth, and above the fifth are sorted; sums are about the
first."""

Sifted = tuple[int, int, int, float, float]
"""Number of values kept for sorting, numbers of other values below and above the median, and the sums of these others
and of their squares about the pivot."""

Start = tuple[float, float]
"""Values below the first and above the second number are clipped before any standard deviation is computed."""

_DEVIATIONS = 3.5
"""Margin about the median of the sample, in standard deviations of its rank."""
_INSIDE = 0.9
"""Values farther from the median than this fraction of the last clipping limit of the sample are sorted."""
_BLOCK = 2048
"""Number of values processed together, so that they stay in the processor's cache."""
_FIRST = cast("int", np.int64(0))
"""The first index: what takes a plain 0 is compiled once more for that."""


@njit(nogil=True, cache=True)
def sift_row(  # noqa: PLR0917 - a compiled function takes positions only # pragma: no cover
    row: Floats, cuts: Cuts, kept: Floats, at: np.int64, sums: Floats, take: NDArray[np.uint8]
) -> tuple[np.int64, int, int, int]:
    """Keep the values that have to be sorted, and sum the others.

    Parameters
    ----------
    row
        (n,) values; non-finite ones are ignored.
    cuts
        See :data:`Cuts`.
    kept, at
        Array for the values kept, and the number that it contains already: of 64 bits, since without a compiler the sum
        of a plain integer and one of `take` would have eight.
    sums
        (2, n or more) sums of the others and of their squares, about the pivot; added to.
    take
        (n or more,) work space.

    Returns
    -------
    The number of kept values, of finite values, and of other values below and above the median.
    """
    pivot, below, lower, upper, above = cuts
    finite = low = high = 0
    for k in range(row.size):
        value = row[k]
        is_low = (value >= below) & (value < lower)
        is_high = (value > upper) & (value <= above)
        inside = is_low | is_high
        x = value - pivot if inside else 0.0
        sums[0, k] += x
        sums[1, k] += x * x
        low += is_low
        high += is_high
        is_finite = np.abs(value) < np.inf
        finite += is_finite
        take[k] = is_finite & ~inside
    for k in range(row.size):
        kept[at] = row[k]  # at is at most the number of values before this one
        at += take[k]
    return at, finite, low, high


def plain_sift(rows: Floats, cuts: Cuts, kept: Floats, sums: Floats) -> tuple[Sifted, NDArray[np.bool_]]:
    """Do what :func:`sift_row` does, for all rows; return what :func:`sift` does, and what is finite.

    `sums` is (2, n or more), what is summed of earlier rows.
    """
    pivot, below, lower, upper, above = cuts
    is_low, is_high = (rows >= below) & (rows < lower), (rows > upper) & (rows <= above)
    inside, finite = is_low | is_high, np.abs(rows) < np.inf
    x = np.where(inside, rows - pivot, 0.0)
    for place, more in zip(sums[:, : rows.shape[1]], (x, x * x), strict=True):
        place[...] = in_turn(np.concatenate([place[None], more]))
    taken = rows[finite & ~inside]
    kept[: taken.size] = taken
    low, high = int(np.count_nonzero(is_low)), int(np.count_nonzero(is_high))
    return (taken.size, low, high, float(in_turn(sums[0])), float(in_turn(sums[1]))), finite


def _plain_values(values: NDArray[np.floating], cuts: Cuts, kept: Floats) -> Sifted:
    """Do what :func:`sift` does."""
    sums, whole = np.zeros((2, _BLOCK)), values.size // _BLOCK * _BLOCK
    lines, at, low, high, total, squares = values[:whole].reshape(-1, _BLOCK), 0, 0, 0, 0.0, 0.0
    for rows in [*(lines[each] for each in bands(*lines.shape)), values[None, whole:]]:
        more, more_low, more_high, total, squares = plain_sift(rows.astype(np.float64), cuts, kept[at:], sums)[0]
        at, low, high = at + more, low + more_low, high + more_high
    return at, low, high, total, squares


@compiled_when_large(lambda values, *_: values.size // 20, _plain_values)
@njit(nogil=True, cache=True)
def sift(  # pragma: no cover - compiled
    values: NDArray[np.floating], cuts: Cuts, kept: Floats
) -> Sifted:
    """Keep the values that have to be sorted, and sum the others; see :func:`sift_row` and :func:`clip`."""
    row, take = np.empty(_BLOCK), np.empty(_BLOCK, np.uint8)
    sums = np.zeros((2, _BLOCK))
    at, low, high = np.int64(0), 0, 0
    for start in range(0, values.size, _BLOCK):
        n = min(_BLOCK, values.size - start)
        for k in range(n):
            row[k] = np.float64(values[start + k])
        at, _, more_low, more_high = sift_row(row[:n], cuts, kept, at, sums, take)
        low += more_low
        high += more_high
    return int(at), low, high, sums[0].sum(), sums[1].sum()


def _plain_between(ordered: Floats, low: int, high: int, least: float, most: float) -> tuple[int, int]:
    """Do what :func:`_between` does."""
    run = ordered[low:high]
    start = low + int(run.searchsorted(least, "left"))
    return start, max(start, low + int(run.searchsorted(most, "right")))


@replaced_by(_plain_between)
@njit(nogil=True, cache=True, no_cpython_wrapper=True)
def _between(  # pragma: no cover - compiled
    ordered: Floats, low: int, high: int, least: float, most: float
) -> tuple[int, int]:
    """Return where the values from `least` to `most` start and stop (numpy's search takes a second to compile)."""
    start, end = low, high
    while start < end:
        middle = (start + end) // 2
        if ordered[middle] < least:
            start = middle + 1
        else:
            end = middle
    stop, end = low, high
    while stop < end:
        middle = (stop + end) // 2
        if ordered[middle] <= most:
            stop = middle + 1
        else:
            end = middle
    return start, stop


@compiled_when_large(lambda *_: 400)
@njit(nogil=True, cache=True)
def clip_sample(ordered: Floats, begin: Start, sigma: float, maxiters: int) -> Cuts:  # pragma: no cover - compiled
    """Clip a sorted sample, and return the range of its medians and the innermost limits, with margins."""
    margin = int(np.ceil(_DEVIATIONS * 0.5 * np.sqrt(ordered.size))) + 1
    low, high = _between(ordered, _FIRST, ordered.size, begin[0], begin[1])
    first = last = (low + high) // 2
    centre, limit = run_median(ordered, low, high), np.inf
    for _ in range(maxiters):
        middle = (low + high) // 2
        first, last = min(first, middle), max(last, middle)
        centre = run_median(ordered, low, high)
        mean, square = run_moments(ordered, low, high, centre)
        limit = sigma * np.sqrt(max(square - mean * mean, 0.0))
        start, stop = _between(ordered, low, high, centre - limit, centre + limit)
        if start >= stop or (start == low and stop == high):
            break
        low, high = start, stop
    limit = min(limit, centre - begin[0], begin[1] - centre)
    middle = (low + high) // 2
    first, last = min(first, middle) - margin, max(last, middle) + margin
    lower = ordered[first] if first >= 0 else -np.inf
    upper = ordered[last] if last < ordered.size else np.inf
    return centre, min(centre - _INSIDE * limit, lower), lower, upper, max(centre + _INSIDE * limit, upper)


@compiled_when_large(lambda *_: 400)
@njit(nogil=True, cache=True)
def clip_sifted(  # noqa: PLR0917 - one loop; a compiled function takes positions only # pragma: no cover
    ordered: Floats, left: Sifted, cuts: Cuts, begin: Start, sigma: float, maxiters: int
) -> tuple[bool, float, float, int, float, float, float, bool, float]:
    """Clip; return whether the cuts were suitable, and the fields of :class:`Clipped`.

    `low` and `high` are indices among the kept values; the others lie between their central and their outer parts.
    """
    _, n_low, n_high, total, squares = left
    pivot, below, lower, upper, above = cuts
    first, last = _between(ordered, _FIRST, ordered.size, lower, upper)
    if n_low + n_high == 0:  # all values were kept
        first, last = 0, ordered.size
    failed = (False, 0.0, 0.0, 0, 0.0, 0.0, 0.0, False, 0.0)
    rest = n_low + n_high
    if rest > 0 and not (begin[0] <= below and begin[1] >= above):
        return failed
    low, high = _between(ordered, _FIRST, ordered.size, begin[0], begin[1])
    low, high = (low, high) if high - low + rest > 0 else (0, ordered.size)
    converged, step = False, 0.0
    for turn in range(maxiters + 1):
        n = high - low + rest
        middle, odd = low - n_low + n // 2, n % 2
        if not (first <= middle - 1 + odd and middle < last):
            return failed
        centre = ordered[middle] if odd else 0.5 * (ordered[middle - 1] + ordered[middle])
        offset, square = run_moments(ordered, low, high, centre)
        if rest > 0:
            shift = centre - pivot
            offset = (offset * (high - low) + total - rest * shift) / n
            square = (square * (high - low) + squares - shift * (2.0 * total - rest * shift)) / n
        limit = sigma * np.sqrt(max(square - offset * offset, 0.0))
        if rest > 0 and not (centre - limit <= below and centre + limit >= above):
            return failed
        start, stop = _between(ordered, low, high, centre - limit, centre + limit)
        if start >= stop:  # sigma is so small that nothing would remain: keep the last values
            break
        converged = start == low and stop == high
        if converged:
            break
        if turn == maxiters:
            step = _step(ordered, start - n_low, stop - start + rest, first, last, centre)
            break
        low, high = start, stop
    least = ordered[low] if low < first or n_low == 0 else below
    most = ordered[high - 1] if high > last or n_high == 0 else above
    return True, least, most, n, centre, offset, square, converged, step


@njit(nogil=True, cache=True, no_cpython_wrapper=True)
def _step(  # noqa: PLR0917 - a compiled function takes positions only # pragma: no cover
    ordered: Floats, start: int, n: int, first: int, last: int, centre: float
) -> float:
    """Return the amount by which another clip would change the median; 0 if it is not among the sorted values."""
    middle, odd = start + n // 2, n % 2
    if not (first <= middle - 1 + odd and middle < last):
        return 0.0
    return abs((ordered[middle] if odd else 0.5 * (ordered[middle - 1] + ordered[middle])) - centre)


def _plain_moments(ordered: Floats, low: int, high: int, centre: float) -> tuple[float, float]:
    """Do what :func:`run_moments` does."""
    off = ordered[low:high] - centre
    whole = off.size // 8 * 8
    found = []
    for values in (off, off * off):
        s0, s1, s2, s3, s4, s5, s6, s7 = in_turn(values[:whole].reshape(-1, 8)).tolist()
        total = ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))
        for value in values[whole:].tolist():
            total += value
        found.append(total / off.size)
    return found[0], found[1]


@replaced_by(_plain_moments)
@njit(nogil=True, cache=True)
def run_moments(ordered: Floats, low: int, high: int, centre: float) -> tuple[float, float]:  # pragma: no cover
    """Return the mean deviation of at least one value from `centre`, and the mean squared deviation."""
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = 0.0
    q0 = q1 = q2 = q3 = q4 = q5 = q6 = q7 = 0.0
    run = ordered[low:high]
    whole = run.size // 8 * 8
    for k in range(0, whole, 8):
        d0, d1 = run[k] - centre, run[k + 1] - centre
        d2, d3 = run[k + 2] - centre, run[k + 3] - centre
        d4, d5 = run[k + 4] - centre, run[k + 5] - centre
        d6, d7 = run[k + 6] - centre, run[k + 7] - centre
        s0 += d0
        s1 += d1
        s2 += d2
        s3 += d3
        s4 += d4
        s5 += d5
        s6 += d6
        s7 += d7
        q0 += d0 * d0
        q1 += d1 * d1
        q2 += d2 * d2
        q3 += d3 * d3
        q4 += d4 * d4
        q5 += d5 * d5
        q6 += d6 * d6
        q7 += d7 * d7
    total = ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))
    squares = ((q0 + q1) + (q2 + q3)) + ((q4 + q5) + (q6 + q7))
    for k in range(whole, run.size):
        d0 = run[k] - centre
        total += d0
        squares += d0 * d0
    return total / run.size, squares / run.size


@njit(nogil=True, cache=True)
def run_median(ordered: Floats, low: int, high: int) -> float:  # pragma: no cover - compiled
    """Return the median of a range of sorted values."""
    middle = (low + high) // 2
    if (high - low) % 2:
        return ordered[middle]
    return 0.5 * (ordered[middle - 1] + ordered[middle])
