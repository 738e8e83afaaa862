"""The definition of an instrument: recognition of its files, meaning of its masks, division into exposures."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from levelmatch_core.images.exposure import Window
from levelmatch_core.images.fits_headers import Cards
from levelmatch_core.instrument_tables import InstrumentTable
from levelmatch_core.settings import MatchSettings


@dataclass(frozen=True)
class Source:
    """One image of a file, as the input of an instrument's `split`."""

    file: str
    """The displayed name of the file: its path relative to its INPUT."""
    chip: str
    """`#n` for the n-th SCI extension of a file with several, '' otherwise."""
    shape: tuple[int, int]
    """Rows, columns of the image."""
    primary: Cards
    """The primary header."""
    tile: str | None = None
    """The tile given by the user (with `group_by`); None to let the instrument choose."""

    @property
    def name(self) -> str:
        """The name of the exposure if it is the whole image."""
        return self.file + self.chip


@dataclass(frozen=True)
class Part:
    """The labels of one exposure in an image."""

    detector: str
    tile: str
    groups: dict[str, str]
    """Stage name -> group; that of the mosaic stage is '' until the field is known."""
    suffix: str = ""
    """Suffix of the exposure's name, such as `@lyot`."""
    product: str = ""
    """The name of the output, if it is not that of the input."""
    window: Window | None = None
    anchors: tuple[str, ...] = ()
    """Stages in which this exposure keeps correction 0."""
    identity: str = ""
    """A unique identifier of the exposure, independent of its bytes; '' if the file provides none."""


@dataclass(frozen=True)
class Instrument:
    """One kind of input file. To add an instrument, add a module to this package that defines `INSTRUMENT`."""

    name: str
    recognises: Callable[[str, Cards], bool]
    """Whether a file (name without folders, primary header) is from this instrument."""
    split: Callable[[Source, MatchSettings], tuple[Part, ...]]
    """Returns the exposures in an image, one or more."""
    rank: int = 0
    """Instruments are tried in the order of rank, then name: 0 single instrument, 1 family of instruments, 2
    anything."""
    sci: str = "SCI"
    err: str = "ERR"
    dq: str = "DQ"
    """EXTNAMEs of image, 1-sigma error and data quality; if there is no such image, each with a celestial WCS is
    used."""
    variances: tuple[str, ...] = ()
    """EXTNAMEs of the components of the variance, which are copied with SCI if images are combined."""
    bad_bits: int = 0
    """Bits of DQ that mask a pixel before resampling."""
    blank_zero: bool = False
    """Whether a pixel that is exactly 0 is blank."""
    pixel_values: Literal["surface_brightness", "flux"] | None = None
    """What a pixel's value is; None leaves it to the unit."""
    weight: str = ""
    """EXTNAME of the weights in the same file: where they are 0 nothing was seen."""
    companion_bits: int = 0
    """Bits of masks in files of their own that take a pixel out; 0: any bit does."""
    band_cards: tuple[str, ...] = field(default=("FILTER",))
    """Cards whose values, joined by '-', are the name of the band; if none is present, those of
    :data:`levelmatch_core.images.contents.bands.USUAL_CARDS` are used."""
    no_band: frozenset[str] = frozenset()
    """Values (lower case) of further band cards that are ignored, such as 'clear'."""
    background: str = ""
    """The consequence for the next step if a file records what was subtracted (BKGLEVEL, BKGSUB, BKGMETH, and
    meta.background of its ASDF tree); '' if files have no such cards."""
    table: InstrumentTable | None = None
    """The user's table, if the instrument comes from one."""
    next_step: str = ""
    """How to call the next pipeline so that it does not match again; '' if there is none."""


def plain_groups(tile: str) -> dict[str, str]:
    """Return the groups of an exposure that only takes part in dithers and mosaic."""
    return {"dithers": tile, "mosaic_tiles": ""}
