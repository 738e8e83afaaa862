"""What the step's methods return: records that unpack, and can be indexed, as the original's results."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from astropy.wcs import WCS
from numpy.typing import DTypeLike, NDArray

from levelmatch_core.errors import UsageError
from levelmatch_core.matching.pair_matrices import DeltaMatrices
from levelmatch_core.sky.grid import Grid
from levelmatch_core.sky.pixelmap import Box
from levelmatch_core.sky.plane import Plane

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Frame:
    """The pixels on which coefficients [a, b, c] of a (x - ref_x) + b (y - ref_y) + c hold, counted from 0."""

    shape: tuple[int, int]
    """Rows, columns."""
    ref_x: float | Floats = 0.0
    """Column at which c holds; an array where each correction has a point of its own."""
    ref_y: float | Floats = 0.0
    """Row of it."""
    x0: int = 0
    """Column of the field's grid at which the first pixel lies."""
    y0: int = 0
    """Row of it."""
    grid: Grid | None = None
    """The field's grid; None for images of unknown place."""
    given: WCS | None = None
    """The WCS that images on a pixel grid of the user's own came with."""

    @property
    def wcs(self) -> WCS | None:
        """The WCS of these pixels; None if it is not known."""
        return self.given if self.grid is None else self.grid.wcs(self.x0, self.y0)

    @classmethod
    def of(cls, grid: Grid, boxes: list[Box]) -> "Frame":
        """Return the frame that holds all boxes, about its first pixel."""
        x0, y0 = min(box.x0 for box in boxes), min(box.y0 for box in boxes)
        nx = max(box.x0 + box.shape[1] for box in boxes) - x0
        ny = max(box.y0 + box.shape[0] for box in boxes) - y0
        return cls(shape=(ny, nx), x0=x0, y0=y0, grid=grid)

    def plane(self, coefficients: NDArray[Any], number: int = 0) -> Plane:
        """Return [c] or [a, b, c] of the correction of a number as a plane on the field's grid.

        Raises
        ------
        UsageError
            If it has slopes, and the frame has no grid.
        """
        if len(coefficients) == 1:
            return Plane(level=float(coefficients[0]))
        if self.grid is None:
            message = "[a, b, c] on pixels of unknown place cannot be subtracted: give the frame of calculate_delta"
            raise UsageError(message)
        a, b, c = map(float, coefficients)
        x, y = (float(np.atleast_1d(each)[number if np.ndim(each) else 0]) for each in (self.ref_x, self.ref_y))
        return Plane(level=c, slope_x=a, slope_y=b, x0=self.x0 + x, y0=self.y0 + y)


class Corrections(dict[str, Plane]):
    """Name of the exposure (the file) -> plane on the field's grid, to be subtracted; with the grid of each."""

    def __init__(self, planes: dict[str, Plane], grids: dict[str, Grid]) -> None:
        super().__init__(planes)
        self.grids = grids
        """The grid of each exposure's field: `grids[name].wcs()` has its pixel (0, 0) at the tangent point."""


@dataclass(frozen=True)
class LevelDelta:
    """The robust difference second - first of two groups of files; unpacks as coefficients, npix, rms, linear."""

    coefficients: Floats
    """[c], or [a, b, c] of a (x - ref_x) + b (y - ref_y) + c; data unit, slopes per pixel of the frame."""
    npix: int
    """Pixels valid in both."""
    rms: float
    """Scatter about the fit, data unit."""
    linear: tuple[float, float]
    """Overlap as a fraction of either member's extent, along both detector axes."""
    frame: Frame
    """Pixels and reference point of the coefficients."""

    def __iter__(self) -> Iterator[Any]:
        return iter((self.coefficients, self.npix, self.rms, self.linear))


@dataclass(frozen=True)
class FieldDeltas:
    """The differences of all pairs of members; unpacks as the five matrices of `find_optimum_deltas`."""

    matrices: DeltaMatrices
    names: tuple[str, ...]
    """The members, in the order of rows and columns."""
    frame: Frame
    """Pixels and reference point of [a, b, c]: the middle of all members."""

    @property
    def delta_mat(self) -> Floats:
        """(N, N), or (N, N, 3) with [a, b, c]; entry [j, i] describes data_j - data_i; 0 where there is no pair."""
        return self.matrices.delta_mat

    @property
    def npix_mat(self) -> NDArray[np.int64]:
        """(N, N) pixels valid in both."""
        return self.matrices.npix_mat

    @property
    def rms_mat(self) -> Floats:
        """(N, N) scatter about the fit, data unit."""
        return self.matrices.rms_mat

    @property
    def lin_size_mat(self) -> NDArray[np.int64]:
        """(N, N) 1 where the overlap reaches min_linear_frac along an axis."""
        return self.matrices.lin_size_mat

    @property
    def valid_mat(self) -> NDArray[np.int64]:
        """(N, N) 1 where there is a pair."""
        return self.matrices.valid_mat

    def __iter__(self) -> Iterator[Any]:
        return iter(self.matrices)

    def __len__(self) -> int:
        return len(self.matrices)

    @overload
    def __getitem__(self, index: int) -> NDArray[Any]: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[NDArray[Any], ...]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return self.matrices[index]


@dataclass(frozen=True)
class DitherDeltas:
    """The corrections of the exposures of one tile; an array of them wherever one is expected."""

    coefficients: Floats
    """(n, 1) levels, or (n, 3) [a, b, c] about the centre of each exposure's box; to be subtracted."""
    names: tuple[str, ...]
    """The exposures, in the order of the files: one with several images has a row for each."""
    frame: Frame
    """Pixels and reference points."""

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.coefficients, dtype=dtype, copy=copy)

    def __iter__(self) -> Iterator[Floats]:
        return iter(self.coefficients)

    def __len__(self) -> int:
        return len(self.coefficients)

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401 - as of an array
        return self.coefficients[index]

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the coefficients."""
        return self.coefficients.shape


class ReprojectedImage(np.ndarray[tuple[int, ...], np.dtype[np.float64]]):
    """A resampled image, NaN where there is no valid data: an array that brings its errors and its footprint.

    What is cut or computed from it is an array without them.
    """

    error: Floats | None
    """1 sigma of each pixel, resampled like the data; None if the file has no errors."""
    footprint: Floats | None
    """Fraction of each pixel that the file's valid pixels cover, from 0 to 1, as reproject tells it."""
    wcs: WCS | None
    """The WCS that it was resampled to."""

    @classmethod
    def of(cls, data: Floats, error: Floats | None, footprint: Floats, wcs: WCS) -> "ReprojectedImage":
        """Return data as such an image."""
        image = np.asarray(data, dtype=np.float64).view(cls)
        image.error, image.footprint, image.wcs = error, footprint, wcs
        return image

    def __array_finalize__(self, source: object) -> None:
        self.error, self.footprint, self.wcs = None, None, None
