"""Cross-validation: how well solutions predict left-out pairs, to rank settings and to choose fit types.

Residuals alone would favour solutions that follow their data too closely. The prediction of each pair from all others
comes with every solution (:mod:`levelmatch_core.matching.uncertainty.leave_one_out`).

For the choice between levels and planes, both predict the measured plane of each left-out pair. Levels predict no
slope, and are penalised where there is one; planes follow the noise, and are penalised where there is no slope. The
loss of a pair is ln(1 + chi2/3), up to a constant minus the log likelihood of a Student distribution, so that a single
wild pair is not decisive. chi2 includes the leave-one-out optimism: exposures on top of each other share their noise,
which planes would predict as if it were a gradient. A pair that only one of the two solutions used counts as left out
for the other.

The fewer other pairs there are, the worse they predict: planes that are only constrained at a corner of a square miss a
side that is left out, although they would be correct with it. The chi2 of a pair is therefore a weighted mean of two:
that of its leave-one-out residual, with the `redundancy` of planes as its weight, and that of its residual in the fit,
plus the pair's `fit_optimism` (covariance penalty: Efron 2004, J. Am. Stat. Assoc. 99, 619). A bridge is not predicted
by any other pair. Planes follow it, including its noise, so that their loss is that of noise, while that of levels is
due to its slope.

Levels are chosen if they are better by one standard error, and planes otherwise: since their slopes have a prior whose
width is learned from the pairs, planes are hardly less accurate where there are no slopes, whereas levels are far less
accurate where there are.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from levelmatch_core.matching.model.pair_arrays import PairArrays
from levelmatch_core.matching.results import Choice, Member, PairFit, Solution, plane_rms
from levelmatch_core.matching.status import Pairs, left_of
from levelmatch_core.sky.plane import Plane

NO_MEMBERS: Mapping[str, Sequence[Member]] = MappingProxyType({})
ROUNDING = 1e-9
"""Relative accuracy of a noise-free difference."""


@dataclass(frozen=True)
class LeftOut:
    """Pooled leave-one-out residuals of pairs, the seams."""

    rms: float
    """Root mean square over the tested pairs of the seam's rms in its overlap, data unit; 0 if none is tested."""
    tested: int
    """Number of used pairs that are predicted by others."""
    used: int
    """Number of used pairs: the tested ones and the bridges."""


def leave_one_pair_out(solutions: Iterable[Solution]) -> LeftOut:
    """Return the leave-one-out residuals of solutions.

    Parameters
    ----------
    solutions
        Solutions of any groups and stages; each of their used pairs counts once.
    """
    used = [pair for solution in solutions for pair in solution.pairs if pair.rejected is None]
    squares = [
        plane_rms(pair.fit, pair.fit.plane + -pair.predicted) ** 2 for pair in used if pair.predicted is not None
    ]
    rms = math.sqrt(sum(squares) / len(squares)) if squares else 0.0
    return LeftOut(rms=rms, tested=len(squares), used=len(used))


def choose(
    levels: Sequence[Solution], planes: Sequence[Solution], members: Mapping[str, Sequence[Member]] = NO_MEMBERS
) -> Choice:
    """Choose the fit type of a stage from the solutions of its groups with both types.

    Parameters
    ----------
    levels, planes
        The same groups, solved with levels and with planes.
    members
        The members of each group, if they may be on several grids.
    """
    with_levels, with_planes = _evidence(levels, members), _evidence(planes, members)
    seams, losses = [], []
    for key in sorted(with_levels.keys() & with_planes.keys()):
        both = with_levels[key], with_planes[key]
        if not any(one.used for one in both):
            continue
        fit, redundancy = both[1].fit, both[1].redundancy  # the measured plane, and how well it is predicted
        losses.append([math.log1p(_failure(fit, one, redundancy) / 3) for one in both])
        predicted = [one.predicted for one in both if one.predicted is not None]
        if len(predicted) == len(both):
            seams.append([_unseen(fit, plane) for plane in predicted])
    if not losses:
        reason = "levels: no pair is measured, so that nothing speaks for planes"
        return Choice(chosen="level", tested=0, level_seam=0, plane_seam=0, gain=0, gain_error=0, reason=reason)
    level_seam, plane_seam = np.sqrt(np.mean(np.square(seams), axis=0)).tolist() if seams else (0, 0)
    gains = -np.diff(losses, axis=1)
    gain, error = float(gains.mean()), float(gains.std(ddof=1) / math.sqrt(len(gains))) if len(gains) > 1 else 0.0
    choice = Choice(
        chosen="level+slope" if gain > -error else "level",
        tested=len(seams),
        bridges=len(losses) - len(seams),
        level_seam=level_seam,
        plane_seam=plane_seam,
        gain=gain,
        gain_error=error,
        reason="",
    )
    return choice.model_copy(update={"reason": _reason(choice)})


def _reason(choice: Choice) -> str:
    evidence = []
    if choice.tested:
        seams = f"seams of {choice.level_seam:.3g} rms with levels, {choice.plane_seam:.3g} with planes"
        evidence.append(f"{choice.tested} left-out pairs have {seams}")
    if choice.bridges:
        evidence.append(f"pairs that nothing else tests, judged by their slopes: {choice.bridges}")
    error = f" +- {choice.gain_error:.2g}" if choice.gain_error else ""
    evidence.append(f"mean gain of planes in ln(1 + chi2/3) {choice.gain:.3g}{error}")
    undecided = choice.chosen == "level+slope" and choice.gain <= 0
    lead = "levels" if choice.chosen == "level" else "planes"
    return f"{lead}{' (levels are not better by a standard error)' if undecided else ''}: {'; '.join(evidence)}"


@dataclass(frozen=True)
class _Evidence:
    """The fitted and predicted difference of a pair whose members are in the same component."""

    fit: PairFit
    used: bool
    found: Plane
    """The difference according to the solution, about the reference point of the fit."""
    predicted: Plane | None
    left_out_optimism: float
    redundancy: float
    fit_optimism: float


def _evidence(
    solutions: Iterable[Solution], every: Mapping[str, Sequence[Member]]
) -> dict[tuple[str, str, str], _Evidence]:
    """Return the fitted and predicted differences of pairs; for a pair that was not used, the fit is a prediction."""
    found = {}
    for solution in solutions:
        members = {member.name: member for member in solution.members}
        across = _solved_across_grids(solution, every.get(solution.group, ()))
        for number, pair in enumerate(solution.pairs):
            fit, used = pair.fit, pair.rejected is None
            first, second = members[fit.first], members[fit.second]
            if first.component != second.component:
                continue
            x0, y0 = fit.plane.x0, fit.plane.y0
            solved = across[number] if across else second.plane.about(x0, y0) + -first.plane.about(x0, y0)
            found[solution.group, fit.first, fit.second] = _Evidence(
                fit=fit,
                used=used,
                found=solved,
                predicted=pair.predicted if used else solved,
                left_out_optimism=pair.left_out_optimism,
                redundancy=pair.redundancy if used else 1.0,
                fit_optimism=pair.fit_optimism,
            )
    return found


def _solved_across_grids(solution: Solution, members: Sequence[Member]) -> list[Plane]:
    """Return the differences of pairs according to the solution; nothing if all members are on one grid."""
    if not any(member.grid for member in members):
        return []
    fits = [pair.fit for pair in solution.pairs]
    pairs = Pairs(fits, [(fit.first, fit.second) for fit in fits], PairArrays.of(fits))
    left = left_of(pairs, {one.name: one.plane for one in solution.members}, members)
    return [
        Plane(level=level, slope_x=slope_x, slope_y=slope_y, x0=fit.plane.x0, y0=fit.plane.y0)
        for fit, (level, slope_x, slope_y) in zip(fits, (pairs.arrays.planes - left).tolist(), strict=True)
    ]


def _failure(fit: PairFit, pair: _Evidence, redundancy: float) -> float:
    """Return chi2 of a measured plane: the mean of those of prediction and fit, weighted with the redundancy."""
    seen = _square(fit, pair.found) + pair.fit_optimism
    if pair.predicted is None:
        return seen
    return redundancy * (_square(fit, pair.predicted) + pair.left_out_optimism) + (1 - redundancy) * seen


def _square(fit: PairFit, expected: Plane) -> float:
    """Return the mean square residual of a measured plane in units of the level's variance."""
    rounding = ROUNDING * (plane_rms(fit, fit.plane) or 1.0)
    return (_unseen(fit, expected) / max(fit.stderr, rounding)) ** 2


def _unseen(fit: PairFit, expected: Plane) -> float:
    """Return the rms residual of a measured plane."""
    return plane_rms(fit, fit.plane + -expected.about(fit.plane.x0, fit.plane.y0))
