"""Photometric zero points of headers: where they differ in a field, gains do so too, and no level mends that."""

from collections.abc import Iterable

from levelmatch_core.images.exposure import Field
from levelmatch_core.images.fits_headers import Cards, number_of

CARDS = ("MAGZP", "MAGZPT", "MAGZERO", "PHOTZP")
"""Cards that hold a zero point in magnitudes, by preference: a pixel of value 1 has it."""
MOST = 5e-4
"""Zero points within so much (0.05 % in gain) are alike: they are known no better."""


def zero_point_of(sci: Cards, primary: Cards) -> float | None:
    """Return the zero point that an image's header names, or else its file's; None where neither does.

    Parameters
    ----------
    sci, primary
        The image's header and the file's first.
    """
    values = (number_of(header.get(card)) for header in (sci, primary) for card in CARDS)
    return next((value for value in values if value is not None), None)


def zero_point_notes(fields: Iterable[Field]) -> list[str]:
    """Return what to know of fields whose exposures have zero points that differ.

    A value is 10^(0.4 (zero point - magnitude)): an image whose zero point is larger shows the same sky brighter.

    Parameters
    ----------
    fields
        All of them.
    """
    notes = []
    for field in fields:
        known = sorted((one.zero_point, one.name) for one in field.exposures if one.zero_point is not None)
        if not known or known[-1][0] - known[0][0] <= MOST:
            continue
        (least, faint), (largest, bright) = known[0], known[-1]
        part = 10 ** (0.4 * (largest - least)) - 1
        notes.append(
            f"{field.name}: zero points in the headers differ by {largest - least:.3g} mag ({least:g} in {faint}, "
            f"{largest:g} in {bright}): {100 * part:.2g} % in gain, a false level of {1000 * part:.2g} over a sky of "
            f"1000 {field.unit or 'units'}; bring the images to one zero point before they are matched"
        )
    return notes
