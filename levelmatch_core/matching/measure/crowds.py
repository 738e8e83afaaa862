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

An error of gain makes most of a crowd's bright pixels differ so much that clipping takes them away, and the evidence
with them. Sums over blocks that are far larger than a star, in which nothing is clipped, do not see what becomes of a
star in its pixels, and keep it.
"""

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.matching.measure import huber
from levelmatch_core.matching.measure.difference_kernels import Box, Image
from levelmatch_core.matching.measure.gain import BLOCK, FEWEST_BLOCKS, MOST_ERROR, Gain
from levelmatch_core.process.compilation import njit
from levelmatch_core.sky.robust.clipping import MAD_TO_SIGMA

Floats = NDArray[np.float64]

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
MOST_LEVERAGE = 0.5
"""A block that decides on more than this part of its own value is left out: no other tests it (a bright star's)."""
SHARED = 1.5
"""Blocks share the stars at their edges: where all stars had moved alike by up to a tenth of a pixel, slopes of 160
simulated pairs scattered by 1.55 times what independent blocks say, in noise alone by 1.06."""
_TURNS = 30
"""Turns of reweighting, after which a slope moves by far less than its error."""


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


def gain_of_blocks(first: Image, second: Image, box: Box) -> Gain | None:
    """Return the slope of a difference against brightness from means over blocks, with a plane in position.

    The slope is Huber's; its variance that of a sandwich with each block's residual as it is without the block (HC3:
    MacKinnon and White 1985, J. Econometrics 29, 305), so that blocks may differ in noise.

    Parameters
    ----------
    first, second, box
        A pair, as in :mod:`levelmatch_core.matching.measure.difference_kernels`.

    Returns
    -------
    Gain or None
        None where too few blocks are at least half valid, or where brightness hardly varies between them.
    """
    number, difference, brightness = _block_sums(first, second, box)
    row, column = np.nonzero(number >= BLOCK * BLOCK / 2)
    if row.size < FEWEST_BLOCKS:
        return None
    counts = number[row, column]
    values, bright = difference[row, column] / counts, brightness[row, column] / counts
    design = np.stack([np.ones(row.size), row - row.mean(), column - column.mean(), bright - bright.mean()], axis=1)
    kept = _leverage(design, np.ones(row.size)) <= MOST_LEVERAGE
    design, values, weights = design[kept], values[kept], np.ones(np.count_nonzero(kept))
    if _effective_number(design) < FEWEST_BLOCKS:
        return None
    for _ in range(_TURNS):
        solution = _pseudo_inverse(design.T @ (design * weights[:, None])) @ (design.T @ (weights * values))
        left = values - design @ solution
        limit = huber.LIMIT * MAD_TO_SIGMA * float(np.median(np.abs(left)))
        if not limit > 0:
            return None
        weights = np.minimum(1.0, limit / np.maximum(np.abs(left), limit))
    inside = design[weights >= 1.0]
    bread = _pseudo_inverse(inside.T @ inside)
    pulls = design * (weights * left / (1.0 - _leverage(design, weights)))[:, None]
    sigma = SHARED * float(np.sqrt((bread @ (pulls.T @ pulls) @ bread)[3, 3]))
    return Gain(float(solution[3]), sigma, float(bright.mean())) if 0 < sigma < MOST_ERROR else None


def _block_sums(first: Image, second: Image, box: Box) -> tuple[Floats, Floats, Floats]:
    """Return (rows, columns) of blocks: the numbers of their pixels, and the sums of difference and brightness."""
    ay, ax, by, bx, ny, nx = box
    edges, sums = np.arange(0, nx, BLOCK), []
    for start in range(0, ny, BLOCK):
        stop = min(start + BLOCK, ny)
        one = first[ay + start : ay + stop, ax : ax + nx].astype(np.float64)
        with np.errstate(invalid="ignore"):  # inf - inf
            difference = second[by + start : by + stop, bx : bx + nx] - one
        valid = np.isfinite(difference)
        difference[~valid] = 0.0
        bright = np.where(valid, one + 0.5 * difference, 0.0)
        sums.append([np.add.reduceat(each.sum(axis=0), edges) for each in (valid, difference, bright)])
    number, differences, brightness = np.array(sums, np.float64).transpose(1, 0, 2)
    return number, differences, brightness


def _effective_number(design: Floats) -> float:
    """Return how many equally bright blocks would tell as much: of few bright stars, the scatter says little."""
    place, bright = design[:, :3], design[:, 3]
    square = (bright - place @ np.linalg.lstsq(place, bright, rcond=None)[0]) ** 2
    return float(square.sum() ** 2 / max((square**2).sum(), 1e-300))


def _leverage(design: Floats, weights: Floats) -> Floats:
    """Return (n,) the part that each value has in its own fit."""
    weighted = design * weights[:, None]
    return np.asarray(np.sum(weighted @ _pseudo_inverse(design.T @ weighted) * design, axis=1))


def _pseudo_inverse(moments: Floats) -> Floats:
    """Return the inverse of (4, 4) moments of quantities of any size; 0 for one that does not vary."""
    scale = np.sqrt(np.maximum(np.diag(moments), 1e-300))
    return np.asarray(
        np.linalg.pinv(moments / np.outer(scale, scale), rcond=1e-12, hermitian=True) / np.outer(scale, scale)
    )


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
