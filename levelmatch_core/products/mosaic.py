"""The mosaic of a field in one FITS file: corrected data, error, coverage, and uncorrected data.

The layout of the file is known beforehand, so that the co-added bands are written directly to their final positions.
The memory is limited, and the same parts give the same bytes.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from levelmatch_core.errors import NoUsablePixelsError
from levelmatch_core.files.writing import replacing
from levelmatch_core.process.thread_budget import parallel_map
from levelmatch_core.sky.cutouts import CutoutRecord
from levelmatch_core.sky.grid import Grid
from levelmatch_core.sky.pixelmap import Box
from levelmatch_core.sky.plane import Plane
from levelmatch_core.sky.stack import BAND_PIXELS, box_of, mosaic_bands
from levelmatch_core.sky.store import CutoutStore

BLOCK = 2880
"""Size of the blocks of a FITS file, bytes."""

STRIP_PIXELS = 8 * BAND_PIXELS
"""Number of pixels that a thread fills at a time."""

HOLE = 12
"""Longest run of pixels along a row, between pixels with a value, that is a hole and not a gap between exposures."""

MosaicPart = tuple[CutoutRecord, Plane, float]
"""A cutout, the total correction of all stages, and the local sky; both are subtracted."""


@dataclass(frozen=True)
class MosaicImages:
    """The mosaic of a field in memory."""

    after: NDArray[np.floating]
    """(ny, nx) mean of the corrected exposures, NaN where there are none."""
    before: NDArray[np.floating]
    """The same without corrections."""
    error: NDArray[np.floating] | None
    """1 sigma by the errors of the pixels; None if inputs have none."""
    wcs: WCS
    unit: str


def write_mosaic(
    path: Path,
    grid: Grid,
    parts: Sequence[MosaicPart],
    store: CutoutStore,
    *,
    unit: str = "",
    cards: Mapping[str, Any] | None = None,
    band_rows: int | None = None,
) -> int:
    """Write the unweighted mean of cutouts as a FITS file, which appears only when it is complete.

    HDUs: primary (no data); SCI, the mean of the corrected cutouts; ERR, the square root of the sum of their variances
    divided by their number (only if all have one); COVERAGE, their number; BEFORE, the mean without corrections and
    with the local sky. Images are float32 (NaN where there is no data), coverage int16 or int32; each has the celestial
    WCS.

    Parameters
    ----------
    path
        The file; replaced if it exists. Its folder must exist.
    grid
        The grid of the cutouts.
    parts
        At least one; their order does not matter (they are sorted by name).
    store
        The store that contains the cutouts.
    unit
        Unit of the data (BUNIT); '' for none.
    cards
        Further cards of the primary header; a value may be a tuple of value and comment.
    band_rows
        Number of rows co-added at a time; None for a suitable number.

    Returns
    -------
    int
        Number of pixels without a value that are surrounded by others (see `HOLE`).

    Raises
    ------
    NoUsablePixelsError
        If there are no parts.
    StoreError
        If a cutout is missing.
    OSError
        If the file cannot be written.
    """
    if not parts:
        message = f"{path.name}: there is nothing to make a mosaic of"
        raise NoUsablePixelsError(message)
    ordered = sorted(parts, key=lambda part: part[0].name)
    corrected = [(record, plane + Plane(level=sky)) for record, plane, sky in ordered]
    records = [record for record, _ in corrected]
    layout = _Layout(grid, box_of(records), records, unit, cards or {})
    with replacing(path) as temporary, temporary.open("xb", buffering=0) as file:
        layout.start(file)

        def fill(strip: Box) -> int:
            found = 0
            for band in mosaic_bands(corrected, store, strip, band_rows=band_rows, before=True):
                row = strip.y0 - layout.box.y0 + band.row0
                layout.put(file, "SCI", row, band.mean)
                layout.put(file, "ERR", row, None if band.variance is None else np.sqrt(band.variance))
                layout.put(file, "COVERAGE", row, band.coverage)
                layout.put(file, "BEFORE", row, band.before)
                found += in_holes(band.coverage)
            return found

        return sum(parallel_map(fill, _strips(layout.box)))


def in_holes(coverage: NDArray[np.integer]) -> int:
    """Return the number of pixels in short runs along a row that nothing covers, between pixels that are covered."""
    covered = np.pad(coverage > 0, ((0, 0), (HOLE + 1, 0))).reshape(-1)  # the runs between rows are longer than a hole
    turns = np.flatnonzero(covered[1:] != covered[:-1])  # to pixels that are covered, from them, to them ...
    runs = turns[2::2] - turns[1:-1:2]
    return int(runs[runs <= HOLE].sum())


class _Layout:
    """The headers of the file, and the positions of the pixels of each HDU."""

    def __init__(
        self, grid: Grid, box: Box, records: Sequence[CutoutRecord], unit: str, cards: Mapping[str, Any]
    ) -> None:
        self.box = box
        counts = np.dtype(">i2" if len(records) <= np.iinfo(np.int16).max else ">i4")
        self._types = {"SCI": np.dtype(">f4"), "COVERAGE": counts, "BEFORE": np.dtype(">f4")}
        if all(record.has_variance for record in records):
            self._types = {"SCI": np.dtype(">f4"), "ERR": np.dtype(">f4"), **self._types}
        primary = fits.PrimaryHDU().header
        primary["EXTEND"] = True
        for name, value in cards.items():
            primary[name] = value
        self._headers = {"": primary.tostring().encode("ascii")}
        self._starts: dict[str, int] = {}
        self.length = len(self._headers[""])
        for name, kind in self._types.items():
            text = _image_header(name, kind, grid, box, unit).tostring().encode("ascii")
            self._headers[name] = text
            self._starts[name] = self.length + len(text)
            size = box.shape[0] * box.shape[1] * kind.itemsize
            self.length = self._starts[name] + -(-size // BLOCK) * BLOCK

    def start(self, file: BinaryIO) -> None:
        """Write the headers, and extend the file to its final length."""
        file.truncate(self.length)
        _write_at(file, 0, self._headers[""])
        for name, start in self._starts.items():
            _write_at(file, start - len(self._headers[name]), self._headers[name])

    def put(self, file: BinaryIO, name: str, row0: int, rows: NDArray[Any] | None) -> None:
        """Write some rows of an HDU, if the file contains it."""
        if rows is None or name not in self._types:
            return
        kind = self._types[name]
        start = self._starts[name] + row0 * self.box.shape[1] * kind.itemsize
        _write_at(file, start, rows.astype(kind).reshape(-1).view(np.uint8).data)


def _strips(box: Box) -> list[Box]:
    """Divide a box into strips of several bands, which threads can fill in parallel."""
    rows = max(1, STRIP_PIXELS // max(box.shape[1], 1))
    return [
        Box(box.x0, box.y0 + row, (min(rows, box.shape[0] - row), box.shape[1])) for row in range(0, box.shape[0], rows)
    ]


def _write_at(file: BinaryIO, start: int, data: bytes | memoryview) -> None:
    """Write all bytes at a given position; safe for several threads."""
    left = memoryview(data)
    while left:
        done = os.pwrite(file.fileno(), left, start)
        start, left = start + done, left[done:]


def _image_header(name: str, kind: np.dtype[Any], grid: Grid, box: Box, unit: str) -> fits.Header:
    header = fits.Header()
    header["XTENSION"] = ("IMAGE", "Image extension")
    header["BITPIX"] = (-8 * kind.itemsize if kind.kind == "f" else 8 * kind.itemsize, "array data type")
    header["NAXIS"] = 2
    header["NAXIS1"] = box.shape[1]
    header["NAXIS2"] = box.shape[0]
    header["PCOUNT"] = 0
    header["GCOUNT"] = 1
    header["EXTNAME"] = name
    if unit and name != "COVERAGE":
        header["BUNIT"] = unit
    for card, value in grid.header_cards(box.x0, box.y0).items():
        header[card] = value
    return header
