"""JWST MIRI imaging: the main part of the chip, and the window of the Lyot coronagraph in its corner."""

import re
from dataclasses import replace

from levelmatch_core.images.exposure import Window
from levelmatch_core.images.fits_headers import Cards
from levelmatch_core.images.instruments import jwst
from levelmatch_core.images.instruments.base import Part, Source
from levelmatch_core.settings import MatchSettings

WHOLE, LYOT, MAIN = "mirimage", "mirimagel", "mirimages"
"""Detectors: the whole chip, and the two halves of a chip that was split (`l` Lyot, `s` science)."""

LYOT_FIRST_ROW, LYOT_END_COLUMN = 735, 290
"""The window in a full frame: rows from 735 on, columns below 290, counted from 0."""

STAGE = "recombine_lyot"


def _recognises(file_name: str, primary: Cards) -> bool:
    named = jwst.parse_name(file_name)
    if named is not None:
        return named.detector in {WHOLE, LYOT, MAIN}
    return jwst.of_instrument(primary, "MIRI")


def _split(source: Source, settings: MatchSettings) -> tuple[Part, ...]:
    detector = jwst.detector_of(source)
    if not settings.recombine_lyot:
        return (jwst.whole(source),)
    halves = {half: _windowed(_half(source, half), source) for half in (LYOT, MAIN)}
    if detector in halves:
        return (halves[detector],)
    if detector != WHOLE or not _shows_window(source):
        return (jwst.whole(source),)
    return replace(halves[LYOT], suffix="@lyot"), replace(halves[MAIN], suffix="@main")


def _windowed(part: Part, source: Source) -> Part:
    """Set the window of one half in a full frame; files of split chips also contain the whole frame."""
    if not _shows_window(source):
        return part
    window = Window(rows=(LYOT_FIRST_ROW, source.shape[0]), columns=(0, LYOT_END_COLUMN), inside=part.detector == LYOT)
    return replace(part, window=window)


def _half(source: Source, detector: str) -> Part:
    base = jwst.tile_base(source, jwst.detector_of(source))
    tile = f"{base}_{detector}"
    named = jwst.parse_name(source.file)
    identity = replace(named, detector=detector).identity + source.chip if named else ""
    return Part(
        detector=detector,
        tile=tile,
        groups={"dithers": tile, STAGE: f"{base}_{WHOLE}", "mosaic_tiles": ""},
        anchors=(STAGE,) if detector == MAIN else (),
        product=_recombined_name(source.file) if named and named.detector != WHOLE else "",
        identity=identity,
    )


def _recombined_name(file: str) -> str:
    """Return the name of the image formed by the halves of a split chip."""
    folder, slash, name = file.rpartition("/")
    return folder + slash + re.sub(rf"_{WHOLE}[ls](?=[_.])", f"_{WHOLE}", name, count=1, flags=re.IGNORECASE)


def _shows_window(source: Source) -> bool:
    """Return whether the image is a full frame: pixels of a subarray are counted from another corner."""
    subarray = str(source.primary.get("SUBARRAY", "FULL")).strip().upper()
    return subarray == "FULL" and source.shape[0] > LYOT_FIRST_ROW and source.shape[1] > LYOT_END_COLUMN


INSTRUMENT = replace(jwst.INSTRUMENT, name="miri", recognises=_recognises, split=_split, rank=0)
