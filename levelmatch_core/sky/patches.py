"""The layout of a field: one grid, or, if it is wider than a tangent plane, patches of a fixed division of the sky.

The tangent points of all patches are a function of the sky alone (:func:`patch_points`), so that new exposures do not
move any. The exposures of a tile are taken together: their home is the patch whose tangent point is nearest to the
middle of the tile. A pair of tiles with different homes is measured on one of the two, the first by name, to which the
exposures of the other tile are resampled as well. Every pair is therefore measured once, both members lie whole on the
patch of the pair, and the choice does not depend on any order.

No point of the sky is farther than :data:`REACH` from the nearest tangent point. A pair of exposures with the radii r
and s therefore lies within `REACH + r + 2 s` of the tangent point of its patch.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from levelmatch_core.images.exposure import Field
from levelmatch_core.images.fields import MOSAIC
from levelmatch_core.images.wcs.directions import unit_vectors
from levelmatch_core.images.wcs.footprint import connected_sets, touching_pairs
from levelmatch_core.sky.grid import (
    MAX_WIDTH,
    Grid,
    centre_of,
    choose_grid,
    keeps_scale,
    rounded_scale,
    serves,
    snap,
    width_of,
)
from levelmatch_core.sky.plane import Plane

SPACING = 7.5
"""Distance between rows of tangent points, and about that of points in a row (degrees)."""

REACH = 5.4
"""No point of the sky is farther from the nearest tangent point (degrees)."""

ONE = ""
"""Name of the only patch of a field that fits on one tangent plane."""


@dataclass(frozen=True)
class Layout:
    """The grids of a field, and those to which each exposure is resampled."""

    grid: Grid
    """The grid of a field that fits on one; else the one whose scale all patches have, near the middle of the field."""
    grids: Mapping[str, Grid]
    """Patch -> its grid."""
    patches: Mapping[str, tuple[str, ...]]
    """Exposure -> the patches to which it is resampled, its home first."""

    @property
    def is_wide(self) -> bool:
        """Whether the field has patches."""
        return ONE not in self.grids

    def home(self, exposure: str) -> str:
        """Return the home of an exposure."""
        return self.patches[exposure][0]


def layout_of(field: Field, known: tuple[Grid, ...] = ()) -> Layout:
    """Return the layout of a field.

    Parameters
    ----------
    field
        The exposures.
    known
        Grids of the same kind of field in an earlier output; the first that serves is kept, or its scale.
    """
    kept = next((grid for grid in known if serves(grid, field)), None)
    if kept is None and width_of(field) <= MAX_WIDTH:
        kept = choose_grid(field)
    if kept is not None:
        return Layout(kept, {ONE: kept}, {exposure.name: (ONE,) for exposure in field.exposures})
    return _on_patches(field, next((grid for grid in known if keeps_scale(grid, field)), None))


@cache
def patch_points() -> tuple[tuple[float, float], ...]:
    """Return RA and Dec (degrees) of the tangent points of all patches of the sky: rows of constant declination.

    They are points of the lattice to which the tangent points of smaller fields are moved.
    """
    rows = np.arange(-90.0, 90.0 + SPACING / 2, SPACING).tolist()
    found = []
    for dec in rows:
        count = max(1, math.ceil(360.0 * math.cos(math.radians(dec)) / SPACING - 1e-9))
        found += [snap(unit_vectors([(360.0 * number / count, dec)])[0]) for number in range(count)]
    return tuple(found)


@cache
def _tree() -> KDTree:
    return KDTree(unit_vectors(patch_points()))


def nearest_patch(direction: NDArray[np.float64]) -> tuple[float, float]:
    """Return RA and Dec of the tangent point that is nearest to a direction, a unit vector."""
    return patch_points()[int(_tree().query(direction)[1])]


def patch_name(ra: float, dec: float) -> str:
    """Return the name of a patch, with the rounded coordinates of its tangent point; it may be part of a file name."""
    return f"{ra:05.1f}{dec:+05.1f}"


def on_grid(plane: Plane, grid: Grid, other: Grid, centre: tuple[float, float]) -> Plane:
    """Return a plane of one grid on another one, about a point of that: the tangent there.

    Tangent planes show a great circle as a straight line, but stretched unevenly. At a distance s from the point, both
    in radians, the two planes differ by no more than `slope * s**2 * (tan(t) + tan(u))`, with t and u the distances of
    the point from the two tangent points.
    """
    if grid == other or plane.is_level:
        return plane.about(*centre)
    x, y = np.array([0.0, 1.0, 0.0]) + centre[0], np.array([0.0, 0.0, 1.0]) + centre[1]
    level, right, up = plane(*grid.to_pixel(*other.to_sky(x, y))).tolist()
    return Plane(level=level, slope_x=right - level, slope_y=up - level, x0=centre[0], y0=centre[1])


def _on_patches(field: Field, known: Grid | None) -> Layout:
    exposures = sorted(field.exposures, key=lambda exposure: exposure.name)
    tile_of = _tiles(field)
    vectors = np.array([centre_of(exposure) for exposure in exposures])
    scale = rounded_scale(field) if known is None else known.scale
    grids: dict[str, Grid] = {}

    def patch_of(direction: NDArray[np.float64]) -> str:
        ra, dec = nearest_patch(direction / (np.linalg.norm(direction) or 1.0))
        name = patch_name(ra, dec)
        grids[name] = Grid(ra=ra, dec=dec, angle=0.0, scale=scale)
        return name

    members: dict[int, list[int]] = {}
    for number, exposure in enumerate(exposures):
        members.setdefault(tile_of[exposure.name], []).append(number)
    homes = {tile: patch_of(vectors[numbers].sum(axis=0)) for tile, numbers in members.items()}
    further: dict[int, set[str]] = {tile: set() for tile in members}
    for i, j in touching_pairs([exposure.footprint for exposure in exposures]).tolist():
        first, second = tile_of[exposures[i].name], tile_of[exposures[j].name]
        patch = min(homes[first], homes[second])
        for tile in (first, second):
            if homes[tile] != patch:
                further[tile].add(patch)
    patches = {
        exposures[number].name: (homes[tile], *sorted(further[tile]))
        for tile, numbers in members.items()
        for number in numbers
    }
    middle = patch_of(vectors.sum(axis=0))
    whole = known or grids[middle]
    used = {name for found in patches.values() for name in found}
    return Layout(whole, {name: grids[name] for name in sorted(used)}, patches)


def _tiles(field: Field) -> dict[str, int]:
    """Return for each exposure the number of the set of exposures with which it is matched before the last stage."""
    names = [exposure.name for exposure in field.exposures]
    first: dict[tuple[str, str], int] = {}
    joined = [
        (first.setdefault(group, number), number)
        for number, exposure in enumerate(field.exposures)
        for group in exposure.groups.items()
        if group[0] != MOSAIC
    ]
    sets = connected_sets(len(names), np.array(joined, dtype=np.int64).reshape(-1, 2))
    return {names[number]: tile for tile, members in enumerate(sets) for number in members}
