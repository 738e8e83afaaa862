import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import FK5, ICRS, Galactic, SkyCoord
from astropy.wcs import WCS
from astropy.wcs.wcsapi import BaseLowLevelWCS

from levelmatch_core.errors import NoWcsError, PixelMapError
from levelmatch_core.sky import pixelmap
from levelmatch_core.sky.grid import Grid
from levelmatch_core.sky.pixelmap import (
    MAX_ERROR,
    Box,
    grid_to_image,
    image_to_grid,
    place,
    plane_on_image,
    sky_transforms,
)
from levelmatch_core.sky.plane import Plane

GRID = Grid(ra=83.0, dec=-5.0, angle=10.0, scale=1.0)
Make = Callable[..., WCS]

WCSES: list[dict[str, Any]] = [
    {"angle": 0.0},
    {"angle": 33.0, "distortion": 2e-5},
    {"angle": -100.0, "scale": 1.3, "distortion": -3e-5, "ra": 83.1},
]


class Tilted(BaseLowLevelWCS):
    """An APE-14 WCS that is not FITS, in galactic coordinates, with a distortion by a sine."""

    pixel_n_dim = 2
    world_n_dim = 2
    world_axis_physical_types = ("pos.galactic.lon", "pos.galactic.lat")
    world_axis_units = ("deg", "deg")
    world_axis_object_components = (
        ("celestial", 0, "spherical.lon.degree"),
        ("celestial", 1, "spherical.lat.degree"),
    )

    def __init__(self, wcs: WCS, size: float) -> None:
        self._wcs = wcs
        self._size = size

    @property
    def world_axis_object_classes(self) -> dict[str, Any]:
        return {"celestial": (SkyCoord, (), {"frame": Galactic(), "unit": (u.deg, u.deg)})}

    def pixel_to_world_values(self, x: Any, y: Any) -> Any:
        lon, lat = self._wcs.all_pix2world(x + np.sin(np.asarray(y) / self._size), y, 0)
        sky = SkyCoord(lon, lat, unit="deg", frame=ICRS()).galactic
        return sky.l.deg, sky.b.deg

    def world_to_pixel_values(self, lon: Any, lat: Any) -> Any:
        sky = SkyCoord(lon, lat, unit="deg", frame=Galactic()).icrs
        x, y = self._wcs.all_world2pix(sky.ra.deg, sky.dec.deg, 0)
        return x - np.sin(y / self._size), y


@pytest.mark.parametrize("options", WCSES)
def test_both_directions_within_the_bound(make_wcs: Make, options: dict[str, Any]) -> None:
    shape = (300, 500)
    wcs = make_wcs(shape, **options)
    box = place(GRID, wcs, (0, 300), (0, 500)).box
    there = grid_to_image(GRID, wcs, shape, box)
    back = image_to_grid(GRID, wcs, shape)
    assert there.pieces is not None
    assert back.pieces is not None
    assert max(there.error, back.error) < MAX_ERROR

    rng = np.random.default_rng(1)
    x, y = rng.uniform(-0.5, 499.5, 4000), rng.uniform(-0.5, 299.5, 4000)
    on_grid = GRID.wcs().world_to_pixel_values(*wcs.pixel_to_world_values(x, y))
    # the error that was measured on a few points is that of all
    assert np.hypot(*(back.at(x, y) - on_grid)).max() < 1.5 * back.error + 2e-6
    assert np.hypot(*(there.at(*on_grid) - (x, y))).max() < 1.5 * there.error + 2e-6

    # and the regular evaluation is the same function
    yy, xx = np.indices(box.shape)
    np.testing.assert_allclose(there.on(box), there.at(xx + box.x0, yy + box.y0), atol=1e-9)
    inner = Box(box.x0 + 70, box.y0 + 131, (7, 99))
    np.testing.assert_allclose(there.on(inner), there.on(box)[:, 131:138, 70:169], atol=1e-9)


def test_lattice_is_refined_where_it_must(make_wcs: Make) -> None:
    shape = (300, 300)
    smooth = image_to_grid(GRID, Tilted(make_wcs(shape), 150.0), shape)
    wavy = image_to_grid(GRID, Tilted(make_wcs(shape), 40.0), shape)
    rough = image_to_grid(GRID, Tilted(make_wcs(shape), 1.0), shape)
    assert smooth.pieces is not None
    assert wavy.pieces is not None
    assert wavy.pieces.shape[0] > smooth.pieces.shape[0]
    assert wavy.error < MAX_ERROR
    assert rough.pieces is None
    x = np.linspace(0, 299, 200)
    for fitted in (smooth, wavy, rough):
        assert np.hypot(*(fitted.at(x, x[::-1]) - fitted.exact(x, x[::-1]))).max() < MAX_ERROR
    bands = rough.bands(Box(0, 0, (3, 200_000)))
    assert [band.y0 for band in bands] == [0, 1, 2]
    assert rough.on(Box(0, 0, (4, 5))).shape == (2, 4, 5)


def test_frames_are_honoured(make_wcs: Make) -> None:
    shape = (50, 60)
    plain = make_wcs(shape)
    general = Tilted(plain, 1e9)
    fk5 = make_wcs(shape)
    fk5.wcs.radesys = "FK5"
    fk5.wcs.equinox = 1975.0
    fk5.wcs.set()
    x, y = np.array([0.0, 59.0]), np.array([3.0, 40.0])
    truth = plain.pixel_to_world_values(x, y)
    to_sky, to_pixel = sky_transforms(general)
    np.testing.assert_allclose(to_sky(x, y), truth, atol=1e-9)
    np.testing.assert_allclose(to_pixel(*truth), (x, y), atol=1e-4)
    precessed = SkyCoord(*truth, unit="deg", frame=FK5(equinox="J1975")).icrs
    to_sky, to_pixel = sky_transforms(fk5)
    np.testing.assert_allclose(to_sky(x, y), (precessed.ra.deg, precessed.dec.deg), atol=1e-9)
    np.testing.assert_allclose(to_pixel(precessed.ra.deg, precessed.dec.deg), (x, y), atol=1e-4)


def test_world_axes_in_the_other_order(make_wcs: Make) -> None:
    plain = make_wcs((50, 60))
    swapped = plain.swapaxes(0, 1)  # Dec first; also the pixel axes
    x, y = np.array([1.0, 50.0]), np.array([7.0, 33.0])
    to_sky, to_pixel = sky_transforms(swapped)
    np.testing.assert_allclose(to_sky(y, x), plain.pixel_to_world_values(x, y), atol=1e-10)
    np.testing.assert_allclose(to_pixel(*plain.pixel_to_world_values(x, y)), (y, x), atol=1e-6)


@pytest.mark.parametrize(
    ("grid", "centre"),
    [
        (Grid(ra=0.0, dec=0.0, angle=0.0, scale=1.0), (359.999, 0.01)),
        (Grid(ra=0.0, dec=90.0, angle=0.0, scale=1.0), (123.0, 89.98)),
        (Grid(ra=0.0, dec=-90.0, angle=0.0, scale=1.0), (0.0, -90.0)),
        (Grid(ra=180.0, dec=60.0, angle=-45.0, scale=1.0), (190.0, 58.0)),
    ],
)
def test_anywhere_on_the_sky(make_wcs: Make, grid: Grid, centre: tuple[float, float]) -> None:
    shape = (120, 180)
    wcs = make_wcs(shape, ra=centre[0], dec=centre[1], angle=15.0)
    placement = place(grid, wcs, (0, 120), (0, 180))
    to_image = grid_to_image(grid, wcs, shape, placement.box)
    assert to_image.pieces is not None
    x, y = to_image.on(placement.box)
    inside = (x >= -0.5) & (x < 179.5) & (y >= -0.5) & (y < 119.5)
    assert inside.sum() == pytest.approx(120 * 180, rel=0.02)  # nothing is cut off
    assert not inside[[0, -1]].any()
    assert not inside[:, [0, -1]].any()
    assert placement.box.shape[0] * placement.box.shape[1] < 2.2 * 120 * 180
    there = image_to_grid(grid, wcs, shape)
    corner = there.at(-0.5, -0.5)
    assert corner == pytest.approx(placement.outline[0], abs=1e-4)


def test_placement_of_a_rectangle(make_wcs: Make) -> None:
    grid = Grid(ra=83.0, dec=-5.0, angle=0.0, scale=1.0)
    wcs = make_wcs((101, 201), angle=30.0)
    placement = place(grid, wcs, (20, 60), (30, 180))
    assert math.degrees(placement.axis_angle) == pytest.approx(30.0, abs=0.01) or math.degrees(
        placement.axis_angle
    ) == pytest.approx(-30.0, abs=0.01)
    corners = np.array(placement.outline)[::2]
    assert np.hypot(*(corners[1] - corners[0])) == pytest.approx(150, rel=1e-4)
    assert np.hypot(*(corners[2] - corners[1])) == pytest.approx(40, rel=1e-4)
    to_grid = image_to_grid(grid, wcs, (101, 201))
    x, y = to_grid.at([50.0, 51.0], [40.0, 40.0])
    assert math.atan2(y[1] - y[0], x[1] - x[0]) == pytest.approx(placement.axis_angle, abs=1e-4)


@pytest.mark.parametrize("options", WCSES)
def test_plane_on_an_image(make_wcs: Make, options: dict[str, Any]) -> None:
    shape = (70, 190)
    wcs = make_wcs(shape, **options)
    plane = Plane(level=3.0, slope_x=0.02, slope_y=-0.005, x0=11.0, y0=-40.0)
    values = plane_on_image(plane, GRID, wcs, shape)
    y, x = np.indices(shape)
    truth = plane(*GRID.wcs().world_to_pixel_values(*wcs.pixel_to_world_values(x, y)))
    np.testing.assert_allclose(values, truth, atol=1e-6)
    assert values.dtype == np.float64
    level = plane_on_image(Plane(level=0.1), GRID, None, shape)
    assert np.array_equal(level, np.full(shape, 0.1))
    with pytest.raises(NoWcsError, match="slopes"):
        plane_on_image(plane, GRID, None, shape)


def test_plane_by_the_exact_map(make_wcs: Make) -> None:
    shape = (40, 50)
    wcs = Tilted(make_wcs(shape), 0.5)
    plane = Plane(level=3.0, slope_x=0.02, slope_y=-0.005)
    to_grid = image_to_grid(GRID, wcs, shape)
    assert to_grid.pieces is None
    y, x = np.indices(shape).astype(float)
    np.testing.assert_allclose(plane_on_image(plane, GRID, wcs, shape), plane(*to_grid.exact(x, y)))


def test_what_cannot_be_mapped_is_refused(make_wcs: Make) -> None:
    far = Grid(ra=263.0, dec=5.0, angle=0.0, scale=1.0)  # the other side of the sky
    with pytest.raises(PixelMapError, match="no place on the grid"):
        place(far, make_wcs((30, 30)), (0, 30), (0, 30))
    with pytest.raises(PixelMapError, match="no pixel"):
        grid_to_image(far, make_wcs((30, 30)), (30, 30), Box(0, 0, (20, 20)))
    linear = WCS(naxis=2)
    with pytest.raises(NoWcsError, match="celestial"):
        sky_transforms(linear)


def test_a_distortion_that_does_not_invert_outside(make_wcs: Make) -> None:
    # strong enough that the series turns back outside the image: there is no inverse there, and no warning
    shape = (200, 200)
    wcs = make_wcs(shape, angle=45.0, distortion=2.5e-3)
    box = place(GRID, wcs, (0, 200), (0, 200)).box
    to_image = grid_to_image(GRID, wcs, shape, box)
    x, y = to_image.on(box)
    inside = np.isfinite(x) & (x > 0) & (x < 199) & (y > 0) & (y < 199)
    yy, xx = np.nonzero(inside)
    back = GRID.wcs(box.x0, box.y0).world_to_pixel_values(*wcs.pixel_to_world_values(x[inside], y[inside]))
    assert inside.sum() > 0.5 * 200 * 200
    assert np.hypot(back[0] - xx, back[1] - yy).max() < 1.0


def test_a_plane_on_an_image_that_is_partly_off_the_sky() -> None:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.cdelt = ["RA---AIT", "DEC--AIT"], [0, 0], [-1, 1]
    wcs.wcs.crpix = 161.0, -19.0
    grid = Grid(ra=150.0, dec=37.5, angle=0.0, scale=3600.0)
    y, x = np.indices((50, 50)).astype(float)
    with np.errstate(all="ignore"):
        sky = np.stack(wcs.wcs_pix2world(x.ravel(), y.ravel(), 0)).reshape(2, 50, 50)
    seen = np.isfinite(sky).all(axis=0)
    assert 0.4 < seen.mean() < 0.6
    plane = Plane(level=2.0, slope_x=0.1, slope_y=-0.3, x0=1.0, y0=2.0)
    found = plane_on_image(plane, grid, wcs, (50, 50))
    assert (found[~seen] == 0).all()
    np.testing.assert_allclose(found[seen], plane(*grid.to_pixel(*sky[:, seen])), atol=1e-6)


@pytest.mark.parametrize("n", [4, 5, 6, 9, 17, 33, 64])
def test_the_splines_of_a_lattice_are_scipys(n):
    from scipy.interpolate import CubicSpline  # noqa: PLC0415 - what is not imported for it

    assert pixelmap._unit_spline(n).tobytes() == np.asarray(CubicSpline(np.arange(n), np.eye(n)).c).tobytes()
