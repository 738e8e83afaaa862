"""Compiled inner loops of cubic spline interpolation, which blurs less than bilinear interpolation.

The smoothing of bilinear interpolation depends on the offset of a grid pixel from the pixels of the exposure, which
differs between exposures and across an image. The differences of stars or filaments that are only a few pixels wide
therefore have a narrow core and a wide ring of the opposite sign, which every robust statistic mistakes for the sky. A
cubic spline through the pixels (Unser 1999, IEEE Signal Process. Mag. 16, 22) hardly blurs: its coefficients are the
pixels after sharpening with a recursive filter.

The filter spreads wild pixels over their neighbours with alternating signs. Isolated ones (see
:mod:`levelmatch_core.sky.isolated_pixels`) are therefore taken as invalid: they are interpolated before filtering, and
what lies next to them has no value.
"""

import math

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.process.compilation import njit
from levelmatch_core.process.small_work import bands, compiled_when_large
from levelmatch_core.sky.isolated_pixels import flag_wild
from levelmatch_core.sky.kernels import plain_positions, positions_in_row
from levelmatch_core.sky.robust.clipping import pixel_noise

Floats = NDArray[np.float64]
Image = NDArray[np.floating]
Flags = NDArray[np.uint8]

POLE = math.sqrt(3.0) - 2.0
"""Pole of the filter that converts values at the knots into coefficients of a cubic B-spline."""
HORIZON = 24
"""Number of pixels after which the response of the filter is below double precision."""
MARGIN = 2
"""Number of mirrored coefficients beyond each edge of the image."""


def coefficients(data: Image) -> tuple[Floats, Flags]:
    """Return the coefficients of the spline through an image.

    Parameters
    ----------
    data
        (ny, nx), NaN where invalid.

    Returns
    -------
    coefficients
        (ny + 2 MARGIN, nx + 2 MARGIN).
    wild
        (ny, nx), 1 where a pixel was replaced because it is isolated.
    """
    ny, nx = data.shape
    wild = np.zeros(data.shape, np.uint8)
    flag_wild(data, pixel_noise(data), wild)
    padded = np.empty((ny + 2 * MARGIN, nx + 2 * MARGIN))
    fill(data, wild, padded)
    prefilter(padded)
    _mirror(padded)
    return padded, wild


def _plain_fill(data: Image, wild: Flags, padded: Floats) -> None:
    """Do what :func:`fill` does."""
    ny, nx = data.shape
    inner, some = padded[MARGIN : MARGIN + ny, MARGIN : MARGIN + nx], np.zeros(ny, np.bool_)
    for rows in bands(ny, nx):
        valid = np.isfinite(data[rows]) & (wild[rows] == 0)
        some[rows], inner[rows] = valid.any(axis=1), _plain_rows(data[rows], valid)
    first = int(some.argmax())
    for r in np.flatnonzero(~some).tolist():
        inner[r] = inner[r - 1 if r > first else first] if some.any() else 0.0


def _plain_rows(data: Image, valid: NDArray[np.bool_]) -> Floats:
    """Do what :func:`_fill_row` does, for all rows."""
    nx, flat = data.shape[1], data.astype(np.float64).ravel()
    here, bad = np.flatnonzero(valid), np.flatnonzero(~valid)
    if here.size:
        row, after = bad // nx, here.searchsorted(bad)
        one, other = here[np.maximum(after - 1, 0)], here[np.minimum(after, here.size - 1)]
        follows, leads = (one < bad) & (one // nx == row), (other > bad) & (other // nx == row)
        last = np.where(follows, one, row * nx - 1)
        before = flat[np.where(follows, one, other)]
        part = (bad - last) / np.maximum(other - last, 1)
        flat[bad] = np.where(leads, (1.0 - part) * before + part * flat[other], before)
    return flat.reshape(data.shape)


@compiled_when_large(lambda data, *_: data.size // 50, _plain_fill)
@njit(nogil=True, cache=True)
def fill(data: Image, wild: Flags, padded: Floats) -> None:  # pragma: no cover - compiled
    """Copy the image between the margins, with invalid and wild pixels interpolated along rows.

    Rows without valid pixels are copied.
    """
    ny, nx = data.shape
    first = -1  # first row with a valid pixel
    for r in range(ny):
        if _fill_row(data[r], wild[r], padded[MARGIN + r, MARGIN : MARGIN + nx]):
            first = r if first < 0 else first
        elif first >= 0:
            for k in range(MARGIN, MARGIN + nx):
                padded[MARGIN + r, k] = padded[MARGIN + r - 1, k]
    for r in range(first if first >= 0 else ny):
        for k in range(MARGIN, MARGIN + nx):
            padded[MARGIN + r, k] = padded[MARGIN + first, k] if first >= 0 else 0.0


@njit(nogil=True, cache=True, no_cpython_wrapper=True)
def _fill_row(row: Image, wild: Flags, out: Floats) -> bool:  # pragma: no cover - compiled
    """Fill one row, linearly between valid pixels and constant beyond them; return whether there are any."""
    last = -1
    for c in range(row.size):
        value = np.float64(row[c])
        if not np.isfinite(value) or wild[c]:
            continue
        before = value if last < 0 else out[last]
        for k in range(last + 1, c):
            part = (k - last) / (c - last)
            out[k] = (1.0 - part) * before + part * value
        out[c] = value
        last = c
    for k in range(last + 1, row.size):
        out[k] = out[last]
    return last >= 0


def _prefilter_plain(padded: Floats) -> None:
    """Do what :func:`prefilter` does, without a compiler."""
    image = padded[MARGIN:-MARGIN, MARGIN:-MARGIN]
    if image.shape[1] > 1:
        turned = image.T.copy()  # whole rows at once are ten times as fast
        _filter_plain(turned)
        image[...] = turned.T
    if image.shape[0] > 1:
        _filter_plain(image)


def _filter_plain(rows: Floats) -> None:
    """Filter all columns together."""
    n, power, first = len(rows), POLE, rows[0].copy()
    for j in range(1, HORIZON):
        k = j % (2 * n - 2)
        first += power * rows[min(k, 2 * n - 2 - k)]
        power *= POLE
    rows[0] = first
    for j in range(1, n):
        rows[j] += POLE * rows[j - 1]
    rows[-1] = POLE / (POLE * POLE - 1.0) * (rows[-1] + POLE * rows[-2])
    for j in range(n - 2, -1, -1):
        rows[j] = POLE * (rows[j + 1] - rows[j])
    rows *= 6.0


@compiled_when_large(lambda padded: padded.size // 8, _prefilter_plain)
@njit(nogil=True, cache=True)
def prefilter(padded: Floats) -> None:  # pragma: no cover - compiled
    """Convert the values between the margins into the coefficients of their cubic spline, with mirror boundaries."""
    ny, nx = padded.shape[0] - 2 * MARGIN, padded.shape[1] - 2 * MARGIN
    if nx > 1:
        for r in range(ny):
            _filter_row(padded[MARGIN + r, MARGIN : MARGIN + nx])
    if ny > 1:
        _filter_columns(padded, ny)


@njit(nogil=True, cache=True, inline="always")
def _mirrored(k: int, n: int) -> int:  # pragma: no cover - compiled
    """Return the index, among n values with mirror boundaries, of a non-negative index."""
    k %= 2 * n - 2
    return k if k < n else 2 * n - 2 - k


@njit(nogil=True, cache=True, no_cpython_wrapper=True)
def _filter_row(row: Floats) -> None:  # pragma: no cover - compiled
    n = row.size
    total, power = row[0], POLE
    for k in range(1, HORIZON):
        total += power * row[_mirrored(k, n)]
        power *= POLE
    row[0] = total
    for k in range(1, n):
        row[k] += POLE * row[k - 1]
    row[n - 1] = POLE / (POLE * POLE - 1.0) * (row[n - 1] + POLE * row[n - 2])
    for k in range(n - 2, -1, -1):
        row[k] = POLE * (row[k + 1] - row[k])
    for k in range(n):
        row[k] *= 6.0


@njit(nogil=True, cache=True, no_cpython_wrapper=True)
def _start_columns(padded: Floats, n: int) -> None:  # pragma: no cover - compiled
    """Initialise the first row of the forward filter."""
    stop, power, row = padded.shape[1] - MARGIN, POLE, padded[MARGIN]
    first = row.copy()
    for j in range(1, HORIZON):
        other = padded[MARGIN + _mirrored(j, n)]
        for k in range(MARGIN, stop):
            first[k] += power * other[k]
        power *= POLE
    for k in range(MARGIN, stop):
        row[k] = first[k]


@njit(nogil=True, cache=True, no_cpython_wrapper=True)
def _filter_columns(padded: Floats, n: int) -> None:  # pragma: no cover - compiled
    """Filter all columns, of n values, together."""
    stop, last = padded.shape[1] - MARGIN, MARGIN + n - 1
    _start_columns(padded, n)
    for j in range(MARGIN + 1, last + 1):
        row, before = padded[j], padded[j - 1]
        for k in range(MARGIN, stop):
            row[k] += POLE * before[k]
    row, before = padded[last], padded[last - 1]
    for k in range(MARGIN, stop):
        row[k] = POLE / (POLE * POLE - 1.0) * (row[k] + POLE * before[k])
    for j in range(last - 1, MARGIN - 1, -1):
        row, after = padded[j], padded[j + 1]
        for k in range(MARGIN, stop):
            row[k] = POLE * (after[k] - row[k])
    for j in range(MARGIN, last + 1):
        row = padded[j]
        for k in range(MARGIN, stop):
            row[k] *= 6.0


def _mirror(padded: Floats) -> None:
    """Fill the margins with mirrored coefficients."""
    ny, nx = padded.shape[0] - 2 * MARGIN, padded.shape[1] - 2 * MARGIN
    rows = padded[MARGIN : MARGIN + ny]
    for k in range(1, MARGIN + 1):
        rows[:, MARGIN - k] = rows[:, MARGIN + min(k, nx - 1)]
        rows[:, MARGIN + nx - 1 + k] = rows[:, MARGIN + max(nx - 1 - k, 0)]
    for k in range(1, MARGIN + 1):
        padded[MARGIN - k] = padded[MARGIN + min(k, ny - 1)]
        padded[MARGIN + ny - 1 + k] = padded[MARGIN + max(ny - 1 - k, 0)]


@njit(nogil=True, cache=True, inline="always")
def _weights(f: float) -> tuple[float, float, float, float]:  # pragma: no cover - compiled
    """Return the four values of the cubic B-spline at a distance f in [0, 1] from the second of four knots."""
    g = 1.0 - f
    square, cube = f * f, f * f * f
    return g * g * g / 6.0, (4.0 - 6.0 * square + 3.0 * cube) / 6.0, (1.0 + 3.0 * (f + square - cube)) / 6.0, cube / 6.0


@njit(nogil=True, cache=True, inline="always")
def _gain(a: float, b: float, c: float, d: float) -> float:  # pragma: no cover - compiled
    """Return the summed squared weights with which the pixels themselves enter, the filter included.

    The filter's response is sqrt(3) POLE**|k|; its autocorrelation at lag m is 3 POLE**m ((1 + POLE**2) / (1 - POLE**2)
    + m).
    """
    z = POLE
    once = (1.0 + z * z) / (1.0 - z * z)
    found = once * (a * a + b * b + c * c + d * d)
    found += 2.0 * z * (once + 1.0) * (a * b + b * c + c * d)
    found += 2.0 * z * z * (once + 2.0) * (a * c + b * d)
    found += 2.0 * z * z * z * (once + 3.0) * (a * d)
    return 3.0 * found


def _plain_sharp(  # noqa: PLR0917 - those of the compiled function
    padded: Floats,
    pieces: Floats,
    lattice: Floats,
    positions: Floats,
    origin: tuple[float, float],
    out: Image,
    out_variance: Image,
) -> float:
    """Do what :func:`sharpen` does."""
    (ny, nx), change = out.shape, np.zeros(1)
    rows, columns = padded.shape[0] - 2 * MARGIN, padded.shape[1] - 2 * MARGIN
    for band in bands(ny, nx):
        x, y = plain_positions((pieces, lattice, positions), origin, band, nx, nx)
        inside = ~np.isnan(out[band]) & (x >= 0.0) & (y >= 0.0) & (x <= columns - 1.0) & (y <= rows - 1.0)
        x, y = x[inside], y[inside]
        j, i = x.astype(np.int64), y.astype(np.int64)
        fx, fy, at = x - j, y - i, (i + 1) * padded.shape[1] + j + 1
        along, across = _weights.py_func(fx), _weights.py_func(fy)
        value = np.zeros(0)
        for k, weight in enumerate(across):
            line = along[0] * padded.take(at + k * padded.shape[1])
            for m in range(1, 4):
                line += along[m] * padded.take(at + (k * padded.shape[1] + m))
            value = weight * line if k == 0 else value + weight * line
        out[band][inside] = value
        before = ((1.0 - fx) * (1.0 - fx) + fx * fx) * ((1.0 - fy) * (1.0 - fy) + fy * fy)
        after = _gain.py_func(*along) * _gain.py_func(*across)
        change = np.add.accumulate(np.concatenate([change, after - before]))[-1:]
        if out_variance.size > 0:
            out_variance[band][inside] = out_variance[band][inside] * (after / before)
    return float(change[0])


@compiled_when_large(lambda *given: given[5].size // 3, _plain_sharp)
@njit(nogil=True, cache=True)
def sharpen(  # noqa: PLR0917 - a compiled function takes positions only # pragma: no cover
    padded: Floats,
    pieces: Floats,
    lattice: Floats,
    positions: Floats,
    origin: tuple[float, float],
    out: Image,
    out_variance: Image,
) -> float:
    """Replace bilinear values by those of the spline; return the change in summed gains.

    Parameters
    ----------
    padded
        As :func:`coefficients` gives them.
    pieces, lattice, positions, origin
        As in :func:`levelmatch_core.sky.interpolation.bilinear`.
    out, out_variance
        (ny, nx) what bilinear interpolation made, changed; the variance may be empty.
    """
    ny, nx = out.shape
    rows, columns = padded.shape[0] - 2 * MARGIN, padded.shape[1] - 2 * MARGIN
    px, py = np.empty(nx), np.empty(nx)
    change = 0.0
    for r in range(ny):
        positions_in_row((pieces, lattice, positions), origin, r, np.int64(0), px, py)
        for k in range(nx):
            x, y = px[k], py[k]
            if np.isnan(out[r, k]) or not (x >= 0.0 and y >= 0.0 and x <= columns - 1.0 and y <= rows - 1.0):
                continue
            j, i = int(x), int(y)
            fx, fy = x - j, y - i
            a, b, c, d = _weights(fx)
            down, here, up, above = _weights(fy)
            one, two, three, four = padded[i + 1], padded[i + 2], padded[i + 3], padded[i + 4]
            value = down * (a * one[j + 1] + b * one[j + 2] + c * one[j + 3] + d * one[j + 4])
            value += here * (a * two[j + 1] + b * two[j + 2] + c * two[j + 3] + d * two[j + 4])
            value += up * (a * three[j + 1] + b * three[j + 2] + c * three[j + 3] + d * three[j + 4])
            value += above * (a * four[j + 1] + b * four[j + 2] + c * four[j + 3] + d * four[j + 4])
            out[r, k] = value
            before = ((1.0 - fx) ** 2 + fx * fx) * ((1.0 - fy) ** 2 + fy * fy)
            after = _gain(a, b, c, d) * _gain(down, here, up, above)
            change += after - before
            if out_variance.size > 0:
                out_variance[r, k] *= after / before
    return change
