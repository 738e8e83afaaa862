"""Co-addition of cutouts: the mean of the corrected data, unweighted or robust, in bands of rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from levelmatch_core.errors import NoUsablePixelsError
from levelmatch_core.records import content_key
from levelmatch_core.sky import kernels, stack_kernels
from levelmatch_core.sky.cutouts import Cutout, CutoutRecord, extent_of, open_cutout
from levelmatch_core.sky.pixelmap import Box
from levelmatch_core.sky.plane import Plane
from levelmatch_core.sky.store import CutoutStore

ALGORITHM = "stack 4"
"""Part of every key: to be raised whenever the same parts would give a different result."""

BAND_PIXELS = 1 << 17
"""Number of pixels summed at a time: arrays of 1 MB, whose memory is reused for the next band.

Another number changes last digits: of planes, which begin at a band's first row, and of a stack's noise gain, which is
a sum over bands."""

UNEQUAL = 1.25
"""Parts whose noise differs by less than this factor have equal weights."""

Part = tuple[CutoutRecord, Plane]
"""A cutout and the plane that is subtracted from it."""


@dataclass(frozen=True)
class RowBlock:
    """A band of rows of a co-added image."""

    row0: int
    """First row, counted from the first row of the box."""
    mean: NDArray[np.float64]
    """(rows, columns) mean of the corrected parts, NaN where there are none."""
    variance: NDArray[np.float64] | None
    """Sum of the variances divided by the squared number of parts; None if a part has no variance."""
    coverage: NDArray[np.int32]
    """Number of parts."""
    before: NDArray[np.float64] | None
    """The mean without corrections, if requested."""
    shares: NDArray[np.float64] | None
    """For each part the sum of 1 / coverage**2 over its pixels, if requested."""


def stack(name: str, parts: Sequence[Part], store: CutoutStore, noise: Sequence[float] = ()) -> CutoutRecord:
    """Return the mean of cutouts minus their planes, as a cutout; computed, or recalled from the store.

    Parameters
    ----------
    name
        Name of the new cutout.
    parts
        At least one; their order does not matter (they are sorted by name).
    store
        The store that contains the parts, and to which the stack is written.
    noise
        1 sigma of the pixels of each part, for a robust mean, with the weights of :func:`stack_weights` and without
        values that deviate from the median of all (cosmic rays, latent images). Empty for the unweighted mean.

    Returns
    -------
    CutoutRecord
        Its variance is the sum divided by N squared, if all parts have one; its noise gain the mean of those of the
        parts, weighted by their shares of the variance of the mean; its angle that of the first part; its outline the
        convex hull of all. A single part from which nothing is subtracted is returned unchanged, under the new name.

    Raises
    ------
    NoUsablePixelsError
        If there are no parts.
    StoreError
        If a part is missing or the store cannot be written.
    """
    if not parts:
        message = f"stack {name}: there is nothing to stack"
        raise NoUsablePixelsError(message)
    order = sorted(range(len(parts)), key=lambda number: parts[number][0].name)
    ordered = [parts[number] for number in order]
    scatter = tuple(noise[number] for number in order) if noise else ()
    first, plane = ordered[0]
    if len(ordered) == 1 and plane.is_level and plane.level == 0:
        return first.model_copy(update={"name": name})
    contents = [[record.model_copy(update={"name": ""}), plane] for record, plane in ordered]
    key = content_key(ALGORITHM, contents, *([scatter] if scatter else []))
    known = store.recall(key)
    if known is not None:
        return CutoutRecord.from_json({**known, "name": name})
    return _made(name, key, ordered, store, scatter)


def mosaic_bands(
    parts: Sequence[Part],
    store: CutoutStore,
    box: Box,
    *,
    band_rows: int | None = None,
    before: bool = False,
    shares: bool = False,
) -> Iterator[RowBlock]:
    """Co-add cutouts band by band, in memory that does not grow with the number of parts or rows.

    Parameters
    ----------
    parts
        Cutouts and the planes to be subtracted; summed in this order.
    store
        The store that contains them.
    box
        The grid pixels to fill.
    band_rows
        Number of rows of a band; None for as many as fit into a few megabytes.
    before, shares
        Whether to compute these, too.

    Raises
    ------
    StoreError
        If a cutout is missing.
    """
    rows = band_rows or max(1, BAND_PIXELS // max(box.shape[1], 1))
    with_variance = all(record.has_variance for record, _ in parts)
    opened: dict[int, Cutout] = {}
    for row0 in range(0, box.shape[0], rows):
        shape = (min(rows, box.shape[0] - row0), box.shape[1])
        low, high = box.y0 + row0, box.y0 + row0 + shape[0]
        seen = [
            number for number, (record, _) in enumerate(parts) if record.y0 < high and record.y0 + record.shape[0] > low
        ]
        opened = {number: opened.get(number) or open_cutout(parts[number][0], store) for number in seen}
        total, coverage = np.zeros(shape), np.zeros(shape, np.int32)
        none = np.zeros((0, 0))
        variances = np.zeros(shape) if with_variance else none
        raw = np.zeros(shape) if before else none
        places = []
        for number, cutout in opened.items():
            planes, at, (x, y) = _rows_in(cutout, Box(box.x0, low, shape))
            plane = parts[number][1]
            value = np.array([float(plane(x, y)), plane.slope_x, plane.slope_y])
            kernels.add_part(planes[0], planes[-1], at, value, total, raw, variances, coverage)
            places.append((number, planes[0], at))
        part_shares = np.zeros(len(parts)) if shares else None
        if part_shares is not None:
            for number, data, at in places:
                part_shares[number] = kernels.share(data, at, coverage)
        with np.errstate(invalid="ignore", divide="ignore"):
            count = coverage.astype(np.float64)
            # in place: these sums are the band's own, and new memory of this size costs more than the division
            yield RowBlock(
                row0=row0,
                mean=np.divide(total, count, out=total),
                coverage=coverage,
                before=np.divide(raw, count, out=raw) if before else None,
                variance=np.divide(variances, np.square(count, out=count), out=variances) if with_variance else None,
                shares=part_shares,
            )


def stack_weights(noise: Sequence[float]) -> NDArray[np.float64]:
    """Return (P,) the weights of the parts of a robust stack from the noise of their pixels.

    These are inverse variances relative to the largest, or 1 if the noise of all parts is similar: weights that follow
    its random fluctuations would not improve the result.
    """
    scatter = np.asarray(noise, dtype=float)
    least = float(scatter.min())
    if not least > 0 or float(scatter.max()) < UNEQUAL * least:
        return np.ones(len(scatter))
    return (least / scatter) ** 2


def robust_bands(
    parts: Sequence[Part],
    noise: Sequence[float],
    store: CutoutStore,
    box: Box,
    *,
    band_rows: int | None = None,
) -> Iterator[RowBlock]:
    """Average cutouts robustly, band by band.

    Parameters
    ----------
    parts, store, box, band_rows
        As in :func:`mosaic_bands`; the result does not depend on the number of rows.
    noise
        1 sigma of the pixels of each part.

    Raises
    ------
    StoreError
        If a cutout is missing.
    """
    rows = band_rows or max(16, BAND_PIXELS // max(box.shape[1] * len(parts), 1))
    weights = stack_weights(noise)
    opened = [open_cutout(record, store) for record, _ in parts]
    with_variance = all(record.has_variance for record, _ in parts)
    for row0 in range(0, box.shape[0], rows):
        shape = (min(rows, box.shape[0] - row0), box.shape[1])
        margin = stack_kernels.MARGIN
        within = Box(box.x0, box.y0 + row0 - margin, (shape[0] + 2 * margin, shape[1]))
        # in double precision: a large level has rounded the pixels, and rounding again, less a level, would be biased
        values = np.full((len(parts), *within.shape), np.nan)
        variances = np.full((len(parts), *within.shape), np.nan) if with_variance else np.empty((0, 0, 0))
        for number, (cutout, (_, plane)) in enumerate(zip(opened, parts, strict=True)):
            planes, (row, column), (x, y) = _rows_in(cutout, within)
            ny, nx = planes[0].shape
            where = (number, slice(row, row + ny), slice(column, column + nx))
            values[where] = planes[0] - plane(np.arange(nx) + float(x), np.arange(ny)[:, None] + float(y))
            if with_variance:
                variances[where] = planes[-1]
        median = np.empty(within.shape)
        stack_kernels.medians(values, median)
        mean, variance, shares = np.empty(shape), np.full(shape, np.nan), np.zeros(len(parts))
        coverage = np.empty(shape, np.int32)
        sigma = np.asarray(noise, dtype=float)
        stack_kernels.robust_mean(
            *(values, variances, median, sigma, weights, np.empty(values.shape, np.uint8)),
            *(mean, variance, coverage, shares),
        )
        yield RowBlock(row0, mean, variance if with_variance else None, coverage, None, shares)


def box_of(records: Sequence[CutoutRecord]) -> Box:
    """Return the smallest box that contains all cutouts (at least one)."""
    x0, y0 = min(record.x0 for record in records), min(record.y0 for record in records)
    x1 = max(record.x0 + record.shape[1] for record in records)
    y1 = max(record.y0 + record.shape[0] for record in records)
    return Box(x0, y0, (y1 - y0, x1 - x0))


def _rows_in(cutout: Cutout, box: Box) -> tuple[list[NDArray[np.floating]], tuple[int, int], tuple[int, int]]:
    """Return a cutout's planes within a box, and the (row, column) in the box and (x, y) of their first pixel."""
    record = cutout.record
    x0, y0 = max(record.x0, box.x0), max(record.y0, box.y0)
    rows = slice(y0 - record.y0, max(0, box.y0 + box.shape[0] - record.y0))
    columns = slice(x0 - record.x0, max(0, box.x0 + box.shape[1] - record.x0))
    planes = [cutout.data] if cutout.variance is None else [cutout.data, cutout.variance]
    return [kernels.as_compiled(plane[rows, columns]) for plane in planes], (y0 - box.y0, x0 - box.x0), (x0, y0)


def _made(name: str, key: str, parts: Sequence[Part], store: CutoutStore, noise: Sequence[float]) -> CutoutRecord:
    records = [record for record, _ in parts]
    box = box_of(records)
    has_variance = all(record.has_variance for record in records)
    dtype = np.result_type(*(open_cutout(record, store).data.dtype for record in records))
    planes = np.empty((2 if has_variance else 1, *box.shape), dtype)
    weights = np.zeros(len(parts))
    bands = robust_bands(parts, noise, store, box) if noise else mosaic_bands(parts, store, box, shares=True)
    for band in bands:
        rows = slice(band.row0, band.row0 + band.mean.shape[0])
        planes[0, rows] = band.mean
        if band.variance is not None:
            planes[1, rows] = band.variance
        if band.shares is not None:
            weights += band.shares
    ends = np.empty((box.shape[0], 3), np.int64)
    kernels.row_ends(planes[0], ends)
    n_valid = int(ends[:, 2].sum())
    if n_valid == 0:
        message = f"stack {name}: none of its {len(parts)} parts has a valid pixel"
        raise NoUsablePixelsError(message)
    hull = shapely.convex_hull(shapely.multipoints([point for record in records for point in record.outline]))
    corners = shapely.get_coordinates(hull)[:-1]
    record = CutoutRecord(
        name=name,
        array=store.put(key, planes),
        x0=box.x0,
        y0=box.y0,
        shape=box.shape,
        has_variance=has_variance,
        n_valid=n_valid,
        noise_gain=float(weights @ [record.noise_gain for record in records] / weights.sum()),
        noise_reach=float(weights @ [record.noise_reach for record in records] / weights.sum()),
        axis_angle=records[0].axis_angle,
        extent=extent_of(ends, records[0].axis_angle),
        outline=tuple((float(x), float(y)) for x, y in corners),
    )
    store.remember(key, record.to_json())
    return record
