"""The noise of pairs of few pixels: what they scatter by says next to nothing of it, and the other pairs do.

Two pixels agree with a median by chance, and three with a plane always. Taken at its word, such a pair would be a
million times as certain as one of a thousand pixels; it would decide on the levels of its members, and contradict all
others. The variance of the pixels is therefore the mean of that which the pair shows and that which pairs of the group
typically show, each with its number of degrees of freedom (a scaled inverse chi-squared prior: Gelman et al. 2013,
Bayesian Data Analysis, section 2.6).
"""

import math
from collections.abc import Sequence

import numpy as np

from levelmatch_core.matching.measure.pair_fit import SETTLED
from levelmatch_core.matching.results import PairFit
from levelmatch_core.settings import FitType

FEW = 30
"""Pairs of fewer pixels have the noise of the others, too. Of at least so many, the scatter is known to 16 %."""
TYPICAL = 6.0
"""Degrees of freedom that the typical variance counts for: pairs of a field differ by a third of their rms."""


def with_typical_noise(fits: Sequence[PairFit], fit_type: FitType) -> list[PairFit]:
    """Return the pairs of a group, those of few pixels with a scatter and an error that all pairs make probable.

    Parameters
    ----------
    fits
        All pairs of the group. If none has enough pixels, typical is what all of them show together; if they have no
        pixel to spare, nothing says how certain any is, and each may be all noise.
    fit_type
        What was fitted, which has taken one or three degrees of freedom.
    """
    fitted = 1 if fit_type == "level" else 3
    enough = [fit.rms for fit in fits if fit.n_used >= FEW]
    if len(enough) == len(fits):
        return list(fits)
    typical = float(np.median(enough)) ** 2 if enough else _pooled(fits, fitted)
    return [fit if fit.n_used >= FEW else _with_noise(fit, typical, fitted) for fit in fits]


def _pooled(fits: Sequence[PairFit], fitted: int) -> float:
    """Return the variance that pairs show together; that of their differences where no pixel is to spare."""
    freedom = [_freedom(fit, fitted) for fit in fits]
    if sum(freedom) > 0:
        return sum(free * _shown(fit, fitted) for free, fit in zip(freedom, fits, strict=True)) / sum(freedom)
    return max(fit.plane.level**2 for fit in fits)


def _freedom(fit: PairFit, fitted: int) -> float:
    return max(0.0, (fit.n_used - fitted) / fit.correlation)


def _shown(fit: PairFit, fitted: int) -> float:
    """Return the variance of the pixels that a pair shows by itself."""
    return fit.rms**2 * fit.n_used / max(1, fit.n_used - fitted)


def _with_noise(fit: PairFit, typical: float, fitted: int) -> PairFit:
    """Return a pair with the mean of its own variance and a typical one."""
    free = _freedom(fit, fitted)
    rms = math.sqrt((free * _shown(fit, fitted) + TYPICAL * typical) / (free + TYPICAL))
    larger = rms / fit.rms if fit.rms > 0 else math.inf
    measurable = math.isfinite(larger)
    stderr = fit.stderr * larger if measurable else rms * math.sqrt(fit.correlation / fit.n_used)
    efficient = None
    if fit.efficient is not None and measurable:
        level, sigma, apart = fit.efficient
        efficient = level, sigma * larger, apart / larger
    settled = fit.converged or 0 < fit.last_step <= SETTLED * stderr
    return fit.model_copy(update={"rms": rms, "stderr": stderr, "efficient": efficient, "converged": settled})
