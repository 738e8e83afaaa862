"""What others than the code under test say of the same numbers."""

import numpy as np
from astropy.stats import sigma_clip


def robustly_clipped(values: np.ndarray, sigma: float, maxiters: int, sample: np.ndarray | None = None) -> np.ndarray:
    """Return what clipping leaves: a start by the median absolute deviation (of a sample) by numpy; then astropy."""
    values = values[np.isfinite(values)].astype(float)
    finite = values if sample is None else sample[np.isfinite(sample)].astype(float)
    with np.errstate(over="ignore"):
        deviations = np.sort(np.abs(finite - np.median(finite)))
    n = finite.size
    scale = deviations[n // 2]
    larger = deviations[deviations > scale]
    rank = n - larger.size
    tied = np.count_nonzero(deviations == scale)
    if larger.size and rank < 0.8 * n and tied > max(1, 0.05 * n):
        scale = (scale + larger[0]) / 2
    limit = sigma * scale / 0.6744897501960817
    if larger.size and rank >= 0.8 * n and scale == 0:
        limit = 1000 * sigma * larger[0]
    inside = values[np.abs(values - np.median(finite)) <= (limit if np.isfinite(limit) else 0)]
    return np.asarray(sigma_clip(inside, sigma=sigma, maxiters=maxiters, masked=False))
