"""The compiled inner loops of bilinear resampling, without the interpreter's lock.

A run of pixels of a row is done in passes: positions, then neighbours and weights, then the sums over four neighbours,
then what of them is valid. Each is simple enough for the processor's vectors, but for the look-ups, and the run is so
short that all passes find it in the nearest cache.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from levelmatch_core.sky.kernels import ends_of, spline_row

Floats = NDArray[np.float64]
Image = NDArray[np.floating]
Work = tuple[NDArray[np.int32], Floats, Floats, Floats, Floats]
"""(RUN,) for each pixel of a run its first neighbour, its distance from that in x and in y, its value, and the sum over
all runs of its summed squared weights."""

RUN = 512
"""Pixels that go through all passes together."""


@njit(nogil=True, cache=True, inline="always")
def _inside(x: float, y: float, right: float, top: float) -> bool:  # pragma: no cover - compiled
    return (x >= 0.0) & (y >= 0.0) & (x < right) & (y < top)


@njit(nogil=True, cache=True)
def _inner_run(px: Floats, py: Floats, nx: int, ny: int) -> tuple[int, int]:  # pragma: no cover - compiled
    """Return a run of positions, half open, all with four neighbours in an image of nx times ny; 0, 0 for none.

    It is the longest there can be where they enter and leave the image once, as along a row they do.
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


@njit(nogil=True, cache=True)
def _neighbours(  # noqa: PLR0917 - a compiled function takes positions only # pragma: no cover
    px: Floats, py: Floats, nx: np.int32, index: NDArray[np.int32], fx: Floats, fy: Floats
) -> None:
    """Fill the index of the first of four neighbours, and how far beyond it the positions are."""
    for k in range(px.size):
        i, j = np.int32(py[k]), np.int32(px[k])
        fx[k], fy[k] = px[k] - j, py[k] - i
        index[k] = i * nx + j


@njit(nogil=True, cache=True)
def _values(  # noqa: PLR0917 - a compiled function takes positions only # pragma: no cover
    flat: Image, nx: int, index: NDArray[np.int32], fx: Floats, fy: Floats, out: Floats
) -> None:
    """Fill the weighted sums of four neighbours."""
    # unsigned: numba then leaves out the test for negative indices
    one, up, diagonal = np.uintp(1), np.uintp(nx), np.uintp(nx + 1)
    for k in range(fx.size):
        at = np.uintp(np.uint32(index[k]))
        x, y = fx[k], fy[k]
        ax, ay = 1.0 - x, 1.0 - y
        out[k] = ay * (ax * flat[at] + x * flat[at + one]) + y * (ax * flat[at + up] + x * flat[at + diagonal])


@njit(nogil=True, cache=True)
def _variances(  # noqa: PLR0917 - a compiled function takes positions only # pragma: no cover
    flat: Image, nx: int, index: NDArray[np.int32], fx: Floats, fy: Floats, out: Floats
) -> None:
    """Fill the sums of four neighbours with the squares of their weights."""
    one, up, diagonal = np.uintp(1), np.uintp(nx), np.uintp(nx + 1)
    for k in range(fx.size):
        at = np.uintp(np.uint32(index[k]))
        x, y = fx[k], fy[k]
        ax, ay = 1.0 - x, 1.0 - y
        ax, ay, x, y = ax * ax, ay * ay, x * x, y * y
        out[k] = ay * (ax * flat[at] + x * flat[at + one]) + y * (ax * flat[at + up] + x * flat[at + diagonal])


@njit(nogil=True, cache=True)
def _put_where(value: Floats, valid: Image, out: Image) -> None:  # pragma: no cover - compiled
    """Put values into their places, NaN where `valid` is NaN."""
    for k in range(value.size):
        out[k] = np.nan if np.isnan(valid[k]) else value[k]


@njit(nogil=True, cache=True)
def _put(value: Floats, fx: Floats, fy: Floats, out: Image, squares: Floats) -> None:  # pragma: no cover - compiled
    """Put values that are finite into their places, NaN for the others, and count the summed squared weights."""
    for k in range(value.size):
        x, y = fx[k], fy[k]
        ax, ay = 1.0 - x, 1.0 - y
        good = np.abs(value[k]) < np.inf
        out[k] = value[k] if good else np.nan
        squares[k] += (ax * ax + x * x) * (ay * ay + y * y) if good else 0.0


@njit(nogil=True, cache=True)
def _edge_pixel(  # noqa: PLR0917 - a compiled function takes positions only # pragma: no cover
    data: Image, variance: Image, x: float, y: float, out: Image, out_variance: Image, k: int
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
def _run(  # noqa: PLR0917 - a compiled function takes positions only # pragma: no cover
    data: Image, variance: Image, px: Floats, py: Floats, out: Image, out_variance: Image, work: Work
) -> None:
    """Interpolate a run of pixels.

    Parameters
    ----------
    data, variance
        (ny, nx); the variance may be empty.
    px, py
        (n,) positions in the data, pixels; NaN where there are none.
    out, out_variance
        (n,), filled; NaN where the data is not seen.
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


@njit(nogil=True, cache=True)
def bilinear(  # noqa: PLR0917 - a compiled function takes positions only # pragma: no cover
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
    """Interpolate all rows of a box and return the sum over its pixels of their summed squared weights.

    Parameters
    ----------
    data, variance
        (rows, columns), at most 2**30 pixels; the variance may be empty.
    pieces, lattice
        The map, as in :func:`levelmatch_core.sky.kernels.spline_row`; not used where positions are given.
    positions
        (2, ny, nx) x and y in the data; empty where the map is to be used.
    origin
        (x, y) of the first pixel of the box.
    out, out_variance
        (ny, nx), filled; NaN where the data is not seen.
    ends
        (ny, 3), filled: first and last valid column of each row and the number of valid ones.
    """
    ny, nx = out.shape
    x, y = np.empty(RUN), np.empty(RUN)
    work = np.empty(RUN, np.int32), np.empty(RUN), np.empty(RUN), np.empty(RUN), np.zeros(RUN)
    for r in range(ny):
        for start in range(0, nx, RUN):
            stop = min(start + RUN, nx)
            px, py = x[: stop - start], y[: stop - start]
            for axis in range(2):
                place = px if axis == 0 else py
                if positions.size > 0:
                    for k in range(place.size):  # an assignment of slices would compile its error messages for seconds
                        place[k] = positions[axis, r, start + k]
                else:
                    spline_row(pieces, lattice, axis, origin[1] + r, origin[0] + start, place)
            row_variance = out_variance[r, start:stop] if variance.size > 0 else out[r, start:stop]  # not touched
            _run(data, variance, px, py, out[r, start:stop], row_variance, work)
        ends_of(out[r], ends[r])
    return work[4].sum()
