"""The files that come in, with their headers; those that cannot be read, or are still written to, by name."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

from astropy.io import fits

from levelmatch_core.errors import DataError, LostInputError, MissingInputError, NoImageError, NotFitsError
from levelmatch_core.files.regular import refuse_irregular
from levelmatch_core.images.contents.bands import BandCards
from levelmatch_core.images.contents.image_list import ImageList, list_images, with_plane
from levelmatch_core.images.contents.no_sky import no_sky
from levelmatch_core.images.exposure import Failure
from levelmatch_core.images.fits_headers import Hdu, read_headers
from levelmatch_core.images.instruments import Instrument, known_with, recognise
from levelmatch_core.images.reading import file_digests
from levelmatch_core.settings import MatchSettings

STEP, PENDING = "inventory", "pending"


class EarlierInputs(Protocol):
    """What is known of files that were read before."""

    def complaint(self, shown: str, digest: str, hdus: Sequence[Hdu], /) -> str:
        """Return what a file has lost that makes it unusable, '' if that is nothing."""
        ...

    def is_as_before(self, shown: str, digest: str, /) -> bool:
        """Return whether a file has the bytes that it had."""
        ...


@dataclass(frozen=True)
class SourceFile:
    """A file whose headers were read."""

    path: Path
    shown: str
    digest: str
    """The sha256 (hex) of its bytes."""
    checksum: str
    """Their xxh64 (hex)."""
    hdus: tuple[Hdu, ...]
    instrument: Instrument
    no_sky: Mapping[int, str] = field(default_factory=dict)
    """HDU -> why it can be no image of the sky, by what its pixels hold."""

    @property
    def primary(self) -> Hdu:
        """Its first HDU."""
        return self.hdus[0]

    def card(self, name: str) -> str:
        """Return a card of the primary header, else of the image's own, as lower-case text; '' if there is none."""
        for hdu in (self.hdus[0], *(hdu for hdu in self.hdus if hdu.shape is not None)):
            value = hdu.get(name)
            if value is not None and str(value).strip():
                return str(value).strip().lower()
        return ""

    def band_of(self, image: Hdu) -> BandCards:
        """Return the band of one of its images: by the image's own cards, the primary header's, another image's."""
        if image.index not in self._told:
            others = (hdu for hdu in self.hdus[1:] if hdu.shape is not None and hdu is not image)
            self._told[image.index] = BandCards((image, self.primary, *others), self.instrument)
        return self._told[image.index]

    @cached_property
    def _told(self) -> dict[int, BandCards]:
        """The bands that were asked for, by the number of the HDU: each is several times."""
        return {}

    @cached_property
    def band(self) -> BandCards:
        """That of the file as a whole, by its primary header."""
        return self.band_of(self.primary)

    @cached_property
    def listed(self) -> ImageList:
        """Its images; raises NoImageError where there is none."""
        return list_images(self.hdus, self.instrument, self.shown)

    @cached_property
    def bands(self) -> frozenset[str]:
        """All that a user may call the bands of its images."""
        try:
            images = self.listed.images
        except NoImageError:  # which costs the file later, by name
            images = ()
        return self.band.names.union(*(self.band_of(image).names for image in images))

    def is_no_sky(self) -> str:
        """Return why the file is no exposure, by what the pixels of all its images hold; '' if any may be one."""
        try:
            reasons = [self.no_sky.get(image.index, "") for image in self.listed.images]
        except NoImageError:
            return ""
        return reasons[0] if all(reasons) else ""

    @property
    def camera(self) -> str:
        """Telescope and instrument as the header names them, and the survey, which is what tells plates apart."""
        return " ".join(filter(None, (self.card("TELESCOP"), self.card("INSTRUME"), self.card("SURVEY"))))


def reading_failure(name: str, error: DataError) -> Failure:
    """Return what is said of a file or an exposure that this error costs."""
    return Failure(name=name, step=STEP, error=type(error).__name__, reason=str(error), exposures=(name,))


def read_files(
    paths: Sequence[tuple[Path, str]],
    settings: MatchSettings,
    missing: Mapping[Path, str],
    earlier: EarlierInputs | None = None,
) -> list[SourceFile | Failure]:
    """Read digests and headers of all files that are there and that nobody writes to any more, in their order."""
    known = known_with(settings.instruments)

    def read(entry: tuple[Path, str]) -> SourceFile | Failure:
        path, shown = entry
        if path in missing:
            return reading_failure(shown, MissingInputError(f"{shown}: {missing[path]}"))
        file = _read_settled(path, shown, known, settings)
        if isinstance(file, SourceFile) and earlier is not None:
            lost = earlier.complaint(shown, file.digest, file.hdus)
            return reading_failure(shown, LostInputError(lost)) if lost else file
        return file

    if settings.procs == 1:
        return [read(entry) for entry in paths]
    with ThreadPoolExecutor(settings.procs) as pool:
        return list(pool.map(read, paths))


def _read_settled(path: Path, shown: str, known: Sequence[Instrument], settings: MatchSettings) -> SourceFile | Failure:
    """Read a file, unless somebody writes to it: it then waits for the next run, however it looks now."""
    settle = settings.settle_seconds
    before = _stamp(path)
    age = time.time() - before[1] / 1e9
    if 0 <= age < settle:
        reason = f"{shown}: changed {age:.0f} s ago, less than settle_seconds ({settle:g}); the next run takes it"
        return Failure(name=shown, step=PENDING, error="Pending", reason=reason, exposures=(shown,))
    found = _read(path, shown, known, checksums=settings.checksums == "verify", plane=settings.plane)
    if _stamp(path) != before:
        reason = f"{shown}: changed while it was read; the next run takes it"
        return Failure(name=shown, step=PENDING, error="Pending", reason=reason, exposures=(shown,))
    return found


def _stamp(path: Path) -> tuple[int, int, int]:
    """Return a file's size and time of change (ns); zeros where it cannot be told, which reading it will explain."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0, 0
    return status.st_size, status.st_mtime_ns, status.st_ino


def _read(
    path: Path, shown: str, known: Sequence[Instrument], *, checksums: bool, plane: int | None
) -> SourceFile | Failure:
    try:
        shown.encode()
    except UnicodeEncodeError:
        name = shown.encode("utf-8", "backslashreplace").decode()
        return reading_failure(
            name, DataError(f"{name}: its name is not UTF-8, which tables and records need; rename it")
        )
    try:
        refuse_irregular(path, NotFitsError, shown)
        hdus = with_plane(read_headers(path, shown, checksums=checksums), plane)
        file = SourceFile(path, shown, *file_digests(path), hdus, recognise(path.name, hdus[0], known))
        _ = file.bands, file.camera  # a damaged card shows here
    except DataError as error:
        return reading_failure(shown, error)
    except fits.VerifyError as error:
        return reading_failure(shown, NotFitsError(f"{shown}: damaged header: {error}"))
    except OSError as error:
        return reading_failure(shown, NotFitsError(f"{shown}: cannot be read: {error.strerror or error}"))
    try:
        images = file.listed.images
    except NoImageError:  # which costs the file later, by name
        return file
    # what an instrument calls its image is one, unless it is whole numbers: WFPC2's masks are called SCI, too
    unsure = [image for image in images if not image.name or image.name != file.instrument.sci or image.bitpix > 0]
    reasons = {image.index: why for image in unsure if (why := no_sky(path, image))}
    return replace(file, no_sky=reasons) if reasons else file
