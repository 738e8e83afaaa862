"""Which pairs contradict the others: annealed redescending reweighting (graduated non-convexity).

Plain least squares spreads a bad pair's error over its neighbours, whose residuals then look bad too; a redescending
weight started from there keeps the wrong ones. Starting from least absolute residuals with a wide limit, and narrowing
it step by step, lets the worst pair lose its weight first, which clears its neighbours (Blake and Zisserman 1987,
Visual Reconstruction; Black and Rangarajan 1996, IJCV 19, 57). In the end single members are moved to where more of
their pairs agree (iterated conditional modes: Besag 1986, J. R. Statist. Soc. B 48, 259). What is beyond the last limit
is an outlier and is left out of the solve, which is then plain least squares again, as efficient as if the bad pairs
had been known.

Pairs count by the inverse of their variance here, whatever they weigh in the solve: one over a corner that counts as
much as two over whole sides would win against both. Slopes are held back by their width alone: what the solve adds for
pairs that disagree may be the work of the bad ones.

Where residuals scatter more than their errors, the limits widen with them; of few pairs a single bad one can widen them
past itself. So it is also tried whether a few bad pairs explain the scatter: they do if what they leave is noise, and
what they take is more than chance takes from errors of any size (the mean shift outlier test, for as many pairs as were
chosen: Cook and Weisberg 1982, Residuals and Influence in Regression, section 2.2.2).

A pair on which alone the component hangs has no residual and cannot be tested; it is never left out.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri, comb, fdtrc, gammaincinv

from levelmatch_core.matching.graph_kernels import agreeing_moves, bridge_flags
from levelmatch_core.matching.linear.normal_equations import NormalEquations, right_hand_side
from levelmatch_core.matching.model.problem import Array, Problem, SlopePrior

LIMIT = 1e-3
"""Probability of an error beyond the last limit (3.3 sigma for levels); residuals, which lack what the pair itself
pulled, are smaller: hardly a good pair is beyond, while a bad one of 5 sigma leaves little more than 3."""
ABSOLUTE = 0.1
"""Residual, in the pairs' own errors, below which least absolute residuals become least squares in the end."""
SOFTENINGS = 20
"""Steps from least squares to least absolute residuals."""
MOVES = 20
"""Most rounds in which single members are moved."""
QUANTILE = 0.3
"""Of the residuals by which their scatter is told: low, where bad pairs have not come."""
START = 3.0
"""First limit over the last."""
SHRINK = 0.7
"""Each limit over the one before."""
SETTLING = 5
"""Sweeps at the last limit."""
LEAST = 1e-6
"""Least factor on a weight: a member whose pairs all look bad is still tied."""
TRUSTED = 0.2
"""Above this part of outliers among the pairs that can be tested the majority may be wrong as well."""
SCATTERED, TRUSTED_SCATTERED = 1.5, 0.03
"""Where residuals scatter so much more than their errors, bad pairs hide among them: then so few are trusted."""
CHANCE = 0.01
"""Probability with which errors that scatter may let a few pairs look bad."""


@dataclass(frozen=True)
class Verdict:
    """What the pairs say of each other."""

    outliers: NDArray[np.bool_]
    """(K,) pairs that contradict the others."""
    scatter: float
    """Robust scatter of the residuals over what the pairs' own errors predict, at least 1."""
    trusted: bool
    """Whether outliers are few enough among the pairs that can be tested."""


def find_outliers(problem: Problem, prior: SlopePrior | None = None) -> Verdict:
    """Tell the outliers.

    Parameters
    ----------
    problem
        The component; its weights are passed over.
    prior
        Slope prior of the solve.
    """
    problem = replace(problem, weights=1 / problem.variance)
    prior = prior and replace(prior, sd=prior.width)
    pairs = len(problem.weights)
    keys = list(zip(problem.first.tolist(), problem.second.tolist(), strict=True))
    is_bridge = bridge_flags(len(problem.names), problem.first, problem.second)
    redundancy = problem.k * pairs - problem.unknowns
    if redundancy <= 0 or is_bridge.all():
        return Verdict(np.zeros(pairs, dtype=bool), 1.0, trusted=True)
    start = _least_absolute(problem, prior)
    typical = float(np.sqrt(2 * gammaincinv(problem.k / 2, QUANTILE) * redundancy / (problem.k * pairs)))
    scatter, size, limit = _annealed(
        problem, prior, start, lambda left: float(np.quantile(left[~is_bridge], QUANTILE)) / typical
    )
    outliers = _kept_together(keys, size, size > limit, is_bridge)
    testable = np.count_nonzero(~is_bridge)
    if scatter >= SCATTERED:
        _, size, limit = _annealed(problem, prior, start, lambda _: 1.0)
        few = _kept_together(keys, size, size > limit, is_bridge)
        if few.sum() <= TRUSTED * testable and _explained(problem, prior, few, redundancy):
            outliers, scatter = few, 1.0
    part = outliers.sum() / testable
    trusted = part <= (TRUSTED if scatter < SCATTERED else TRUSTED_SCATTERED)
    return Verdict(outliers, scatter, trusted=bool(trusted))


def _least_absolute(problem: Problem, prior: SlopePrior | None) -> Array:
    """Return (K,) the residuals' sizes where their sum is least."""
    size = _sizes(problem, np.ones(len(problem.weights)), prior)
    for softness in np.geomspace(float(size.max()), ABSOLUTE, SOFTENINGS):
        size = _sizes(problem, 1 / np.hypot(size, softness), prior)
    return size


def _annealed(
    problem: Problem, prior: SlopePrior | None, size: Array, scattering: Callable[[Array], float]
) -> tuple[float, Array, float]:
    """Narrow the limit step by step, then move single members; return the scatter, the residuals' sizes, the limit.

    `scattering` tells from sizes how much wider the last limit is, if that is above 1.
    """
    last = float(np.sqrt(chdtri(problem.k, LIMIT)))
    limit, scatter, settling = START * last, 1.0, 0
    while settling < SETTLING:
        scatter = max(1.0, scattering(size))
        narrow = last * scatter
        settling += limit <= narrow
        limit = max(limit * SHRINK, narrow)
        # twice the limit: a biweight is 0 beyond its own, and a pair at the limit must not have lost all weight
        factors = np.maximum(np.square(np.maximum(0.0, 1 - np.square(size / (2 * limit)))), LEAST)
        size = _sizes(problem, factors, prior)
    limit = last * scatter
    return scatter, _improved(problem, prior, factors, limit), limit


def _explained(problem: Problem, prior: SlopePrior | None, few: NDArray[np.bool_], redundancy: int) -> bool:
    """Tell whether a few bad pairs explain the scatter, better than chance explains them.

    What they leave must be noise in the levels alone, too: slopes that do not scatter say nothing of those.
    """
    bad = int(few.sum())
    freedom, levels = redundancy - problem.k * bad, (redundancy - problem.k * bad) // problem.k
    if not bad or levels <= 0:
        return False
    left = problem.residuals(_solved(problem, np.where(few, LEAST, 1.0), prior))
    if float(np.sum((left[:, 0] ** 2 / problem.variance)[~few])) > SCATTERED**2 * levels:
        return False
    rest = float(np.sum(_size(problem, left)[~few] ** 2))
    taken = float(np.sum(_sizes(problem, np.ones(len(few)), prior) ** 2)) - rest
    chance = fdtrc(problem.k * bad, freedom, taken / (problem.k * bad) / (rest / freedom))
    return bool(comb(len(few), bad) * chance < CHANCE)


def _solved(problem: Problem, factors: Array, prior: SlopePrior | None) -> Array:
    """Return (N, k) the least-squares corrections, the weights being multiplied by `factors`."""
    scaled = replace(problem, weights=problem.weights * factors)
    equations = NormalEquations(scaled, prior.sd if prior else None)
    return equations.apply_inverse(right_hand_side(scaled, problem.delta, problem.moments)).reshape(-1, problem.k)


def _size(problem: Problem, left: Array) -> Array:
    """Return (K,) residuals (K, k) over the pairs' own errors."""
    return np.asarray(np.sqrt(np.einsum("ka,kab,kb->k", left, problem.moments, left) / problem.variance))


def _sizes(problem: Problem, factors: Array, prior: SlopePrior | None) -> Array:
    return _size(problem, problem.residuals(_solved(problem, factors, prior)))


def _improved(problem: Problem, prior: SlopePrior | None, factors: Array, limit: float) -> Array:
    """Move single members to where more of their pairs agree, until no move lowers the truncated sum of squares.

    Each member in turn may take the level that any one of its pairs gives it, its neighbours staying; all are then
    solved again without the outliers. Returns the residuals' sizes.
    """
    size = _sizes(problem, factors, prior)
    best = float(np.sum(np.minimum(size, limit) ** 2))
    for _ in range(MOVES):
        left = problem.residuals(_solved(problem, np.where(size <= limit, 1.0, LEAST), prior))
        agreeing_moves(left, problem.moments, problem.variance, (problem.first, problem.second), ~problem.fixed, limit)
        found = _sizes(problem, np.where(_size(problem, left) <= limit, 1.0, LEAST), prior)
        cost = float(np.sum(np.minimum(found, limit) ** 2))
        if cost >= best:
            break
        best, size = cost, found
    return size


def _kept_together(
    keys: list[tuple[int, int]], size: Array, suspect: NDArray[np.bool_], is_bridge: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return the suspects less those without which the component would fall apart: the best of them stay."""
    parent = list(range(1 + max(max(key) for key in keys)))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    out = suspect & ~is_bridge
    good, doubtful = np.flatnonzero(~out), np.flatnonzero(out)
    for pair in [*good.tolist(), *doubtful[np.argsort(size[doubtful], kind="stable")].tolist()]:
        a, b = root(keys[pair][0]), root(keys[pair][1])
        if a != b:
            parent[a] = b
            out[pair] = False
    return out
