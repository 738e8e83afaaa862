"""Members of several patches: what is seen across their borders, and where they lie on one map."""

import numpy as np
import shapely

from levelmatch_core.matching.model.facing import facing, seen_on, spread_out
from levelmatch_core.sky.grid import Grid

LEFT = Grid(ra=358.0, dec=60.0, angle=0.0, scale=60.0)
RIGHT = Grid(ra=8.0, dec=62.0, angle=30.0, scale=60.0)


def square(grid: Grid, ra: float, dec: float, side: float = 60.0) -> shapely.Polygon:
    x, y = grid.to_pixel(np.array(ra), np.array(dec)).tolist()
    return shapely.box(x - side / 2, y - side / 2, x + side / 2, y + side / 2)


def test_an_outline_on_another_grid_holds_the_same_points_of_the_sky() -> None:
    mine = square(LEFT, 3.0, 61.0)
    theirs = seen_on(mine, LEFT, RIGHT)
    x, y = np.random.default_rng(0).uniform(-60, 60, (2, 500)) + LEFT.to_pixel(np.array(3.0), np.array(61.0))[:, None]
    over = RIGHT.to_pixel(*LEFT.to_sky(x, y))
    inside = shapely.contains_xy(mine, x, y)
    np.testing.assert_array_equal(shapely.contains_xy(theirs, *over), inside)
    assert 50 < inside.sum() < 450


def test_only_pairs_across_grids_see_further_outlines() -> None:
    shapes = [square(LEFT, 2.0, 61.0), square(LEFT, 3.0, 61.0), square(RIGHT, 4.0, 61.0)]
    first, second = np.array([0, 1]), np.array([1, 2])
    assert facing(shapes, [None] * 3, first, second).seen is None
    found = facing(shapes, [LEFT, LEFT, RIGHT], first, second)
    np.testing.assert_array_equal(found.seen, [[1, 0], [3, 4]])
    assert shapely.equals_exact(found.outlines[0], seen_on(shapes[2], RIGHT, LEFT))
    assert shapely.equals_exact(found.outlines[1], seen_on(shapes[1], LEFT, RIGHT))


def test_neighbours_of_different_grids_are_neighbours_on_the_map() -> None:
    places = [(359.0, 61.0), (1.0, 61.0), (3.0, 61.0)]
    grids = [LEFT, RIGHT, RIGHT]
    centres = np.array(
        [grid.to_pixel(np.array(ra), np.array(dec)) for grid, (ra, dec) in zip(grids, places, strict=True)]
    )
    on_map = spread_out(centres, grids, 60.0)
    steps = np.linalg.norm(np.diff(on_map, axis=0), axis=1)
    np.testing.assert_allclose(steps, 2.0 * 60.0 * np.cos(np.radians(61.0)), rtol=0.02)
    same = [RIGHT] * 3
    np.testing.assert_array_equal(spread_out(centres, same, 60.0), centres)
