"""What a lopsided difference hides: pixels of one image that are wrong, and too close to the noise to be clipped.

A fifth of an image's pixels may be a few standard deviations too high (hot pixels, columns of another bias, light that
leaked in). No clip takes them out, every statistic follows them, and all pairs of the image agree: nothing shows but
the third cumulant of the difference, which no noise has that is as much above as below. What a sky leaves that two
images see alike is lopsided in some places only: over blocks of the overlap its third cumulant scatters, and is not
significant, whereas wrong pixels are everywhere.

Of a fraction f of pixels that are off by a, the third cumulant is f a^3 and the level is off by f a. Resampling with
the noise gain g leaves about g^2 of the cumulant and g of the variance. With f up to `MOST` the level is off by
cbrt(MOST^2 k3) at most. Where little is lopsided that would be too much said, since photons are, too: what is off by
less than about `LEAST_OFF` standard deviations of the noise is not looked for, and k3 / a^2 is as much then.
"""

import math

from levelmatch_core.matching.measure.block_kernels import BlockFindings

MOST = 0.2
"""Largest fraction of an image's pixels that is thought to be off."""
LEAST_OFF = math.sqrt(2.0)
"""Smallest amount by which they are thought to be off, standard deviations of the image's noise."""
CHANCE, SURE = 3.5, 5.0
"""A third cumulant of so many standard errors may be chance, and is none from the second number on."""
FEWEST = 16
"""Fewest blocks that tell: of 16, one in a thousand is beyond four of their standard errors."""


def hidden(blocks: BlockFindings, noise_gain: float) -> float:
    """Return by how much the level of a lopsided difference may be off, data unit; 0 where it may be chance.

    Parameters
    ----------
    blocks
        Of which the cumulants about the mean of each are used, so that it does not matter how the sky varies from block
        to block.
    noise_gain
        The smaller one of the two images.
    """
    if blocks.number < FEWEST:
        return 0.0
    variance, lopsided, error = blocks.second, blocks.third, blocks.third_error
    if not (variance > 0 and math.isfinite(lopsided) and abs(lopsided) > CHANCE * error):
        return 0.0
    sure = min(1.0, (abs(lopsided) / error - CHANCE) / (SURE - CHANCE)) if error > 0 else 1.0
    own, noise = abs(lopsided) / noise_gain**2, math.sqrt(variance / (2 * noise_gain))
    return sure * min(math.cbrt(MOST**2 * own), own / (LEAST_OFF * noise) ** 2)
