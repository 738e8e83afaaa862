"""The normal equations of a component: assembled from the blocks of the pairs, reduced to a gauge, factored, solved.

In the notation of section 5 of matching/MODEL.md: the objective (d - B c)' W (d - B c) + c' L c has the normal matrix
A = B' W B + L and the right-hand side b = B' W d, and the corrections are the solution of A c = b. Where no member is
fixed, the differences leave one common plane undetermined; one member is then grounded for the solve, and the mean
plane is subtracted afterwards, which changes no difference. A slope prior adds a = 1/sd^2 to the diagonal entry of each
slope. It determines the common slope itself (the mean slope comes out as 0), so that only a level is grounded; so it is
where members are on several grids, which have no plane in common.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh, eigvalsh
from scipy.linalg.lapack import dpotrf, dpotrs
from scipy.sparse import coo_array, csc_array
from scipy.sparse.linalg import LinearOperator, onenormest

from levelmatch_core.matching.linear.cholesky import SINGULAR, Cholesky
from levelmatch_core.matching.linear.nested_dissection import Elimination
from levelmatch_core.matching.model.design import normal_blocks, to_members
from levelmatch_core.matching.model.problem import Array, Problem

DENSE_UNKNOWNS = 600
"""Problems with at most this many unknowns are solved with dense matrices, and all eigenvalues are computed."""
LOOKS = 2
"""Iterations of the condition estimate, of two solves each."""

Blocks = tuple[Array, Array]
"""(N, k, k) diagonal blocks of A, and (K, k, k) the block in the row of each pair's first member and the column of its
second."""


@dataclass(frozen=True)
class PairsPart:
    """The part B' W B of a normal matrix, which does not depend on the prior."""

    problem: Problem
    like: "PairsPart | None" = None
    """The part of the same members and pairs with other weights, whose order of elimination is used again."""

    @cached_property
    def blocks(self) -> Blocks:
        """The blocks of the matrix."""
        return blocks_of(self.problem, self.problem.moments)

    @cached_property
    def dense(self) -> Array:
        """(N k, N k) the dense matrix."""
        return np.asarray(sparse_matrix(self.problem, self.blocks).toarray())

    @cached_property
    def plan(self) -> Elimination:
        """The order of elimination."""
        problem = self.problem
        if self.like is not None:
            return self.like.plan
        return Elimination.of(problem.on_map, problem.first, problem.second, problem.fixed)


@dataclass(frozen=True)
class NormalEquations:
    """The normal matrix A of a problem in its gauge."""

    problem: Problem
    slope_sd: float | None = None
    """Standard deviation of the Gaussian prior on each slope, data unit over `problem.scale` pixels; None: no prior."""
    known: PairsPart | None = None
    """The part B' W B, if it has been computed already."""

    def of(self, problem: Problem, slope_sd: float | None) -> "NormalEquations":
        """Return the equations of the same members and pairs with other weights, or another prior."""
        same = self.pairs if problem is self.problem else PairsPart(problem, self.pairs)
        return NormalEquations(problem, slope_sd, same)

    @cached_property
    def pairs(self) -> PairsPart:
        """The part B' W B of the matrix."""
        return self.known or PairsPart(self.problem)

    @cached_property
    def prior(self) -> Array:
        """(N k,) diagonal of L: the inverse variance of the prior."""
        diagonal = np.zeros((len(self.problem.names), self.problem.k))
        if self.slope_sd is not None:
            diagonal[:, 1:] = self.slope_sd**-2.0
        return diagonal.ravel()

    @cached_property
    def excluded(self) -> NDArray[np.bool_]:
        """(N, k) unknowns that are not solved for: those of fixed members, or of the grounded one."""
        problem = self.problem
        excluded = np.repeat(problem.fixed[:, None], problem.k, axis=1)
        if problem.mean_gauge:
            n = len(excluded)
            degree = np.bincount(problem.first, minlength=n) + np.bincount(problem.second, minlength=n)
            only_level = self.slope_sd is not None or bool(problem.frames)
            excluded[int(np.argmax(degree)), : (1 if only_level else problem.k)] = True
        return excluded

    @cached_property
    def free(self) -> NDArray[np.int64]:
        """Indices of the unknowns that are solved for."""
        return np.flatnonzero(~self.excluded.ravel())

    @cached_property
    def diagonal(self) -> Array:
        """(N k,) diagonal of A, prior included, before the gauge is applied."""
        own = self.pairs.blocks[0]
        return np.einsum("naa->na", own).ravel() + self.prior

    @cached_property
    def _scaling(self) -> Array:
        """(N, k) scaling of the matrix to a unit diagonal; 0 for unknowns that are not solved for."""
        scaling = np.where(self.diagonal > 0, self.diagonal, 1.0) ** -0.5
        return scaling.reshape(self.excluded.shape) * ~self.excluded

    @cached_property
    def _factor(self) -> Cholesky:
        own, across = self.pairs.blocks
        if self.slope_sd is not None:
            own = own + np.diag(self.prior[: self.problem.k])
        return Cholesky.of(self.pairs.plan, own, across, self._scaling)

    @property
    def dense(self) -> bool:
        """Whether the problem is small enough for dense matrices."""
        return len(self.free) <= DENSE_UNKNOWNS

    @cached_property
    def _reduced(self) -> Array:
        """The dense matrix of the free unknowns, scaled to a unit diagonal."""
        scaling = self._scaling.ravel()[self.free]
        part = self.pairs.dense[np.ix_(self.free, self.free)]
        part[np.arange(len(part)), np.arange(len(part))] += self.prior[self.free]
        part *= scaling[:, None]
        part *= scaling
        return part

    @cached_property
    def _root(self) -> Array | None:
        """The Cholesky factor of the dense matrix; None if a pivot vanishes."""
        root, failed = dpotrf(self._reduced.T, lower=1)  # symmetric; transposed for LAPACK's memory order
        return None if failed or np.any(root.diagonal() ** 2 <= SINGULAR) else np.asarray(root)

    @cached_property
    def _eigen(self) -> tuple[Array, Array, NDArray[np.bool_]]:
        values, vectors = eigh(self._reduced)
        return values, vectors, values > SINGULAR * values[-1]

    @cached_property
    def log_determinant(self) -> float:
        """Logarithm of the determinant of the matrix of the free unknowns, which a prior makes positive definite."""
        if not self.dense:
            value = self._factor.logarithm
        elif self._root is None:
            value = float(np.linalg.slogdet(self._reduced)[1])
        else:
            value = 2 * float(np.sum(np.log(self._root.diagonal())))
        return value - 2 * float(np.sum(np.log(self._scaling.ravel()[self.free])))

    def apply_inverse(self, right: Array) -> Array:
        """Return A^-1 times right-hand sides (N k,) or (N k, M); grounded and fixed unknowns are 0."""
        if not self.dense:
            return self._factor.solve(right)
        result = np.zeros((len(right), right.size // len(right)))
        if not len(self.free):
            return result.reshape(right.shape)
        scaling = self._scaling.ravel()[self.free, None]
        columns = right.reshape(result.shape)[self.free] * scaling
        if self._determined and self._root is not None:
            solved, _ = dpotrs(self._root, columns, lower=1)
        else:
            values, vectors, good = self._eigen
            kept = vectors[:, good]
            solved = kept @ ((kept.T @ columns) / values[good][:, None])
        result[self.free] = scaling * solved
        return result.reshape(right.shape)

    @cached_property
    def response(self) -> Array:
        """(N k, K k) the matrix A^-1 B', dense: for small problems only."""
        problem, pairs = self.problem, np.arange(len(self.problem.rms))
        pulls = np.zeros((*self.excluded.shape, len(pairs), problem.k))
        pulls[problem.second, :, pairs] = problem.shifts(1).transpose(0, 2, 1)
        pulls[problem.first, :, pairs] -= problem.shifts(0).transpose(0, 2, 1)
        return self.apply_inverse(pulls.reshape(self.excluded.size, -1))

    @property
    def _determined(self) -> bool:
        """Whether all unknowns are certain to be determined: levels by the pairs, slopes by the prior."""
        return self.problem.k == 1 or self.slope_sd is not None

    @cached_property
    def rank(self) -> int:
        """Number of unknowns that are determined, without those that the gauge fixes (see `Problem.unknowns`).

        For large problems the vanishing pivots are counted, which gives a lower bound of the rank deficiency; the
        condition estimate shows the rest.
        """
        if not len(self.free):
            return 0
        if self._determined:
            return self.problem.unknowns
        missing = int(np.count_nonzero(~self._eigen[2])) if self.dense else self._factor.missing
        return self.problem.unknowns - missing

    @cached_property
    def condition(self) -> float | None:
        """Condition number of the scaled matrix: exact if dense (2-norm), estimated if sparse (1-norm)."""
        n = len(self.free)
        if not n:
            return None
        if self.dense:
            values = eigvalsh(self._reduced) if self._determined else self._eigen[0]
            good = values[values > SINGULAR * values[-1]]
            return float(values[-1] / good[0])
        factor, size = self._factor, self.excluded.size
        inverse = LinearOperator((size, size), matvec=factor.apply, rmatvec=factor.apply, dtype=float)
        # with t > 1 scipy would start from random columns
        return self._norm * float(onenormest(inverse, t=1, itmax=LOOKS))

    @cached_property
    def _norm(self) -> float:
        """1-norm of the scaled matrix."""
        (own, across), scaling = self.pairs.blocks, self._scaling
        diagonal = np.abs(own) * scaling[:, :, None] * scaling[:, None]
        sums = diagonal.sum(axis=1) + self.prior.reshape(scaling.shape) * scaling**2
        first, second = self.problem.first, self.problem.second
        size = np.abs(across) * scaling[first][:, :, None] * scaling[second][:, None]
        sums += _summed(first, size.sum(axis=2), len(sums)) + _summed(second, size.sum(axis=1), len(sums))
        return float(sums.max())


def blocks_of(problem: Problem, moments: Array) -> Blocks:
    """Return the blocks of B' W B, with the blocks of W being weight times moments.

    Parameters
    ----------
    problem
        The graph, the geometry and the weights are read.
    moments
        (K, k, k) moment matrix of each pair.
    """
    return normal_blocks(problem.geometry, problem.weights[:, None, None] * moments)


def sparse_matrix(problem: Problem, given: Blocks) -> csc_array:
    """Return (N k, N k) the sparse matrix with the given blocks."""
    k, n = problem.k, len(problem.names)
    own, across = given
    blocks = np.concatenate([own, across, across.transpose(0, 2, 1)])
    members = np.arange(n)
    rows = np.concatenate([members, problem.first, problem.second])
    columns = np.concatenate([members, problem.second, problem.first])
    inner = np.arange(k)
    row = np.broadcast_to(rows[:, None, None] * k + inner[:, None], blocks.shape)
    column = np.broadcast_to(columns[:, None, None] * k + inner, blocks.shape)
    return csc_array(coo_array((blocks.ravel(), (row.ravel(), column.ravel())), shape=(n * k, n * k)))


def right_hand_side(problem: Problem, residuals: Array, moments: Array) -> Array:
    """Return (N k,) B' W residuals: the right-hand side, or minus half the gradient of the objective."""
    total = np.zeros((len(problem.names), problem.k))
    to_members(problem.geometry, problem.weights[:, None] * np.einsum("kab,kb->ka", moments, residuals), total)
    return total.ravel()


def _summed(members: NDArray[np.int64], values: Array, n: int) -> Array:
    """Return (n, k) the sums of values (K, k) over the entries of each member."""
    return np.stack([np.bincount(members, weights=column, minlength=n) for column in values.T], axis=1)
