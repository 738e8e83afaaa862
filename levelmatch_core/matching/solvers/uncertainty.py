"""Uncertainties of the corrections relative to their gauge, in the sandwich form A^-1 S A^-1 for every weight method.

S is the covariance of the scores, and pairs that share an exposure share its noise: N exposures on top of each other
are far from N(N-1)/2 independent pairs (taking them so gives a variance N/2 too small). Each member i is given a pixel
variance s_i^2 (rms_ij^2 = s_i^2 + s_j^2 over its pairs) and a few hundred evenly spread sample points. At each point
the noise of the member enters the score of every pair whose overlap holds it, so that coverage by three and more
members counts as it is. S is the sum over members and points of these scores' outer squares: positive by construction.
Each pair's own variance is made exact: its points are moment-matched to the overlap's true moments, and scaled to its
standard error.

The part of a median's variance that exceeds the mean's, about (pi/2 - 1) rms^2 / n, is taken as independent between
pairs: signs of differences that share an exposure (rho = 1/2) correlate by arcsin(rho) = 0.52.
"""

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.sparse import coo_array, csr_array, diags_array, vstack
from scipy.sparse.linalg import lsqr

from levelmatch_core.matching.solvers.normal import NormalEquations
from levelmatch_core.matching.solvers.problem import Array, Index, Problem, SlopePrior, shift

POINTS = 600
"""Sample points a member."""
FEWEST = 12
"""A pair with fewer sample points in its overlap is taken as independent of the others."""
DRAWS = 200
"""Seeded draws by which the sigmas of large problems are estimated: to 5 %."""
TINY = 1e-12
"""Added to moments, whose members' half size is 1, so that an overlap that is a line has a root."""
MODES = 3
"""Weakest modes that are told."""
MODE_MEMBERS = 2000
"""Most members of a component whose modes are told: the work grows as their cube."""
NO_MODE = 1e-9
"""A mode with less than this part of the variance is none."""
SPLIT_PRIOR = 1e-3
"""Weight of the wish that members are equally noisy, where the pairs do not tell (a single pair, a chain)."""


@dataclass(frozen=True)
class _Score:
    """What the noise at some of a member's points does to the scores of a pair's two members."""

    ends: tuple[int, int]
    points: Index
    values: Array
    """(points, 2 k)"""


@dataclass(frozen=True)
class _Block:
    """Rows of the score factor that are not 0 in the columns of some members only."""

    members: tuple[int, ...]
    values: Array
    """(rows, k members)"""


def pixel_variances(problem: Problem) -> Array:
    """Return (N,) each member's pixel variance s_i^2, by least squares of rms_ij^2 = s_i^2 + s_j^2, none negative.

    Where the pairs leave the split open (a bipartite graph), members of equal noise are preferred.
    """
    n, pairs = len(problem.names), len(problem.rms)
    square = problem.rms**2
    typical = float(np.median(square)) / 2
    # relative equations, each about 1, and N weak ones s_i^2 = typical
    row = np.concatenate([np.arange(pairs), np.arange(pairs), pairs + np.arange(n)])
    column = np.concatenate([problem.first, problem.second, np.arange(n)])
    value = np.concatenate([typical / square, typical / square, np.full(n, SPLIT_PRIOR)])
    system = csr_array((value, (row, column)), shape=(pairs + n, n))
    right = np.concatenate([np.ones(pairs), np.full(n, SPLIT_PRIOR)])
    solved = lsqr(system, right, atol=1e-10, btol=1e-10, iter_lim=4 * n + 100)[0]
    return typical * np.maximum(solved, 1e-6)


def score_factor(problem: Problem) -> csr_array:
    """Return H (R, N k): the covariance of the scores is H'H; each row is what one unit of one noise source makes.

    Parameters
    ----------
    problem
        The component.
    """
    k = problem.k
    points = [_sample(polygon) for polygon in problem.outlines]
    polygons = np.array(problem.outlines, dtype=object)
    shapely.prepare(polygons)
    variances = pixel_variances(problem)
    shifts = problem.shifts(problem.first), problem.shifts(problem.second)
    scores: list[list[_Score]] = [[] for _ in points]
    blocks: list[_Block] = []
    for pair in range(len(problem.rms)):
        ends = int(problem.first[pair]), int(problem.second[pair])
        root = np.linalg.cholesky(problem.moments[pair] + TINY * np.eye(k))
        # what a unit of the pair's plane at its centroid does to the scores of its two members
        reach = problem.weights[pair] * np.concatenate([-shifts[0][pair], shifts[1][pair]], axis=1)
        inside = [
            np.flatnonzero(shapely.contains_xy(polygons[other], points[mine])) for mine, other in (ends, ends[::-1])
        ]
        sampled = min(len(found) for found in inside) >= FEWEST
        shared = problem.variance[pair] * problem.shared[pair] if sampled else 0.0
        if sampled:
            for mine, sign, found in zip(ends, (-1.0, 1.0), inside, strict=True):
                sigma = sign * np.sqrt(shared * variances[mine] / variances[list(ends)].sum() / len(found))
                basis = _matched(points[mine][found], problem.centroids[pair], problem.scale, root)
                scores[mine].append(_Score(ends, found, sigma * basis @ reach))
        own = problem.variance[pair] - shared
        if own > 0:
            blocks.append(_Block(ends, np.sqrt(own) * root.T @ reach))
    blocks += [_compressed(found, k) for found in scores if found]
    return _stacked(blocks, len(problem.names), k)


def _compressed(scores: list[_Score], k: int) -> _Block:
    """Gather what the noise at one member's points does, and keep no more rows than there are unknowns (by QR)."""
    members = sorted({end for score in scores for end in score.ends})
    place = {member: slice(k * n, k * (n + 1)) for n, member in enumerate(members)}
    rows = np.zeros((POINTS, k * len(members)))
    for score in scores:
        for end, value in zip(score.ends, (score.values[:, :k], score.values[:, k:]), strict=True):
            rows[score.points, place[end]] += value
    return _Block(tuple(members), np.asarray(np.linalg.qr(rows, mode="r")))


def _stacked(blocks: list[_Block], members: int, k: int) -> csr_array:
    """Set the blocks below one another, each in its members' columns."""
    row, column, start = [], [], 0
    for block in blocks:
        columns = (np.array(block.members)[:, None] * k + np.arange(k)).ravel()
        rows = start + np.arange(len(block.values))
        row.append(np.repeat(rows, len(columns)))
        column.append(np.tile(columns, len(rows)))
        start += len(rows)
    values = np.concatenate([block.values.ravel() for block in blocks])
    return csr_array(coo_array((values, (np.concatenate(row), np.concatenate(column))), shape=(start, members * k)))


def spread(problem: Problem, *, prior: SlopePrior | None = None, seed: int = 0) -> Array:
    """Return S (N k, M) with S S' the covariance of the corrections, relative to the gauge, about each member's centre.

    Held members have 0. Small problems are propagated exactly, large ones (more unknowns than are solved densely) by
    200 seeded draws. A prior shrinks slopes towards 0, which leaves an error of its own where they are not.

    Parameters
    ----------
    problem
        The component, with at least one pair.
    prior
        The slope prior of the solve, if any.
    seed
        Seed of the draws.
    """
    equations = NormalEquations(problem, prior.sd if prior else None)
    factor = score_factor(problem)
    if prior is not None:
        factor = csr_array(vstack([factor, _prior_factor(problem, prior)]))
    if equations.dense:
        # A^-1 H'H A^-1 = (A^-1 H')(A^-1 H')': squares are summed, and never subtracted
        return _to_gauge(problem, equations.apply_inverse(factor.T.toarray()))
    noise = np.random.default_rng(seed).standard_normal((factor.shape[0], DRAWS)) / np.sqrt(DRAWS)
    return _to_gauge(problem, equations.apply_inverse(factor.T @ noise))


def weak_modes(columns: Array, k: int) -> list[tuple[float, float, Array]]:
    """Return the weakest modes of the levels: 1 sigma of the rms over members, share of the variance, pattern of rms 1.

    Parameters
    ----------
    columns
        (N k, M) what :func:`spread` gives.
    k
        Coefficients a member.
    """
    levels = columns.reshape(-1, k, columns.shape[1])[:, 0]
    n = len(levels)
    values, vectors = eigh(levels @ levels.T, subset_by_index=(max(0, n - MODES), n - 1))
    total = float(np.sum(levels**2))
    modes = []
    for value, vector in zip(values[::-1].tolist(), vectors.T[::-1], strict=True):
        if value > NO_MODE * total:
            turned = vector * np.sign(vector[np.argmax(np.abs(vector))]) * np.sqrt(n)
            modes.append((float(np.sqrt(value / n)), value / total, turned))
    return modes


def sigmas(problem: Problem, *, prior: SlopePrior | None = None, seed: int = 0) -> Array:
    """Return (N, k) the 1-sigma errors of the corrections: the root of the diagonal of :func:`spread`'s covariance."""
    columns = spread(problem, prior=prior, seed=seed)
    return np.asarray(np.sqrt(np.sum(columns**2, axis=1))).reshape(len(problem.names), problem.k)


def _prior_factor(problem: Problem, prior: SlopePrior) -> csr_array:
    """Return (R, N k): what the true slopes, pulled to 0, do to the scores: precision times width for each slope.

    Slopes relative to a held member lack that member's own, which all others share.
    """
    size = len(problem.names) * problem.k
    slopes = np.zeros((len(problem.names), problem.k))
    slopes[~problem.held, 1:] = prior.width / prior.sd**2
    rows = [diags_array(slopes.ravel()).tocsr()[slopes.ravel() > 0]]
    if not problem.mean_gauge:
        common = np.zeros((2, *slopes.shape))
        common[0, :, 1], common[1, :, 2] = slopes[:, 1], slopes[:, 2]
        rows.append(csr_array(common.reshape(2, size)))
    return csr_array(vstack(rows))


def _to_gauge(problem: Problem, columns: Array) -> Array:
    """Take the mean plane out of each column (N k, M) where no member is held."""
    if not problem.mean_gauge:
        return columns
    n, k = len(problem.names), problem.k
    planes = columns.reshape(n, k, -1)
    common = np.broadcast_to(problem.centres.mean(axis=0), problem.centres.shape)
    mean = np.einsum("nab,nbm->am", shift(problem.centres, common, problem.scale, k), planes) / n
    back = np.einsum("nab,bm->nam", shift(common, problem.centres, problem.scale, k), mean)
    centred = planes - back
    if problem.level_zero is not None:
        centred[:, 0] -= centred[problem.level_zero, 0]
    return centred.reshape(columns.shape)


def _sample(polygon: object) -> Array:
    """Return (POINTS, 2) evenly spread points in the polygon's bounding box: the R2 low-discrepancy sequence.

    A lattice would alias with thin overlaps: one of its columns is in or out as a whole. (M. Roberts 2018, "The
    unreasonable effectiveness of quasirandom sequences": steps of 1/g and 1/g^2 with g^3 = g + 1.)
    """
    golden = 1.324717957244746
    unit = (0.5 + np.arange(POINTS)[:, None] * np.array([1 / golden, 1 / golden**2])) % 1.0
    x0, y0, x1, y1 = shapely.bounds(polygon)
    return np.asarray([x0, y0] + unit * [x1 - x0, y1 - y0])


def _matched(points: Array, centroid: Array, scale: float, root: Array) -> NDArray[np.float64]:
    """Return (Q, k) the basis [1, x, y] at the points, transformed so that its mean outer square is root root'."""
    k = len(root)
    basis = np.ones((len(points), k))
    if k == 3:
        basis[:, 1:] = (points - centroid) / scale
    own = np.linalg.cholesky(basis.T @ basis / len(points) + TINY * np.eye(k))
    return np.asarray(np.linalg.solve(own, basis.T).T @ root.T)
