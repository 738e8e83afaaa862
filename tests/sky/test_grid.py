from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import given
from hypothesis import strategies as st

from levelmatch_core.errors import FieldTooWideError
from levelmatch_core.images.exposure import Exposure, Field
from levelmatch_core.images.wcs.directions import unit_vectors
from levelmatch_core.sky.grid import LATTICE, Grid, choose_grid, serves, snap

Make = Callable[..., Exposure]


def field(*exposures: Exposure) -> Field:
    return Field(name="f_1", instrument="generic", band="f", unit="", exposures=exposures)


def distance(one: tuple[float, float], other: tuple[float, float]) -> float:
    return float(SkyCoord(*one, unit="deg").separation(SkyCoord(*other, unit="deg")).deg)


def test_first_pixel_is_the_tangent_point_and_cutouts_lie_at_integer_offsets() -> None:
    grid = Grid(ra=210.25, dec=54.0, angle=-35.0, scale=0.11)
    np.testing.assert_allclose(grid.wcs().pixel_to_world_values(0, 0), (210.25, 54.0), rtol=0, atol=1e-12)
    here = grid.wcs().pixel_to_world_values(-1000 + 17, 250 + 3)
    there = grid.wcs(-1000, 250).pixel_to_world_values(17, 3)
    np.testing.assert_allclose(there, here, rtol=0, atol=1e-12)


@pytest.mark.parametrize("angle", [-45.0, 0.0, 35.0])
@pytest.mark.parametrize(("ra", "dec"), [(210.25, 54.0), (0.0, 0.0), (83.5, -89.5), (0.0, 90.0), (0.0, -90.0)])
def test_positions_are_those_of_the_wcs(angle: float, ra: float, dec: float) -> None:
    grid = Grid(ra=ra, dec=dec, angle=angle, scale=3.1)
    x, y = np.random.default_rng(1).uniform(-7000, 7000, (2, 20, 30))  # up to 6 degrees
    x[0, 0] = y[0, 0] = 0.0
    ours, theirs = grid.to_sky(x, y), np.stack(grid.wcs().pixel_to_world_values(x, y))
    assert ours.shape == (2, 20, 30)
    assert np.all((ours[0] >= 0) & (ours[0] < 360))
    np.testing.assert_allclose(
        unit_vectors(ours.reshape(2, -1).T), unit_vectors(theirs.reshape(2, -1).T), rtol=0, atol=1e-14
    )
    np.testing.assert_allclose(grid.to_pixel(*theirs), grid.wcs().world_to_pixel_values(*theirs), rtol=0, atol=1e-8)
    np.testing.assert_allclose(grid.to_pixel(*ours), (x, y), rtol=0, atol=1e-8)


def test_the_other_hemisphere_has_no_place_on_the_grid() -> None:
    grid = Grid(ra=210.0, dec=54.0, angle=10.0, scale=3.1)
    x, _ = grid.to_pixel(np.array([30.0, 210.0, 210.0, np.nan]), np.array([-54.0, -37.0, -35.0, 0.0]))
    assert np.isnan(x).tolist() == [True, True, False, True]


@pytest.mark.parametrize("angle", [-45.0, 0.0, 30.0])
def test_angle_is_that_of_y_east_of_north_and_pixels_have_the_scale(angle: float) -> None:
    grid = Grid(ra=10.0, dec=-30.0, angle=angle, scale=2.0)
    origin, up, right = (SkyCoord(*grid.wcs().pixel_to_world_values(*p), unit="deg") for p in ((0, 0), (0, 1), (1, 0)))
    assert origin.position_angle(up).wrap_at("180d").deg == pytest.approx(angle, abs=1e-3)
    assert origin.separation(up).arcsec == pytest.approx(2.0, rel=1e-6)
    # as on the sky: east is to the left of north
    assert origin.position_angle(right).wrap_at("180d").deg == pytest.approx((angle - 90 + 180) % 360 - 180, abs=1e-3)


def test_cards_rebuild_the_grid_exactly_and_are_a_wcs() -> None:
    grid = Grid(ra=0.1 + 0.2, dec=-1 / 3, angle=-25.0, scale=0.0639)
    cards = grid.header_cards(-7, 12)
    assert Grid.from_header_cards(cards) == grid
    wcs = WCS(fits.Header(cards))
    expected = grid.wcs(-7, 12).pixel_to_world_values(5, 6)
    np.testing.assert_allclose(wcs.pixel_to_world_values(5, 6), expected, rtol=0, atol=1e-11)


@given(ra=st.floats(0, 360, exclude_max=True), dec=st.floats(-90, 90))
def test_tangent_point_is_on_the_lattice_and_near(ra: float, dec: float) -> None:
    snapped = snap(unit_vectors([(ra, dec)])[0])
    assert distance((ra, dec), snapped) < 0.75 * LATTICE
    assert snapped[1] / LATTICE == round(snapped[1] / LATTICE)
    assert 0 <= snapped[0] < 360
    assert snap(unit_vectors([snapped])[0]) == pytest.approx(snapped, abs=1e-12)


@pytest.mark.parametrize("dec", [90.0, -90.0, 89.9])
def test_poles(make_bare: Make, dec: float) -> None:
    exposures = [make_bare(f"e{i}", ra=90.0 * i, dec=np.copysign(89.9, dec), angle=90.0 * i) for i in range(4)]
    grid = choose_grid(field(*exposures))
    assert abs(grid.dec) == 90.0
    assert grid.ra == 0.0
    assert serves(grid, field(*exposures))


def test_angle_near_the_pole_is_that_on_the_plane(make_bare: Make) -> None:
    # all images lie the same way on the plane about the pole, so their position angles all differ
    exposures = [make_bare(f"e{i}", ra=ra, dec=89.5, angle=20.0 + ra) for i, ra in enumerate((0.0, 33.0, 66.0, 120.0))]
    grid = choose_grid(field(*exposures))
    assert (grid.angle - 20.0 - grid.ra) % 90 == pytest.approx(0.0)
    exposures = [make_bare(f"e{i}", ra=ra, dec=-89.5, angle=20.0 - ra) for i, ra in enumerate((0.0, 33.0, 66.0, 120.0))]
    grid = choose_grid(field(*exposures))
    assert (grid.angle - 20.0 + grid.ra) % 90 == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("angles", "expected"),
    [
        ([0.0], 0.0),
        ([44.0, 46.0, 43.9], 45.0 - 90.0),
        ([89.0, 1.0, 91.0], 0.0),
        ([268.0, 270.0, 359.0], 0.0),
        ([12.0, 12.0, 80.0], 10.0),
        ([-44.0, 136.1, 46.0], -45.0),
    ],
)
def test_median_angle_modulo_ninety(make_bare: Make, angles: list[float], expected: float) -> None:
    grid = choose_grid(field(*(make_bare(f"e{i}", angle=angle) for i, angle in enumerate(angles))))
    assert grid.angle == expected


@pytest.mark.parametrize("seed", range(12))
def test_order_does_not_matter(make_bare: Make, seed: int) -> None:
    rng = np.random.default_rng(seed)
    order = rng.permutation(5)
    exposures = [
        make_bare(f"e{i}", ra=float(rng.uniform(-1, 1)) % 360, dec=float(rng.uniform(-1, 1)), angle=float(a))
        for i, a in enumerate(rng.uniform(0, 360, 5))
    ]
    assert choose_grid(field(*exposures)) == choose_grid(field(*(exposures[i] for i in order)))


def test_across_right_ascension_zero(make_bare: Make) -> None:
    grid = choose_grid(field(make_bare("a", ra=359.9, dec=0.1), make_bare("b", ra=0.1, dec=-0.1)))
    assert (grid.ra, grid.dec) == (0.0, 0.0)


def test_scale_is_the_median_to_three_digits(make_bare: Make) -> None:
    exposures = [make_bare(f"e{i}", scale=scale) for i, scale in enumerate((0.110987, 0.111234, 0.2))]
    assert choose_grid(field(*exposures)).scale == 0.111


def test_one_far_exposure_does_not_move_the_grid(make_bare: Make) -> None:
    exposures = [make_bare(f"e{i}", ra=30 + 0.1 * (i % 3), dec=10 + 0.1 * (i // 3), angle=31.0) for i in range(9)]
    grid = choose_grid(field(*exposures))
    assert choose_grid(field(*exposures, make_bare("new", ra=33.0, dec=12.0, angle=70.0))) == grid


def test_too_wide_a_field_is_refused(make_bare: Make) -> None:
    with pytest.raises(FieldTooWideError, match=r"f_1: 2 exposures are 1[12]\.\d degrees wide"):
        choose_grid(field(make_bare("a", ra=0.0, dec=0.0), make_bare("b", ra=11.5, dec=0.0)))
    with pytest.raises(FieldTooWideError, match="hemisphere"):
        choose_grid(field(make_bare("a", ra=0.0, dec=0.0), make_bare("b", ra=180.0, dec=0.0)))
    # many on one side and one far: the width counts, not the distance from the median
    crowd = [make_bare(f"e{i}", ra=0.01 * i, dec=0.0) for i in range(5)]
    assert choose_grid(field(*crowd, make_bare("z", ra=9.0, dec=0.0))).ra == 0.0


def test_a_grid_serves_while_it_may(make_bare: Make) -> None:
    grid = Grid(ra=10.0, dec=20.0, angle=0.0, scale=7.2)
    assert serves(grid, field(make_bare("a")))
    assert serves(grid, field(make_bare("a", dec=25.5)))
    assert not serves(grid, field(make_bare("a", dec=26.5)))
    assert serves(grid, field(make_bare("a", scale=7.2 * 1.15)))
    assert not serves(grid, field(make_bare("a", scale=7.2 * 1.25)))
    assert not serves(grid, field(make_bare("a", scale=7.2 / 1.25)))


def test_paths_play_no_part(make_bare: Make) -> None:
    assert choose_grid(field(make_bare("a"))) == choose_grid(field(make_bare("a", path=Path("/elsewhere/b"))))


def test_too_wide_a_field_says_what_can_help(make_bare: Make) -> None:
    """Fewer files help where each is small, not where one alone is too wide: its pixel scale is looked at first."""
    with pytest.raises(FieldTooWideError, match=r"with fewer files at a time$"):
        choose_grid(field(make_bare("a", ra=0.0, dec=0.0), make_bare("b", ra=11.5, dec=0.0)))
    corners = ((0.0, -4.0), (8.0, -4.0), (8.0, 4.0), (0.0, 4.0))
    wide = field(make_bare("wide", footprint=corners), make_bare("b", ra=5.0, dec=0.0))
    with pytest.raises(FieldTooWideError, match=r"wide alone spans .*pixel scale") as caught:
        choose_grid(wide)
    assert "fewer files" not in str(caught.value)
