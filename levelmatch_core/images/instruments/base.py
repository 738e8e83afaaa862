"""What an instrument is to levelmatch: how to know its files, what its masks mean, how images become exposures."""

from collections.abc import Callable
from dataclasses import dataclass, field

from levelmatch_core.images.exposure import Window
from levelmatch_core.images.fits_headers import Cards
from levelmatch_core.instrument_tables import InstrumentTable
from levelmatch_core.settings import MatchSettings


@dataclass(frozen=True)
class Source:
    """One image of one file, as an instrument sees it when it labels it."""

    file: str
    """The file as it is shown: its path relative to the INPUT that it came from."""
    chip: str
    """`#n` for the n-th SCI extension of a file that has several, '' otherwise."""
    shape: tuple[int, int]
    """Rows, columns of the image."""
    primary: Cards
    """The primary header."""
    tile: str | None = None
    """The tile that the user gave (by `group_by`); None lets the instrument choose."""

    @property
    def name(self) -> str:
        """The name of the exposure that the whole image makes."""
        return self.file + self.chip


@dataclass(frozen=True)
class Part:
    """The labels of one exposure that an image holds."""

    detector: str
    tile: str
    groups: dict[str, str]
    """Stage name -> group; that of the mosaic stage is '' until the field is known."""
    suffix: str = ""
    """What is added to the exposure's name, such as `@lyot`."""
    product: str = ""
    """The output's name, where it is not the input's."""
    window: Window | None = None
    anchors: tuple[str, ...] = ()
    """Stages in which this exposure keeps correction 0."""
    identity: str = ""
    """What tells this exposure from all others, whatever its bytes; '' where the file does not say."""


@dataclass(frozen=True)
class Instrument:
    """One kind of input file. A new instrument is one new module of this package that defines `INSTRUMENT`."""

    name: str
    recognises: Callable[[str, Cards], bool]
    """Whether a file (its name without folders, its primary header) is of this instrument."""
    split: Callable[[Source, MatchSettings], tuple[Part, ...]]
    """The exposures that an image holds, one or more."""
    rank: int = 0
    """Instruments are asked in the order of rank, then name: 0 one instrument, 1 a family, 2 anything."""
    sci: str = "SCI"
    err: str = "ERR"
    dq: str = "DQ"
    """EXTNAMEs of image, 1-sigma error and data quality; without such an image each with a celestial WCS is one."""
    variances: tuple[str, ...] = ()
    """EXTNAMEs of the parts of the variance, which go along with SCI where images are put together."""
    bad_bits: int = 0
    """Bits of DQ that take a pixel out before resampling."""
    blank_zero: bool = False
    """Whether a pixel that is exactly 0 is blank."""
    band_cards: tuple[str, ...] = field(default=("FILTER",))
    """Cards whose values, joined by '-', name the band; where none tells, those of
    :data:`levelmatch_core.images.contents.bands.USUAL_CARDS` do."""
    no_band: frozenset[str] = frozenset()
    """Values (lower case) of a further band card that add nothing, such as 'clear'."""
    background: str = ""
    """What it means for the next step that a file says what was subtracted (BKGLEVEL, BKGSUB, BKGMETH, and
    meta.background of its ASDF tree); '' where files have no such cards."""
    table: InstrumentTable | None = None
    """The table that the user named, where it comes from one."""
    next_step: str = ""
    """How to call the pipeline that comes next so that it does not match again; '' where there is none."""


def plain_groups(tile: str) -> dict[str, str]:
    """Return the groups of an exposure that takes part in dithers and mosaic only."""
    return {"dithers": tile, "mosaic_tiles": ""}
