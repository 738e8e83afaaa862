"""Where a wide image lies on the sky: its corners may be off the sphere, its edges no great circles, a pole inside.

All-sky projections (AIT, MOL, ZEA, CAR and the like) fill a part of their rectangle, or go round the sky. Such an image
is looked at on a lattice of its pixels, and those that have a place on the sky tell where it lies.
"""

from dataclasses import dataclass

import numpy as np
import shapely
from astropy.wcs import WCS

from levelmatch_core.images.fits_headers import quiet
from levelmatch_core.images.wcs.directions import unit_vectors
from levelmatch_core.images.wcs.transforms import AnyWcs, Floats, sky_transforms

POINTS = 65
"""Points of the lattice along each side, from edge to edge."""

WIDE = 5.0
"""An image with a corner farther than this from its middle (degrees) is looked at on a lattice."""

MOST = 50.0
"""Farthest that a pixel of an exposure may be from its middle (degrees): no tangent plane shows much more."""

LEAST_MEAN = 0.2
"""The mean of unit vectors that are spread all over the sky is shorter."""

CURVED = 1e-3
"""Part by which an outline may be larger than that of the corners before it needs more of them; also the tolerance to
which it is simplified, relative to its size."""


@dataclass(frozen=True)
class WideArea:
    """The part of an image that is on the sky."""

    outline: tuple[tuple[float, float], ...]
    """(RA, Dec) of the corners of its convex hull, ICRS degrees, in order; empty if no tangent plane shows it all."""
    middle: tuple[float, float]
    """x, y of the lattice point on the sky that is nearest to the middle of the image."""


def may_be_partly_on_the_sky(wcs: AnyWcs) -> bool:
    """Return whether pixels without a place on the sky are a matter of the projection, and of no bad distortion."""
    return isinstance(wcs, WCS) and not wcs.has_distortion


def wide_area(wcs: AnyWcs, rows: tuple[float, float], columns: tuple[float, float]) -> WideArea | None:
    """Return the part of an image that is on the sky; None if nothing of it is.

    Parameters
    ----------
    wcs
        Celestial WCS.
    rows, columns
        Edges of the image, pixels from 0.
    """
    x, y = lattice(rows, columns)
    with quiet(), np.errstate(all="ignore"):
        sky = sky_transforms(wcs)[0](x, y)
    seen = np.isfinite(sky).all(axis=0)
    if seen.sum() < 3:
        return None
    vectors = unit_vectors(sky[:, seen].T)
    away = np.hypot(x[seen] - np.mean(columns), y[seen] - np.mean(rows))
    nearest = int(np.argmin(away))
    middle = float(x[seen][nearest]), float(y[seen][nearest])
    mean = vectors.mean(axis=0)
    length = float(np.linalg.norm(mean))
    if length < LEAST_MEAN or np.degrees(np.arccos(np.clip(vectors @ mean / length, -1, 1))).max() > MOST:
        return WideArea((), middle)
    corners = sky[:, [0, POINTS - 1, POINTS**2 - 1, POINTS * (POINTS - 1)]]
    return WideArea(_outline(vectors, mean / length, corners), middle)


def lattice(rows: tuple[float, float], columns: tuple[float, float]) -> tuple[Floats, Floats]:
    """Return x and y of points that are spread evenly from edge to edge, row by row."""
    x, y = np.meshgrid(np.linspace(*columns, POINTS), np.linspace(*rows, POINTS))
    return x.ravel(), y.ravel()


def _outline(vectors: Floats, middle: Floats, corners: Floats) -> tuple[tuple[float, float], ...]:
    axis = np.eye(3)[np.abs(middle).argmin()]
    first = np.cross(middle, axis)
    first /= np.linalg.norm(first)
    basis = np.stack([first, np.cross(middle, first), middle])

    def flat(points: Floats) -> Floats:
        across, up, depth = basis @ points.T
        return np.stack([across / depth, up / depth], axis=1)

    hull = shapely.convex_hull(shapely.multipoints(flat(vectors)))
    if np.isfinite(corners).all():
        square = shapely.Polygon(flat(unit_vectors(corners.T)))
        if square.is_valid and hull.area <= square.area * (1 + CURVED):
            return _as_pairs(corners)
    shape = shapely.simplify(hull, CURVED * np.sqrt(hull.area))
    points = np.column_stack([shapely.get_coordinates(shape)[:-1], np.ones(shapely.get_num_coordinates(shape) - 1)])
    x, y, z = (points @ basis).T
    return _as_pairs(np.stack([np.degrees(np.arctan2(y, x)) % 360.0, np.degrees(np.arctan2(z, np.hypot(x, y)))]))


def _as_pairs(sky: Floats) -> tuple[tuple[float, float], ...]:
    return tuple(zip((sky[0] % 360.0).tolist(), sky[1].tolist(), strict=True))
