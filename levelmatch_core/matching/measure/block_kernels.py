"""The compiled sums over blocks of an overlap, and what they say of the error of its mean, in one pass over a pair.

A pair has a few dozen blocks: in numpy each of the steps would take longer to call than to compute.
"""

from typing import NamedTuple

import numpy as np

from levelmatch_core.matching.measure.difference_kernels import (
    Box,
    Cut,
    Floats,
    Image,
    difference_row,
    plain_difference,
    plain_left,
    plain_unit,
    unit,
)
from levelmatch_core.process.compilation import njit
from levelmatch_core.process.small_work import add_in_turn, compiled_when_large, in_turn, replaced_by

FULL = 0.3
"""Blocks with less than this fraction of the pixels of a full one are left out."""


class BlockFindings(NamedTuple):
    """What blocks of one size show of the kept pixels and their residuals."""

    pixels: float
    """Number of all, also of those in blocks that are left out."""
    residual: float
    """Sum of theirs, data unit."""
    number: float
    """Number of blocks with enough pixels; all below is of these, and 0 where there are fewer than two."""
    weight: float
    """Number of their pixels."""
    variance: float
    """Of the mean of the pixels over all blocks, from the scatter of their means."""
    robust: float
    """The same with winsorised residuals."""
    second: float
    third: float
    """Cumulants of the pixels about the mean of their block."""
    third_error: float
    """1 sigma of the latter from its scatter over blocks."""
    explained: float
    """Sum over the pixels of the squares of the plane that the means of the blocks follow, about its mean."""
    left: float
    """What it leaves of their squares."""
    slope_x: float
    """Of that plane, data unit per pixel."""
    slope_y: float


def _passes(box: Box, sides: tuple[int, int]) -> int:
    """Return as how many passes the pixels and the blocks of both sizes count, where nothing is compiled."""
    return box[4] * box[5] // 12 + 100 * sum((box[4] // side + 1) * (box[5] // side + 1) for side in sides)


@compiled_when_large(lambda *given: _passes(given[2], given[5]))
@njit(nogil=True, cache=True)
def block_statistics(  # noqa: PLR0917 - a compiled function takes positions only # pragma: no cover
    first: Image,
    second: Image,
    box: Box,
    cut: Cut,
    fitted: tuple[float, float, float],
    sides: tuple[int, int],
    limit: float,
) -> tuple[tuple[float, ...], tuple[float, ...], float]:
    """Return the fields of :class:`BlockFindings` for both sizes of blocks, and the number of residuals within `limit`.

    Parameters
    ----------
    first, second, box, cut
        As in :mod:`levelmatch_core.matching.measure.difference_kernels`.
    fitted
        The plane that residuals are about.
    sides
        Sides of the blocks, pixels.
    limit
        Residuals beyond it are winsorised.
    """
    one, other, within = block_sums(first, second, box, cut, fitted, sides, limit)
    return of_blocks(one, sides[0], box[5]), of_blocks(other, sides[1], box[5]), within


def _plain_sums(  # noqa: PLR0917 - those of the compiled function
    first: Image,
    second: Image,
    box: Box,
    cut: Cut,
    fitted: tuple[float, float, float],
    sides: tuple[int, int],
    limit: float,
) -> tuple[Floats, Floats, float]:
    """Do what :func:`block_sums` does."""
    ny, nx = box[4], box[5]
    x, y = plain_unit(nx), plain_unit(ny)
    tables, within = [np.zeros((ny // side + 1, nx // side + 1, 5)) for side in sides], 0
    ends = sorted({*range(sides[0], ny, sides[0]), *range(sides[1], ny, sides[1]), ny})
    for start, end in zip([0, *ends], ends, strict=False):
        rows = slice(start, end)
        difference = plain_difference(first, second, box, rows)
        left = plain_left(difference, cut, x, y[rows])
        keep = (left >= cut[3]) & (left <= cut[4])
        value = np.where(keep, plain_left(difference, fitted, x, y[rows]), 0.0)
        inner, square = np.minimum(np.maximum(value, -limit), limit), value * value
        within += int(np.count_nonzero(keep & (inner == value)))
        every = keep.astype(np.float64), value, square, square * value, inner
        columns = np.stack([in_turn(each) for each in every], axis=1)
        for side, table in zip(sides, tables, strict=True):
            mine = table[(end - 1) // side]
            padded = np.zeros((len(mine) * side, 5))
            padded[:nx] = columns
            add_in_turn(mine, padded.reshape(len(mine), side, 5).transpose(1, 0, 2))
    one, other = (table.reshape(-1, 5) for table in tables)
    return one, other, float(within)


@replaced_by(_plain_sums)
@njit(nogil=True, cache=True, no_cpython_wrapper=True)
def block_sums(  # noqa: PLR0917 - as above # pragma: no cover
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
    For each of the sizes (blocks, 5) the number of kept pixels of each block, the sums of their residuals, of the
    squares and of the cubes, and the sum with residuals beyond `limit` set to it; and the number of all residuals
    within `limit`.
    """
    ny, nx = box[4], box[5]
    one = np.zeros(((ny // sides[0] + 1) * (nx // sides[0] + 1), 5))
    other = np.zeros(((ny // sides[1] + 1) * (nx // sides[1] + 1), 5))
    within = 0
    row, kept, clamped = np.empty(nx), np.empty(nx), np.empty(nx)
    columns = np.zeros((5, nx))
    counts, totals, squares, cubes, clamped_totals = columns[0], columns[1], columns[2], columns[3], columns[4]
    x, y = unit(nx), unit(ny)
    for r in range(ny):
        difference_row(first, second, box, r, row)
        level, mine = cut[0] + cut[2] * y[r], fitted[0] + fitted[2] * y[r]
        for k in range(nx):  # for all pixels alike, so that it is vectorised, as are the sums of each column
            left = row[k] - (level + cut[1] * x[k])
            keep = (left >= cut[3]) & (left <= cut[4])
            value = row[k] - (mine + fitted[1] * x[k]) if keep else 0.0
            inner = min(max(value, -limit), limit)
            kept[k] = 1.0 if keep else 0.0
            row[k], clamped[k] = value, inner
            within += keep & (inner == value)
        for k in range(nx):
            counts[k] += kept[k]
            clamped_totals[k] += clamped[k]
        for k in range(nx):
            square = row[k] * row[k]
            totals[k] += row[k]
            squares[k] += square
            cubes[k] += square * row[k]
        if (r + 1) % sides[0] == 0 or (r + 1) % sides[1] == 0 or r == ny - 1:
            _add_columns(columns, sides[0], one, r)
            _add_columns(columns, sides[1], other, r)
            for k in range(nx):
                counts[k] = totals[k] = squares[k] = cubes[k] = clamped_totals[k] = 0.0
    return one, other, float(within)


@njit(nogil=True, cache=True, no_cpython_wrapper=True)
def _add_columns(columns: Floats, side: int, table: Floats, r: int) -> None:  # pragma: no cover - compiled
    """Add sums over columns of some rows, of which `r` is the last, to the blocks in which these are."""
    nx = columns.shape[1]
    start = (r // side) * (nx // side + 1)
    for what in range(5):
        for block in range(nx // side + 1):
            total = table[start + block, what]
            for k in range(block * side, min((block + 1) * side, nx)):
                total += columns[what, k]
            table[start + block, what] = total


@njit(nogil=True, cache=True, no_cpython_wrapper=True)
def of_blocks(table: Floats, side: int, nx: int) -> tuple[float, ...]:  # pragma: no cover - compiled
    """Return the fields of :class:`BlockFindings`.

    Parameters
    ----------
    table
        (blocks, 5) sums as :func:`block_sums` returns them.
    side, nx
        Of the blocks and of the box, pixels.
    """
    across, least = nx // side + 1, FULL * side * side
    pixels = residual = weight = total = winsorised = x_mean = y_mean = 0.0
    number = 0.0
    for b in range(len(table)):
        count = table[b, 0]
        pixels += count
        residual += table[b, 1]
        if count >= least:
            number += 1.0
            weight += count
            total += table[b, 1]
            winsorised += table[b, 4]
            x_mean += count * (b % across)
            y_mean += count * (b // across)
    if number < 2:
        return pixels, residual, number, weight, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    centre, x_mean, y_mean = total / weight, x_mean / weight, y_mean / weight
    inner = winsorised / weight
    variance = robust = squares = second = third = xx = xy = yy = x_sum = y_sum = 0.0
    for b in range(len(table)):
        count = table[b, 0]
        if count >= least:
            mean = table[b, 1] / count
            off, x, y = mean - centre, (b % across) - x_mean, (b // across) - y_mean
            variance += count * off * count * off
            apart = table[b, 4] - count * inner
            robust += apart * apart
            squares += count * off * off
            second += count * _second(table[b, 2] / count, mean, count)
            third += count * _third(table[b, 3] / count, table[b, 2] / count, mean, count)
            xx += count * x * x
            xy += count * x * y
            yy += count * y * y
            x_sum += count * x * off
            y_sum += count * y * off
    second, third = second / weight, third / weight
    error = 0.0
    for b in range(len(table)):
        count = table[b, 0]
        if count >= least:
            own = _third(table[b, 3] / count, table[b, 2] / count, table[b, 1] / count, count)
            apart = count * (own - third)
            error += apart * apart
    # the normal equations of both slopes: the mean is 0, and two unknowns need no better conditioned way
    determinant = xx * yy - xy * xy
    slope_x = slope_y = 0.0
    if determinant > 1e-9 * xx * yy:
        slope_x, slope_y = (yy * x_sum - xy * y_sum) / determinant, (xx * y_sum - xy * x_sum) / determinant
    elif xx > 0.0:  # blocks in a line
        slope_x = x_sum / xx
    else:
        slope_y = y_sum / yy
    explained = slope_x * x_sum + slope_y * y_sum
    jackknife = number / (number - 1) / (weight * weight)
    return (
        *(pixels, residual, number, weight, variance * jackknife, robust * jackknife),
        *(second, third, np.sqrt(error * jackknife), explained, squares - explained, slope_x / side, slope_y / side),
    )


@njit(nogil=True, cache=True, no_cpython_wrapper=True)
def _second(square: float, mean: float, count: float) -> float:  # pragma: no cover - compiled
    """Return the second cumulant of a block's pixels, from their mean square and mean."""
    return (square - mean * mean) * count / (count - 1.0)


@njit(nogil=True, cache=True, no_cpython_wrapper=True)
def _third(cube: float, square: float, mean: float, count: float) -> float:  # pragma: no cover - compiled
    """Return the third cumulant of a block's pixels."""
    about = cube - 3.0 * mean * square + 2.0 * mean * mean * mean
    return about * count * count / ((count - 1.0) * (count - 2.0))
