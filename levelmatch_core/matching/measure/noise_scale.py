"""The noise of a group's pairs as their blocks show it, where it is less than the scatter of their pixels says.

The standard error of a pair assumes normal noise with the correlation of resampling. In a crowd most pixels lie closer
together than their rms says, and what stars leave has positive and negative parts next to each other: errors of levels
are then about two thirds of that. The variance over blocks (`block_jackknife`) needs no such assumption, but a pair
has only 64 of them. The pairs of a group therefore share one factor, the upper limit of their median ratio. Blocks
ignore the correlation of pixels across their borders, and see up to a tenth too little: ratios that may be due to this
change nothing, so that errors in normal noise stay what they are. Ratios above 1 belong to single pairs (`structure`).

What is less is the noise of the pixels' mean, which pairs over the same pixels share. What each pair has of its own, as
clipping leaves it, stays as it is: sums of loops of dithers, of which only that is left, scattered by 1.4 else.
"""

import math
from collections.abc import Sequence
from statistics import median

from levelmatch_core.matching.results import PairFit

FEWEST_BLOCKS = 16
"""Pairs with fewer blocks have no say."""
LIMIT = 2.0
"""Standard deviations by which the upper limit is above the median."""
MEDIAN = math.sqrt(math.pi / 2)
"""Standard deviation of a median over that of a mean."""
BELOW, NORMAL = 0.6, 0.85
"""Up to the first ratio the factor is the ratio, from the second on it is 1; in between it is linear."""

ALIKE = 0.3
"""Part of the difference that is not claimed: an error that is alike in all blocks does not show in their scatter."""


def scaled(fits: Sequence[PairFit]) -> list[PairFit]:
    """Return the pairs of a group with standard errors that are no larger than their blocks show.

    Parameters
    ----------
    fits
        All pairs of a group.
    """
    factor = noise_factor(fits)
    root = math.sqrt(factor)
    return [
        fit.model_copy(
            update={
                "stderr": root * fit.stderr,
                "shared": max(0.0, 1.0 - (1.0 - fit.shared) / factor),
                "noise_by_blocks": None,
            }
        )
        for fit in fits
    ]


def noise_factor(fits: Sequence[PairFit]) -> float:
    """Return the factor on the variances of all pairs, at most 1.

    Pairs that share exposures share their noise: of n members, no more than n - 1 pairs are independent.
    """
    known = {
        (fit.first, fit.second): fit.noise_by_blocks
        for fit in fits
        if fit.noise_by_blocks is not None and fit.noise_by_blocks[1] >= FEWEST_BLOCKS
    }
    if not known:
        return 1.0
    independent = min(len(known), len({name for pair in known for name in pair}) - 1)
    error = math.sqrt(2.0 / (median(count for _, count in known.values()) - 1))
    if independent > 2:
        error *= MEDIAN / math.sqrt(independent)
    ratio = median(one for one, _ in known.values()) * (1.0 + LIMIT * error)
    factor = min(1.0, max(ratio, 1.0 - (NORMAL - ratio) * (1.0 - BELOW) / (NORMAL - BELOW)))
    return factor + ALIKE * (1.0 - factor)
