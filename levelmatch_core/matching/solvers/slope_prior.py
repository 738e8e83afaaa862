"""How large slopes may be: a Gaussian prior against ramps and bowls that the overlaps hardly see, learned from them.

Overlaps fix how neighbours' planes meet; a bend of the whole mosaic changes each seam by next to nothing, and is left
to the noise. If slopes are drawn from a normal distribution of width tau, that bend is improbable, and the seams say
what tau is: it is chosen to make the measured pairs most probable (empirical Bayes), with levels flat and integrated
out. With lambda = s^2 / tau^2 the precision of the prior in units of the weights, A the data's normal matrix, P the
slopes' diagonal and Q the least of the penalised sum of squares, the width minimises

    log|A + lambda P| - m log(lambda) + D log(s^2) + Q(lambda) / s^2,    s^2 = max(f, Q / D),

m being the number of slopes and D the pairs' coefficients less the levels (restricted maximum likelihood: Patterson and
Thompson 1971, Biometrika 58, 545). s^2 above 1 is misfit: seams that disagree by more than their noise. f, at least 1,
is the variance of the slopes' scores with noise shared between pairs over that of independent ones: exposures on top of
each other agree on their noise, which would pass for slopes.

Nor may a pair whose pixels hardly scatter (two images cut from one scan) outweigh all that differs by more than noise:
for learning, it counts `MOST` times the median pair at most.

Two slopes a member are plenty of evidence for one number: above `ALL` members the sums go over compact patches, evenly
spread, each with a level of its own, and the cost of learning no longer grows.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.optimize import minimize_scalar

from levelmatch_core.matching.linear.normal_equations import NormalEquations, right_hand_side
from levelmatch_core.matching.model.problem import Array, Problem, SlopePrior
from levelmatch_core.matching.uncertainty.pair_noise import right_hand_side_factor
from levelmatch_core.settings import MatchSettings

WEAKEST, STRONGEST = 1e-10, 1e2
"""Precisions that are tried, in units of the median information of the pairs on a member's slope."""
STEPS = 13
"""Precisions of the coarse search."""
TOLERANCE = 0.05
"""To which log(lambda) is found: 2.5 % of the width."""
SURE = 100
"""So many slopes leave nothing open."""
WIDER, NARROWER, OPEN_STEPS = 6.0, 3.0, 19
"""How far the logarithm of the precision may be off for fewer: widths 20 times as large to 4 times as small."""
ALL = 4000
"""Most members that are all looked at."""
PATCHES, PATCH = 10, 300
"""Patches that are looked at of more members, and members of each."""
MOST = 10.0
"""Most weight of a pair over the median pair's, where the width is learned."""
RANK = 1e-9
"""Eigenvalues of a pair's moments below this fraction of the largest are no measurement."""


def slope_prior_of(problem: Problem, settings: MatchSettings) -> SlopePrior | None:
    """Return the prior on the slopes that the settings ask for.

    Parameters
    ----------
    problem
        The component.
    settings
        `slope_prior` is read.

    Returns
    -------
    SlopePrior or None
        None for levels, where it is off, where all members are held, and where the pairs tell the slopes so well that
        it would change nothing.
    """
    if problem.k == 1 or settings.slope_prior == "off" or problem.fixed.all():
        return None
    if settings.slope_prior != "auto":
        return SlopePrior(sd=settings.slope_prior, width=settings.slope_prior)
    return _estimated(problem)


def _estimated(problem: Problem) -> SlopePrior | None:
    information = np.median(_slope_information(problem))
    if not information > 0:
        return None
    low, high = math.log(WEAKEST * information), math.log(STRONGEST * information)
    evened = replace(problem, weights=np.minimum(problem.weights, MOST * np.median(problem.weights)))
    looked_at = _patches(evened) if len(problem.names) > ALL else [evened]
    parts = [NormalEquations(part) for part in looked_at]
    some = parts if len(problem.names) <= PATCH else [NormalEquations(part) for part in _patches(evened)[::4]]
    least = max(1.0, _shared(some))  # which is alike all over: a few patches tell it
    measured = sum(_measured(part.problem) for part in parts)
    tried = np.linspace(low, high, STEPS)
    values = [_evidence(parts, float(x), measured, least)[0] for x in tried]
    best = int(np.argmin(values))
    if best == 0:
        return None
    bounds = float(tried[best - 1]), float(tried[min(best + 1, STEPS - 1)])
    found = minimize_scalar(
        lambda x: _evidence(parts, float(x), measured, least)[0],
        bounds=bounds,
        method="bounded",
        options={"xatol": TOLERANCE},
    )
    log_precision = float(found.x)
    return SlopePrior(sd=math.exp(-log_precision / 2), width=_width(parts, log_precision, measured, least))


def _width(parts: Sequence[NormalEquations], log_precision: float, measured: int, least: float) -> float:
    """Return how large true slopes are, for the errors of what is pulled to 0: rms over what the evidence leaves open.

    The most probable precision is what the solve uses. Of a few slopes it may be many times too large, and nothing that
    is stated with it would hold; what any width leaves in that solve, averaged over the widths, does. Beforehand,
    widths are taken to lie midway between equally probable (Gelman 2006, Bayesian Analysis 1, 515, section 7.1), which
    overstates the errors of four members by up to a tenth, and equally probable in the logarithm, which understates
    them by up to a sixth.
    """
    slopes = sum(2 * int(np.count_nonzero(~part.problem.fixed)) for part in parts)
    tried = log_precision + (np.linspace(-WIDER, NARROWER, OPEN_STEPS) if slopes < SURE else np.zeros(1))
    values, misfits = np.array([_evidence(parts, float(x), measured, least) for x in tried]).T
    weights = np.exp((values.min() - values) / 2 - tried / 4)
    return math.sqrt(float(np.average(np.exp(-tried) * misfits, weights=weights)))


def _slope_information(problem: Problem) -> Array:
    """Return (2 M,) the normal matrix's diagonal at the slopes of members that are not held."""
    diagonal = NormalEquations(problem).diagonal.reshape(-1, problem.k)
    return np.asarray(diagonal[~problem.fixed, 1:].ravel())


def _shared(parts: Sequence[NormalEquations]) -> float:
    """Return the variance of the slopes' scores over what it were if no two pairs shared their noise."""
    shared, independent = 0.0, 0.0
    for part in parts:
        factor = right_hand_side_factor(part.problem)
        variances = np.bincount(factor.indices, weights=factor.data**2, minlength=factor.shape[1])
        slopes = np.tile(np.arange(part.problem.k) > 0, len(part.problem.names))
        shared += float(variances[slopes].sum())
        independent += float(part.diagonal.ravel()[slopes].sum())
    return shared / independent


def _measured(problem: Problem) -> int:
    """Count the coefficients that the pairs measure."""
    values = np.linalg.eigvalsh(problem.moments)
    return int(np.count_nonzero(values > RANK * values[:, -1:]))


def _evidence(
    parts: Sequence[NormalEquations], log_precision: float, measured: int, least: float
) -> tuple[float, float]:
    """Return minus twice the log likelihood of a precision (but for a constant), and the misfit, at least `least`."""
    precision = math.exp(log_precision)
    squares, determinant, slopes, free = 0.0, 0.0, 0, 0
    for known in parts:
        part = known.problem
        equations = known.of(part, precision**-0.5)
        corrections = equations.apply_inverse(right_hand_side(part, part.delta, part.moments)).reshape(-1, part.k)
        left = part.residuals(corrections)
        squares += float(np.sum(part.weights * np.einsum("ka,kab,kb->k", left, part.moments, left)))
        squares += precision * float(np.sum(corrections[:, 1:] ** 2))
        determinant += equations.log_determinant
        slopes += 2 * int(np.count_nonzero(~part.fixed))
        free += len(equations.free)
    freedom = max(1, measured - (free - slopes))
    excess_scatter = max(least, squares / freedom)
    likelihood = determinant - slopes * log_precision + freedom * math.log(excess_scatter) + squares / excess_scatter
    return likelihood, excess_scatter


def _patches(problem: Problem) -> list[Problem]:
    """Return the problem's pairs within compact patches, evenly spread; of each patch what hangs together most."""
    n = len(problem.names)
    columns = max(1, round(math.sqrt(n / PATCH)))
    by_x = np.argsort(problem.centres[:, 0], kind="stable")
    column = np.empty(n, dtype=np.int64)
    column[by_x] = np.arange(n) * columns // n
    places = np.lexsort((problem.centres[:, 1], column))
    blocks = np.array_split(places, max(PATCHES, n // PATCH))
    chosen = [blocks[i] for i in np.linspace(0, len(blocks) - 1, PATCHES).round().astype(int)]
    parts = []
    for block in chosen:
        part = problem.part(np.sort(block))
        hanging = part.largest_component()
        if len(hanging) > 1:
            parts.append(part.part(hanging))
    return parts
