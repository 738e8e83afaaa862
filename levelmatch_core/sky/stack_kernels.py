"""Compiled loops of a robust stack, which release the GIL."""

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.process.compilation import njit
from levelmatch_core.process.small_work import compiled_when_large, in_turn

Floats = NDArray[np.float64]
Image = NDArray[np.floating]

LIMIT = 4.0
"""A value is left out if it deviates from the median of all by more than this many standard deviations of its noise
..."""
STEEP = 1.0
"""... plus this fraction of the largest step of the median to a neighbouring pixel: on the flank of a star, a small
shift has a large effect."""
FEWEST = 3
"""With fewer values no wrong one can be identified."""


def _plain_medians(values: Image, median: Floats) -> None:
    """Do what :func:`medians` does."""
    ordered = np.sort(values.astype(np.float64), axis=0, kind="stable")  # NaN last
    n = np.count_nonzero(~np.isnan(ordered), axis=0)[None]
    lower, upper = (
        np.take_along_axis(ordered, np.minimum(at, len(ordered) - 1), axis=0)[0]
        for at in (np.maximum(n - 1, 0) // 2, n // 2)
    )
    median[...] = np.where(n[0] % 2 == 1, upper, 0.5 * (lower + upper))


@compiled_when_large(lambda values, _: values.size // 10, _plain_medians)
@njit(nogil=True, cache=True)
def medians(values: Image, median: Floats) -> None:  # pragma: no cover - compiled
    """Fill in (rows, columns) the median of the valid values of (parts, rows, columns); NaN where there are none."""
    parts, rows, columns = values.shape
    work = np.empty(parts)
    for r in range(rows):
        for c in range(columns):
            n = 0
            for p in range(parts):
                value = np.float64(values[p, r, c])
                if np.isnan(value):
                    continue
                k = n
                while k > 0 and work[k - 1] > value:
                    work[k] = work[k - 1]
                    k -= 1
                work[k] = value
                n += 1
            middle = n // 2
            if n == 0:
                median[r, c] = np.nan
            elif n % 2:
                median[r, c] = work[middle]
            else:
                median[r, c] = 0.5 * (work[middle - 1] + work[middle])


@njit(nogil=True, cache=True, no_cpython_wrapper=True)
def _step(median: Floats, r: int, c: int) -> float:  # pragma: no cover - compiled
    """Return the largest step of the median from a pixel to one of its four neighbours."""
    here, largest = median[r, c], 0.0
    for dr, dc in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        if 0 <= c + dc < median.shape[1]:
            step = abs(median[r + dr, c + dc] - here)
            largest = max(largest, 0.0 if np.isnan(step) else step)
    return largest


def _plain_steps(median: Floats) -> Floats:
    """Return what :func:`_step` does, for all pixels but those of the first and last row."""
    rows, columns = median.shape
    here, largest = median[1:-1], np.zeros((rows - 2, columns))
    beside = np.full((rows, columns + 2), np.nan)
    beside[:, 1:-1] = median
    for dr, dc in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        step = np.abs(beside[1 + dr : rows - 1 + dr, 1 + dc : 1 + dc + columns] - here)
        largest = np.fmax(largest, step)
    return largest


def _plain_mean(  # noqa: PLR0917 - those of the compiled function
    values: Image,
    variances: Image,
    median: Floats,
    noise: Floats,
    weights: Floats,
    mean: Floats,
    variance: Floats,
    coverage: NDArray[np.int32],
    shares: Floats,
) -> None:
    """Do what :func:`robust_mean` does."""
    middle, here = median[1:-1], values[:, 1:-1].astype(np.float64)
    sigma, spread = np.broadcast_to(noise[:, None, None], here.shape), np.zeros((0, *mean.shape))
    if variances.size > 0:
        spread = variances[:, 1:-1].astype(np.float64)
        sigma = np.fmax(sigma, np.sqrt(spread))
    off = np.abs(here - middle)
    allowed = np.where(np.count_nonzero(~np.isnan(here), axis=0) < FEWEST, np.inf, STEEP * _plain_steps(median))
    # for example, of four values in two pairs none is near the median
    none = ~(off <= allowed + LIMIT * sigma).any(axis=0)
    near = off <= np.where(none, np.inf, allowed) + LIMIT * sigma
    total, weight = np.zeros(mean.shape), np.zeros(mean.shape)
    for each, value, used in zip(weights, here, near, strict=True):
        total += np.where(used, each * value, 0.0)
        weight += np.where(used, each, 0.0)
    valid = ~np.isnan(middle)
    mean[...], coverage[...] = np.nan, np.where(valid, np.count_nonzero(near, axis=0), 0)
    mean[valid] = total[valid] / weight[valid]
    used, whole = near[:, valid], weight[valid]
    for p, each in enumerate(weights):
        part = each / whole
        shares[p] = in_turn(np.concatenate([shares[p : p + 1], np.where(used[p], part * part, 0.0)]))
    if variances.size > 0:
        square = in_turn(np.where(used, (weights * weights)[:, None] * spread[:, valid], 0.0))
        variance[valid] = square / (whole * whole)


@compiled_when_large(lambda values, *_: values.size // 8, _plain_mean)
@njit(nogil=True, cache=True)
def robust_mean(  # noqa: PLR0917 - a compiled function takes positions only # pragma: no cover
    values: Image,
    variances: Image,
    median: Floats,
    noise: Floats,
    weights: Floats,
    mean: Floats,
    variance: Floats,
    coverage: NDArray[np.int32],
    shares: Floats,
) -> None:
    """Average the values that agree with the median of all.

    Parameters
    ----------
    values, variances
        (parts, rows + 2, columns), with a further row below and above; NaN where invalid. The variances may be empty.
    median
        (rows + 2, columns) of the values.
    noise, weights
        (parts,) 1 sigma of a pixel, and the weight in the mean.
    mean, variance, coverage
        (rows, columns), filled in: the weighted mean, its variance, and the number of values in it.
    shares
        (parts,) to which the sums over pixels of the squared normalised weights are added.
    """
    parts = len(noise)
    sigma = np.empty(parts)
    for r in range(mean.shape[0]):
        for c in range(mean.shape[1]):
            middle = median[r + 1, c]
            mean[r, c], coverage[r, c] = np.nan, 0
            if np.isnan(middle):
                continue
            here = values[:, r + 1, c]
            spread = variances[:, r + 1, c] if variances.size > 0 else here[:0]
            seen = 0
            for p in range(parts):
                seen += not np.isnan(here[p])
                sigma[p] = max(noise[p], np.sqrt(np.float64(spread[p]))) if spread.size > 0 else noise[p]
            allowed = np.inf if seen < FEWEST else STEEP * _step(median, r + 1, c)
            kept, total, weight = _sums(here, middle, allowed, sigma, weights)
            if kept == 0:  # for example, of four values in two pairs none is near the median
                allowed = np.inf
                kept, total, weight = _sums(here, middle, allowed, sigma, weights)
            mean[r, c], coverage[r, c] = total / weight, kept
            square = 0.0
            for p in range(parts):
                if abs(np.float64(here[p]) - middle) <= allowed + LIMIT * sigma[p]:
                    shares[p] += (weights[p] / weight) ** 2
                    square += weights[p] * weights[p] * np.float64(spread[p]) if spread.size > 0 else 0.0
            if spread.size > 0:
                variance[r, c] = square / (weight * weight)


@njit(nogil=True, cache=True, no_cpython_wrapper=True)
def _sums(  # pragma: no cover - compiled
    values: Image, middle: float, allowed: float, sigma: Floats, weights: Floats
) -> tuple[int, float, float]:
    """Return the number of values near the median, their weighted sum, and the sum of their weights."""
    kept, total, weight = 0, 0.0, 0.0
    for p in range(len(sigma)):
        value = np.float64(values[p])
        if abs(value - middle) <= allowed + LIMIT * sigma[p]:  # false for NaN
            kept += 1
            total += weights[p] * value
            weight += weights[p]
    return kept, total, weight
