"""What two PSFs, or a small misregistration, leave in a pair's difference: fitted and taken out.

Where second = (delta + k) * first, k a small kernel of sum zero, the difference of the images is level + k * mean to
second order, with the mean of both images in place of either, whose noise is then no part of it (compare Alard & Lupton
1998, ApJ 503, 325, whose kernel is not of sum zero and acts on one image). The difference is regressed on the mean
shifted by a few pixels less itself, in even and odd combinations: each is of sum zero, flux goes nowhere, and the level
is left as it is.

The kernel is fitted where both images have the same structure, and nowhere else: the products of their gradients, whose
noise is independent, are summed over a small window, and must make most of the summed squares. A cosmic ray, a latent
image or a satellite is in one image alone. Pixels are weighed by their noise and by a part of the gradient, for no
kernel is perfect, and what still stands out is weighed down (Huber). Where the kernel explains little of the
difference, nothing is done: a median of the differences as they are is then better.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.matching.measure.difference_kernels import Box, Image
from levelmatch_core.process.compilation import njit

Floats = NDArray[np.float64]
Places = NDArray[np.int64]
FitPlane = tuple[float, float, float]
"""Level and slopes x and y, about the middle of the box and over half of it."""

REACH = 2
"""Pixels by which the mean is shifted at most."""
WINDOW = 2
"""Half the side of the window over which the products of gradients are summed, less one half."""
NEAR = np.array([(0, 1), (1, -1), (1, 0), (1, 1)])
"""(4, 2) shifts, in y and x, up to a sign, that say whether a kernel is worth fitting."""
SHIFTS = np.array([(0, 1), (0, 2), (1, -2), (1, -1), (1, 0), (1, 1), (1, 2), (2, -2), (2, -1), (2, 0), (2, 1), (2, 2)])
"""(12, 2) those of the kernel: 5 x 5 pixels."""
SAMPLES = 1500
"""About so many pixels with structure are fitted, at most; twice as many are looked at."""
FINER = 2
"""So many times more are looked at where few of them have structure."""
FEWEST_EACH = 10
"""At least so many for each coefficient."""
COHERENCE = 0.6
"""Part of the summed squared gradients that is common to both images, where there is the same structure. Two Gaussians
of which one is twice as wide as the other have 0.64 in their middle."""
SIGNIFICANT = 1.2
"""Root of the mean product of the gradients, in pixels' standard deviations, below which there is no structure."""
IMPERFECT = 0.1
"""Part of the gradient by which the kernel may miss."""
EXPLAINED = 0.15
"""The kernel is taken out if it explains this part of the variance of the difference where there is structure."""
SWEEPS = 4
"""Of the reweighted fit."""
HUBER_LIMIT = 1.345
FAR = 6.0
"""Residuals beyond so many standard deviations do not count at all."""
RIDGE = 1e-6
"""Relative to the diagonal of the normal equations: the shifts of a smooth image are alike."""
MAD_TO_SIGMA = 1.482602218505602


@dataclass(frozen=True)
class Kernel:
    """What was found."""

    coefficients: Floats
    """(24,) odd and even part of each of `SHIFTS`."""
    explained: float
    """Part of the variance of the difference that it explains, where there is structure."""


def psf_matched(first: Image, second: Image, box: Box, plane: FitPlane, noise: float) -> Image | None:
    """Return what the second image would be over the box with the PSF of the first.

    Parameters
    ----------
    first, second, box
        A pair, as in :mod:`levelmatch_core.matching.measure.difference_kernels`.
    plane, noise
        What was fitted to the difference as it is, and its standard deviation about that.

    Returns
    -------
    Image or None
        (ny, nx) of the second's type, NaN where one is invalid or the kernel reaches beyond both; None where there is
        nothing to match.
    """
    if not noise > 0 or min(box[4:]) <= 2 * REACH:
        return None
    places, strength = structure(first, second, box, noise)
    if len(places) < FEWEST_EACH * 2 * len(NEAR):
        return None
    mean = np.empty((box[4] + 2 * REACH, box[5] + 2 * REACH))
    mean_image(first, second, box, plane, mean)
    weight = 1.0 / (noise**2 + IMPERFECT**2 * strength)
    found = fit_kernel(first, second, box, plane, (mean, places, weight), NEAR)
    if found is None or found.explained < EXPLAINED:
        return None
    if len(places) >= FEWEST_EACH * 2 * len(SHIFTS):
        finer = fit_kernel(first, second, box, plane, (mean, places, weight), SHIFTS)
        found, shifts = (finer, SHIFTS) if finer is not None and finer.explained > found.explained else (found, NEAR)
    else:
        shifts = NEAR
    out = np.empty(box[4:], dtype=second.dtype)
    take_out(second, box, mean, shifts, found.coefficients, out)
    out.flags.writeable = False
    return out


def structure(first: Image, second: Image, box: Box, noise: float) -> tuple[Places, Floats]:
    """Find pixels where both images have the same structure, evenly spread.

    A finer lattice is looked at where few pixels of the first have structure.

    Returns
    -------
    (n, 2) rows and columns, and (n,) the mean product of the two gradients there.
    """
    ny, nx = box[4:]
    step = max(1, math.isqrt(ny * nx // (2 * SAMPLES)))
    room = 6 * FINER * SAMPLES
    places, strength = np.empty((room, 2), np.int64), np.empty(room)
    n = common_structure(first, second, box, step, noise, places, strength)
    if step > 1 and FEWEST_EACH <= n < SAMPLES // 4:
        step = max(1, math.isqrt(ny * nx // (2 * FINER * SAMPLES)))
        n = common_structure(first, second, box, step, noise, places, strength)
    return places[:n], strength[:n]


def fit_kernel(  # noqa: PLR0917 - a pair, and where and what to fit
    first: Image, second: Image, box: Box, plane: FitPlane, where: tuple[Floats, Places, Floats], shifts: Places
) -> Kernel | None:
    """Fit the kernel of some shifts, robustly.

    Parameters
    ----------
    first, second, box, plane
        As above.
    where
        The mean image, with margins; (n, 2) rows and columns; (n,) weights.
    shifts
        (K, 2) in y and x.

    Returns
    -------
    Kernel or None
        None where too few pixels have all neighbours.
    """
    mean, places, weight = where
    columns = 1 + 2 * len(shifts)
    rows, values = np.empty((len(places), columns)), np.empty(len(places))
    good = np.empty(len(places), np.bool_)
    regressors(first, second, box, plane, mean, shifts, places, rows, values, good)
    if np.count_nonzero(good) < FEWEST_EACH * (columns - 1):
        return None
    rows, values, weight = rows[good], values[good], weight[good]
    root = np.sqrt(weight)
    used = weight
    for _ in range(SWEEPS):
        matrix, right = normal_equations(rows, values, used)
        matrix[np.diag_indices(columns)] *= 1.0 + RIDGE
        try:
            solved = np.linalg.solve(matrix, right)
        except np.linalg.LinAlgError:
            return None
        left = np.abs(values - np.einsum("nk,k->n", rows, solved)) * root
        scatter = MAD_TO_SIGMA * float(np.median(left))
        if scatter == 0:
            break
        left /= scatter
        used = weight * np.where(left < FAR, np.minimum(1.0, HUBER_LIMIT / np.maximum(left, HUBER_LIMIT)), 0.0)
    before = MAD_TO_SIGMA * float(np.median(np.abs(values - np.median(values)) * root))
    return Kernel(solved[1:], 1.0 - (scatter / before) ** 2 if before > 0 else 0.0)


@njit(nogil=True, cache=True, inline="always")
def _unit(place: int, count: int) -> float:  # pragma: no cover - compiled
    """Return a pixel's distance from the middle in units of half the box."""
    return (place - 0.5 * (count - 1)) / (0.5 * count)


@njit(nogil=True, cache=True)
def mean_image(first: Image, second: Image, box: Box, plane: FitPlane, mean: Floats) -> None:  # pragma: no cover
    """Fill (ny + 2 REACH, nx + 2 REACH) with the mean of first and second - plane, or the one that is there."""
    ay, ax, by, bx = box[0] - REACH, box[1] - REACH, box[2] - REACH, box[3] - REACH
    for r in range(mean.shape[0]):
        in_a = 0 <= ay + r < first.shape[0]
        in_b = 0 <= by + r < second.shape[0]
        level = plane[0] + plane[2] * _unit(r - REACH, box[4])
        for c in range(mean.shape[1]):
            a = b = np.nan
            if in_a and 0 <= ax + c < first.shape[1]:
                a = np.float64(first[ay + r, ax + c])
            if in_b and 0 <= bx + c < second.shape[1]:
                b = np.float64(second[by + r, bx + c]) - (level + plane[1] * _unit(c - REACH, box[5]))
            if np.isnan(a):
                mean[r, c] = b
            elif np.isnan(b):
                mean[r, c] = a
            else:
                mean[r, c] = 0.5 * (a + b)


@njit(nogil=True, cache=True)
def common_structure(  # noqa: PLR0917 - a compiled function takes positions only # pragma: no cover
    first: Image, second: Image, box: Box, step: int, noise: float, places: Places, strength: Floats
) -> int:
    """Fill rows and columns of pixels with common structure and the mean product of gradients; return their number.

    Every `step`-th row and column is looked at, until the arrays are full.
    """
    ny, nx = box[4], box[5]
    edge = WINDOW + 1
    least = (SIGNIFICANT * noise) ** 2 * 4.0
    n = 0
    for r in range(edge + step // 2, ny - edge, step):
        for c in range(edge + step // 2, nx - edge, step):
            product = square = 0.0
            count = 0
            for i in range(r - WINDOW, r + WINDOW + 1):
                p, q = box[0] + i, box[2] + i
                for j in range(c - WINDOW, c + WINDOW + 1):
                    s, t = box[1] + j, box[3] + j
                    ay = np.float64(first[p + 1, s]) - np.float64(first[p - 1, s])
                    ax = np.float64(first[p, s + 1]) - np.float64(first[p, s - 1])
                    by = np.float64(second[q + 1, t]) - np.float64(second[q - 1, t])
                    bx = np.float64(second[q, t + 1]) - np.float64(second[q, t - 1])
                    one = ay * by + ax * bx
                    good = np.abs(one) < np.inf
                    count += good
                    product += one if good else 0.0
                    square += 0.5 * (ay * ay + ax * ax + by * by + bx * bx) if good else 0.0
            # gradients over two pixels: four times the square of those over one
            if count > 0 and product > least * count and product > COHERENCE * square and n < len(strength):
                places[n, 0], places[n, 1] = r, c
                strength[n] = 0.25 * product / count
                n += 1
    return n


@njit(nogil=True, cache=True)
def regressors(  # noqa: PLR0917 - a compiled function takes positions only # pragma: no cover
    first: Image,
    second: Image,
    box: Box,
    plane: FitPlane,
    mean: Floats,
    shifts: Places,
    places: Places,
    rows: Floats,
    values: Floats,
    good: NDArray[np.bool_],
) -> None:
    """Fill (n, 1 + 2 K) with 1 and the odd and even parts of the shifts, (n,) the difference, and what is valid."""
    for n in range(len(places)):
        r, c = places[n, 0], places[n, 1]
        level = plane[0] + plane[1] * _unit(c, box[5]) + plane[2] * _unit(r, box[4])
        values[n] = np.float64(second[box[2] + r, box[3] + c]) - level - np.float64(first[box[0] + r, box[1] + c])
        middle = mean[r + REACH, c + REACH]
        rows[n, 0] = 1.0
        total = values[n]
        for k in range(len(shifts)):
            dy, dx = shifts[k, 0], shifts[k, 1]
            ahead, behind = mean[r + REACH + dy, c + REACH + dx], mean[r + REACH - dy, c + REACH - dx]
            rows[n, 1 + 2 * k] = ahead - behind
            rows[n, 2 + 2 * k] = ahead + behind - 2.0 * middle
            total += ahead + behind
        good[n] = np.abs(total) < np.inf


@njit(nogil=True, cache=True)
def normal_equations(rows: Floats, values: Floats, weight: Floats) -> tuple[Floats, Floats]:  # pragma: no cover
    """Return the weighted normal equations' matrix and right-hand side."""
    columns = rows.shape[1]
    matrix, right = np.zeros((columns, columns)), np.zeros(columns)
    for n in range(len(values)):
        row = rows[n]
        for i in range(columns):
            x = weight[n] * row[i]
            right[i] += x * values[n]
            line = matrix[i]
            for j in range(columns):  # both triangles: whole rows go through the processor's vectors
                line[j] += x * row[j]
    return matrix, right


@njit(nogil=True, cache=True)
def take_out(  # noqa: PLR0917 - a compiled function takes positions only # pragma: no cover
    second: Image, box: Box, mean: Floats, shifts: Places, coefficients: Floats, out: Image
) -> None:
    """Fill (ny, nx) with the second image less what the kernel makes of the mean."""
    ny, nx = out.shape
    row = np.empty(nx)
    for r in range(ny):
        middle = mean[r + REACH, REACH : REACH + nx]
        values = second[box[2] + r, box[3] : box[3] + nx]
        for c in range(nx):
            row[c] = np.float64(values[c])
        for k in range(len(shifts)):
            dy, dx = shifts[k, 0], shifts[k, 1]
            odd, even = coefficients[2 * k], coefficients[2 * k + 1]
            ahead = mean[r + REACH + dy, REACH + dx : REACH + dx + nx]
            behind = mean[r + REACH - dy, REACH - dx : REACH - dx + nx]
            for c in range(nx):
                row[c] -= odd * (ahead[c] - behind[c]) + even * (ahead[c] + behind[c] - 2.0 * middle[c])
        for c in range(nx):
            out[r, c] = row[c]
