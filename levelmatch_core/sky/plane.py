"""A plane on the grid, the form of every correction in every stage.

The sign convention is stated here once: a correction is **subtracted** from the data. The delta of a pair (i, j)
describes data_j - data_i, and the corrections c are such that c_j - c_i equals delta[j, i] = -delta[i, j].
"""

from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from levelmatch_core.records import Record


class Plane(Record):
    """value(x, y) = level + slope_x (x - x0) + slope_y (y - y0), with column x and row y of the grid, from 0."""

    level: float = 0.0
    """Value at (x0, y0), in the data's unit."""
    slope_x: float = 0.0
    """Change per grid pixel along x, in the data's unit."""
    slope_y: float = 0.0
    """Change per grid pixel along y, in the data's unit."""
    x0: float = 0.0
    y0: float = 0.0

    @property
    def is_level(self) -> bool:
        """Whether both slopes are exactly 0."""
        return self.slope_x == 0.0 and self.slope_y == 0.0

    def __call__(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Return the plane's value at grid coordinates x, y."""
        return np.asarray(
            self.level
            + self.slope_x * (np.asarray(x, dtype=float) - self.x0)
            + self.slope_y * (np.asarray(y, dtype=float) - self.y0)
        )

    def about(self, x0: float, y0: float) -> Self:
        """Return the same plane with its level given at another point."""
        x0, y0 = float(x0), float(y0)
        level = self.level + self.slope_x * (x0 - self.x0) + self.slope_y * (y0 - self.y0)
        return self.model_copy(update={"level": level, "x0": x0, "y0": y0})

    def __add__(self, other: "Plane") -> "Plane":
        """Return the sum, about the reference point of this plane."""
        moved = other.about(self.x0, self.y0)
        return Plane(
            level=self.level + moved.level,
            slope_x=self.slope_x + moved.slope_x,
            slope_y=self.slope_y + moved.slope_y,
            x0=self.x0,
            y0=self.y0,
        )

    def __neg__(self) -> "Plane":
        """Return the plane with the opposite sign."""
        return Plane(level=-self.level, slope_x=-self.slope_x, slope_y=-self.slope_y, x0=self.x0, y0=self.y0)
