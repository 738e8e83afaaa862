"""Images in memory as inputs: astropy's NDData and CCDData, written to files in a temporary folder for a run."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.nddata import NDData, StdDevUncertainty
from astropy.wcs import WCS

from levelmatch_core.errors import UsageError

CARDS = ("TELESCOP", "INSTRUME", "DETECTOR", "FILTER", "FILTER1", "FILTER2", "PUPIL", "ASN_ID", "DT_BGR")
"""Entries of `meta` that identify the instrument, band and tile of an image."""


def name_of(image: NDData, number: int) -> str:
    """Return the name of an image: FILENAME in `meta`, else its number as in `image001.fits`."""
    given = str((image.meta or {}).get("FILENAME", "")).strip()
    return Path(given).name if given else f"image{number:03d}.fits"


def write_images(images: Iterable[NDData], folder: Path) -> list[Path]:
    """Write images as FITS files, which are then read by a run.

    Parameters
    ----------
    images
        Each with data (ny, nx) and a FITS WCS and, if known, mask (true for pixels not to be used), uncertainty and
        unit. The entries of `meta` that identify instrument, band and tile are used, and FILENAME as the name of the
        exposure.
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
        path = folder / name_of(image, number)
        if path in paths:
            message = f"two images are called {path.name} (FILENAME in meta); give them different names"
            raise UsageError(message)
        _hdus(image, path.name).writeto(path)
        paths.append(path)
    return paths


def _hdus(image: NDData, name: str) -> fits.HDUList:
    data = np.array(image.data, dtype=np.float32 if np.asarray(image.data).dtype.itemsize <= 4 else np.float64)
    if data.ndim != 2:
        message = f"{name}: data of shape {data.shape}, expected a two-dimensional image"
        raise UsageError(message)
    if image.mask is not None:
        data[np.broadcast_to(np.asarray(image.mask, dtype=bool), data.shape)] = np.nan
    primary = fits.PrimaryHDU()
    for card in CARDS:
        value = (image.meta or {}).get(card)
        if isinstance(value, str | int | float):
            primary.header[card] = value
    hdus = [primary, fits.ImageHDU(data, _wcs_header(image, name), name="SCI")]
    if image.unit is not None and image.unit != u.dimensionless_unscaled:
        hdus[1].header["BUNIT"] = image.unit.to_string("fits")
    if image.uncertainty is not None:
        error = image.uncertainty.represent_as(StdDevUncertainty).array
        hdus.append(fits.ImageHDU(np.broadcast_to(error, data.shape).astype(data.dtype), name="ERR"))
    return fits.HDUList(hdus)


def _wcs_header(image: NDData, name: str) -> fits.Header:
    wcs: Any = getattr(image.wcs, "low_level_wcs", image.wcs)
    if not isinstance(wcs, WCS) or not wcs.has_celestial:
        message = f"{name}: its wcs is {type(wcs).__name__}, expected a celestial astropy.wcs.WCS"
        raise UsageError(message)
    if any(table is not None for table in (wcs.cpdis1, wcs.cpdis2, wcs.det2im1, wcs.det2im2)):
        message = f"{name}: its WCS has distortion tables, which are only supported in files; give the file"
        raise UsageError(message)
    return wcs.to_header(relax=True)
