"""The compiled inner loops of this room: maps, bilinear resampling and sums, without the interpreter's lock.

A map is a tensor-product cubic spline in power form, `pieces[i, j, m, n, axis]`: in cell (i, j) of the lattice
coordinate `axis` is sum over m, n of pieces[i, j, m, n, axis] v**(3 - m) u**(3 - n), with v and u the distances from
the cell's first node along y and x.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@njit(nogil=True, cache=True, inline="always")
def _cell(value: float, start: float, step: float, cells: int) -> int:  # pragma: no cover - compiled
    return min(max(int((value - start) / step), 0), cells - 1)


@njit(nogil=True, cache=True)
def spline_row(pieces: Floats, lattice: Floats, y: float, x0: float, out: Floats) -> None:  # pragma: no cover
    """Evaluate both coordinates along one row.

    Parameters
    ----------
    pieces
        (cells in y, cells in x, 4, 4, axes).
    lattice
        First node and spacing in x, then in y: (x start, x step, y start, y step).
    y
        The row.
    x0
        Its first column; the others follow in steps of 1.
    out
        (axes, n), filled.
    """
    n = out.shape[1]
    ny, nx = pieces.shape[:2]
    start, step = lattice[0], lattice[1]
    i = _cell(y, lattice[2], lattice[3], ny)
    v = y - (lattice[2] + i * lattice[3])
    first = 0
    for j in range(nx):
        # the columns of this cell; the first and last cells also serve what lies before and after the lattice
        last = n if j == nx - 1 else min(max(int(np.ceil(start + (j + 1) * step - x0)), first), n)
        if last > first:
            node = start + j * step - x0
            for axis in range(out.shape[0]):
                p = pieces[i, j, :, :, axis]
                c3 = ((p[0, 0] * v + p[1, 0]) * v + p[2, 0]) * v + p[3, 0]
                c2 = ((p[0, 1] * v + p[1, 1]) * v + p[2, 1]) * v + p[3, 1]
                c1 = ((p[0, 2] * v + p[1, 2]) * v + p[2, 2]) * v + p[3, 2]
                c0 = ((p[0, 3] * v + p[1, 3]) * v + p[2, 3]) * v + p[3, 3]
                row = out[axis]
                for k in range(first, last):
                    u = k - node
                    row[k] = ((c3 * u + c2) * u + c1) * u + c0
        first = last


@njit(nogil=True, cache=True)
def spline_box(pieces: Floats, lattice: Floats, x0: float, y0: float, out: Floats) -> None:  # pragma: no cover
    """Evaluate along the rows y0, y0 + 1, ...: `out` is (axes, ny, nx)."""
    for r in range(out.shape[1]):
        spline_row(pieces, lattice, y0 + r, x0, out[:, r, :])


@njit(nogil=True, cache=True)
def spline_points(pieces: Floats, lattice: Floats, x: Floats, y: Floats, out: Floats) -> None:  # pragma: no cover
    """Evaluate at scattered points: x and y are (n,), `out` is (axes, n)."""
    ny, nx = pieces.shape[:2]
    for k in range(x.size):
        if not (np.isfinite(x[k]) and np.isfinite(y[k])):
            out[:, k] = np.nan
            continue
        j = _cell(x[k], lattice[0], lattice[1], nx)
        i = _cell(y[k], lattice[2], lattice[3], ny)
        u = x[k] - (lattice[0] + j * lattice[1])
        v = y[k] - (lattice[2] + i * lattice[3])
        for axis in range(out.shape[0]):
            total = 0.0
            for m in range(4):
                p = pieces[i, j, m, :, axis]
                total = total * v + ((p[0] * u + p[1]) * u + p[2]) * u + p[3]
            out[axis, k] = total


@njit(nogil=True, cache=True)
def inner_run(px: Floats, py: Floats, nx: int, ny: int) -> tuple[int, int]:  # pragma: no cover - compiled
    """Return a run of positions, half open, all with four neighbours in an image of nx times ny; 0, 0 for none.

    It is the longest there can be where the positions enter and leave the image once, as along a row they do.
    """
    first, last = 0, px.size
    while first < last and not (px[first] >= 0 and py[first] >= 0 and px[first] < nx - 1 and py[first] < ny - 1):
        first += 1
    while last > first and not (
        px[last - 1] >= 0 and py[last - 1] >= 0 and px[last - 1] < nx - 1 and py[last - 1] < ny - 1
    ):
        last -= 1
    outside = 0
    for k in range(first, last):
        outside += not ((px[k] >= 0) & (py[k] >= 0) & (px[k] < nx - 1) & (py[k] < ny - 1))
    return (0, 0) if outside else (first, last)


@njit(nogil=True, cache=True)
def _edge_pixel(  # noqa: PLR0917 - a compiled function takes positions only # pragma: no cover
    data: NDArray[np.floating],
    variance: NDArray[np.floating],
    x: float,
    y: float,
    out: NDArray[np.floating],
    out_variance: NDArray[np.floating],
    k: int,
) -> float:
    """Interpolate at any position, and return the summed squared weights; 0 where there is no value."""
    ny, nx = data.shape
    with_variance = variance.size > 0
    out[k] = np.nan
    if with_variance:
        out_variance[k] = np.nan
    # the outer half of the edge pixels takes the value on their centre line; a NaN position fails the comparison
    if not (x >= -0.5 and y >= -0.5 and x < nx - 0.5 and y < ny - 0.5):
        return 0.0
    x = min(max(x, 0.0), nx - 1.0)
    y = min(max(y, 0.0), ny - 1.0)
    i, j = int(y), int(x)
    fx, fy = x - j, y - i
    # on the last line the further neighbour has weight 0; scipy looks at the one before (a NaN there counts)
    jj = j + 1 if j + 1 < nx else max(nx - 2, 0)
    ii = i + 1 if i + 1 < ny else max(ny - 2, 0)
    ax, ay = 1.0 - fx, 1.0 - fy
    value = ay * (ax * data[i, j] + fx * data[i, jj]) + fy * (ax * data[ii, j] + fx * data[ii, jj])
    if not np.isfinite(value):
        return 0.0
    out[k] = value
    ax, ay, fx, fy = ax * ax, ay * ay, fx * fx, fy * fy
    if with_variance:
        out_variance[k] = ay * (ax * variance[i, j] + fx * variance[i, jj]) + fy * (
            ax * variance[ii, j] + fx * variance[ii, jj]
        )
    return (ax + fx) * (ay + fy)


@njit(nogil=True, cache=True)
def bilinear_row(  # noqa: PLR0917 - a compiled function takes positions only # pragma: no cover
    data: NDArray[np.floating],
    variance: NDArray[np.floating],
    px: Floats,
    py: Floats,
    out: NDArray[np.floating],
    out_variance: NDArray[np.floating],
    ends: NDArray[np.int64],
) -> float:
    """Interpolate one row and return the sum of its pixels' summed squared weights.

    Parameters
    ----------
    data, variance
        (ny, nx); the variance may be empty.
    px, py
        (n,) positions in the data, pixels; NaN where there are none.
    out, out_variance
        (n,), filled; NaN where the data is not seen.
    ends
        Filled with the first and last valid column and the number of valid ones; -1, -1, 0 where there are none.
    """
    ny, nx = data.shape
    squares = 0.0
    start, stop = inner_run(px, py, nx, ny)
    for k in range(start):
        squares += _edge_pixel(data, variance, px[k], py[k], out, out_variance, k)
    one = np.uintp(1)
    for k in range(start, stop):
        # unsigned: numba then leaves out the test for negative indices
        i, j = np.uintp(np.int64(py[k])), np.uintp(np.int64(px[k]))
        fx, fy = px[k] - np.float64(j), py[k] - np.float64(i)
        ax, ay = 1.0 - fx, 1.0 - fy
        value = ay * (ax * data[i, j] + fx * data[i, j + one]) + fy * (
            ax * data[i + one, j] + fx * data[i + one, j + one]
        )
        good = np.isfinite(value)
        out[k] = value if good else np.nan
        ax, ay, fx, fy = ax * ax, ay * ay, fx * fx, fy * fy
        squares += (ax + fx) * (ay + fy) if good else 0.0
        if variance.size > 0:
            spread = ay * (ax * variance[i, j] + fx * variance[i, j + one]) + fy * (
                ax * variance[i + one, j] + fx * variance[i + one, j + one]
            )
            out_variance[k] = spread if good else np.nan
    for k in range(stop, px.size):
        squares += _edge_pixel(data, variance, px[k], py[k], out, out_variance, k)
    _ends_of(out, ends)
    return squares


@njit(nogil=True, cache=True)
def _ends_of(row: NDArray[np.floating], ends: NDArray[np.int64]) -> None:  # pragma: no cover - compiled
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


@njit(nogil=True, cache=True)
def bilinear_spline(  # noqa: PLR0917 - a compiled function takes positions only # pragma: no cover
    data: NDArray[np.floating],
    variance: NDArray[np.floating],
    pieces: Floats,
    lattice: Floats,
    origin: Floats,
    out: NDArray[np.floating],
    out_variance: NDArray[np.floating],
    ends: NDArray[np.int64],
) -> float:
    """Interpolate all rows of a box, each on the map evaluated for it; see :func:`bilinear_row`.

    `origin` is (x, y) of the first pixel; `out` (ny, nx), `ends` (ny, 3).
    """
    squares = 0.0
    position = np.empty((2, out.shape[1]))
    for r in range(out.shape[0]):
        spline_row(pieces, lattice, origin[1] + r, origin[0], position)
        row_variance = out_variance[r] if variance.size > 0 else out[r]  # the latter is not touched
        squares += bilinear_row(data, variance, position[0], position[1], out[r], row_variance, ends[r])
    return squares


@njit(nogil=True, cache=True)
def bilinear_points(  # noqa: PLR0917 - a compiled function takes positions only # pragma: no cover
    data: NDArray[np.floating],
    variance: NDArray[np.floating],
    px: Floats,
    py: Floats,
    out: NDArray[np.floating],
    out_variance: NDArray[np.floating],
    ends: NDArray[np.int64],
) -> float:
    """Interpolate rows whose positions are given, (ny, nx) each; see :func:`bilinear_row`."""
    squares = 0.0
    for r in range(out.shape[0]):
        row_variance = out_variance[r] if variance.size > 0 else out[r]  # the latter is not touched
        squares += bilinear_row(data, variance, px[r], py[r], out[r], row_variance, ends[r])
    return squares


@njit(nogil=True, cache=True)
def row_ends(data: NDArray[np.floating], ends: NDArray[np.int64]) -> None:  # pragma: no cover - compiled
    """Fill `ends` (ny, 3) with each row's first and last column that is not NaN and the number of those."""
    for r in range(data.shape[0]):
        _ends_of(data[r], ends[r])


@njit(nogil=True, cache=True)
def valid_rectangle(data: NDArray[np.floating]) -> tuple[int, int, int, int]:  # pragma: no cover - compiled
    """Return the rows and columns, half open, that hold all finite pixels: bottom, top, left, right; 0s for none."""
    ny, nx = data.shape
    bottom, top, left, right = ny, 0, nx, 0
    for r in range(ny):
        first = 0
        while first < nx and not np.isfinite(data[r, first]):
            first += 1
        if first == nx:
            continue
        last = nx
        while not np.isfinite(data[r, last - 1]):
            last -= 1
        bottom, top = min(bottom, r), r + 1
        left, right = min(left, first), max(right, last)
    if top == 0:
        return 0, 0, 0, 0
    return bottom, top, left, right


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
    """Add a part's rows to the sums.

    Parameters
    ----------
    data, variance
        (rows, columns), NaN where invalid; the variance may be empty.
    at
        Row and column of their first pixel in the sums.
    plane
        Value at the first pixel, slope a column, slope a row: subtracted.
    corrected, raw, variances, count
        Sums; `raw` and `variances` may be empty.
    """
    with_raw = raw.size > 0
    with_variance = variances.size > 0
    for r in range(data.shape[0]):
        level = plane[0] + plane[2] * r
        row = at[0] + r
        for k in range(data.shape[1]):
            value = np.float64(data[r, k])
            if not np.isnan(value):
                column = at[1] + k
                corrected[row, column] += value - (level + plane[1] * k)
                count[row, column] += 1
                if with_raw:
                    raw[row, column] += value
                if with_variance:
                    variances[row, column] += variance[r, k]


@njit(nogil=True, cache=True)
def share(  # pragma: no cover - compiled
    data: NDArray[np.floating], at: tuple[int, int], count: NDArray[np.int32]
) -> float:
    """Return the sum of 1 / count**2 over a part's valid pixels: its share of the variance of a mean."""
    total = 0.0
    for r in range(data.shape[0]):
        for k in range(data.shape[1]):
            if not np.isnan(data[r, k]):
                n = np.float64(count[at[0] + r, at[1] + k])
                total += 1.0 / (n * n)
    return total
