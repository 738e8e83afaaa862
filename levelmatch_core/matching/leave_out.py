"""How well a solution foretells a pair that it has not seen: what settings are ranked by.

A residual alone rewards a solve that follows its data too closely. With a pair left out, the difference between what is
measured in it and what all the others foretell is r / (1 - h), h being its leverage: no solve is needed for it (Cook
and Weisberg 1982, Residuals and Influence in Regression, section 2.2; for planes the same holds with matrices).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array, eye_array
from scipy.sparse.linalg import splu

from levelmatch_core.matching.results import PairResult, Solution
from levelmatch_core.sky.plane import Plane

Array = NDArray[np.float64]

_UNTESTABLE = 1e-6
"""A pair that leaves less than this of itself is held by nothing else: a bridge."""

_RIDGE = 1e-12
"""Relative to the largest diagonal element: keeps what the overlaps do not determine from dividing by zero."""

_AT_ONCE = 256


@dataclass(frozen=True)
class LeftOut:
    """The seams of left-out pairs, pooled."""

    rms: float
    """Root mean square over the tested pairs of the seam's rms in its overlap, data unit; 0 where none is tested."""
    tested: int
    """Used pairs that the others foretell."""
    used: int
    """Used pairs: the tested ones and the bridges."""


def leave_one_pair_out(solutions: Iterable[Solution]) -> LeftOut:
    """Return the seams that solutions leave in pairs that they have not seen.

    It is exact for weighted least squares whose weights do not change when a pair is left out. For the iterative
    solver, and with a prior on slopes, the leverage is that of plain weighted least squares.

    Parameters
    ----------
    solutions
        Of any groups and stages; each of their used pairs counts once.
    """
    squares: list[float] = []
    used = 0
    for solution in solutions:
        pairs = [pair for pair in solution.pairs if pair.rejected is None]
        used += len(pairs)
        squares += [seam for seam in _seams(solution, pairs) if math.isfinite(seam)]
    rms = math.sqrt(sum(squares) / len(squares)) if squares else 0.0
    return LeftOut(rms=rms, tested=len(squares), used=used)


def _seams(solution: Solution, pairs: Sequence[PairResult]) -> list[float]:
    """Return each pair's mean squared seam when it is left out; NaN for a bridge."""
    if not pairs:
        return []
    k = 1 if solution.fit_type == "level" else 3
    planes = {member.name: member.plane for member in solution.members}
    x, y = (np.array([getattr(pair.fit.plane, axis) for pair in pairs]) for axis in ("x0", "y0"))
    centre, scale = (float(x.mean()), float(y.mean())), max(1.0, float(np.hypot(x.std(), y.std())))
    lengths = np.array([1.0, scale, scale])[:k]
    # coefficients about the common centre, slopes over `scale` pixels; a pair looks at them from its centroid
    shifts = np.tile(np.eye(k), (len(pairs), 1, 1))
    if k == 3:
        shifts[:, 0, 1], shifts[:, 0, 2] = (x - centre[0]) / scale, (y - centre[1]) / scale
    moments = np.array([np.reshape(pair.fit.moments, (3, 3))[:k, :k] / pair.fit.n_used for pair in pairs])
    moments /= np.outer(lengths, lengths)
    weights = np.array([pair.weight for pair in pairs])
    weights /= weights.mean()
    left = np.array([_coefficients(pair, planes) for pair in pairs])[:, :k] * lengths
    leverage = _leverages(solution, pairs, shifts, weights[:, None, None] * moments)
    found = []
    for own, difference, matrix in zip(leverage, left, moments, strict=True):
        keeps = np.eye(k) - own
        if float(np.linalg.svd(keeps, compute_uv=False)[-1]) < _UNTESTABLE:
            found.append(math.nan)
            continue
        seam = np.linalg.solve(keeps, difference)
        found.append(float(seam @ matrix @ seam))
    return found


def _coefficients(pair: PairResult, planes: dict[str, Plane]) -> list[float]:
    left = pair.fit.plane + -(planes[pair.fit.second] + -planes[pair.fit.first])
    return [left.level, left.slope_x, left.slope_y]


def _leverages(solution: Solution, pairs: Sequence[PairResult], shifts: Array, weights: Array) -> Array:
    """Return each pair's (k, k) share in what is fitted to it, of weighted least squares over all pairs."""
    k, n = shifts.shape[1], len(pairs)
    held = {component.members[0] for component in solution.components}
    free = [member.name for member in solution.members if member.name not in held]
    place = {name: number for number, name in enumerate(free)}
    rows, columns, values = [], [], []
    for number, pair in enumerate(pairs):
        for name, sign in ((pair.fit.second, 1.0), (pair.fit.first, -1.0)):
            if name in place:
                a, b = np.indices((k, k))
                rows.append((number * k + a).ravel())
                columns.append((place[name] * k + b).ravel())
                values.append(sign * shifts[number].ravel())
    design = csc_array(
        (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=(n * k, len(free) * k)
    )
    index = np.arange(n * k).reshape(n, k)
    weight = csc_array(
        (weights.ravel(), (np.repeat(index, k, axis=1).ravel(), np.tile(index, (1, k)).ravel())), shape=(n * k, n * k)
    )
    normal = design.T @ weight @ design
    ridge = _RIDGE * float(normal.diagonal().max(initial=0.0)) * eye_array(normal.shape[0])
    factor = splu(csc_array(normal + ridge))
    found = np.empty((n, k, k))
    transposed = csc_array(design.T)
    for start in range(0, n, _AT_ONCE):
        stop = min(n, start + _AT_ONCE)
        solved = factor.solve(transposed[:, start * k : stop * k].toarray())
        fitted = np.asarray(design[start * k : stop * k, :] @ solved)
        for number in range(start, stop):
            block = slice((number - start) * k, (number - start + 1) * k)
            found[number] = fitted[block, block] @ weights[number]
    return found
