"""Common properties of JWST's cameras (file names, data-quality bits, blank zeros), and cameras without a module."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from levelmatch_core.images.fits_headers import Cards
from levelmatch_core.images.instruments.base import Instrument, Part, Source, plain_groups
from levelmatch_core.settings import MatchSettings

DO_NOT_USE = 1 << 0
NON_SCIENCE = 1 << 9
BAD_BITS = DO_NOT_USE | NON_SCIENCE
"""Bits of the JWST data-quality array (jwst-pipeline documentation, "Data Quality Flags") that mask a pixel."""

VARIANCES = ("VAR_POISSON", "VAR_RNOISE", "VAR_FLAT")
BAND_CARDS = ("FILTER", "PUPIL")
NO_BAND = frozenset({"clear", "clearp", "n/a", "none"})

BACKGROUND = (
    "The files record what was subtracted (BKGLEVEL, BKGSUB = T, BKGMETH = levelmatch): resample and outlier detection "
    "use them unchanged, a default skymatch step stops with an error, and one with subtract=True "
    "would match them again."
)
"""The consequences of `write_background` (tested with jwst 3.0)."""

NEXT_STEP = """\
strun calwebb_image3 asn.json --steps.skymatch.skip=true

Image3Pipeline.call("asn.json", steps={"skymatch": {"skip": True}}, save_results=True)"""
"""Level 3 without skymatch (jwst-pipeline documentation, "Running the pipeline")."""

# jw<program><observation><visit>_<group><parallel sequence><activity>_<exposure>[-seg<nnn>]_<detector>[_<ext>].fits
_NAME = re.compile(
    r"(?P<pointing>jw\d{11}_\d{2}[0-9a-z]{3})_(?P<exposure>\d{5}(?:-seg\d{3})?)_(?P<detector>[a-z0-9]+)"
    r"(?:_[a-z0-9_-]+)?\.fits(?:\.(?:gz|fz|bz2|z))?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class JwstName:
    """The parts of the file name of an exposure."""

    pointing: str
    """Program, observation, visit and activity: `jwPPPPPOOOVVV_GGSAA`."""
    exposure: str
    """The number of the exposure, which distinguishes dithers."""
    detector: str

    @property
    def tile(self) -> str:
        """Name of the tile: the dithers of one pointing on one detector."""
        return f"{self.pointing}_{self.detector}"

    @property
    def identity(self) -> str:
        """The identifier of the exposure in all stages of processing."""
        return f"{self.pointing}_{self.exposure}_{self.detector}"


def parse_name(file: str) -> JwstName | None:
    """Return the parts of the file name of a JWST exposure, ignoring folders; None if it is not such a name."""
    match = _NAME.fullmatch(PurePosixPath(file).name)
    if match is None:
        return None
    return JwstName(match["pointing"].lower(), match["exposure"].lower(), match["detector"].lower())


def of_instrument(primary: Cards, instrument: str) -> bool:
    """Return whether the primary header names this JWST instrument."""
    telescope = str(primary.get("TELESCOP", "")).strip().upper()
    return telescope == "JWST" and str(primary.get("INSTRUME", "")).strip().upper() == instrument


def detector_of(source: Source) -> str:
    """Return the detector in lower case, from the file name, else from DETECTOR."""
    named = parse_name(source.file)
    return named.detector if named else str(source.primary.get("DETECTOR", "")).strip().lower()


def tile_base(source: Source, detector: str) -> str:
    """Return the name of the tile without its detector, for images whose chips or halves have their own tiles.

    That is the user's tile if one was given, else the pointing, or the file if its name does not follow the convention
    of JWST.
    """
    if source.tile is not None:
        return source.tile.removesuffix(f"_{detector}")
    named = parse_name(source.file)
    return named.pointing if named else source.name


def whole(source: Source) -> Part:
    """Return the labels of an image that is a single exposure, for the stages that all images have."""
    named = parse_name(source.file)
    tile = source.tile or (named.tile if named else source.name)
    return Part(detector=detector_of(source), tile=tile, groups=plain_groups(tile), identity=identity_of(source))


def identity_of(source: Source) -> str:
    """Return the unique identifier of the image; '' if its name does not follow the convention of JWST."""
    named = parse_name(source.file)
    return named.identity + source.chip if named else ""


def _recognises(file_name: str, primary: Cards) -> bool:
    return parse_name(file_name) is not None or str(primary.get("TELESCOP", "")).strip().upper() == "JWST"


def _split(source: Source, _settings: MatchSettings) -> tuple[Part, ...]:
    return (whole(source),)


INSTRUMENT = Instrument(
    name="jwst",
    recognises=_recognises,
    split=_split,
    rank=1,
    variances=VARIANCES,
    bad_bits=BAD_BITS,
    blank_zero=True,
    band_cards=BAND_CARDS,
    no_band=NO_BAND,
    background=BACKGROUND,
    next_step=NEXT_STEP,
)
