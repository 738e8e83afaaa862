"""Compiled loops of a robust stack, which release the GIL."""

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.process.compilation import njit
from levelmatch_core.process.small_work import compiled_when_large, in_turn

Floats = NDArray[np.float64]
Image = NDArray[np.floating]

Flags = NDArray[np.uint8]

LIMIT = 3.5
"""A value is left out if it deviates from the median of all by more than this many standard deviations of its noise
..."""
STEEP = 1.0
"""... plus this fraction of the largest step of the median to a neighbouring pixel: on the flank of a star, a small
shift has a large effect."""
BESIDE = 1.0
"""The same for one of the eight next to one that is left out: resampling has spread a cosmic ray over them."""
FEWEST = 3
"""With fewer values no wrong one can be identified."""
MARGIN = 2
"""Number of rows that are seen beyond those of the mean, on either side."""
_NONE, _WRONG, _BESIDE, _GOOD = 0, 1, 2, 3


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


def _plain_trust(values: Image, variances: Image, median: Floats, noise: Floats, trust: Flags) -> None:
    """Do what :func:`_fill_trust` does."""
    rows = slice(1, -1)
    here, found, sigma = values[:, rows].astype(np.float64), trust[:, rows], noise[:, None, None]
    if variances.size > 0:
        sigma = np.fmax(sigma, np.sqrt(variances[:, rows].astype(np.float64)))
    off, steps, valid = np.abs(here - median[rows]), STEEP * _plain_steps(median), ~np.isnan(here)
    allowed = np.where(np.count_nonzero(valid, axis=0) >= FEWEST, steps, np.inf)
    found[...] = np.where(valid, _GOOD, _NONE)
    wrong = off > allowed + LIMIT * sigma
    found[wrong] = _WRONG
    spread = np.zeros((len(here), here.shape[1] + 2, here.shape[2] + 2), np.bool_)
    for down in range(3):
        for across in range(3):
            spread[:, down : down + wrong.shape[1], across : across + wrong.shape[2]] |= wrong
    found[spread[:, 1:-1, 1:-1] & (found == _GOOD) & (off > steps + BESIDE * sigma)] = _BESIDE


def _plain_mean(  # noqa: PLR0917 - those of the compiled function
    values: Image,
    variances: Image,
    median: Floats,
    noise: Floats,
    weights: Floats,
    trust: Flags,
    mean: Floats,
    variance: Floats,
    coverage: NDArray[np.int32],
    shares: Floats,
) -> None:
    """Do what :func:`robust_mean` does."""
    _plain_trust(values, variances, median, noise, trust)
    rows = slice(MARGIN, -MARGIN)
    trusted = trust[:, rows]
    near = (trusted == trusted.max(axis=0)) & (trusted > _NONE)
    total, weight = np.zeros((2, *mean.shape))
    for each, value, used in zip(weights, values[:, rows].astype(np.float64), near, strict=True):
        total += np.where(used, each * value, 0.0)
        weight += np.where(used, each, 0.0)
    coverage[...] = np.count_nonzero(near, axis=0)
    valid, mean[...] = coverage > 0, np.nan
    used, whole = near[:, valid], weight[valid]
    mean[valid] = total[valid] / whole
    for p, each in enumerate(weights):
        part = each / whole
        shares[p] = in_turn(np.concatenate([shares[p : p + 1], np.where(used[p], part * part, 0.0)]))
    if variances.size > 0:
        own = variances[:, rows].astype(np.float64)[:, valid]
        variance[valid] = in_turn(np.where(used, (weights * weights)[:, None] * own, 0.0)) / (whole * whole)


@compiled_when_large(lambda values, *_: values.size // 8, _plain_mean)
@njit(nogil=True, cache=True)
def robust_mean(  # noqa: PLR0917 - a compiled function takes positions only # pragma: no cover
    values: Image,
    variances: Image,
    median: Floats,
    noise: Floats,
    weights: Floats,
    trust: Flags,
    mean: Floats,
    variance: Floats,
    coverage: NDArray[np.int32],
    shares: Floats,
) -> None:
    """Average the values that agree with the median of all.

    Parameters
    ----------
    values, variances
        (parts, rows + 2 MARGIN, columns), with further rows below and above; NaN where invalid. The variances may be
        empty.
    median
        (rows + 2 MARGIN, columns) of the values.
    noise, weights
        (parts,) 1 sigma of a pixel, and the weight in the mean.
    trust
        Like the values, filled in: see :func:`_fill_trust`.
    mean, variance, coverage
        (rows, columns), filled in: the weighted mean, its variance, and the number of values in it.
    shares
        (parts,) to which the sums over pixels of the squared normalised weights are added.
    """
    parts = len(noise)
    _fill_trust(values, variances, median, noise, trust)
    for r in range(mean.shape[0]):
        for c in range(mean.shape[1]):
            here, trusted = values[:, r + MARGIN, c], trust[:, r + MARGIN, c]
            most = _most(trusted)  # where no value is near the median, all are as good (of four, two pairs)
            kept, total, weight = 0, 0.0, 0.0
            for p in range(parts):
                if trusted[p] == most and most > _NONE:
                    kept += 1
                    total += weights[p] * np.float64(here[p])
                    weight += weights[p]
            mean[r, c], coverage[r, c] = np.nan, kept
            if kept == 0:
                continue
            mean[r, c] = total / weight
            square = 0.0
            for p in range(parts):
                if trusted[p] == most:
                    shares[p] += (weights[p] / weight) ** 2
                    if variances.size > 0:
                        square += weights[p] * weights[p] * np.float64(variances[p, r + MARGIN, c])
            if variances.size > 0:
                variance[r, c] = square / (weight * weight)


@njit(nogil=True, cache=True, no_cpython_wrapper=True)
def _fill_trust(  # pragma: no cover - compiled
    values: Image, variances: Image, median: Floats, noise: Floats, trust: Flags
) -> None:
    """Say how far each value is to be trusted: not at all, as one that is wrong or beside such a one, or well."""
    parts, rows, columns = values.shape
    for r in range(1, rows - 1):
        for c in range(columns):
            seen = 0
            for p in range(parts):
                trust[p, r, c] = _NONE if np.isnan(values[p, r, c]) else _GOOD
                seen += trust[p, r, c] == _GOOD
            allowed = STEEP * _step(median, r, c) if seen >= FEWEST else np.inf
            for p in range(parts):
                sigma = _sigma(variances, noise, p, r, c)
                if abs(np.float64(values[p, r, c]) - median[r, c]) > allowed + LIMIT * sigma:  # false for NaN
                    trust[p, r, c] = _WRONG
    for r in range(1, rows - 1):
        for c in range(columns):
            for p in range(parts):
                if trust[p, r, c] == _WRONG:
                    _doubt_those_beside(values, variances, median, noise, trust, (p, r, c))


@njit(nogil=True, cache=True, no_cpython_wrapper=True)
def _doubt_those_beside(  # noqa: PLR0917 - a compiled function takes positions only # pragma: no cover
    values: Image, variances: Image, median: Floats, noise: Floats, trust: Flags, at: tuple[int, int, int]
) -> None:
    p, r0, c0 = at
    for r in range(max(r0 - 1, 1), min(r0 + 2, median.shape[0] - 1)):
        for c in range(max(c0 - 1, 0), min(c0 + 2, median.shape[1])):
            limit = STEEP * _step(median, r, c) + BESIDE * _sigma(variances, noise, p, r, c)
            if trust[p, r, c] == _GOOD and abs(np.float64(values[p, r, c]) - median[r, c]) > limit:
                trust[p, r, c] = _BESIDE


@njit(nogil=True, cache=True, inline="always")
def _most(trusted: Flags) -> int:  # pragma: no cover - compiled
    most = _NONE
    for one in trusted:  # numpy's own takes twice as long
        most = max(most, one)
    return most


@njit(nogil=True, cache=True, inline="always")
def _sigma(variances: Image, noise: Floats, p: int, r: int, c: int) -> float:  # pragma: no cover - compiled
    """Return 1 sigma of a value: that of its part, or its own where that is larger."""
    return max(noise[p], np.sqrt(np.float64(variances[p, r, c]))) if variances.size > 0 else noise[p]
