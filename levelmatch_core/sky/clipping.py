"""Sigma clipping about the median, with a robust start and without a full sort.

The standard deviation is not a suitable start, since a fifth of wild values makes it so large that nothing is clipped.
The first limit is therefore based on the median absolute deviation; from there on, clipping is that of astropy's
`SigmaClip`.

Only two kinds of values affect the result: those near the median, which may be the median in one of the iterations, and
those far out, near the clipping limits. A sample shows where these lie. A single pass collects them and accumulates
the sums of all other values, which are never clipped; only the collected values, a few per cent, are sorted. The result
is the same as from sorting all values, and all values are sorted where the sample turns out to be misleading.

Sums run over columns or over eight interleaved parts, so that they use the processor's vector units and do not depend
on the width of these.
"""

import math
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.process.compilation import njit

Floats = NDArray[np.float64]
Cuts = tuple[float, float, float, float, float]
"""Values below the second number, from the third to the fourth, and above the fifth are sorted; sums are about the
first."""

Sifted = tuple[int, int, int, float, float]
"""Number of values kept for sorting, numbers of other values below and above the median, and the sums of these others
and of their squares about the pivot."""

Start = tuple[float, float]
"""Values below the first and above the second number are clipped before any standard deviation is computed."""

BY_ITSELF: Start = (math.nan, math.nan)
"""The start is determined from all values after sorting."""
MAD_TO_SIGMA = 1.482602218505602
"""Standard deviation of a normal distribution over its median absolute deviation."""
ALL: Cuts = (0.0, math.inf, math.inf, math.inf, math.inf)
"""Cuts that sort everything."""
FEWEST = 4096
"""For fewer values a full sort is as fast as the selection."""
SAMPLE = (1024, 16384)
"""Smallest and largest size of a sample; in between it is one value in sixteen."""
_DEVIATIONS = 3.5
"""Margin about the median of the sample, in standard deviations of its rank."""
_INSIDE = 0.9
"""Values farther from the median than this fraction of the last clipping limit of the sample are sorted."""
_MOST_WILD = 0.2
"""Up to this fraction of all values may be wild without affecting the limits."""
_TIED = 0.05
"""If more than this fraction of all values have the same deviation, values are discrete, such as integers."""
_FAR = 1e3
"""If nearly all values are equal, those farther away than this many times the nearest other value are wild."""
_BLOCK = 2048
"""Number of values processed together, so that they stay in the processor's cache."""
_FIRST = cast("int", np.int64(0))
"""The first index: what takes a plain 0 is compiled once more for that."""


@dataclass(frozen=True)
class Clipped:
    """The values that remain after clipping."""

    low: float
    """Exactly the values from `low` to `high` remain."""
    high: float
    n: int
    """Number of values that remain."""
    median: float
    offset: float
    """Their mean minus their median."""
    square: float
    """Their mean squared distance from their median."""
    converged: bool
    """Whether the last clip removed nothing."""
    step: float
    """Amount by which another clip would change the median; 0 if that removes nothing."""

    @property
    def rms(self) -> float:
        """Root mean square about the median."""
        return math.sqrt(self.square)

    @property
    def std(self) -> float:
        """Standard deviation."""
        return math.sqrt(max(self.square - self.offset**2, 0.0))


def clipped(values: NDArray[np.floating], sigma: float, maxiters: int) -> Clipped | None:
    """Clip about the median, first by the median absolute deviation and then by standard deviations.

    Parameters
    ----------
    values
        Of any shape and order; non-finite values are ignored.
    sigma
        Limit in standard deviations.
    maxiters
        Largest number of iterations.

    Returns
    -------
    Clipped or None
        None if no value is finite.
    """
    flat = np.ascontiguousarray(values, dtype=np.float64).reshape(-1)  # for which alone all is compiled
    every = sample_step(flat.size)
    few = flat.size <= FEWEST
    cuts, start = (ALL, BY_ITSELF) if few else cuts_of(flat[::every], sigma, maxiters)
    kept = np.empty(flat.size)
    for tried in (cuts, ALL):
        left = sift(flat, tried, kept)
        if left[0] + left[1] + left[2] == 0:
            return None
        found = clip(kept, left, tried, start, sigma, maxiters)
        if found is not None:
            return found
    return None


def sample_step(size: int) -> int:
    """Return the step between the values of a sample; odd, so that the sample covers all columns of an image."""
    return max(1, size // min(max(size // 16, SAMPLE[0]), SAMPLE[1])) | 1


def cuts_of(sample: Floats, sigma: float, maxiters: int) -> tuple[Cuts, Start]:
    """Estimate from a sample which values affect the result of clipping, and where clipping starts.

    Parameters
    ----------
    sample
        (n,) in any order; non-finite values are ignored.
    sigma, maxiters
        As in :func:`clipped`.
    """
    sample = sample[np.isfinite(sample)]
    if sample.size < SAMPLE[0] // 4:
        return ALL, BY_ITSELF
    sample.sort()
    start = robust_start(sample, float(sigma))
    return tuple(_cuts(sample, start, float(sigma), maxiters)), start


def clip(  # noqa: PLR0917 - all are needed
    kept: Floats, left: Sifted, cuts: Cuts, start: Start, sigma: float, maxiters: int
) -> Clipped | None:
    """Clip values that :func:`sift` has sorted out.

    Parameters
    ----------
    kept
        Its first elements are the kept values; they are sorted in place.
    left
        The result of the sift.
    cuts
        The cuts used by the sift.
    start
        Values outside this range are clipped at the beginning.
    sigma, maxiters
        As in :func:`clipped`.

    Returns
    -------
    Clipped or None
        None if the cuts were not suitable: a median or a limit falls among the values that were summed.
    """
    ordered = kept[: left[0]]
    ordered.sort()
    if math.isnan(start[0]):
        start = robust_start(ordered, float(sigma))
    found, *result = _clip_sifted(ordered, left, cuts, start, float(sigma), maxiters)
    return Clipped(*result) if found else None


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


@njit(nogil=True, cache=True)
def robust_start(ordered: Floats, sigma: float) -> Start:  # pragma: no cover - compiled
    """Return the first limits of clipping: the median and `sigma` robust standard deviations to both sides.

    The standard deviation is that of a normal distribution with the same median absolute deviation; if many values have
    exactly this deviation, as with integers, half the distance to the next larger one is added. If more than 80 % of
    all values are equal there is no such scale, and only values a thousand times farther away than the nearest other
    value are clipped.

    Parameters
    ----------
    ordered
        (n,) finite values, ascending, at least one.
    sigma
        Limit in standard deviations.
    """
    n = ordered.size
    centre = run_median(ordered, _FIRST, n)
    i, j = n // 2 - 1, n // 2
    deviation, following, same = 0.0, -1.0, 0
    for rank in range(n):  # deviations in ascending order
        below = centre - ordered[i] if i >= 0 else np.inf
        above = ordered[j] - centre if j < n else np.inf
        nearest = min(below, above)
        if below <= above:
            i -= 1
        else:
            j += 1
        if rank <= n // 2:
            same = same + 1 if nearest == deviation else 1
            deviation = nearest
        elif nearest == deviation:
            same += 1
        else:
            if rank < (1.0 - _MOST_WILD) * n:
                following = nearest
            elif deviation == 0.0:
                limit = _FAR * sigma * nearest
                limit = limit if limit < np.inf else 0.0
                return centre - limit, centre + limit
            break
    tied = following > 0.0 and same > max(1.0, _TIED * n)
    scale = deviation + 0.5 * (following - deviation) if tied else deviation
    limit = sigma * MAD_TO_SIGMA * scale
    return centre - limit, centre + limit


@njit(nogil=True, cache=True)
def _cuts(ordered: Floats, begin: Start, sigma: float, maxiters: int) -> Cuts:  # pragma: no cover - compiled
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


@njit(nogil=True, cache=True)
def _clip_sifted(  # noqa: PLR0917 - one loop; a compiled function takes positions only # pragma: no cover
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
