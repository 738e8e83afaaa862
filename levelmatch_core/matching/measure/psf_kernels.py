"""The compiled passes of :mod:`levelmatch_core.matching.measure.psf_match`, and numpy's of the same."""

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.matching.measure.difference_kernels import Box, Image
from levelmatch_core.process.compilation import njit
from levelmatch_core.process.small_work import bands, compiled_when_large, in_turn

Floats = NDArray[np.float64]
Places = NDArray[np.int64]
FitPlane = tuple[float, float, float]
"""Level and slopes x and y, about the middle of the box and over half of it."""

REACH = 2
"""Largest shift of the mean, pixels."""
WINDOW = 2
"""Half the side of the window over which the products of gradients are summed, less one half."""
COHERENCE = 0.6
"""Smallest common fraction of the summed squared gradients of two images with the same structure. Two Gaussians, one
twice as wide as the other, have 0.64 at their centre."""
SIGNIFICANT = 1.2
"""Root of the mean product of the gradients, in pixels' standard deviations, below which there is no structure."""


@njit(nogil=True, cache=True, inline="always")
def _unit(place: int, count: int) -> float:  # pragma: no cover - compiled
    """Return a pixel's distance from the middle in units of half the box."""
    return (place - 0.5 * (count - 1)) / (0.5 * count)


def _plain_mean(first: Image, second: Image, box: Box, plane: FitPlane, mean: Floats) -> None:
    """Do what :func:`mean_image` does."""
    a, b = (_framed(image, box[at] - REACH, box[at + 1] - REACH, mean.shape) for image, at in ((first, 0), (second, 2)))
    y, x = (_unit.py_func(np.arange(size) - REACH, size - 2 * REACH) for size in mean.shape)
    b -= (plane[0] + plane[2] * y)[:, None] + plane[1] * x
    mean[...] = np.where(np.isnan(a), b, np.where(np.isnan(b), a, 0.5 * (a + b)))


def _framed(image: Image, top: int, left: int, shape: tuple[int, ...]) -> Floats:
    """Return the part of an image that begins somewhere, perhaps beyond its edges, where all is NaN."""
    framed = np.full(shape, np.nan)
    part = image[max(top, 0) : max(top + shape[0], 0), max(left, 0) : max(left + shape[1], 0)]
    down, right = max(-top, 0), max(-left, 0)
    framed[down : down + part.shape[0], right : right + part.shape[1]] = part
    return framed


@compiled_when_large(lambda *given: given[-1].size // 25, _plain_mean)
@njit(nogil=True, cache=True)
def mean_image(first: Image, second: Image, box: Box, plane: FitPlane, mean: Floats) -> None:  # pragma: no cover
    """Fill (ny + 2 REACH, nx + 2 REACH) with the mean of first and second - plane, or with the only valid one."""
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


def _plain_structure(  # noqa: PLR0917 - those of the compiled function
    first: Image, second: Image, box: Box, step: int, noise: float, places: Places, strength: Floats
) -> int:
    """Do what :func:`common_structure` does."""
    edge = WINDOW + 1
    rows, columns = (np.arange(edge + step // 2, size - edge, step) for size in box[4:])
    product, square = np.zeros((2, len(rows), len(columns)))
    count = np.zeros(product.shape, np.int64)
    for i in range(-WINDOW, WINDOW + 1):
        for j in range(-WINDOW, WINDOW + 1):
            y, x = rows[:, None] + i, columns + j
            ay, ax = _gradient(first, box[0] + y, box[1] + x)
            by, bx = _gradient(second, box[2] + y, box[3] + x)
            one = ay * by + ax * bx
            good = np.abs(one) < np.inf
            count += good
            product += np.where(good, one, 0.0)
            square += np.where(good, 0.5 * (ay * ay + ax * ax + by * by + bx * bx), 0.0)
    least = (SIGNIFICANT * noise) ** 2 * 4.0
    found = np.nonzero((count > 0) & (product > least * count) & (product > COHERENCE * square))
    n = min(len(found[0]), len(strength))
    found = found[0][:n], found[1][:n]
    places[:n, 0], places[:n, 1] = rows[found[0]], columns[found[1]]
    strength[:n] = 0.25 * product[found] / count[found]
    return n


def _gradient(image: Image, y: Places, x: Places) -> tuple[Floats, Floats]:
    """Return the steps over two pixels along y and x."""
    above, below, right, left = (
        image[y + dy, x + dx].astype(np.float64) for dy, dx in ((1, 0), (-1, 0), (0, 1), (0, -1))
    )
    return above - below, right - left


@compiled_when_large(lambda *given: 3 * given[2][4] * given[2][5] // given[3] ** 2, _plain_structure)
@njit(nogil=True, cache=True)
def common_structure(  # noqa: PLR0917 - a compiled function takes positions only # pragma: no cover
    first: Image, second: Image, box: Box, step: int, noise: float, places: Places, strength: Floats
) -> int:
    """Fill rows and columns of pixels with common structure and the mean product of gradients; return their number.

    Every `step`-th row and column is examined, until the arrays are full.
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


def _plain_regressors(  # noqa: PLR0917 - those of the compiled function
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
    """Do what :func:`regressors` does."""
    r, c = places.T
    level = plane[0] + plane[1] * _unit.py_func(c, box[5]) + plane[2] * _unit.py_func(r, box[4])
    there = second[box[2] + r, box[3] + c].astype(np.float64)
    values[...] = there - level - first[box[0] + r, box[1] + c].astype(np.float64)
    rows[:, 0], middle, total = 1.0, mean[r + REACH, c + REACH], values.copy()
    for k, (dy, dx) in enumerate(shifts.tolist()):
        ahead, behind = mean[r + REACH + dy, c + REACH + dx], mean[r + REACH - dy, c + REACH - dx]
        rows[:, 1 + 2 * k] = ahead - behind
        rows[:, 2 + 2 * k] = ahead + behind - 2.0 * middle
        total += ahead + behind
    good[...] = np.abs(total) < np.inf


@compiled_when_large(lambda *given: given[7].size // 5, _plain_regressors)
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


def _plain_equations(rows: Floats, values: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Do what :func:`normal_equations` does."""
    weighted = weight[:, None] * rows
    matrix = [in_turn(one[:, None] * rows) for one in weighted.T]
    return np.array(matrix), np.asarray(in_turn(weighted * values[:, None]))


@compiled_when_large(lambda rows, *_: rows.size * rows.shape[1] // 100, _plain_equations)
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


def _plain_out(  # noqa: PLR0917 - those of the compiled function
    second: Image, box: Box, mean: Floats, shifts: Places, coefficients: Floats, out: Image
) -> None:
    """Do what :func:`take_out` does."""
    ny, nx = out.shape
    for rows in bands(*box[4:]):
        row = second[box[2] : box[2] + ny, box[3] : box[3] + nx][rows].astype(np.float64)
        middle = mean[REACH : REACH + ny, REACH : REACH + nx][rows]
        for k, (dy, dx) in enumerate(shifts.tolist()):
            odd, even = coefficients[2 * k], coefficients[2 * k + 1]
            ahead = mean[REACH + dy : REACH + dy + ny, REACH + dx : REACH + dx + nx][rows]
            behind = mean[REACH - dy : REACH - dy + ny, REACH - dx : REACH - dx + nx][rows]
            row -= odd * (ahead - behind) + even * (ahead + behind - 2.0 * middle)
        out[rows] = row


@compiled_when_large(lambda *given: given[-1].size * len(given[3]) // 50, _plain_out)
@njit(nogil=True, cache=True)
def take_out(  # noqa: PLR0917 - a compiled function takes positions only # pragma: no cover
    second: Image, box: Box, mean: Floats, shifts: Places, coefficients: Floats, out: Image
) -> None:
    """Fill (ny, nx) with the second image minus the convolution of the kernel with the mean."""
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
