"""A fast map between the pixels of a grid and those of an exposure, with a measured error.

The exact map is sampled on a coarse lattice, interpolated with cubic splines, and compared with the exact map between
the nodes. The lattice is refined until the largest error is below :data:`MAX_ERROR`; where that does not succeed, the
exact map is used. Any APE-14 WCS is accepted: FITS with or without distortions, or gwcs.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import shapely
from astropy.wcs import WCS
from astropy.wcs.wcsapi import BaseHighLevelWCS
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import solve_banded

from levelmatch_core.errors import NoWcsError, PixelMapError
from levelmatch_core.images.wcs.transforms import Floats, Transform, sky_transforms
from levelmatch_core.images.wcs.wide import CURVED, POINTS, lattice, may_be_partly_on_the_sky
from levelmatch_core.sky import kernels
from levelmatch_core.sky.grid import Grid
from levelmatch_core.sky.plane import Plane

MAX_ERROR = 1e-3
"""Largest error of a map (pixels of the target)."""

STEPS = (64.0, 32.0, 16.0)
"""Spacings of the lattice that are tried in turn (pixels); with a finer one the exact map is as fast."""

MAX_RETURN_ERROR = 1.0
"""A position is valid only if the inverse map returns to within this distance (pixels), as in reproject."""

BAND_PIXELS = 1 << 18
"""Number of pixels for which the exact map is computed at a time, which limits the memory."""

FARTHEST = 65.0
"""A grid shows nothing that is farther from its tangent point (degrees): pixels are stretched by six there."""

SIDE_POINTS = 32
"""Number of points along each side of an outline."""


@dataclass(frozen=True)
class Box:
    """A rectangle of grid pixels."""

    x0: int
    """First column."""
    y0: int
    """First row."""
    shape: tuple[int, int]
    """Rows, columns."""


@dataclass(frozen=True)
class Placement:
    """Position of a rectangle of image pixels on the grid."""

    box: Box
    """All grid pixels that it may cover."""
    outline: tuple[tuple[float, float], ...]
    """(x, y) of its corners and of the centres of its sides, grid pixels, in order."""
    axis_angle: float
    """Angle of the image's +x axis, at the centre of the rectangle, from the grid's +x axis, radians."""


@dataclass(frozen=True)
class PixelMap:
    """A map from the pixels of one image to those of another."""

    exact: Transform
    """The map computed from the WCSs."""
    pieces: Floats | None
    """The splines in power form, (cells in y, cells in x, 4, 4, 2); None if only the exact map is accurate enough."""
    lattice: Floats
    """First node and spacing in x, then in y."""
    error: float
    """Largest measured distance from the exact map, pixels; 0 for the exact map."""

    def at(self, x: ArrayLike, y: ArrayLike) -> Floats:
        """Return (2, ...) the positions to which x, y are mapped."""
        x, y = np.broadcast_arrays(np.asarray(x, dtype=float), np.asarray(y, dtype=float))
        if self.pieces is None:
            return self.exact(x, y)
        return kernels.spline_points(self.pieces, self.lattice, x.ravel(), y.ravel()).reshape(-1, *x.shape)

    def on(self, box: Box) -> Floats:
        """Return (2, rows, columns) the positions to which the pixels of a box are mapped."""
        if self.pieces is None:
            y, x = np.mgrid[box.y0 : box.y0 + box.shape[0], box.x0 : box.x0 + box.shape[1]].astype(float)
            return self.exact(x, y)
        out = np.empty((self.pieces.shape[-1], *box.shape))
        kernels.spline_box(self.pieces, self.lattice, float(box.x0), float(box.y0), out)
        return out

    def bands(self, box: Box) -> list[Box]:
        """Divide a box into bands of rows for which the exact map needs little memory."""
        rows = max(1, BAND_PIXELS // max(box.shape[1], 1))
        return [
            Box(box.x0, box.y0 + row, (min(rows, box.shape[0] - row), box.shape[1]))
            for row in range(0, box.shape[0], rows)
        ]


def grid_to_image(grid: Grid, wcs: WCS | BaseHighLevelWCS, shape: tuple[int, int], box: Box) -> PixelMap:
    """Return the map from grid pixels within a box to the pixels of an image.

    Parameters
    ----------
    grid
        The grid.
    wcs
        The image's celestial WCS (two pixel axes), APE 14.
    shape
        Rows, columns of the image.
    box
        The part of the grid where the map is needed.

    Raises
    ------
    NoWcsError
        If the WCS is not celestial with two axes.
    PixelMapError
        If no pixel of the box has a counterpart.
    """
    to_sky, to_pixel = sky_transforms(wcs)

    def exact(x: Floats, y: Floats) -> Floats:
        with np.errstate(all="ignore"):
            positions = to_pixel(*grid.to_sky(x, y))
            back = grid.to_pixel(*to_sky(*positions))
            lost = ~(np.hypot(back[0] - x, back[1] - y) <= MAX_RETURN_ERROR)
        positions[:, lost] = np.nan
        return positions

    return _fit(exact, box, seen_within=shape)


def image_to_grid(grid: Grid, wcs: WCS | BaseHighLevelWCS, shape: tuple[int, int]) -> PixelMap:
    """Return the map from the pixels of an image (rows, columns in `shape`) to the grid; see :func:`grid_to_image`."""
    return _fit(_to_grid(grid, wcs), Box(0, 0, shape))


def plane_on_image(
    plane: Plane, grid: Grid, wcs: WCS | BaseHighLevelWCS | None, shape: tuple[int, int]
) -> NDArray[np.float64]:
    """Return (rows, columns) the values of a plane on the pixels of an image; a constant level needs no WCS.

    A plane is 0 on pixels that a projection (AIT, MOL, SIN, ...) leaves off the sky.

    Raises
    ------
    NoWcsError
        If the plane has slopes and there is no WCS, or as in :func:`image_to_grid`.
    PixelMapError
        If a pixel of the image has no counterpart on the grid.
    """
    if plane.is_level:
        return np.full(shape, plane.level)
    if wcs is None:
        message = "a plane with slopes cannot be evaluated on an image that has no WCS"
        raise NoWcsError(message)
    to_grid = image_to_grid(grid, wcs, shape)
    if to_grid.pieces is None:
        box = Box(0, 0, shape)
        values = np.concatenate([plane(*to_grid.on(band)) for band in to_grid.bands(box)])
        if may_be_partly_on_the_sky(wcs):  # beyond the limb of a projection there is no sky, and nothing to correct
            values[~np.isfinite(values)] = 0.0
        if not np.all(np.isfinite(values)):
            message = "pixels of the image have no counterpart on the grid: check the WCS of the image"
            raise PixelMapError(message)
        return values
    # a linear function of splines is a spline: one evaluation instead of two
    pieces = plane.slope_x * to_grid.pieces[..., :1] + plane.slope_y * to_grid.pieces[..., 1:]
    pieces[:, :, 3, 3, 0] += plane.level - plane.slope_x * plane.x0 - plane.slope_y * plane.y0
    out = np.empty((1, *shape))
    kernels.spline_box(pieces, to_grid.lattice, 0.0, 0.0, out)
    return out[0]


def place(
    grid: Grid,
    wcs: WCS | BaseHighLevelWCS,
    rows: tuple[int, int],
    columns: tuple[int, int],
    within: Box | None = None,
) -> Placement:
    """Return the position of a rectangle of image pixels on the grid.

    Parameters
    ----------
    grid, wcs
        The grid and the image's WCS.
    rows, columns
        The rectangle, half open, counted from 0; its outline follows the pixel edges.
    within
        The only part of the grid that is wanted, all of it; None: where the rectangle lies.

    Raises
    ------
    NoWcsError
        If the WCS is not celestial with two axes.
    PixelMapError
        If the outline has no position on the grid.
    """
    if within is not None:
        return _within(grid, wcs, within)
    outline = _outline(rows, columns)
    x, y = (columns[0] + columns[1] - 1) / 2, (rows[0] + rows[1] - 1) / 2
    axis = np.array([[x - 0.5, x + 0.5], [y, y]])
    with np.errstate(all="ignore"):
        xx, yy = _to_grid(grid, wcs)(*np.concatenate([outline, axis], axis=1))
    if may_be_partly_on_the_sky(wcs) and not np.all(is_near(grid, xx, yy)):
        found = _of_wide(grid, wcs, rows, columns)
        if found is not None:
            return found
    if not (np.all(np.isfinite(xx)) and np.all(np.isfinite(yy))):
        message = (
            f"the outline of rows {rows}, columns {columns} has no place on the grid about RA {grid.ra:.4f}, "
            f"Dec {grid.dec:.4f}: check the image's WCS"
        )
        raise PixelMapError(message)
    # half a pixel for the curvature of the outline between the points
    left, right = math.floor(xx.min() - 0.5), math.ceil(xx.max() + 0.5)
    bottom, top = math.floor(yy.min() - 0.5), math.ceil(yy.max() + 0.5)
    every = SIDE_POINTS // 2  # corners and centres of the sides
    return Placement(
        box=Box(left, bottom, (top - bottom + 1, right - left + 1)),
        outline=tuple(zip(xx[:-2:every].tolist(), yy[:-2:every].tolist(), strict=True)),
        axis_angle=math.atan2(yy[-1] - yy[-2], xx[-1] - xx[-2]),
    )


def is_near(grid: Grid, x: Floats, y: Floats) -> NDArray[np.bool_]:
    """Return which positions exist on a grid, and are not so far out that its pixels are stretched beyond use."""
    farthest = math.tan(math.radians(FARTHEST)) / math.radians(grid.scale / 3600.0)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.hypot(x, y) < farthest)


def _of_wide(
    grid: Grid, wcs: WCS | BaseHighLevelWCS, rows: tuple[int, int], columns: tuple[int, int]
) -> Placement | None:
    """Return the position of the part of a wide image that the grid shows; None if it shows nothing of it."""
    x, y = lattice((rows[0] - 0.5, rows[1] - 0.5), (columns[0] - 0.5, columns[1] - 0.5))
    with np.errstate(all="ignore"):
        xx, yy = _to_grid(grid, wcs)(x, y)
    near = is_near(grid, xx, yy)
    if near.sum() < 3:
        return None
    hull = shapely.convex_hull(shapely.multipoints(np.stack([xx[near], yy[near]], axis=1)))
    # a step of the lattice, within which the edge of the sphere lies
    places = np.where(near, np.stack([xx, yy]), np.nan).reshape(2, POINTS, POINTS)
    margin = max(float(np.nanmax(np.abs(np.diff(places, axis=axis)), initial=0.0)) for axis in (1, 2))
    left, bottom, right, top = hull.bounds
    left, bottom = math.floor(left - margin), math.floor(bottom - margin)
    right, top = math.ceil(right + margin), math.ceil(top + margin)
    corners = shapely.get_coordinates(shapely.simplify(hull, CURVED * math.sqrt(hull.area)))[:-1]
    box = Box(left, bottom, (top - bottom + 1, right - left + 1))
    return Placement(box, tuple(map(tuple, corners.tolist())), _axis_angle(grid, wcs, box))


def _within(grid: Grid, wcs: WCS | BaseHighLevelWCS, box: Box) -> Placement:
    """Return a part of the grid as the position of an image that may be much larger."""
    left, bottom = box.x0 - 0.5, box.y0 - 0.5
    right, top = left + box.shape[1], bottom + box.shape[0]
    corners = ((left, bottom), (right, bottom), (right, top), (left, top))
    return Placement(box, corners, _axis_angle(grid, wcs, box))


def _axis_angle(grid: Grid, wcs: WCS | BaseHighLevelWCS, box: Box) -> float:
    """Return the angle of an image's +x axis at the middle of a box of the grid; 0 where the image does not reach."""
    to_sky, to_pixel = sky_transforms(wcs)
    middle = np.array([box.x0 + (box.shape[1] - 1) / 2]), np.array([box.y0 + (box.shape[0] - 1) / 2])
    with np.errstate(all="ignore"):
        x, y = to_pixel(*grid.to_sky(*middle))
        xx, yy = grid.to_pixel(*to_sky(np.concatenate([x - 0.5, x + 0.5]), np.concatenate([y, y])))
    angle = math.atan2(yy[1] - yy[0], xx[1] - xx[0])
    return angle if math.isfinite(angle) else 0.0


def _outline(rows: tuple[int, int], columns: tuple[int, int]) -> Floats:
    """Return (2, n) x, y along the pixel edges around a rectangle, in order, starting at its first corner."""
    bottom, top = rows[0] - 0.5, rows[1] - 0.5
    left, right = columns[0] - 0.5, columns[1] - 0.5
    step = np.arange(SIDE_POINTS) / SIDE_POINTS
    none, all_ = np.zeros(SIDE_POINTS), np.ones(SIDE_POINTS)
    x = left + (right - left) * np.concatenate([step, all_, 1 - step, none])
    y = bottom + (top - bottom) * np.concatenate([none, step, all_, 1 - step])
    return np.stack([x, y])


def _to_grid(grid: Grid, wcs: WCS | BaseHighLevelWCS) -> Transform:
    to_sky, _ = sky_transforms(wcs)

    def exact(x: Floats, y: Floats) -> Floats:
        return grid.to_pixel(*to_sky(x, y))

    return exact


def _fit(exact: Transform, box: Box, seen_within: tuple[int, int] | None = None) -> PixelMap:
    """Sample, interpolate and check the map; only positions on the image (shape `seen_within`) are checked."""
    found = False
    for step in STEPS:
        x, y = _nodes(box.x0, box.shape[1], step), _nodes(box.y0, box.shape[0], step)
        nodes = np.stack(np.meshgrid(x, y)).reshape(2, -1)
        middles = np.stack(np.meshgrid((x[1:] + x[:-1]) / 2, (y[1:] + y[:-1]) / 2)).reshape(2, -1)
        positions = exact(*np.concatenate([nodes, middles], axis=1))
        samples, truth = positions[:, : nodes.shape[1]], positions[:, nodes.shape[1] :]
        lattice = np.array([x[0], x[1] - x[0], y[0], y[1] - y[0]])
        found = found or bool(np.isfinite(samples).any())
        if not np.isfinite(samples).all():
            break  # the map is undefined somewhere, which a spline cannot represent
        fitted = PixelMap(exact, _pieces(x, y, samples.reshape(2, len(y), len(x))), lattice, math.inf)
        error = np.hypot(*(fitted.at(*middles) - truth))
        if seen_within is not None:
            margin = 2 * step
            limits = np.array(seen_within[::-1])[:, None] - 0.5 + margin
            seen = np.all((truth >= -0.5 - margin) & (truth <= limits), axis=0)
            error = error[seen] if seen.any() else error
        worst = float(error.max())
        if worst < MAX_ERROR:
            return PixelMap(exact, fitted.pieces, lattice, worst)
    if not found:
        message = (
            f"no pixel of {box} has a counterpart by the image's WCS: the WCS cannot be inverted there, check its "
            "distortion terms"
        )
        raise PixelMapError(message)
    return PixelMap(exact, None, lattice, 0.0)


def _nodes(first: int, size: int, step: float) -> Floats:
    """Return evenly spaced nodes from the outer edge of the first pixel to that of the last."""
    cells = max(3, math.ceil(size / step))
    return np.linspace(first - 0.5, first + size - 0.5, cells + 1)


def _pieces(x: Floats, y: Floats, samples: Floats) -> Floats:
    """Return the power form of the tensor-product not-a-knot spline through samples (axes, y, x) on uniform nodes."""
    along_y = np.einsum("miy,ayx->miax", _spline_of(len(y), float(y[1] - y[0])), samples)
    both = np.einsum("njx,miax->ijmna", _spline_of(len(x), float(x[1] - x[0])), along_y)
    return np.ascontiguousarray(both)


def _spline_of(n: int, step: float) -> Floats:
    """Return (4, n - 1, n) the linear map from n samples to the coefficients of their spline, highest power first."""
    powers = step ** -np.arange(3.0, -1.0, -1.0)
    return _unit_spline(n) * powers[:, None, None]


@lru_cache(maxsize=64)
def _unit_spline(n: int) -> Floats:
    """Return the same for nodes with a spacing of 1; cached, since most images have lattices of a few sizes."""
    # scipy's own takes half a second to import, with all that optimises
    samples = np.eye(n)
    steps = np.diff(samples, axis=0)
    system = np.repeat([[1.0], [4.0], [1.0]], n, axis=1)  # of the derivatives at the nodes
    system[1, [0, -1]], system[0, 1], system[2, -2] = 1.0, 2.0, 2.0
    wanted = np.empty((n, n))
    wanted[1:-1] = 3 * (steps[1:] + steps[:-1])
    wanted[0], wanted[-1] = (5 * steps[0] + steps[1]) / 2, (steps[-2] + 5 * steps[-1]) / 2
    slopes = solve_banded((1, 1), system, wanted)
    bend = slopes[:-1] + slopes[1:] - 2 * steps
    made = np.stack([bend, steps - slopes[:-1] - bend, slopes[:-1], samples[:-1]])
    made.flags.writeable = False
    return made
