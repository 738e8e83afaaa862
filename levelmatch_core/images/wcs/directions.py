"""Directions on the sky as unit vectors."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def unit_vectors(sky: ArrayLike) -> NDArray[np.float64]:
    """Return (..., 3) unit vectors of (..., 2) RA and Dec in degrees."""
    angles = np.radians(np.asarray(sky, dtype=float))
    ra, dec = angles[..., 0], angles[..., 1]
    across = np.cos(dec)
    vectors = np.empty((*ra.shape, 3))
    vectors[..., 0], vectors[..., 1], vectors[..., 2] = across * np.cos(ra), across * np.sin(ra), np.sin(dec)
    return vectors
