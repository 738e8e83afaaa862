"""Writing of corrected exposures: the bytes of the input, except for the corrected image and its LVL cards."""

import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.errors import DuplicateExposureError, ShapeMismatchError
from levelmatch_core.images.byte_sink import HashedFile
from levelmatch_core.images.contents.blanks import Blanks, always_blank, find_blanks
from levelmatch_core.images.exposure import Exposure, Window
from levelmatch_core.images.fits_cards import RawFile, RawHeader, open_raw
from levelmatch_core.images.instruments import instrument_of
from levelmatch_core.images.reading import read_wcs
from levelmatch_core.matching.corrections import Correction, Status
from levelmatch_core.products.corrected.editing import (
    Blank,
    EditedFile,
    change_of,
    inside_of,
    local_plane,
    moved_by,
    output_type,
    physical_values,
    scaling_of,
    shifted,
    subtract_from_stored,
)
from levelmatch_core.products.corrected.jwst_background import put_background
from levelmatch_core.products.corrected.lvl_cards import TYPE_CARD, LocalPlane, put_cards, put_window_cards
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.grid import Grid
from levelmatch_core.sky.plane import Plane

_BAND_PIXELS = 1 << 15
"""Number of pixels corrected at a time, so that intermediate results stay in the processor's cache."""


@dataclass(frozen=True)
class Corrected:
    """A corrected file."""

    sha256: str
    hdus: int
    """How many HDUs it has."""
    notes: tuple[str, ...]
    """Notes for the user: windows that were masked because nothing connects them to the rest."""


def products_of(corrections: Iterable[Correction]) -> dict[str, list[Correction]]:
    """Return the corrections by the output file that they belong to, sorted, without failed ones.

    The name is the one below `tiles/`: that of the input, or of the image that several inputs form together.
    """
    products: dict[str, list[Correction]] = {}
    for correction in sorted(corrections, key=lambda c: c.exposure.name):
        if correction.status is not Status.FAILED:
            exposure = correction.exposure
            products.setdefault(exposure.product or exposure.file, []).append(correction)
    return dict(sorted(products.items()))


def write_corrected(
    path: Path,
    parts: Sequence[Correction],
    grids: Mapping[str, Grid],
    settings: MatchSettings,
    unblank: Collection[str] = (),
) -> Corrected:
    """Write one corrected file.

    Parameters
    ----------
    path
        The file to write.
    parts
        The corrections of all exposures in the file, from :func:`products_of`: the chips of one input, or its Lyot
        window and the rest, or two inputs of which one contains the window of the other.
    grids
        The grids by name (`Correction.place`).
    settings
        Settings of the run.
    unblank
        Names of exposures of which the same bytes have shown already that nothing is blank but the instrument's 0.

    Raises
    ------
    NotFitsError
        If an input cannot be read.
    ChangedInputError
        If an input is not the one that its correction was found from.
    ShapeMismatchError
        If two inputs that form one image do not match.
    DuplicateExposureError
        If unrelated inputs have the same output name.
    NoWcsError, PixelMapError
        If a plane cannot be evaluated on the image.
    OSError
        If reading or writing fails; it may succeed when tried again.
    """
    with ExitStack() as stack:
        images = _images(parts)
        base = stack.enter_context(_open_input(images[0].main.exposure))
        edited = EditedFile(base)
        notes: list[str] = []
        for image in images:
            second = image.second
            donor = base
            if second is not None and second.exposure.path != image.main.exposure.path:
                donor = stack.enter_context(_open_input(second.exposure))
            notes += _correct(edited, image, donor, grids, settings, unblank)
        main = images[0].main
        if settings.write_background and instrument_of(main.exposure).background:
            level = _local_plane(main, grids[main.place], None).level
            put_background(edited, level, main.exposure.file)
        with path.open("wb") as file:
            hashed = HashedFile(file)
            edited.write(hashed)
    return Corrected(hashed.sha256(), len(base.spans), tuple(notes))


def _open_input(exposure: Exposure) -> AbstractContextManager[RawFile]:
    """Open the file of an exposure, whose bytes must be those that its correction was found from."""
    return open_raw(exposure.path, exposure.file, exposure.bytes_digest, exposure.plane)


@dataclass(frozen=True)
class _Image:
    """One image of the output, and the corrections of its one or two parts."""

    main: Correction
    second: Correction | None = None
    """The correction of the window, if it is connected to the main part."""
    window: Window | None = None
    """The window, if the image has one."""

    @property
    def main_inside(self) -> bool:
        """Whether the main part is the window itself, because the rest of the image is not used."""
        own = self.main.exposure.window
        return own is not None and own.inside


# -- which parts make which image --------------------------------------------------------------------------------------
def _images(parts: Sequence[Correction]) -> list[_Image]:
    """Return the images that the parts form; all of one base file, with the main part first."""
    files = {part.exposure.path for part in parts}
    if len(files) == 1:
        by_hdu: dict[int, list[Correction]] = {}
        for part in parts:
            by_hdu.setdefault(part.exposure.sci, []).append(part)
        return [_image(group) for _, group in sorted(by_hdu.items())]
    names = ", ".join(sorted(part.exposure.file for part in parts))
    if len(parts) != 2 or sum(bool(part.exposure.anchors) for part in parts) != 1:
        message = f"{names}: would have the same output {_product(parts[0])}; rename them"
        raise DuplicateExposureError(message)
    image = _image(sorted(parts, key=lambda part: not part.exposure.anchors))
    if image.window is None:
        message = f"{names}: cannot be combined: it is not known which pixels come from which file"
        raise ShapeMismatchError(message)
    if parts[0].exposure.shape != parts[1].exposure.shape:
        message = f"{names}: of shapes {parts[0].exposure.shape} and {parts[1].exposure.shape}, expected the same"
        raise ShapeMismatchError(message)
    return [image]


def _image(parts: Sequence[Correction]) -> _Image:
    """Return the image formed by one part, or by a main part and a window."""
    windows = [part.exposure.window for part in parts if part.exposure.window is not None]
    window = windows[0] if windows else None
    if len(parts) == 1:
        return _Image(parts[0], None, window)
    main, second = sorted(parts, key=_is_window)
    tied = (main.field, main.component) == (second.field, second.component)
    return _Image(main, second if tied else None, window)


def _is_window(part: Correction) -> bool:
    window = part.exposure.window
    return window.inside if window is not None else not part.exposure.anchors


def _product(part: Correction) -> str:
    return part.exposure.product or part.exposure.file


# -- one image ---------------------------------------------------------------------------------------------------------
def _correct(  # noqa: PLR0917 - what the image is made of
    edited: EditedFile,
    image: _Image,
    donor: RawFile,
    grids: Mapping[str, Grid],
    settings: MatchSettings,
    unblank: Collection[str],
) -> list[str]:
    """Apply the correction of an image to the file; return notes."""
    main, second = image.main, image.second
    sci = main.exposure.sci
    header = edited.base.header(sci)
    inside = None if image.window is None else inside_of(image.window, main.exposure.shape)
    grid = grids[main.place]
    put_cards(header, main, _local_plane(main, grid, None), settings)
    notes: list[str] = []
    if image.window is None and main.status is Status.ALONE and main.total == _nothing(main):
        edited.put(sci, header, None)
        return notes
    stored = edited.base.image(sci)
    kept = output_type(stored.dtype)
    if inside is None:
        corrected = _corrected_plainly(stored, header, main, grid, unblank)
        _make_float(header, stored.dtype, kept)
        edited.put(sci, header, corrected)
        return notes
    values = physical_values(stored, header)
    corrected = _subtracted(values, main, grid, kept)
    if second is not None:
        put_window_cards(header, second, _local_plane(second, grid, image.window))
        theirs = values
        if donor is not edited.base:
            theirs = physical_values(donor.image(second.exposure.sci), donor.header(second.exposure.sci))
            _take_over(edited, donor, image, inside)
        corrected[inside] = _subtracted(theirs, second, grid, kept)[inside]
    else:
        masked = ~inside if image.main_inside else inside
        corrected[masked] = np.nan
        notes.append(_mask(edited, image, masked, header))
    _make_float(header, stored.dtype, kept)
    edited.put(sci, header, corrected.astype(kept))
    return notes


def _subtracted(
    values: NDArray[np.float64], correction: Correction, grid: Grid, kept: np.dtype[np.floating]
) -> NDArray[np.float64]:
    """Return (ny, nx) the values minus the correction; blank pixels are kept."""
    exposure = correction.exposure
    wcs = None if correction.total.is_level and not exposure.per_area else read_wcs(exposure)
    found = _blanks_of(values, exposure)
    blank = Blank(found.all_values, found.mask_of(values), kept)
    return shifted(
        values, -1, correction.total, grid, wcs, blank=blank, per_area=exposure.per_area, divisor=exposure.divisor
    )


def _blanks_of(values: NDArray[np.floating], exposure: Exposure) -> Blanks:
    """Return what is blank in an image, in its unit: the same that was so when it was matched."""
    return find_blanks(values, exposure.blank, zero=instrument_of(exposure).blank_zero)


def _corrected_plainly(
    stored: NDArray[np.generic], header: RawHeader, correction: Correction, grid: Grid, unblank: Collection[str]
) -> NDArray[np.floating]:
    """Return stored values minus the correction, in the type in which they are stored again.

    This is done in bands, in double precision: a complete image of doubles would take more time than reading and
    writing the file. Values that keep their type are corrected in place.
    """
    shape = (stored.shape[0], stored.shape[1])
    per_area = correction.exposure.per_area
    wcs = None if correction.total.is_level and not per_area else read_wcs(correction.exposure)
    change = change_of(correction.total, grid, wcs, shape, per_area=per_area, divisor=correction.exposure.divisor)
    kept = output_type(stored.dtype)
    corrected = cast(NDArray[np.floating], stored) if stored.dtype == kept else np.empty(shape, kept)
    step = max(1, _BAND_PIXELS // shape[1])
    scaling = scaling_of(header)
    plain = stored.dtype.kind == "f" and scaling == (1, 0)
    image = cast(NDArray[np.floating], stored) if plain else physical_values(stored, header, scaling)
    if plain and correction.exposure.name in unblank:  # of scaled values, others were looked at
        found = Blanks(always_blank(zero=instrument_of(correction.exposure).blank_zero))
    else:
        found = _blanks_of(image, correction.exposure)
    single = plain and sys.byteorder == "little" and stored.dtype == np.dtype(">f4") and stored.flags.c_contiguous
    if single and not found.solid and found.values in {(), (0.0,)}:
        subtract_from_stored(stored, change, keep_zeros=bool(found.values))
        return corrected
    blank = Blank(found.all_values, found.mask_of(image), kept)
    del image
    for row in range(0, shape[0], step):
        rows = slice(row, row + step)
        values = physical_values(stored[rows], header, scaling)
        taken = change if isinstance(change, float) else change[rows]
        corrected[rows] = moved_by(values, -1, taken, blank.rows(rows))
    return corrected


def _take_over(edited: EditedFile, donor: RawFile, image: _Image, inside: NDArray[np.bool_]) -> None:
    """Copy error, data quality and variances of the window from the file that contains it."""
    mine, theirs = image.main.exposure, cast(Correction, image.second).exposure
    instrument = instrument_of(mine)
    ours, other = _named(edited.base, mine.sci), _named(donor, theirs.sci)
    planes = [(mine.err, theirs.err), (mine.dq, theirs.dq)]
    planes += [(ours.get(name), other.get(name)) for name in instrument.variances]
    for to, source in planes:
        if to is None or source is None:
            continue
        header, values, taken = edited.base.header(to), edited.base.image(to), donor.image(source)
        scales = [scaling_of(h) for h in (header, donor.header(source))]
        if values.dtype != taken.dtype or values.shape != taken.shape or scales[0] != scales[1]:
            message = (
                f"{mine.file}: HDU {to} holds {values.dtype.name} of shape {values.shape}, {theirs.file}: HDU {source} "
                f"{taken.dtype.name} of shape {taken.shape}; they must agree to be combined"
            )
            raise ShapeMismatchError(message)
        values[inside] = taken[inside]
        edited.put(to, header, values)


def _mask(edited: EditedFile, image: _Image, masked: NDArray[np.bool_], header: RawHeader) -> str:
    """Flag pixels that nothing connects to the rest of the image; return the note."""
    exposure = image.main.exposure
    flag = instrument_of(exposure).bad_bits
    if exposure.dq is not None and flag:
        quality = edited.base.image(exposure.dq)
        # any bad bit excludes a pixel; the lowest is JWST's DO_NOT_USE. Unsigned values are stored with their highest
        # bit inverted, which does not affect the others.
        quality[masked] = np.bitwise_or(quality[masked], flag & -flag)
        edited.put(exposure.dq, edited.base.header(exposure.dq), quality)
    rows, columns = cast(Window, image.window).rows, cast(Window, image.window).columns
    what = "all but its window" if image.main_inside else "its window"
    what += f" (rows {rows[0]} to {rows[1] - 1}, columns {columns[0]} to {columns[1] - 1}, from 0)"
    header.add_history(f"levelmatch: masked {what}: nothing ties its level to the rest")
    return f"{_product(image.main)}: masked {what}, because nothing connects its level to the rest of the image"


def _named(file: RawFile, sci: int) -> dict[str, int]:
    """Return EXTNAME -> index for the HDUs that belong to one SCI extension."""
    headers = [file.header(index).parsed() for index in range(len(file.spans))]
    version = headers[sci].get("EXTVER", 1)
    return {
        str(header.get("EXTNAME", "")).strip().upper(): index
        for index, header in enumerate(headers)
        if header.get("EXTVER", 1) == version
    }


# -- numbers -----------------------------------------------------------------------------------------------------------
def _make_float(header: RawHeader, stored: np.dtype[np.generic], kept: np.dtype[np.floating]) -> None:
    """Remove cards that only apply to scaled values, and record this in HISTORY."""
    gone = {name: header.get(name) for name in ("BSCALE", "BZERO", "BLANK") if name in header}
    if stored.kind == "f" and scaling_of(header) == (1, 0):
        return
    for name in gone:
        header.remove(name)
    header.set(TYPE_CARD, " ".join([stored.name, *(f"{name}={value!r}" for name, value in gone.items())]), "as it came")
    was = ", ".join([stored.name, *(f"{name} {value}" for name, value in gone.items())])
    header.add_history(f"levelmatch: image became {kept.name} (was {was})")


def _nothing(correction: Correction) -> Plane:
    return Plane(x0=correction.plane.x0, y0=correction.plane.y0)


def _local_plane(correction: Correction, grid: Grid, window: Window | None) -> LocalPlane:
    """Return the correction about the centre of its image, or of a window of the image."""
    exposure = correction.exposure
    wcs = None if correction.total.is_level and not exposure.per_area else read_wcs(exposure)
    return local_plane(
        correction.total,
        grid,
        wcs,
        exposure.shape,
        window,
        per_area=exposure.per_area,
        divisor=exposure.divisor,
    )
