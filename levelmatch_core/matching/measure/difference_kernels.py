"""The compiled passes over a pair's difference, which is formed row by row from both cutouts and never as an image.

Both cutouts are (rows, columns), NaN where invalid; `box` contains row and column of the first pixel of the common box
in the first cutout, the same in the second, and the numbers of rows and columns. Pixels whose difference is not finite
are invalid.

A cut (level, slope x, slope y, low, high) keeps the pixels whose difference minus the plane lies between low and high.
Planes refer to the middle of the box, with slopes over half of it.
"""

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.process.compilation import njit
from levelmatch_core.process.small_work import add_in_turn, bands, compiled_when_large, in_turn, replaced_by
from levelmatch_core.sky.robust.clipping_kernels import Cuts, Sifted, plain_sift, sift_row

Floats = NDArray[np.float64]
Image = NDArray[np.floating]
Box = tuple[int, int, int, int, int, int]
Cut = tuple[float, float, float, float, float]

HOLE, HOLE_ROWS = 12, 64
"""Runs of at most so many invalid pixels between valid ones of a row are holes of one image, and so many rows tell how
many there are."""


@njit(nogil=True, cache=True)
def difference_row(first: Image, second: Image, box: Box, r: int, row: Floats) -> None:  # pragma: no cover - compiled
    """Fill one row with second - first."""
    nx = box[5]
    a, b = first[box[0] + r, box[1] : box[1] + nx], second[box[2] + r, box[3] : box[3] + nx]
    for k in range(nx):
        row[k] = np.float64(b[k]) - np.float64(a[k])


def plain_difference(first: Image, second: Image, box: Box, rows: slice) -> Floats:
    """Return some rows of second - first."""
    ay, ax, by, bx, ny, nx = box
    there, here = second[by : by + ny, bx : bx + nx], first[ay : ay + ny, ax : ax + nx]
    return np.subtract(there[rows], here[rows], dtype=np.float64)


def plain_left(difference: Floats, plane: tuple[float, ...], x: Floats, y: Floats) -> Floats:
    """Return what the plane of a cut, or another one, leaves of some rows of a difference."""
    return difference - ((plane[0] + plane[2] * y)[:, None] + plane[1] * x)


def plain_unit(n: int) -> Floats:
    """Do what :func:`unit` does."""
    return np.asarray((np.arange(n) - (n - 1) / 2) / (n / 2), np.float64)


def _plain_sifted(  # noqa: PLR0917 - those of the compiled function
    first: Image, second: Image, box: Box, axis: tuple[float, float], cuts: Cuts, kept: Floats
) -> tuple[Sifted, int, tuple[float, float], tuple[int, int]]:
    """Do what :func:`sift_difference` does."""
    ny, nx = box[4], box[5]
    sums, finite, at, low, high = np.zeros((2, nx)), np.empty((ny, nx), np.bool_), 0, 0, 0
    for rows in bands(*box[4:]):
        more, finite[rows] = plain_sift(plain_difference(first, second, box, rows), cuts, kept[at:], sums)
        at, low, high = at + more[0], low + more[1], high + more[2]
    left = at, low, high, float(in_turn(sums[0])), float(in_turn(sums[1]))
    count = np.count_nonzero(finite, axis=1)
    r = np.repeat(np.flatnonzero(count), 2)
    ends = np.stack([finite.argmax(axis=1), nx - 1 - finite[:, ::-1].argmax(axis=1)], axis=1)[count > 0].ravel()
    along, across = ends * axis[0] + r * axis[1], r * axis[0] - ends * axis[1]
    extent = _plain_width(along), _plain_width(across)
    every = max(1, ny // HOLE_ROWS)
    row, k = np.nonzero(finite[::every])
    gaps = (k[1:] - k[:-1] - 1)[row[1:] == row[:-1]]
    holes = int(gaps[gaps <= HOLE].sum())
    return left, int(count.sum()), extent, (holes, len(row))


def _plain_width(places: Floats) -> float:
    """Return the number of pixels from the first to the last of some places."""
    return float(places.max(initial=-np.inf) - places.min(initial=np.inf)) + 1.0


@compiled_when_large(lambda *given: given[2][4] * given[2][5] // 15, _plain_sifted)
@njit(nogil=True, cache=True)
def sift_difference(  # noqa: PLR0917 - a compiled function takes positions only # pragma: no cover
    first: Image, second: Image, box: Box, axis: tuple[float, float], cuts: Cuts, kept: Floats
) -> tuple[Sifted, int, tuple[float, float], tuple[int, int]]:
    """Sift a difference for clipping, measure the valid area, and count its holes.

    Parameters
    ----------
    first, second, box
        See above.
    axis
        Cosine and sine of the angle of an axis from +x.
    cuts, kept
        As in :func:`levelmatch_core.sky.robust.clipping_kernels.sift_row`; `kept` takes all pixels of the box.

    Returns
    -------
    left
        The argument of :func:`levelmatch_core.sky.robust.clipping.clip`.
    count
        Number of valid pixels.
    extent
        Size of the valid area along the axis and across it, pixels: that of the convex hull of the ends of rows.
    holes
        Numbers of invalid pixels in holes (see :data:`HOLE`) and of valid ones, in rows spread evenly.
    """
    ny, nx = box[4], box[5]
    row, take = np.empty(nx), np.empty(nx, np.uint8)
    sums = np.zeros((2, nx))
    at, count, low, high = np.int64(0), 0, 0, 0
    holes = looked_at = 0
    every = max(1, ny // HOLE_ROWS)
    least = np.full(2, np.inf)
    most = np.full(2, -np.inf)
    for r in range(ny):
        difference_row(first, second, box, r, row)
        at, valid, more_low, more_high = sift_row(row, cuts, kept, at, sums, take)
        count += valid
        low += more_low
        high += more_high
        if valid == 0:
            continue
        i, j = 0, nx - 1
        while not np.isfinite(row[i]):
            i += 1
        while not np.isfinite(row[j]):
            j -= 1
        for end in (i, j):
            along, across = end * axis[0] + r * axis[1], r * axis[0] - end * axis[1]
            least[0], most[0] = min(least[0], along), max(most[0], along)
            least[1], most[1] = min(least[1], across), max(most[1], across)
        if r % every:
            continue
        looked_at += valid
        if valid == j - i + 1:  # as most rows are
            continue
        last = i
        for k in range(i, j + 1):
            if np.isfinite(row[k]):
                gap = k - last - 1
                holes += max(gap, 0) if gap <= HOLE else 0
                last = k
    extent = (most[0] - least[0] + 1.0, most[1] - least[1] + 1.0)
    return (int(at), low, high, sums[0].sum(), sums[1].sum()), count, extent, (holes, looked_at)


@replaced_by(plain_unit)
@njit(nogil=True, cache=True)
def unit(n: int) -> Floats:  # pragma: no cover - compiled
    """Return (n,) positions of pixels about the middle, in units of half the box."""
    x, middle, half = np.empty(n), (n - 1) / 2, n / 2
    for k in range(n):  # numpy's range takes longer to compile
        x[k] = (k - middle) / half
    return x


def plain_moments(columns: Floats, x: Floats) -> Floats:
    """Do what :func:`moments_of` does."""
    one, y, yy, r, ry = columns[:5]
    return np.asarray(in_turn(np.stack([one, one * x, y, one * x * x, y * x, yy, r, r * x, ry, *columns[5:]], axis=1)))


@njit(nogil=True, cache=True, no_cpython_wrapper=True)
def moments_of(columns: Floats, x: Floats) -> Floats:  # pragma: no cover - compiled
    """Add up the sums of columns of pixels.

    Parameters
    ----------
    columns
        (5 + m, columns) sums over each column's kept pixels of 1, y, y y, r, r y, then of m more.
    x
        (columns,) their positions.

    Returns
    -------
    (9 + m,) of 1, x, y, x x, x y, y y, then of r, r x, r y, then of the m more.
    """
    more = columns.shape[0] - 5
    found = np.zeros(9 + more)
    for k in range(len(x)):
        found[0] += columns[0, k]
        found[1] += columns[0, k] * x[k]
        found[2] += columns[1, k]
        found[3] += columns[0, k] * x[k] * x[k]
        found[4] += columns[1, k] * x[k]
        found[5] += columns[2, k]
        found[6] += columns[3, k]
        found[7] += columns[3, k] * x[k]
        found[8] += columns[4, k]
        for m in range(more):
            found[9 + m] += columns[5 + m, k]
    return found


def _plain_plane(first: Image, second: Image, box: Box, cut: Cut) -> Floats:
    """Do what :func:`plane_sums` does."""
    x, y, columns = plain_unit(box[5]), plain_unit(box[4]), np.zeros((6, box[5]))
    for rows in bands(*box[4:]):
        left = plain_left(plain_difference(first, second, box, rows), cut, x, y[rows])
        inside = (left >= cut[3]) & (left <= cut[4])
        one, r, here = inside.astype(np.float64), np.where(inside, left, 0.0), y[rows, None]
        products = one * here, one * (here * here), r * here, r * r
        for total, more in zip(columns, (one, products[0], products[1], r, products[2], products[3]), strict=True):
            add_in_turn(total, more)
    return plain_moments(columns, x)


@compiled_when_large(lambda *given: given[2][4] * given[2][5] // 20, _plain_plane)
@njit(nogil=True, cache=True)
def plane_sums(first: Image, second: Image, box: Box, cut: Cut) -> Floats:  # pragma: no cover - compiled
    """Return the sums over the kept pixels for the fit of a plane to the residuals of the plane of the cut.

    Returns
    -------
    (10,) of 1, x, y, x x, x y, y y, then of r, r x, r y, r r, where r is the difference minus the plane of the cut.
    """
    ny, nx = box[4], box[5]
    row = np.empty(nx)
    x, y = unit(nx), unit(ny)
    columns = np.zeros((6, nx))
    slope, low, high = cut[1], cut[3], cut[4]
    for j in range(ny):
        difference_row(first, second, box, j, row)
        here = y[j]
        level = cut[0] + cut[2] * here
        for k in range(nx):
            left = row[k] - (level + slope * x[k])
            one = 1.0 if (left >= low) & (left <= high) else 0.0
            r = left if (left >= low) & (left <= high) else 0.0
            columns[0, k] += one
            columns[1, k] += one * here
            columns[2, k] += one * (here * here)
            columns[3, k] += r
            columns[4, k] += r * here
            columns[5, k] += r * r
    return moments_of(columns, x)


def _plain_mask(first: Image, second: Image, box: Box, cut: Cut) -> tuple[int, int, int, int, int, int]:
    """Do what :func:`mask_sums` does."""
    x, y, inside = plain_unit(box[5]), plain_unit(box[4]), np.empty(box[4:], np.bool_)
    for rows in bands(*box[4:]):
        left = plain_left(plain_difference(first, second, box, rows), cut, x, y[rows])
        inside[rows] = (left >= cut[3]) & (left <= cut[4])
    k, r = np.arange(box[5]), np.arange(box[4])
    of_columns, of_rows = np.count_nonzero(inside, axis=0), np.count_nonzero(inside, axis=1)
    along = np.where(inside, k, 0).sum(axis=1)
    sums = of_rows.sum(), of_columns @ k, of_rows @ r, of_columns @ (k * k), along @ r, of_rows @ (r * r)
    n, sx, sy, sxx, sxy, syy = map(int, sums)
    return n, sx, sy, sxx, sxy, syy


@compiled_when_large(lambda *given: given[2][4] * given[2][5] // 40, _plain_mask)
@njit(nogil=True, cache=True)
def mask_sums(  # pragma: no cover - compiled
    first: Image, second: Image, box: Box, cut: Cut
) -> tuple[int, int, int, int, int, int]:
    """Return the sums over the kept pixels of 1, x, y, x x, x y and y y, exactly; x and y count pixels from 0."""
    ny, nx = box[4], box[5]
    row = np.empty(nx)
    x, y = unit(nx), unit(ny)
    slope, low, high = cut[1], cut[3], cut[4]
    n = sx = sy = sxx = sxy = syy = 0
    for r in range(ny):
        difference_row(first, second, box, r, row)
        level = cut[0] + cut[2] * y[r]
        count = columns = squares = 0
        for k in range(nx):
            left = row[k] - (level + slope * x[k])
            one = int((left >= low) & (left <= high))
            count += one
            columns += one * k
            squares += one * (k * k)
        n += count
        sx += columns
        sxx += squares
        sy += r * count
        sxy += r * columns
        syy += r * r * count
    return n, sx, sy, sxx, sxy, syy


def kept_moments(parts: tuple[Image, Image, Box], cut: Cut) -> tuple[int, tuple[float, float], tuple[float, ...]]:
    """Return the number, the centroid (within the box) and the 3x3 moments about it of the kept pixels.

    The sums are whole numbers, so that nothing is lost where the centroid is taken out.
    """
    n, sx, sy, sxx, sxy, syy = mask_sums(*parts, cut)
    xx, xy, yy = (
        (n * product - one * other) / n for product, one, other in ((sxx, sx, sx), (sxy, sx, sy), (syy, sy, sy))
    )
    return n, (sx / n, sy / n), (float(n), 0.0, 0.0, 0.0, xx, xy, 0.0, xy, yy)


def plane_step(sums: Floats) -> tuple[Floats, float]:
    """Return the least-squares plane of what is left, a slope that no pixel sees being 0, and the mean square then."""
    n, sx, sy, sxx, sxy, syy, *right, square = sums.tolist()
    moments = np.array([[n, sx, sy], [sx, sxx, sxy], [sy, sxy, syy]])
    step = np.linalg.pinv(moments, rcond=1e-12, hermitian=True) @ np.array(right)
    return step, max(0.0, square - float(step @ right)) / n
