"""The Gaussian prior on slopes, against ramps and bowls that overlaps hardly constrain, and the learning of its width.

Overlaps determine how the planes of neighbours match, but a bend of the whole mosaic hardly changes any difference, and
would follow the noise. If slopes are drawn from a normal distribution of width tau, such a bend is improbable. The
differences determine tau: it is the width for which the measured pairs are most probable (empirical Bayes), with levels
integrated out under a flat prior. In the notation of section 6 of matching/MODEL.md, a = s^2 / tau^2 is the precision
of the prior in units of the weights, P selects the slopes, Q is the minimum of the penalised sum of squares, and the
width minimises

    ln|B' W B + a P| - m ln(a) + Q(a) / s^2,    s^2 = max(f, Q(0) / (D - rank)),

where m is the number of slopes and D the number of measured coefficients (restricted maximum likelihood: Patterson and
Thompson 1971, Biometrika 58, 545). The scale s^2 of the residuals is that of the solution without a prior: above 1,
differences disagree by more than their noise. Without redundancy there can be no disagreement, and the measured errors
are used (s^2 = f). The lower limit f, at least 1, is the variance of the slopes' entries of the right-hand side with
noise that pairs share, relative to that of independent pairs: exposures on top of each other share their noise, which
would be taken for slopes.

A pair whose pixels hardly scatter (two images cut from one scan) must not outweigh all others. While the width is
learned, its weight is therefore at most `MOST` times the median.

Of few slopes, the most probable width may by chance be far too small, and a prior that narrow would replace measured
slopes by 0. Where the pairs show that there are slopes at all, the solve therefore uses the largest width that they do
not contradict: that at which the likelihood has fallen to the limit of a likelihood-ratio test (`CONTRADICTED`). Hardly
any program is then worse than without a prior. Where nothing shows slopes, the most probable width is used, which holds
back ramps and bowls best; but fewer than `FEW` slopes may be small by chance, so that the fewer they are, the nearer
the width is to that limit. Two to four dithers then keep the slopes that they measure. That is not so where the fit
type is chosen, too ('probable'): planes that are chosen by mistake would cost as much as without a prior.

Two slopes per member are ample evidence for a single number. Above `ALL` members the sums extend over compact, evenly
spread patches, each with a level of its own, so that the cost of learning does not grow further.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from levelmatch_core.matching.linear.answer import Answer
from levelmatch_core.matching.linear.normal_equations import NormalEquations, right_hand_side
from levelmatch_core.matching.model.problem import Array, Problem, SlopePrior
from levelmatch_core.matching.uncertainty.pair_noise import right_hand_side_factor
from levelmatch_core.settings import MatchSettings

WEAKEST, STRONGEST = 1e-10, 1e2
"""Range of precisions a, in units of the median information of the pairs on a member's slope."""
STEPS = 13
"""Number of precisions in the coarse search."""
TOLERANCE = 0.05
"""Tolerance of ln(a): 2.5 % of the width."""
SURE = 100
"""With at least this many slopes the uncertainty of the width is negligible."""
CONTRADICTED = 10.8
"""Largest value, above its minimum, of minus twice the log likelihood of the width that the solve uses: a true width is
beyond it with a probability of 0.1 % (Wilks 1938, Ann. Math. Stat. 9, 60)."""
EVIDENT, AS_EVIDENT = 2.0, 0.3
"""It is also at most the second number times what that of the smallest width exceeds the first by: 0 if nothing shows
slopes."""
FEW = 16
"""Below this number of slopes it is larger the fewer they are: that few say by chance that there are none."""
WIDER, NARROWER, OPEN_STEPS = 6.0, 3.0, 19
"""Range of ln(a) about its best value, and number of values, over which the width is averaged for fewer slopes: from
widths 20 times larger to 4 times smaller."""
ALL = 4000
"""Up to this number, all members are used."""
PATCHES, PATCH = 10, 300
"""Number of patches used where there are more members, and number of members in each."""
MOST = 10.0
"""Largest weight of a pair, relative to the median, while the width is learned."""
RANK = 1e-9
"""Eigenvalues of a pair's moments below this fraction of the largest do not count as measurements."""


def slope_prior_of(problem: Problem, settings: MatchSettings) -> SlopePrior | None:
    """Return the prior on the slopes, as requested by the settings.

    Parameters
    ----------
    problem
        The component.
    settings
        `slope_prior` is read.

    Returns
    -------
    SlopePrior or None
        None for levels, if the prior is switched off, if all members are fixed, and if the pairs determine the slopes
        so well that a prior would change nothing.
    """
    if problem.k == 1 or settings.slope_prior == "off" or problem.fixed.all():
        return None
    if not isinstance(settings.slope_prior, str):
        return SlopePrior(sd=settings.slope_prior, width=settings.slope_prior)
    return _estimated(problem, few=FEW if settings.slope_prior == "auto" else 0)


def slope_changes(problem: Problem, answer: Answer) -> Array | None:
    """Return (N, 2) the slopes minus those without the prior, data unit over `Problem.scale`; None without a prior.

    None is also returned for components of more than `ALL` members, whose equations are large, and for those on several
    grids, where no gauge replaces the prior.
    """
    if answer.prior is None or len(problem.names) > ALL or problem.frames:
        return None
    equations = (answer.equations or NormalEquations(problem)).of(problem, None)
    measured = equations.apply_inverse(right_hand_side(problem, problem.delta, problem.moments)).reshape(-1, problem.k)
    return np.asarray((answer.corrections - problem.to_gauge(measured))[:, 1:])


def _estimated(problem: Problem, few: int) -> SlopePrior | None:
    information = np.median(_slope_information(problem))
    if not information > 0:
        return None
    low, high = math.log(WEAKEST * information), math.log(STRONGEST * information)
    evened = replace(problem, weights=np.minimum(problem.weights, MOST * np.median(problem.weights)))
    from scipy.optimize import brentq, minimize_scalar  # noqa: PLC0415 - half a second that a run without changes can spare

    looked_at = _patches(evened) if len(problem.names) > ALL else [evened]
    parts = [NormalEquations(part) for part in looked_at]
    some = parts if len(problem.names) <= PATCH else [NormalEquations(part) for part in _patches(evened)[::4]]
    least = max(1.0, _shared(some))  # similar everywhere: a few patches suffice
    scale = max(least, _scale(parts))
    tried = np.linspace(low, high, STEPS)
    values = [_evidence(parts, float(x), scale) for x in tried]
    best = int(np.argmin(values))
    if best == 0 and not problem.frames:
        return None
    if best == 0:  # no plane goes round the sky: pairs say next to nothing of what comes near to one
        return SlopePrior(sd=math.exp(-low / 2), width=_width(parts, low, scale))
    bounds = float(tried[best - 1]), float(tried[min(best + 1, STEPS - 1)])
    found = minimize_scalar(
        lambda x: _evidence(parts, float(x), scale),
        bounds=bounds,
        method="bounded",
        options={"xatol": TOLERANCE},
    )
    log_precision = float(found.x)
    width = _width(parts, log_precision, scale)
    if _slopes(parts) < SURE:
        least = float(found.fun)
        by_chance = CONTRADICTED * max(0.0, 1.0 - _slopes(parts) / few) if few else 0.0
        limit = least + min(CONTRADICTED, by_chance + AS_EVIDENT * max(0.0, values[-1] - least - EVIDENT))
        lower = [float(x) for x, value in zip(tried, values, strict=True) if x < log_precision and value > limit]
        if lower and limit > least:
            log_precision = brentq(
                lambda x: _evidence(parts, x, scale) - limit, lower[-1], log_precision, xtol=TOLERANCE
            )
    return SlopePrior(sd=math.exp(-log_precision / 2), width=width)


def _slopes(parts: Sequence[NormalEquations]) -> int:
    """Return the number of slopes that are not fixed."""
    return sum(2 * int(np.count_nonzero(~part.problem.fixed)) for part in parts)


def _width(parts: Sequence[NormalEquations], log_precision: float, scale: float) -> float:
    """Return the rms width of true slopes over the posterior of the precision, for the errors of shrunken slopes.

    If there are few slopes, the most probable precision may be too large by a large factor, and so errors based on it
    would be too small; averaged over the posterior, they are correct. The prior of the width lies midway between a
    uniform one (Gelman 2006, Bayesian Analysis 1, 515, section 7.1), which overestimates the errors of four members by
    up to a tenth, and one uniform in the logarithm, which underestimates them by up to a sixth.
    """
    open_range = np.linspace(-WIDER, NARROWER, OPEN_STEPS) if _slopes(parts) < SURE else np.zeros(1)
    tried = log_precision + open_range
    values = np.array([_evidence(parts, float(x), scale) for x in tried])
    weights = np.exp((values.min() - values) / 2 - tried / 4)
    return math.sqrt(scale * float(np.average(np.exp(-tried), weights=weights)))


def _slope_information(problem: Problem) -> Array:
    """Return (2 M,) the diagonal entries of A for the slopes of the M members that are not fixed."""
    diagonal = NormalEquations(problem).diagonal.reshape(-1, problem.k)
    return np.asarray(diagonal[~problem.fixed, 1:].ravel())


def _shared(parts: Sequence[NormalEquations]) -> float:
    """Return f: the variance of the slopes' right-hand side, relative to that without noise shared between pairs."""
    shared, independent = 0.0, 0.0
    for part in parts:
        factor = right_hand_side_factor(part.problem)
        variances = np.bincount(factor.indices, weights=factor.data**2, minlength=factor.shape[1])
        slopes = np.tile(np.arange(part.problem.k) > 0, len(part.problem.names))
        shared += float(variances[slopes].sum())
        independent += float(part.diagonal.ravel()[slopes].sum())
    return shared / independent


def _measured(problem: Problem) -> int:
    """Return the number of coefficients that the pairs measure."""
    values = np.linalg.eigvalsh(problem.moments)
    return int(np.count_nonzero(values > RANK * values[:, -1:]))


def _scale(parts: Sequence[NormalEquations]) -> float:
    """Return s^2, the mean square residual per degree of freedom without a prior; 1 if there is no redundancy.

    A slope measured by a single pair fits that pair exactly. The residual then contains no information on the noise,
    and a free scale would attribute the slope to noise.
    """
    squares, freedom = 0.0, 0
    for known in parts:
        part = known.problem
        equations = known.of(part, None)
        corrections = equations.apply_inverse(right_hand_side(part, part.delta, part.moments)).reshape(-1, part.k)
        left = part.residuals(corrections)
        squares += float(np.sum(part.weights * np.einsum("ka,kab,kb->k", left, part.moments, left)))
        freedom += max(0, _measured(part) - equations.rank)
    return squares / freedom if freedom else 1.0


def _evidence(parts: Sequence[NormalEquations], log_precision: float, scale: float) -> float:
    """Return minus twice the log likelihood of a precision, up to a constant."""
    precision = math.exp(log_precision)
    total = 0.0
    for known in parts:
        part = known.problem
        equations = known.of(part, precision**-0.5)
        corrections = equations.apply_inverse(right_hand_side(part, part.delta, part.moments)).reshape(-1, part.k)
        left = part.residuals(corrections)
        squares = float(np.sum(part.weights * np.einsum("ka,kab,kb->k", left, part.moments, left)))
        squares += precision * float(np.sum(corrections[:, 1:] ** 2))
        slopes = 2 * int(np.count_nonzero(~part.fixed))
        total += equations.log_determinant - slopes * log_precision + squares / scale
    return total


def _patches(problem: Problem) -> list[Problem]:
    """Return the pairs within compact, evenly spread patches; of each patch only the largest connected component."""
    n = len(problem.names)
    columns = max(1, round(math.sqrt(n / PATCH)))
    centres = problem.on_map
    by_x = np.argsort(centres[:, 0], kind="stable")
    column = np.empty(n, dtype=np.int64)
    column[by_x] = np.arange(n) * columns // n
    places = np.lexsort((centres[:, 1], column))
    blocks = np.array_split(places, max(PATCHES, n // PATCH))
    chosen = [blocks[i] for i in np.linspace(0, len(blocks) - 1, PATCHES).round().astype(int)]
    parts = []
    for block in chosen:
        part = problem.part(np.sort(block))
        hanging = part.largest_component()
        if len(hanging) > 1:
            parts.append(part.part(hanging))
    return parts
