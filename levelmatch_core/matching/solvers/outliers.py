"""Detection of pairs that contradict the others: annealed redescending weights (graduated non-convexity).

Ordinary least squares distributes the error of a bad pair over its neighbours, whose residuals then look bad as well; a
redescending weight function that starts from there keeps the wrong pairs. Here the reweighting starts from least
absolute residuals with a wide limit, which is narrowed step by step, so that the worst pair loses its weight first and
its neighbours' residuals become small (Blake and Zisserman 1987, Visual Reconstruction; Black and Rangarajan 1996, IJCV
19, 57). Finally, single members are moved to where more of their pairs agree (iterated conditional modes: Besag 1986,
J. R. Statist. Soc. B 48, 259). Pairs beyond the last limit are outliers and are excluded from the solve, which is then
ordinary least squares, as efficient as if the bad pairs had been known.

Pairs are weighted by their inverse variance here, whatever their weight in the solve: otherwise a pair that overlaps in
a corner could outvote two pairs that overlap along whole sides. The slope prior has its width tau alone: the additional
width that the solve uses where pairs disagree may be caused by the bad pairs.

Where residuals scatter by more than their errors, the limits are widened accordingly; but among few pairs, a single bad
one can widen them beyond itself. Therefore it is also tested whether a few bad pairs explain the scatter. They do if
the residuals without them are consistent with noise, and if removing them reduces the sum of squares by more than
chance would for errors of any size (mean-shift outlier test for as many pairs as were chosen: Cook and Weisberg 1982,
Residuals and Influence in Regression, section 2.2.2).

A pair that is a bridge of the component has no residual and cannot be tested; it is never excluded.
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
"""Probability of an error beyond the last limit (3.3 sigma for levels). Residuals are smaller than errors, since each
pair attracts the solution: hardly any good pair is beyond the limit, but a bad one of 5 sigma has a residual of little
more than 3."""
ABSOLUTE = 0.1
"""Residual, in units of the pair's own error, below which the final step of least absolute residuals is least
squares."""
SOFTENINGS = 20
"""Number of steps from least squares to least absolute residuals."""
MOVES = 20
"""Largest number of rounds in which single members are moved."""
QUANTILE = 0.3
"""Quantile of the residuals from which their scatter is estimated: low, so that bad pairs do not affect it."""
START = 3.0
"""Ratio of the first limit to the last."""
SHRINK = 0.7
"""Ratio of each limit to the previous one."""
SETTLING = 5
"""Number of iterations at the last limit."""
LEAST = 1e-6
"""Smallest factor on a weight, so that a member whose pairs all look bad remains connected."""
TRUSTED = 0.2
"""Above this fraction of outliers among the testable pairs, the majority may be wrong as well."""
SCATTERED, TRUSTED_SCATTERED = 1.5, 0.03
"""Where residuals scatter by more than the first number times their errors, bad pairs can go unnoticed; the result is
then trusted only up to the second fraction of outliers."""
MOST_LEFT_OUT = 0.1
"""Largest fraction of a component's pairs that may be left out."""
CHANCE = 0.01
"""Accepted probability that a few pairs look bad by chance, given errors with this scatter."""


def may_be_left_out(suspects: int, pairs: int, members: int) -> bool:
    """Return whether the suspects are few enough that the remaining pairs of a component can contradict each other.

    These are at most a tenth of the pairs, or a single one, and never the last loop: in a tree no pair is tested, and
    agreement that is due to the removal of the pairs that disagree is no evidence.

    Parameters
    ----------
    suspects, pairs
        Number of pairs that contradict the others, and of all pairs.
    members
        Number of members.
    """
    return suspects <= max(1, int(MOST_LEFT_OUT * pairs)) and pairs - suspects - (members - 1) >= 1


@dataclass(frozen=True)
class Verdict:
    """The result of the test of all pairs against each other."""

    outliers: NDArray[np.bool_]
    """(K,) pairs that contradict the others."""
    scatter: float
    """Robust scatter of the residuals relative to that expected from the pairs' own errors, at least 1."""
    trusted: bool
    """Whether the outliers are few enough among the testable pairs."""


def find_outliers(problem: Problem, prior: SlopePrior | None = None) -> Verdict:
    """Find the outliers.

    Parameters
    ----------
    problem
        The component; its weights are not used.
    prior
        The slope prior of the solve.
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
    """Return (K,) the sizes of the residuals at the solution that minimises their sum."""
    size = _sizes(problem, np.ones(len(problem.weights)), prior)
    for softness in np.geomspace(float(size.max()), ABSOLUTE, SOFTENINGS):
        size = _sizes(problem, 1 / np.hypot(size, softness), prior)
    return size


def _annealed(
    problem: Problem, prior: SlopePrior | None, size: Array, scattering: Callable[[Array], float]
) -> tuple[float, Array, float]:
    """Narrow the limit step by step, then move single members; return scatter, sizes of residuals, and limit.

    `scattering` estimates, from the sizes, the factor by which the last limit is widened if it is above 1.
    """
    last = float(np.sqrt(chdtri(problem.k, LIMIT)))
    limit, scatter, settling = START * last, 1.0, 0
    while settling < SETTLING:
        scatter = max(1.0, scattering(size))
        narrow = last * scatter
        settling += limit <= narrow
        limit = max(limit * SHRINK, narrow)
        # twice the limit: a biweight is 0 beyond its own limit, and a pair at our limit should keep some weight
        factors = np.maximum(np.square(np.maximum(0.0, 1 - np.square(size / (2 * limit)))), LEAST)
        size = _sizes(problem, factors, prior)
    limit = last * scatter
    return scatter, _improved(problem, prior, factors, limit), limit


def _explained(problem: Problem, prior: SlopePrior | None, few: NDArray[np.bool_], redundancy: int) -> bool:
    """Return whether a few bad pairs explain the scatter, with a chance probability that is small.

    The residuals without them must be consistent with noise in the levels alone, too: slopes that do not scatter would
    hide levels that do.
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
    """Return (N, k) the least-squares corrections with the weights multiplied by `factors`."""
    scaled = replace(problem, weights=problem.weights * factors)
    equations = NormalEquations(scaled, prior.sd if prior else None)
    return equations.apply_inverse(right_hand_side(scaled, problem.delta, problem.moments)).reshape(-1, problem.k)


def _size(problem: Problem, left: Array) -> Array:
    """Return (K,) the sizes of residuals (K, k) in units of the pairs' own errors."""
    return np.asarray(np.sqrt(np.einsum("ka,kab,kb->k", left, problem.moments, left) / problem.variance))


def _sizes(problem: Problem, factors: Array, prior: SlopePrior | None) -> Array:
    return _size(problem, problem.residuals(_solved(problem, factors, prior)))


def _improved(problem: Problem, prior: SlopePrior | None, factors: Array, limit: float) -> Array:
    """Move single members to where more of their pairs agree, until no move reduces the truncated sum of squares.

    Each member in turn may take the level that one of its pairs implies while its neighbours stay; then all members are
    solved again without the outliers. Returns the sizes of the residuals.
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
    """Return the suspects, except those that are needed to keep the component connected; the best of them are kept."""
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
