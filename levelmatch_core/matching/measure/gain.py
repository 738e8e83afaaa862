"""Does the difference of a pair grow with brightness? A slope is an error of gain, which no constant corrects.

The difference of a pair is regressed on its mean brightness, after subtraction of a plane in position, over pixels
spread evenly over the overlap. Both contain the noise of the same pixels, which would cause a slope if exposures are
not equally noisy. The brightness a few pixels away, whose noise is independent, therefore serves as an instrumental
variable (Durbin 1954, Rev. Int. Stat. Inst. 22, 23). In an empty field it carries no information, and the error becomes
large accordingly: slope over error is the score test of Anderson and Rubin (1949, Ann. Math. Stat. 20, 46), which has a
normal distribution if there is no slope.

What correlation resampled noise has there (some per cent) cancels between equally noisy exposures. Where one is far
noisier, brightness nearby is that of both images weighted by their inverse variances: it cancels then, too.

The residuals of stars and filaments that differences in sampling leave are not white noise: they are correlated over
several pixels. The error is therefore the larger one of that of single pixels and that of sums over blocks
(cluster-robust: Liang and Zeger 1986, Biometrika 73, 13).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.matching.measure.difference_kernels import (
    Box,
    Cut,
    Image,
    difference_row,
    plain_difference,
    plain_left,
    plain_unit,
    unit,
)
from levelmatch_core.matching.measure.likeness import MOSTLY, likeness
from levelmatch_core.process.compilation import njit
from levelmatch_core.process.small_work import compiled_when_large, in_turn, replaced_by

LAG = 3
"""Distance to either side at which the brightness is read, pixels: beyond the correlation of resampled noise."""
SAMPLES = 10_000
"""Approximate number of pixels used; the cost is that of a few passes over them."""
FEWEST = 50
"""With fewer samples no gain is measured."""
BLOCK = 16
"""Side of the blocks, pixels: longer than the residuals of a source."""
FEWEST_BLOCKS = 20
"""With fewer blocks their scatter is not used."""
UNEQUAL, MOST_UNEQUAL = 0.25, 0.55
"""Regression of brightness on the difference from which on, and up to which, one image is far noisier than the other:
(t^2 - s^2) / (2 (t^2 + s^2)) for noise of s and t, half at most; what is beyond is brightness."""
MOST_ERROR = 1.0
"""A slope with a larger error is not measured: the brightness hardly varies."""


@dataclass(frozen=True)
class Gain:
    """How the difference second - first grows with brightness."""

    slope: float
    """Change of the difference per unit of brightness."""
    sigma: float
    """1 sigma of it."""
    brightness: float
    """Mean of both over the overlap, data unit; the slope times this is the spurious level due to the gain."""


def gain(
    first: Image, second: Image, box: Box, cut: Cut, n_kept: int
) -> tuple[Gain | None, tuple[float, float] | None]:
    """Return the slope of a difference against brightness, and how alike both images are; None what is not measured.

    Parameters
    ----------
    first, second, box, cut
        A pair and the pixels that clipping left, as in :mod:`levelmatch_core.matching.measure.difference_kernels`.
    n_kept
        Number of these pixels.
    """
    ny, nx = box[4:]
    if nx <= 2 * LAG:
        return None, None
    step = max(2, math.isqrt(math.ceil(n_kept / SAMPLES)))  # at 2 pixels, resampled noise is independent
    most = ((ny - 1) // step + 1) * ((nx - 2 * LAG - 1) // step + 1)
    values, places = np.empty((6, most)), np.empty(most, np.int64)
    found = regressed(first, second, box, cut, step, values, places)
    n, mean, square, with_delta, with_here, nearby, blocks, spread, own, turned = found
    if n < FEWEST:
        return None, None
    alike = None
    if own > 2 * MOSTLY * square:  # the difference is mostly structure
        alike = likeness(values[:, :n], places[:n], nx // BLOCK + 1, turned)
    if nearby <= 0 or with_here == 0:
        return None, alike
    # of the difference as it is, as if it had no slope: where brightness is noise, a fitted slope would take noise away
    scatter = math.sqrt(square / max(1, n - 3))
    by_blocks = math.sqrt(spread * blocks / (blocks - 3)) if blocks >= FEWEST_BLOCKS else 0.0
    sigma = max(scatter * math.sqrt(nearby), by_blocks) / abs(with_here)
    if not 0 < sigma < MOST_ERROR:
        return None, alike
    return Gain(with_delta / with_here, sigma, mean), alike


@compiled_when_large(lambda *given: given[2][4] * given[2][5] // (4 * given[4]))
@njit(nogil=True, cache=True)
def regressed(  # noqa: PLR0917 - a compiled function takes positions only
    first: Image,
    second: Image,
    box: Box,
    cut: Cut,
    step: int,
    values: NDArray[np.float64],
    places: NDArray[np.int64],
) -> tuple[int, float, float, float, float, float, int, float, float, float]:
    """Return what the slope of a difference against brightness is made of.

    Parameters
    ----------
    first, second, box, cut
        As in :func:`gain`.
    step
        Every so many columns and rows are used.
    values, places
        (6, n or more) and (n or more,), filled with samples as :func:`_products` leaves them, and with their blocks.

    Returns
    -------
    Number of samples; mean brightness; the sums, without a plane in position, of difference squared, and of nearby
    brightness times difference, brightness, and itself; the number of blocks with samples, and the sum over them of the
    square of the sum of nearby brightness times what the slope leaves of the difference; the sum of the difference
    times that nearby; and how much of the latter was taken from nearby brightness, since one image is far noisier.
    """
    ny, nx = box[4], box[5]
    n = _samples(first, second, box, cut, step, values, places)
    if n == 0:
        return 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0, 0.0, 0.0, 0.0
    # which leaves them without their plane
    mean, square, together, with_delta, with_here, nearby, own = _products(values, n)
    along = together / square if square > 0.0 else 0.0
    turned = along if UNEQUAL < abs(along) <= MOST_UNEQUAL else 0.0
    if turned != 0.0:
        # with m and d the mean and the difference nearby, weights of 1/s^2 and 1/t^2 make m - along d of the two images
        _turn(values, turned, n)
        _, _, _, with_delta, with_here, nearby, _ = _products(values, n)
    if with_here == 0.0:
        return n, mean, square, with_delta, with_here, nearby, 0, 0.0, own, turned
    sums = np.zeros((2, ((ny - 1) // BLOCK + 1) * (nx // BLOCK + 1)))
    blocks, spread = _block_products(values, with_delta / with_here, places, n, sums)
    return n, mean, square, with_delta, with_here, nearby, blocks, spread, own, turned


def _plain_turn(values: NDArray[np.float64], turned: float, n: int) -> None:
    """Do what :func:`_turn` does."""
    values[2, :n] -= turned * values[5, :n]


@replaced_by(_plain_turn)
@njit(nogil=True, cache=True, no_cpython_wrapper=True)
def _turn(values: NDArray[np.float64], turned: float, n: int) -> None:  # pragma: no cover - compiled
    """Take so much of the difference nearby out of the brightness nearby, of n samples."""
    for k in range(n):
        values[2, k] -= turned * values[5, k]


def _plain_samples(  # noqa: PLR0917 - those of the compiled function
    first: Image,
    second: Image,
    box: Box,
    cut: Cut,
    step: int,
    values: NDArray[np.float64],
    places: NDArray[np.int64],
) -> int:
    """Do what :func:`_samples` does."""
    ny, nx = box[4], box[5]
    x, y, rows = plain_unit(nx), plain_unit(ny)[::step], np.arange(0, ny, step)
    difference = plain_difference(first, second, box, slice(None, None, step))
    left = plain_left(difference, cut, x, y)
    keep = (left >= cut[3]) & (left <= cut[4])
    bright = first[box[0] : box[0] + ny : step, box[1] : box[1] + nx].astype(np.float64) + 0.5 * difference
    middle, before, after = (slice(LAG + lag, nx - LAG + lag, step) for lag in (0, -LAG, LAG))
    used = keep[:, middle] & keep[:, before] & keep[:, after]
    n = int(np.count_nonzero(used))
    values[0, :n] = difference[:, middle][used]
    values[1, :n] = bright[:, middle][used]
    values[2, :n] = bright[:, before][used] + bright[:, after][used]
    row, column = np.nonzero(used)
    values[3, :n], values[4, :n] = x[middle][column], y[row]
    values[5, :n] = difference[:, before][used] + difference[:, after][used]
    places[:n] = rows[row] // BLOCK * (nx // BLOCK + 1) + (LAG + step * column) // BLOCK
    return n


@replaced_by(_plain_samples)
@njit(nogil=True, cache=True, no_cpython_wrapper=True)
def _samples(  # noqa: PLR0917 - a compiled function takes positions only # pragma: no cover
    first: Image,
    second: Image,
    box: Box,
    cut: Cut,
    step: int,
    values: NDArray[np.float64],
    places: NDArray[np.int64],
) -> int:
    """Fill (6, n or more) with difference, brightness, the latter nearby, x, y, and the difference nearby; and blocks.

    Returns their number.
    """
    ny, nx = box[4], box[5]
    row, bright, keep = np.empty(nx), np.empty(nx), np.empty(nx, np.bool_)
    x, y = unit(nx), unit(ny)
    n = 0
    for r in range(0, ny, step):
        difference_row(first, second, box, r, row)
        a = first[box[0] + r, box[1] : box[1] + nx]
        level = cut[0] + cut[2] * y[r]
        for k in range(nx):
            left = row[k] - (level + cut[1] * x[k])
            keep[k] = (left >= cut[3]) & (left <= cut[4])
            bright[k] = np.float64(a[k]) + 0.5 * row[k]
        for k in range(LAG, nx - LAG, step):
            if keep[k] & keep[k - LAG] & keep[k + LAG]:
                values[0, n] = row[k]
                values[1, n] = bright[k]
                values[2, n] = bright[k - LAG] + bright[k + LAG]
                values[3, n] = x[k]
                values[4, n] = y[r]
                values[5, n] = row[k - LAG] + row[k + LAG]
                places[n] = (r // BLOCK) * (nx // BLOCK + 1) + k // BLOCK
                n += 1
    return n


def _plain_products(values: NDArray[np.float64], n: int) -> tuple[float, float, float, float, float, float, float]:
    """Do what :func:`_products` does."""
    middle = in_turn(values[:5, :n].T) / n
    v0, v1, v2, x, y = values[:5, :n] - middle[:, None]
    sums = x * x, x * y, y * y, v0 * x, v1 * x, v2 * x, v0 * y, v1 * y, v2 * y
    xx, xy, yy, *along = in_turn(np.stack(sums, axis=1)).tolist()
    turn = xy / xx if xx > 0.0 else 0.0
    rest = yy - turn * xy
    in_x = 1.0 / xx if xx > 0.0 else 0.0
    in_y = 1.0 / rest if rest > 1e-12 * yy else 0.0
    y = y - turn * x
    for k, (of_x, of_y) in enumerate(zip(along[:3], along[3:], strict=True)):
        values[k, :n] = values[k, :n] - middle[k] - of_x * in_x * x - (of_y - turn * of_x) * in_y * y
    v0, v1, v2, own = *values[:3, :n], values[5, :n]
    found = in_turn(np.stack([v0 * v0, v0 * v1, v2 * v0, v2 * v1, v2 * v2, v0 * own], axis=1)).tolist()
    square, together, with_delta, with_here, nearby, alike = found
    return float(middle[1]), square, together, with_delta, with_here, nearby, alike


@replaced_by(_plain_products)
@njit(nogil=True, cache=True, no_cpython_wrapper=True)
def _products(  # pragma: no cover - compiled
    values: NDArray[np.float64], n: int
) -> tuple[float, float, float, float, float, float, float]:
    """Take a plane in x and y out of the first three rows of n samples, in place: return what the slope is made of.

    Returns
    -------
    Mean brightness; then the sums of difference squared and times brightness, of nearby brightness times difference,
    brightness, and itself, and of the difference times that nearby.
    """
    m0 = m1 = m2 = mx = my = 0.0
    for k in range(n):
        m0 += values[0, k]
        m1 += values[1, k]
        m2 += values[2, k]
        mx += values[3, k]
        my += values[4, k]
    m0, m1, m2, mx, my = m0 / n, m1 / n, m2 / n, mx / n, my / n
    xx = xy = yy = x0 = x1 = x2 = y0 = y1 = y2 = 0.0
    for k in range(n):
        x, y = values[3, k] - mx, values[4, k] - my
        v0, v1, v2 = values[0, k] - m0, values[1, k] - m1, values[2, k] - m2
        xx += x * x
        xy += x * y
        yy += y * y
        x0 += v0 * x
        x1 += v1 * x
        x2 += v2 * x
        y0 += v0 * y
        y1 += v1 * y
        y2 += v2 * y
    # y without its regression on x; no slope in a direction in which all pixels have the same position
    turn = xy / xx if xx > 0.0 else 0.0
    rest = yy - turn * xy
    in_x = 1.0 / xx if xx > 0.0 else 0.0
    in_y = 1.0 / rest if rest > 1e-12 * yy else 0.0
    y0, y1, y2 = (y0 - turn * x0) * in_y, (y1 - turn * x1) * in_y, (y2 - turn * x2) * in_y
    x0, x1, x2 = x0 * in_x, x1 * in_x, x2 * in_x
    square = together = with_delta = with_here = nearby = own = 0.0
    for k in range(n):
        x = values[3, k] - mx
        y = values[4, k] - my - turn * x
        v0 = values[0, k] - m0 - x0 * x - y0 * y
        v1 = values[1, k] - m1 - x1 * x - y1 * y
        v2 = values[2, k] - m2 - x2 * x - y2 * y
        values[0, k], values[1, k], values[2, k] = v0, v1, v2
        square += v0 * v0
        together += v0 * v1
        with_delta += v2 * v0
        with_here += v2 * v1
        nearby += v2 * v2
        own += v0 * values[5, k]
    return m1, square, together, with_delta, with_here, nearby, own


def _plain_block_products(
    values: NDArray[np.float64], slope: float, places: NDArray[np.int64], n: int, sums: NDArray[np.float64]
) -> tuple[int, float]:
    """Do what :func:`_block_products` does."""
    of_samples = values[2, :n] * (values[0, :n] - slope * values[1, :n])
    blocks = np.asarray(np.bincount(places[:n], of_samples, minlength=sums.shape[1]), np.float64)
    sums[0], sums[1, places[:n]] = blocks, 1.0
    return int(np.count_nonzero(sums[1])), float(in_turn(blocks * blocks))


@replaced_by(_plain_block_products)
@njit(nogil=True, cache=True, no_cpython_wrapper=True)
def _block_products(
    values: NDArray[np.float64], slope: float, places: NDArray[np.int64], n: int, sums: NDArray[np.float64]
) -> tuple[int, float]:
    """Return the number of blocks that have any samples, and the sum of the squares of their sums.

    These are of nearby brightness times what the slope leaves of the difference.

    Parameters
    ----------
    values, places
        As :func:`_samples` and :func:`_products` leave them, (6, n or more) and (n or more,).
    sums
        (2, blocks) zeros: for the sums, and for whether there is any.
    """
    for k in range(n):
        sums[0, places[k]] += values[2, k] * (values[0, k] - slope * values[1, k])
        sums[1, places[k]] = 1.0
    blocks = squares = 0.0
    for b in range(sums.shape[1]):
        squares += sums[0, b] * sums[0, b]
        blocks += sums[1, b]
    return int(blocks), squares
