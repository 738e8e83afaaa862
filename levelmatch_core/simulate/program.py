"""The simulated program: its parameters, the layout of each instrument, and the pointing of each exposure.

All random numbers come from :func:`generator`, which is seeded with the program's seed and the purpose of the numbers,
so that no exposure depends on the order in which exposures are made.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from astropy.wcs import WCS
from pydantic import Field as Described
from pydantic import ValidationError, model_validator

from levelmatch_core.errors import UsageError
from levelmatch_core.images.exposure import Window
from levelmatch_core.records import Record

LYOT_FIRST_ROW = 735
"""First detector row (from 0) of MIRI's Lyot window, which runs to the last row."""
LYOT_COLUMNS = 290
"""Number of detector columns of MIRI's Lyot window, which starts at the first column.

Both numbers are deliberately independent of those in `images.instruments`, so that an error there is noticed."""
LYOT_SMALLEST_SIZE = 800
"""With fewer rows, too little of the window remains to be matched."""


class SimulatedProgram(Record):
    """A simulated observing program. Levels and noise are in the data's unit, lengths in pixels."""

    instrument: Literal["miri", "nircam_short", "generic"] = "miri"
    tiles: tuple[int, int] = Described(default=(3, 3), description="tiles along x and y")
    dithers: int = Described(default=4, ge=1, le=99, description="exposures per tile; a generic program has one")
    size: int = Described(default=512, ge=32, description="rows of a detector image")
    columns: int | None = Described(
        default=None, ge=32, description="columns of the image; None: those of the instrument"
    )
    lyot: bool = Described(default=False, description="MIRI: give the Lyot window a level (and plane) of its own")
    planes: bool = Described(default=False, description="add planes instead of levels only")
    seed: int = Described(default=0, ge=0)
    noise: float = Described(default=0.1, ge=0, description="1 sigma of the white noise")
    overlap: float = Described(
        default=0.15, gt=0, lt=1, description="overlap of neighbouring tiles, fraction of a tile"
    )
    level_sd: float = Described(default=10.0, ge=0, description="1 sigma of the tiles' levels")
    dither_level_sd: float = Described(
        default=1.0, ge=0, description="1 sigma of the exposures' levels about their tile"
    )
    part_level_sd: float = Described(
        default=2.0, ge=0, description="1 sigma of the levels of chips and of the Lyot window"
    )
    slope: float = Described(
        default=5.0,
        ge=0,
        description="planes: 1 sigma of the change of a tile's plane from edge to edge, along each axis",
    )
    dither_slope: float = Described(default=0.5, ge=0, description="planes: the same of exposures about their tile")
    nebula: float = Described(default=20.0, ge=0, description="brightness range of the nebula (1st to 99th percentile)")
    stars: int = Described(default=300, ge=0, description="number of stars in the field")
    bad_pixel_fraction: float = Described(default=0.002, ge=0, lt=0.5)
    distortion: float = Described(
        default=0.1,
        ge=0,
        description="SIP displacement in the worst corner; 0: plain TAN. A plane in distorted pixels is not quite a "
        "plane on the sky: with 0.1 and a slope of 5 by 3e-4 rms, in proportion to both",
    )
    angle: float = Described(default=30.0, description="position angle of the image's +y axis, degrees east of north")
    turn: float = Described(default=0.05, ge=0, description="1 sigma of the exposures' angles about it, degrees")
    centre: tuple[float, float] = Described(default=(83.82, -5.39), description="RA, Dec of the field centre, degrees")
    dtype: Literal["float32", "float64"] = "float32"
    errors: bool = Described(default=True, description="JWST: write ERR and the variances")
    both_modules: bool = Described(default=False, description="NIRCam: nrcb1-4 besides nrca1-4")
    background_times: bool = Described(default=False, description="write DT_BGR into the primary headers")

    @classmethod
    def of(cls, **options: object) -> Self:
        """Return the program with a user's options.

        Raises
        ------
        UsageError
            If an option is unknown, has the wrong type, is out of range, or contradicts another one.
        """
        try:
            return cls.model_validate(options)
        except ValidationError as error:
            lines = [f"{'.'.join(map(str, e['loc']))}={e['input']!r}: {e['msg']}" for e in error.errors()]
            message = f"simulated program: {'; '.join(lines)}"
            raise UsageError(message) from error

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        """Check combinations of fields; pydantic passes our own errors on unchanged."""
        if self.lyot and self.instrument != "miri":
            message = f"lyot: only miri has a Lyot window, and the instrument is {self.instrument}; leave lyot out"
            raise UsageError(message)
        if self.lyot and self.size < LYOT_SMALLEST_SIZE:
            message = (
                f"lyot: size={self.size}, but the window starts at row {LYOT_FIRST_ROW} of the detector: "
                f"expected size >= {LYOT_SMALLEST_SIZE} (1024 is the real detector)"
            )
            raise UsageError(message)
        if min(self.tiles) < 1 or self.tiles[0] * self.tiles[1] > 999:
            message = f"tiles: {self.tiles[0]}x{self.tiles[1]}, expected at least 1x1 and at most 999 tiles"
            raise UsageError(message)
        return self


@dataclass(frozen=True)
class ProgramLayout:
    """The properties of an instrument's program."""

    scale: float
    """Pixel scale, arcsec."""
    unit: str
    aspect: float
    """Ratio of columns to rows."""
    chips: dict[str, tuple[float, float]]
    """Detector -> (x, y) of its centre relative to the pointing, in chip sizes."""
    dither_radius: float
    """Radius of the dither pattern, in chip sizes."""
    cards: dict[str, str]
    """Primary header cards, in addition to DETECTOR."""
    names: str
    """Format of the file names; the numbers count from 1."""
    tile_names: str
    jwst: bool
    """Whether files have the extensions of JWST, including DQ, and tiles have several dithers."""


_PITCH = 1.07  # NIRCam's chips: about 64 arcsec wide, 4 to 5 arcsec apart
_MODULE_PITCH = 2.76  # and the modules 44 arcsec apart
_MODULE_A = {
    "NRCA1": (-_PITCH / 2, -_PITCH / 2),
    "NRCA2": (-_PITCH / 2, _PITCH / 2),
    "NRCA3": (_PITCH / 2, -_PITCH / 2),
    "NRCA4": (_PITCH / 2, _PITCH / 2),
}
_MODULE_B = {name.replace("A", "B"): (x + _MODULE_PITCH, y) for name, (x, y) in _MODULE_A.items()}
_JWST = {
    "names": "jw01234{tile:03d}001_02101_{dither:05d}_{detector}_cal.fits",
    "tile_names": "jw01234{tile:03d}001_02101_{detector}",
    "jwst": True,
}
_LAYOUTS: dict[str, dict[str, Any]] = {
    "miri": {
        "scale": 0.11,
        "unit": "MJy/sr",
        "aspect": 1032 / 1024,
        "chips": {"MIRIMAGE": (0.0, 0.0)},
        "dither_radius": 0.05,
        "cards": {"TELESCOP": "JWST", "INSTRUME": "MIRI", "FILTER": "F770W", "EXP_TYPE": "MIR_IMAGE"},
        **_JWST,
    },
    "nircam_short": {
        "scale": 0.031,
        "unit": "MJy/sr",
        "aspect": 1.0,
        "chips": _MODULE_A,
        "dither_radius": 0.12,  # more than twice the gap between chips, so that the stacks of the chips overlap
        "cards": {
            "TELESCOP": "JWST",
            "INSTRUME": "NIRCAM",
            "CHANNEL": "SHORT",
            "FILTER": "F200W",
            "PUPIL": "CLEAR",
            "EXP_TYPE": "NRC_IMAGE",
        },
        **_JWST,
    },
    "generic": {
        "scale": 1.0,
        "unit": "MJy/sr",
        "aspect": 1.0,
        "chips": {"": (0.0, 0.0)},
        "dither_radius": 0.0,
        "cards": {"FILTER": "k"},
        "names": "tile_{tile:03d}.fits",
        "tile_names": "tile_{tile:03d}",
        "jwst": False,
    },
}


def program_layout(program: SimulatedProgram) -> ProgramLayout:
    """Return the layout of the program's instrument."""
    values = dict(_LAYOUTS[program.instrument])
    if program.both_modules and "NRCA1" in values["chips"]:
        values["chips"] = {**_MODULE_A, **_MODULE_B}
    if program.columns is not None:
        values["aspect"] = program.columns / program.size
    return ProgramLayout(**values)


@dataclass(frozen=True)
class Shot:
    """One exposure to be made."""

    file: str
    tile: str
    tile_index: int
    """Counted from 0, x fastest."""
    dither: int
    detector: str
    shape: tuple[int, int]
    wcs: WCS
    windows: dict[str, Window | None]
    """Suffix of the exposure's name -> its part of the image: `@lyot` and `@main`, or '' for the whole."""


def generator(seed: int, *purpose: object) -> np.random.Generator:
    """Return a random number generator for one purpose, independent of all other draws.

    Parameters
    ----------
    seed
        The program's seed.
    *purpose
        The purpose of the numbers, such as ("noise", file name).
    """
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return np.random.default_rng(np.random.SeedSequence(int.from_bytes(digest, "big")))


def shots(program: SimulatedProgram) -> Iterator[Shot]:
    """Yield the exposures of the program, ordered by tile, dither and chip."""
    layout = program_layout(program)
    shape = (program.size, round(program.size * layout.aspect))
    width, height = _tile_extent(layout)
    nx, ny = program.tiles
    for tile in range(nx * ny):
        pointing = generator(program.seed, "pointing", tile)
        jitter = pointing.uniform(-0.01, 0.01, 2)
        column = (tile % nx - (nx - 1) / 2) * width * (1 - program.overlap) + jitter[0]
        row = (tile // nx - (ny - 1) / 2) * height * (1 - program.overlap) + jitter[1]
        turn = program.turn * pointing.standard_normal()
        for dither in range(program.dithers if layout.jwst else 1):
            here = generator(program.seed, "dither", tile, dither)
            dx, dy = _dither(dither, program.dithers, layout.dither_radius) + here.uniform(-0.5, 0.5, 2) / program.size
            angle = program.angle + turn + 0.2 * program.turn * here.standard_normal()
            for detector, (x, y) in layout.chips.items():
                label = {"tile": tile + 1, "dither": dither + 1, "detector": detector.lower()}
                yield Shot(
                    file=layout.names.format(**label),
                    tile=layout.tile_names.format(**label),
                    tile_index=tile,
                    dither=dither,
                    detector=detector,
                    shape=shape,
                    wcs=_wcs(program, layout, shape, (column + dx + x, row + dy + y), angle),
                    windows=_windows(program, shape),
                )


def field_extent(program: SimulatedProgram) -> tuple[float, float]:
    """Return the width and height of the field along the tiles' axes, in pixels, with a margin."""
    layout = program_layout(program)
    margin = 0.1 + 2 * layout.dither_radius
    sides = [
        (extent * (1 + (n - 1) * (1 - program.overlap)) + margin) * program.size
        for extent, n in zip(_tile_extent(layout), program.tiles, strict=True)
    ]
    return sides[0], sides[1]


def tangent_wcs(centre: tuple[float, float], shape: tuple[int, int], scale: float, angle: float) -> WCS:
    """Return a TAN WCS about the centre of an image.

    Parameters
    ----------
    centre
        RA, Dec of the image's centre, degrees.
    shape
        Rows, columns.
    scale
        Pixel scale, arcsec.
    angle
        Position angle of +y, degrees east of north.
    """
    wcs = WCS(naxis=2)
    turn = math.radians(angle)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.radesys = "ICRS"
    wcs.wcs.crval = centre
    wcs.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
    # For an angle of 0, east is towards decreasing x.
    wcs.wcs.cd = (scale / 3600) * np.array([[-math.cos(turn), math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    wcs.wcs.set()
    return wcs


def _tile_extent(layout: ProgramLayout) -> tuple[float, float]:
    """Width and height of one tile (one module, for NIRCam), in chip sizes (rows)."""
    first = dict(list(layout.chips.items())[:4])
    xs, ys = zip(*first.values(), strict=True)
    return max(xs) - min(xs) + layout.aspect, max(ys) - min(ys) + 1.0


def _dither(index: int, count: int, radius: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Offset of a dither from its tile, in chip sizes: on a circle, starting off the axes, every other one inside."""
    if count == 1:
        return np.zeros(2)
    turn = 2 * math.pi * index / count + 0.98
    inward = 0.6 if count > 4 and index % 2 else 1.0
    return inward * radius * np.array([math.cos(turn), math.sin(turn)])


def _wcs(
    program: SimulatedProgram, layout: ProgramLayout, shape: tuple[int, int], offset: tuple[float, float], angle: float
) -> WCS:
    """WCS of an exposure whose centre is `offset` chip sizes from that of the field, along the field's axes."""
    field = tangent_wcs(program.centre, (1, 1), layout.scale, program.angle)
    x, y = (program.size * value for value in offset)
    ra, dec = field.wcs_pix2world(x, y, 0)
    wcs = tangent_wcs((float(ra), float(dec)), shape, layout.scale, angle)
    return _distorted(wcs, shape, program.distortion) if program.distortion else wcs


def _distorted(wcs: WCS, shape: tuple[int, int], amplitude: float) -> WCS:
    """Return `wcs` with SIP polynomials that reach about `amplitude` pixels at the corners."""
    half = max(shape) / 2
    amplitude /= 0.8  # the sum of the coefficients below in the worst corner of a square image
    square, cube = amplitude / half**2, amplitude / half**3
    header = wcs.to_header()
    header.remove("WCSAXES", ignore_missing=True)
    for axis, name in enumerate(("RA---TAN-SIP", "DEC--TAN-SIP"), start=1):
        header[f"CTYPE{axis}"] = name
    for letter, terms in {
        "A": {"2_0": 0.35 * square, "1_1": -0.25 * square, "0_2": 0.1 * square, "3_0": 0.2 * cube, "1_2": -0.1 * cube},
        "B": {"2_0": -0.1 * square, "1_1": 0.3 * square, "0_2": 0.4 * square, "2_1": 0.1 * cube, "0_3": -0.15 * cube},
    }.items():
        header[f"{letter}_ORDER"] = 3
        for term, value in terms.items():
            header[f"{letter}_{term}"] = value
    return WCS(header)


def _windows(program: SimulatedProgram, shape: tuple[int, int]) -> dict[str, Window | None]:
    if not program.lyot:
        return {"": None}
    corner = {"rows": (LYOT_FIRST_ROW, shape[0]), "columns": (0, LYOT_COLUMNS)}
    return {"@lyot": Window(**corner, inside=True), "@main": Window(**corner, inside=False)}
