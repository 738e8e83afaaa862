"""Pixel areas against what geometry says they are, and the units that they matter for."""

import numpy as np
import pytest
from astropy.wcs import WCS

from levelmatch_core.images.wcs.pixel_area import area_range, areas_at, differ, is_per_pixel, relative_areas
from levelmatch_core.images.wcs.transforms import sky_transforms


def wcs_of(scale=1.0, projection="TAN", sip=0.0, dec=30.0):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = [f"RA---{projection}", f"DEC--{projection}"]
    wcs.wcs.crval = [10.0, dec]
    wcs.wcs.crpix = [100.5, 80.5]
    wcs.wcs.cdelt = [-scale / 3600, scale / 3600]
    if sip:
        wcs.wcs.ctype = [f"{name}-SIP" for name in wcs.wcs.ctype]
        a, b = np.zeros((3, 3)), np.zeros((3, 3))
        a[2, 0], b[0, 2] = sip, -sip / 2
        from astropy.wcs import Sip  # noqa: PLC0415 - here only

        wcs.sip = Sip(a, b, None, None, wcs.wcs.crpix)
    wcs.wcs.set()
    return wcs


FLUXES = """DN; DN/s; adu; COUNTS; counts/s; ELECTRONS/S; e-; e-/s; electron s-1; Jy; mJy; uJy/pixel; Jy/pix; DN/pixel;
erg/s/cm2; W m-2; nanomaggy; ct; photon / s; 1e-17 erg/(s cm2);
Jansky; microJy; milliJansky; maggies; fW/m2; Watts/m2"""
OTHERS = """MJy/sr; Jy/beam; DN/arcsec2; mag; mag/arcsec**2; K; counts/s/arcsec^2; erg/s/cm2/arcsec2;
electron/s/pixel**2; DN/pix^2; DN pixel-2; Jy deg-2; unknown; nW m-2 sr-1; """


@pytest.mark.parametrize("unit", FLUXES.split(";"))
def test_a_flux_in_each_pixel(unit):
    assert is_per_pixel(unit.strip())


@pytest.mark.parametrize("unit", OTHERS.split(";"))
def test_anything_else(unit):
    assert not is_per_pixel(unit.strip())


def test_the_area_of_gnomonic_pixels_shrinks_as_the_cube_of_the_cosine():
    wcs = wcs_of(scale=200.0, dec=-60.0)
    shape = (160, 200)
    found = relative_areas(sky_transforms(wcs)[0], shape, 200.0**2)
    y, x = np.mgrid[: shape[0], : shape[1]]
    tangent = np.hypot(x - 99.5, y - 79.5) * np.radians(200.0 / 3600)
    expected = (1 + tangent**2) ** -1.5
    assert 1 - expected.min() > 0.01  # the field is wide enough to tell
    np.testing.assert_allclose(found, expected, rtol=3e-6)
    assert area_range(sky_transforms(wcs)[0], (160, 200), None, "x") == pytest.approx(
        (expected.min() * 200**2, expected.max() * 200**2), rel=1e-3
    )


def test_distorted_pixels_against_the_jacobian():
    sip = 4e-4
    wcs = wcs_of(scale=0.5, sip=sip)
    y, x = np.mgrid[:160, :200]
    # u' = u + sip u^2, v' = v - sip/2 v^2: the determinant of its derivatives
    expected = np.abs((1 + 2 * sip * (x - 99.5)) * (1 - sip * (y - 79.5)))
    found = relative_areas(sky_transforms(wcs)[0], (160, 200), 0.25)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_interpolated_areas_are_those_of_every_pixel():
    to_sky = sky_transforms(wcs_of(scale=60.0, sip=1e-4))[0]
    y, x = np.mgrid[:160, :200].astype(float)
    np.testing.assert_allclose(relative_areas(to_sky, (160, 200), 3600.0) * 3600.0, areas_at(to_sky, x, y), rtol=2e-6)
    assert relative_areas(to_sky, (3, 2), 3600.0).shape == (3, 2)


def test_how_much_areas_differ():
    assert differ([]) == 0
    assert differ([None, None]) == 0
    assert differ([(1.0, 1.0005), None, (0.999, 1.0)]) == pytest.approx(1.0005 / 0.999 - 1)
