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
        All pairs of the group. If none has enough pixels, all remain as they are.
    fit_type
        What was fitted, which has taken one or three degrees of freedom.
    """
    enough = [fit.rms for fit in fits if fit.n_used >= FEW]
    if not enough or len(enough) == len(fits):
        return list(fits)
    typical = float(np.median(enough)) ** 2
    return [fit if fit.n_used >= FEW else _with_noise(fit, typical, 1 if fit_type == "level" else 3) for fit in fits]


def _with_noise(fit: PairFit, typical: float, fitted: int) -> PairFit:
    """Return a pair with the mean of its own variance and a typical one."""
    free = max(0.0, (fit.n_used - fitted) / fit.correlation)
    shown = fit.rms**2 * fit.n_used / max(1, fit.n_used - fitted)
    rms = math.sqrt((free * shown + TYPICAL * typical) / (free + TYPICAL))
    larger = rms / fit.rms if fit.rms > 0 else math.inf
    measurable = math.isfinite(larger)
    stderr = fit.stderr * larger if measurable else rms * math.sqrt(fit.correlation / fit.n_used)
    efficient = None
    if fit.efficient is not None and measurable:
        level, sigma, apart = fit.efficient
        efficient = level, sigma * larger, apart / larger
    settled = fit.converged or 0 < fit.last_step <= SETTLED * stderr
    return fit.model_copy(update={"rms": rms, "stderr": stderr, "efficient": efficient, "converged": settled})
