"""Huber's estimate of a pair's difference from the pixels that remain after clipping: a level or a plane.

Residuals beyond `LIMIT` standard deviations are winsorised, that is set to the limit (Huber 1981, Robust Statistics,
chapter 7). This has 95 % of the efficiency of the mean for normal noise, and is little affected by faint sources below
the clipping limit. Each iteration is one pass over both images, and a Newton step.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.matching.measure.difference_kernels import (
    Box,
    Cut,
    Image,
    difference_row,
    moments_of,
    plain_difference,
    plain_left,
    plain_moments,
    plain_unit,
    unit,
)
from levelmatch_core.process.compilation import njit
from levelmatch_core.process.small_work import add_in_turn, bands, compiled_when_large

Floats = NDArray[np.float64]

LIMIT = 1.345
"""Residuals beyond this many standard deviations are downweighted: 95 % efficiency for normal noise (Huber 1981)."""
MOST_ITERATIONS = 50
"""Largest number of iterations."""
SETTLED = 1e-6
"""The estimate has settled when it moves by less than this fraction of its standard error."""
ADAPTIVE_LIMIT, ADAPTIVE_VARIANCE = 1.0, 1.107
"""The limit if the estimate is compared with the median, 90 % efficiency, closer to the median; and its variance from n
independent values with a standard normal distribution, times n."""
MEDIAN_APART = math.sqrt(math.pi / 2 - ADAPTIVE_VARIANCE)
"""Standard deviation of the median minus the estimate with that limit, of n independent values with a standard normal
distribution, times sqrt(n): the latter is so nearly efficient that the difference is independent of it (Hausman 1978,
Econometrica 46, 1251). Correlation between pixels adds to the variances of both alike, and not to that of their
difference."""
AGREE, CONTRADICT = 1.0, 3.0
"""Up to the first number of these standard deviations the two agree, and from the second on they contradict each
other; in between, the result moves linearly to the median. (Switching at once would lose a third of the gain in noise.)
"""

EFFICIENT_LIMIT, EFFICIENT_VARIANCE = 2.0, 1.010
"""The limit of the estimate for noise alone: 99 % efficiency; and its variance. What that is beyond the mean, and what
clipping adds to it, depends on the largest differences, of which each pair has its own."""
EFFICIENT_APART = math.sqrt(math.pi / 2 - EFFICIENT_VARIANCE)
"""`MEDIAN_APART` for it."""


@dataclass(frozen=True)
class Huber:
    """The estimate, about the middle of the box, with slopes over half of it."""

    coefficients: Floats
    """(3,) level and slopes."""
    rms: float
    """Scatter of all pixels about it."""
    variance: float
    """Variance of its level times the number of pixels, assuming that these are independent."""
    converged: bool
    moved: float
    """Change in the last iteration; 0 if it has converged."""


def huber(parts: tuple[Image, Image, Box], cut: Cut, start: Floats, limit: float, *, slopes: bool) -> Huber | None:
    """Estimate a level or a plane.

    Parameters
    ----------
    parts, cut
        A pair and the pixels to be used, as in :mod:`levelmatch_core.matching.measure.difference_kernels`.
    start
        (3,) initial coefficients.
    limit
        Limit of the residuals, data unit.
    slopes
        Whether to fit them.

    Returns
    -------
    Huber or None
        None if there are no pixels.
    """
    coefficients, step = start, np.zeros(3)
    converged = False
    for _ in range(MOST_ITERATIONS):
        sums = huber_sums(*parts, cut, tuple(coefficients.tolist()), limit)
        n, within = sums[0], max(float(sums[9]), 1.0)
        if n == 0:
            return None
        step = _plane(sums) * (n / within) if slopes else np.array([sums[6] / within, 0.0, 0.0])
        coefficients = coefficients + step
        converged = bool(np.abs(step).max() <= SETTLED * limit / math.sqrt(n))
        if converged:
            break
    sums = huber_sums(*parts, cut, tuple(coefficients.tolist()), limit)
    n, winsorised, square, within = sums[0], sums[10], sums[11], max(float(sums[9]), 1.0)
    moved = 0.0 if converged else float(np.abs(step).sum())
    return Huber(coefficients, math.sqrt(square / n), winsorised / n / (within / n) ** 2, converged, moved)


def one_step(
    parts: tuple[Image, Image, Box], cut: Cut, start: tuple[float, float, float], limit: float
) -> tuple[float, float]:
    """Return the level one Newton step from another estimate, and its variance times the number of pixels.

    From a start that is itself consistent, one step has all the efficiency (Bickel 1975, J. Am. Stat. Assoc. 70, 428).
    """
    sums = huber_sums(*parts, cut, start, limit)
    within = max(float(sums[9]), 1.0)
    return start[0] + float(sums[6]) / within, float(sums[10]) * float(sums[0]) / within**2


def trusted(apart: float) -> float:
    """Return the weight of Huber's estimate against the median from their distance, in units of `MEDIAN_APART`."""
    return min(max((CONTRADICT - abs(apart)) / (CONTRADICT - AGREE), 0.0), 1.0)


def _plane(sums: Floats) -> Floats:
    """Return the least-squares plane of the winsorised residuals; a slope that is not constrained is 0."""
    n, sx, sy, sxx, sxy, syy = sums[:6].tolist()
    moments = np.array([[n, sx, sy], [sx, sxx, sxy], [sy, sxy, syy]])
    solved: Floats = np.linalg.pinv(moments, rcond=1e-12, hermitian=True) @ sums[6:9]
    return solved


def _plain_sums(  # noqa: PLR0917 - those of the compiled function
    first: Image, second: Image, box: Box, cut: Cut, plane: tuple[float, float, float], limit: float
) -> Floats:
    """Do what :func:`huber_sums` does."""
    x, y, columns = plain_unit(box[5]), plain_unit(box[4]), np.zeros((8, box[5]))
    for rows in bands(*box[4:]):
        difference, here = plain_difference(first, second, box, rows), y[rows, None]
        value = plain_left(difference, cut, x, y[rows])
        kept = (value >= cut[3]) & (value <= cut[4])
        left = np.where(kept, plain_left(difference, plane, x, y[rows]), 0.0)
        p, one = np.minimum(np.maximum(left, -limit), limit), kept.astype(np.float64)
        products = one * here, one * (here * here), p * here, np.where(p == left, one, 0.0), p * p, left * left
        for total, more in zip(columns, (one, *products[:2], p, *products[2:]), strict=True):
            add_in_turn(total, more)
    return plain_moments(columns, x)


@compiled_when_large(lambda *given: given[2][4] * given[2][5] // 16, _plain_sums)
@njit(nogil=True, cache=True)
def huber_sums(  # noqa: PLR0917 - a compiled function takes positions only # pragma: no cover
    first: Image, second: Image, box: Box, cut: Cut, plane: tuple[float, float, float], limit: float
) -> Floats:
    """Return the sums over the kept pixels for one iteration.

    Returns
    -------
    (12,) of 1, x, y, x x, x y, y y; of p, p x, p y, where p is the winsorised residual; the number of pixels within the
    limit; of p p and of the squared residual.
    """
    ny, nx = box[4], box[5]
    row = np.empty(nx)
    x, y = unit(nx), unit(ny)
    columns = np.zeros((8, nx))
    slope, low, high = cut[1], cut[3], cut[4]
    for j in range(ny):
        difference_row(first, second, box, j, row)
        here = y[j]
        level, start = cut[0] + cut[2] * here, plane[0] + plane[2] * here
        for k in range(nx):
            value = row[k] - (level + slope * x[k])
            kept = (value >= low) & (value <= high)
            one = 1.0 if kept else 0.0
            left = row[k] - (start + plane[1] * x[k]) if kept else 0.0
            p = min(max(left, -limit), limit)
            columns[0, k] += one
            columns[1, k] += one * here
            columns[2, k] += one * (here * here)
            columns[3, k] += p
            columns[4, k] += p * here
            columns[5, k] += one if p == left else 0.0
            columns[6, k] += p * p
            columns[7, k] += left * left
    return moments_of(columns, x)
