"""The iterative method of the original step, similar to Montage: damped block Jacobi iteration with half steps.

In each sweep all members move at the same time, by half of the correction that would bring the weighted mean of their
own differences to 0 (levels), or by half of the plane fitted to these differences at `n_draws` points of each overlap
(planes, which start from the solution for the levels). Half steps are needed because two neighbours that each corrected
the whole difference would exchange it forever. The method is kept for comparison: information travels by one pair per
sweep, so that a strip of N members needs of the order of N^2 sweeps, where least squares needs a single solve.

Convergence means that the solution is close, not that the steps are small: the remaining distance is estimated as
size * rate / (1 - rate), with the size of the last step and the rate at which the steps shrink per sweep, and must be
within the tolerances.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_array

from levelmatch_core.matching.linear.answer import Answer
from levelmatch_core.matching.linear.normal_equations import NormalEquations, blocks_of, right_hand_side, sparse_matrix
from levelmatch_core.matching.model.problem import Array, Problem
from levelmatch_core.matching.results import Convergence
from levelmatch_core.matching.uncertainty.pair_noise import block_diagonal
from levelmatch_core.settings import MatchSettings

HISTORY = 500
"""Largest number of steps that are recorded: all of them, or evenly spaced ones including the first and the last."""
CHECK = 20
"""Number of sweeps between two tests of convergence."""
ROUNDING = 64 * np.finfo(float).eps
"""Steps below this fraction of the corrections are rounding errors, and do not shrink further."""
DENSE_SIZE = 256
"""Up to this size a dense product is faster than a sparse one."""


@dataclass(frozen=True)
class _Sweeps:
    corrections: Array
    steps: Array
    converged: bool
    left: float


def solve(problem: Problem, settings: MatchSettings) -> Answer:
    """Iterate until the corrections have converged: first the levels and then, starting from these, the planes.

    Parameters
    ----------
    problem
        The component.
    settings
        `n_draws`, `seed`, `n_iter`, `convergence_abs_tol` (data unit) and `convergence_rel_tol` (of the largest
        correction) are read.
    """
    levels = np.ones((len(problem.delta), 1, 1))
    flat = _level_part(problem)
    stages = [("level", flat, levels)]
    if problem.k == 3:
        stages.append(("plane", problem, _drawn_moments(problem, settings)))
    corrections = np.zeros((len(problem.names), problem.k))
    history, notes, total, converged = [], [], 0, True
    for coefficient, part, moments in stages:
        swept = _sweep(part, moments, corrections[:, : part.k], settings)
        corrections[:, : part.k] = swept.corrections
        history.append(Convergence(coefficient=coefficient, steps=_thinned(swept.steps)))
        total += len(swept.steps)
        converged = swept.converged  # of the last stage: planes may converge where the levels did not
        if not swept.converged and coefficient == stages[-1][0]:
            notes.append(
                f"not converged after {len(swept.steps)} sweeps ({coefficient}): about {swept.left:.2g} away from the "
                "solution; raise n_iter, or use the solver 'least_squares', which is exact"
            )
    equations = NormalEquations(problem)
    return Answer(
        corrections=problem.to_gauge(corrections),
        converged=converged,
        iterations=total,
        rank=equations.rank,
        condition=equations.condition,
        history=tuple(history),
        notes=tuple(notes),
    )


def _sweep(problem: Problem, moments: Array, start: Array, settings: MatchSettings) -> _Sweeps:
    """Iterate from `start` (N, k): c <- c + D^-1 (b - A c) / 2, where D holds the diagonal blocks of A."""
    n, k = len(problem.names), problem.k
    blocks = blocks_of(problem, moments)
    matrix = sparse_matrix(problem, blocks)
    # A single fixed member is only a choice of gauge: all members move, and its plane is subtracted afterwards.
    moving = ~problem.fixed if problem.fixed.sum() > 1 else np.ones(n, dtype=bool)
    half = block_diagonal(0.5 * moving[:, None, None] * np.linalg.pinv(blocks[0], hermitian=True))
    constant = half @ right_hand_side(problem, problem.delta, moments)
    change = csr_array(half @ matrix)
    product = change.toarray() if n * k <= DENSE_SIZE else change
    here = start.ravel().copy()
    steps = np.empty(settings.n_iter)
    converged, left, done = False, np.inf, 0
    before: float | None = None
    for done in range(1, settings.n_iter + 1):
        step = constant - product @ here
        here += step
        steps[done - 1] = np.abs(step).max()
        if done % CHECK == 0 or done == settings.n_iter:
            size = float(np.sqrt(step @ step))
            allowed = max(settings.convergence_abs_tol, settings.convergence_rel_tol * float(np.ptp(here)))
            left = _distance_left(size, before, float(np.sqrt(here @ here)))
            before = size
            if left <= allowed:
                converged = True
                break
    result = here.reshape(n, k)
    if problem.fixed.sum() == 1:
        result = result - problem.plane_of(int(np.argmax(problem.fixed)), result)
    return _Sweeps(result, steps[:done].copy(), converged, left)


def _distance_left(size: float, before: float | None, whole: float) -> float:
    """Estimate the distance to the solution: the sum of all further steps, if they keep shrinking at the same rate."""
    if size <= ROUNDING * whole:
        return size
    if before is None:
        return np.inf
    rate = (size / before) ** (1 / CHECK)
    return size * rate / (1 - rate) if rate < 1 else np.inf


def _level_part(problem: Problem) -> Problem:
    """Return the same problem for the levels only."""
    delta, moments = problem.delta[:, :1].copy(), problem.moments[:, :1, :1].copy()
    return replace(problem, delta=delta, moments=moments, level_reference=None, plane_reference=None)


def _drawn_moments(problem: Problem, settings: MatchSettings) -> Array:
    """Draw `n_draws` points in each overlap and return (K, 3, 3) the mean outer product of [1, x, y] over them.

    The points are distributed uniformly in the rectangle, along the overlap's principal axes, that has the second
    moments of the overlap. Since a plane is known at every point, the sweeps only need the moments of the points.
    """
    rng = np.random.default_rng(settings.seed)
    second = problem.moments[:, 1:, 1:]
    values, vectors = np.linalg.eigh(second)
    half_sides = np.sqrt(3 * np.maximum(values, 0.0))
    unit = rng.uniform(-1.0, 1.0, (len(values), settings.n_draws, 2))
    points = np.einsum("kab,kqb->kqa", vectors, unit * half_sides[:, None, :])
    basis = np.concatenate([np.ones((*points.shape[:2], 1)), points], axis=2)
    return np.einsum("kqa,kqb->kab", basis, basis) / settings.n_draws


def _thinned(steps: Array) -> tuple[float, ...]:
    if len(steps) > HISTORY:
        steps = steps[np.linspace(0, len(steps) - 1, HISTORY).round().astype(int)]
    return tuple(steps.tolist())
