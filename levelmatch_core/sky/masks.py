"""Source masks, and the sky level between the sources."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from levelmatch_core.errors import NoUsablePixelsError
from levelmatch_core.sky.robust.clipping import clipped

Image = NDArray[np.floating]


def source_mask(
    data: Image, *, sigma: float = 3.0, npixels: int = 3, dilate_size: int = 7, max_iters: int = 20
) -> NDArray[np.bool_]:
    """Return a mask that is True on sources: connected pixels above a sigma-clipped background, dilated.

    The result equals that of photutils' `detect_threshold`, `detect_sources` (with 8-connectivity) and
    `make_source_mask`, which a test verifies. It is implemented here because photutils issues warnings if there is no
    source, and warnings cannot be caught in threads.

    Parameters
    ----------
    data
        (rows, columns), NaN where invalid.
    sigma
        Threshold above the background, and clipping limit, in standard deviations.
    npixels
        Smallest number of connected pixels of a source.
    dilate_size
        Side of the square by which sources are dilated, pixels; 1 for no dilation.
    max_iters
        Largest number of clipping iterations.
    """
    sky = clipped(data, sigma, max_iters)
    if sky is None:
        return np.zeros(data.shape, dtype=bool)
    # comparisons with NaN are false: invalid pixels do not belong to sources
    bright = data > sky.median + sky.offset + sigma * sky.std
    labels, _ = ndimage.label(bright, structure=np.ones((3, 3), dtype=bool))
    sources = np.bincount(labels.ravel()) >= npixels
    sources[0] = False
    # dilation by a square is a running maximum, which is separable
    # (an even square has no central pixel: dilation uses the other one of the two candidates)
    grown: NDArray[np.bool_] = ndimage.maximum_filter(
        sources[labels], size=dilate_size, mode="constant", cval=0, origin=-1 if dilate_size % 2 == 0 else 0
    )
    return grown


def local_sky(data: Image, *, sigma: float = 3.0, npixels: int = 3, dilate_size: int = 7, max_iters: int = 20) -> float:
    """Return the sigma-clipped median of the pixels outside the sources.

    Parameters
    ----------
    data, sigma, npixels, dilate_size, max_iters
        As in :func:`source_mask`.

    Raises
    ------
    NoUsablePixelsError
        If no pixel remains.
    """
    sources = source_mask(data, sigma=sigma, npixels=npixels, dilate_size=dilate_size, max_iters=max_iters)
    sky = clipped(np.where(sources, np.nan, data), sigma, max_iters)
    if sky is None:
        message = (
            f"no pixel of {data.shape[0]} x {data.shape[1]} is left for the local sky: {int(sources.sum())} are masked "
            f"as sources, {int((~np.isfinite(data)).sum())} are invalid; switch do_local_subtraction off"
        )
        raise NoUsablePixelsError(message)
    if not math.isfinite(sky.median):
        message = f"the local sky of {sky.n} pixels is {sky.median}: the pixel values are out of range"
        raise NoUsablePixelsError(message)
    return sky.median
