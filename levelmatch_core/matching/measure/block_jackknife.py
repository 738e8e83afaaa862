"""The error of a pair's level beyond pixel noise, measured from the pair itself: residual structure of the sky.

Stars with two PSFs, a nebula on two pixel grids, flat fields and slopes leave structure in a difference, which its
scatter treats as independent in each pixel. It is measured in five ways:

- The means of the difference over blocks of the overlap scatter by more than pixel noise: the delete-one-block
  jackknife (Kuensch 1989, Ann. Statist. 17, 1217; for a weighted mean it is the sum below), with blocks of two sizes.
- The means of the blocks follow a plane, where a level was fitted: flat field, glow, sky gradient. It goes on beyond
  the overlap, so that the level is as uncertain as the difference varies within it, however many blocks there are, and
  more so if the exposures are tilted as a whole (`tilts`).
- Two statistics of the same pixels, the fitted one and the mean of those that were kept, differ by more than noise
  allows (Hausman 1978, Econometrica 46, 1251): an error that all blocks share.
- The difference grows with brightness: a gain, which causes a level of gain times mean brightness.
- The pixels are lopsided all over the overlap: wrong ones hide among those that were kept (`lopsided`).

What PSF matching changes in a level adds a fraction of the change (`pair_fit.PSF_LEFT`).

Only a significant excess over pixel noise is included, so that the result for pure noise is 0.

Pixel noise itself may be less than its scatter says. What undersampled stars leave in a difference is as much below the
level as above it, within a few pixels, and a robust estimate hardly follows it. The blocks show this, too: with the
residuals winsorised, their sums are the influence of each block on Huber's estimate, and its variance over blocks that
of the estimate (cluster-robust: Liang and Zeger 1986, Biometrika 73, 13). One pair knows its own variance to a fifth;
all pairs of a group together decide (`noise_scale`).
"""

import math
from dataclasses import dataclass

import numpy as np

from levelmatch_core.matching.measure.difference_kernels import Box, Cut, Floats, Image, difference_row, unit
from levelmatch_core.matching.measure.lopsided import hidden
from levelmatch_core.matching.measure.tilts import NOT_TILTED, tilted
from levelmatch_core.process.compilation import njit

BLOCKS = (64, 16)
"""Numbers of blocks over the overlap; the larger of both errors is used."""
LEAST_SIDE = 6
"""Smallest side of a block, pixels: resampled noise is not correlated over more."""
FEWEST = 5
"""Smallest number of blocks from which an error is measured."""
FULL = 0.3
"""Blocks with less than this fraction of the pixels of a full one are left out."""
BEYOND = 3.0
"""Standard deviations by which the variance of the blocks must exceed that of noise."""
GAIN_BEYOND, MOST_GAIN = 5.0, 0.2
"""A gain is included if it exceeds this many of its standard deviations, and if it is not larger than this: images of
one camera do not differ by more, and a larger value, from a few pixels of a crowded field, means nothing."""
APART = 3.0
"""Standard deviations of noise by which two statistics may differ."""
LEAST_APART = 0.05
"""Smallest variance of their difference, as a fraction of that of the level: clipping changes both a little."""


@dataclass(frozen=True)
class Shown:
    """What the pixels of a pair show about the error of its level."""

    structure: float = 0.0
    """1 sigma beyond pixel noise, data unit; 0 if none is significant."""
    noise: tuple[float, int] | None = None
    """Variance of Huber's estimate over blocks, as a fraction of that in normal noise, and the number of blocks; None
    if these are too few."""
    hidden: float = 0.0
    """By how much wrong pixels among those that were kept may have moved the level, data unit; 0 if none are seen."""
    slopes: tuple[float, float] | None = None
    """Those that the blocks follow, data unit a pixel; 0 if none is significant, None if the blocks are too few."""


def shown_by(  # noqa: PLR0917 - the two images and their box, then what the fit found
    first: Image,
    second: Image,
    box: Box,
    cut: Cut,
    fitted: tuple[float, float, float],
    scatter: tuple[float, float],
    stderr: float,
    shared: float,
    gain: tuple[float, float, float] | None,
    noise_gain: float = 1.0,
) -> Shown:
    """Return the error of a pair's level that its blocks show, beyond pixel noise and instead of it.

    Parameters
    ----------
    first, second, box, cut
        The images, their common box and the pixels of the fit, as in
        :mod:`levelmatch_core.matching.measure.difference_kernels`.
    fitted
        The fitted plane, about the middle of the box, with slopes over half of it.
    scatter
        Scatter of the pixels about it, and the 1 sigma that Huber's estimate with this limit has in normal noise.
    stderr
        1 sigma of the level due to pixel noise.
    shared
        Variance of the mean of the pixels as a fraction of that of the level.
    gain
        Slope of the difference against brightness, its 1 sigma, and the mean brightness.
    noise_gain
        The smaller one of the two images.
    """
    variance = stderr**2
    if not variance > 0:
        return Shown()
    found, lopsided, apart, noise, tilt, slopes = 0.0, 0.0, 0.0, None, NOT_TILTED, None
    first_side, second_side = (max(LEAST_SIDE, round(math.sqrt(box[4] * box[5] / blocks))) for blocks in BLOCKS)
    *tables, within = block_sums(first, second, box, cut, fitted, (first_side, second_side), scatter[0])
    for side, table in zip((first_side, second_side), tables, strict=True):
        total = float(table[0].sum())
        full = np.flatnonzero(table[0] >= FULL * side**2)
        counts, sums, squares, cubes, winsorised = np.ascontiguousarray(table[:, full])
        means = sums / counts
        excess = jackknife(counts, means)
        if table is tables[0]:
            lopsided = hidden((counts, means, squares, cubes), noise_gain)
            robust = jackknife(counts, winsorised / counts)
            if robust is not None and within > 0:
                freedom = robust[1] - (3 if any(fitted[1:]) else 1)
                noise = robust[0] * (total / within / scatter[1]) ** 2 * (robust[1] - 1) / freedom, robust[1]
        if excess is None or not total:
            continue
        error, number = excess
        if len(full) >= FEWEST + 3:
            across = box[5] // side + 1
            places = (side * (full % across)).astype(float), (side * (full // across)).astype(float)
            pixel = variance * shared * total
            tilt = max(tilt, tilted(*places, means, counts, pixel))
            slopes = tilt.slopes
        if error > variance * (1 + BEYOND * math.sqrt(2 / (number - 1))):
            found = max(found, error - variance)
        apart = float(table[1].sum()) / total
    found += tilt.mean_square
    allowed = variance * max(LEAST_APART, 1 - shared)
    if apart**2 > APART**2 * allowed:
        found += apart**2 - allowed
    if gain is not None and GAIN_BEYOND * gain[1] < abs(gain[0]) <= MOST_GAIN:
        found += (gain[0] * gain[2]) ** 2
    return Shown(math.sqrt(found), noise, lopsided, slopes)


def jackknife(counts: Floats, means: Floats) -> tuple[float, int] | None:
    """Return the variance of the mean over all blocks, from the scatter of their means, and the number of blocks.

    Parameters
    ----------
    counts, means
        Pixels of each block with enough of them, and the mean of their values.
    """
    number = len(counts)
    if number < FEWEST:
        return None
    weight = counts / counts.sum()
    centre = float(np.einsum("b,b->", weight, means))
    return float(np.einsum("b,b->", weight**2, (means - centre) ** 2)) * number / (number - 1), number


@njit(nogil=True, cache=True)
def block_sums(  # noqa: PLR0917 - a compiled function takes positions only # pragma: no cover
    first: Image,
    second: Image,
    box: Box,
    cut: Cut,
    fitted: tuple[float, float, float],
    sides: tuple[int, int],
    limit: float,
) -> tuple[Floats, Floats, float]:
    """Sum the differences minus the fitted plane over blocks of two sizes.

    Returns
    -------
    For each of the sizes (5, blocks) the number of kept pixels of each block, the sums of their residuals, of the
    squares and of the cubes, and the sum with residuals beyond `limit` set to it; and the number of all residuals
    within `limit`.
    """
    ny, nx = box[4], box[5]
    one_table = np.zeros((ny // sides[0] + 1, nx // sides[0] + 1, 5))
    other_table = np.zeros((ny // sides[1] + 1, nx // sides[1] + 1, 5))
    within = 0
    row, kept, clamped = np.empty(nx), np.empty(nx), np.empty(nx)
    x, y = unit(nx), unit(ny)
    for r in range(ny):
        difference_row(first, second, box, r, row)
        level, mine = cut[0] + cut[2] * y[r], fitted[0] + fitted[2] * y[r]
        for k in range(nx):  # for all pixels alike, so that it is vectorised
            left = row[k] - (level + cut[1] * x[k])
            keep = (left >= cut[3]) & (left <= cut[4])
            value = row[k] - (mine + fitted[1] * x[k]) if keep else 0.0
            inner = min(max(value, -limit), limit)
            kept[k] = 1.0 if keep else 0.0
            row[k], clamped[k] = value, inner
            within += keep & (inner == value)
        _add_row(row, kept, clamped, sides[0], one_table[r // sides[0]])
        _add_row(row, kept, clamped, sides[1], other_table[r // sides[1]])
    return one_table.reshape(-1, 5).T, other_table.reshape(-1, 5).T, float(within)


@njit(nogil=True, cache=True)
def _add_row(  # pragma: no cover - compiled
    row: Floats, kept: Floats, clamped: Floats, side: int, sums: Floats
) -> None:
    """Add a row of residuals, 0 where they are not kept, to the (blocks, 5) sums of a row of blocks."""
    for column in range(len(sums)):
        # one by one: with a whole row the text of an error about shapes would be compiled, which takes seconds
        count, total, squares = sums[column, 0], sums[column, 1], sums[column, 2]
        cubes, clamped_total = sums[column, 3], sums[column, 4]
        for k in range(column * side, min((column + 1) * side, row.size)):
            value = row[k]
            square = value * value
            count += kept[k]
            total += value
            squares += square
            cubes += square * value
            clamped_total += clamped[k]
        sums[column, 0], sums[column, 1], sums[column, 2] = count, total, squares
        sums[column, 3], sums[column, 4] = cubes, clamped_total
