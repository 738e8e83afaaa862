"""The choice between a robust and an efficient level, from all pairs of a group together.

The median of a pair is hardly moved by sources, and needs 1.25 times the noise of the mean. Whether there is anything
but noise shows in the difference of the two, whose standard deviation is known (Hausman 1978, Econometrica 46, 1251):
hardly in a single pair, but well in many. The n standardised differences z of a group move all of its levels from the
robust estimate to the efficient one by the fraction min(1, (n - 2) / sum z^2), which is a James-Stein estimate (Green
and Strawderman 1991, J. Am. Stat. Assoc. 86, 1001, for an unbiased and a possibly biased estimator). In noise, levels
are efficient then; in crowds they are robust. A pair that contradicts by itself keeps its robust level.
"""

import math
from collections.abc import Sequence

from levelmatch_core.matching.results import PairFit

ALONE = 4.0
"""Standard deviations from which on a pair contradicts by itself, whatever the others say."""
FEWEST = 3
"""Smallest number of pairs that are compared: the estimate is no better than the robust one for fewer."""


def combined(fits: Sequence[PairFit]) -> list[PairFit]:
    """Return the pairs of a group, those with an efficient level moved towards it as far as all of them allow."""
    apart = [fit.efficient[2] for fit in fits if fit.efficient is not None]
    if len(apart) < FEWEST:
        return list(fits)
    total = sum(min(z * z, ALONE**2) for z in apart)
    towards = min(1.0, (len(apart) - 2) / total) if total > 0 else 1.0
    beyond = max(0.0, total / len(apart) - 1.0)
    return [_moved(fit, towards, beyond) for fit in fits]


def _moved(fit: PairFit, towards: float, beyond: float) -> PairFit:
    """Return a pair with its level moved; `beyond` is the mean of z^2 in addition to that of noise."""
    if fit.efficient is None:
        return fit
    level, sigma, apart = fit.efficient
    if abs(apart) > ALONE:
        return fit.model_copy(update={"efficient": None})
    # an efficient estimate is not correlated with what another one differs from it
    own = max(fit.stderr**2 - sigma**2, 0.0)
    variance = sigma**2 + (1.0 - towards) ** 2 * own + towards**2 * beyond * own
    robust = fit.plane.level
    plane = fit.plane.model_copy(update={"level": robust + towards * (level - robust)})
    shared = min(1.0, fit.shared * fit.stderr**2 / variance) if variance > 0 else fit.shared
    return fit.model_copy(update={"plane": plane, "stderr": math.sqrt(variance), "shared": shared, "efficient": None})
