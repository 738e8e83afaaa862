"""The normal equations of a component: assembled from the pairs' blocks, reduced to a gauge, factored, solved.

With B_k = [-T_i, T_j] (T takes a member's coefficients to the pair's centroid) and W_k = weight times moments, the
objective sum (delta_k - B_k p)' W_k (delta_k - B_k p) has the normal matrix A = sum B_k' W_k B_k. Where no member is
held, the differences leave one common plane free; one member is then grounded for the solve and the mean plane is
taken out afterwards, which changes no difference. A slope prior adds 1/sd^2 to each slope's diagonal; it fixes the
common slope itself (the mean slope comes out 0), so that only a level is grounded.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.sparse import coo_array, csc_array, diags_array
from scipy.sparse.linalg import LinearOperator, onenormest, splu

from levelmatch_core.errors import SolveError
from levelmatch_core.matching.kernels import nested_dissection
from levelmatch_core.matching.solvers.problem import Array, Problem

DENSE_UNKNOWNS = 600
"""Most unknowns that are solved densely, with all eigenvalues known."""
LEAF = 8
"""Members that nested dissection leaves in the order in which they come."""
ON_ONE_PLACE = 200
"""Above so many members on one place the matrix alone must tell the order of elimination."""
LOOKS = 2
"""Iterations of the condition's estimate: each is four solves."""
SINGULAR = 1e-13
"""Eigenvalues below this fraction of the largest are taken as 0: a mode that the pairs do not measure."""


@dataclass(frozen=True)
class NormalEquations:
    """The normal matrix of a problem in its gauge."""

    problem: Problem
    slope_sd: float | None = None
    """Standard deviation of the Gaussian prior on each slope, data unit over `problem.scale` pixels; None: no prior."""

    pairs_matrix: csc_array | None = None
    """The pairs' part of the matrix, where it is assembled already."""

    @cached_property
    def matrix(self) -> csc_array:
        """(N k, N k) normal matrix with prior, before the gauge."""
        own = assemble(self.problem, self.problem.moments) if self.pairs_matrix is None else self.pairs_matrix
        return own + diags_array(self.prior, format="csc")

    @cached_property
    def prior(self) -> Array:
        """(N k,) diagonal of the prior's inverse variance."""
        diagonal = np.zeros((len(self.problem.names), self.problem.k))
        if self.slope_sd is not None:
            diagonal[:, 1:] = self.slope_sd**-2.0
        return diagonal.ravel()

    @cached_property
    def free(self) -> NDArray[np.int64]:
        """Unknowns that are solved for: not those of held members, nor those of the grounded one.

        Many are in an order in which the sparse factors stay small.
        """
        problem = self.problem
        fixed = np.repeat(problem.held[:, None], problem.k, axis=1)
        if problem.mean_gauge:
            degree = np.bincount(problem.first, minlength=len(fixed)) + np.bincount(
                problem.second, minlength=len(fixed)
            )
            fixed[int(np.argmax(degree)), : (1 if self.slope_sd is not None else problem.k)] = True
        free = np.flatnonzero(~fixed.ravel())
        if len(free) <= DENSE_UNKNOWNS or self._ordering is None:
            return free
        ordered = (self._ordering[:, None] * problem.k + np.arange(problem.k)).ravel()
        return ordered[~fixed.ravel()[ordered]]

    @cached_property
    def _ordering(self) -> NDArray[np.int64] | None:
        """Members as nested dissection orders them; None where they have no places that it could go by."""
        problem = self.problem
        order, stuck = nested_dissection(problem.centres, problem.first, problem.second, LEAF)
        return order if stuck <= ON_ONE_PLACE else None

    @cached_property
    def _reduced(self) -> tuple[csc_array, Array]:
        """Return the free part of the matrix, scaled to a unit diagonal, and the scaling."""
        part = self.matrix[self.free][:, self.free]
        diagonal = part.diagonal()
        scaling = np.where(diagonal > 0, diagonal, 1.0) ** -0.5
        return csc_array(diags_array(scaling) @ part @ diags_array(scaling)), scaling

    @property
    def dense(self) -> bool:
        """Whether the problem is small enough for dense algebra."""
        return len(self.free) <= DENSE_UNKNOWNS

    @cached_property
    def _eigen(self) -> tuple[Array, Array, NDArray[np.bool_]]:
        values, vectors = eigh(self._reduced[0].toarray())
        return values, vectors, values > SINGULAR * values[-1]

    @cached_property
    def _factor(self) -> object:
        ordering = "MMD_AT_PLUS_A" if self._ordering is None else "NATURAL"
        try:
            return splu(self._reduced[0], permc_spec=ordering, diag_pivot_thresh=0.0, options={"SymmetricMode": True})
        except RuntimeError as error:  # what SuperLU raises for an exactly singular matrix
            message = (
                f"the level problem of {self.problem.names[0]} and {len(self.problem.names) - 1} more members is "
                f"singular ({error}): its overlaps do not determine a plane for each. Use fit type 'level'"
            )
            raise SolveError(message) from error

    @cached_property
    def log_determinant(self) -> float:
        """Logarithm of the determinant of the free part of the matrix, which a prior makes positive definite."""
        part, scaling = self._reduced
        if self.dense:
            value = float(np.linalg.slogdet(part.toarray())[1])
        else:
            value = float(np.sum(np.log(np.abs(self._factor.U.diagonal()))))  # type: ignore[attr-defined]  # SuperLU: no types
        return value - 2 * float(np.sum(np.log(scaling)))

    def apply_inverse(self, right: Array) -> Array:
        """Solve for right-hand sides (N k,) or (N k, M); grounded and held unknowns are 0."""
        _, scaling = self._reduced
        columns = right.reshape(len(right), -1)[self.free] * scaling[:, None]
        if self.dense:
            values, vectors, good = self._eigen
            kept = vectors[:, good]
            solved = kept @ ((kept.T @ columns) / values[good][:, None])
        else:
            solved = self._factor.solve(np.ascontiguousarray(columns))  # type: ignore[attr-defined]  # SuperLU: no types
        result = np.zeros((len(right), columns.shape[1]))
        result[self.free] = solved * scaling[:, None]
        return result.reshape(right.shape)

    @cached_property
    def rank(self) -> int:
        """Unknowns that are determined, the mean gauge's being counted out (see `Problem.unknowns`)."""
        if not len(self.free):
            return 0
        missing = int(np.count_nonzero(~self._eigen[2])) if self.dense else self._missing_sparse()
        return self.problem.unknowns - missing

    @cached_property
    def condition(self) -> float | None:
        """Condition of the scaled matrix: exact where dense (2-norm), estimated where sparse (1-norm)."""
        n = len(self.free)
        if not n:
            return None
        if self.dense:
            values, _, good = self._eigen
            return float(values[-1] / values[good][0])
        factor = self._factor
        inverse = LinearOperator((n, n), matvec=factor.solve, rmatvec=factor.solve, dtype=float)  # type: ignore[attr-defined]  # SuperLU: no types
        return float(onenormest(self._reduced[0]) * onenormest(inverse, itmax=LOOKS))

    def _missing_sparse(self) -> int:
        """Count the pivots that vanish: a lower bound of the missing rank, which the condition estimate completes."""
        if self.problem.k == 1 or self.slope_sd is not None:  # tied by the pairs; by the prior
            return 0
        pivots = np.abs(self._factor.U.diagonal())  # type: ignore[attr-defined]  # SuperLU: no types
        return int(np.count_nonzero(pivots <= SINGULAR * pivots.max()))


def assemble(problem: Problem, moments: Array) -> csc_array:
    """Return (N k, N k) the sum of B' (weight moments) B over the pairs.

    Parameters
    ----------
    problem
        Gives the graph, the geometry and the weights.
    moments
        (K, k, k) moment matrix of each pair.
    """
    k, n = problem.k, len(problem.names)
    left, right = problem.shifts(problem.first), problem.shifts(problem.second)
    weighted = problem.weights[:, None, None] * moments
    from_left, from_right = left.transpose(0, 2, 1) @ weighted, right.transpose(0, 2, 1) @ weighted
    own = _summed(problem.first, from_left @ left, n) + _summed(problem.second, from_right @ right, n)
    across = -from_left @ right
    blocks = np.concatenate([own, across, across.transpose(0, 2, 1)])
    members = np.arange(n)
    rows = np.concatenate([members, problem.first, problem.second])
    columns = np.concatenate([members, problem.second, problem.first])
    inner = np.arange(k)
    row = np.broadcast_to(rows[:, None, None] * k + inner[:, None], blocks.shape)
    column = np.broadcast_to(columns[:, None, None] * k + inner, blocks.shape)
    return csc_array(coo_array((blocks.ravel(), (row.ravel(), column.ravel())), shape=(n * k, n * k)))


def scores(problem: Problem, residuals: Array, moments: Array) -> Array:
    """Return (N k,) the sum of B' (weight moments) residual over the pairs: the objective's downhill gradient."""
    weighted = problem.weights[:, None] * np.einsum("kab,kb->ka", moments, residuals)
    n = len(problem.names)
    there = np.einsum("kba,kb->ka", problem.shifts(problem.second), weighted)
    here = np.einsum("kba,kb->ka", problem.shifts(problem.first), weighted)
    return (_summed(problem.second, there, n) - _summed(problem.first, here, n)).ravel()


def _summed(members: NDArray[np.int64], values: Array, n: int) -> Array:
    """Return (n, ...) the sum of values (K, ...) over each member's entries."""
    flat = values.reshape(len(values), -1)
    columns = [np.bincount(members, weights=column, minlength=n) for column in flat.T]
    return np.stack(columns, axis=1).reshape(n, *values.shape[1:]).astype(float)
