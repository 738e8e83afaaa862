"""Changing one image of a FITS file and nothing else: its values, and its HDU."""

from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.images.byte_sink import Sink
from levelmatch_core.images.contents.blanks import Blanks
from levelmatch_core.images.exposure import Window
from levelmatch_core.images.fits_cards import RawFile, RawHeader, renew_checksums, stored_image
from levelmatch_core.images.fits_headers import BLOCK
from levelmatch_core.images.storage.packing import packed
from levelmatch_core.images.wcs.pixel_area import areas_at, relative_areas
from levelmatch_core.images.wcs.transforms import AnyWcs, sky_transforms
from levelmatch_core.process.compilation import njit
from levelmatch_core.process.small_work import compiled_when_large
from levelmatch_core.products.corrected.lvl_cards import LocalPlane
from levelmatch_core.sky.grid import Grid
from levelmatch_core.sky.pixelmap import plane_on_image
from levelmatch_core.sky.plane import Plane

_LEAST = float(np.finfo(np.float32).tiny)
"""Replaces a zero that is not blank; far below the rounding of any correction."""


@dataclass
class EditedFile:
    """A file to be written: the HDUs that change, and all others from the input."""

    base: RawFile
    hdus: dict[int, tuple[RawHeader, memoryview | None]] = field(default_factory=dict)
    """HDU -> its header and its data; None if the data are unchanged."""

    def header(self, index: int) -> RawHeader:
        """Return the header of an HDU as it will be written."""
        return self.hdus[index][0] if index in self.hdus else self.base.header(index)

    def put(self, index: int, header: RawHeader, values: NDArray[np.generic] | None) -> None:
        """Replace an HDU: its header and, unless None, its image."""
        whole = None if values is None else self.base.with_image(index, values)
        self._put(index, header, None if whole is None else stored_image(header, whole))

    def put_header(self, index: int, header: RawHeader) -> None:
        """Replace the header of an HDU only."""
        self._put(index, header, self.hdus[index][1] if index in self.hdus else None)

    def put_data(self, index: int, header: RawHeader, content: bytes) -> None:
        """Replace an HDU: its header and its data, which are padded to complete blocks."""
        self._put(index, header, memoryview(content.ljust(-(-len(content) // BLOCK) * BLOCK, b"\0")))

    def _put(self, index: int, header: RawHeader, data: memoryview | None) -> None:
        # wrong checksums are kept: correct ones would hide that the data is damaged
        if self.base.sums_hold(index):
            renew_checksums(header, lambda: self.base.data(index) if data is None else data)
        self.hdus[index] = (header, data)

    def write(self, file: Sink) -> None:
        """Write the whole file, packed as the input is, but without time and name."""
        with packed(file, self.base.packing) as out:
            for index, span in enumerate(self.base.spans):
                header, data = self.hdus.get(index, (None, None))
                if header is None:
                    self.base.copy(out, span.header, span.end)
                    continue
                out.write(header.to_bytes())
                if data is None:
                    self.base.copy(out, span.data, span.end)
                else:
                    out.write(data)
                    out.write(bytes(-len(data) % BLOCK))
            self.base.copy(out, self.base.spans[-1].end, None)


@dataclass(frozen=True)
class Blank:
    """Which pixels of an image are blank."""

    values: tuple[float, ...]
    """What they hold: no other pixel may come to hold it."""
    mask: NDArray[np.bool_] | None
    """(ny, nx); None where none is."""
    kept: np.dtype[np.floating]
    """The type in which the image is stored."""

    @classmethod
    def of_corrected(cls, image: NDArray[np.floating], values: tuple[float, ...], kept: np.dtype[np.floating]) -> Self:
        """Return the blank pixels of a corrected image, which are all that hold those values."""
        return cls(values, Blanks(tuple(float(kept.type(value)) for value in values)).mask_of(image), kept)

    def rows(self, rows: slice) -> "Blank":
        """Return the same of some rows."""
        return self if self.mask is None else Blank(self.values, self.mask[rows], self.kept)


def physical_values(
    stored: NDArray[np.generic], header: RawHeader, scaling: tuple[float, float] | None = None
) -> NDArray[np.float64]:
    """Return stored values in physical units, with BLANK as NaN; the scaling is read from the header if not given."""
    scale, zero = scaling_of(header) if scaling is None else scaling
    values = stored.astype(np.float64)
    if stored.dtype.kind in "iu" and "BLANK" in header:
        values[stored == int(header.get("BLANK"))] = np.nan
    return values if (scale, zero) == (1, 0) else values * scale + zero


def scaling_of(header: RawHeader) -> tuple[float, float]:
    """Return BSCALE and BZERO."""
    return float(header.get("BSCALE", 1)), float(header.get("BZERO", 0))


def output_type(stored: np.dtype[np.generic]) -> np.dtype[np.floating]:
    """Return the type in which a changed image is stored: double precision if it was double, else single."""
    wide = stored.itemsize == 8 or (stored.kind in "iu" and stored.itemsize == 4)
    return np.dtype(">f8") if wide else np.dtype(">f4")


def inside_of(window: Window, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return (ny, nx) a mask of the pixels of an image that lie in the rectangle of a window."""
    inside = np.zeros(shape, dtype=bool)
    inside[slice(*window.rows), slice(*window.columns)] = True
    return inside


def shifted(
    values: NDArray[np.float64],
    sign: int,
    total: Plane,
    grid: Grid,
    wcs: AnyWcs | None,
    *,
    blank: Blank,
    per_area: bool = False,
    divisor: float = 1.0,
) -> NDArray[np.float64]:
    """Return values with a correction subtracted (sign -1) or added (+1); blank pixels are kept.

    Parameters
    ----------
    values
        (ny, nx), the data's unit.
    sign
        -1 or +1.
    total
        The total correction, on the grid.
    grid
        The grid of the field.
    wcs
        WCS of the image; not needed for a level, unless it is per area.
    blank
        Which pixels are blank.
    per_area
        Whether the correction is for a pixel of the grid's area, and is scaled with the area of each pixel.
    divisor
        By what the values were divided to be matched.
    """
    shape = (values.shape[0], values.shape[1])
    change = change_of(total, grid, wcs, shape, per_area=per_area, divisor=divisor)
    return moved_by(values, sign, change, blank)


def change_of(
    total: Plane,
    grid: Grid,
    wcs: AnyWcs | None,
    shape: tuple[int, int],
    *,
    per_area: bool = False,
    divisor: float = 1.0,
) -> float | NDArray[np.float64]:
    """Return a correction on the pixels of an image: a number, or (ny, nx) if it has slopes or is per area."""
    change = total.level if total.is_level else plane_on_image(total, grid, wcs, shape)
    if per_area and wcs is not None:
        change = change * relative_areas(sky_transforms(wcs)[0], shape, grid.pixel_area)
    return change if divisor == 1.0 else change * divisor


def moved_by(
    values: NDArray[np.float64], sign: int, change: float | NDArray[np.float64], blank: Blank
) -> NDArray[np.float64]:
    """Return values plus `sign` times a change, as :func:`shifted` does."""
    moved = values + sign * change
    for value in blank.values:  # a pixel that was seen must not come to look blank
        if value == 0:
            moved[np.abs(moved) < _LEAST] = _LEAST
            continue
        stored = blank.kept.type(value)
        moved[moved.astype(blank.kept) == stored] = np.nextafter(stored, blank.kept.type(np.inf))
    if blank.mask is not None:
        moved[blank.mask] = values[blank.mask]
    return moved


def subtract_from_stored(
    stored: NDArray[np.generic], change: float | NDArray[np.float64], *, keep_zeros: bool = False
) -> None:
    """Subtract a change, in place, from single-precision numbers as FITS has them; as :func:`moved_by` does.

    Parameters
    ----------
    stored
        (ny, nx), of type >f4, contiguous.
    change
        A number, or (ny, nx).
    keep_zeros
        Whether exact zeros are blank; else nothing is.
    """
    by_row = np.full((1, stored.shape[1]), change) if isinstance(change, float) else change
    _subtract_swapped(stored.view(np.uint32), by_row, keep_zeros)


def _subtract_plain(words: NDArray[np.uint32], change: NDArray[np.float64], keep_zeros: bool) -> None:
    """Do what :func:`_subtract_swapped` does, without a compiler, in thrice its time."""
    stored = words.view(">f4")
    with np.errstate(all="ignore"):
        moved = stored - change
        if keep_zeros:
            moved = np.where(np.abs(moved) < _LEAST, _LEAST, moved)
            np.copyto(stored, moved, where=stored != 0, casting="same_kind")
        else:
            stored[...] = moved


@compiled_when_large(lambda words, *_: words.size // 20, _subtract_plain)
@njit(nogil=True, cache=True)
def _subtract_swapped(  # pragma: no cover - compiled
    words: NDArray[np.uint32], change: NDArray[np.float64], keep_zeros: bool
) -> None:
    """Do so on a little-endian machine; one row of changes is that of all rows."""
    row = np.empty(words.shape[1], np.uint32)
    values = row.view(np.float32)
    for r in range(words.shape[0]):
        line, by = words[r], change[r if len(change) > 1 else 0]
        for k in range(row.size):
            row[k] = _swapped(line[k])
        if keep_zeros:
            for k in range(row.size):
                moved = np.float64(values[k]) - by[k]
                moved = _LEAST if abs(moved) < _LEAST else moved
                values[k] = values[k] if values[k] == 0.0 else np.float32(moved)
        else:
            for k in range(row.size):
                values[k] = np.float32(np.float64(values[k]) - by[k])
        for k in range(row.size):
            line[k] = _swapped(row[k])


@njit(nogil=True, cache=True, inline="always")
def _swapped(word: np.uint32) -> np.uint32:  # pragma: no cover - compiled
    """Return a word with its four bytes in the other order."""
    inner = (word >> np.uint32(8)) & np.uint32(0xFF00) | (word & np.uint32(0xFF00)) << np.uint32(8)
    return np.uint32(word >> np.uint32(24) | inner | word << np.uint32(24))


def local_plane(
    total: Plane,
    grid: Grid,
    wcs: AnyWcs | None,
    shape: tuple[int, int],
    window: Window | None = None,
    *,
    per_area: bool = False,
    divisor: float = 1.0,
) -> LocalPlane:
    """Return a correction about the centre of an image, or of a window, along the axes of the image, in its unit."""
    if (total.is_level and not per_area) or wcs is None:
        return LocalPlane(total.level * divisor, 0.0, 0.0)
    rows, columns = (window.rows, window.columns) if window else ((0, shape[0]), (0, shape[1]))
    x, y = (sum(columns) - 1) / 2, (sum(rows) - 1) / 2
    to_sky, _ = sky_transforms(wcs)
    steps = np.array([[0, 0], [-0.5, 0], [0.5, 0], [0, -0.5], [0, 0.5]])
    values = total(*grid.to_pixel(*to_sky(x + steps[:, 0], y + steps[:, 1])))
    if per_area:
        values = values * areas_at(to_sky, x + steps[:, 0], y + steps[:, 1]) / grid.pixel_area
    here, left, right, below, above = values * divisor
    area = grid.pixel_area if per_area else None
    return LocalPlane(float(here), float(right - left), float(above - below), area)
