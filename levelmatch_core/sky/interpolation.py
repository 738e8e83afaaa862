"""Compiled inner loops of bilinear resampling, which release the GIL.

A run of pixels in a row is processed in several passes: positions, neighbours and weights, sums over four neighbours,
and validity. Except for the look-ups, each pass is simple enough to be vectorised, and the run is short enough to stay
in the processor's first-level cache.
"""

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.process.compilation import njit
from levelmatch_core.process.small_work import bands, compiled_when_large, in_turn
from levelmatch_core.sky.kernels import ends_of, plain_ends, plain_positions, positions_in_row

Floats = NDArray[np.float64]
Image = NDArray[np.floating]
Work = tuple[NDArray[np.int32], Floats, Floats, Floats, Floats]
"""Work space, (RUN,) each: for the pixels of a run the first neighbour, the distances from it in x and y, the value,
and the sum of squared weights, accumulated over all runs."""

RUN = 512
"""Number of pixels that are processed together."""


@njit(nogil=True, cache=True, inline="always")
def _inside(x: float, y: float, right: float, top: float) -> bool:  # pragma: no cover - compiled
    return (x >= 0.0) & (y >= 0.0) & (x < right) & (y < top)


@njit(nogil=True, cache=True, no_cpython_wrapper=True)
def _inner_run(px: Floats, py: Floats, nx: int, ny: int) -> tuple[int, int]:  # pragma: no cover - compiled
    """Return a half-open range of positions that all have four neighbours in an image of nx by ny; 0, 0 for none.

    It is the longest such range if the positions enter and leave the image only once, as they do along a row.
    """
    right, top = nx - 1.0, ny - 1.0
    first, last = 0, px.size
    while first < last and not _inside(px[first], py[first], right, top):
        first += 1
    while last > first and not _inside(px[last - 1], py[last - 1], right, top):
        last -= 1
    x, y = px[first:last], py[first:last]
    outside = 0
    for k in range(x.size):
        outside += not _inside(x[k], y[k], right, top)
    return (0, 0) if outside else (first, last)


@njit(nogil=True, cache=True, no_cpython_wrapper=True)
def _neighbours(  # noqa: PLR0917 - a compiled function takes positions only # pragma: no cover
    px: Floats, py: Floats, nx: np.int32, index: NDArray[np.int32], fx: Floats, fy: Floats
) -> None:
    """Fill in the index of the first of four neighbours, and the distances of the positions from it."""
    for k in range(px.size):
        i, j = np.int32(py[k]), np.int32(px[k])
        fx[k], fy[k] = px[k] - j, py[k] - i
        index[k] = i * nx + j


@njit(nogil=True, cache=True, inline="always")
def _of_four(  # noqa: PLR0917 - a compiled function takes positions only # pragma: no cover
    flat: Image, at: np.uintp, up: np.uintp, x: float, y: float, ax: float, ay: float
) -> float:
    """Return the sum of a pixel and its neighbours to the right and above, with the weights x, y and ax, ay."""
    one = np.uintp(1)
    return ay * (ax * flat[at] + x * flat[at + one]) + y * (ax * flat[at + up] + x * flat[at + up + one])


@njit(nogil=True, cache=True, no_cpython_wrapper=True)
def _values(  # noqa: PLR0917 - a compiled function takes positions only # pragma: no cover
    flat: Image, nx: int, index: NDArray[np.int32], fx: Floats, fy: Floats, out: Floats
) -> None:
    """Fill in the weighted sums of four neighbours."""
    # unsigned, so that numba omits the test for negative indices
    up = np.uintp(nx)
    for k in range(fx.size):
        x, y = fx[k], fy[k]
        out[k] = _of_four(flat, np.uintp(np.uint32(index[k])), up, x, y, 1.0 - x, 1.0 - y)


@njit(nogil=True, cache=True, no_cpython_wrapper=True)
def _variances(  # noqa: PLR0917 - a compiled function takes positions only # pragma: no cover
    flat: Image, nx: int, index: NDArray[np.int32], fx: Floats, fy: Floats, out: Floats
) -> None:
    """Fill in the sums of four neighbours weighted by the squares of their weights."""
    up = np.uintp(nx)
    for k in range(fx.size):
        x, y = fx[k], fy[k]
        ax, ay = 1.0 - x, 1.0 - y
        out[k] = _of_four(flat, np.uintp(np.uint32(index[k])), up, x * x, y * y, ax * ax, ay * ay)


@njit(nogil=True, cache=True, no_cpython_wrapper=True)
def _put_where(value: Floats, valid: Image, out: Image) -> None:  # pragma: no cover - compiled
    """Store values, or NaN where `valid` is NaN."""
    for k in range(value.size):
        out[k] = np.nan if np.isnan(valid[k]) else value[k]


@njit(nogil=True, cache=True, no_cpython_wrapper=True)
def _put(value: Floats, fx: Floats, fy: Floats, out: Image, squares: Floats) -> None:  # pragma: no cover - compiled
    """Store finite values, or NaN for others, and accumulate the sums of squared weights."""
    for k in range(value.size):
        x, y = fx[k], fy[k]
        ax, ay = 1.0 - x, 1.0 - y
        good = np.abs(value[k]) < np.inf
        out[k] = value[k] if good else np.nan
        squares[k] += (ax * ax + x * x) * (ay * ay + y * y) if good else 0.0


@njit(nogil=True, cache=True, no_cpython_wrapper=True)
def _edge_pixel(  # noqa: PLR0917 - a compiled function takes positions only # pragma: no cover
    data: Image, variance: Image, x: float, y: float, out: Image, out_variance: Image, k: int
) -> float:
    """Interpolate at any position, and return the sum of squared weights; 0 if there is no value."""
    ny, nx = data.shape
    with_variance = variance.size > 0
    out[k] = np.nan
    if with_variance:
        out_variance[k] = np.nan
    # in the outer half of an edge pixel the value is that on its centre line; a NaN position fails the comparison
    if not (x >= -0.5 and y >= -0.5 and x < nx - 0.5 and y < ny - 0.5):
        return 0.0
    x = min(max(x, 0.0), nx - 1.0)
    y = min(max(y, 0.0), ny - 1.0)
    i, j = int(y), int(x)
    fx, fy = x - j, y - i
    # on the last line the farther neighbour has weight 0; scipy reads the previous one instead (whose NaN has an
    # effect)
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


@njit(nogil=True, cache=True, no_cpython_wrapper=True)
def _run(  # noqa: PLR0917 - a compiled function takes positions only # pragma: no cover
    data: Image, variance: Image, px: Floats, py: Floats, out: Image, out_variance: Image, work: Work
) -> None:
    """Interpolate a run of pixels.

    Parameters
    ----------
    data, variance
        (ny, nx); the variance may be empty.
    px, py
        (n,) positions in the data, pixels; NaN where there is none.
    out, out_variance
        (n,), filled in; NaN outside the data.
    work
        See :data:`Work`.
    """
    ny, nx = data.shape
    index, fx, fy, value, squares = work
    start, stop = _inner_run(px, py, nx, ny)
    for k in range(start):
        squares[k] += _edge_pixel(data, variance, px[k], py[k], out, out_variance, k)
    n = stop - start
    index, fx, fy, value = index[:n], fx[:n], fy[:n], value[:n]
    _neighbours(px[start:stop], py[start:stop], np.int32(nx), index, fx, fy)
    _values(data.reshape(-1), nx, index, fx, fy, value)
    _put(value, fx, fy, out[start:stop], squares[start:stop])
    if variance.size > 0:
        _variances(variance.reshape(-1), nx, index, fx, fy, value)
        _put_where(value, out[start:stop], out_variance[start:stop])
    for k in range(stop, px.size):
        squares[k] += _edge_pixel(data, variance, px[k], py[k], out, out_variance, k)


def _plain_bilinear(  # noqa: PLR0917 - those of the compiled function
    data: Image,
    variance: Image,
    pieces: Floats,
    lattice: Floats,
    positions: Floats,
    origin: tuple[float, float],
    out: Image,
    out_variance: Image,
    ends: NDArray[np.int64],
) -> float:
    """Do what :func:`bilinear_kernel` does, with all pixels as `_edge_pixel` has them."""
    (rows, columns), (ny, nx) = data.shape, out.shape
    runs, squares = -(-nx // RUN), np.zeros((1, RUN))
    for band in bands(ny, nx):
        x, y = plain_positions((pieces, lattice, positions), origin, band, nx, RUN)
        inside = (x >= -0.5) & (y >= -0.5) & (x < columns - 0.5) & (y < rows - 0.5)
        x = np.minimum(np.maximum(np.where(inside, x, 0.0), 0.0), columns - 1.0)
        y = np.minimum(np.maximum(np.where(inside, y, 0.0), 0.0), rows - 1.0)
        j, i = x.astype(np.int64), y.astype(np.int64)
        fx, fy = x - j, y - i
        right = np.where(j + 1 < columns, j + 1, max(columns - 2, 0))
        up = np.where(i + 1 < rows, i + 1, max(rows - 2, 0))
        corners = i * columns + j, i * columns + right, up * columns + j, up * columns + right
        ax, ay = 1.0 - fx, 1.0 - fy
        value = _plain_four(data, corners, fx, fy, ax, ay)
        inside &= np.isfinite(value)
        out[band] = np.where(inside, value, np.nan)
        ax, ay, fx, fy = ax * ax, ay * ay, fx * fx, fy * fy
        if variance.size > 0:
            out_variance[band] = np.where(inside, _plain_four(variance, corners, fx, fy, ax, ay), np.nan)
        more = np.zeros((len(x), runs * RUN))
        more[:, :nx] = np.where(inside, (ax + fx) * (ay + fy), 0.0)
        squares = in_turn(np.concatenate([squares, more.reshape(-1, RUN)]))[None]
    plain_ends(out, ends)
    return float(in_turn(squares[0]))


def _plain_four(  # noqa: PLR0917 - as `_of_four`
    image: Image, corners: tuple[NDArray[np.int64], ...], x: Floats, y: Floats, ax: Floats, ay: Floats
) -> Floats:
    """Return the sums of four neighbours with the weights x, y and ax, ay."""
    one, two, three, four = (image.take(corner) for corner in corners)
    return np.asarray(ay * (ax * one + x * two) + y * (ax * three + x * four))


@compiled_when_large(lambda *given: given[-3].size // 3, _plain_bilinear)
@njit(nogil=True, cache=True)
def bilinear_kernel(  # noqa: PLR0917 - a compiled function takes positions only # pragma: no cover
    data: Image,
    variance: Image,
    pieces: Floats,
    lattice: Floats,
    positions: Floats,
    origin: tuple[float, float],
    out: Image,
    out_variance: Image,
    ends: NDArray[np.int64],
) -> float:
    """Interpolate all rows of a box, and return the sum of squared weights, summed over its pixels.

    Parameters
    ----------
    data, variance
        (rows, columns), at most 2**30 pixels; the variance may be empty.
    pieces, lattice
        The map, as in :func:`levelmatch_core.sky.kernels.spline_row`; not used if positions are given.
    positions
        (2, ny, nx) x and y in the data; empty if the map is to be used.
    origin
        (x, y) of the first pixel of the box.
    out, out_variance
        (ny, nx), filled in; NaN outside the data.
    ends
        (ny, 3), filled in: first and last valid column of each row, and the number of valid columns.
    """
    ny, nx = out.shape
    x, y = np.empty(RUN), np.empty(RUN)
    work = np.empty(RUN, np.int32), np.empty(RUN), np.empty(RUN), np.empty(RUN), np.zeros(RUN)
    for r in range(ny):
        for start in range(0, nx, RUN):
            stop = min(start + RUN, nx)
            px, py = x[: stop - start], y[: stop - start]
            positions_in_row((pieces, lattice, positions), origin, r, start, px, py)
            row_variance = out_variance[r, start:stop] if variance.size > 0 else out[r, start:stop]  # not used
            _run(data, variance, px, py, out[r, start:stop], row_variance, work)
        ends_of(out[r], ends[r])
    return work[4].sum()
