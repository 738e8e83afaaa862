"""Reading an exposure: its file's digest, its WCS, its pixels. Inputs are opened for reading only."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
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
from levelmatch_core.files.digests import digest_file
from levelmatch_core.files.regular import refuse_irregular
from levelmatch_core.images.contents.blanks import HUGE, Blanks, blank_out, find_blanks, nothing_left
from levelmatch_core.images.contents.companion_masks import masked_by
from levelmatch_core.images.contents.image_list import with_plane
from levelmatch_core.images.exposure import Exposure, Window
from levelmatch_core.images.fits_headers import (
    FAULTS,
    MATCHED_CARD,
    Hdu,
    quiet,
    read_headers,
)
from levelmatch_core.images.instruments import Instrument, instrument_of
from levelmatch_core.images.planes import image_in
from levelmatch_core.images.storage.one_pass import same_file
from levelmatch_core.images.storage.packing import unpacked
from levelmatch_core.images.storage.stored_arrays import read_stored
from levelmatch_core.images.wcs.fits_wcs import fits_wcs
from levelmatch_core.images.wcs.gwcs import gwcs_of
from levelmatch_core.images.wcs.transforms import AnyWcs, celestial_axes
from levelmatch_core.settings import WcsSource

_NARROW = frozenset({"f4", "i1", "u1", "i2", "u2"})
"""Stored types whose every value float32 holds exactly."""

_NO_MASK = np.zeros((1, 1), np.bool_)

_BAND_PIXELS = 1 << 16
"""Pixels that are read or masked at a time: what is made of them on the way stays in the processor's cache."""


@dataclass(frozen=True)
class Pixels:
    """The pixels of an exposure, invalid ones NaN; read-only."""

    data: NDArray[np.floating]
    """(ny, nx), the data's unit, NaN where masked, blank or outside the window."""
    variance: NDArray[np.floating] | None
    """(ny, nx), the data's unit squared, NaN where ERR is not finite or negative; None where there is no ERR."""
    blanks: tuple[float, ...] = ()
    """Values that stand for nothing."""
    n_blank: int = 0
    """How many pixels hold one of them, or a huge number."""

    def __post_init__(self) -> None:
        self.data.flags.writeable = False
        if self.variance is not None:
            self.variance.flags.writeable = False


def file_digest(path: Path) -> str:
    """Return the sha256 (hex) of a file's bytes.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_digests(path: Path) -> tuple[str, str]:
    """Return the sha256 and the xxh64 (hex) of a file's bytes, in one pass.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    sha256, xxh64 = hashlib.sha256(), xxhash.xxh64()
    with path.open("rb", buffering=0) as file:
        digest_file(file, sha256, xxh64)
    return sha256.hexdigest(), xxh64.hexdigest()


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
    try:
        with quiet(), np.errstate(all="ignore"):
            wcs = fits_wcs(hdu, lambda: _tables(path))
            axes = celestial_axes(wcs)
    except FAULTS as error:
        reason = " ".join(str(error).split())
        message = (
            f"{shown}: its WCS cannot be used ({reason}); mend the cards that it names, or solve its astrometry again"
        )
        raise NoWcsError(message) from error
    if axes is None:
        message = (
            f"{shown}: no celestial WCS in HDU {hdu.index} (CTYPE1 = {hdu.header.get('CTYPE1', 'missing')!r}, expected "
            f"such as 'RA---TAN'); solve its astrometry first"
        )
        raise NoWcsError(message)
    return wcs


@contextmanager
def _tables(path: Path) -> Iterator[fits.HDUList]:
    with path.open("rb") as file, fits.open(unpacked(file)[0], mode="readonly", memmap=False) as hdus:
        yield hdus


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
        As :func:`wcs_from` and :func:`levelmatch_core.images.fits_headers.read_headers`.
    """
    hdus = with_plane(read_headers(exposure.path, exposure.file), exposure.plane)
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
        if plane.plane != sci.plane:
            message = (
                f"{shown}: {plane.name} has shape {plane.shape}, expected {sci.shape} as {sci.name or 'the image'}; "
                f"(rows, columns) must be the same"
            )
            raise ShapeMismatchError(message)


def read_exposure(exposure: Exposure) -> tuple[AnyWcs, Pixels]:
    """Return the WCS of an exposure, as :func:`read_wcs`, and its pixels with NaN wherever one may not be used.

    Both are read at one opening of the file.

    Returns
    -------
    AnyWcs, Pixels
        The pixels are float32 where the file's type fits into it exactly, else float64; scaled by BSCALE and BZERO.

    Raises
    ------
    NoWcsError, SettingsError
        As :func:`read_wcs`.
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
    with _read(exposure) as (hdus, arrays):
        wcs = wcs_from(exposure.wcs_source, hdus, exposure.sci, exposure.path, exposure.name)
        return wcs, _pixels_of(arrays, exposure)


@contextmanager
def _read(exposure: Exposure) -> Iterator[tuple[tuple[Hdu, ...], list[Any]]]:
    """Read headers and stored arrays (SCI, ERR, DQ; None where there is none, or none is used) of a file.

    They are of the bytes that the exposure's digest is of, and so is what the block reads by the file's path.
    """
    refuse_irregular(exposure.path, NotFitsError, exposure.file)
    bits = instrument_of(exposure).bad_bits
    wanted = (exposure.sci, exposure.err, exposure.dq if bits else None)
    try:
        with exposure.path.open("rb") as file, same_file(exposure.path, file, exposure.bytes_digest, exposure.file):
            hdus, arrays = read_stored(
                *(file, exposure.bytes_digest, exposure.file, wanted),
                lambda hdus: _check(with_plane(hdus, exposure.plane), exposure),
            )
            yield with_plane(hdus, exposure.plane), arrays
    except FAULTS as error:
        message = f"{exposure.file}: damaged: {error}; fetch it again"
        raise NotFitsError(message) from error
    except OSError as error:
        if error.errno is not None:  # the disk's fault, not the file's
            raise
        message = f"{exposure.file}: damaged: {error}; fetch it again"
        raise NotFitsError(message) from error


def _pixels_of(stored_arrays: Sequence[Any], exposure: Exposure) -> Pixels:
    instrument = instrument_of(exposure)
    arrays: list[Any] = [None if array is None else image_in(array, exposure.plane) for array in stored_arrays]
    if any(array is not None and array.shape != exposure.shape for array in arrays):
        message = (
            f"{exposure.file}: damaged: its images are not of the shape {exposure.shape} that they were listed with"
        )
        raise NotFitsError(message)
    stored, error, quality = arrays
    data = _floats(stored)
    blanks = find_blanks(data, exposure.blank, zero=instrument.blank_zero)
    is_left, n_blank = _blank_invalid(data, quality, exposure, instrument, blanks)
    masked = masked_by(exposure)
    if masked is not None:
        data[masked] = np.nan
        is_left = is_left and bool(np.isfinite(data).any())
    if not is_left:
        raise NoUsablePixelsError(nothing_left(exposure.name, blanks, n_blank, data.size))
    return Pixels(data, None if error is None else _variance(error, data.dtype), blanks.all_values, n_blank)


def _check(hdus: tuple[Hdu, ...], exposure: Exposure) -> None:
    refuse_matched(hdus, exposure.file)
    sci = _hdu(hdus, exposure, exposure.sci)
    if sci.plane is None:
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
    """Return native and writable values in the narrowest float that holds the stored type exactly.

    What is so already, and was read for us alone, is not copied.
    """
    narrow = f"{stored.dtype.kind}{stored.dtype.itemsize}" in _NARROW
    floats: NDArray[np.floating] = stored.astype(np.float32 if narrow else np.float64, copy=False)
    return floats if floats.flags.writeable else floats.copy()


def _blank_invalid(
    data: NDArray[np.floating],
    quality: NDArray[np.generic] | None,
    exposure: Exposure,
    instrument: Instrument,
    blanks: Blanks,
) -> tuple[bool, int]:
    """Make NaN of the pixels that may not be used, in place; return whether any other is left, and how many are blank.

    It goes band by band: masks of a whole image would cost more, in memory and in time, than the image itself.
    """
    outside = None if exposure.window is None else _outside(exposure.window, exposure.shape)
    step = max(1, _BAND_PIXELS // max(data.shape[1], 1))
    left, n_blank = False, 0
    largest = np.inf if exposure.blank == "none" else HUGE
    blank = blanks.mask_of(data) if blanks.solid else None
    for row in range(0, data.shape[0], step):
        rows = slice(row, row + step)
        band = data[rows]
        marked = blanks.mask_of(band) if blank is None else blank[rows]
        if marked is not None:
            n_blank += int(np.count_nonzero(marked))
        flagged = None if quality is None else _flagged(quality[rows], instrument.bad_bits, exposure.name)
        masks = [mask for mask in (marked, flagged, None if outside is None else outside[rows]) if mask is not None]
        n_left, n_huge = blank_out(band, reduce(np.logical_or, masks, _NO_MASK), data.dtype.type(largest))
        n_blank += n_huge
        left = left or n_left > 0
    return left, n_blank


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
    variance = _floats(stored).astype(dtype, copy=False)
    step = max(1, _BAND_PIXELS // max(variance.shape[1], 1))
    with np.errstate(invalid="ignore", over="ignore"):
        for row in range(0, variance.shape[0], step):
            band = variance[row : row + step]
            band[~(band >= 0)] = np.nan
            np.square(band, out=band)
            band[np.isinf(band)] = np.nan
    return variance
