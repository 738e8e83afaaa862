"""One detector image, as a record of where it lies and what it is; reading its pixels is in :mod:`.reading`."""

import re
from typing import Literal

from pydantic import Field as Described

from levelmatch_core.instrument_tables import InstrumentTable
from levelmatch_core.records import Place, Record
from levelmatch_core.settings import WcsSource


class Window(Record):
    """A rectangle of detector pixels, counted from 0, half open, and whether the exposure is its inside or the rest."""

    rows: tuple[int, int]
    columns: tuple[int, int]
    inside: bool


class Companion(Record):
    """A weight map or a mask of an exposure: an image of its shape, in a file of its own or in the same one."""

    path: Place = Described(description="absolute path of its file; never part of an output")
    file: str = Described(description="path relative to the INPUT")
    digest: str = Described(description="sha256 (hex) of that file's bytes")
    hdu: int = Described(description="index of its HDU")
    bits: int = Described(default=0, description="bits of a mask that take a pixel out; 0: any that is not 0")


class Exposure(Record):
    """One detector image (one SCI extension, or one window of it). Members of all stages are made of these."""

    name: str = Described(
        description="unique in a run: the file, `#n` for a further chip, `@lyot` / `@main` for a half"
    )
    path: Place = Described(description="absolute path of the file; never part of an output")
    file: str = Described(description="path relative to the INPUT that it came from, posix; what tables show")
    product: str = Described(
        default="",
        description="name of its output below tiles/ where that is not `file`: Lyot and main file become one",
    )
    digest: str = Described(description="sha256 (hex) of the file's bytes")
    checksum: str = Described(default="", description="xxh64 (hex) of the same bytes; '' if it was not taken")
    sci: int = Described(description="index of the HDU that holds the image")
    err: int | None = Described(default=None, description="index of the HDU with 1-sigma errors, if any")
    dq: int | None = Described(default=None, description="index of the HDU with data-quality bits, if any")
    shape: tuple[int, int] = Described(description="rows, columns of the whole image")
    plane: int | None = Described(default=None, description="the plane of the cube that it is, from 1; None: no cube")
    window: Window | None = Described(default=None, description="the part of the image that this exposure is")
    instrument: str = Described(description="name of the entry in levelmatch_core.images.instruments")
    table: InstrumentTable | None = Described(default=None, description="what it is, where the user named its table")
    detector: str
    tile: str
    band: str = Described(description="FILTER, or FILTER-PUPIL, lower case; '' where the header has none")
    unit: str = Described(description="BUNIT as written in the SCI header, '' where there is none")
    groups: dict[str, str] = Described(
        description="stage name -> group in that stage; a stage not named is passed over"
    )
    anchors: tuple[str, ...] = Described(default=(), description="stages in which this exposure keeps correction 0")
    wcs_source: WcsSource = Described(
        default="header", description="where its WCS is: the image's header, or the gwcs of the ASDF extension"
    )
    footprint: tuple[tuple[float, float], ...] = Described(description="(RA, Dec) of the outline, degrees, in order")
    scale: float = Described(description="pixel scale, arcsec: root of the pixel's area at the image's centre")
    area: tuple[float, float] | None = Described(
        default=None, description="least and largest pixel area, arcsec2, where values are counts or a flux a pixel"
    )
    pixel_values: Literal["surface_brightness", "flux"] = Described(
        default="surface_brightness", description="what a pixel's value is: only a flux depends on the pixel's area"
    )
    pixel_values_reason: str = Described(default="", description="why that is thought")
    per_area: bool = Described(
        default=False, description="whether it is matched per area: the pixels of its field differ in size too much"
    )
    weight: Companion | None = Described(default=None, description="where it is not above 0, nothing was seen")
    flags: Companion | None = Described(default=None, description="where it flags a pixel, that is not used")
    blank: str | float = Described(default="auto", description="the setting of that name: which values are blank")
    exposure_time: float | None = Described(default=None, description="of the header, seconds")
    beam: float | None = Described(
        default=None, description="product of the beam's axes, arcsec2, where values are per beam"
    )
    counts: bool | None = Described(default=False, description="whether values grow with it; None: cannot be told")
    scaled: bool = Described(default=False, description="whether a factor of its header brought it to another scale")
    divisor: float = Described(
        default=1.0, description="values are divided by it before they are matched: the exposure time of counts"
    )
    angle: float = Described(description="position angle of the image's +y axis, degrees east of north")
    background_time: float | None = Described(default=None, description="DT_BGR of the primary header (a difference)")
    zero_point: float | None = Described(default=None, description="photometric zero point of the header, magnitudes")

    @property
    def bytes_digest(self) -> str:
        """What says soonest whether the file's bytes are still those that the inventory saw."""
        return self.checksum or self.digest


class Failure(Record):
    """Something that was left out: named, counted and shown, never silent."""

    name: str = Described(description="the file, exposure or tile that was left out")
    step: str = Described(description="the step in which it happened: inventory, cutout, ...")
    error: str = Described(description="class of the error, such as 'NotFitsError'")
    reason: str = Described(description="the message, with what to do")
    exposures: tuple[str, ...] = Described(default=(), description="names of the exposures that are lost by it")
    tiles: tuple[str, ...] = Described(
        default=(), description="the tile that lacks it (or tiles), then the groups in which that would be matched"
    )

    @property
    def why(self) -> str:
        """The reason without the name in front, for texts that name it."""
        return self.reason.removeprefix(f"{self.name}: ")

    @property
    def tile(self) -> str:
        """The tile that lacks it, '' where that cannot be told."""
        return self.tiles[0] if self.tiles else ""


def field_title(name: str) -> str:
    """Return what a field is called in sentences: that of a band without a name is called 'field' itself."""
    return f"the {name}" if re.fullmatch(r"field(-\d+)?", name) else f"field {name}"


class Field(Record):
    """Exposures of one instrument, band and unit whose footprints touch; they share one grid."""

    name: str = Described(description="band, and a number where a band has several fields: safe in a file name")
    instrument: str
    band: str
    unit: str
    exposures: tuple[Exposure, ...] = Described(description="sorted by name")
    scale_doubt: str = Described(
        default="", description="why its values may not be on one scale, which nothing in the headers tells"
    )

    @property
    def title(self) -> str:
        """What it is called in sentences."""
        return field_title(self.name)

    @property
    def per_area(self) -> bool:
        """Whether its exposures are matched per area."""
        return any(exposure.per_area for exposure in self.exposures)


class Inventory(Record):
    """All that came in: the fields, and what was left out."""

    fields: tuple[Field, ...]
    failures: tuple[Failure, ...] = ()
    pending: tuple[Failure, ...] = Described(default=(), description="files still being written: for the next run")
    asides: dict[str, str] = Described(default={}, description="file -> why it is no exposure of the sky")
    notes: tuple[str, ...] = Described(default=(), description="what the user should know: mixed bands, units, ...")
