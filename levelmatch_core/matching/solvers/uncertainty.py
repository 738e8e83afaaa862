"""Uncertainties of the corrections relative to their gauge, in the sandwich form A^-1 S A^-1 for every weight method.

S is the covariance of the scores, and pairs that share an exposure share its noise (see `noise`): N exposures on top of
each other are far from N(N-1)/2 independent pairs (taking them so gives a variance N/2 too small).

Small problems are propagated exactly. Of large ones the errors are drawn: with H'H = S, each seeded draw of white noise
e gives A^-1 H'e, one possible error of all corrections, at the price of a solve; sigmas are the draws' scatter, to one
part in the root of twice their number. The weakest modes are the leading eigenvectors of the same operator, by Lanczos
iteration.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array, diags_array, vstack
from scipy.sparse.linalg import LinearOperator, eigsh

from levelmatch_core.matching.solvers.noise import score_factor
from levelmatch_core.matching.solvers.normal import NormalEquations
from levelmatch_core.matching.solvers.problem import Array, Problem, SlopePrior, shift

DRAWS, FEWEST_DRAWS = 200, 50
"""Draws by which the sigmas of large problems are estimated: to 5 % up to `FULL_DRAWS` unknowns, to 10 % at worst."""
FULL_DRAWS = 100_000
"""Unknowns for which all draws are made; beyond, as many as keep their cost, so long as there are `FEWEST_DRAWS`."""
DRAWS_AT_ONCE = 10
"""Draws that are solved together: memory."""
MODES = 3
"""Weakest modes that are told."""
MODE_MEMBERS = 200_000
"""Most members of a component whose modes are told: each has a number for every member."""
NO_MODE = 1e-9
"""A mode with less than this part of the variance is none."""
MODE_TOLERANCE = 1e-4
"""Relative, of a mode's variance."""

Mode = tuple[float, float, Array]
"""1 sigma of the rms over members, share of the variance, (N,) pattern of rms 1."""


@dataclass(frozen=True)
class _Noise:
    """The noise of the scores on its way to the corrections."""

    problem: Problem
    equations: NormalEquations
    factor: csr_array

    @classmethod
    def of(cls, problem: Problem, prior: SlopePrior | None, equations: NormalEquations) -> "_Noise":
        factor = score_factor(problem)
        if prior is not None:
            factor = csr_array(vstack([factor, _prior_factor(problem, prior)]))
        return cls(problem, equations, factor)

    def to_corrections(self, noise: Array) -> Array:
        """Return (N k, M) the errors that noise (R, M) of the scores makes, in the gauge."""
        return _to_gauge(self.problem, self.equations.apply_inverse(self.factor.T @ noise))

    def exact(self) -> Array:
        """Return S (N k, R), S S' the covariance: A^-1 H'H A^-1 = (A^-1 H')(A^-1 H')', squares never subtracted."""
        return _to_gauge(self.problem, self.equations.apply_inverse(self.factor.T.toarray()))

    def level_covariance(self, levels: Array) -> Array:
        """Return (N,) the covariance of the levels times a pattern (N,)."""
        problem = self.problem
        pattern = np.zeros((len(problem.names), problem.k))
        pattern[:, 0] = levels
        pulled = self.equations.apply_inverse(_from_gauge(problem, pattern.reshape(-1, 1)))
        back = self.to_corrections(self.factor @ pulled)
        return back.reshape(-1, problem.k)[:, 0]


def sigmas(problem: Problem, *, prior: SlopePrior | None = None, seed: int = 0) -> Array:
    """Return (N, k) the 1-sigma errors of the corrections, as :func:`uncertainties` has them."""
    return uncertainties(problem, prior=prior, seed=seed, modes=0)[0]


def uncertainties(
    problem: Problem,
    *,
    prior: SlopePrior | None = None,
    seed: int = 0,
    modes: int = MODES,
    equations: NormalEquations | None = None,
) -> tuple[Array, list[Mode]]:
    """Return the 1-sigma errors of the corrections, relative to the gauge, and the weakest modes of the levels.

    Held members have 0. A prior shrinks slopes towards 0, which leaves an error of its own where they are not.

    Parameters
    ----------
    problem
        The component, with at least one pair.
    prior
        The slope prior of the solve, if any.
    seed
        Seed of the draws.
    modes
        Most modes that are told, weakest first; none in components of more than 200,000 members.
    equations
        The normal equations of this problem with this prior, where they are there already.

    Returns
    -------
    errors
        (N, k) about each member's centre.
    modes
        1 sigma of the rms over members, share of all levels' variance, pattern of rms 1.
    """
    noise = _Noise.of(problem, prior, equations or NormalEquations(problem, prior.sd if prior else None))
    shape = len(problem.names), problem.k
    if noise.equations.dense:
        columns = noise.exact()
        variances = np.sum(columns**2, axis=1).reshape(shape)
        levels = columns.reshape(*shape, -1)[:, 0]
        values, vectors = np.linalg.eigh(levels @ levels.T)
        values, vectors = values[: -modes - 1 : -1], vectors[:, : -modes - 1 : -1]
    else:
        variances = _drawn(noise, seed)
        told = modes if len(problem.names) <= MODE_MEMBERS else 0
        values, vectors = _leading(noise, told, seed)
    return np.sqrt(variances), _modes(values, vectors, float(variances[:, 0].sum()))


def _drawn(noise: _Noise, seed: int) -> Array:
    """Return (N, k) the corrections' variances over seeded draws."""
    shape = len(noise.problem.names), noise.problem.k
    draws = int(np.clip(DRAWS * FULL_DRAWS // (shape[0] * shape[1]), FEWEST_DRAWS, DRAWS))
    squares = np.zeros(shape[0] * shape[1])
    random = np.random.default_rng(seed)
    for start in range(0, draws, DRAWS_AT_ONCE):
        several = min(DRAWS_AT_ONCE, draws - start)
        drawn = noise.to_corrections(random.standard_normal((noise.factor.shape[0], several)))
        squares += np.einsum("nm,nm->n", drawn, drawn)
    return (squares / draws).reshape(shape)


def _leading(noise: _Noise, modes: int, seed: int) -> tuple[Array, Array]:
    """Return the largest eigenvalues of the levels' covariance, falling, and (N, modes) their eigenvectors."""
    n = len(noise.problem.names)
    if not modes:
        return np.zeros(0), np.zeros((n, 0))
    covariance = LinearOperator((n, n), matvec=noise.level_covariance, dtype=float)
    start = np.random.default_rng(seed).standard_normal(n)
    values, vectors = eigsh(covariance, k=modes, which="LA", v0=start, tol=MODE_TOLERANCE)
    falling = np.argsort(-values, kind="stable")
    return values[falling], vectors[:, falling]


def _modes(values: Array, vectors: Array, total: float) -> list[Mode]:
    n = len(vectors)
    modes = []
    for value, vector in zip(values.tolist(), vectors.T, strict=True):
        if value > NO_MODE * total:
            turned = vector * np.sign(vector[np.argmax(np.abs(vector))]) * np.sqrt(n)
            modes.append((float(np.sqrt(value / n)), value / total, turned))
    return modes


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


def _from_gauge(problem: Problem, columns: Array) -> Array:
    """Return the transpose of `_to_gauge` applied to columns (N k, M)."""
    if not problem.mean_gauge:
        return columns
    n, k = len(problem.names), problem.k
    planes = columns.reshape(n, k, -1).copy()
    if problem.level_zero is not None:
        planes[problem.level_zero, 0] -= planes[:, 0].sum(axis=0)
    common = np.broadcast_to(problem.centres.mean(axis=0), problem.centres.shape)
    total = np.einsum("nba,nbm->am", shift(common, problem.centres, problem.scale, k), planes) / n
    back = np.einsum("nba,bm->nam", shift(problem.centres, common, problem.scale, k), total)
    return np.asarray((planes - back).reshape(columns.shape))
