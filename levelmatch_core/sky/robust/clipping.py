"""Sigma clipping about the median, with a robust start and without a full sort.

The standard deviation is not a suitable start, since a fifth of wild values makes it so large that nothing is clipped.
The first limit is therefore based on the median absolute deviation; from there on, clipping is that of astropy's
`SigmaClip`.

Only two kinds of values affect the result: those near the median, which may be the median in one of the iterations, and
those far out, near the clipping limits. A sample shows where these lie. A single pass collects them and accumulates
the sums of all other values, which are never clipped; only the collected values, a few per cent, are sorted. The result
is the same as from sorting all values, and all values are sorted where the sample turns out to be misleading.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.sky.robust.clipping_kernels import (
    Cuts,
    Floats,
    Sifted,
    Start,
    clip_sample,
    clip_sifted,
    sift,
)

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
_MOST_WILD = 0.2
"""Up to this fraction of all values may be wild without affecting the limits."""
_TIED = 0.05
"""If more than this fraction of all values have the same deviation, values are discrete, such as integers."""
_FAR = 1e3
"""If nearly all values are equal, those farther away than this many times the nearest other value are wild."""

NOISE_SAMPLE = 16384
"""Number of differences of neighbours from which the noise is estimated."""


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
    return tuple(clip_sample(sample, start, float(sigma), maxiters)), start


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
    found, *result = clip_sifted(ordered, left, cuts, start, float(sigma), maxiters)
    return Clipped(*result) if found else None


def robust_start(ordered: Floats, sigma: float) -> Start:
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
    lower, upper = float(ordered[(n - 1) // 2]), float(ordered[n // 2])
    centre = upper if n % 2 else 0.5 * (lower + upper)
    with np.errstate(over="ignore"):
        deviations = np.abs(ordered - centre)
    deviations[: n // 2] = deviations[: n // 2][::-1].copy()
    deviations.sort(kind="stable")  # two sorted halves, which are merged
    deviation = float(deviations[n // 2])
    first, after = (int(deviations.searchsorted(deviation, side)) for side in ("left", "right"))
    following = float(deviations[after]) if after < n else -1.0
    if following > 0.0 and after >= (1.0 - _MOST_WILD) * n:
        if deviation == 0.0:
            limit = _FAR * sigma * following
            limit = limit if limit < np.inf else 0.0
            return centre - limit, centre + limit
        following = -1.0
    tied = following > 0.0 and after - first > max(1.0, _TIED * n)
    scale = deviation + 0.5 * (following - deviation) if tied else deviation
    limit = sigma * MAD_TO_SIGMA * scale
    return centre - limit, centre + limit


def pixel_noise(data: NDArray[np.floating], sample: int = NOISE_SAMPLE) -> float:
    """Return the standard deviation of the pixel noise of an image from so many differences of neighbours in rows."""
    step = max(1, math.isqrt(data.size // sample))
    rows = data[::step]
    with np.errstate(invalid="ignore"):
        steps = np.subtract(rows[:, 1::step], rows[:, :-1:step][:, : rows[:, 1::step].shape[1]], dtype=np.float64)
    steps = steps[np.isfinite(steps)]
    return MAD_TO_SIGMA * _median(np.abs(steps)) / math.sqrt(2.0) if steps.size else 0.0


def _median(values: Floats) -> float:
    """Return the median of finite values, as numpy does, which takes four times as long to look for others."""
    middle = values.size // 2
    if values.size % 2:
        return float(np.partition(values, middle)[middle])
    lower, upper = np.partition(values, (middle - 1, middle))[middle - 1 : middle + 1]
    return float((lower + upper) / 2)
