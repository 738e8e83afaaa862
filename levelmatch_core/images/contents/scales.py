"""Whether the values of a field's exposures are on one scale: their units, their exposure times, their zero points.

Counts grow with the exposure time: the same sky is four times brighter in four times the seconds, and no level mends
that. Where the unit is counts, and times are known and differ, values are divided by them to be matched. Zero points
tell whether they are counts indeed: those of counts differ by 2.5 log10 of the times, those of images that were brought
to one scale do not.
"""

import math
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Literal

from levelmatch_core.images.exposure import Exposure
from levelmatch_core.images.fits_headers import Cards, number_of, text_of

TIME_CARDS = ("EFFEXPTM", "TEXPTIME", "XPOSURE", "EXPTIME", "EXPOSURE", "EXP_TIME", "ITIME", "ELAPTIME")
"""Cards that hold the exposure time of an image, seconds, by preference."""
ADDED_CARDS = {"ITIME": ("COADDS", "CO_ADDS")}
"""Where a time is that of one read-out (Keck, IRTF), the cards that say how many of them were added up."""
MOST = 1e-3
"""Times within so much, relative, are the same."""
ZERO_POINT_ERROR = 0.05
"""Zero points tell what values are only where times differ by more than so many magnitudes."""
MOST_BEAM = 1.05
"""Beams whose areas differ by a larger factor are not one."""
SCALED_CARDS = ("FLXSCALE", "FLUXSCAL", "FSCALE")
"""Cards of a factor that brought an image to the scale of others."""

_MAGNITUDE = re.compile(r"(?<![A-Za-z])(ab|st|vega)?mag(nitude)?s?(?![A-Za-z])|\bdex\b|\blog(10)?\b", re.IGNORECASE)

_BEAM = re.compile(r"\bbeam\b", re.IGNORECASE)
_WORDS = {
    **dict.fromkeys(("adu", "dn", "count", "counts", "ct", "cts", "cnts"), "adu"),
    **dict.fromkeys(("e", "electron", "electrons"), "electron"),
    **dict.fromkeys(("photon", "photons", "ph"), "photon"),
    **dict.fromkeys(("s", "sec", "second", "seconds"), "s"),
    **dict.fromkeys(("pix", "pixel", "pixels"), "pix"),
    "jy": "Jy",
}
_COUNTS = {"adu", "electron", "photon"}


@lru_cache(maxsize=256)
def unit_key(unit: str) -> str:
    """Return a unit in one spelling: ADU, adu and DN are the same, so are 'e-/s', 'electrons s-1' and 'ELECTRONS/S'.

    Parameters
    ----------
    unit
        BUNIT as written.
    """
    text = re.sub(r"\be-(?=$|[\s/*.)])", "e", unit.strip(), flags=re.IGNORECASE)
    text = re.sub(r"\bcps\b", "count/s", text, flags=re.IGNORECASE)
    text = re.sub(r"(?<![A-Za-z\d])[A-Za-z]+", lambda word: _WORDS.get(word[0].lower(), word[0]), text)
    text = re.sub(r"\bmJy\b", "mJy", text)
    text = re.sub(r"[\s*.]*\b(\w+?) ?(?:\^|\*\*)? ?\(?-1\)?(?![\d.])", r"/\1", text)
    text = re.sub(r"\bper\b", "/", text)
    return re.sub(r"(?<=\w)/pix$", "", re.sub(r"\s*([/*])\s*", r"\1", re.sub(r"\s+", " ", text))).strip()


def counts_of(unit: str, primary_unit: str) -> bool | None:
    """Return whether values are counts that grow with the exposure time; None where that cannot be told.

    Parameters
    ----------
    unit
        BUNIT of the image.
    primary_unit
        That of the file's first header, which may contradict.
    """
    keys = {unit_key(one) for one in (unit, primary_unit) if one}
    if not keys:
        return None
    if keys <= _COUNTS:
        return True
    return None if keys & _COUNTS and len(keys) > 1 else False


def exposure_time(sci: Cards, primary: Cards) -> float | None:
    """Return the exposure time of an image, seconds; None where no header tells one."""
    for header in (sci, primary):
        for card in TIME_CARDS:
            value = number_of(header.get(card))
            if value is not None and value > 0:
                added = [number_of(header.get(one)) for one in ADDED_CARDS.get(card, ())]
                return value * next((one for one in added if one is not None and one > 0), 1.0)
    return None


def beam_of(unit: str, sci: Cards) -> float | None:
    """Return the product of a beam's axes, square arcseconds, where values are those of a beam; None elsewhere."""
    major, minor = number_of(sci.get("BMAJ")), number_of(sci.get("BMIN"))
    if not _BEAM.search(unit) or major is None or minor is None or not (major > 0 and minor > 0):
        return None
    return major * minor * 3600.0**2


def beam_doubt(beams: Iterable[float | None]) -> str:
    """Return why values a beam are not on one scale, '' where all beams (square arcseconds) have one size."""
    known = [one for one in beams if one is not None]
    if not known or max(known) <= MOST_BEAM * min(known):
        return ""
    return (
        f"values are those of a beam, and beams differ ({math.sqrt(min(known)):.4g} to {math.sqrt(max(known)):.4g} "
        f"arcsec): the larger a beam, the brighter the same sky; bring them to one beam, or to a unit per steradian"
    )


def is_scaled(sci: Cards, primary: Cards) -> bool:
    """Return whether a header holds a factor, other than 1, that brought the image to the scale of others."""
    values = (number_of(header.get(card)) for header in (sci, primary) for card in SCALED_CARDS)
    return any(value is not None and value != 1 for value in values)


def refuse_asinh(sci: Cards, shown: str) -> str | None:
    """Return why an image cannot be matched: its values are asinh magnitudes of a kind; None where they are not."""
    if text_of(sci.get("BSOFTEN")) and text_of(sci.get("BOFFSET")):
        return (
            f"{shown}: its values are asinh-scaled (BSOFTEN, BOFFSET), and levels of them are no levels of the sky; "
            f"make them linear first: value = BOFFSET + BSOFTEN * 2 sinh(value * ln 10 / 2.5)"
        )
    return None


def magnitude_doubt(unit: str) -> str:
    """Return why values of a unit cannot be matched as levels, '' where they can: magnitudes are logarithms."""
    if not _MAGNITUDE.search(unit):
        return ""
    return (
        f"values are magnitudes ({unit}), whose differences are ratios of brightness: what is matched are zero points, "
        f"and no level of the sky; make the values linear first"
    )


def rated(
    name: str, exposures: Sequence[Exposure], choice: Literal["auto", "on", "off"], notes: list[str]
) -> tuple[list[Exposure], str]:
    """Return a field's exposures, divided by their exposure times where they are counts of different times.

    With them comes why that cannot be known, '' where it can, or where the user says.

    Parameters
    ----------
    name
        The field's.
    exposures
        Its exposures.
    choice
        The setting `rates`.
    notes
        What was done, or could not be known, is added here.
    """
    known = [one.exposure_time for one in exposures if one.exposure_time is not None]
    differ = len(known) > 1 and max(known) / min(known) - 1 > MOST
    may_be_counts = any(one.counts is not False for one in exposures)
    told = len(known) == len(exposures)
    if choice == "on" and told:
        return _divided(name, exposures, "rates=on", notes), ""
    if choice == "on":
        doubt = f"rates=on, but {len(exposures) - len(known)} exposures have no exposure time"
        notes.append(f"{name}: {doubt}: as they are")
        return list(exposures), doubt if may_be_counts else ""
    if differ and may_be_counts and choice == "off":
        notes.append(f"{name}: exposure times differ ({_range(known)}); matched as they are (rates=off)")
    part_told = bool(known) and not told and any(one.counts for one in exposures)
    if choice != "auto" or not may_be_counts or not (differ or part_told) or _on_one_scale(exposures):
        return list(exposures), ""
    if told and all(one.counts and not one.scaled for one in exposures):
        return _divided(name, exposures, "counts of different exposure times", notes), ""
    if not differ:
        doubt = f"counts, and {len(exposures) - len(known)} of {len(exposures)} exposures have no exposure time"
        notes.append(f"{name}: {doubt}: matched as they are; if all times are alike, set rates=off")
        return list(exposures), doubt
    unit = exposures[0].unit or "(none)"
    notes.append(
        f"{name}: exposure times differ ({_range(known)}), and nothing tells whether values in the unit {unit} are "
        f"counts that grow with them: matched as they are; if they are counts, set rates=on, if not, rates=off"
    )
    return list(exposures), (
        f"exposure times differ ({_range(known)}) and nothing tells whether values are counts that grow with them "
        f"(set rates=on if they are, else rates=off)"
    )


def _range(times: Sequence[float]) -> str:
    return f"{min(times):g} to {max(times):g} s"


def _on_one_scale(exposures: Sequence[Exposure]) -> bool:
    """Return whether zero points say that values do not grow with the exposure time."""
    pairs = [(one.zero_point, one.exposure_time) for one in exposures]
    points = [point for point, _ in pairs if point is not None]
    times = [time for _, time in pairs if time is not None]
    if len(points) < len(pairs) or len(times) < len(pairs):
        return False
    span = 2.5 * math.log10(max(times) / min(times))
    return span > 2 * ZERO_POINT_ERROR and max(points) - min(points) < ZERO_POINT_ERROR


def _divided(name: str, exposures: Iterable[Exposure], why: str, notes: list[str]) -> list[Exposure]:
    made = [
        one.model_copy(
            update={
                "divisor": one.exposure_time,
                "zero_point": None
                if one.zero_point is None or one.exposure_time is None
                else one.zero_point - 2.5 * math.log10(one.exposure_time),
            }
        )
        for one in exposures
    ]
    times = [one.divisor for one in made]
    notes.append(
        f"{name}: values are divided by their exposure time ({_range(times)}) to be matched, and corrections are "
        f"multiplied by it: {why}"
    )
    return made
