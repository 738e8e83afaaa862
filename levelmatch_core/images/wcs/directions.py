"""Directions on the sky as unit vectors."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def unit_vectors(sky: ArrayLike) -> NDArray[np.float64]:
    """Return (..., 3) unit vectors of (..., 2) RA and Dec in degrees."""
    ra, dec = np.moveaxis(np.radians(np.asarray(sky, dtype=float)), -1, 0)
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=-1)
