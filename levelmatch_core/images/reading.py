"""Reading an exposure: its file's digest, its WCS, its pixels. Inputs are opened for reading only."""

import gzip
import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from levelmatch_core.errors import (
    AlreadyMatchedError,
    DataError,
    NoImageError,
    NotFitsError,
    NoUsablePixelsError,
    NoWcsError,
    ShapeMismatchError,
)
from levelmatch_core.images.exposure import Exposure, Window
from levelmatch_core.images.gwcs import gwcs_of
from levelmatch_core.images.headers import FAULTS, MATCHED_CARD, Hdu, is_gzip, quiet, read_headers, scan
from levelmatch_core.images.instruments import Instrument, by_name
from levelmatch_core.images.transforms import AnyWcs
from levelmatch_core.settings import WcsSource

_NARROW = frozenset({"f4", "i1", "u1", "i2", "u2"})
"""Stored types whose every value float32 holds exactly."""

_WCS_CARD = re.compile(
    r"WCSAXES|WCSNAME|NAXIS\d?|(CTYPE|CUNIT|CRPIX|CRVAL|CDELT|CROTA|PROJP)\d|(PC|CD)\d+_?\d+|P[VS]\d_\d+|[AB]P?_.+|"
    r"LONPOLE|LATPOLE|RADE(C)?SYS|EQUINOX|EPOCH|DATE-OBS|MJD-OBS"
)
"""Cards that bear on a celestial WCS without tables. A JWST header has hundreds of others, and astropy writes each out
and reads it again, three times: ten times the cost of all else in an inventory."""

_TABLE_CARDS = ("CPDIS1", "CPDIS2", "D2IMDIS1", "D2IMDIS2")
"""Cards of distortions that lie in further HDUs of the file."""


@dataclass(frozen=True)
class Pixels:
    """The pixels of an exposure, invalid ones NaN; read-only."""

    data: NDArray[np.floating]
    """(ny, nx), the data's unit, NaN where masked, blank or outside the window."""
    variance: NDArray[np.floating] | None
    """(ny, nx), the data's unit squared, NaN where ERR is not finite or negative; None where there is no ERR."""

    def __post_init__(self) -> None:
        self.data.flags.writeable = False
        if self.variance is not None:
            self.variance.flags.writeable = False


def digest_of(path: Path) -> str:
    """Return the sha256 (hex) of a file's bytes.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def wcs_of(hdu: Hdu, path: Path, shown: str) -> WCS:
    """Return the celestial WCS of an image from its header, distortions included.

    Parameters
    ----------
    hdu
        The image.
    path
        Its file; opened only where distortion tables lie in other HDUs.
    shown
        What to call it in messages.

    Raises
    ------
    NoWcsError
        If the header has no celestial WCS of two axes, or a faulty one.
    """
    needs_file = any(card in hdu.header for card in _TABLE_CARDS) or "-TAB" in str(hdu.header.get("CTYPE1", ""))
    try:
        with quiet(), np.errstate(all="ignore"):
            if needs_file:
                with fits.open(path, mode="readonly", memmap=False) as hdus:
                    wcs = WCS(hdu.header, fobj=hdus, naxis=2)
            else:
                cards = [card for card in hdu.header.cards if _WCS_CARD.fullmatch(card.keyword)]
                wcs = WCS(fits.Header(cards), naxis=2)
            celestial = bool(wcs.has_celestial)
    except FAULTS as error:
        reason = " ".join(str(error).split())
        message = f"{shown}: its WCS cannot be used ({reason}); solve its astrometry again"
        raise NoWcsError(message) from error
    if not celestial:
        message = (
            f"{shown}: no celestial WCS in HDU {hdu.index} (CTYPE1 = {hdu.header.get('CTYPE1', 'missing')!r}, expected "
            f"such as 'RA---TAN'); solve its astrometry first"
        )
        raise NoWcsError(message)
    if hdu.shape is not None:  # a compressed image's own NAXISn are those of a table
        wcs.pixel_shape = hdu.shape[::-1]
    return wcs


def wcs_from(source: WcsSource, hdus: Sequence[Hdu], sci: int, path: Path, shown: str) -> AnyWcs:
    """Return the celestial WCS of an image from where it is to be taken.

    Parameters
    ----------
    source
        "header" or "gwcs".
    hdus
        The file's.
    sci
        Index of the image.
    path, shown
        As in :func:`wcs_of`.

    Raises
    ------
    NoWcsError
        As :func:`wcs_of`, or if there is no gwcs.
    SettingsError
        If the WCS is the gwcs, and cannot be read for want of the extra.
    """
    if source == "header":
        return wcs_of(hdus[sci], path, shown)
    found = gwcs_of(hdus, path, shown)
    if found is None:
        message = f"{shown}: has no gwcs in an ASDF extension; take the header's WCS (wcs_source = 'header')"
        raise NoWcsError(message)
    return found


def read_wcs(exposure: Exposure) -> AnyWcs:
    """Return the celestial WCS of an exposure (of its whole image, where the exposure is a window of it).

    The world axes are in the header's order, and in its frame.

    Raises
    ------
    NoWcsError, SettingsError, NotFitsError
        As :func:`wcs_from` and :func:`levelmatch_core.images.headers.read_headers`.
    """
    hdus = read_headers(exposure.path, exposure.file)
    sci = _hdu(hdus, exposure, exposure.sci).index
    return wcs_from(exposure.wcs_source, hdus, sci, exposure.path, exposure.name)


def refuse_matched(hdus: tuple[Hdu, ...], shown: str) -> None:
    """Raise if any header of a file says that it was matched before.

    Raises
    ------
    AlreadyMatchedError
        If one does.
    """
    for hdu in hdus:
        if hdu.matched is not None:
            message = (
                f"{shown}: was matched before ({MATCHED_CARD} = {hdu.matched!r} in HDU {hdu.index}); "
                f"give the file that it was made from"
            )
            raise AlreadyMatchedError(message)


def refuse_shapes(sci: Hdu, planes: tuple[Hdu, ...], shown: str) -> None:
    """Raise if ERR or DQ is not of the shape of SCI.

    Raises
    ------
    ShapeMismatchError
        If one is not.
    """
    for plane in planes:
        if plane.shape != sci.shape:
            message = (
                f"{shown}: {plane.name} has shape {plane.shape}, expected {sci.shape} as {sci.name or 'the image'}; "
                f"(rows, columns) must be the same"
            )
            raise ShapeMismatchError(message)


def read_pixels(exposure: Exposure) -> Pixels:
    """Read an exposure, with NaN wherever a pixel may not be used.

    Returns
    -------
    Pixels
        float32 where the file's type fits into it exactly, else float64; scaled by BSCALE and BZERO.

    Raises
    ------
    NotFitsError
        If the file is damaged or truncated.
    NoImageError
        If the HDU holds no two-dimensional image.
    ShapeMismatchError
        If SCI, ERR and DQ differ in shape.
    AlreadyMatchedError
        If the file was matched before.
    NoUsablePixelsError
        If nothing is left.
    OSError
        If the file cannot be read; another try may succeed.
    """
    instrument = by_name(exposure.instrument)
    wanted = [exposure.sci, exposure.err, exposure.dq if instrument.bad_bits else None]
    arrays = _stored_arrays(exposure, wanted)
    if any(array is not None and array.shape != exposure.shape for array in arrays):
        message = (
            f"{exposure.file}: damaged: its images are not of the shape {exposure.shape} that they were listed with"
        )
        raise NotFitsError(message)
    stored, error, quality = arrays
    data = _floats(stored)
    invalid = _invalid(data, quality, exposure, instrument)
    if invalid.all():
        message = f"{exposure.name}: no usable pixel: all are masked, blank or not finite"
        raise NoUsablePixelsError(message)
    data[invalid] = np.nan
    return Pixels(data, None if error is None else _variance(error, data.dtype))


def _stored_arrays(exposure: Exposure, wanted: Sequence[int | None]) -> list[Any]:
    """Return the arrays of HDUs, scaled by BSCALE and BZERO; None where None is wanted."""
    try:
        with exposure.path.open("rb") as file:
            zipped = is_gzip(file)
            raw = io.BytesIO(gzip.decompress(file.read())) if zipped else file
            size = len(raw.getbuffer()) if isinstance(raw, io.BytesIO) else exposure.path.stat().st_size
            _check(scan(raw, exposure.file, size), exposure)
            raw.seek(0)
            with quiet(), np.errstate(all="ignore"), fits.open(raw, mode="readonly", memmap=False) as hdus:
                return [None if index is None else np.asarray(hdus[index].data) for index in wanted]
    except FAULTS as error:
        message = f"{exposure.file}: damaged: {error}; fetch it again"
        raise NotFitsError(message) from error
    except OSError as error:
        if error.errno is not None:  # the disk's fault, not the file's
            raise
        message = f"{exposure.file}: damaged: {error}; fetch it again"
        raise NotFitsError(message) from error


def _check(hdus: tuple[Hdu, ...], exposure: Exposure) -> None:
    refuse_matched(hdus, exposure.file)
    sci = _hdu(hdus, exposure, exposure.sci)
    if sci.shape is None or len(sci.shape) != 2 or 0 in sci.shape:
        message = f"{exposure.name}: HDU {sci.index} has shape {sci.shape}, expected a two-dimensional image"
        raise NoImageError(message)
    planes = tuple(_hdu(hdus, exposure, index) for index in (exposure.err, exposure.dq) if index is not None)
    refuse_shapes(sci, planes, exposure.name)


def _hdu(hdus: tuple[Hdu, ...], exposure: Exposure, index: int) -> Hdu:
    if index >= len(hdus):
        message = f"{exposure.file}: HDU {index} is missing, it has {len(hdus)}; the file changed since it was listed"
        raise NoImageError(message)
    return hdus[index]


def _floats(stored: NDArray[np.generic]) -> NDArray[np.floating]:
    """Return a native, writable copy in the narrowest float that holds the stored type exactly."""
    narrow = f"{stored.dtype.kind}{stored.dtype.itemsize}" in _NARROW
    return stored.astype(np.float32 if narrow else np.float64)


def _invalid(
    data: NDArray[np.floating], quality: NDArray[np.generic] | None, exposure: Exposure, instrument: Instrument
) -> NDArray[np.bool_]:
    """Return where a pixel may not be used."""
    invalid = ~np.isfinite(data)
    if instrument.blank_zero:
        invalid |= data == 0
    if quality is not None:
        invalid |= _flagged(quality, instrument.bad_bits, exposure.name)
    if exposure.window is not None:
        invalid |= _outside(exposure.window, exposure.shape)
    return invalid


def _flagged(quality: NDArray[np.generic], bad_bits: int, shown: str) -> NDArray[np.bool_]:
    """Return where any of the bad bits is set, at the full width of the file's type."""
    if quality.dtype.kind not in "iu":
        message = f"{shown}: its data-quality extension is {quality.dtype.name}, expected integers whose bits are flags"
        raise DataError(message)
    unsigned = np.dtype(f"u{quality.dtype.itemsize}")
    bits = quality.astype(quality.dtype.newbyteorder("="), copy=False).view(unsigned)
    in_width = unsigned.type(bad_bits & np.iinfo(unsigned).max)
    return np.asarray((bits & in_width) != 0)


def _outside(window: Window, shape: tuple[int, int]) -> NDArray[np.bool_]:
    outside = np.full(shape, window.inside)
    outside[slice(*window.rows), slice(*window.columns)] = not window.inside
    return outside


def _variance(stored: NDArray[np.generic], dtype: np.dtype[np.floating]) -> NDArray[np.floating]:
    error = _floats(stored).astype(dtype, copy=False)
    with np.errstate(invalid="ignore", over="ignore"):
        error[~(error >= 0)] = np.nan
        np.square(error, out=error)
    error[np.isinf(error)] = np.nan
    return error
