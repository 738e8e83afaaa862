"""How well a solution foretells a pair that it has not seen: what settings are ranked by, and fit types chosen by.

A residual alone rewards a solve that follows its data too closely. What all other pairs foretell of a pair's difference
comes with each solution (:mod:`levelmatch_core.matching.uncertainty.leave_one_out`).

Level or plane? Both are asked to foretell the plane that was measured in each left-out pair. Levels foretell no slope,
and are punished where there is one; planes follow the noise, and are punished where there is none. A pair's failure is
ln(1 + chi2/3), minus the log likelihood of Student's distribution but for a constant: one wild pair does not decide.
chi2 holds the pair's echo: exposures on top of each other share their noise, which planes would foretell as if it were
a gradient. A pair that one of the two left out and the other used is one that it did not see, and counts.

The fewer others there are, the less do they foretell: planes that hang on a corner of a square are wide of a side that
is left out, though with it they would be right. So a pair's chi2 is a mean of two: that of its left-out difference,
which counts by what the others tell of it (the `redundancy` of planes), and that of what the solve leaves, the pair's
`fit_optimism` added (Efron's covariance penalty). A bridge is foretold by nothing; planes follow it, noise and all, so
that their failure is that of noise, and that of levels is the slope that it has.

Levels are taken where they are better by one standard error. Otherwise planes are: with slopes held back by what the
pairs tell of their width they are hardly less accurate where there are none, and levels are far less where there are.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from levelmatch_core.matching.results import Choice, PairFit, Solution, plane_rms
from levelmatch_core.sky.plane import Plane

ROUNDING = 1e-9
"""A noise-free difference is known to this part of itself."""


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

    Parameters
    ----------
    solutions
        Of any groups and stages; each of their used pairs counts once.
    """
    used = [pair for solution in solutions for pair in solution.pairs if pair.rejected is None]
    squares = [
        plane_rms(pair.fit, pair.fit.plane + -pair.predicted) ** 2 for pair in used if pair.predicted is not None
    ]
    rms = math.sqrt(sum(squares) / len(squares)) if squares else 0.0
    return LeftOut(rms=rms, tested=len(squares), used=len(used))


def choose(levels: Sequence[Solution], planes: Sequence[Solution]) -> Choice:
    """Choose the fit type of a stage from its groups' solutions with either.

    Parameters
    ----------
    levels, planes
        The same groups, solved with levels and with planes.
    """
    one, other = _told(levels), _told(planes)
    seams, losses = [], []
    for key in sorted(one.keys() & other.keys()):
        both = one[key], other[key]
        if not any(told.used for told in both):
            continue
        fit, redundancy = both[1].fit, both[1].redundancy  # the plane that was measured, and how well it is foretold
        losses.append([math.log1p(_failure(fit, told, redundancy) / 3) for told in both])
        predicted = [told.predicted for told in both if told.predicted is not None]
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
class _Told:
    """What a solution says of a pair whose members it relates to each other."""

    fit: PairFit
    used: bool
    found: Plane
    """The difference that it makes of the pair, about the fit's point."""
    predicted: Plane | None
    left_out_optimism: float
    redundancy: float
    fit_optimism: float


def _told(solutions: Iterable[Solution]) -> dict[tuple[str, str, str], _Told]:
    """Return what solutions say of their pairs: of one that a solve did not use, all that it found is foretold."""
    told = {}
    for solution in solutions:
        members = {member.name: member for member in solution.members}
        for pair in solution.pairs:
            fit, used = pair.fit, pair.rejected is None
            first, second = members[fit.first], members[fit.second]
            if first.component != second.component:
                continue
            x0, y0 = fit.plane.x0, fit.plane.y0
            found = second.plane.about(x0, y0) + -first.plane.about(x0, y0)
            told[solution.group, fit.first, fit.second] = _Told(
                fit=fit,
                used=used,
                found=found,
                predicted=pair.predicted if used else found,
                left_out_optimism=pair.left_out_optimism,
                redundancy=pair.redundancy if used else 1.0,
                fit_optimism=pair.fit_optimism,
            )
    return told


def _failure(fit: PairFit, told: _Told, redundancy: float) -> float:
    """Return chi2 of a measured plane: of what is foretold of it and of what is found, by how much the others tell."""
    seen = _square(fit, told.found) + told.fit_optimism
    if told.predicted is None:
        return seen
    return redundancy * (_square(fit, told.predicted) + told.left_out_optimism) + (1 - redundancy) * seen


def _square(fit: PairFit, told: Plane) -> float:
    """Return the mean square of what is left of a measured plane over the level's variance."""
    rounding = ROUNDING * (plane_rms(fit, fit.plane) or 1.0)
    return (_unseen(fit, told) / max(fit.stderr, rounding)) ** 2


def _unseen(fit: PairFit, told: Plane) -> float:
    """Return the rms of what is left of a measured plane."""
    return plane_rms(fit, fit.plane + -told.about(fit.plane.x0, fit.plane.y0))
