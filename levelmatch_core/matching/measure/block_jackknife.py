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

from levelmatch_core.matching.measure.block_kernels import BlockFindings, block_statistics
from levelmatch_core.matching.measure.difference_kernels import Box, Cut, Image
from levelmatch_core.matching.measure.lopsided import hidden
from levelmatch_core.matching.measure.tilts import NOT_TILTED, tilted

BLOCKS = (64, 16)
"""Numbers of blocks over the overlap; the larger of both errors is used."""
LEAST_SIDE = 6
"""Smallest side of a block, pixels: resampled noise is not correlated over more."""
FEWEST = 5
"""Smallest number of blocks from which an error is measured."""
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
    found, apart, noise, tilt, slopes = 0.0, 0.0, None, NOT_TILTED, None
    *both, within = block_statistics(first, second, box, cut, fitted, _sides(box), scatter[0])
    small, large = map(BlockFindings._make, both)
    lopsided = hidden(small, noise_gain)
    if small.number >= FEWEST and within > 0:
        freedom = small.number - (3 if any(fitted[1:]) else 1)
        factor = (small.pixels / within / scatter[1]) ** 2
        noise = small.robust * factor * (small.number - 1) / freedom, int(small.number)
    for blocks in (small, large):
        if blocks.number < FEWEST:
            continue
        if blocks.number >= FEWEST + 3:
            tilt = max(tilt, tilted(blocks, variance * shared * blocks.pixels))
            slopes = tilt.slopes
        if blocks.variance > variance * (1 + BEYOND * math.sqrt(2 / (blocks.number - 1))):
            found = max(found, blocks.variance - variance)
        apart = blocks.residual / blocks.pixels
    found += tilt.mean_square
    allowed = variance * max(LEAST_APART, 1 - shared)
    if apart**2 > APART**2 * allowed:
        found += apart**2 - allowed
    if gain is not None and is_gain(gain[0], gain[1]):
        found += (gain[0] * gain[2]) ** 2
    return Shown(math.sqrt(found), noise, lopsided, slopes)


def is_gain(slope: float, sigma: float) -> bool:
    """Return whether a slope of a difference against brightness, with its 1 sigma, is one of gain."""
    return GAIN_BEYOND * sigma < abs(slope) <= MOST_GAIN


def is_lopsided(  # noqa: PLR0917 - as above
    first: Image, second: Image, box: Box, cut: Cut, fitted: tuple[float, float, float], rms: float
) -> bool:
    """Return whether the pixels are lopsided all over the overlap; parameters as for :func:`shown_by`."""
    small, _, _ = block_statistics(first, second, box, cut, fitted, _sides(box), rms)
    return hidden(BlockFindings._make(small), 1.0) > 0.0


def _sides(box: Box) -> tuple[int, int]:
    """Return the sides of the blocks of both sizes."""
    one, other = (max(LEAST_SIDE, round(math.sqrt(box[4] * box[5] / blocks))) for blocks in BLOCKS)
    return one, other
