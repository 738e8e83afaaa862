"""Would other settings serve a stage better? Each alternative is judged by how well it predicts left-out pairs.

For each pair that both solutions test, the level of its difference is predicted from all other pairs, with the settings
as they are and with the alternative. (Planes are also judged by the levels that they predict: apparent slopes of pairs
are no reason for planes unless these predict the levels better.) L is half the logarithm of the ratio of the sums of
squared errors, with the alternative over without it, and is negative if the alternative is better. Since pairs share
members, the error of L is estimated by a jackknife over members, each left out with all its pairs (Snijders and
Borgatti 1999, Connections 22, 61), with the ordinary factor (n - 1) / n, which is the more cautious one.

A bias that all pairs of a member share is predicted as well: no alternative is found better because it has less bias.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field as Described
from scipy.special import fdtrc

from levelmatch_core.matching.graph import components
from levelmatch_core.matching.results import Member, PairFit, Solution
from levelmatch_core.records import Record
from levelmatch_core.sky.plane import Plane

Array = NDArray[np.float64]
Key = tuple[str, str, str]
"""Group, first, second."""

FEWEST = 4
"""Smallest number of pairs, and of members, that both solutions must test."""
CLEAR = 2.0
"""An alternative is better if L is below 0 by this many standard errors ..."""
WORTH = 0.1
"""... and by at least this much (10 %)."""
BY_CHANCE, MOSTLY = 1e-4, 0.3
"""Slopes are fixed to the detector if that would happen by chance less often than this, and if it explains at least
this fraction of their chi2."""
SAME_ROLL = math.radians(2.0)
"""Detectors rotated by less than this relative to each other have the same axes."""
NOISIER, FARTHER = 3.0, 10.0
"""A member is named if its noise is this many times the median, or its level this many robust sigmas from it."""
SLOPE_SHOWN = 5.0
"""A slope is named beyond this many of its sigmas."""
NAMED = 3
"""Largest number of members named in a remark."""
ROBUST = 1.4826
"""Standard deviation of normal noise in units of its median absolute deviation."""


class Trial(Record):
    """One alternative and its result."""

    name: str = Described(description="the change, in words")
    setting: str = Described(default="", description="the same as NAME=VALUE; '' if it is not a setting")
    pairs: int = Described(description="number of pairs that are predicted with both")
    now: float = Described(description="rms prediction error with the settings as they are, data unit")
    then: float = Described(description="the same with the alternative")
    change: float = Described(description="ln(then / now), negative if the alternative is better")
    error: float = Described(description="1 sigma of `change`, by a jackknife over members")

    @property
    def is_better(self) -> bool:
        """Whether the alternative is significantly better, and by enough to be worth while."""
        return self.change < -max(WORTH, CLEAR * self.error)

    @property
    def words(self) -> str:
        """The result as a sentence, without the full stop."""
        what = f"left-out pairs are predicted to {self.then:.3g} instead of {self.now:.3g}"
        percent = f"{100 * math.expm1(self.change):+.0f} +- {100 * math.exp(self.change) * self.error:.0f} %"
        return f"{self.name}: {what} ({percent}, {self.pairs} pairs)"


class Advice(Record):
    """The alternatives tried for a stage whose result is not good, and further remarks."""

    field: str
    stage: str
    trials: tuple[Trial, ...] = ()
    remarks: tuple[str, ...] = Described(default=(), description="what no setting solves, and members that stand out")
    detector: bool = Described(default=False, description="whether slopes of pairs repeat in detector coordinates")

    @property
    def better(self) -> tuple[Trial, ...]:
        """The recommended alternatives, best first; never planes if slopes are fixed to the detector."""
        found = [one for one in self.trials if one.is_better and not (self.detector and "level+slope" in one.setting)]
        return tuple(sorted(found, key=lambda one: one.change))


Predictions = dict[Key, tuple[PairFit, Plane]]


def predictions_of(solutions: Iterable[Solution]) -> Predictions:
    """Return, for each used pair that others predict, its fit and the predicted difference."""
    return {
        (solution.group, pair.fit.first, pair.fit.second): (pair.fit, pair.predicted)
        for solution in solutions
        for pair in solution.pairs
        if pair.rejected is None and pair.predicted is not None
    }


def compare(name: str, setting: str, now: Predictions, then: Predictions) -> Trial | None:
    """Return how well an alternative predicts left-out pairs; None if there are too few pairs.

    Parameters
    ----------
    name, setting
        The change.
    now, then
        The predictions with the settings as they are, and with the alternative.
    """
    keys = sorted(now.keys() & then.keys())
    members = sorted({(group, one) for group, *both in keys for one in both})
    if len(keys) < FEWEST or len(members) < FEWEST:
        return None
    squares = np.array([[_square(*side[key]) for side in (now, then)] for key in keys])
    if not (squares.sum(axis=0) > 0).all():
        return None
    change = _half_log_ratio(squares)
    left = []
    for group, one in members:
        others = np.array([not (key[0] == group and one in key[1:]) for key in keys])
        if (squares[others].sum(axis=0) > 0).all():
            left.append(_half_log_ratio(squares[others]))
    count = len(left)
    if count < FEWEST:
        return None
    error = math.sqrt((count - 1) / count * float(np.sum((np.array(left) - np.mean(left)) ** 2)))
    rms = np.sqrt(squares.mean(axis=0))
    return Trial(
        name=name,
        setting=setting,
        pairs=len(keys),
        now=float(rms[0]),
        then=float(rms[1]),
        change=change,
        error=error,
    )


def _square(fit: PairFit, predicted: Plane) -> float:
    return (fit.plane.level - predicted.about(fit.plane.x0, fit.plane.y0).level) ** 2


def _half_log_ratio(squares: Array) -> float:
    now, then = squares.sum(axis=0)
    return 0.5 * math.log(then / now)


def worst_pair(solutions: Iterable[Solution]) -> Key | None:
    """Return the used pair with the largest residual in units of its sigma; None if no pair is tested."""
    sizes = {
        (solution.group, pair.fit.first, pair.fit.second): abs(pair.residual) / pair.sigma
        for solution in solutions
        for pair in solution.pairs
        if pair.rejected is None and pair.sigma
    }
    return max(sorted(sizes), key=lambda key: sizes[key], default=None)


class DetectorPattern(Record):
    """How well the slopes of pairs are explained by a pattern fixed to the detector, the same in all exposures."""

    explained: float = Described(description="fraction of their chi2 that the pattern explains")
    chance: float = Described(description="probability of explaining as much by chance")
    one_roll: bool = Described(description="whether all detectors have the same orientation on the sky")

    @property
    def shows(self) -> bool:
        """Whether there is such a pattern."""
        return self.chance < BY_CHANCE and self.explained > MOSTLY


def detector_pattern(fits: Iterable[PairFit], members: Mapping[str, Member]) -> DetectorPattern | None:
    """Test whether the slopes of pairs come from a pattern that is fixed to the detector.

    In detector axes, a pattern D(u) common to all exposures, expanded to second order with the matrix C of its second
    derivatives, gives a pair the slopes C (u_first - u_second), where u are the centres of the exposures: they are
    proportional to the dither. Tilts that differ from exposure to exposure are not. The gradient of D gives a level
    that is proportional to the dither, which cannot be distinguished from a ramp of the levels.

    Parameters
    ----------
    fits
        Fitted planes of the pairs.
    members
        The members, by name.
    """
    rows, values, used = [], [], []
    angles = {member.cutout.axis_angle for member in members.values()}
    for fit in fits:
        first, second = members[fit.first].cutout, members[fit.second].cutout
        turn = abs(math.remainder(first.axis_angle - second.axis_angle, 2 * math.pi))
        moments = np.array(fit.moments).reshape(3, 3)[1:, 1:]
        if turn > SAME_ROLL or fit.stderr <= 0 or np.linalg.cond(moments) > 1e8:
            continue
        cosine, sine = math.cos(first.axis_angle), math.sin(first.axis_angle)
        axes = np.array([[cosine, sine], [-sine, cosine]])
        slope = axes @ np.array([fit.plane.slope_x, fit.plane.slope_y])
        u, v = axes @ np.subtract(first.centre, second.centre)
        # whitened: the covariance of the slopes is stderr^2 n M^-1
        root = np.linalg.cholesky(axes @ moments @ axes.T / (fit.n_used * fit.stderr**2)).T
        rows.append(root @ np.array([[u, v, 0.0], [0.0, u, v]]))
        values.append(root @ slope)
        used.append((fit.first, fit.second))
    # pairs share the tilts of their members: no more slopes are independent than there are tilts that differences see
    parts = components({name for pair in used for name in pair}, used)
    freedom = 2 * sum(len(part) - 1 for part in parts) - 3
    if freedom < FEWEST:
        return None
    design, slopes = np.concatenate(rows), np.concatenate(values)
    fitted = design @ np.linalg.lstsq(design, slopes, rcond=None)[0]
    total, left = float(slopes @ slopes), float((slopes - fitted) @ (slopes - fitted))
    if left <= 0 or total <= 0:
        return None
    chance = float(fdtrc(3, freedom, (total - left) / 3 / (left / freedom)))
    spread = max(abs(math.remainder(one - two, 2 * math.pi)) for one in angles for two in (min(angles), max(angles)))
    return DetectorPattern(explained=1 - left / total, chance=chance, one_roll=spread <= SAME_ROLL)


# -- remarks ----------------------------------------------------------------------------------------------------------
def detector_remark(pattern: DetectorPattern | None) -> str:
    """Return the remark on a pattern fixed to the detector; '' if there is none."""
    if pattern is None or not pattern.shows:
        return ""
    roll = (
        "; all exposures have one roll angle, so that a gradient of the detector cannot be told from a ramp of the "
        "whole mosaic: exposures turned against these would tell them apart"
        if pattern.one_roll
        else ""
    )
    return (
        f"fixed to the detector: {pattern.explained:.0%} of what slopes the pairs show repeat in detector coordinates "
        f"(flat field, glow, scattered light); no level or plane of single exposures mends that, planes follow it{roll}"
    )


def noise_remarks(solutions: Iterable[Solution], unit: str) -> list[str]:
    """Return remarks on members that are far noisier than the others, or have a very different level."""
    noise: dict[str, float] = {}
    levels: dict[str, float] = {}
    for solution in solutions:
        levels |= {member.name: member.plane.level for member in solution.members}
        for pair in solution.pairs:
            for name in (pair.fit.first, pair.fit.second):
                noise[name] = min(noise.get(name, math.inf), pair.fit.rms)
    typical = float(np.median(list(noise.values()))) if noise else 0.0
    found = [
        f"{name} is {noise[name] / typical:.2g} times as noisy as the others"
        for name in _largest(noise, lambda value: typical > 0 and value > NOISIER * typical)
    ]
    if len(levels) > FEWEST:
        middle = float(np.median(list(levels.values())))
        off = {name: abs(level - middle) for name, level in levels.items()}
        spread = ROBUST * float(np.median(list(off.values())))
        found += [
            f"the level of {name} is {off[name]:.3g} {unit} from the middle of all, {off[name] / spread:.2g} times "
            "their scatter"
            for name in _largest(off, lambda value: spread > 0 and value > FARTHER * spread)
        ]
    return found


def slope_remarks(planes: Iterable[Solution], members: Mapping[str, Member], unit: str) -> list[str]:
    """Return a remark on the members with significant slopes, from centre to edge, with their sigma."""
    size: dict[str, float] = {}
    words: dict[str, str] = {}
    for solution in planes:
        for one in solution.members:
            rows, columns = members[one.name].cutout.shape
            parts = []
            for slope, sigma, half in (
                (one.plane.slope_x, one.sigma[1], columns / 2),
                (one.plane.slope_y, one.sigma[2], rows / 2),
            ):
                if sigma > 0:
                    size[one.name] = max(size.get(one.name, 0.0), abs(slope) / sigma)
                parts.append(f"{slope * half:.3g} +- {sigma * half:.2g}")
            words[one.name] = " and ".join(parts)
    shown = _largest(size, lambda value: value > SLOPE_SHOWN)
    named = "; ".join(f"{name} {words[name]} {unit}" for name in shown)
    count = sum(value > SLOPE_SHOWN for value in size.values())
    lead = f"pairs show slopes of {count} of {len(size)} members beyond {SLOPE_SHOWN:g} sigma, from middle to edge"
    return [f"{lead}: {named}"] if shown else []


def _largest(values: Mapping[str, float], wanted: Callable[[float], bool]) -> Sequence[str]:
    found = [name for name, value in values.items() if wanted(value)]
    return sorted(found, key=lambda name: (-values[name], name))[:NAMED]
