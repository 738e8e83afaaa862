"""Planes across the grids of a wide field, against planes that are evaluated pixel by pixel, anywhere on the sky."""

import numpy as np
import pytest
import shapely
from hypothesis import example, given
from hypothesis import strategies as st

from levelmatch_core.images.wcs.directions import unit_vectors
from levelmatch_core.matching.model.frames import frames_of, seen_between
from levelmatch_core.matching.results import Member
from levelmatch_core.sky.grid import Grid
from levelmatch_core.sky.patches import nearest_patch, patch_name
from levelmatch_core.sky.plane import Plane
from tests.matching.fakes import make_cutout

DECLINATIONS = st.one_of(st.floats(-90.0, 90.0), st.sampled_from([-90.0, 90.0, 89.99, -89.99, 0.0]))
ASCENSIONS = st.one_of(st.floats(0.0, 360.0), st.sampled_from([0.0, 360.0, 359.999, 0.001]))

SIDE = 15.0
"""Degrees along an exposure."""
SCALE = 600.0
"""Arcsec a pixel."""


def patch_at(ra: float, dec: float) -> Grid:
    ra, dec = nearest_patch(unit_vectors([(ra, dec)])[0])
    return Grid(ra=ra, dec=dec, angle=0.0, scale=SCALE)


def square_at(ra: float, dec: float, turn: float) -> np.ndarray:
    """(4, 2) RA and Dec of the corners of an exposure."""
    own = Grid(ra=ra % 360.0, dec=dec, angle=turn, scale=SCALE)
    half = SIDE * 3600.0 / SCALE / 2
    return own.to_sky(np.array([-1, 1, 1, -1]) * half, np.array([-1, -1, 1, 1]) * half).T


def away(ra: float, dec: float, degrees: float, towards: float) -> tuple[float, float]:
    own = Grid(ra=ra % 360.0, dec=dec, angle=0.0, scale=3600.0)
    reach = np.degrees(np.tan(np.radians(degrees)))
    x, y = reach * np.cos(np.radians(towards)), reach * np.sin(np.radians(towards))
    there = own.to_sky(np.array(x), np.array(y))
    return float(there[0]), float(there[1])


@given(ASCENSIONS, DECLINATIONS, st.floats(2.0, 12.0), st.floats(0, 360), st.floats(0, 360), st.floats(0, 360))
@example(0.0, 90.0, 6.0, 10.0, 20.0, 70.0)
@example(359.999, -86.3, 11.0, 0.0, 45.0, 0.0)
@example(0.0, 0.0, 11.9, 45.0, 0.0, 45.0)
def test_a_pair_sees_the_plane_of_another_patch_to_a_thousandth_of_its_effect_over_an_exposure(  # noqa: PLR0917
    ra: float, dec: float, distance: float, towards: float, turn: float, other_turn: float
) -> None:
    """Over overlaps of squares of any angle, which are triangles to octagons, of exposures of 15 degrees."""
    other_ra, other_dec = away(ra, dec, distance, towards)
    home, grid = patch_at(ra, dec), patch_at(other_ra, other_dec)
    corners = [
        shapely.Polygon(grid.to_pixel(*square.T).T)
        for square in (square_at(ra, dec, turn), square_at(other_ra, other_dec, other_turn))
    ]
    overlap = shapely.intersection(*corners)
    if overlap.area < 30:
        return
    x0, y0, x1, y1 = overlap.bounds
    x, y = np.meshgrid(np.linspace(x0, x1, 60), np.linspace(y0, y1, 60))
    inside = shapely.contains_xy(overlap, x, y)
    x, y = x[inside], y[inside]
    middle = np.array([x.mean(), y.mean()])
    basis = np.stack([np.ones(len(x)), x - middle[0], y - middle[1]], axis=1)
    places, turns = seen_between(grid, home, middle[None], np.cov(np.stack([x, y]), bias=True)[None])
    centre = home.to_pixel(np.array(ra), np.array(dec))
    pixels = home.to_pixel(*grid.to_sky(x, y))
    for slopes in ((1.0, 0.0), (0.0, 1.0)):
        plane = Plane(level=0.0, slope_x=slopes[0], slope_y=slopes[1], x0=float(centre[0]), y0=float(centre[1]))
        true = np.linalg.lstsq(basis, plane(*pixels), rcond=None)[0]
        seen = np.array([plane(*places[0]), *(turns[0] @ slopes)])
        effect = SIDE * 3600.0 / SCALE  # of a slope of 1 over an exposure
        assert abs(seen[0] - true[0]) < 1e-3 * effect
        over = basis @ (seen - true)
        assert np.sqrt(np.mean(over**2)) < 1e-3 * effect


def member(name: str, grid: Grid | None, patch: str, x0: int = 0) -> Member:
    cutout = make_cutout(name, np.zeros((20, 20)), x0=x0).record
    return Member(name=name, exposures=(name,), cutout=cutout, tile=name, groups={}, patch=patch, grid=grid)


def test_pairs_on_the_home_of_both_members_are_seen_exactly_and_members_on_one_grid_have_no_frames() -> None:
    near, far = Grid(ra=0.0, dec=60.0, angle=0.0, scale=600.0), Grid(ra=15.0, dec=60.0, angle=0.0, scale=600.0)
    first, second = np.array([0, 0]), np.array([1, 2])
    centroids, moments = np.array([[9.0, 8.0], [40.0, 3.0]]), np.tile(np.diag([1.0, 8.0, 4.0]), (2, 1, 1))
    names = [patch_name(grid.ra, grid.dec) for grid in (near, near, far)]
    members = [member(n, g, p) for n, g, p in zip("abc", (near, near, far), names, strict=True)]
    frames = frames_of(members, centroids, moments, first, second)
    np.testing.assert_array_equal(frames.crosses, [False, True])
    np.testing.assert_array_equal(frames.places[0], [centroids[0]] * 2)
    np.testing.assert_array_equal(frames.turns[0], [np.eye(2)] * 2)
    np.testing.assert_array_equal(frames.places[1, 0], centroids[1])
    expected = far.to_pixel(*near.to_sky(*centroids[1]))
    np.testing.assert_allclose(frames.places[1, 1], expected, atol=0.1)
    # meridians that are 15 degrees apart meet at 13 degrees at this declination
    turned = np.degrees(np.arctan2(frames.turns[1, 1, 0, 1], frames.turns[1, 1, 0, 0]))
    assert abs(turned) == pytest.approx(15 * np.sin(np.radians(60.0)), abs=1.0)
    assert not frames_of([member("a", None, ""), member("b", None, "")], centroids, moments, first, first)
