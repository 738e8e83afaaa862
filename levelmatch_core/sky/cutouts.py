"""A cutout: an exposure, or a stack of exposures, resampled to its field's grid within its own bounding box."""

import math
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field as Described

from levelmatch_core.errors import DataError, NoUsablePixelsError
from levelmatch_core.images.exposure import Companion, Exposure
from levelmatch_core.images.fits_headers import quiet
from levelmatch_core.images.given import SkyMask
from levelmatch_core.images.reading import Pixels, read_exposure
from levelmatch_core.images.wcs.pixel_area import relative_areas
from levelmatch_core.images.wcs.transforms import AnyWcs, sky_transforms
from levelmatch_core.records import Record, content_key
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky import kernels
from levelmatch_core.sky.exclude import excluded
from levelmatch_core.sky.grid import Grid
from levelmatch_core.sky.lone_pixels import is_of_few_values, lone_pixels, rough_noise
from levelmatch_core.sky.masks import source_mask
from levelmatch_core.sky.pixelmap import Box, PixelMap, Placement, grid_to_image, place
from levelmatch_core.sky.resample import Resampled, beside, bilinear, by_reproject
from levelmatch_core.sky.store import CutoutStore, StoredArray

__all__ = [
    "Cutout",
    "CutoutRecord",
    "CutoutStore",
    "CutoutsInUse",
    "StoredArray",
    "cutout_key",
    "extent_of",
    "make_cutout",
    "open_cutout",
]

ALGORITHM = "cutout 9"
"""Part of every key: to be raised whenever the same input and settings would give a different result."""


_FEW, _SAMPLE = 4096, 1024
"""Up to so many values are sorted for their median; of more, a sample of this size tells which ones are near it."""


class CutoutRecord(Record):
    """Description of a cutout, without its pixels."""

    name: str = Described(description="the member's name")
    array: StoredArray = Described(
        description="(planes, ny, nx): SCI, NaN where invalid; the variance, if any; SCI with its sources, if masked"
    )
    x0: int = Described(description="grid column of the first pixel")
    y0: int = Described(description="grid row of the first pixel")
    shape: tuple[int, int] = Described(description="rows, columns")
    has_variance: bool
    n_valid: int = Described(description="number of finite SCI pixels")
    noise_gain: float = Described(description="mean of the sum of squared resampling weights: 1 for white noise")
    noise_reach: float = Described(
        default=1.0, description="number of grid pixels that share the noise of one pixel: its area, 1 at least"
    )
    axis_angle: float = Described(description="angle of the (first) exposure's +x axis from the grid's +x, radians")
    extent: tuple[float, float] = Described(description="size of the valid area along it and across, grid pixels")
    blanks: tuple[float, ...] = Described(default=(), description="values of the exposure that stand for nothing seen")
    n_whole: int = Described(default=0, description="finite SCI pixels with those of sources; 0 if none are masked")
    whole: bool = Described(default=False, description="whether the pixels with the sources are meant")
    n_blank: int = Described(default=0, description="number of the exposure's pixels that hold one, or a huge value")
    n_wild: int = Described(
        default=0, description="number of the exposure's pixels that stand out alone (cosmic rays), which are left out"
    )
    n_lone: int = Described(
        default=0, description="number of the exposure's pixels that hold no sky, of an exposure that is full of them"
    )
    few_values: bool = Described(
        default=False, description="whether most of the exposure's pixels hold one value, wherever they lie"
    )
    texture: float = Described(default=0.0, description="median step between neighbours: the scale of the values")
    outline: tuple[tuple[float, float], ...] = Described(description="(x, y) grid corners of the footprint, in order")

    @property
    def centre(self) -> tuple[float, float]:
        """(x, y) of the centre of the bounding box, grid pixels."""
        return self.x0 + (self.shape[1] - 1) / 2, self.y0 + (self.shape[0] - 1) / 2

    @property
    def with_sources(self) -> Self:
        """The same cutout with the pixels of sources, which are masked for measuring only."""
        return self.model_copy(update={"whole": True, "n_valid": self.n_whole}) if self.n_whole else self


@dataclass(frozen=True)
class Cutout:
    """A cutout with its pixels (read-only, usually a memory map)."""

    record: CutoutRecord
    data: NDArray[np.floating]
    """(ny, nx), in the data's unit, NaN where there is no valid data."""
    variance: NDArray[np.floating] | None = None
    """(ny, nx), in the data's unit squared; None if the input has no errors."""


def cutout_key(
    exposure: Exposure,
    grid: Grid,
    settings: MatchSettings,
    exclude: SkyMask | None = None,
    within: Box | None = None,
) -> str:
    """Return the key of a cutout, which depends on its content but not on the path or name of the file."""
    relevant = settings.of_role("resample", "mask") if settings.do_sigma_clip else settings.of_role("resample")
    return content_key(
        ALGORITHM,
        exposure.digest,
        [exposure.sci, exposure.err, exposure.dq],
        exposure.window,
        exposure.instrument,
        exposure.table,
        exposure.wcs_source,
        grid,
        relevant,
        *(["sources beside"] if settings.do_sigma_clip else []),
        *([] if exclude is None else [["exclude", exclude.digest]]),
        *(["per area"] if exposure.per_area else []),
        *([role, one.digest, one.hdu, one.bits] for role, one in _companions(exposure)),
        *([] if exposure.blank == "auto" else [["blank", exposure.blank]]),
        *([] if exposure.divisor == 1.0 else [["divisor", exposure.divisor]]),
        *([] if within is None else [["within", within.x0, within.y0, *within.shape]]),
    )


def _companions(exposure: Exposure) -> Iterator[tuple[str, Companion]]:
    for role, one in (("weight", exposure.weight), ("flags", exposure.flags)):
        if one is not None:
            yield role, one


def make_cutout(  # noqa: PLR0917 - what a cutout depends on
    exposure: Exposure,
    grid: Grid,
    settings: MatchSettings,
    store: CutoutStore,
    exclude: SkyMask | None = None,
    within: Box | None = None,
) -> CutoutRecord:
    """Read, mask and resample an exposure, or recall the cutout if it is in the store already.

    Parameters
    ----------
    exposure
        The exposure to read.
    grid
        The grid of its field.
    settings
        `reproject_func` is read and, with `do_sigma_clip`, the settings of the source mask.
    store
        Destination of the pixels.
    exclude
        Part of the sky to be excluded.
    within
        The part of the grid that is wanted; None: all that the exposure covers.

    Raises
    ------
    DataError
        A subclass, as raised by reading and by the pixel map; NoUsablePixelsError if no valid pixel remains on the
        grid.
    StoreError
        If the store cannot be written.
    """
    key = cutout_key(exposure, grid, settings, exclude, within)
    known = store.recall(key)
    if known is not None:
        return CutoutRecord.from_json({**known, "name": exposure.name})
    wcs, pixels = read_exposure(exposure)
    blanks, n_blank = pixels.blanks, pixels.n_blank
    pixels = _per_area(_divided(pixels, exposure.divisor), exposure, grid, wcs)
    noise = rough_noise(pixels.data)
    few_values = is_of_few_values(pixels.data, noise)
    lone = lone_pixels(pixels.data, noise)
    if lone is not None:
        pixels = _blanked(pixels, lone.view(np.bool_))
    sources = _sources(pixels, settings) if settings.do_sigma_clip else None
    if exclude is not None:
        pixels = _blanked(pixels, excluded(exclude, wcs, pixels.data.shape))
    rectangle = _valid_rectangle(pixels, exposure)
    try:
        placement = place(grid, wcs, *rectangle, within)
        to_image = grid_to_image(grid, wcs, pixels.data.shape, placement.box)
        resample = partial(_resampled, settings, wcs=wcs, pixel_map=to_image, grid=grid, box=placement.box)
        image = resample(pixels, room=int(sources is not None))
        n_whole = 0
        if sources is not None:
            n_whole, pixels = image.n_valid, _blanked(Pixels(pixels.data, None), sources)
            image = beside(image, resample(pixels))
    except DataError as error:
        message = f"{exposure.name}: {error}"
        raise type(error)(message) from error
    del pixels
    if image.n_valid == 0:
        message = f"{exposure.name}: no usable pixel is left on the grid: too few neighbours are valid to interpolate"
        raise NoUsablePixelsError(message)
    record = _record(exposure.name, image, placement, store.put(key, image.planes)).model_copy(
        update={
            "blanks": blanks,
            "noise_reach": max(1.0, (exposure.scale / grid.scale) ** 2),
            "n_blank": n_blank,
            "n_lone": 0 if lone is None else int(np.count_nonzero(lone)),
            "n_whole": n_whole,
            "few_values": few_values,
            "texture": texture_of(image.planes[0]),
        }
    )
    store.remember(key, record.to_json())
    return record


def open_cutout(record: CutoutRecord, store: CutoutStore) -> Cutout:
    """Map a cutout's pixels into memory; their digest is compared at the first use.

    Parameters
    ----------
    record
        The cutout.
    store
        The store that contains it.

    Raises
    ------
    StoreError
        If the array is missing, altered or not of the record's shape.
    """
    count = 1 + record.has_variance + bool(record.n_whole)
    planes = store.open(record.array, shape=(count, *record.shape))
    return Cutout(record, planes[-1 if record.whole else 0], planes[1] if record.has_variance else None)


class CutoutsInUse:
    """Cutouts that are mapped into memory from their first to their last use; safe for use by several threads.

    Parameters
    ----------
    records
        The cutouts.
    uses
        The names of the cutouts, each once for every time that it will be used.
    store
        The store that contains them.
    """

    def __init__(self, records: Iterable[CutoutRecord], uses: Iterable[str], store: CutoutStore) -> None:
        self._records = {record.name: record for record in records}
        self._left = Counter(uses)
        self._store = store
        self._opened: dict[str, Cutout] = {}
        self._guard = threading.Lock()

    @contextmanager
    def use(self, *names: str) -> Iterator[tuple[Cutout, ...]]:
        """Use some of the cutouts once.

        Raises
        ------
        StoreError
            As :func:`open_cutout`.
        """
        with self._guard:
            for name in names:
                if name not in self._opened:
                    self._opened[name] = open_cutout(self._records[name], self._store)
            cutouts = tuple(self._opened[name] for name in names)
        try:
            yield cutouts
        finally:
            with self._guard:
                self._left.subtract(names)
                for name in names:
                    if self._left[name] <= 0:
                        del self._opened[name]


def extent_of(ends: NDArray[np.int64], angle: float) -> tuple[float, float]:
    """Return the size of a valid area along and across an axis, grid pixels.

    All valid pixels lie in the convex hull of the ends of rows, so that the extremes in any direction are exact; one
    pixel is added for the width of a pixel.

    Parameters
    ----------
    ends
        (ny, 3): first and last valid column and number of valid ones of each row.
    angle
        Angle of the axis from +x, radians.
    """
    rows = np.flatnonzero(ends[:, 2])
    x = np.concatenate([ends[rows, 0], ends[rows, 1]])
    y = np.concatenate([rows, rows])
    along = x * math.cos(angle) + y * math.sin(angle)
    across = y * math.cos(angle) - x * math.sin(angle)
    return float(along.max() - along.min()) + 1.0, float(across.max() - across.min()) + 1.0


def texture_of(data: NDArray[np.floating]) -> float:
    """Return the median step from one pixel to the next, of rows spread evenly: the scale of an image's values."""
    every = max(1, data.shape[0] // 64)
    rows = data[::every].astype(np.float64)
    with np.errstate(invalid="ignore"):
        steps = np.abs(rows[:, 1:] - rows[:, :-1]).ravel()
    steps = steps[steps < np.inf]  # not for NaN
    if not steps.size:
        return 0.0
    ranks = (steps.size - 1) // 2, steps.size // 2
    lower, upper = _ordered(steps, *ranks)
    return upper if ranks[0] == ranks[1] else (lower + upper) / 2


def _ordered(values: NDArray[np.float64], first: int, last: int) -> tuple[float, float]:
    """Return the values of two ranks near the middle; of many, only those that a sample shows to be near are sorted."""
    below = 0
    if values.size > _FEW:
        sample = np.sort(values[:: values.size // _SAMPLE])
        margin, middle = 2 * math.isqrt(sample.size), sample.size // 2
        low, high = float(sample[max(middle - margin, 0)]), float(sample[min(middle + margin, sample.size - 1)])
        before, near = int(np.count_nonzero(values < low)), values[(values >= low) & (values <= high)]
        if before <= first and last < before + near.size:
            values, below = near, before
    values = np.partition(values, (first - below, last - below))
    return float(values[first - below]), float(values[last - below])


def _resampled(
    settings: MatchSettings, pixels: Pixels, *, wcs: AnyWcs, pixel_map: PixelMap, grid: Grid, box: Box, room: int = 0
) -> Resampled:
    method = settings.reproject_func
    if method == "interp" or method == "spline":  # noqa: PLR1714 - mypy narrows by comparison
        return bilinear(pixels.data, pixels.variance, pixel_map, box, sharp=method == "spline", room=room)
    return by_reproject(
        method, data=pixels.data, variance=pixels.variance, wcs=wcs, pixel_map=pixel_map, grid=grid, box=box
    )


def _divided(pixels: Pixels, divisor: float) -> Pixels:
    """Return the pixels over a number: counts as rates."""
    if divisor == 1.0:
        return pixels
    variance = None if pixels.variance is None else (pixels.variance / divisor**2).astype(pixels.variance.dtype)
    return Pixels((pixels.data / divisor).astype(pixels.data.dtype), variance)


def _per_area(pixels: Pixels, exposure: Exposure, grid: Grid, wcs: AnyWcs) -> Pixels:
    """Return the pixel values per area of a grid pixel, if the exposure is matched per area."""
    if not exposure.per_area:
        return pixels
    with quiet(), np.errstate(all="ignore"):
        areas = relative_areas(sky_transforms(wcs)[0], exposure.shape, grid.pixel_area)
        areas[~(areas > 0)] = np.nan  # a pixel without a position on the sky
        data = (pixels.data / areas).astype(pixels.data.dtype)
        variance = None if pixels.variance is None else (pixels.variance / areas**2).astype(pixels.variance.dtype)
    return Pixels(data, variance)


def _sources(pixels: Pixels, settings: MatchSettings) -> NDArray[np.bool_]:
    options: dict[str, Any] = {
        name: getattr(settings, name) for name in ("sigma", "npixels", "dilate_size", "max_iters")
    }
    return source_mask(pixels.data, **options)


def _blanked(pixels: Pixels, where: NDArray[np.bool_]) -> Pixels:
    data = pixels.data.copy()
    data[where] = np.nan
    return Pixels(data, pixels.variance)


def _valid_rectangle(pixels: Pixels, exposure: Exposure) -> tuple[tuple[int, int], tuple[int, int]]:
    bottom, top, left, right = kernels.valid_rectangle(pixels.data)
    if top <= bottom:
        message = f"{exposure.name}: no usable pixel: all are masked, blank or not finite"
        raise NoUsablePixelsError(message)
    return (bottom, top), (left, right)


def _record(name: str, image: Resampled, placement: Placement, array: StoredArray) -> CutoutRecord:
    return CutoutRecord(
        name=name,
        array=array,
        x0=placement.box.x0,
        y0=placement.box.y0,
        shape=placement.box.shape,
        has_variance=image.has_variance,
        n_valid=image.n_valid,
        n_wild=image.n_wild,
        noise_gain=image.noise_gain,
        axis_angle=placement.axis_angle,
        extent=extent_of(image.ends, placement.axis_angle),
        outline=placement.outline,
    )
