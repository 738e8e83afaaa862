"""The cards of a corrected image that describe its correction: a rounded summary of the exact tables."""

import base64
from dataclasses import dataclass

from levelmatch_core.images.fits_cards import CardValue, RawHeader, as_ascii
from levelmatch_core.images.fits_headers import MATCHED_CARD, PLANE_CARD
from levelmatch_core.matching.corrections import Correction
from levelmatch_core.process.versions import levelmatch_version
from levelmatch_core.settings import MatchSettings

_DIGITS = 9

IMAGE_CARDS = ("LVLLEVEL", "LVLSLPX", "LVLSLPY", "LVLSKY", "LVLERR")
WINDOW_CARDS = ("LVLLEV2", "LVLSLX2", "LVLSLY2", "LVLSKY2", "LVLERR2")
AREA_CARD = "LVLAREA"
TYPE_CARD = "LVLTYPE"
"""Of an image that became floating point: the type in which it came, and its BSCALE, BZERO and BLANK."""
OWN = "LVLOWN"
"""Start of the cards that keep cards of the input's own that are called as ours are."""

CARDS = (MATCHED_CARD, "LVLFIT", *IMAGE_CARDS, "LVLREF", "LVLPART", "LVLVERS", *WINDOW_CARDS, AREA_CARD, PLANE_CARD)
"""All cards that levelmatch writes to the header of an image."""


@dataclass(frozen=True)
class LocalPlane:
    """A correction in the pixel coordinates of its image."""

    level: float
    """Value of the total correction at the centre, data unit."""
    slope_x: float
    """Change per column there, data unit."""
    slope_y: float
    """Change per row there, data unit."""
    area: float | None = None
    """If the correction is per area: the pixel area that it refers to, arcsec2."""


def put_cards(header: RawHeader, correction: Correction, local: LocalPlane, settings: MatchSettings) -> None:
    """Write the cards of an image's correction to its SCI header.

    Parameters
    ----------
    header
        Changed in place.
    correction
        The correction of the image, or of the main part of it.
    local
        The correction about the centre of the image.
    settings
        Settings of the run.
    """
    own = [card for name in (*CARDS, TYPE_CARD) if (card := header.take(name))]
    header.set(MATCHED_CARD, correction.status.value, "levelmatch: what became of this exposure")
    header.set("LVLFIT", _fits(correction, settings), "fit type of each stage")
    _put_numbers(header, correction, local, "image centre", IMAGE_CARDS)
    reference = reference_text(correction.reference, provisional=correction.provisional)
    header.set("LVLREF", reference, "its zero; ? provisional")
    if local.area is not None:
        header.set(AREA_CARD, float(f"{local.area:.{_DIGITS}g}"), "[arcsec2] pixels get corrections by area over this")
    if correction.exposure.plane is not None:
        header.set(PLANE_CARD, correction.exposure.plane, "the plane of the cube that is corrected, from 1")
    header.set("LVLPART", correction.partial, "whether its field lacks members")
    header.set("LVLVERS", levelmatch_version(), "version of levelmatch")
    for number, card in enumerate(own, start=1):
        header.set(f"{OWN}{number}", base64.b64encode(card.rstrip()).decode("ascii"), "a card of the input, base64")


def take_cards(header: RawHeader) -> None:
    """Take our cards out of a header, and put back those of the input's own that were called as ours are."""
    for name in CARDS:
        header.remove(name)
    number = 1
    while f"{OWN}{number}" in header:
        text = str(header.get(f"{OWN}{number}"))
        header.remove(f"{OWN}{number}")
        header.put_back(base64.b64decode(text))
        number += 1


def reference_text(reference: str, *, provisional: bool) -> str:
    """Return the value of LVLREF in a form that FITS allows."""
    return as_ascii(reference + ("?" if provisional else ""))


def put_window_cards(header: RawHeader, correction: Correction, local: LocalPlane) -> None:
    """Write the cards of a recombined window, whose correction differs from that of the image."""
    _put_numbers(header, correction, local, "window centre", WINDOW_CARDS)


def _put_numbers(
    header: RawHeader, correction: Correction, local: LocalPlane, where: str, names: tuple[str, ...]
) -> None:
    unit = correction.exposure.unit or "data unit"
    level, slope_x, slope_y, sky, error = names
    cards: tuple[tuple[str, CardValue, str], ...] = (
        (level, local.level, f"[{unit}] subtracted at {where}"),
        (slope_x, local.slope_x, f"[{unit}/pixel] its slope there along x"),
        (slope_y, local.slope_y, f"[{unit}/pixel] its slope there along y"),
        (sky, correction.local_sky * correction.exposure.divisor, f"[{unit}] local sky, part of {level}"),
        (error, correction.sigma[0] * correction.exposure.divisor, f"[{unit}] 1 sigma of {level}"),
    )
    for keyword, value, comment in cards:
        header.set(keyword, float(f"{value:.{_DIGITS}g}"), comment)


def _fits(correction: Correction, settings: MatchSettings) -> str:
    """Return a text such as `dithers:level tiles:level+slope`, with the last word of each stage's name."""
    fitted = {stage: correction.fit_types.get(stage, settings.fit_type(stage)) for stage in correction.stages}
    return " ".join(f"{stage.rpartition('_')[2]}:{fit_type}" for stage, fit_type in fitted.items())
