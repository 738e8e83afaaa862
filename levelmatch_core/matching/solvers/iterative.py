"""The step's own method: Montage-like half steps, each member moving by half of the mean of its pairs' differences.

All members move together in a sweep, each by half of the correction that would bring its own differences to 0 in the
weighted mean (levels), or by half of the plane fitted to them at `n_draws` points of each overlap (planes, which start
from the solved levels). Half, because two neighbours that each made up the whole difference would swap it for ever. The
method is kept for comparison: information travels one pair a sweep, so that a strip of N members needs of the order of
N^2 sweeps where least squares needs one.

Converged means near the answer, not slow: the distance left is estimated as the last step's size over (1 - rate), the
rate being how much a sweep shrinks the steps, and must be within the tolerances.
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
"""Most steps that are kept: every one up to this many, else evenly spaced ones, the first and the last among them."""
CHECK = 20
"""Sweeps between two looks at the convergence."""
ROUNDING = 64 * np.finfo(float).eps
"""Steps below this fraction of the corrections are rounding, and go on for ever."""
DENSE_SIZE = 256
"""Below this size a dense product is faster than a sparse one."""


@dataclass(frozen=True)
class _Sweeps:
    corrections: Array
    steps: Array
    converged: bool
    left: float


def solve(problem: Problem, settings: MatchSettings) -> Answer:
    """Sweep until the corrections have settled: the levels first and then, from there, the planes.

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
        converged = swept.converged  # of the last stage: planes mend what the levels could not
        if not swept.converged and coefficient == stages[-1][0]:
            notes.append(
                f"not converged after {len(swept.steps)} sweeps ({coefficient}): about {swept.left:.2g} is left to go; "
                "raise n_iter, or take solver 'least_squares', which is exact"
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
    """Sweep from `start` (N, k); p <- p + D^-1 (b - A p) / 2, with D the members' own blocks of A."""
    n, k = len(problem.names), problem.k
    blocks = blocks_of(problem, moments)
    matrix = sparse_matrix(problem, blocks)
    # A single held member is a matter of gauge: all move, and its plane is taken out of all in the end.
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
    """Estimate how far the answer is: the sum of the steps to come, if they go on shrinking as they do."""
    if size <= ROUNDING * whole:
        return size
    if before is None:
        return np.inf
    rate = (size / before) ** (1 / CHECK)
    return size * rate / (1 - rate) if rate < 1 else np.inf


def _level_part(problem: Problem) -> Problem:
    """Return the same problem for the levels alone."""
    return replace(problem, delta=problem.delta[:, :1].copy(), moments=problem.moments[:, :1, :1].copy())


def _drawn_moments(problem: Problem, settings: MatchSettings) -> Array:
    """Draw `n_draws` points from each overlap and return (K, 3, 3) the mean of [1, x, y] outer itself over them.

    The points are uniform in the rectangle along the overlap's principal axes that has the overlap's own second
    moments; a plane's value at them is known, so that their moments are all that the sweeps need.
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
