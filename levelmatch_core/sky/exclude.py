"""Parts of the sky that are left out before anything is measured: DS9 regions, or a FITS mask on the sky."""

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales
from numpy.typing import NDArray

if TYPE_CHECKING:
    from regions import SkyRegion

from levelmatch_core.errors import SettingsError
from levelmatch_core.images.given import SkyMask

Mask = NDArray[np.bool_]


def excluded(mask: SkyMask, wcs: WCS, shape: tuple[int, int]) -> Mask:
    """Return True where an image's pixels lie in what is left out.

    Parameters
    ----------
    mask
        The user's file. DS9 regions have to be on the sky; one that begins with `-` takes its part back. Of a FITS
        mask all pixels count that are neither 0 nor NaN.
    wcs
        Of the image, any that astropy's shared interface knows.
    shape
        Rows, columns of the image.

    Raises
    ------
    SettingsError
        If the file holds neither.
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
    # here and no earlier: regions take 0.2 s to import, and few runs have any
    from regions import PixCoord  # noqa: PLC0415

    plane = _tangent(wcs, shape)
    places = PixCoord(*plane.world_to_pixel(sky))
    marked = np.zeros(shape, dtype=bool)
    for region in found:
        inside = region.to_pixel(plane).contains(places)
        # a region to be taken back says of all else that it is inside
        marked = marked | inside if region.meta.get("include", True) else marked & inside
    return marked


def _tangent(wcs: WCS, shape: tuple[int, int]) -> WCS:
    """Return a tangent plane about the image's middle, without its distortions: regions are drawn on that."""
    middle = wcs.pixel_to_world((shape[1] - 1) / 2, (shape[0] - 1) / 2).icrs
    beside = wcs.pixel_to_world((shape[1] + 1) / 2, (shape[0] - 1) / 2).icrs
    plane = WCS(naxis=2)
    plane.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    plane.wcs.crval = [middle.ra.deg, middle.dec.deg]
    plane.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
    step = float(middle.separation(beside).deg)
    plane.wcs.cdelt = [-step, step]
    return plane


@lru_cache(maxsize=4)
def load_mask(mask: SkyMask) -> "list[SkyRegion] | tuple[Mask, WCS]":
    """Return what a file leaves out: regions on the sky, or an image and its WCS. A file is read once.

    Raises
    ------
    SettingsError
        If it cannot be read, or holds neither.
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
    message = f"exclude_regions {path}: no two-dimensional image with a celestial WCS in it"
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
        what = f"{flat[0]} is in pixels" if flat else "it holds no region"
        message = f"exclude_regions {mask.path}: {what}; expected DS9 regions on the sky, such as 'icrs; circle(...)'"
        raise SettingsError(message)
    return found
