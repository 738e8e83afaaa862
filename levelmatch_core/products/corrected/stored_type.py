"""The type in which an image came, integers or scaled numbers, given back to what became floating point."""

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.errors import NotFitsError
from levelmatch_core.images.fits_cards import STORED, RawHeader
from levelmatch_core.products.corrected.lvl_cards import TYPE_CARD

_SURE = 0.25
"""A value this far from a whole number cannot be told from its neighbour."""


def as_it_came(values: NDArray[np.float64], header: RawHeader, shown: str) -> tuple[NDArray[np.generic] | None, str]:
    """Return the stored values of an image as they came, and put its cards back.

    Parameters
    ----------
    values
        (ny, nx) what they stand for.
    header
        Is changed: the card that tells the type goes; BSCALE, BZERO and BLANK come back.
    shown
        What to call the image in messages.

    Returns
    -------
    stored
        None where the image came as plain floating point, or cannot be given back in its type.
    note
        What could not be given back, '' if all is.

    Raises
    ------
    NotFitsError
        If the card cannot be read.
    """
    if TYPE_CARD not in header:
        return None, ""
    told = str(header.get(TYPE_CARD))
    header.remove(TYPE_CARD)
    try:
        name, *rest = told.split()
        cards = {
            key: float(text) if "." in text or "e" in text else int(text) for key, text in (r.split("=") for r in rest)
        }
        kind = next(np.dtype(stored) for stored in STORED.values() if np.dtype(stored).name == name)
    except (ValueError, StopIteration) as error:
        message = f"{shown}: {TYPE_CARD} is {told!r}: no type of an image; take the file that levelmatch wrote"
        raise NotFitsError(message) from error
    if "ZIMAGE" in header:
        return None, f"{shown}: was compressed as {name}, and stays floating point"
    stored = (values - cards.get("BZERO", 0)) / cards.get("BSCALE", 1)
    note = ""
    if kind.kind in "iu":
        blank, limits = ~np.isfinite(stored), np.iinfo(kind)
        if blank.any() and "BLANK" not in cards:
            return None, f"{shown}: was {name}, which cannot hold the pixels that are blank now: stays floating point"
        whole = np.rint(np.where(blank, cards.get("BLANK", 0), stored))
        doubtful = ((np.abs(stored - whole) > _SURE) & ~blank) | (whole < limits.min) | (whole > limits.max)
        if doubtful.any():
            return None, f"{shown}: {int(doubtful.sum())} pixels are no {name} any more: stays floating point"
        stored = whole
    for key, value in cards.items():
        header.set(key, value)
    return stored.astype(kind), note
