"""The division of the sky into patches: the same for everyone, whole pairs, no point far from a tangent point."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial import KDTree

from levelmatch_core.images.exposure import Exposure, Field
from levelmatch_core.images.wcs.directions import unit_vectors
from levelmatch_core.images.wcs.footprint import touching_pairs
from levelmatch_core.sky.grid import Grid, choose_grid, snap
from levelmatch_core.sky.patches import (
    ONE,
    REACH,
    layout_of,
    nearest_patch,
    on_grid,
    patch_name,
    patch_points,
)
from levelmatch_core.sky.plane import Plane

DECLINATIONS = st.one_of(st.floats(-90.0, 90.0), st.sampled_from([-90.0, 90.0, 89.99, -89.99, 0.0]))
ASCENSIONS = st.one_of(st.floats(0.0, 360.0), st.sampled_from([0.0, 360.0, 359.999, 0.001]))


def field(*exposures: Exposure) -> Field:
    return Field(name="f", instrument="generic", band="f", unit="", exposures=exposures)


def degrees(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.degrees(2 * np.arcsin(np.linalg.norm(one - other, axis=-1) / 2))


def test_tangent_points_are_those_of_smaller_fields_too_and_have_names_of_their_own() -> None:
    points = patch_points()
    assert all(snap(unit_vectors([point])[0]) == pytest.approx(point, abs=1e-9) for point in points)
    assert len({patch_name(*point) for point in points}) == len(points)


def test_no_point_of_the_sky_is_farther_than_reach_from_a_tangent_point() -> None:
    random = np.random.default_rng(3).standard_normal((200_000, 3))
    sky = random / np.linalg.norm(random, axis=1, keepdims=True)
    tree = KDTree(unit_vectors(patch_points()))
    farthest = np.degrees(2 * np.arcsin(tree.query(sky)[0].max() / 2))
    assert 5.0 < farthest < REACH


@given(ASCENSIONS, DECLINATIONS)
def test_the_nearest_patch_does_not_depend_on_how_a_direction_is_written(ra: float, dec: float) -> None:
    direction = unit_vectors([(ra, dec)])[0]
    assert degrees(unit_vectors([nearest_patch(direction)])[0], direction) < REACH


def border_near(ra: float, dec: float) -> tuple[float, float]:
    """The point midway between the two tangent points that are nearest to a direction."""
    points = unit_vectors(patch_points())
    first, second = np.argsort(degrees(points, unit_vectors([(ra, dec)])[0]), kind="stable")[:2]
    x, y, z = points[first] + points[second]
    return float(np.degrees(np.arctan2(y, x)) % 360.0), float(np.degrees(np.arctan2(z, np.hypot(x, y))))


def survey(make_bare: Callable[..., Exposure], ra: float, dec: float, count: int = 60) -> list[Exposure]:
    """Exposures of 0.2 degrees at random within 0.7 degrees of a point, and one far away."""
    rng = np.random.default_rng(count)
    grid = Grid(ra=ra % 360.0, dec=dec, angle=0.0, scale=3600.0)
    places = grid.to_sky(*rng.uniform(-0.7, 0.7, (2, count))).T
    far = grid.to_sky(np.array([14.0]), np.array([0.0])).T
    return [make_bare(f"e{number:02d}", ra=a, dec=d) for number, (a, d) in enumerate([*far.tolist(), *places.tolist()])]


@pytest.mark.parametrize(("ra", "dec"), [(0.0, 0.0), (180.0, 40.0), (10.0, 90.0), (0.0, -86.0), (359.9, -60.0)])
def test_both_members_of_a_touching_pair_are_whole_on_its_patch(
    make_bare: Callable[..., Exposure], ra: float, dec: float
) -> None:
    exposures = survey(make_bare, *border_near(ra, dec))
    layout = layout_of(field(*exposures))
    assert layout.is_wide
    pairs = touching_pairs([one.footprint for one in exposures]).tolist()
    crossing = 0
    for first, second in ((exposures[i], exposures[j]) for i, j in pairs):
        patch = min(layout.home(first.name), layout.home(second.name))
        crossing += layout.home(first.name) != layout.home(second.name)
        grid = layout.grids[patch]
        for one in (first, second):
            assert patch in layout.patches[one.name]
            corners = unit_vectors(one.footprint)
            radius = float(np.sqrt(0.5)) * 0.2
            assert degrees(corners, unit_vectors([(grid.ra, grid.dec)])[0]).max() < REACH + 3 * radius
    assert crossing > 3


def test_new_exposures_and_their_order_move_nothing(make_bare: Callable[..., Exposure]) -> None:
    exposures = survey(make_bare, *border_near(20.0, 71.25), 80)
    layout = layout_of(field(*exposures))
    turned = layout_of(field(*reversed(exposures)))
    assert (turned.grids, turned.patches, turned.grid) == (layout.grids, layout.patches, layout.grid)
    fewer = layout_of(field(*exposures[:60]), (layout.grid,))
    for exposure in exposures[:60]:
        assert fewer.home(exposure.name) == layout.home(exposure.name)
        assert set(fewer.patches[exposure.name]) <= set(layout.patches[exposure.name])
    assert all(layout.grids[patch] == grid for patch, grid in fewer.grids.items())


def test_exposures_of_one_tile_have_one_home(make_bare: Callable[..., Exposure]) -> None:
    middle = np.mean([patch_points()[370], patch_points()[371]], axis=0)  # between two tangent points of a row
    assert patch_points()[370][1] == patch_points()[371][1]
    far = make_bare("far", ra=middle[0] + 12.0, dec=middle[1])
    tile = [
        make_bare(f"d{n}", ra=middle[0] + 0.1 * (n - 1.6), dec=middle[1]).model_copy(
            update={"groups": {"dithers": "tile", "mosaic_tiles": "f"}}
        )
        for n in range(4)
    ]
    alone = layout_of(field(*(one.model_copy(update={"groups": {"mosaic_tiles": "f"}}) for one in tile), far))
    assert len({alone.home(one.name) for one in tile}) == 2
    layout = layout_of(field(*tile, far))
    assert len({layout.patches[one.name] for one in tile}) == 1


def test_a_field_that_fits_one_tangent_plane_has_one_patch(make_bare: Callable[..., Exposure]) -> None:
    exposures = [make_bare(f"e{n}", ra=10.0 + n, dec=5.0) for n in range(5)]
    layout = layout_of(field(*exposures))
    assert not layout.is_wide
    assert layout.grids == {ONE: choose_grid(field(*exposures))}
    assert set(layout.patches.values()) == {(ONE,)}


@given(ASCENSIONS, DECLINATIONS, st.floats(-180, 180), st.floats(0, 360))
def test_a_plane_of_another_patch_is_that_plane_to_a_thousandth_of_its_effect(
    ra: float, dec: float, angle: float, towards: float
) -> None:
    """Over an exposure of half a degree, at the place of a pair farthest from both tangent points."""
    grid = Grid(ra=ra % 360.0, dec=dec, angle=angle, scale=10.0)
    there = 360.0 * np.array([np.cos(np.radians(towards)), np.sin(np.radians(towards))]) * REACH
    other_ra, other_dec = grid.to_sky(*(1.9 * there))
    other = Grid(ra=float(other_ra), dec=float(other_dec), angle=0.0, scale=10.0)
    plane = Plane(level=3.0, slope_x=0.01, slope_y=-0.02, x0=float(there[0]), y0=float(there[1]))
    x, y = other.to_pixel(*grid.to_sky(*there))
    moved = on_grid(plane, grid, other, (float(x), float(y)))
    side = np.linspace(-90.0, 90.0, 7)  # pixels: half a degree
    xx, yy = np.meshgrid(x + side, y + side)
    truth = plane(*grid.to_pixel(*other.to_sky(xx, yy)))
    effect = float(np.ptp(truth))
    assert np.abs(moved(xx, yy) - truth).max() < 1e-3 * effect
