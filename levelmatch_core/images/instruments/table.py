"""Instruments from tables; the format is described in :mod:`levelmatch_core.instrument_tables`."""

from pathlib import PurePosixPath

from levelmatch_core.images.exposure import Window
from levelmatch_core.images.fits_headers import Cards
from levelmatch_core.images.instruments.base import Instrument, Part, Source, plain_groups
from levelmatch_core.instrument_tables import InstrumentTable
from levelmatch_core.settings import MatchSettings
from levelmatch_core.text.patterns import Pattern

_UNSET = frozenset({"", "none", "n/a"})


def of_table(table: InstrumentTable, *, own: bool = False) -> Instrument:
    """Return the instrument of a table.

    Parameters
    ----------
    table
        The table.
    own
        Whether it is the user's own, which is then stored with the exposures.
    """
    pattern = Pattern(table.tile.pattern, ignore_case=True) if table.tile.pattern else None
    wanted = {card: {value.strip().lower() for value in values} for card, values in table.header.items()}
    window = Window(rows=table.exclude.rows, columns=table.exclude.columns, inside=False) if table.exclude else None

    def recognises(_file_name: str, primary: Cards) -> bool:
        return any(str(primary.get(card, "")).strip().lower() in values for card, values in wanted.items())

    def split(source: Source, _settings: MatchSettings) -> tuple[Part, ...]:
        # the chips of a file have their own levels, and therefore their own tiles
        tile = source.tile or _tile(source, table.tile.card, pattern) + source.chip
        detector = str(source.primary.get("DETECTOR", "")).strip().lower() + source.chip
        return (Part(detector=detector, tile=tile, groups=plain_groups(tile), window=window),)

    return Instrument(
        name=table.name,
        recognises=recognises,
        split=split,
        rank=-1 if own else 1,
        sci=table.images.sci,
        err=table.images.err,
        dq=table.images.dq,
        bad_bits=sum(1 << bit for bit in set(table.dq.bits)),
        blank_zero=table.images.blank_zero,
        pixel_values=table.images.pixel_values,
        weight=table.images.weight,
        companion_bits=sum(1 << bit for bit in set(table.companions.bits)),
        band_cards=table.band.cards,
        no_band=frozenset(value.lower() for value in table.band.empty),
        next_step=table.next.step,
        table=table if own else None,
    )


def _tile(source: Source, card: str, pattern: Pattern | None) -> str:
    """Return the name of the tile without its chip: from the card, from the pattern, else the file."""
    value = str(source.primary.get(card, "")).strip().lower() if card else ""
    if value not in _UNSET:
        return value
    found = pattern.first(PurePosixPath(source.file).name) if pattern else None
    return source.file if found is None else found.lower()
