"""How alike the images of a pair are where their difference is mostly structure: whether they show the same sky.

An exposure whose WCS is wrong, that is mirrored, turned, inverted, or of another band or place, has levels like any
other: its differences are only broad, and their blocks say how uncertain they are. With m and d the mean and the
difference of both images without a plane, and m', d' the same a few pixels away, whose noise is independent, the
covariance of both images is <m m'> - <d d'> / 4 and the mean of their variances <m m'> + <d d'> / 4. Their ratio is the
correlation of what they show, noise apart: 1 of the same sky, 0 of two skies, -1 of an inverted image. It is measured
where more than half of the difference's variance is such structure. (Stars that differ by their PSFs, flat fields,
fringes and gains leave less than that, or a correlation close to 1.) Its error is that of sums over blocks, and too
small if what is seen is longer than these.
"""

import math

import numpy as np
from numpy.typing import NDArray

MOSTLY = 0.5
"""Part of the variance of a difference from which on it is mostly structure."""
FEWEST = 10
"""With fewer blocks the error of the correlation is not known."""
SHOWN = 4.0
"""What the images show has to exceed its error by this factor."""


def likeness(
    values: NDArray[np.float64], places: NDArray[np.int64], across: int, turned: float = 0.0
) -> tuple[float, float] | None:
    """Return the correlation of what two images show, and its 1 sigma; None where they show too little.

    Parameters
    ----------
    values
        (6, n) samples: difference and brightness, and the sum of the latter to both sides, all without a plane; x and
        y; and the sum of the difference to both sides.
    places
        (n,) number of the block of each, row by row.
    across
        Number of blocks in a row.
    turned
        What was taken of the last row from the third.
    """
    row, column = np.divmod(places, across)
    wider = row // 2 * across + column // 2  # as long as structure that is no source's
    plane = np.column_stack([np.ones_like(values[3]), values[3], values[4]])
    nearby = values[5] - plane @ np.linalg.lstsq(plane, values[5])[0]
    of_brightness = np.bincount(wider, values[1] * (values[2] + turned * nearby) / 2)
    of_difference = np.bincount(wider, values[0] * nearby / 8)
    seen = np.bincount(wider) > 0
    blocks = int(np.count_nonzero(seen))
    shown = (of_brightness + of_difference)[seen]
    both = float(shown.sum())
    if blocks < FEWEST or both <= SHOWN * float(shown.std()) * math.sqrt(blocks * blocks / (blocks - 1)):
        return None
    correlation = float(of_brightness.sum() - of_difference.sum()) / both
    left = (1 - correlation) * of_brightness - (1 + correlation) * of_difference
    sigma = math.sqrt(float(np.einsum("b,b->", left, left)) * blocks / (blocks - 3)) / both
    return correlation, sigma
