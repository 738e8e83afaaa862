"""Large images as small ones: the means of blocks of pixels."""

import numpy as np
from numpy.typing import NDArray


def block_mean(image: NDArray[np.floating], step: int) -> NDArray[np.float64]:
    """Return the mean of the finite pixels of each block of step x step pixels, NaN where there are none."""
    if step == 1:
        return np.where(np.isfinite(image), image, np.nan).astype(np.float64)
    rows, columns = (-(-size // step) for size in image.shape)
    out = np.full((rows, columns), np.nan)
    for row in range(rows):  # a row of blocks at a time: the image may be larger than memory
        part = np.asarray(image[row * step : (row + 1) * step], dtype=np.float64)
        seen = np.isfinite(part)
        starts = range(0, part.shape[1], step)
        # down the columns first, which is how the pixels lie
        count = np.add.reduceat(seen.sum(axis=0), starts)
        total = np.add.reduceat(np.where(seen, part, 0.0).sum(axis=0), starts)
        np.divide(total, count, out=out[row], where=count > 0)
    return out
