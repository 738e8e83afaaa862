"""Compiled inner loops for pixel maps, valid pixels and sums, which release the GIL.

A map is a tensor-product cubic spline in power form, `pieces[i, j, m, n, axis]`: in cell (i, j) of the lattice the
coordinate `axis` is the sum over m, n of pieces[i, j, m, n, axis] v**(3 - m) u**(3 - n), where v and u are the
distances from the first node of the cell along y and x.
"""

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.process.compilation import njit
from levelmatch_core.process.small_work import bands, compiled_when_large, in_turn

Floats = NDArray[np.float64]

_SCATTERED = 1 << 12
"""So many points are evaluated at a time: what is between stays in the processor's cache."""


def as_compiled(image: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return an image as kernels are compiled for: contiguous and read-only, as cutouts are mapped from the store."""
    view = np.ascontiguousarray(image).view()
    view.flags.writeable = False
    return view


@njit(nogil=True, cache=True, inline="always")
def _cell(value: float, start: float, step: float, cells: int) -> int:  # pragma: no cover - compiled
    return min(max(int((value - start) / step), 0), cells - 1)


@njit(nogil=True, cache=True, no_cpython_wrapper=True)
def _cubic(c: tuple[float, float, float, float], first: float, out: Floats) -> None:  # pragma: no cover - compiled
    """Evaluate a cubic polynomial, with the highest power first, at `first`, `first` + 1, ..."""
    for k in range(out.size):
        u = k + first
        out[k] = ((c[0] * u + c[1]) * u + c[2]) * u + c[3]


@njit(nogil=True, cache=True, no_cpython_wrapper=True)
def spline_row(  # noqa: PLR0917 - a compiled function takes positions only # pragma: no cover
    pieces: Floats, lattice: Floats, axis: int, y: float, x0: float, out: Floats
) -> None:
    """Evaluate one coordinate of a map along a row.

    Parameters
    ----------
    pieces
        (cells in y, cells in x, 4, 4, axes).
    lattice
        First node and spacing in x, then in y: (x start, x step, y start, y step).
    axis
        Which coordinate.
    y
        The row.
    x0
        Its first column; the others follow in steps of 1.
    out
        (n,), filled in.
    """
    n = out.size
    ny, nx = pieces.shape[:2]
    start, step = lattice[0], lattice[1]
    i = _cell(y, lattice[2], lattice[3], ny)
    v = y - (lattice[2] + i * lattice[3])
    first = 0
    for j in range(_cell(x0, start, step, nx), nx):
        # the columns of this cell; the first and last cells also extend beyond the lattice
        last = n if j == nx - 1 else min(max(int(np.ceil(start + (j + 1) * step - x0)), first), n)
        if last > first:
            p = pieces[i, j, :, :, axis]
            c3 = ((p[0, 0] * v + p[1, 0]) * v + p[2, 0]) * v + p[3, 0]
            c2 = ((p[0, 1] * v + p[1, 1]) * v + p[2, 1]) * v + p[3, 1]
            c1 = ((p[0, 2] * v + p[1, 2]) * v + p[2, 2]) * v + p[3, 2]
            c0 = ((p[0, 3] * v + p[1, 3]) * v + p[2, 3]) * v + p[3, 3]
            _cubic((c3, c2, c1, c0), first - (start + j * step - x0), out[first:last])
        first = last


@njit(nogil=True, cache=True, no_cpython_wrapper=True)
def positions_in_row(  # noqa: PLR0917 - a compiled function takes positions only # pragma: no cover
    maps: tuple[Floats, Floats, Floats], origin: tuple[float, float], r: int, start: int, px: Floats, py: Floats
) -> None:
    """Fill in where pixels of a row of a box lie in an image.

    Parameters
    ----------
    maps
        Pieces and lattice of a map, as in :func:`spline_row`, and (2, ny, nx) x and y in the image, which are taken in
        place of the map unless they are empty.
    origin
        (x, y) of the first pixel of the box.
    r, start
        The row, and its first column.
    px, py
        (n,), filled in.
    """
    pieces, lattice, positions = maps
    for axis in range(2):
        place = px if axis == 0 else py
        if positions.size > 0:
            for k in range(place.size):  # assigning slices would take seconds to compile
                place[k] = positions[axis, r, start + k]
        else:
            spline_row(pieces, lattice, axis, origin[1] + r, origin[0] + start, place)


def plain_spline(pieces: Floats, lattice: Floats, y: Floats, x0: float, out: Floats) -> None:
    """Do what :func:`spline_row` does, for all coordinates and rows: `y` is (rows,), `out` (axes, rows, n)."""
    (ny, nx), (start, step, bottom, height) = pieces.shape[:2], lattice.tolist()
    n, first = out.shape[2], 0
    rows = np.clip(((y - bottom) / height).astype(np.int64), 0, ny - 1)
    v = (y - (bottom + rows * height))[:, None, None]
    for j in range(min(max(int((x0 - start) / step), 0), nx - 1), nx):
        last = n if j == nx - 1 else min(max(int(np.ceil(start + (j + 1) * step - x0)), first), n)
        if last > first:
            p = pieces[rows, j]
            c = (((p[:, 0] * v + p[:, 1]) * v + p[:, 2]) * v + p[:, 3]).T[..., None]  # axes, powers of u, rows, 1
            u = np.arange(last - first) + (first - (start + j * step - x0))
            out[:, :, first:last] = ((c[:, 0] * u + c[:, 1]) * u + c[:, 2]) * u + c[:, 3]
        first = last


def plain_positions(
    maps: tuple[Floats, Floats, Floats], origin: tuple[float, float], rows: slice, nx: int, run: int
) -> Floats:
    """Return (2, rows, nx) x and y of pixels of a box, as :func:`positions_in_row` has them in runs of so many."""
    pieces, lattice, positions = maps
    if positions.size > 0:
        return positions[:, rows]
    y = np.asarray(origin[1] + np.arange(rows.start, rows.stop), np.float64)
    out = np.empty((2, y.size, nx))
    for start in range(0, nx, run):
        plain_spline(pieces, lattice, y, origin[0] + start, out[:, :, start : start + run])
    return out


def _plain_box(pieces: Floats, lattice: Floats, x0: float, y0: float, out: Floats) -> None:
    """Do what :func:`spline_box` does."""
    plain_spline(pieces, lattice, np.asarray(y0 + np.arange(out.shape[1]), np.float64), x0, out)


@compiled_when_large(lambda *given: given[-1].size // 40, _plain_box)
@njit(nogil=True, cache=True)
def spline_box(pieces: Floats, lattice: Floats, x0: float, y0: float, out: Floats) -> None:  # pragma: no cover
    """Evaluate along the rows y0, y0 + 1, ...: `out` is (axes, ny, nx)."""
    for axis in range(out.shape[0]):
        for r in range(out.shape[1]):
            spline_row(pieces, lattice, axis, y0 + r, x0, out[axis, r])


def spline_points(pieces: Floats, lattice: Floats, x: Floats, y: Floats) -> Floats:
    """Return (axes, n) the coordinates at scattered points, x and y (n,); NaN where these are not finite."""
    rows, columns, _, _, axes = pieces.shape
    by_power, out = pieces.reshape(rows * columns, -1).T.copy(), np.empty((axes, x.size))
    for start in range(0, x.size, _SCATTERED):
        part = slice(start, start + _SCATTERED)
        finite = np.isfinite(x[part]) & np.isfinite(y[part])
        u, j = _in_cell(np.where(finite, x[part], 0.0), lattice[0], lattice[1], columns)
        v, i = _in_cell(np.where(finite, y[part], 0.0), lattice[2], lattice[3], rows)
        p = by_power.take(i * columns + j, axis=1).reshape(4, 4, axes, -1)  # powers of v and of u, axes, points
        along = ((p[:, 0] * u + p[:, 1]) * u + p[:, 2]) * u
        out[:, part] = ((along[0] + p[0, 3]) * v + along[1] + p[1, 3]) * v + along[2] + p[2, 3]
        out[:, part] = out[:, part] * v + along[3] + p[3, 3]
        out[:, part][:, ~finite] = np.nan
    return out


def _in_cell(values: Floats, start: float, step: float, cells: int) -> tuple[Floats, NDArray[np.int64]]:
    """Return the distances of values from the first nodes of their cells, and the cells."""
    cell = np.clip((values - start) / step, 0.0, cells - 1.0).astype(np.int64)
    return values - (start + cell * step), cell


@njit(nogil=True, cache=True, no_cpython_wrapper=True)
def ends_of(row: NDArray[np.floating], ends: NDArray[np.int64]) -> None:  # pragma: no cover - compiled
    """Fill in the first and last column that is not NaN, and the number of such columns; -1, -1, 0 for none."""
    count = 0
    for k in range(row.size):
        count += not np.isnan(row[k])
    first, last = 0, row.size - 1
    if count == 0:
        first, last = -1, -1
    else:
        while np.isnan(row[first]):
            first += 1
        while np.isnan(row[last]):
            last -= 1
    ends[0], ends[1], ends[2] = first, last, count


def plain_ends(data: NDArray[np.floating], ends: NDArray[np.int64]) -> None:
    """Do what :func:`row_ends` does."""
    for rows in bands(*data.shape):
        valid, count = ~np.isnan(data[rows]), ends[rows, 2]
        count[...] = np.count_nonzero(valid, axis=1)
        ends[rows, 0] = np.where(count, valid.argmax(axis=1), -1)
        ends[rows, 1] = np.where(count, data.shape[1] - 1 - valid[:, ::-1].argmax(axis=1), -1)


@compiled_when_large(lambda data, _: data.size // 100, plain_ends)
@njit(nogil=True, cache=True)
def row_ends(data: NDArray[np.floating], ends: NDArray[np.int64]) -> None:  # pragma: no cover - compiled
    """Fill in `ends` (ny, 3): first and last column of each row that is not NaN, and the number of such columns."""
    for r in range(data.shape[0]):
        ends_of(data[r], ends[r])


def valid_rectangle(data: NDArray[np.floating]) -> tuple[int, int, int, int]:
    """Return the half-open ranges of rows and columns with all finite pixels: bottom, top, left, right; 0s for none."""
    bottom, top = _first_finite(data), data.shape[0] - _first_finite(data[::-1])
    if top <= bottom:
        return 0, 0, 0, 0
    columns = data[bottom:top].T
    return bottom, top, _first_finite(columns), data.shape[1] - _first_finite(columns[::-1])


def _first_finite(lines: NDArray[np.floating]) -> int:
    """Return the first line with any finite pixel, their number for none; in most images it is the first of all."""
    return next((number for number, line in enumerate(lines) if np.isfinite(line).any()), len(lines))


def _plain_add(  # noqa: PLR0917 - those of the compiled function
    data: NDArray[np.floating],
    variance: NDArray[np.floating],
    at: tuple[int, int],
    plane: Floats,
    corrected: Floats,
    raw: Floats,
    variances: Floats,
    count: NDArray[np.int32],
) -> None:
    """Do what :func:`add_part` does."""
    ny, nx = data.shape
    here = slice(at[0], at[0] + ny), slice(at[1], at[1] + nx)
    valid, values = ~np.isnan(data), data.astype(np.float64)
    level = plane[0] + plane[2] * np.arange(ny)
    corrected[here] += np.where(valid, values - (level[:, None] + plane[1] * np.arange(nx)), 0.0)
    count[here] += valid
    if raw.size > 0:
        raw[here] += np.where(valid, values, 0.0)
    if variances.size > 0:
        variances[here] += np.where(valid, variance, 0.0)


@compiled_when_large(lambda data, *_: data.size // 20, _plain_add)
@njit(nogil=True, cache=True)
def add_part(  # noqa: PLR0917 - a compiled function takes positions only # pragma: no cover
    data: NDArray[np.floating],
    variance: NDArray[np.floating],
    at: tuple[int, int],
    plane: Floats,
    corrected: Floats,
    raw: Floats,
    variances: Floats,
    count: NDArray[np.int32],
) -> None:
    """Add the rows of a part to the sums.

    Parameters
    ----------
    data, variance
        (rows, columns), NaN where invalid; the variance may be empty.
    at
        Row and column of their first pixel in the sums.
    plane
        Value at the first pixel, slope per column, slope per row; subtracted from the data.
    corrected, raw, variances, count
        Sums; `raw` and `variances` may be empty.
    """
    nx = data.shape[1]
    for r in range(data.shape[0]):
        level, row = plane[0] + plane[2] * r, at[0] + r
        values = data[r]
        total, seen = corrected[row, at[1] : at[1] + nx], count[row, at[1] : at[1] + nx]
        for k in range(nx):
            value = np.float64(values[k])
            valid = not np.isnan(value)
            total[k] += value - (level + plane[1] * k) if valid else 0.0
            seen[k] += valid
        if raw.size > 0:
            total = raw[row, at[1] : at[1] + nx]
            for k in range(nx):
                value = np.float64(values[k])
                total[k] += 0.0 if np.isnan(value) else value
        if variances.size > 0:
            total, more = variances[row, at[1] : at[1] + nx], variance[r]
            for k in range(nx):
                total[k] += 0.0 if np.isnan(values[k]) else np.float64(more[k])


def _plain_share(data: NDArray[np.floating], at: tuple[int, int], count: NDArray[np.int32]) -> float:
    """Do what :func:`share` does."""
    valid, part = ~np.isnan(data), np.zeros(data.shape)
    seen = count[at[0] : at[0] + data.shape[0], at[1] : at[1] + data.shape[1]][valid].astype(np.float64)
    part[valid] = 1.0 / (seen * seen)
    return float(in_turn(in_turn(part)))


@compiled_when_large(lambda data, *_: data.size // 20, _plain_share)
@njit(nogil=True, cache=True)
def share(  # pragma: no cover - compiled
    data: NDArray[np.floating], at: tuple[int, int], count: NDArray[np.int32]
) -> float:
    """Return the sum of 1 / count**2 over the valid pixels of a part: its share of the variance of the mean."""
    nx = data.shape[1]
    columns = np.zeros(nx)
    for r in range(data.shape[0]):
        values, seen = data[r], count[at[0] + r, at[1] : at[1] + nx]
        for k in range(nx):
            n = np.float64(seen[k])
            columns[k] += 0.0 if np.isnan(values[k]) else 1.0 / (n * n)
    return columns.sum()
