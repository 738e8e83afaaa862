"""Pixel areas on the sky: what data in flux per pixel must be divided by before they are compared.

Surface brightness does not care how large a pixel is; counts and fluxes do. Where the pixels of a field differ by more
than :data:`LIMIT` in area, within an image or between images, such data are matched per area: divided by the ratio of
each pixel's area to the nominal one, that of the field's grid, and the corrections are multiplied by it when they are
put on the images.
"""

import re
from collections.abc import Iterable

import numpy as np

from levelmatch_core.errors import NoWcsError
from levelmatch_core.images.exposure import Window
from levelmatch_core.images.fits_headers import FAULTS, quiet
from levelmatch_core.images.wcs.directions import unit_vectors
from levelmatch_core.images.wcs.transforms import Floats, Transform

LIMIT = 1e-3
"""Relative difference of pixel areas up to which they count as the same."""

ACCURACY = 1e-6
"""Largest relative error of interpolated areas."""

_STEPS = (64, 16)
"""Spacings of the lattice on which areas are computed, tried in turn, pixels; else every pixel is computed."""

_SAMPLES = 9
"""Places along each axis at which the range of areas is taken."""

_BAND_PIXELS = 1 << 18

_COUNTS = re.compile("dn|adu|cts?|cps|counts?|e|electrons?|photons?|ph", re.IGNORECASE)
_FLUX = re.compile(
    "(milli|micro|nano|mega|[mknuµ])?(jy|janskys?)|ergs?|([afpnum]|milli)?w(atts?)?|(nano)?magg(y|ies)|nmgy",
    re.IGNORECASE,
)
_AREA = re.compile("sr|steradians?|a(rc)?sec|a(rc)?min|sqarcsec|deg|rad|mas|beam", re.IGNORECASE)
_PIXEL_AREA = re.compile(r"pix(el)?s?\s*(\*\*|\^)?\s*\(?\s*-?2")


def is_per_pixel(unit: str) -> bool:
    """Return whether a unit, as BUNIT has it, is a flux or a count in each pixel.

    Whether counts are one in truth, :mod:`levelmatch_core.images.contents.pixel_values` decides.

    It is where it names counts, electrons, photons, Jansky, erg, watt or maggies and no area on the sky: neither sr,
    arcsec2, beam and the like, nor pixel2. A missing unit, and one of any other kind (magnitudes, kelvin), is not.
    """
    return _names(unit, _FLUX) or is_counts(unit)


def is_counts(unit: str) -> bool:
    """Return whether a unit, as BUNIT has it, is counts, electrons or photons (or such a second) and no area."""
    return _names(unit, _COUNTS) and not _names(unit, _FLUX)


def _names(unit: str, kind: re.Pattern[str]) -> bool:
    """Return whether a unit names one of a kind, and no area on the sky."""
    words = re.findall(r"[A-Za-zµ]+", unit)
    areal = any(_AREA.fullmatch(word) for word in words) or _PIXEL_AREA.search(unit.lower())
    return any(kind.fullmatch(word) for word in words) and not areal


def area_range(to_sky: Transform, shape: tuple[int, int], window: Window | None, shown: str) -> tuple[float, float]:
    """Return the least and the largest area of the pixels of an image, or of the inside of a window of it, arcsec2.

    Parameters
    ----------
    to_sky
        The image's way to the sky.
    shape
        Rows, columns of the image.
    window
        The part of the image, if it is one.
    shown
        What to call the image in messages.

    Raises
    ------
    NoWcsError
        If there is none that is finite and positive.
    """
    rows, columns = (window.rows, window.columns) if window and window.inside else ((0, shape[0]), (0, shape[1]))
    x, y = np.meshgrid(np.linspace(columns[0], columns[1] - 1, _SAMPLES), np.linspace(rows[0], rows[1] - 1, _SAMPLES))
    try:
        with quiet(), np.errstate(all="ignore"):
            areas = areas_at(to_sky, x, y)
    except FAULTS as error:
        message = f"{shown}: its WCS cannot be used ({' '.join(str(error).split())}); solve its astrometry again"
        raise NoWcsError(message) from error
    good = areas[np.isfinite(areas) & (areas > 0)]
    if good.size == 0:
        message = f"{shown}: its WCS gives pixels without area; solve its astrometry again"
        raise NoWcsError(message)
    return float(good.min()), float(good.max())


def differ(ranges: Iterable[tuple[float, float] | None]) -> float:
    """Return by how much the largest of all areas exceeds the least, relative; 0 where none is known."""
    known = [one for one in ranges if one is not None]
    return max(most for _, most in known) / min(least for least, _ in known) - 1 if known else 0.0


def relative_areas(to_sky: Transform, shape: tuple[int, int], nominal: float) -> Floats:
    """Return each pixel's area over the nominal one, (ny, nx).

    Parameters
    ----------
    to_sky
        The image's way to the sky.
    shape
        Rows, columns of the image.
    nominal
        arcsec2.
    """
    from scipy.interpolate import RectBivariateSpline  # noqa: PLC0415 - half a second that a run without changes can spare

    for step in _STEPS:
        x, y = (np.linspace(0, size - 1, max(4, -(-(size - 1) // step) + 1)) for size in (shape[1], shape[0]))
        if min(shape) < 4:
            break
        middles = np.meshgrid((x[1:] + x[:-1]) / 2, (y[1:] + y[:-1]) / 2)
        nodes, between = areas_at(to_sky, *np.meshgrid(x, y)), areas_at(to_sky, *middles)
        if not (np.isfinite(nodes).all() and np.isfinite(between).all()):
            break
        spline = RectBivariateSpline(y, x, nodes, kx=3, ky=3, s=0)
        error = np.abs(spline(middles[1], middles[0], grid=False) / between - 1).max()
        if error < ACCURACY:
            return np.asarray(spline(np.arange(shape[0]), np.arange(shape[1]))) / nominal
    rows = max(1, _BAND_PIXELS // shape[1])
    bands = (np.mgrid[low : min(low + rows, shape[0]), 0 : shape[1]].astype(float) for low in range(0, shape[0], rows))
    return np.concatenate([areas_at(to_sky, x, y) for y, x in bands]) / nominal


def areas_at(to_sky: Transform, x: Floats, y: Floats) -> Floats:
    """Return the areas, arcsec2, of pixels about x, y: half the cross product of their diagonals on the sphere."""
    corners = []
    for dx, dy in ((-0.5, -0.5), (0.5, 0.5), (0.5, -0.5), (-0.5, 0.5)):
        corners.append(unit_vectors(np.moveaxis(to_sky(x + dx, y + dy), 0, -1)))
    first, second = corners[1] - corners[0], corners[3] - corners[2]
    halves = np.linalg.norm(np.cross(first, second), axis=-1) / 2
    return np.asarray(halves * np.degrees(1.0) ** 2 * 3600.0**2)
