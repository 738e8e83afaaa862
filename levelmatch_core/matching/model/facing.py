"""Outlines across the patches of a wide field: a member as it is seen on the grid of another one.

A member's outline, centre and sample points lie on the grid of its home. Where the other member of a pair has another
home, its outline is needed on that grid, too: the corners are projected, since great circles are straight lines on
every tangent plane. Where all members are on one grid, nothing is projected.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from levelmatch_core.images.wcs.directions import unit_vectors
from levelmatch_core.sky.grid import Grid

Array = NDArray[np.float64]
Index = NDArray[np.int64]
Grids = Sequence[Grid | None]
"""The grid of each polygon; None where all are on the only one."""


@dataclass(frozen=True)
class Facing:
    """The outlines of members as others see them."""

    outlines: tuple[object, ...] = ()
    """Polygons in addition to the members' own."""
    seen: Index | None = None
    """(K, 2) number of the polygon that is the other member of a pair, as the first and as the second member see it:
    that of a member, or beyond them of an additional one. None if all members are on one grid."""


NOT_FACING = Facing()
"""All members are on one grid."""


def facing(outlines: Sequence[object], grids: Grids, first: Index, second: Index) -> Facing:
    """Return the outlines of the members of pairs as the other members see them.

    Parameters
    ----------
    outlines, grids
        N polygons, each on its own grid.
    first, second
        (K,) the members of each pair.
    """
    grid_number = numbers_of(grids)
    ends = np.stack([first, second], axis=1)
    crossing = np.flatnonzero(grid_number[first] != grid_number[second])
    if not len(crossing):
        return NOT_FACING
    seen = ends[:, ::-1].copy()
    extra: dict[tuple[int, int], int] = {}
    polygons: list[object] = []
    for pair in crossing.tolist():
        for side in (0, 1):
            mine, other = int(ends[pair, side]), int(ends[pair, 1 - side])
            key = other, int(grid_number[mine])
            if key not in extra:
                extra[key] = len(outlines) + len(polygons)
                polygons.append(seen_on(outlines[other], grids[other], grids[mine]))
            seen[pair, side] = extra[key]
    return Facing(tuple(polygons), seen)


def seen_on(polygon: object, grid: Grid | None, other: Grid | None) -> object:
    """Return a convex polygon of one grid on another one.

    Raises
    ------
    ValueError
        If one of them is that of all members: then there is no other.
    """
    if grid is None or other is None:
        message = "a pair of members of which only one has a grid of its own"
        raise ValueError(message)
    x, y = shapely.get_coordinates(polygon)[:-1].T
    corners = other.to_pixel(*grid.to_sky(x, y)).T
    return shapely.convex_hull(shapely.multipoints(corners))


def numbers_of(grids: Grids) -> Index:
    """Return (N,) a number for each grid, equal for equal ones."""
    known: dict[Grid | None, int] = {}
    return np.array([known.setdefault(grid, len(known)) for grid in grids], dtype=np.int64)


def spread_out(centres: Array, grids: Grids, scale: float) -> Array:
    """Return centres (N, 2) of several grids as positions on a map of the sky, in about the same units.

    The sinusoidal projection, cut at the right ascension opposite to the members' mean. It is used to sort members that
    are near each other together, and nothing depends on its distortion.
    """
    if len(set(grids)) < 2:
        return centres
    sky = np.array(
        [grid.to_sky(*centre) for centre, grid in zip(centres, grids, strict=True) if grid is not None], dtype=float
    )
    mean = unit_vectors(sky).mean(axis=0)
    middle = np.degrees(np.arctan2(mean[1], mean[0]))
    across = (sky[:, 0] - middle + 180.0) % 360.0 - 180.0
    step = scale / 3600.0
    return np.stack([-across * np.cos(np.radians(sky[:, 1])) / step, sky[:, 1] / step], axis=1)
