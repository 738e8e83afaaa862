"""Slopes that show in the differences of pairs of which only levels are fitted: what they say of the levels.

Two exposures with planes s_1 and s_2 differ in their overlap by a plane s_2 - s_1 as well. Their levels apply at their
own centres, the distances d_1 and d_2 away from it, so that the difference of the levels is off by s_2 d_2 - s_1 d_1.
What can be seen is s_2 - s_1, and for slopes that have nothing to do with each other, the sum is independent of the
difference, and as large. A pair with two equal slopes shows none, and is as wrong as the others: therefore the pairs of
a group share one variance of slopes if most exposures are tilted, as at least half of the pairs of each show. If a few
are, the pairs of these have their own. Blocks that follow a plane with something else besides, such as a part of a
nebula, say nothing about what lies beyond the overlap: it counts there alone.
"""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from levelmatch_core.matching.measure.block_kernels import BlockFindings
from levelmatch_core.matching.results import PairFit

SIGNIFICANT = 12.0
"""F statistic of the plane above which blocks follow it: with 50 blocks, a probability of 5e-5."""
NOISE, REST = 2.0, 0.1
"""The blocks show a plane and nothing else if what it leaves of their variance is no more than this many times that of
pixel noise, or this part of the plane's."""


class Tilt(NamedTuple):
    """The plane that the means of blocks follow."""

    mean_square: float = 0.0
    """Of its values over the overlap, data unit squared; 0 if the blocks do not follow it."""
    slopes: tuple[float, float] = (0.0, 0.0)
    """Data unit a pixel along x and y; 0 as above, and where there is something else besides."""


NOT_TILTED = Tilt()


def tilted(blocks: BlockFindings, noise: float) -> Tilt:
    """Return the plane that the means of blocks follow.

    Parameters
    ----------
    blocks
        More than three.
    noise
        Variance of a pixel as the mean of many has it, data unit squared.
    """
    free, explained, left = blocks.number - 3, blocks.explained, blocks.left
    if 0.5 * explained <= SIGNIFICANT * left / free:
        return NOT_TILTED
    alone = left <= max(NOISE * noise * free, REST * explained)
    return Tilt(explained / blocks.weight, (blocks.slope_x, blocks.slope_y) if alone else (0.0, 0.0))


def reach(middle: tuple[float, float], centres: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the sums along x and y of the squared distances of centres from the middle of an overlap."""
    far_x, far_y = (sum((centre[axis] - middle[axis]) ** 2 for centre in centres) for axis in (0, 1))
    return far_x, far_y


def with_tilts(fits: Sequence[PairFit]) -> list[PairFit]:
    """Return the pairs of a group with the errors of their levels that the slopes of all of them make probable.

    Parameters
    ----------
    fits
        All pairs of the group. Those that cannot tell have what the others show.
    """
    told = {(fit.first, fit.second): fit.tilt for fit in fits if fit.tilt is not None}
    if not any(map(any, told.values())):
        return list(fits)
    shown: dict[str, list[bool]] = {}
    for pair, tilt in told.items():
        for name in pair:
            shown.setdefault(name, []).append(any(tilt))
    tilted_members = sum(2 * sum(each) >= len(each) for each in shown.values())
    # the mean square of both slopes along one axis, and half of it for one of two members
    typical = fmean(x**2 + y**2 for x, y in told.values()) / 4.0 if 2 * tilted_members > len(shown) else None
    return [_with_error(fit, typical) for fit in fits]


def _with_error(fit: PairFit, typical: float | None) -> PairFit:
    slope_x, slope_y = fit.tilt or (0.0, 0.0)
    far_x, far_y = fit.reach
    own = 0.5 * (slope_x**2 * far_x + slope_y**2 * far_y)
    variance = own if typical is None else typical * (far_x + far_y)
    return fit.model_copy(update={"structure": math.sqrt(fit.structure**2 + variance), "tilt": None})
