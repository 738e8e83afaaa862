"""Outlines on the sphere: their pairs against a plain test of every pair, and the awkward places of the sky."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import shapely
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_area
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from levelmatch_core.errors import NoWcsError
from levelmatch_core.images.exposure import Window
from levelmatch_core.images.wcs.directions import unit_vectors
from levelmatch_core.images.wcs.footprint import connected_sets, footprint_of, touching_pairs

MakeHeader = Callable[..., Any]


def boxes(centres: Any, half: Any, turn: Any = 0.0) -> NDArray[np.float64]:
    """Return square outlines on the sky, exact on each one's tangent plane; degrees."""
    centres = np.atleast_2d(np.asarray(centres, float))
    middle = SkyCoord(centres[:, 0], centres[:, 1], unit="deg")
    half, turn = np.broadcast_to(half, len(centres)), np.broadcast_to(turn, len(centres))
    corners = []
    for quarter in (45, 135, 225, 315):
        distance = np.degrees(np.arctan(np.radians(half) * np.sqrt(2)))
        corners.append(middle.directional_offset_by((quarter + turn) * _DEG, distance * _DEG))
    return np.stack([np.stack([corner.ra.deg, corner.dec.deg], -1) for corner in corners], 1)


_DEG = SkyCoord(0, 0, unit="deg").ra.unit


def plain_pairs(outlines: NDArray[np.float64], grow: float = 0.0) -> set[tuple[int, int]]:
    """Return touching pairs by shapely's general test, each pair of all on its own plane; `grow` in radians."""
    found = set()
    for i in range(len(outlines)):
        for j in range(i + 1, len(outlines)):
            a, b = unit_vectors(outlines[i]), unit_vectors(outlines[j])
            normal = a.mean(0) + b.mean(0)
            normal /= np.linalg.norm(normal)
            if min((a @ normal).min(), (b @ normal).min()) < 0.3:
                continue
            u = np.linalg.svd(normal[None])[2][1:]
            flat = [shapely.Polygon((v @ u.T) / (v @ normal)[:, None]) for v in (a, b)]
            if flat[0].buffer(grow).intersects(flat[1]):
                found.add((i, j))
    return found


def as_set(pairs: NDArray[np.int64]) -> set[tuple[int, int]]:
    return {(int(i), int(j)) for i, j in pairs}


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([(0.0, 0.0), (359.9, -20.0), (80.0, 89.9), (200.0, -90.0), (10.0, 60.0)]),
    st.integers(2, 14),
)
def test_pairs_equal_the_plain_test_of_every_pair(seed: int, place: tuple[float, float], n: int) -> None:
    rng = np.random.default_rng(seed)
    middle = SkyCoord(*place, unit="deg")
    centres = middle.directional_offset_by(rng.uniform(0, 360, n) * _DEG, rng.uniform(0, 0.6, n) * _DEG)
    outlines = boxes(
        np.stack([centres.ra.deg, centres.dec.deg], -1), 10 ** rng.uniform(-2, -0.5, n), rng.uniform(0, 360, n)
    )
    if rng.random() < 0.5:
        outlines = outlines[:, ::-1]
    found = as_set(touching_pairs(outlines))
    # What is nearer to touching than rounding can tell may go either way.
    assert plain_pairs(outlines, -1e-9) <= found <= plain_pairs(outlines, 1e-9)


@pytest.mark.parametrize("dec", [0.0, 45.0, -80.0])
def test_pairs_across_ra_0(dec: float) -> None:
    step = 0.19 / np.cos(np.radians(dec))
    outlines = boxes([[360 - step / 2, dec], [step / 2, dec], [step * 1.6, dec]], 0.1)
    assert as_set(touching_pairs(outlines)) == {(0, 1)}


def test_pairs_over_a_pole() -> None:
    outlines = boxes([[0, 89.95], [180, 89.95], [90, 89.95], [45, 89.0]], 0.06)
    assert as_set(touching_pairs(outlines)) == {(0, 1), (0, 2), (1, 2)}


def test_a_wide_image_among_small_ones() -> None:
    small = [[ra, dec] for ra in np.arange(-1, 1.01, 0.25) for dec in np.arange(-1, 1.01, 0.25)]
    outlines = boxes([*small, [0, 0]], [*[0.01] * len(small), 0.6])
    inside = {(i, len(small)) for i, (ra, dec) in enumerate(small) if abs(ra) < 0.6 and abs(dec) < 0.6}
    assert as_set(touching_pairs(outlines)) == inside
    assert len(inside) == 25


def test_abutting_outlines_touch_and_a_gap_parts_them() -> None:
    square = np.array([[0, 0], [0.1, 0], [0.1, 0.1], [0, 0.1]])
    assert len(touching_pairs(np.stack([square, square + np.array([0.1, 0])]))) == 1
    assert len(touching_pairs(np.stack([square, square + np.array([0.1 + 1e-6, 0])]))) == 0


def test_crossing_circles_without_crossing_outlines_are_no_pair() -> None:
    assert len(touching_pairs(boxes([[0, 0], [0.25, 0]], 0.1))) == 0


def test_outlines_of_different_lengths_and_too_few() -> None:
    triangle = ((0.0, 0.0), (0.1, 0.0), (0.0, 0.1))
    square = ((0.04, 0.04), (0.2, 0.04), (0.2, 0.2), (0.04, 0.2))
    away = ((0.06, 0.06), (0.2, 0.06), (0.2, 0.2), (0.06, 0.2))
    assert as_set(touching_pairs([triangle, square])) == {(0, 1)}
    assert as_set(touching_pairs([triangle, away])) == set()
    assert touching_pairs([triangle]).shape == touching_pairs([]).shape == (0, 2)


def test_a_hundred_thousand_footprints() -> None:
    n = 316
    y, x = np.divmod(np.arange(n * n), n)
    dec = y * 0.08 - 12
    centres = np.stack([x * 0.08 / np.cos(np.radians(dec)), dec], -1)
    corner = 0.05 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    width = np.stack([1 / np.cos(np.radians(dec)), np.ones(n * n)], -1)
    outlines = centres[:, None] + corner * width[:, None]
    start = time.process_time()
    pairs = touching_pairs(outlines)
    took = time.process_time() - start
    # Four neighbours to the right and above each, short of the edges; shear between rows adds none.
    assert len(pairs) >= 4 * (n - 1) ** 2
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert connected_sets(n * n, pairs) == (tuple(range(n * n)),)
    assert took < 5


def test_connected_sets() -> None:
    pairs = np.array([[0, 3], [3, 5], [1, 4]])
    assert connected_sets(6, pairs) == ((0, 3, 5), (1, 4), (2,))
    assert connected_sets(0, np.empty((0, 2), np.int64)) == ()
    assert connected_sets(2, np.empty((0, 2), np.int64)) == ((0,), (1,))


@pytest.mark.parametrize("angle", [0.0, 30.0, 135.0, 270.0])
@pytest.mark.parametrize(("ra", "dec"), [(10.0, 20.0), (0.0, -60.0), (150.0, 88.0)])
def test_scale_angle_and_outline(sky_header: MakeHeader, ra: float, dec: float, angle: float) -> None:
    wcs = WCS(sky_header(ra, dec, scale=0.11, angle=angle, size=100))
    found = footprint_of(wcs, (100, 100), None, "x")
    assert found.scale == pytest.approx(0.11, rel=1e-9)
    assert abs((found.angle - angle + 180) % 360 - 180) < 1e-6
    expected = wcs.all_pix2world([-0.5, 99.5, 99.5, -0.5], [-0.5, -0.5, 99.5, 99.5], 0)
    np.testing.assert_allclose(np.array(found.outline).T, expected, rtol=0, atol=1e-12)
    assert found.scale == pytest.approx(np.sqrt(proj_plane_pixel_area(wcs)) * 3600, rel=1e-9)


def test_at_the_pole_itself_the_footprint_is_finite(sky_header: MakeHeader) -> None:
    found = footprint_of(WCS(sky_header(77.0, 90.0, scale=1.0, size=64)), (64, 64), None, "x")
    assert found.scale == pytest.approx(1.0, rel=1e-6)
    assert np.isfinite(found.outline).all()
    assert np.ptp([ra for ra, _ in found.outline]) > 180


def test_a_flipped_image_keeps_its_angle(sky_header: MakeHeader) -> None:
    header = sky_header(angle=25.0)
    header["CD1_1"], header["CD2_1"] = -header["CD1_1"], -header["CD2_1"]
    found = footprint_of(WCS(header), (32, 32), None, "x")
    assert found.angle == pytest.approx(25.0, abs=1e-6)


def test_a_window_has_its_own_outline_and_the_rest_that_of_the_whole(sky_header: MakeHeader) -> None:
    wcs = WCS(sky_header(size=100))
    whole = footprint_of(wcs, (100, 100), None, "x")
    inside = footprint_of(wcs, (100, 100), Window(rows=(70, 100), columns=(0, 30), inside=True), "x")
    rest = footprint_of(wcs, (100, 100), Window(rows=(70, 100), columns=(0, 30), inside=False), "x")
    assert rest == whole
    assert (inside.scale, inside.angle) == (whole.scale, whole.angle)
    expected = wcs.all_pix2world([-0.5, 29.5, 29.5, -0.5], [69.5, 69.5, 99.5, 99.5], 0)
    np.testing.assert_allclose(np.array(inside.outline).T, expected, rtol=0, atol=1e-12)


def test_galactic_axes_become_ra_and_dec(sky_header: MakeHeader) -> None:
    header = sky_header(ra=15.0, dec=-0.67)
    header["CTYPE1"], header["CTYPE2"] = "GLON-TAN", "GLAT-TAN"
    del header["RADESYS"]
    found = footprint_of(WCS(header), (32, 32), None, "x")
    expected = SkyCoord(15.0, -0.67, unit="deg", frame="galactic").icrs
    middle = np.mean(found.outline, axis=0)
    assert SkyCoord(*middle, unit="deg").separation(expected).arcsec < 1e-3


def test_axes_in_the_other_order(sky_header: MakeHeader) -> None:
    header = sky_header(ra=50.0, dec=-30.0)
    turned = header.copy()
    turned["CTYPE1"], turned["CTYPE2"] = header["CTYPE2"], header["CTYPE1"]
    turned["CRVAL1"], turned["CRVAL2"] = header["CRVAL2"], header["CRVAL1"]
    for column in (1, 2):
        turned[f"CD1_{column}"], turned[f"CD2_{column}"] = header[f"CD2_{column}"], header[f"CD1_{column}"]
    one, two = (footprint_of(WCS(each), (32, 32), None, "x") for each in (header, turned))
    np.testing.assert_allclose(one.outline, two.outline, rtol=0, atol=1e-11)
    assert one.angle == pytest.approx(two.angle, abs=1e-6)


def test_an_image_with_corners_off_the_sky_has_no_outline_if_it_shows_a_hemisphere(sky_header: MakeHeader) -> None:
    header = sky_header(scale=40_000.0)
    header["CTYPE1"], header["CTYPE2"] = "RA---SIN", "DEC--SIN"
    assert footprint_of(WCS(header), (32, 32), None, "x").outline == ()


def test_an_image_none_of_whose_pixels_is_on_the_sky_is_refused(sky_header: MakeHeader) -> None:
    header = sky_header(scale=3e6)
    header["CTYPE1"], header["CTYPE2"] = "RA---SIN", "DEC--SIN"
    with pytest.raises(NoWcsError, match="x: none of its pixels has a place on the sky"):
        footprint_of(WCS(header), (32, 32), None, "x")


def test_an_outline_follows_edges_that_are_no_great_circles_and_the_limb_of_a_projection() -> None:
    """Every pixel of the image that is on the sky lies within it, and hardly anything else."""
    for projection, at in (("CAR", (30.0, -40.0)), ("AIT", (160.0, -20.0))):
        wcs = WCS(naxis=2)
        wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.cdelt = [f"RA---{projection}", f"DEC--{projection}"], [0, 0], [-1, 1]
        wcs.wcs.crpix = at[0] + 1, at[1] + 1
        found = footprint_of(wcs, (40, 60), None, "x").outline
        middle = np.mean(unit_vectors(found), axis=0)
        middle /= np.linalg.norm(middle)
        y, x = np.indices((40, 60)).astype(float)
        with np.errstate(all="ignore"):
            sky = np.stack(wcs.wcs_pix2world(x.ravel(), y.ravel(), 0), axis=1)
        vectors = unit_vectors(sky[np.isfinite(sky).all(axis=1)])
        basis = np.linalg.svd(middle[None])[2][1:]

        def flat(points: np.ndarray, basis: np.ndarray = basis, middle: np.ndarray = middle) -> np.ndarray:
            return (points @ basis.T) / (points @ middle)[:, None]

        outline = shapely.Polygon(flat(unit_vectors(found)))
        pixels = shapely.points(flat(vectors))
        # at the limb a pixel of a degree is seen from its side
        assert shapely.contains(outline.buffer(np.radians(2.0)), pixels).all()
        assert outline.area < 1.25 * shapely.convex_hull(shapely.union_all(pixels)).area
