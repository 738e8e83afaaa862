"""Instruments as tables: a TOML file beside this module is all that a camera without quirks needs.

::

    name = "camera"
    [header]                    # recognised where one of these cards has one of these values
    TELESCOP = ["SCOPE"]
    [images]                    # EXTNAMEs; a file without SCI gives its first two-dimensional image
    sci = "SCI"
    err = "ERR"
    dq = "DQ"
    blank_zero = false          # whether a pixel that is exactly 0 is blank
    [dq]
    bits = [0, 3]               # numbers of the bits that mask a pixel
    [band]
    cards = ["FILTER"]
    empty = ["clear"]           # values that add nothing
    [tile]
    card = "ASN_ID"             # dithers of a tile share this card's value, or
    pattern = "^(r[0-9]+)_"     # the first group of this expression, searched in the file's name
    [exclude]                   # a window of every image that is never used, half open, from 0
    rows = [0, 16]
    columns = [0, 1024]
    [next]
    step = "how to call the next step so that it does not match again"
"""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from astropy.io import fits
from pydantic import Field as Described
from pydantic import ValidationError

from levelmatch_core.errors import SettingsError
from levelmatch_core.images.exposure import Window
from levelmatch_core.images.instruments.base import Instrument, Part, Source, plain_groups
from levelmatch_core.records import Record
from levelmatch_core.settings import MatchSettings

_UNSET = frozenset({"", "none", "n/a"})


class _Images(Record):
    sci: str = "SCI"
    err: str = "ERR"
    dq: str = "DQ"
    blank_zero: bool = False


class _Quality(Record):
    bits: tuple[int, ...] = ()


class _Band(Record):
    cards: tuple[str, ...] = Described(default=("FILTER",), min_length=1)
    empty: tuple[str, ...] = ()


class _Tile(Record):
    card: str = ""
    pattern: str = ""


class _Exclude(Record):
    rows: tuple[int, int]
    columns: tuple[int, int]


class _Next(Record):
    step: str = ""


class _Table(Record):
    name: str
    header: dict[str, tuple[str, ...]] = Described(min_length=1)
    images: _Images = _Images()
    dq: _Quality = _Quality()
    band: _Band = _Band()
    tile: _Tile = _Tile()
    exclude: _Exclude | None = None
    next: _Next = _Next()


def load(path: Path) -> Instrument:
    """Return the instrument that a TOML file describes.

    Raises
    ------
    SettingsError
        If the file cannot be read or has an unknown or ill-typed entry.
    """
    try:
        return of_table(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ValidationError, re.error) as error:
        message = f"instrument table {path}: {error}; the module docstring of {__name__} shows what one holds"
        raise SettingsError(message) from error


def of_table(content: Mapping[str, Any]) -> Instrument:
    """Return the instrument of a table's content; raises pydantic's ValidationError, or re.error, where it is wrong."""
    table = _Table.model_validate(dict(content))
    pattern = re.compile(table.tile.pattern, re.IGNORECASE) if table.tile.pattern else None
    wanted = {card: {value.strip().lower() for value in values} for card, values in table.header.items()}
    window = Window(rows=table.exclude.rows, columns=table.exclude.columns, inside=False) if table.exclude else None

    def recognises(_file_name: str, primary: fits.Header) -> bool:
        return any(str(primary.get(card, "")).strip().lower() in values for card, values in wanted.items())

    def split(source: Source, _settings: MatchSettings) -> tuple[Part, ...]:
        # the chips of a file have levels of their own: tiles of their own
        tile = source.tile or _tile(source, table.tile.card, pattern) + source.chip
        detector = str(source.primary.get("DETECTOR", "")).strip().lower() + source.chip
        return (Part(detector=detector, tile=tile, groups=plain_groups(tile), window=window),)

    return Instrument(
        name=table.name,
        recognises=recognises,
        split=split,
        rank=1,
        sci=table.images.sci,
        err=table.images.err,
        dq=table.images.dq,
        bad_bits=sum(1 << bit for bit in set(table.dq.bits)),
        blank_zero=table.images.blank_zero,
        band_cards=table.band.cards,
        no_band=frozenset(value.lower() for value in table.band.empty),
        next_step=table.next.step,
    )


def _tile(source: Source, card: str, pattern: re.Pattern[str] | None) -> str:
    """Return the tile's name without its chip: by the card, by the pattern, else the file."""
    value = str(source.primary.get(card, "")).strip().lower() if card else ""
    if value not in _UNSET:
        return value
    found = pattern.search(PurePosixPath(source.file).name) if pattern else None
    return found[1 if found.re.groups else 0].lower() if found else source.file
