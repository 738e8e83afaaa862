"""Is a difference a level at all? How it grows with brightness: a slope is an error of gain, and no constant mends it.

The difference of a pair is regressed on its mean brightness, a plane in position allowed for, over pixels spread evenly
through the overlap. The pixels' own noise is in both, and would make a slope where exposures are not equally noisy;
therefore the brightness is told by that a few pixels away (an instrumental variable: Durbin 1954, Rev. Int. Stat. Inst.
22, 23), whose noise is its own. Where the field is empty that says nothing, and the error is as large as it has to be:
slope over error is the score test of Anderson and Rubin (1949, Ann. Math. Stat. 20, 46), normal without any slope.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]

LAG = 3
"""Pixels to either side at which the brightness is told: beyond the reach of a resampled pixel's noise."""
SAMPLES = 10_000
"""About so many pixels are looked at: the cost is that of a few passes over them."""
FEWEST = 50
"""With fewer samples nothing is said."""
MOST_ERROR = 1.0
"""A slope less certain than this is none: there is no brightness to speak of."""


@dataclass(frozen=True)
class Gain:
    """How the difference second - first grows with brightness."""

    slope: float
    """Change of the difference a unit of brightness."""
    sigma: float
    """1 sigma of it."""
    brightness: float
    """Mean of both over the overlap, data unit: slope times it is the level that the gain feigns."""


def gain(first: Array, difference: Array, keep: NDArray[np.bool_]) -> Gain | None:
    """Return the slope of a difference against brightness; None where there is nothing to tell it by.

    Parameters
    ----------
    first
        (ny, nx) the first member over the box of the difference.
    difference
        (ny, nx) second - first.
    keep
        (ny, nx) the pixels that clipping left.
    """
    ny, nx = difference.shape
    step = max(2, math.isqrt(math.ceil(keep.sum() / SAMPLES)))  # at 2 pixels, resampled noise is independent
    if nx <= 2 * LAG:
        return None
    rows, columns = slice(0, ny, step), slice(LAG, nx - LAG, step)
    left, right = slice(0, nx - 2 * LAG, step), slice(2 * LAG, nx, step)
    use = keep[rows, columns] & keep[rows, left] & keep[rows, right]
    n = int(np.count_nonzero(use))
    if n < FEWEST:
        return None

    def bright(at: slice) -> NDArray[np.float64]:
        return np.asarray((first[rows, at] + 0.5 * difference[rows, at])[use], dtype=np.float64)

    y, x = np.nonzero(use)
    here = bright(columns)
    values = np.stack([difference[rows, columns][use], here, bright(left) + bright(right)])
    mean = float(here.mean())
    basis, _ = np.linalg.qr(np.column_stack([np.ones(n), x - x.mean(), y - y.mean()]))
    values = values - np.einsum("vn,nk,mk->vm", values, basis, basis, optimize=True)
    delta, _, beside = values
    products = np.einsum("n,vn->v", beside, values)
    if products[2] <= 0 or products[1] == 0:
        return None
    slope = float(products[0] / products[1])
    # of the difference as it is, as if it had no slope: where brightness is noise, a fitted slope would take noise away
    scatter = float(np.sqrt(np.mean(delta**2) * n / max(1, n - 3)))
    sigma = scatter * math.sqrt(products[2]) / abs(float(products[1]))
    if not 0 < sigma < MOST_ERROR:
        return None
    return Gain(slope, sigma, mean)
