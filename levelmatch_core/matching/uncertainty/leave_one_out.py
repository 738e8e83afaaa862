"""What the pairs say of each other: the difference that all others foretell in each, and how far it may be off.

The residuals of least squares are r = (I - H) d with the hat matrix H = B A^-1 B' W. With a pair left out, the others
foretell its difference to within r / (1 - h), h being its own block of H: no solve is needed for it (Cook and Weisberg
1982, Residuals and Influence in Regression, section 2.2). The covariance of the residuals is (I - H) V (I - H)', V
being that of the pairs, in which pairs that share an exposure's pixels share its noise: the loops of exposures on top
of each other close far better than independent pairs would.

Noise that pairs share is foretold with them: the error y_k - yhat_k of a pair's left-out difference lacks twice the
covariance of the two, which a measurement of the same pair with noise of its own would have (the covariance penalty:
Efron 2004, J. Am. Stat. Assoc. 99, 619). Exposures on top of each other foretell nothing else; it
is told as `left_out_optimism`. What is left of a pair that is not left out lacks twice the covariance of its difference
and its own fit: `fit_optimism`.

Where residuals are larger than noise makes them, the fit does not describe the data: levels where there are slopes,
planes where the sky is bent. What is beside the noise is taken as one more error of each pair, alike for all.

Where the matrices would be too large, a pair's leverage is estimated by draws, or taken as the mean of all (as in
generalized cross-validation: Golub, Heath and Wahba 1979, Technometrics 21, 215), and the residual's variance as
(1 - h) times the pair's own.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from levelmatch_core.matching.linear.answer import Answer
from levelmatch_core.matching.linear.normal_equations import NormalEquations
from levelmatch_core.matching.model.design import to_pairs
from levelmatch_core.matching.model.problem import Array, Problem
from levelmatch_core.matching.uncertainty.pair_noise import TINY, PairNoise, block_diagonal, design, times_blocks

UNTESTABLE = 1e-6
"""A pair that leaves less than this of itself is held by nothing else: a bridge."""
EXACT = 3000
"""Most coefficients of all pairs for which the whole hat matrix is formed."""
DRAWN = 20_000
"""Most unknowns for which leverages are estimated by draws; above, all have the mean."""
SHOWN = 2.0
"""Residuals show a misfit if the sum of their squares is above what is expected by so many of its sigmas: a few of them
would often feign one."""
DRAWS = 100
"""Seeded draws of a leverage: to 14 % of it."""
LEAST_OWN = 0.02
"""Part of a pair's variance that is its own at least: clipping takes other pixels from each pair."""
MOST_DRAWN = 0.98
"""A drawn leverage is taken as no more: it is an estimate, and bridges are known by the graph."""


@dataclass(frozen=True)
class LeaveOneOut:
    """What each pair leaves, and what the others make of it."""

    predicted: Array
    """(K, k) difference left when all others foretell it, data unit; NaN where nothing else does."""
    sigma: Array
    """(K,) 1 sigma expected of the level left after the solve, data unit; 0 where nothing can be left."""
    excess_scatter: float
    """1 sigma by which pairs differ from the fit beside noise, data unit; 0 where the residuals do not show it."""
    left_out_optimism: Array
    """(K,) mean square by which the error of `predicted` is too small, over that of the level's noise."""
    redundancy: Array
    """(K,) part of itself that the others tell at least, 0 to 1: the least eigenvalue of 1 - h; 0 of a bridge."""
    fit_optimism: Array
    """(K,) mean square by which what is left is too small, over that of the level's noise: pairs pull the solve."""


def leave_one_out(problem: Problem, answer: Answer, is_bridge: NDArray[np.bool_], covariance: csr_array) -> LeaveOneOut:
    """Return what the pairs of a solved component say of each other.

    Parameters
    ----------
    problem, answer
        The component and its solution.
    hung
        (K,) whether a pair is a bridge.
    covariance
        Of the pairs, as :func:`pair_covariance` gives it.
    """
    left = problem.residuals(answer.corrections)
    equations = answer.equations or NormalEquations(problem, answer.prior.sd if answer.prior else None)
    exact = left.size <= EXACT
    if exact:
        keeps, sigma, kept, alone = _exact(problem, equations, covariance)
    else:
        leverage = _drawn(problem, equations) if problem.unknowns <= DRAWN else _mean(problem, equations)
        keeps = np.eye(problem.k) - leverage
        fit_optimism = 2 * np.trace(leverage, axis1=1, axis2=2)
        alone = np.clip(keeps[:, 0, 0], 0.0, 1.0)
        sigma = np.sqrt(problem.variance * alone)
    sigma = np.where(is_bridge, 0.0, sigma)
    predicted = np.full_like(left, np.nan)
    smallest = np.linalg.svd(keeps, compute_uv=False)[:, -1]
    told = (smallest >= UNTESTABLE) & ~is_bridge
    predicted[told] = np.linalg.solve(keeps[told], left[told][:, :, None])[:, :, 0]
    left_out_optimism = np.zeros(len(left))
    if exact:
        own = _own_blocks(covariance, problem.k)
        fit_optimism = 2 * np.einsum("nab,nba->n", problem.moments, own - kept) / problem.variance
        together = own[told] - np.linalg.solve(keeps[told], kept[told].transpose(0, 2, 1)).transpose(0, 2, 1)
        left_out_optimism[told] = 2 * np.einsum("nab,nba->n", problem.moments[told], together) / problem.variance[told]
    freedom = left.size - equations.rank
    excess_scatter = _excess_scatter(left[told, 0], sigma[told], alone[told], freedom / left.size)
    redundancy = np.where(told, np.clip(smallest, 0.0, 1.0), 0.0)
    return LeaveOneOut(
        predicted, sigma, excess_scatter, np.maximum(left_out_optimism, 0.0), redundancy, np.maximum(fit_optimism, 0.0)
    )


def _excess_scatter(left: Array, sigma: Array, alone: Array, free: float) -> float:
    """Return how much pairs differ from the fit beside their noise, by moments (DerSimonian and Laird 1986, eq. 8).

    Parameters
    ----------
    left
        (T,) level that each tested pair leaves.
    sigma
        (T,) 1 sigma that noise leaves of it.
    alone
        (T,) part that is left of the variance of something that no two pairs share.
    free
        Degrees of freedom a coefficient.
    """
    use = sigma > 0
    if not use.any() or free <= 0:
        return 0.0
    weight = sigma[use] ** -2.0
    count = int(np.count_nonzero(use))
    excess = float(np.sum(weight * left[use] ** 2)) - count
    if excess < SHOWN * np.sqrt(2 * count / free):
        return 0.0
    return float(np.sqrt(excess / np.sum(weight * alone[use])))


def pair_covariance(problem: Problem, noise: PairNoise | None = None) -> csr_array:
    """Return V (K k, K k): the covariance of the measured differences, level and slopes of a pair after one another.

    Where there are too many pairs, the noise that they share is left out.

    Parameters
    ----------
    problem
        The component.
    noise
        Of its pairs, where it is there already.
    """
    inverse = np.asarray(np.linalg.inv(problem.moments + TINY * np.eye(problem.k)), dtype=float)
    if problem.delta.size > EXACT:
        return block_diagonal(problem.variance[:, None, None] * inverse)
    noise = noise or PairNoise.of(problem)
    shared = noise.shared_factor() @ block_diagonal(inverse)
    own = np.maximum(noise.alone, LEAST_OWN * problem.variance)
    return csr_array(block_diagonal(own[:, None, None] * inverse) + shared.T @ shared)


def _own_blocks(matrix: csr_array, k: int) -> Array:
    """Return (K, k, k) the diagonal blocks of a matrix (K k, K k)."""
    rows = [np.stack([matrix[a::k, b::k].diagonal() for b in range(k)], axis=1) for a in range(k)]
    return np.stack(rows, axis=1)


def _exact(problem: Problem, equations: NormalEquations, covariance: csr_array) -> tuple[Array, Array, Array, Array]:
    """Return what the whole hat matrix tells.

    Returns
    -------
    own
        (K, k, k) what each pair keeps of itself, I - h.
    sigma
        (K,) the residual levels' 1 sigma.
    kept
        (K, k, k) diagonal blocks of V (I - H)'.
    alone
        (K,) the residual levels' variance if every pair had a unit of its own.
    """
    k, pairs = problem.k, len(problem.rms)
    size, each = pairs * k, np.arange(pairs)
    response = times_blocks(equations.response, problem.weights[:, None, None] * -problem.moments)
    keeps = to_pairs(problem.geometry, response.reshape(-1, k, size)).reshape(size, size)  # I - H
    keeps[np.arange(size), np.arange(size)] += 1.0
    levels = keeps[::k]
    variance = np.einsum("ij,ij->i", np.asarray(covariance @ levels.T).T, levels)
    own = keeps.reshape(pairs, k, pairs, k)[each, :, each]
    inverse = np.asarray(np.linalg.inv(problem.moments + TINY * np.eye(k)), dtype=float)
    alone = np.einsum("ij,ij->i", times_blocks(levels, inverse), levels)
    return own, np.sqrt(np.maximum(variance, 0.0)), _kept(covariance, keeps, k), alone


def _kept(covariance: csr_array, keeps: Array, k: int) -> Array:
    """Return (K, k, k) the diagonal blocks of V (I - H)', from the entries of V alone."""
    entries = covariance.tocoo()
    row, column = entries.coords
    size = covariance.shape[0]
    columns = [
        np.bincount(row, weights=entries.data * keeps[row // k * k + b, column], minlength=size) for b in range(k)
    ]
    return np.stack(columns, axis=1).astype(float).reshape(-1, k, k)


def _drawn(problem: Problem, equations: NormalEquations) -> Array:
    """Return (K, k, k) estimated leverages: with z of unit variance, u = A^-1 B' W^(1/2) z has the covariance A^-1."""
    k, pairs = problem.k, len(problem.rms)
    noise = np.random.default_rng(0).standard_normal((pairs, k, DRAWS)) / np.sqrt(DRAWS)
    root = np.linalg.cholesky(problem.weights[:, None, None] * (problem.moments + TINY * np.eye(k)))
    right = design(problem).T @ np.einsum("nab,nbm->nam", root, noise).reshape(pairs * k, DRAWS)
    fitted = to_pairs(problem.geometry, equations.apply_inverse(right).reshape(-1, k, DRAWS))
    symmetric = np.einsum("nba,nbm->nam", root, fitted)
    values, vectors = np.linalg.eigh(np.einsum("nam,nbm->nab", symmetric, symmetric))
    bounded = np.einsum("nab,nb,ncb->nac", vectors, np.minimum(values, MOST_DRAWN), vectors)
    return np.asarray(np.linalg.solve(np.transpose(root, (0, 2, 1)), bounded @ np.transpose(root, (0, 2, 1))))


def _mean(problem: Problem, equations: NormalEquations) -> Array:
    return np.broadcast_to(
        np.eye(problem.k) * min(MOST_DRAWN, equations.rank / problem.delta.size),
        (len(problem.rms), problem.k, problem.k),
    )
