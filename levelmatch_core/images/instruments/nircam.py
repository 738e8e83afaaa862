"""JWST NIRCam imaging: two modules, each with four short-wavelength chips and one long-wavelength chip."""

import re
from dataclasses import replace

from levelmatch_core.images.fits_headers import Cards
from levelmatch_core.images.instruments import jwst
from levelmatch_core.images.instruments.base import Part, Source
from levelmatch_core.settings import MatchSettings

STAGE = "combine_nircam_short"
_CHIP = re.compile(r"nrc[ab](?:[1-5]|long)")
_SHORT_CHIP = re.compile(r"(?P<module>nrc[ab])[1-4]")


def _recognises(file_name: str, primary: Cards) -> bool:
    named = jwst.parse_name(file_name)
    if named is not None:
        return _CHIP.fullmatch(named.detector) is not None
    return jwst.of_instrument(primary, "NIRCAM")


def _split(source: Source, settings: MatchSettings) -> tuple[Part, ...]:
    part = jwst.whole(source)
    short = _SHORT_CHIP.fullmatch(part.detector)
    if short is None or not settings.combine_nircam_short:
        return (part,)
    base = jwst.tile_base(source, part.detector)
    tile = f"{base}_{part.detector}"
    groups = {"dithers": tile, STAGE: f"{base}_{short['module']}", "mosaic_tiles": ""}
    return (replace(part, tile=tile, groups=groups),)


INSTRUMENT = replace(jwst.INSTRUMENT, name="nircam", recognises=_recognises, split=_split, rank=0)
