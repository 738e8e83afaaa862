"""Uncertainties of the corrections relative to their gauge, in the sandwich form A^-1 S A^-1 for every weight method.

S is the covariance of the right-hand side b, in which pairs that share an exposure share its noise (see `pair_noise`
and section 8 of matching/MODEL.md): N exposures on top of each other are far from N(N-1)/2 independent pairs, and
treating them as such would underestimate the variance by a factor of N/2.

Small problems are propagated exactly. For large ones the errors are sampled: each seeded draw of the pairs' noise gives
one possible error of all corrections, at the cost of one solve. The standard deviations of n draws have a relative
error of 1/sqrt(2 n). The weakest modes are the leading eigenvectors of the same covariance, found by block Lanczos
iteration (Golub and Underwood 1977, Mathematical Software III, 361) starting from the first draws; their contribution
to the variance of the levels does not suffer from the sampling.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
from scipy.linalg import eigh, qr
from scipy.sparse import csr_array, diags_array, vstack

from levelmatch_core.matching.linear.normal_equations import NormalEquations
from levelmatch_core.matching.model.design import pair_residuals, to_members
from levelmatch_core.matching.model.problem import Array, Problem, SlopePrior
from levelmatch_core.matching.uncertainty.pair_noise import PairNoise, times_blocks

DRAWS, FEWEST_DRAWS = 200, 50
"""Number of draws for large problems: errors are known to 5 % up to `FULL_DRAWS` unknowns, and to 10 % at worst."""
FULL_DRAWS = 100_000
"""Number of unknowns up to which all draws are made; above, their number decreases at constant cost, down to
`FEWEST_DRAWS`."""
AT_ONCE = 10
"""Number of draws solved together, which limits the memory; also the block size of the iteration for the modes."""
MODES = 3
"""Number of weakest modes that are reported."""
MODE_MEMBERS = 200_000
"""Largest component whose modes are reported: a mode has one value per member."""
NO_MODE = 1e-9
"""Modes with less than this fraction of the variance are not reported."""
MODE_TOLERANCE, MODE_ROUNDS = 1e-4, 20
"""Relative residual at which a mode has converged, and largest number of iterations."""

Mode = tuple[float, float, Array]
"""1 sigma of the rms over members, fraction of the variance, (N,) pattern of rms 1."""


@dataclass(frozen=True)
class _Noise:
    """The noise of the right-hand side, and its propagation to the corrections."""

    problem: Problem
    prior: SlopePrior | None
    equations: NormalEquations
    pairs: PairNoise

    @property
    def pulled(self) -> Array:
        """(N, k) the response of the right-hand side to true slopes of one prior width; 0 without a prior."""
        if self.prior is None:
            return np.zeros((len(self.problem.names), self.problem.k))
        return _pulled(self.problem, self.prior)

    def exact(self) -> Array:
        """Return C (N k, R) with C C' the covariance: A^-1 F'F A^-1 = (A^-1 F')(A^-1 F')', without any cancellation."""
        problem, pairs = self.problem, self.pairs
        response = self.equations.response * np.repeat(problem.weights, problem.k)
        own = np.sqrt(pairs.alone)[:, None, None] * pairs.roots
        made = [times_blocks(response, own)]
        made.append((pairs.shared_factor() @ response.T).T)
        if self.prior is not None:
            made.append(self.equations.apply_inverse(prior_factor(problem, self.prior).toarray().T))
        return to_gauge(problem, np.concatenate(made, axis=1))

    def draws(self, count: int, seed: int) -> Iterator[Array]:
        """Yield (N k, M) seeded errors of all corrections, several draws at a time."""
        problem, pulled, random = self.problem, self.pulled, np.random.default_rng(seed)
        for start in range(0, count, AT_ONCE):
            several = np.empty((problem.delta.shape[1] * len(problem.names), min(AT_ONCE, count - start)))
            for column in several.T:
                right_hand_side = np.zeros(pulled.shape)
                drawn = self.pairs.draw(random.standard_normal(self.pairs.sources))
                to_members(problem.geometry, problem.weights[:, None] * drawn, right_hand_side)
                if self.prior is not None:
                    right_hand_side += pulled * random.standard_normal(pulled.shape)
                    if has_common_slope(problem):  # the slope of the fixed member is common to all others
                        right_hand_side += pulled * random.standard_normal(problem.k)
                column[:] = right_hand_side.ravel()
            yield to_gauge(problem, self.equations.apply_inverse(several))

    def level_covariance(self, levels: Array) -> Array:
        """Return (N, M) the product of the covariance of the levels and patterns (N, M)."""
        problem, pulled = self.problem, self.pulled
        patterns = np.zeros((len(problem.names), problem.k, levels.shape[1]))
        patterns[:, 0] = levels
        through = self.equations.apply_inverse(_from_gauge(problem, patterns.reshape(pulled.size, -1)))
        several, none = np.empty_like(through), np.zeros_like(problem.delta)
        for column, given in zip(several.T, through.T, strict=True):
            own = np.ascontiguousarray(given).reshape(pulled.shape)
            seen = problem.weights[:, None] * -pair_residuals(problem.geometry, none, own)
            right_hand_side = pulled**2 * own
            if has_common_slope(problem):
                right_hand_side += pulled * np.sum(pulled * own, axis=0)
            to_members(problem.geometry, problem.weights[:, None] * self.pairs.covariance_times(seen), right_hand_side)
            column[:] = right_hand_side.ravel()
        back = to_gauge(problem, self.equations.apply_inverse(several))
        return back.reshape(*pulled.shape, -1)[:, 0]


def sigmas(problem: Problem, *, prior: SlopePrior | None = None, seed: int = 0) -> Array:
    """Return (N, k) the 1-sigma errors of the corrections, as from :func:`uncertainties`."""
    return uncertainties(problem, prior=prior, seed=seed, modes=0)[0]


def uncertainties(
    problem: Problem,
    *,
    prior: SlopePrior | None = None,
    seed: int = 0,
    modes: int = MODES,
    equations: NormalEquations | None = None,
    noise: PairNoise | None = None,
) -> tuple[Array, list[Mode]]:
    """Return the 1-sigma errors of the corrections, relative to the gauge, and the weakest modes of the levels.

    Errors of fixed members are 0. A prior shrinks slopes towards 0; the resulting bias of true slopes is included.

    Parameters
    ----------
    problem
        The component, with at least one pair.
    prior
        The slope prior of the solve, if any.
    seed
        Seed of the random draws.
    modes
        Largest number of modes, weakest first; none for components of more than 200,000 members, and, in large
        problems, none that cannot be separated from other modes.
    equations
        The normal equations of this problem with this prior, if they have been built already.
    noise
        The noise of its pairs, if it has been computed already.

    Returns
    -------
    errors
        (N, k) about each member's centre.
    modes
        1 sigma of the rms over members, fraction of the total variance of the levels, pattern of rms 1.
    """
    equations = equations or NormalEquations(problem, prior.sd if prior else None)
    known = _Noise(problem, prior, equations, noise or PairNoise.of(problem).with_structure())
    shape = len(problem.names), problem.k
    if equations.dense:
        columns = known.exact()
        variances = np.sum(columns**2, axis=1).reshape(shape)
        values, vectors = _largest(columns.reshape(*shape, -1)[:, 0], modes)
    else:
        variances, values, vectors = _drawn(known, seed)
    return np.sqrt(variances), _modes(values[:modes], vectors[:, :modes], float(variances[:, 0].sum()))


def _drawn(noise: _Noise, seed: int) -> tuple[Array, Array, Array]:
    """Return (N, k) the variances of the corrections from seeded draws, and the result of :func:`_leading`.

    The contribution of the leading modes to the variance of the levels is known, and is not estimated from the draws.
    """
    n, k = len(noise.problem.names), noise.problem.k
    count = int(np.clip(DRAWS * FULL_DRAWS // (n * k), FEWEST_DRAWS, DRAWS))
    draws = noise.draws(count, seed)
    first = next(draws)
    values, vectors = _leading(noise, first[::k], MODES if n <= MODE_MEMBERS else 0)
    vectors[~first[::k].any(axis=1)] = 0.0  # fixed members: rounding errors
    squares = np.zeros(n * k)
    for drawn in chain([first], draws):
        drawn[::k] -= vectors @ (vectors.T @ drawn[::k])
        squares += np.einsum("nm,nm->n", drawn, drawn)
    variances = (squares / count).reshape(n, k)
    variances[:, 0] += vectors**2 @ values
    return variances, values, vectors


def _largest(levels: Array, modes: int) -> tuple[Array, Array]:
    """Return the largest eigenvalues, falling, and eigenvectors of levels (N, R) times their transpose."""
    n = len(levels)
    if not modes:
        return np.zeros(0), np.zeros((n, 0))
    values, vectors = eigh(levels @ levels.T, subset_by_index=(max(0, n - modes), n - 1))
    return values[::-1], vectors[:, ::-1]


def _leading(noise: _Noise, start: Array, modes: int) -> tuple[Array, Array]:
    """Return the largest eigenvalues of the levels' covariance, falling, and their eigenvectors (N, at most `modes`).

    Modes that the iteration does not separate are omitted: among many similar modes none is the weakest.
    """
    if not modes:
        return np.zeros(0), np.zeros((len(start), 0))
    seen = np.zeros((len(start), 0))
    basis, _ = qr(start, mode="economic")
    newest = basis
    while True:
        seen = np.concatenate([seen, noise.level_covariance(newest)], axis=1)
        values, turns = np.linalg.eigh(basis.T @ seen)
        values, turns = values[: -modes - 1 : -1], turns[:, : -modes - 1 : -1]
        vectors = basis @ turns
        left = np.linalg.norm(seen @ turns - vectors * values, axis=0)
        room = min(len(start), MODE_ROUNDS * start.shape[1]) - basis.shape[1]
        settled = left <= MODE_TOLERANCE * values
        if np.all(settled) or room <= 0:
            return values[settled], vectors[:, settled]
        newest = seen[:, -min(room, newest.shape[1]) :]
        for _ in range(2):  # reorthogonalising twice is enough (Kahan and Parlett)
            newest, _ = qr(newest - basis @ (basis.T @ newest), mode="economic")
        basis = np.concatenate([basis, newest], axis=1)


def _modes(values: Array, vectors: Array, total: float) -> list[Mode]:
    n = len(vectors)
    modes = []
    for value, vector in zip(values.tolist(), vectors.T, strict=True):
        if value > NO_MODE * total:
            turned = vector * np.sign(vector[np.argmax(np.abs(vector))]) * np.sqrt(n)
            modes.append((float(np.sqrt(value / n)), value / total, turned))
    return modes


def _pulled(problem: Problem, prior: SlopePrior) -> Array:
    """Return (N, k) the response of the right-hand side to true slopes of one width, which the prior shrinks to 0."""
    pulled = np.zeros((len(problem.names), problem.k))
    pulled[~problem.fixed, 1:] = prior.width / prior.sd**2
    return pulled


def has_common_slope(problem: Problem) -> bool:
    """Return whether slopes are relative to that of a fixed member: those of members on several grids are not."""
    return not problem.mean_gauge and not problem.frames


def prior_factor(problem: Problem, prior: SlopePrior) -> csr_array:
    """Return (R, N k) the factor of the part of S due to true slopes, precision times width for each slope.

    Slopes are relative to a fixed member, if there is one, whose own slope is common to all others.
    """
    pulled = _pulled(problem, prior)
    rows = [diags_array(pulled.ravel()).tocsr()[pulled.ravel() > 0]]
    if has_common_slope(problem):
        common = np.zeros((2, *pulled.shape))
        common[0, :, 1], common[1, :, 2] = pulled[:, 1], pulled[:, 2]
        rows.append(csr_array(common.reshape(2, pulled.size)))
    return csr_array(vstack(rows))


def to_gauge(problem: Problem, columns: Array) -> Array:
    """Apply the gauge G to columns (N k, M): subtract the mean plane or the reference's, if no member is fixed."""
    if not problem.mean_gauge:
        return columns
    n, k = len(problem.names), problem.k
    planes = columns.reshape(n, k, -1)
    if problem.plane_reference is not None:
        there = _from_zero(problem, problem.plane_reference)
        return (planes - np.einsum("nab,bm->nam", there, planes[problem.plane_reference])).reshape(columns.shape)
    common = np.broadcast_to(problem.centres.mean(axis=0), problem.centres.shape)
    mean = np.einsum("nab,nbm->am", problem.moved(problem.centres, common), planes) / n
    back = np.einsum("nab,bm->nam", problem.moved(common, problem.centres), mean)
    centred = planes - back
    if problem.level_reference is not None:
        centred[:, 0] -= centred[problem.level_reference, 0]
    return centred.reshape(columns.shape)


def _from_gauge(problem: Problem, columns: Array) -> Array:
    """Apply the transpose of the gauge G to columns (N k, M)."""
    if not problem.mean_gauge:
        return columns
    n, k = len(problem.names), problem.k
    planes = columns.reshape(n, k, -1).copy()
    if problem.plane_reference is not None:
        planes[problem.plane_reference] -= np.einsum(
            "nba,nbm->am", _from_zero(problem, problem.plane_reference), planes
        )
        return planes.reshape(columns.shape)
    if problem.level_reference is not None:
        planes[problem.level_reference, 0] -= planes[:, 0].sum(axis=0)
    common = np.broadcast_to(problem.centres.mean(axis=0), problem.centres.shape)
    total = np.einsum("nba,nbm->am", problem.moved(common, problem.centres), planes) / n
    back = np.einsum("nba,bm->nam", problem.moved(problem.centres, common), total)
    return np.asarray((planes - back).reshape(columns.shape))


def _from_zero(problem: Problem, member: int) -> Array:
    """Return (N, k, k) matrices that refer a plane about one member's centre to the centre of every member."""
    its = np.broadcast_to(problem.centres[member], problem.centres.shape)
    return problem.moved(its, problem.centres)
