"""How well a solution foretells a pair that it has not seen: what settings are ranked by, and fit types chosen by.

A residual alone rewards a solve that follows its data too closely. What all other pairs foretell of a pair's difference
comes with each solution (:mod:`levelmatch_core.matching.solvers.seams`).

Level or plane? Both are asked to foretell the plane that was measured in each left-out pair. Levels foretell no slope,
and are punished where there is one; planes follow the noise, and are punished where there is none. A pair's failure is
ln(1 + chi2/3), minus the log likelihood of Student's distribution but for a constant: one wild pair does not decide.
Planes must be better by one standard error, else the simpler answer stays (Breiman et al. 1984, Classification and
Regression Trees, section 3.4.3). Of exposures on top of each other all pairs hold the same noise, which planes foretell
as if it were a gradient: they are then often taken where there is none, which costs little (a slope prior holds them).
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
    squares = [plane_rms(pair.fit, pair.fit.plane + -pair.foretold) ** 2 for pair in used if pair.foretold is not None]
    rms = math.sqrt(sum(squares) / len(squares)) if squares else 0.0
    return LeftOut(rms=rms, tested=len(squares), used=len(used))


def choose(levels: Sequence[Solution], planes: Sequence[Solution]) -> Choice:
    """Choose the fit type of a stage from its groups' solutions with either.

    Parameters
    ----------
    levels, planes
        The same groups, solved with levels and with planes.
    """
    one, other = _foretold(levels), _foretold(planes)
    both = sorted(one.keys() & other.keys())
    if not both:
        reason = "levels: no pair is foretold by others, so that nothing speaks for planes"
        return Choice(chosen="level", tested=0, level_seam=0, plane_seam=0, gain=0, gain_error=0, reason=reason)
    seams = np.array(
        [[_seam(other[key][0], told) for told in (one[key][1], other[key][1])] for key in both]
    )  # pairs, fit types, (rms, chi2): both against the plane that was measured
    gains = np.log1p(seams[:, 0, 1] / 3) - np.log1p(seams[:, 1, 1] / 3)
    gain, error = float(gains.mean()), float(gains.std(ddof=1) / math.sqrt(len(gains))) if len(gains) > 1 else math.inf
    level_seam, plane_seam = np.sqrt(np.mean(seams[:, :, 0] ** 2, axis=0)).tolist()
    better = gain > error
    told = f"{len(both)} left-out pairs: seams of {level_seam:.3g} rms with levels, {plane_seam:.3g} with planes"
    why = f"mean gain of planes in ln(1 + chi2/3) {gain:.3g} +- {error:.2g}"
    return Choice(
        chosen="level+slope" if better else "level",
        tested=len(both),
        level_seam=level_seam,
        plane_seam=plane_seam,
        gain=gain,
        gain_error=error if math.isfinite(error) else 0.0,
        reason=f"{'planes' if better else 'levels'} foretell {told}; {why}",
    )


def _foretold(solutions: Iterable[Solution]) -> dict[tuple[str, str, str], tuple[PairFit, Plane]]:
    return {
        (solution.group, pair.fit.first, pair.fit.second): (pair.fit, pair.foretold)
        for solution in solutions
        for pair in solution.pairs
        if pair.foretold is not None
    }


def _seam(fit: PairFit, told: Plane) -> tuple[float, float]:
    """Return the rms of what is left of a measured plane, and the same squared over the level's variance."""
    rms = plane_rms(fit, fit.plane + -told)
    rounding = ROUNDING * (plane_rms(fit, fit.plane) or 1.0)
    return rms, (rms / max(fit.stderr, rounding)) ** 2
