"""Instruments as tables: a TOML file is sufficient for a camera without peculiarities.

::

    name = "camera"
    [header]                    # recognised if one of these cards has one of these values
    TELESCOP = ["SCOPE"]
    [images]                    # EXTNAMEs; in a file without SCI, each image with a celestial WCS is used
    sci = "SCI"                 # "*": every image with a celestial WCS of its own, as in mosaic cameras' files
    err = "ERR"
    dq = "DQ"
    blank_zero = false          # whether a pixel that is exactly 0 is blank
    pixel_values = "flux"       # or "surface_brightness": what a pixel's value is, where the unit does not tell
    weight = "WHT"              # EXTNAME of weights: where they are 0 nothing was seen
    [dq]
    bits = [0, 3]               # numbers of the bits that mask a pixel
    [band]
    cards = ["FILTER"]          # if none of them is present, those that most cameras use
    empty = ["clear"]           # values that are ignored
    [tile]
    card = "ASN_ID"             # dithers of a tile have the same value of this card, or of
    pattern = "^(r[0-9]+)_"     # the first group of this expression, searched in the file name
    [exclude]                   # a window of every image that is never used, half open, from 0
    rows = [0, 16]
    columns = [0, 1024]
    [companions]
    bits = [3, 8]               # of masks in files of their own, numbers of the bits that mask a pixel; none: any
    [next]
    step = "how to call the next step so that it does not match again"

The built-in tables are in `levelmatch_core/images/instruments`; the setting `instruments` adds further ones.
"""

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ValidationError, model_validator
from pydantic import Field as Described

from levelmatch_core.errors import SettingsError, UsageError
from levelmatch_core.files.regular import refuse_irregular
from levelmatch_core.records import Record
from levelmatch_core.text.patterns import Pattern

ALL = "*"
"""Instead of an EXTNAME: every image of a file with its own celestial WCS."""


class Images(Record):
    """EXTNAMEs, and whether pixels of 0 are blank."""

    sci: str = Described(default="SCI", min_length=1)
    err: str = "ERR"
    dq: str = "DQ"
    blank_zero: bool = False
    pixel_values: Literal["surface_brightness", "flux"] | None = None
    weight: str = ""


class Quality(Record):
    """Bits of the data-quality array that mask a pixel."""

    bits: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _numbers(self) -> Self:
        wrong = [bit for bit in self.bits if not 0 <= bit < 64]
        if wrong:
            message = f"bits {wrong}: expected the numbers of bits, 0 to 63, not their values"
            raise ValueError(message)
        return self


class Band(Record):
    """Cards whose values are the name of the band, and values that are ignored."""

    cards: tuple[str, ...] = Described(default=("FILTER",), min_length=1)
    empty: tuple[str, ...] = ()


class Tile(Record):
    """The property that the dithers of a tile have in common."""

    card: str = ""
    pattern: str = ""

    @model_validator(mode="after")
    def _compiles(self) -> Self:
        try:
            Pattern(self.pattern)
        except UsageError as error:
            message = f"pattern {self.pattern!r}: not a regular expression of RE2 ({error})"
            raise ValueError(message) from error
        return self


class Exclude(Record):
    """A window of every image that is never used, half open, from 0."""

    rows: tuple[int, int]
    columns: tuple[int, int]


class Companions(Record):
    """What the masks in files of their own mean."""

    bits: tuple[int, ...] = ()


class Next(Record):
    """How to call the next step of the data reduction."""

    step: str = ""


class InstrumentTable(Record):
    """One instrument."""

    name: str = Described(min_length=1)
    header: dict[str, tuple[str, ...]] = Described(min_length=1)
    images: Images = Images()
    dq: Quality = Quality()
    band: Band = Band()
    tile: Tile = Tile()
    exclude: Exclude | None = None
    companions: Companions = Companions()
    next: Next = Next()


def read_table(path: Path) -> InstrumentTable:
    """Return the instrument described by a TOML file.

    Raises
    ------
    SettingsError
        If the file cannot be read or has an unknown entry or one of the wrong type.
    """
    refuse_irregular(path, SettingsError, f"instrument table {path}")
    try:
        return InstrumentTable.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        reason = "; ".join(_complaint(each) for each in error.errors())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        reason = str(error)
    message = f"instrument table {path}: {reason}; the docstring of {__name__} describes the format"
    raise SettingsError(message)


def _complaint(error: Mapping[str, Any]) -> str:
    """Return the problem with an entry and, for an unknown entry, similar names."""
    *place, name = (str(part) for part in error["loc"] or ("the table",))
    where = ".".join([*place, name])
    if error["type"] != "extra_forbidden":
        return f"{where}: {error['msg']}"
    model: Any = InstrumentTable
    for part in place:
        kind = model.model_fields[part].annotation
        model = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else Exclude
    known = list(model.model_fields)
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    return f"unknown entry {where}: " + (
        f"did you mean {', '.join(near)}?" if near else f"known are {', '.join(known)}"
    )
