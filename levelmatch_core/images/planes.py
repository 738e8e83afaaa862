"""The image of two axes that an array of more holds: without its axes of length 1, or a plane of a cube."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def plane_of(shape: Sequence[int]) -> tuple[int, int] | None:
    """Return rows and columns of an array of this shape without its axes of length 1; None where it is no image."""
    axes = plane_axes_of(shape)
    return None if axes is None else (shape[-axes[1]], shape[-axes[0]])


def is_cube(shape: Sequence[int]) -> bool:
    """Return whether an array of this shape is a cube: of more than two axes that are longer than 1."""
    return len(shape) > 2 and 0 not in shape and plane_axes_of(shape) is None


def image_in(values: NDArray[np.generic], plane: int | None) -> NDArray[np.generic]:
    """Return the image of two axes that an array holds, a view: without axes of length 1, or a plane (from 1) of it."""
    shape = plane_of(values.shape)
    if shape is not None:
        return values.reshape(shape)
    if plane is None or not is_cube(values.shape):
        return values
    planes = values.reshape(-1, *values.shape[-2:])
    return values if plane > len(planes) else planes[plane - 1]


def plane_axes_of(shape: Sequence[int]) -> tuple[int, int] | None:
    """Return the FITS numbers of the two axes that an image has: the first two, unless a later one is longer than 1."""
    sizes = shape[::-1]
    if len(sizes) < 2 or 0 in sizes:
        return None
    if all(size == 1 for size in sizes[2:]):
        return 1, 2
    long = [axis for axis, size in enumerate(sizes, start=1) if size > 1]
    return (long[0], long[1]) if len(long) == 2 else None
