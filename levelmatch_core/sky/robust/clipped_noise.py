"""What sigma clipping leaves of normal noise."""

import math
from functools import lru_cache


@lru_cache
def kappa_of(sigma: float, iterations: int) -> float:
    """Return the standard deviation of unit normal noise after `iterations` clips at `sigma` of its own deviations.

    Below sqrt(3) sigma, clipping goes on for ever, and nothing can be known of the noise: no less than 0.5 is returned.
    """
    found = 1.0
    for _ in range(iterations):
        limit = sigma * found
        inside = math.erf(limit / math.sqrt(2))
        found = math.sqrt(1 - limit * math.sqrt(2 / math.pi) * math.exp(-(limit**2) / 2) / inside)
        if found < 0.5:
            return 0.5
    return found


@lru_cache
def clipped_part(sigma: float, iterations: int) -> float:
    """Return the fraction of normal noise that is clipped."""
    return math.erfc(sigma * kappa_of(sigma, iterations) / math.sqrt(2))
