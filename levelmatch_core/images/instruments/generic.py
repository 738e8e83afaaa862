"""Any FITS image: one exposure per tile, no masks except NaN and BLANK, and 0 is a valid value."""

from levelmatch_core.images.fits_headers import Cards
from levelmatch_core.images.instruments.base import Instrument, Part, Source, plain_groups
from levelmatch_core.settings import MatchSettings


def _recognises(_file_name: str, _primary: Cards) -> bool:
    return True


def _split(source: Source, _settings: MatchSettings) -> tuple[Part, ...]:
    tile = source.tile or source.name
    detector = str(source.primary.get("DETECTOR", "")).strip().lower()
    return (Part(detector=detector, tile=tile, groups=plain_groups(tile)),)


INSTRUMENT = Instrument(name="generic", recognises=_recognises, split=_split, rank=2)
