"""Images of crowds, smoothed until what sampling and small shifts leave of stars in a difference cancels.

A star that pixels sample too coarsely has, after resampling, the flux that it had, and a profile that depends on where
it lies within its pixels. What two exposures leave of it is as much above as below the level, within a few pixels: no
error of a sum, but of a median, which looks at each pixel by itself, and of a kernel for the PSFs, which is fitted to
it. A binomial of 5 x 5 pixels, which hardly passes what is finer than a pixel samples, sums it up before either looks.
Both images are smoothed alike, with the pixels that are valid in both.

Cosmic rays and hot pixels, which are in one image only, do not cancel: they spread over their neighbours, and a median
of the pixels as they are copes better with them. So smoothing is tried where clipping takes more of the pixels than
noise explains, and kept where it leaves little more than it leaves of noise, and nothing that is lopsided all over the
overlap (`lopsided`), as wrong pixels of one image are.
"""

import numpy as np

from levelmatch_core.matching.measure.difference_kernels import Box, Image
from levelmatch_core.process.compilation import njit

CROWD = 0.04
"""Fraction of the pixels that is clipped in addition to those of noise, from which on a difference may be a crowd's:
0.14 to 0.22 in simulated ones that are undersampled, 0.05 to 0.2 where stars are misregistered or PSFs differ."""
REACH = 2
"""Of the binomial, pixels to each side."""
LEAST = 0.6
"""Smallest part of its weight that valid pixels must have."""
NOISE_LEFT = (70 / 256) ** 2
"""Part of the variance of white noise that it leaves."""
MOST_LEFT = 2 * NOISE_LEFT
"""A smoothed difference that has more of the variance is not taken. Resampled noise has 1.2 to 1.7 times `NOISE_LEFT`.
"""
AREA = 1 / NOISE_LEFT - 1
"""What it adds to the sum of the autocorrelation: nearly, as areas of Gaussians add."""
OWN_MORE, OWN_MOST = 3.2, 0.83
"""What neighbours add to the part of a robust estimate's variance that is not the mean's: times that part, and at most.

That part is of third order in the correlation of two pixels, and higher (of a median, the arcsine's), whose sum over
neighbours is not small here: for Huber's estimates it is 3.2 times the pixel's own, for a median 0.83 in all."""
OF_SMOOTHED = 0.01, NOISE_LEFT, 0.3
"""For smoothed images, in the place of `pair_fit.PSF_LEFT`, the noise gain, and `pair_fit.CLIPPED_ALONE`: a kernel of
whole pixels does for stars that pixels sample well (where it moved levels by 300 errors and more, they were off by two
of them), and pairs clip nearly the same part of such stars."""


def smoothed(first: Image, second: Image, box: Box) -> tuple[Image, Image, Box]:
    """Return both images over the box, smoothed, and the box in them.

    Parameters
    ----------
    first, second, box
        A pair, as in :mod:`levelmatch_core.matching.measure.difference_kernels`.

    Returns
    -------
    (ny, nx) of the types of both, NaN where most neighbours are invalid in one: holes of single pixels are filled.
    """
    one, other = np.empty(box[4:], first.dtype), np.empty(box[4:], second.dtype)
    smooth_both(first, second, box, one, other)
    one.flags.writeable = other.flags.writeable = False
    return one, other, (0, 0, 0, 0, *box[4:])


def own_part(excess: float) -> float:
    """Return the part of an estimate's variance that is not the mean's, from that of pixels that are independent."""
    return excess + min(OWN_MORE * excess, OWN_MOST)


@njit(nogil=True, cache=True)
def smooth_both(first: Image, second: Image, box: Box, one: Image, other: Image) -> None:  # pragma: no cover
    """Fill (ny, nx) each with the weighted means of the pixels that are valid in both.

    Each row is smoothed along itself once, and kept as long as rows near it need it.
    """
    ny, nx = box[4], box[5]
    row = np.zeros((3, nx + 2 * REACH))  # whether it is valid, and both values, 0 where not
    rows = np.zeros((2 * REACH + 1, 3, nx))
    for r in range(ny + REACH):
        mine = rows[r % (2 * REACH + 1)]
        if r < ny:
            a = first[box[0] + r, box[1] : box[1] + nx]
            b = second[box[2] + r, box[3] : box[3] + nx]
            for k in range(nx):
                p, q = np.float64(a[k]), np.float64(b[k])
                good = np.abs(q - p) < np.inf
                row[0, REACH + k] = 1.0 if good else 0.0
                row[1, REACH + k] = p if good else 0.0
                row[2, REACH + k] = q if good else 0.0
            for m in range(3):
                line, into = row[m], mine[m]
                for k in range(nx):
                    into[k] = line[k] + line[k + 4] + 4.0 * (line[k + 1] + line[k + 3]) + 6.0 * line[k + 2]
        else:
            mine[:] = 0.0
        s = r - REACH
        if s < 0:
            continue
        top, upper, here, lower = rows[(s + 3) % 5], rows[(s + 4) % 5], rows[s % 5], rows[(s + 1) % 5]
        for k in range(nx):
            weight = top[0, k] + mine[0, k] + 4.0 * (upper[0, k] + lower[0, k]) + 6.0 * here[0, k]
            p = top[1, k] + mine[1, k] + 4.0 * (upper[1, k] + lower[1, k]) + 6.0 * here[1, k]
            q = top[2, k] + mine[2, k] + 4.0 * (upper[2, k] + lower[2, k]) + 6.0 * here[2, k]
            one[s, k] = p / weight if weight > LEAST * 256.0 else np.nan
            other[s, k] = q / weight if weight > LEAST * 256.0 else np.nan
