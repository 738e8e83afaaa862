"""Huber's estimate of a pair's difference, of the pixels that clipping leaves: a level or a plane.

Residuals beyond `LIMIT` standard deviations are held in there (Huber 1981, Robust Statistics, chapter 7): 95 % of the
mean's efficiency with normal noise, and little pull by faint sources that clipping does not see. Each sweep is one pass
over both images, and a Newton step of it.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.matching.measure.difference_kernels import Box, Cut, Image, difference_row, unit
from levelmatch_core.process.compilation import njit

Floats = NDArray[np.float64]

LIMIT = 1.345
"""Residuals beyond so many standard deviations are weighed down: 95 % efficiency with normal noise (Huber 1981)."""
SWEEPS = 50
"""Most sweeps."""
SETTLED = 1e-6
"""The estimate has settled when it moves by less than this fraction of its standard error."""
ADAPTIVE_LIMIT = 1.0
"""The same where the median is at hand to contradict: 90 % efficiency, nearer to the median."""
MEDIAN_APART = math.sqrt(math.pi / 2 - 1.107)
"""Standard deviation of the median less the estimate with that limit, of n independent normal values of unit deviation,
times sqrt(n): the latter is so nearly efficient that the difference is independent of it (Hausman 1978, Econometrica
46, 1251). Correlation between pixels adds to the variances of both alike, and not to that of their difference."""
AGREE, CONTRADICT = 1.0, 3.0
"""Up to so many of these the two agree, and from so many on they contradict each other; between, the median is
approached evenly. (Switching at once would cost a third of what is gained in noise.)"""


@dataclass(frozen=True)
class Huber:
    """The estimate, about the middle of the box, with slopes over half of it."""

    coefficients: Floats
    """(3,) level and slopes."""
    rms: float
    """Scatter of all pixels about it."""
    variance: float
    """Its level's variance times the number of pixels, were these independent."""
    converged: bool
    moved: float
    """What the last sweep moved it by."""


def huber(parts: tuple[Image, Image, Box], cut: Cut, start: Floats, limit: float, *, slopes: bool) -> Huber | None:
    """Estimate a level or a plane.

    Parameters
    ----------
    parts, cut
        A pair and the pixels that count, as in :mod:`levelmatch_core.matching.measure.difference_kernels`.
    start
        (3,) coefficients to begin with.
    limit
        Where residuals are held in.
    slopes
        Whether to fit them.

    Returns
    -------
    Huber or None
        None where no pixel counts.
    """
    coefficients, step = start, np.zeros(3)
    converged = False
    for _ in range(SWEEPS):
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
    n, held_in, square, within = sums[0], sums[10], sums[11], max(float(sums[9]), 1.0)
    moved = 0.0 if converged else float(np.abs(step).sum())
    return Huber(coefficients, math.sqrt(square / n), held_in / n / (within / n) ** 2, converged, moved)


def trusted(apart: float) -> float:
    """Return how much of the way from the median to Huber's estimate to go, by their distance in `MEDIAN_APART`."""
    return min(max((CONTRADICT - abs(apart)) / (CONTRADICT - AGREE), 0.0), 1.0)


def _plane(sums: Floats) -> Floats:
    """Return the least-squares plane of the residuals as they are held in; a slope that no pixel sees is 0."""
    n, sx, sy, sxx, sxy, syy = sums[:6].tolist()
    moments = np.array([[n, sx, sy], [sx, sxx, sxy], [sy, sxy, syy]])
    solved: Floats = np.linalg.pinv(moments, rcond=1e-12, hermitian=True) @ sums[6:9]
    return solved


@njit(nogil=True, cache=True)
def huber_sums(  # noqa: PLR0917 - a compiled function takes positions only # pragma: no cover
    first: Image, second: Image, box: Box, cut: Cut, plane: tuple[float, float, float], limit: float
) -> Floats:
    """Return the sums over the kept pixels that a sweep needs.

    Returns
    -------
    (12,) of 1, x, y, x x, x y, y y; of p, p x, p y, where p is what is left of the plane, held in; the number of pixels
    that are not held in; of p p and of the square of what is left.
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
            columns[5, k] += p * p
            columns[6, k] += left * left
            columns[7, k] += one if p == left else 0.0
    found = np.zeros(12)
    for k in range(nx):
        found[0] += columns[0, k]
        found[1] += columns[0, k] * x[k]
        found[2] += columns[1, k]
        found[3] += columns[0, k] * x[k] * x[k]
        found[4] += columns[1, k] * x[k]
        found[5] += columns[2, k]
        found[6] += columns[3, k]
        found[7] += columns[3, k] * x[k]
        found[8] += columns[4, k]
        found[9] += columns[7, k]
        found[10] += columns[5, k]
        found[11] += columns[6, k]
    return found
