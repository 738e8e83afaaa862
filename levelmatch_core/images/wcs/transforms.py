"""The way from an image's pixels to the sky and back, by whatever kind of WCS: FITS, or any of APE 14, such as gwcs."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from astropy.coordinates import ICRS, BaseCoordinateFrame, SkyCoord
from astropy.wcs import WCS
from astropy.wcs.utils import wcs_to_celestial_frame
from astropy.wcs.wcsapi import BaseHighLevelWCS, HighLevelWCSWrapper
from numpy.typing import NDArray

from levelmatch_core.errors import NoWcsError

INVERSE_TOLERANCE = 1e-6
"""To this the inverse of a FITS distortion is iterated (pixels)."""

INVERSE_STEPS = 40
"""Most steps of that; what has not come to rest by then is found by the way back."""

Floats = NDArray[np.float64]
Transform = Callable[[Floats, Floats], Floats]
"""From x, y of any one shape to a (2, ...) array; NaN where there is no counterpart."""

_ICRS = ICRS()

_SYSTEMS = frozenset({"", "ICRS", "FK5", "FK4", "FK4-NO-E"})
"""Values of RADESYS that astropy has a frame for."""

_SKY_AXES = (("RA", "DEC"), ("GLON", "GLAT"), ("ELON", "ELAT"))
"""Longitude and latitude of each frame, as CTYPE begins with them."""

AnyWcs: TypeAlias = WCS | BaseHighLevelWCS


def sky_transforms(wcs: AnyWcs) -> tuple[Transform, Transform]:
    """Return pixel -> (RA, Dec) and back, in ICRS degrees.

    Raises
    ------
    NoWcsError
        If the WCS is not celestial with two axes.
    """
    if isinstance(wcs, WCS):
        if celestial_axes(wcs) is None:
            message = f"expected a celestial WCS of two axes, found {wcs.naxis} axes of types {list(wcs.wcs.ctype)}"
            raise NoWcsError(message)
        return _fits_transforms(wcs)
    return _general_transforms(wcs)


def celestial_axes(wcs: WCS) -> tuple[int, int] | None:
    """Return which of the two axes of a FITS WCS are longitude and latitude; None where it is not celestial.

    wcslib names none where both are looked up in a table (-TAB): their types tell.
    """
    if wcs.naxis != 2:
        return None
    if wcs.has_celestial:
        return int(wcs.wcs.lng), int(wcs.wcs.lat)
    kinds = [str(kind).partition("-")[0] for kind in wcs.wcs.ctype]
    return next(((kinds.index(a), kinds.index(b)) for a, b in _SKY_AXES if {a, b} == set(kinds)), None)


def frame_of(wcs: WCS) -> BaseCoordinateFrame:
    """Return the celestial frame of a FITS WCS; making one takes longer than a lattice's way to the sky."""
    plain = wcs.wcs.radesys == "ICRS" and wcs.wcs.lngtyp == "RA"
    if plain:
        return _ICRS
    system = str(wcs.wcs.radesys).strip()
    if wcs.wcs.lngtyp == "RA" and system not in _SYSTEMS:
        wcs = wcs.deepcopy()
        # of "J2000" and the like the equinox tells, as where the card is missing
        wcs.wcs.radesys = system.upper() if system.upper() in _SYSTEMS else ""
        wcs.wcs.set()
    if wcs.has_celestial:
        return wcs_to_celestial_frame(wcs)
    named = WCS(naxis=2)
    named.wcs.ctype = [f"{str(kind).partition('-')[0]:-<4}-TAN" for kind in wcs.wcs.ctype]
    named.wcs.radesys, named.wcs.equinox = wcs.wcs.radesys, wcs.wcs.equinox
    named.wcs.dateobs = wcs.wcs.dateobs
    return wcs_to_celestial_frame(named)


def world_transforms(wcs: WCS) -> tuple[Transform, Transform]:
    """Return pixel -> the header's own world coordinates, degrees in its order, and back, of a FITS WCS.

    As astropy's `all_pix2world` and `all_world2pix` (whose way back is the same iteration: each step takes off by how
    much the distorted position misses), at a fraction of what these cost for a handful of positions.
    """
    distorted = wcs.has_distortion

    def to_world(x: Floats, y: Floats) -> Floats:
        return _columns(wcs.all_pix2world(_rows(x, y), 0), x)

    def to_pixel(first: Floats, second: Floats) -> Floats:
        flat = wcs.wcs_world2pix(_rows(first, second), 0)
        if not distorted or flat.size == 0:
            return _columns(flat, first)
        pixel = flat.copy()
        with np.errstate(all="ignore"):
            for _ in range(INVERSE_STEPS):
                step = wcs.pix2foc(pixel, 0) - flat
                pixel -= step
                square = np.einsum("ij,ij->i", step, step)
                if not np.any(square >= INVERSE_TOLERANCE**2):  # NaN is lost anyway
                    break
        return _columns(pixel, first)

    return to_world, to_pixel


def _rows(x: Floats, y: Floats) -> Floats:
    return np.stack([np.ravel(x), np.ravel(y)], axis=1)


def _columns(rows: Floats, like: Floats) -> Floats:
    return np.ascontiguousarray(rows.T).reshape(2, *np.shape(like))


def _fits_transforms(wcs: WCS) -> tuple[Transform, Transform]:
    frame = frame_of(wcs)
    turned = not isinstance(frame, ICRS)
    swapped = celestial_axes(wcs) == (1, 0)
    to_world, from_world = world_transforms(wcs)

    def to_sky(x: Floats, y: Floats) -> Floats:
        world = to_world(x, y)
        sky = world[::-1] if swapped else world
        return _turn(sky, frame, ICRS()) if turned else sky

    def to_pixel(ra: Floats, dec: Floats) -> Floats:
        sky = _turn(np.stack([ra, dec]), ICRS(), frame) if turned else (ra, dec)
        return from_world(*(sky[::-1] if swapped else sky))

    return to_sky, to_pixel


def _general_transforms(wcs: BaseHighLevelWCS) -> tuple[Transform, Transform]:
    high = wcs if isinstance(wcs, BaseHighLevelWCS) else HighLevelWCSWrapper(wcs)
    probe = high.low_level_wcs
    kinds = {entry[0] for entry in probe.world_axis_object_classes.values()}
    if probe.pixel_n_dim != 2 or probe.world_n_dim != 2 or kinds != {SkyCoord}:
        message = f"expected a celestial WCS of two axes, found {list(probe.world_axis_physical_types)}"
        raise NoWcsError(message)

    def to_sky(x: Floats, y: Floats) -> Floats:
        sky = high.pixel_to_world(x, y).icrs
        return np.stack([sky.ra.deg, sky.dec.deg])

    def to_pixel(ra: Floats, dec: Floats) -> Floats:
        good = np.isfinite(ra) & np.isfinite(dec)
        pixel = np.full((2, *np.shape(ra)), np.nan)
        sky = SkyCoord(ra[good], dec[good], unit="deg", frame="icrs")
        first = np.stack(high.world_to_pixel(sky))
        # A gwcs's way back is a fit of its own, off by some hundredths of a pixel, nearly the same at neighbouring
        # points: what it makes of the way there tells its error.
        again = np.stack(high.world_to_pixel(high.pixel_to_world(*first)))
        pixel[:, good] = 2 * first - again
        return pixel

    return to_sky, to_pixel


def _turn(sky: Floats, source: object, target: object) -> Floats:
    # a latitude that is not finite would be refused; its longitude stays NaN and marks it
    latitude = np.where(np.isfinite(sky[1]), sky[1], 0.0)
    turned = SkyCoord(sky[0], latitude, unit="deg", frame=source).transform_to(target).spherical
    return np.stack([turned.lon.deg, np.where(np.isfinite(sky[1]), turned.lat.deg, np.nan)])
