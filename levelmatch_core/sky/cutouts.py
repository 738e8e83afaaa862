"""A cutout: an exposure, or a stack of exposures, resampled to its field's grid within its own bounding box."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field as Described

from levelmatch_core.records import Record


class StoredArray(Record):
    """Where an array lies in the store, and the digest by which a reader knows that it is the one that was written."""

    file: str = Described(description="path relative to the store's root")
    sha256: str


class CutoutRecord(Record):
    """What is known of a cutout without its pixels."""

    name: str = Described(description="the member's name")
    array: StoredArray = Described(description="(1 or 2, ny, nx): SCI with NaN where invalid; the variance, if any")
    x0: int = Described(description="grid column of the first pixel")
    y0: int = Described(description="grid row of the first pixel")
    shape: tuple[int, int] = Described(description="rows, columns")
    has_variance: bool
    n_valid: int = Described(description="number of finite SCI pixels")
    noise_gain: float = Described(description="mean of the summed squared resampling weights: 1 where noise is white")
    axis_angle: float = Described(description="angle of the (first) exposure's +x axis from the grid's +x, radians")
    extent: tuple[float, float] = Described(description="size of the valid area along that axis and across, grid pixels")
    outline: tuple[tuple[float, float], ...] = Described(description="(x, y) grid corners of the footprint, in order")

    @property
    def centre(self) -> tuple[float, float]:
        """(x, y) of the middle of the bounding box, grid pixels."""
        return self.x0 + (self.shape[1] - 1) / 2, self.y0 + (self.shape[0] - 1) / 2


@dataclass(frozen=True)
class Cutout:
    """A cutout with its pixels (read-only, usually a memory map)."""

    record: CutoutRecord
    data: NDArray[np.floating]
    """(ny, nx), the data's unit, NaN where nothing valid was seen."""
    variance: NDArray[np.floating] | None = None
    """(ny, nx), the data's unit squared; None where the input has no errors."""
