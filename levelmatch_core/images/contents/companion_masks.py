"""Reading the weights and masks of an exposure."""

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from levelmatch_core.errors import NotFitsError, ShapeMismatchError
from levelmatch_core.images.exposure import Companion, Exposure
from levelmatch_core.images.fits_headers import FAULTS, quiet
from levelmatch_core.images.planes import image_in
from levelmatch_core.images.storage.packing import unpacked
from levelmatch_core.process.log_context import logger_of

logger = logger_of(__name__)

MOST_FLAGGED = 0.5
"""A mask that flags more than this part of an image may mean the opposite, and is not used."""


def masked_by(exposure: Exposure) -> NDArray[np.bool_] | None:
    """Return the pixels, (ny, nx), that weights or masks of an exposure take out; None where there are neither.

    Raises
    ------
    NotFitsError
        If one cannot be read.
    ShapeMismatchError
        If one is not of the exposure's shape.
    """
    masked = None
    if exposure.weight is not None:
        weight = _read(exposure.weight, exposure)
        with np.errstate(invalid="ignore"):
            nothing = ~(weight.astype(np.float64) > 0)
        masked = _plain(nothing, exposure.weight, exposure, 1.0)
    if exposure.flags is not None:
        values = _read(exposure.flags, exposure)
        bits = exposure.flags.bits if values.dtype.kind in "iu" else 0
        flagged = np.bitwise_and(values, bits) != 0 if bits else values != 0
        flagged_plain = _plain(flagged, exposure.flags, exposure, MOST_FLAGGED)
        masked = flagged_plain if masked is None or flagged_plain is None else masked | flagged_plain
    return masked


def _plain(
    masked: NDArray[np.bool_], companion: Companion, exposure: Exposure, most: float
) -> NDArray[np.bool_] | None:
    """Return a mask that leaves enough to be plain, else None, and say so."""
    part = float(np.mean(masked))
    if part < most:
        return masked
    logger.warning(
        "%s: %s takes %.0f %% of it out: not used; name the images alone, or mend it",
        *(exposure.name, companion.file, 100 * part),
    )
    return None


def _read(companion: Companion, exposure: Exposure) -> NDArray[np.generic]:
    try:
        with companion.path.open("rb") as file, quiet():
            raw, _ = unpacked(file)
            with fits.open(raw, mode="readonly", memmap=False) as hdus:
                values = np.asarray(hdus[companion.hdu].data)
        values = image_in(values, exposure.plane)
    except (*FAULTS, OSError) as error:
        message = f"{exposure.name}: its companion {companion.file} cannot be read ({error}); set companions=ignore"
        raise NotFitsError(message) from error
    if values.shape != exposure.shape:
        message = f"{exposure.name}: its companion {companion.file} has shape {values.shape}, expected {exposure.shape}"
        raise ShapeMismatchError(message)
    return values
