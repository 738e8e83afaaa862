"""Parts of the sky that are excluded from all measurements, given as DS9 regions or as a FITS mask with a WCS."""

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales
from numpy.typing import NDArray

from levelmatch_core.errors import SettingsError
from levelmatch_core.images.given import SkyMask

if TYPE_CHECKING:
    from regions import SkyRegion

Mask = NDArray[np.bool_]


def excluded(mask: SkyMask, wcs: WCS, shape: tuple[int, int]) -> Mask:
    """Return a mask that is True for the pixels of an image that are excluded.

    Parameters
    ----------
    mask
        The user's file. DS9 regions have to be in sky coordinates; one that begins with `-` is included again. In a
        FITS mask all pixels that are neither 0 nor NaN are excluded.
    wcs
        WCS of the image, any that supports APE 14.
    shape
        Rows, columns of the image.

    Raises
    ------
    SettingsError
        If the file contains neither.
    """
    rows, columns = np.indices(shape)
    sky = wcs.pixel_to_world(columns, rows).icrs
    found = load_mask(mask)
    if isinstance(found, tuple):
        image, its_wcs = found
        x, y = (np.rint(np.nan_to_num(value, nan=-1e9)).astype(np.int64) for value in its_wcs.world_to_pixel(sky))
        inside = (x >= 0) & (y >= 0) & (x < image.shape[1]) & (y < image.shape[0])
        marked = np.zeros(shape, dtype=bool)
        marked[inside] = image[y[inside], x[inside]]
        return marked
    from regions import PixCoord  # noqa: PLC0415 - slow to import, and few runs exclude regions

    plane = _tangent(wcs, shape)
    places = PixCoord(*plane.world_to_pixel(sky))
    marked = np.zeros(shape, dtype=bool)
    for region in found:
        inside = region.to_pixel(plane).contains(places)
        # an excluding region contains everything outside of it
        marked = marked | inside if region.meta.get("include", True) else marked & inside
    return marked


def _tangent(wcs: WCS, shape: tuple[int, int]) -> WCS:
    """Return a tangent plane about the centre of the image, without distortions, on which regions are drawn."""
    middle = wcs.pixel_to_world((shape[1] - 1) / 2, (shape[0] - 1) / 2).icrs
    right = wcs.pixel_to_world((shape[1] + 1) / 2, (shape[0] - 1) / 2).icrs
    plane = WCS(naxis=2)
    plane.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    plane.wcs.crval = [middle.ra.deg, middle.dec.deg]
    plane.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
    step = float(middle.separation(right).deg)
    plane.wcs.cdelt = [-step, step]
    return plane


@lru_cache(maxsize=4)
def load_mask(mask: SkyMask) -> "list[SkyRegion] | tuple[Mask, WCS]":
    """Return the excluded areas of a file: regions on the sky, or an image and its WCS. A file is read only once.

    Raises
    ------
    SettingsError
        If it cannot be read, or contains neither.
    """
    path = mask.path
    with path.open("rb") as stream:
        is_fits = stream.read(9) == b"SIMPLE  ="
    if not is_fits:
        return _regions(mask)
    with fits.open(path, memmap=False) as hdus:
        for hdu in hdus:
            if isinstance(hdu, fits.PrimaryHDU | fits.ImageHDU | fits.CompImageHDU) and hdu.header.get("NAXIS") == 2:
                wcs = WCS(hdu.header)
                if wcs.has_celestial and np.all(proj_plane_pixel_scales(wcs) > 0):
                    return np.nan_to_num(np.asarray(hdu.data, dtype=float)) != 0, wcs
    message = f"exclude_regions {path}: it contains no two-dimensional image with a celestial WCS"
    raise SettingsError(message)


def _regions(mask: SkyMask) -> "list[SkyRegion]":
    from regions import Regions, SkyRegion  # noqa: PLC0415 - as above

    try:
        found = list(Regions.read(mask.path, format="ds9"))
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        message = f"exclude_regions {mask.path}: neither FITS nor DS9 regions ({error})"
        raise SettingsError(message) from error
    flat = [type(region).__name__ for region in found if not isinstance(region, SkyRegion)]
    if flat or not found:
        what = f"{flat[0]} is in pixels" if flat else "it contains no region"
        message = f"exclude_regions {mask.path}: {what}; expected DS9 regions on the sky, such as 'icrs; circle(...)'"
        raise SettingsError(message)
    return found
