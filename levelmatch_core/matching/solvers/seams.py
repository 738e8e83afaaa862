"""What the pairs say of each other: the difference that all others foretell in each, and how far it may be off.

The residuals of least squares are r = (I - H) d with the hat matrix H = B A^-1 B' W. With a pair left out, the others
foretell its difference to within r / (1 - h), h being its own block of H: no solve is needed for it (Cook and Weisberg
1982, Residuals and Influence in Regression, section 2.2). The covariance of the residuals is (I - H) V (I - H)', V
being that of the pairs, in which pairs that share an exposure's pixels share its noise: the loops of exposures on top
of each other close far better than independent pairs would.

Where the matrices would be too large, a pair's leverage is estimated by draws, or taken as the mean of all (as in
generalized cross-validation: Golub, Heath and Wahba 1979, Technometrics 21, 215), and the residual's variance as
(1 - h) times the pair's own.
"""

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.sparse import csc_array, csr_array

from levelmatch_core.matching.solvers.noise import FEWEST, POINTS, TINY, pixel_variances, spread_evenly
from levelmatch_core.matching.solvers.normal import NormalEquations
from levelmatch_core.matching.solvers.problem import Answer, Array, Index, Problem

UNTESTABLE = 1e-6
"""A pair that leaves less than this of itself is held by nothing else: a bridge."""
EXACT = 3000
"""Most coefficients of all pairs for which the whole hat matrix is formed."""
DRAWN = 20_000
"""Most unknowns for which leverages are estimated by draws; above, all have the mean."""
DRAWS = 100
"""Seeded draws of a leverage: to 14 % of it."""
LEAST_OWN = 0.02
"""Part of a pair's variance that is its own at least: clipping takes other pixels from each pair."""
MOST_DRAWN = 0.98
"""A drawn leverage is taken as no more: it is an estimate, and bridges are known by the graph."""


@dataclass(frozen=True)
class Seams:
    """What each pair leaves, and what the others make of it."""

    foretold: Array
    """(K, k) difference left when all others foretell it, data unit; NaN where nothing else does."""
    sigma: Array
    """(K,) 1 sigma expected of the level left after the solve, data unit; 0 where nothing can be left."""


def seams(problem: Problem, answer: Answer, hung: NDArray[np.bool_], covariance: csr_array) -> Seams:
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
    if left.size <= EXACT:
        keeps, sigma = _exact(problem, equations, covariance)
    else:
        leverage = _drawn(problem, equations) if problem.unknowns <= DRAWN else _mean(problem, equations)
        keeps = np.eye(problem.k) - leverage
        sigma = np.sqrt(problem.variance * np.clip(keeps[:, 0, 0], 0.0, 1.0))
    sigma = np.where(hung, 0.0, sigma)
    foretold = np.full_like(left, np.nan)
    smallest = np.linalg.svd(keeps, compute_uv=False)[:, -1]
    told = (smallest >= UNTESTABLE) & ~hung
    foretold[told] = np.linalg.solve(keeps[told], left[told][:, :, None])[:, :, 0]
    return Seams(foretold, sigma)


def pair_covariance(problem: Problem) -> csr_array:
    """Return V (K k, K k): the covariance of the measured differences, level and slopes of a pair after one another.

    Where there are too many pairs, the noise that they share is left out.

    Parameters
    ----------
    problem
        The component.
    """
    k, size = problem.k, problem.delta.size
    roots = np.linalg.cholesky(problem.moments + TINY * np.eye(k))
    inverse = np.linalg.inv(roots)  # the pair's own covariance is variance inverse' inverse
    points = [_sample(polygon) for polygon in (problem.outlines if size <= EXACT else ())]
    polygons = np.array(problem.outlines, dtype=object)
    shapely.prepare(polygons)
    variances = pixel_variances(problem) if size <= EXACT else np.ones(0)
    at: list[list[tuple[int, Index, Array]]] = [[] for _ in points]
    own = problem.variance.copy()
    for pair in range(len(problem.rms)) if size <= EXACT else ():
        ends = int(problem.first[pair]), int(problem.second[pair])
        if problem.shared[pair] <= 0:
            continue
        inside = [
            np.flatnonzero(shapely.contains_xy(polygons[other], points[mine])) for mine, other in (ends, ends[::-1])
        ]
        if min(len(found) for found in inside) < FEWEST:
            continue
        shared = problem.variance[pair] * problem.shared[pair]
        own[pair] -= shared
        for mine, sign, found in zip(ends, (-1.0, 1.0), inside, strict=True):
            sigma = sign * np.sqrt(shared * variances[mine] / variances[list(ends)].sum() / len(found))
            basis = _matched(points[mine][found], problem.centroids[pair], problem.scale, roots[pair])
            # basis has the outer square root root'; the plane's error is (root root')^-1 of the scores' one
            at[mine].append((pair, found, sigma * basis @ inverse[pair].T @ inverse[pair]))
    rows, columns, values = [], [], []
    for noise in at:
        if not noise:
            continue
        together = np.zeros((POINTS, k * len(noise)))
        for number, (_, found, value) in enumerate(noise):
            together[found, number * k : (number + 1) * k] = value
        place = (np.array([pair for pair, _, _ in noise])[:, None] * k + np.arange(k)).ravel()
        rows.append(np.repeat(place, len(place)))
        columns.append(np.tile(place, len(place)))
        values.append((together.T @ together).ravel())
    own = np.maximum(own, LEAST_OWN * problem.variance)
    block = own[:, None, None] * np.einsum("nba,nbc->nac", inverse, inverse)
    index = np.arange(size).reshape(-1, k)
    rows.append(np.repeat(index, k, axis=1).ravel())
    columns.append(np.tile(index, (1, k)).ravel())
    values.append(block.ravel())
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return csr_array(entries, shape=(size, size))


def design(problem: Problem) -> csc_array:
    """Return B (K k, N k): from the corrections to what they make of each pair's difference."""
    k, pairs = problem.k, len(problem.rms)
    row = (np.arange(pairs)[:, None, None] * k + np.arange(k)[:, None]) + np.zeros(k, dtype=np.int64)
    inner = np.zeros((k, 1), dtype=np.int64) + np.arange(k)
    column = [end[:, None, None] * k + inner for end in (problem.first, problem.second)]
    value = [-problem.shifts(problem.first), problem.shifts(problem.second)]
    entries = np.concatenate(value).ravel(), (np.concatenate([row, row]).ravel(), np.concatenate(column).ravel())
    return csc_array(entries, shape=(pairs * k, len(problem.names) * k))


def _exact(problem: Problem, equations: NormalEquations, covariance: csr_array) -> tuple[Array, Array]:
    """Return (K, k, k) what each pair keeps of itself, I - h, and (K,) the residual levels' 1 sigma."""
    k, pairs = problem.k, len(problem.rms)
    seen = design(problem)
    hat = np.asarray(seen @ equations.apply_inverse(seen.T.toarray()))
    weight = problem.weights[:, None, None] * problem.moments
    # fresh memory for the product: (K k, K, k) with each pair's own weight
    hat = np.einsum("rnb,nbc->rnc", hat.reshape(-1, pairs, k), weight).reshape(pairs * k, pairs * k)
    keeps = np.eye(pairs * k) - hat
    levels = keeps[::k]
    variance = np.einsum("ij,ij->i", np.asarray(covariance @ levels.T).T, levels)
    own = keeps.reshape(pairs, k, pairs, k)[np.arange(pairs), :, np.arange(pairs)]
    return own, np.sqrt(np.maximum(variance, 0.0))


def _drawn(problem: Problem, equations: NormalEquations) -> Array:
    """Return (K, k, k) estimated leverages: with z of unit variance, u = A^-1 B' W^(1/2) z has the covariance A^-1."""
    k, pairs = problem.k, len(problem.rms)
    seen = design(problem)
    noise = np.random.default_rng(0).standard_normal((pairs, k, DRAWS)) / np.sqrt(DRAWS)
    root = np.linalg.cholesky(problem.weights[:, None, None] * (problem.moments + TINY * np.eye(k)))
    right = seen.T @ np.einsum("nab,nbm->nam", root, noise).reshape(pairs * k, DRAWS)
    fitted = np.asarray(seen @ equations.apply_inverse(right)).reshape(pairs, k, DRAWS)
    symmetric = np.einsum("nba,nbm->nam", root, fitted)
    values, vectors = np.linalg.eigh(np.einsum("nam,nbm->nab", symmetric, symmetric))
    bounded = np.einsum("nab,nb,ncb->nac", vectors, np.minimum(values, MOST_DRAWN), vectors)
    return np.asarray(np.linalg.solve(np.transpose(root, (0, 2, 1)), bounded @ np.transpose(root, (0, 2, 1))))


def _mean(problem: Problem, equations: NormalEquations) -> Array:
    return np.broadcast_to(
        np.eye(problem.k) * min(MOST_DRAWN, equations.rank / problem.delta.size),
        (len(problem.rms), problem.k, problem.k),
    )


def _sample(polygon: object) -> Array:
    """Return (POINTS, 2) evenly spread points in the polygon's bounding box."""
    x0, y0, x1, y1 = shapely.bounds(polygon)
    return np.asarray([x0, y0] + spread_evenly(POINTS) * [x1 - x0, y1 - y0])


def _matched(points: Array, centroid: Array, scale: float, root: Array) -> NDArray[np.float64]:
    """Return (Q, k) the basis [1, x, y] at the points, transformed so that its mean outer square is root root'."""
    k = len(root)
    basis = np.ones((len(points), k))
    if k == 3:
        basis[:, 1:] = (points - centroid) / scale
    own = np.linalg.cholesky(basis.T @ basis / len(points) + TINY * np.eye(k))
    return np.asarray(np.linalg.solve(own, basis.T).T @ root.T)
