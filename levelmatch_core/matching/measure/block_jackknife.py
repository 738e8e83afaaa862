"""The error of a pair's level beyond pixel noise, measured from the pair itself: structure that the sky left behind.

Stars seen through two PSFs, a nebula on two pixel grids, flats and slopes leave structure in a difference that its
scatter counts as if each pixel were independent. Three things show it:

- The difference's means over blocks of the overlap scatter by more than pixel noise: the delete-one-block jackknife
  (Kuensch 1989, Ann. Statist. 17, 1217; for a weighted mean it is the sum below), with large and with small blocks.
- Two statistics of the same pixels, the fitted one and the mean of those that were kept, differ by more than noise lets
  them (Hausman 1978, Econometrica 46, 1251): the error that all blocks share.
- The difference grows with brightness: a gain, which stands for a level of gain times mean brightness.

Only what exceeds pixel noise significantly counts, so that noise alone gives 0.
"""

import math

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.matching.measure.difference_kernels import Box, Cut, Floats, Image, difference_row, unit
from levelmatch_core.process.compilation import njit

BLOCKS = (64, 16)
"""Numbers of blocks over the overlap, of which the larger error counts."""
LEAST_SIDE = 6
"""Smallest side of a block, pixels: resampled noise is not correlated over more."""
FEWEST = 5
"""Fewest blocks that say anything."""
FULL = 0.3
"""Blocks with less than this fraction of the pixels of a full one are left out."""
BEYOND = 3.0
"""Standard deviations by which the variance of the blocks must exceed that of noise."""
GAIN_BEYOND, MOST_GAIN = 5.0, 0.2
"""A gain counts beyond so many of its standard deviations, and up to this size: images of one camera do not differ by
more, and what a few pixels of a crowd make of it stands for any level."""
APART = 3.0
"""Standard deviations of noise by which two statistics may differ."""
LEAST_APART = 0.05
"""Smallest fraction of the level's variance that their difference is taken to have: clipping moves both a little."""


def structure(  # noqa: PLR0917 - the two images and their box, then what the fit found
    first: Image,
    second: Image,
    box: Box,
    cut: Cut,
    fitted: tuple[float, float, float],
    stderr: float,
    shared: float,
    gain: tuple[float, float, float] | None,
) -> float:
    """Return 1 sigma of the error of a pair's level beyond its pixel noise, data unit; 0 where none shows.

    Parameters
    ----------
    first, second, box, cut
        The images, their common box and the pixels that the fit used, as the compiled passes take them.
    fitted
        The plane that was fitted, about the middle of the box, slopes over half of it.
    stderr
        1 sigma of the level by pixel noise.
    shared
        Fraction of its variance that the mean of the pixels has.
    gain
        Slope of the difference against brightness, its 1 sigma, and the mean brightness.
    """
    variance = stderr**2
    if not variance > 0:
        return 0.0
    found, apart = 0.0, 0.0
    for blocks in BLOCKS:
        side = max(LEAST_SIDE, round(math.sqrt(box[4] * box[5] / blocks)))
        counts, sums = block_sums(first, second, box, cut, fitted, side)
        excess, total = jackknife(counts, sums, side), float(counts.sum())
        if excess is None or not total:
            continue
        error, number = excess
        if error > variance * (1 + BEYOND * math.sqrt(2 / (number - 1))):
            found = max(found, error - variance)
        apart = float(sums.sum()) / total
    allowed = variance * max(LEAST_APART, 1 - shared)
    if apart**2 > APART**2 * allowed:
        found += apart**2 - allowed
    if gain is not None and GAIN_BEYOND * gain[1] < abs(gain[0]) <= MOST_GAIN:
        found += (gain[0] * gain[2]) ** 2
    return math.sqrt(found)


def jackknife(counts: NDArray[np.float64], sums: NDArray[np.float64], side: int) -> tuple[float, int] | None:
    """Return the variance of the mean over all blocks, from the scatter of their means, and how many blocks say so.

    Parameters
    ----------
    counts, sums
        Pixels of each block, and the sum of their values.
    side
        Side of a block, pixels.
    """
    full = counts >= FULL * side**2
    number = int(np.count_nonzero(full))
    if number < FEWEST:
        return None
    weight = counts[full] / counts[full].sum()
    means = sums[full] / counts[full]
    centre = float(np.einsum("b,b->", weight, means))
    return float(np.einsum("b,b->", weight**2, (means - centre) ** 2)) * number / (number - 1), number


@njit(nogil=True, cache=True)
def block_sums(  # noqa: PLR0917 - a compiled function takes positions only # pragma: no cover
    first: Image, second: Image, box: Box, cut: Cut, fitted: tuple[float, float, float], side: int
) -> tuple[Floats, Floats]:
    """Return of each block the number of kept pixels, and the sum of their differences less the fitted plane."""
    ny, nx = box[4], box[5]
    across = nx // side + 1
    counts, sums = np.zeros((ny // side + 1) * across), np.zeros((ny // side + 1) * across)
    row = np.empty(nx)
    x, y = unit(nx), unit(ny)
    for r in range(ny):
        difference_row(first, second, box, r, row)
        level, mine = cut[0] + cut[2] * y[r], fitted[0] + fitted[2] * y[r]
        for k in range(nx):
            left = row[k] - (level + cut[1] * x[k])
            if (left >= cut[3]) & (left <= cut[4]):
                block = (r // side) * across + k // side
                counts[block] += 1.0
                sums[block] += row[k] - (mine + fitted[1] * x[k])
    return counts, sums
