"""Images in memory as inputs, written to files in a temporary folder for a run.

What reproject takes is taken: HDUs and HDULists, (array, WCS) and (array, header) pairs, NDData and CCDData.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypeGuard

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.nddata import NDData, StdDevUncertainty
from astropy.wcs import WCS
from astropy.wcs.wcsapi import BaseLowLevelWCS, HighLevelWCSWrapper
from numpy.typing import NDArray

from levelmatch_core.errors import NoWcsError, UsageError
from levelmatch_core.images.fits_headers import quiet
from levelmatch_core.images.wcs.as_sip import sip_header

CARDS = ("TELESCOP", "INSTRUME", "DETECTOR", "FILTER", "FILTER1", "FILTER2", "PUPIL", "ASN_ID", "DT_BGR")
"""Entries of `meta` that identify the instrument, band and tile of an image."""

HDUS = (fits.PrimaryHDU, fits.ImageHDU, fits.CompImageHDU)

Pair: TypeAlias = tuple[Any, Any]
"""An array, masked array or Quantity (ny, nx), and its WCS (FITS, or any of APE 14, such as gwcs) or header."""

Image: TypeAlias = NDData | fits.HDUList | fits.PrimaryHDU | fits.ImageHDU | fits.CompImageHDU | Pair
"""An image in memory; an HDUList may hold several, and is taken as a file with its HDUs would be."""


def is_image(given: object) -> TypeGuard[Image]:
    """Return whether something is an image in memory, or several in an HDUList."""
    if isinstance(given, tuple):
        return len(given) == 2 and isinstance(given[0], np.ndarray | list) and not isinstance(given[1], np.ndarray)
    return isinstance(given, (NDData, fits.HDUList, *HDUS))


def image_name(image: Image, number: int) -> str:
    """Return the name of an image: FILENAME in `meta` or the header, else its number as in `image001.fits`."""
    given = str(_meta(image).get("FILENAME", "")).strip()
    return Path(given).name if given else f"image{number:03d}.fits"


def write_images(images: Iterable[Image], folder: Path) -> list[Path]:
    """Write images as FITS files, which are then read by a run.

    Parameters
    ----------
    images
        NDData with data (ny, nx) and a WCS and, if known, mask (true for pixels not to be used), uncertainty and
        unit; HDUs with a WCS in their header; whole HDULists; pairs of an array and its WCS or header. The entries of
        `meta`, or cards, that identify instrument, band and tile are used, and FILENAME as the name of the exposure.
    folder
        The folder to write to.

    Returns
    -------
    list of Path
        The files, in the order of the images.

    Raises
    ------
    UsageError
        If an image has no such data or WCS, or two have the same name.
    """
    paths: list[Path] = []
    for number, image in enumerate(images, start=1):
        path = folder / image_name(image, number)
        if path in paths:
            message = f"two images are called {path.name} (FILENAME in meta); give them different names"
            raise UsageError(message)
        with quiet():
            _hdus(image, path.name).writeto(path, output_verify="silentfix+ignore")
        paths.append(path)
    return paths


def _meta(image: Image) -> Mapping[str, Any]:
    """Return what is known of an image beside its pixels."""
    if isinstance(image, fits.HDUList):
        own = image.filename()
        return {**({"FILENAME": own} if own else {}), **(dict(image[0].header) if len(image) else {})}
    if isinstance(image, HDUS):
        return dict(image.header)
    if isinstance(image, NDData):
        return image.meta or {}
    return dict(image[1]) if isinstance(image[1], fits.Header) else {}


def _hdus(image: Image, name: str) -> fits.HDUList:
    """Return an image as the HDUs of its file.

    Raises
    ------
    UsageError
        If it has no usable data or WCS.
    """
    if isinstance(image, fits.HDUList):
        return image
    if isinstance(image, HDUS):
        return _file(_pixels(image.data, None, name), image.header, image.header)
    where: object
    if isinstance(image, NDData):
        where = image.wcs
    else:
        values, where = image
        mask = np.ma.getmaskarray(values) if isinstance(values, np.ma.MaskedArray) else None
        unit = getattr(values, "unit", None)
        image = NDData(np.ma.getdata(getattr(values, "value", values)), mask=mask, unit=unit, meta=_meta(image))
    pixels = _pixels(image.data, image.mask, name)
    header = where if isinstance(where, fits.Header) else _wcs_header(where, (pixels.shape[0], pixels.shape[1]), name)
    hdus = _file(pixels, header, image.meta or {})
    if image.unit is not None and image.unit != u.dimensionless_unscaled:
        hdus["SCI"].header["BUNIT"] = image.unit.to_string("fits")
    if image.uncertainty is not None:
        error = image.uncertainty.represent_as(StdDevUncertainty).array
        shape, dtype = hdus["SCI"].data.shape, hdus["SCI"].data.dtype
        hdus.append(fits.ImageHDU(np.broadcast_to(error, shape).astype(dtype), name="ERR"))
    return hdus


def _pixels(values: object, mask: object, name: str) -> NDArray[np.floating]:
    """Return the pixels of an image, masked ones NaN.

    Raises
    ------
    UsageError
        If they are no image.
    """
    given = np.asarray(values)
    if given.ndim != 2 or given.dtype.kind not in "fiub":
        message = f"{name}: data of shape {given.shape} and type {given.dtype}, expected a two-dimensional image"
        raise UsageError(message)
    narrow = given.dtype.kind == "f" and given.dtype.itemsize <= 4
    data: NDArray[np.floating] = given.astype(np.float32 if narrow else np.float64)
    if mask is not None:
        data[np.broadcast_to(np.asarray(mask, dtype=bool), data.shape)] = np.nan
    return data


def _file(data: NDArray[np.floating], header: fits.Header, meta: Mapping[str, Any]) -> fits.HDUList:
    primary = fits.PrimaryHDU()
    for card in CARDS:
        value = meta.get(card)
        if isinstance(value, str | int | float):
            primary.header[card] = value
    kept = header.copy(strip=True)
    for card in ("BSCALE", "BZERO", "BLANK", "CHECKSUM", "DATASUM", "EXTNAME"):  # of pixels as they were stored
        kept.remove(card, ignore_missing=True)
    return fits.HDUList([primary, fits.ImageHDU(data, kept, name="SCI")])


def _wcs_header(given: object, shape: tuple[int, int], name: str) -> fits.Header:
    """Return a WCS as cards: exactly if FITS can say it in a header, else as SIP polynomials.

    Raises
    ------
    UsageError
        If it is no celestial WCS, or polynomials do not come close enough.
    """
    wcs: Any = getattr(given, "low_level_wcs", given)
    tables = ("cpdis1", "cpdis2", "det2im1", "det2im2")
    if isinstance(wcs, WCS) and wcs.has_celestial and all(getattr(wcs, table) is None for table in tables):
        return wcs.to_header(relax=True)
    if not isinstance(wcs, BaseLowLevelWCS) or wcs.pixel_n_dim != 2:
        message = (
            f"{name}: its wcs is {type(given).__name__}, expected a celestial WCS of two axes: astropy.wcs.WCS, gwcs "
            f"or another of APE 14, or a FITS header"
        )
        raise UsageError(message)
    try:
        return sip_header(wcs if isinstance(wcs, WCS) else HighLevelWCSWrapper(wcs), shape)
    except NoWcsError as error:
        message = f"{name}: {error}"
        raise UsageError(message) from error
