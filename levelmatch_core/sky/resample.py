"""Resampling of an image to a box of the grid: bilinear and spline in compiled passes, adaptive and exact by reproject.

Variances are resampled with the squares of the weights. The noise gain is the sum of squared weights, averaged over the
output: the variance of a resampled pixel for white noise of unit variance in the input.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from astropy import units
from astropy.wcs import WCS
from astropy.wcs.wcsapi import BaseHighLevelWCS, BaseLowLevelWCS
from numpy.typing import NDArray

from levelmatch_core.sky import interpolation, kernels, spline
from levelmatch_core.sky.grid import Grid
from levelmatch_core.sky.pixelmap import Box, PixelMap

NOISE_SEED = 20_240_101
"""Seed of the white noise that is used to measure the gain of reproject's kernels."""

Image = NDArray[np.floating]


@dataclass(frozen=True)
class Resampled:
    """An image on a box of the grid."""

    planes: Image
    """(planes, ny, nx): the data, NaN where there is none; its variance, if any; the data with sources, if masked."""
    noise_gain: float
    """Sum of squared weights, averaged over the valid pixels; NaN if there are none."""
    ends: NDArray[np.int64]
    """(ny, 3): first and last valid column of each row, and the number of valid columns; -1, -1, 0 for none."""
    has_variance: bool
    n_wild: int = 0
    """Number of the image's pixels that were left out because they stand out alone."""

    @property
    def data(self) -> Image:
        """(ny, nx), the data."""
        return self.planes[0]

    @property
    def variance(self) -> Image | None:
        """(ny, nx), the variance, or None."""
        return self.planes[1] if self.has_variance else None

    @property
    def n_valid(self) -> int:
        """Number of valid pixels."""
        return int(self.ends[:, 2].sum())


def bilinear(
    data: Image, variance: Image | None, pixel_map: PixelMap, box: Box, *, sharp: bool = False, room: int = 0
) -> Resampled:
    """Interpolate bilinearly, in agreement with `reproject.reproject_interp` including edges and NaN, or by a spline.

    Positions in the outer half of an edge pixel get the value on its centre line; a NaN among the four neighbours gives
    NaN. The sums are computed in double precision and stored in the type of `data`.

    Parameters
    ----------
    data
        (rows, columns), float32 or float64, NaN where invalid.
    variance
        The same shape, or None.
    pixel_map
        From the grid to the image.
    box
        The part of the grid to fill.
    sharp
        Whether to replace bilinear values by those of the cubic spline through all pixels, except in the outer half of
        edge pixels (:mod:`levelmatch_core.sky.spline`). Isolated bright pixels (cosmic rays) are invalid then. For the
        spline, invalid pixels are interpolated along their row. The variance is that of the bilinear value times the
        ratio of the sums of squared weights.
    room
        Number of further planes for :func:`beside`.
    """
    data, variance = _prepared(data, variance)
    through, n_wild = None, 0
    if sharp:
        through, wild = spline.coefficients(data)
        n_wild = int(np.count_nonzero(wild))
        if n_wild:
            data = _read_only(np.where(wild, np.nan, data), data.dtype.type)
    planes = np.empty((1 + (variance is not None) + room, *box.shape), data.dtype)
    ends = np.empty((box.shape[0], 3), np.int64)
    empty = np.empty((0, 0), data.dtype)
    # read-only, as a variance is: one compiled kernel serves both
    source = _read_only(empty, data.dtype.type) if variance is None else variance
    target = empty if variance is None else planes[1]
    squares = 0.0
    for band in [box] if pixel_map.pieces is not None else pixel_map.bands(box):
        rows = slice(band.y0 - box.y0, band.y0 - box.y0 + band.shape[0])
        pieces = np.empty((0,) * 5) if pixel_map.pieces is None else pixel_map.pieces
        positions = pixel_map.on(band) if pixel_map.pieces is None else np.empty((0,) * 3)
        where = (pieces, pixel_map.lattice, positions, (float(band.x0), float(band.y0)))
        squares += interpolation.bilinear_kernel(data, source, *where, planes[0, rows], target[rows], ends[rows])
        if through is not None:
            squares += spline.sharpen(through, *where, planes[0, rows], target[rows])
    count = int(ends[:, 2].sum())
    gain = squares / count if count else float("nan")
    return Resampled(planes, gain, ends, variance is not None, n_wild)


def by_reproject(
    method: Literal["adaptive", "exact"],
    *,
    data: Image,
    variance: Image | None,
    wcs: WCS | BaseHighLevelWCS,
    pixel_map: PixelMap,
    grid: Grid,
    box: Box,
) -> Resampled:
    """Resample with `reproject_adaptive` (on the fast map) or `reproject_exact` (on the WCSs themselves).

    Their weights are not available. Therefore white noise of unit variance, seeded and masked like the data, is
    resampled together with the data; its mean square is the noise gain. The variance is resampled with the weights
    themselves and multiplied by the gain, which is correct where the variance changes little within the kernel, and on
    average elsewhere. Surface brightness is conserved, not flux.

    Parameters
    ----------
    method
        Which of the two.
    data, variance, pixel_map, box
        As in :func:`bilinear`.
    wcs, grid
        The image's WCS and the grid (used by 'exact').
    """
    from reproject import reproject_adaptive, reproject_exact  # noqa: PLC0415 - takes 0.3 s, and is rarely used

    data, variance = _prepared(data, variance)
    signs = np.random.default_rng(NOISE_SEED).integers(0, 2, data.shape, dtype=np.int8)
    noise = np.where(np.isfinite(data), (2 * signs - 1).astype(data.dtype), np.nan)
    inputs = [data, noise] if variance is None else [data, noise, variance]
    stack = np.empty((len(inputs), *box.shape), data.dtype)
    for image, out in zip(inputs, stack, strict=True):
        if method == "adaptive":
            reproject_adaptive(
                (image, _MapWcs(None, box)),
                _MapWcs(pixel_map, box),
                shape_out=box.shape,
                output_array=out,
                return_footprint=False,
                roundtrip_coords=False,
                boundary_mode="ignore_threshold",
            )
        else:
            target = grid.wcs(box.x0, box.y0)
            reproject_exact((image, wcs), target, shape_out=box.shape, output_array=out, return_footprint=False)
    bad = ~np.isfinite(stack[0])
    stack[:, bad] = np.nan
    ends = np.empty((box.shape[0], 3), np.int64)
    kernels.row_ends(stack[0], ends)
    gain = float(np.mean(np.square(stack[1][~bad], dtype=float))) if not bad.all() else float("nan")
    planes = stack[:1] if variance is None else stack[::2] * np.array([1.0, gain], data.dtype)[:, None, None]
    return Resampled(np.ascontiguousarray(planes), gain, ends, variance is not None)


def beside(image: Resampled, masked: Resampled) -> Resampled:
    """Return an image for measuring, with what it is without masks as its last plane.

    Parameters
    ----------
    image
        The image, resampled with its sources; changed, if it has room for one more plane.
    masked
        The same without its sources, which were masked before: none leaks, not even by the spline.
    """
    planes = image.planes
    if len(planes) == 1 + image.has_variance:
        planes = np.concatenate([planes, planes[:1]])
    planes[-1] = planes[0]
    planes[0] = masked.planes[0]
    return Resampled(planes, masked.noise_gain, masked.ends, image.has_variance, image.n_wild)


def _prepared(data: Image, variance: Image | None) -> tuple[Image, Image | None]:
    """Return both in the same native floating-point type, as the kernels require."""
    kind = np.float32 if data.dtype.itemsize <= 4 and data.dtype.kind == "f" else np.float64
    return _read_only(data, kind), None if variance is None else _read_only(variance, kind)


def _read_only(image: Image, kind: type[np.floating]) -> Image:
    """Return a read-only view, so that one compiled variant is enough for all images."""
    view = np.ascontiguousarray(image, dtype=kind).view()
    view.flags.writeable = False
    return view


class _MapWcs(BaseLowLevelWCS):
    """A WCS whose "world" is the pixels of an image: the pixel map of the grid, or the identity for the image."""

    pixel_n_dim = 2
    world_n_dim = 2
    world_axis_physical_types = ("custom:pixel.x", "custom:pixel.y")
    world_axis_units = ("pix", "pix")
    world_axis_object_components = (("x", 0, "value"), ("y", 0, "value"))

    def __init__(self, pixel_map: PixelMap | None, box: Box) -> None:
        self._map = pixel_map
        self._box = box

    @property
    def world_axis_object_classes(self) -> dict[str, Any]:
        return {name: (units.Quantity, (), {"unit": units.pix}) for name in ("x", "y")}

    def pixel_to_world_values(self, *pixel_arrays: Any) -> Any:  # noqa: ANN401 - as APE 14 has it
        if self._map is None:
            return pixel_arrays
        return tuple(self._map.at(pixel_arrays[0] + self._box.x0, pixel_arrays[1] + self._box.y0))

    def world_to_pixel_values(self, *world_arrays: Any) -> Any:  # noqa: ANN401 - as APE 14 has it
        if self._map is None:
            return world_arrays
        message = "reproject does not use the map from the image to the grid"
        raise RuntimeError(message)
