"""Which members overlap, which of the measured pairs may be used, and the pairs as matrices."""

import math
from collections.abc import Sequence
from itertools import chain

import numpy as np
import shapely
from numpy.typing import NDArray

from levelmatch_core.matching.results import Member, PairFit, Rejection
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.cutouts import CutoutRecord

Pair = tuple[str, str]
"""Names of two members, the first before the second."""

CHANCE = 4.0
"""Standard deviations of an rms, of so many pixels, that chance may explain."""


# -- who overlaps ------------------------------------------------------------------------------------------------------
def outlines(cutouts: Sequence[CutoutRecord]) -> NDArray[np.object_]:
    """Return (N,) the convex hull of each cutout's outline, or its bounding box if it has none; grid pixels."""
    boxes = np.array([(cutout.x0, cutout.y0, *cutout.shape) for cutout in cutouts], dtype=float).reshape(-1, 4)
    x0, y0, ny, nx = boxes.T - 0.5 * np.array([[1], [1], [0], [0]])
    found = np.asarray(shapely.box(x0, y0, x0 + nx, y0 + ny), dtype=object)
    drawn = np.array([i for i, cutout in enumerate(cutouts) if len(cutout.outline) >= 3], dtype=np.int64)
    if len(drawn):
        corners = [cutouts[i].outline for i in drawn.tolist()]
        owner = np.repeat(np.arange(len(drawn)), [len(outline) for outline in corners])
        points = shapely.points(np.array(list(chain.from_iterable(corners)), dtype=float))
        hulls = shapely.convex_hull(shapely.multipoints(points, indices=owner))
        solid = shapely.area(hulls) > 0
        found[drawn[solid]] = hulls[solid]
    return found


def candidate_pairs(members: Sequence[Member]) -> list[Pair]:
    """Return the pairs whose outlines meet, by a spatial index: the time is close to linear in their number.

    Parameters
    ----------
    members
        Members on one grid, with names of their own.

    Returns
    -------
    list of (first, second)
        Sorted; first < second by name. Pixels may still be found not to overlap.
    """
    if len(members) < 2:
        return []
    ordered = sorted(members, key=lambda member: member.name)
    shapes = outlines([member.cutout for member in ordered])
    first, second = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    once = first < second
    first, second = first[once], second[once]
    order = np.lexsort((second, first))
    names = [member.name for member in ordered]
    return [(names[i], names[j]) for i, j in zip(first[order].tolist(), second[order].tolist(), strict=True)]


# -- which may be used ------------------------------------------------------------------------------------------------
def rounding_floor(fits: Sequence[PairFit]) -> float:
    """Return the rms below which scatter is rounding and no noise: noise-free pairs differ by it and nothing else."""
    return float(64 * np.finfo(float).eps * max((abs(fit.plane.level) for fit in fits), default=0.0))


def reject(fits: Sequence[PairFit], settings: MatchSettings) -> dict[Pair, Rejection]:
    """Return the pairs that must not be used, each with its reason.

    Too few pixels: fewer than `min_area_percent` of the mean over all pairs. Too short: on neither detector axis
    `min_linear_frac` of either member's extent. Too noisy: rms above the mean by `rms_sig_limit` standard deviations,
    both taken over the pairs that survive the first two: a sliver's rms says nothing and would widen the limit. With
    fewer than three such pairs, or without spread, nothing is rejected for noise; nor is a pair whose rms is above the
    mean by no more than so few pixels may scatter: of pairs that are all alike a fortieth is beyond two standard
    deviations, and a strip that loses one falls in two.
    """
    rejected: dict[Pair, Rejection] = {}
    if not fits:
        return rejected
    smallest = settings.min_area_percent * float(np.mean([fit.npix for fit in fits]))
    kept: list[PairFit] = []
    for fit in sorted(fits, key=lambda fit: (fit.first, fit.second)):  # sums must not depend on the order
        if fit.npix < smallest:
            rejected[fit.first, fit.second] = Rejection.TOO_FEW_PIXELS
        elif max(fit.linear) < settings.min_linear_frac:
            rejected[fit.first, fit.second] = Rejection.TOO_SHORT
        else:
            kept.append(fit)
    if len(kept) < 3:
        return rejected
    rms = np.maximum([fit.rms for fit in kept], rounding_floor(kept))
    mean, spread = float(np.mean(rms)), float(np.std(rms))
    if spread <= 1e-9 * mean:
        return rejected
    for fit, value in zip(kept, rms.tolist(), strict=True):
        chance = CHANCE * mean * math.sqrt(fit.correlation / (2 * max(1, fit.n_used)))
        if value > mean + max(settings.rms_sig_limit * spread, chance):
            rejected[fit.first, fit.second] = Rejection.TOO_NOISY
    return rejected
