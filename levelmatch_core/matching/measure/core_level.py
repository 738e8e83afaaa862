"""Whether most pixels of a pair agree with its level: where they are densest, and how far the fit is from there.

Half of the pixels of two images full of wild ones, or of ones that hide just above the noise, are no differences of the
sky. No statistic of all of them is right then, but those that are lie close together: the middle of the shortest
interval with a quarter of the values (Rousseeuw & Leroy 1988, Statistica Neerlandica 42, 103) is among them. Of noise,
it is off by less than its own error, which is large; only a fit that is off by much more is in doubt.
"""

import math

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.matching.measure.difference_kernels import Box, Cut, Image, plain_unit

SAMPLE = 1024
"""Number of pixels that are looked at."""
PART = 0.25
"""Part of them in the interval."""
WIDTH = 0.637
"""Its width for normal noise, standard deviations."""
BEYOND = 11.0
"""A fit is off by more than chance beyond this many standard deviations of the noise, over the cube root of the number:
nearly six times the scatter of the middle of the interval."""
FEWEST = 100
"""Of fewer pixels nothing can be told."""


def off_core(first: Image, second: Image, box: Box, cut: Cut, fitted: tuple[float, float, float]) -> float:
    """Return by how much a fit is off the densest of its residuals, data unit; 0 where that may be chance.

    Parameters
    ----------
    first, second, box, cut
        The images, their common box and the pixels of the fit, as in
        :mod:`levelmatch_core.matching.measure.difference_kernels`.
    fitted
        The fitted plane, about the middle of the box, with slopes over half of it.
    """
    left = _sampled(first, second, box, cut, fitted, max(1, math.isqrt(box[4] * box[5] // SAMPLE)))
    if left.size < FEWEST:
        return 0.0
    left.sort()
    inside = math.ceil(PART * left.size)
    widths = left[inside:] - left[: left.size - inside]
    at = int(widths.argmin())
    off = abs(0.5 * float(left[at] + left[at + inside]))
    return off if off > BEYOND * float(widths[at]) / WIDTH / left.size ** (1 / 3) else 0.0


def _sampled(  # noqa: PLR0917 - a pair, and what of it
    first: Image, second: Image, box: Box, cut: Cut, fitted: tuple[float, float, float], every: int
) -> NDArray[np.float64]:
    """Return the residuals of the kept pixels, of every so many rows and columns."""
    ay, ax, by, bx, ny, nx = box
    rows, columns = slice(every // 2, ny, every), slice(every // 2, nx, every)
    x, y = plain_unit(nx)[columns], plain_unit(ny)[rows, None]
    there, here = second[by : by + ny, bx : bx + nx], first[ay : ay + ny, ax : ax + nx]
    with np.errstate(over="ignore", invalid="ignore"):
        value = np.subtract(there[rows, columns], here[rows, columns], dtype=np.float64)
        about = value - (cut[0] + cut[1] * x + cut[2] * y)
        kept = (about >= cut[3]) & (about <= cut[4])
        return np.asarray((value - (fitted[0] + fitted[1] * x + fitted[2] * y))[kept])
