"""Leave-one-out residuals: how well all other pairs predict the difference of each pair, and with what error.

The notation is that of section 7 of matching/MODEL.md. The residuals of least squares are r = (I - H) d with the hat
matrix H = B A^-1 B' W. If a pair is left out, the prediction from the others misses its difference by (1 - h)^-1 r,
where h is the pair's diagonal block of H (its leverage), so that no further solve is needed (Cook and Weisberg 1982,
Residuals and Influence in Regression, section 2.2). The covariance of the residuals is (I - H) V (I - H)', where V is
the covariance of the pairs. In V, pairs over the same pixels of an exposure share its noise: the loops of exposures on
top of each other close far better than those of independent pairs would.

Shared noise is predicted together with the difference. The mean square error of the prediction is therefore smaller by
twice the covariance of prediction and measurement than it would be for a measurement with independent noise (covariance
penalty: Efron 2004, J. Am. Stat. Assoc. 99, 619). This is `left_out_optimism`, which accounts for the whole prediction
of noise among exposures on top of each other. Likewise, the mean square residual of a pair that is not left out is too
small by twice the covariance of its difference and its own fit: `fit_optimism`.

If the residuals are larger than the noise implies, the model does not describe the data: levels where there are slopes,
planes where the sky is curved. This excess scatter is treated as an additional independent error, equal for all pairs.

The residuals of n pairs say less of the noise than n independent ones would: they are combinations of fewer loops, of
which some count more than others. With C the correlation of the residuals, the mean of their squares in units of their
sigma has the variance 2 tr C^2 / n^2, as that of m = n^2 / tr C^2 independent ones: `freedom` (Satterthwaite 1946,
Biometrics Bulletin 2, 110). Large sums of squares are more frequent than with m, where some combinations count far more
than others: as frequent as the skewness of that mean says, which is that of (tr C^2)^3 / (tr C^3)^2 (`tail`).

Where the matrices would be too large, leverages are estimated from random draws or set to their mean (as in generalized
cross-validation: Golub, Heath and Wahba 1979, Technometrics 21, 215), the variance of a residual is set to (1 - h)
times that of the pair, and the freedom to that of a projection with equal leverages.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from levelmatch_core.matching.linear.answer import Answer
from levelmatch_core.matching.linear.normal_equations import NormalEquations
from levelmatch_core.matching.model.design import to_pairs
from levelmatch_core.matching.model.problem import Array, Problem
from levelmatch_core.matching.uncertainty.pair_noise import (
    TINY,
    PairNoise,
    block_diagonal,
    design,
    times_blocks,
    unit_covariances,
)

UNTESTABLE = 1e-6
"""A pair with a redundancy below this is not constrained by any other pair: a bridge."""
EXACT = 3000
"""Largest number of coefficients of all pairs for which the full hat matrix is formed."""
DRAWN = 20_000
"""Largest number of unknowns for which leverages are estimated from random draws; above, the mean leverage is used."""
SHOWN = 2.0
"""Excess scatter is significant if the normalised sum of squared residuals exceeds its expectation by this many of its
standard deviations: with few residuals, smaller excesses are common by chance."""
DRAWS = 100
"""Number of seeded draws for the leverages, which gives them to 14 %."""
OWN = 0.02
"""Fraction of a pair's variance that is not shared in addition: clipping removes different pixels from each pair."""
MOST_DRAWN = 0.98
"""Upper limit of an estimated leverage; bridges are known from the graph."""


@dataclass(frozen=True)
class LeaveOneOut:
    """Residuals of the pairs, and how well the other pairs predict each one."""

    predicted: Array
    """(K, k) leave-one-out residual: measured difference minus its prediction from all other pairs, data unit; NaN
    where nothing predicts it."""
    sigma: Array
    """(K,) expected 1 sigma of the residual level after the solve, data unit; 0 for bridges, which have no residual."""
    excess_scatter: float
    """1 sigma by which pairs differ from the fit in addition to their noise, data unit; 0 where it is not
    significant."""
    left_out_optimism: Array
    """(K,) amount by which the mean square of `predicted` is too small, in units of the variance of the level."""
    redundancy: Array
    """(K,) smallest eigenvalue of 1 - h, from 0 (a bridge) to 1 (a pair that does not affect the solution)."""
    fit_optimism: Array
    """(K,) amount by which the mean square residual is too small because the solution follows the pair's own noise, in
    units of the variance of the level."""
    freedom: float
    """Number of independent residuals of which the mean square, in units of sigma^2, would scatter as that of the
    measured pairs' levels does; 0 if none is tested."""
    tail: float
    """Number of independent residuals of which the mean square would be as skewed; at most `freedom`."""
    exact: bool
    """Whether the sigmas are those of the whole covariance, and not estimates."""


NONE = np.zeros(0), np.zeros(0)
"""No pairs that were left out of the solve."""


def leave_one_out(
    problem: Problem,
    answer: Answer,
    is_bridge: NDArray[np.bool_],
    covariance: csr_array,
    unused: tuple[Array, Array] = NONE,
) -> LeaveOneOut:
    """Return the leave-one-out residuals of a solved component.

    Parameters
    ----------
    problem, answer
        The component and its solution.
    is_bridge
        (K,) whether each pair is a bridge.
    covariance
        Of the pairs, from :func:`pair_covariance`.
    unused
        (U,) residual levels, and their 1 sigma, of pairs that were left out because they contradict the others, but are
        also evidence of excess scatter.
    """
    left = problem.residuals(answer.corrections)
    equations = answer.equations or NormalEquations(problem, answer.prior.sd if answer.prior else None)
    exact = left.size <= EXACT
    if exact:
        keeps, sigma, kept, alone, together = _exact(problem, equations, covariance)
    else:
        leverage = _drawn(problem, equations) if problem.unknowns <= DRAWN else _mean(problem, equations)
        keeps = np.eye(problem.k) - leverage
        fit_optimism = 2 * np.trace(leverage, axis1=1, axis2=2)
        alone = np.clip(keeps[:, 0, 0], 0.0, 1.0)
        sigma = np.sqrt((problem.variance + problem.structure_variance) * alone)
    sigma = np.where(is_bridge, 0.0, sigma)
    predicted = np.full_like(left, np.nan)
    smallest = np.linalg.svd(keeps, compute_uv=False)[:, -1]
    tested = (smallest >= UNTESTABLE) & ~is_bridge
    predicted[tested] = np.linalg.solve(keeps[tested], left[tested][:, :, None])[:, :, 0]
    left_out_optimism = np.zeros(len(left))
    if exact:
        own = _own_blocks(covariance, problem.k)
        fit_optimism = 2 * np.einsum("nab,nba->n", problem.pixel_moments, own - kept) / problem.variance
        echo = own[tested] - np.linalg.solve(keeps[tested], kept[tested].transpose(0, 2, 1)).transpose(0, 2, 1)
        penalty = 2 * np.einsum("nab,nba->n", problem.pixel_moments[tested], echo)
        left_out_optimism[tested] = penalty / problem.variance[tested]
    measured = (sigma > 0) & np.isfinite(problem.rms)
    if exact:
        freedom, tail = _freedom(together, np.where(measured, sigma, np.inf))
    else:
        own = np.trace(keeps, axis1=1, axis2=2) / problem.k
        redundant = (left.size - equations.rank) / problem.k
        freedom = tail = _equal_freedom(own[measured], redundant, 2.0 / (DRAWS * problem.k))
    others = int(np.count_nonzero(tested & (sigma > 0) & ~measured)) + len(unused[0])  # what was given, or left out
    excess_scatter = _excess_scatter(
        np.concatenate([left[tested, 0], unused[0]]),
        np.concatenate([sigma[tested], unused[1]]),
        np.concatenate([alone[tested], np.ones(len(unused[0]))]),
        pooled_freedom([(int(np.count_nonzero(measured)), freedom), (others, others)]),
    )
    redundancy = np.where(tested, np.clip(smallest, 0.0, 1.0), 0.0)
    return LeaveOneOut(
        predicted,
        sigma,
        excess_scatter,
        np.maximum(left_out_optimism, 0.0),
        redundancy,
        np.maximum(fit_optimism, 0.0),
        freedom,
        tail,
        exact,
    )


def _equal_freedom(own: Array, redundant: float, drawn: float) -> float:
    """Return the freedom of residuals that are those of a projection, each correlated with residuals like itself.

    The squares of a row of a projection add up to its diagonal entry 1 - h (`own`), and those of the correlations to
    1 / (1 - h), if it is about the same for neighbours. `drawn` is the variance of an estimated h in units of h^2, by
    which the mean of 1 / (1 - h) would be too large.
    """
    count = len(own)
    if not count:
        return 0.0
    own = np.maximum(own, 1.0 - MOST_DRAWN)
    squares = float(np.sum(1.0 / (own + drawn * (1.0 - own) ** 2 / own)))
    return float(np.clip(count**2 / squares, 1.0, max(redundant, 1.0)))


def _freedom(covariance: Array, sigma: Array) -> tuple[float, float]:
    """Return how many independent residuals have a mean square that scatters, and is as skewed, as in units of sigma.

    Parameters
    ----------
    covariance
        (K, K) of the residuals; made their correlation in place.
    sigma
        (K,) the root of its diagonal; infinite for a pair that does not count.
    """
    count = np.count_nonzero(np.isfinite(sigma))
    if not count:
        return 0.0, 0.0
    covariance /= sigma[:, None]  # in place: it may have 70 MB
    covariance /= sigma
    squares = float(np.vdot(covariance, covariance))
    cubes = float(np.vdot(covariance @ covariance, covariance))
    freedom = max(count**2 / squares, 1.0)
    return freedom, float(np.clip(squares**3 / cubes**2, 1.0, freedom))


def pooled_tail(parts: Iterable[tuple[int, float, float]]) -> float:
    """Return the same of the skewness, of independent parts with the number of residuals, freedom and tail of each.

    The second and third cumulants of independent sums add up.
    """
    known = [(count**2 / freedom, tail) for count, freedom, tail in parts if freedom > 0]
    cubes = sum(squares**1.5 / tail**0.5 for squares, tail in known)
    return sum(squares for squares, _ in known) ** 3 / cubes**2 if cubes else 0.0


def pooled_freedom(parts: Iterable[tuple[int, float]]) -> float:
    """Return the freedom of the residuals of independent parts, each with the number of its residuals and its freedom.

    The mean square over all has the variance 2 sum(n^2 / m) / (sum n)^2.
    """
    tested = [(count, freedom) for count, freedom in parts if freedom > 0]
    squares = sum(count**2 / freedom for count, freedom in tested)
    return sum(count for count, _ in tested) ** 2 / squares if squares else 0.0


def _excess_scatter(left: Array, sigma: Array, alone: Array, freedom: float) -> float:
    """Return the excess scatter u of the pairs, by the method of moments (DerSimonian and Laird 1986, eq. 8).

    Parameters
    ----------
    left
        (T,) residual level of each testable pair.
    sigma
        (T,) its 1 sigma as expected from noise.
    alone
        (T,) variance of the residual if every pair had an independent error of unit variance.
    freedom
        Number of independent residuals that they are worth.
    """
    use = sigma > 0
    if not use.any() or freedom <= 0:
        return 0.0
    weight = sigma[use] ** -2.0
    count = int(np.count_nonzero(use))
    excess = float(np.sum(weight * left[use] ** 2)) - count
    if excess < SHOWN * count * np.sqrt(2 / freedom):
        return 0.0
    return float(np.sqrt(excess / np.sum(weight * alone[use])))


def pair_covariance(problem: Problem, noise: PairNoise | None = None, *, structure: bool = False) -> csr_array:
    """Return V (K k, K k), the covariance of the measured differences; the coefficients of a pair are consecutive.

    If there are too many pairs, the noise that they share is neglected.

    Parameters
    ----------
    problem
        The component.
    noise
        The noise of its pairs, if it has been computed already.
    structure
        Whether to add the variance of each pair in addition to pixel noise.
    """
    unit = unit_covariances(problem)
    if problem.delta.size > EXACT:
        variance = problem.variance + problem.structure_variance if structure else problem.variance
        return block_diagonal(variance[:, None, None] * unit)
    noise = noise or PairNoise.of(problem)
    noise = noise.with_structure() if structure else noise
    inverse = np.asarray(np.linalg.inv(problem.moments + TINY * np.eye(problem.k)), dtype=float)
    shared = noise.shared_factor() @ block_diagonal(inverse)
    own = np.maximum(np.minimum(noise.alone + OWN * problem.variance, problem.variance), noise.alone)
    return csr_array(block_diagonal(own[:, None, None] * unit) + shared.T @ shared)


def _own_blocks(matrix: csr_array, k: int) -> Array:
    """Return (K, k, k) the diagonal blocks of a sparse matrix (K k, K k)."""
    rows = [np.stack([matrix[a::k, b::k].diagonal() for b in range(k)], axis=1) for a in range(k)]
    return np.stack(rows, axis=1)


def _exact(
    problem: Problem, equations: NormalEquations, covariance: csr_array
) -> tuple[Array, Array, Array, Array, Array]:
    """Return the quantities that need the full hat matrix.

    Returns
    -------
    own
        (K, k, k) the diagonal blocks of I - H.
    sigma
        (K,) 1 sigma of the residual levels.
    kept
        (K, k, k) the diagonal blocks of V (I - H)'.
    alone
        (K,) variance of the residual levels if every pair had an independent error of unit variance.
    together
        (K, K) covariance of the residual levels.
    """
    k, pairs = problem.k, len(problem.rms)
    size, each = pairs * k, np.arange(pairs)
    response = times_blocks(equations.response, problem.weights[:, None, None] * -problem.moments)
    keeps = _pairs_of(problem, response).reshape(size, size)  # I - H
    keeps[np.arange(size), np.arange(size)] += 1.0
    levels = keeps[::k]
    alone = np.einsum("ij,ij->i", times_blocks(levels, unit_covariances(problem)), levels)
    followed = np.asarray(covariance @ levels.T)  # V (I - H)', of the levels
    variance = np.einsum("ij,ij->i", followed.T, levels)
    # (I - H) V (I - H)' by way of the members, which are fewer than pairs
    together = _pairs_of(problem, response @ followed)[:, 0]
    together += followed[::k]
    own = keeps.reshape(pairs, k, pairs, k)[each, :, each]
    return own, np.sqrt(np.maximum(variance, 0.0)), _kept(covariance, keeps, k), alone, together


def _kept(covariance: csr_array, keeps: Array, k: int) -> Array:
    """Return (K, k, k) the diagonal blocks of V (I - H)', using only the nonzero entries of V."""
    entries = covariance.tocoo()
    row, column = entries.coords
    size = covariance.shape[0]
    columns = [
        np.bincount(row, weights=entries.data * keeps[row // k * k + b, column], minlength=size) for b in range(k)
    ]
    return np.stack(columns, axis=1).astype(float).reshape(-1, k, k)


def _drawn(problem: Problem, equations: NormalEquations) -> Array:
    """Return (K, k, k) estimated leverages: for z of unit variance, A^-1 B' W^(1/2) z has the covariance A^-1."""
    k, pairs = problem.k, len(problem.rms)
    noise = np.random.default_rng(0).standard_normal((pairs, k, DRAWS)) / np.sqrt(DRAWS)
    root = np.linalg.cholesky(problem.weights[:, None, None] * (problem.moments + TINY * np.eye(k)))
    right = design(problem).T @ np.einsum("nab,nbm->nam", root, noise).reshape(pairs * k, DRAWS)
    fitted = _pairs_of(problem, equations.apply_inverse(right))
    symmetric = np.einsum("nba,nbm->nam", root, fitted)
    values, vectors = np.linalg.eigh(np.einsum("nam,nbm->nab", symmetric, symmetric))
    bounded = np.einsum("nab,nb,ncb->nac", vectors, np.minimum(values, MOST_DRAWN), vectors)
    return np.asarray(np.linalg.solve(np.transpose(root, (0, 2, 1)), bounded @ np.transpose(root, (0, 2, 1))))


def _pairs_of(problem: Problem, unknowns: Array) -> Array:
    """Return (K, k, M) the differences that M columns of unknowns imply; C order, so that one kernel is compiled."""
    columns = np.ascontiguousarray(unknowns).reshape(-1, problem.k, unknowns.shape[1])
    return to_pairs(problem.geometry, columns)


def _mean(problem: Problem, equations: NormalEquations) -> Array:
    return np.broadcast_to(
        np.eye(problem.k) * min(MOST_DRAWN, equations.rank / problem.delta.size),
        (len(problem.rms), problem.k, problem.k),
    )
