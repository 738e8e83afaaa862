"""Which members overlap: candidate pairs from the outlines."""

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
import shapely
from numpy.typing import NDArray

from levelmatch_core.matching.results import Member, PairFit, patch_of
from levelmatch_core.sky.cutouts import CutoutRecord

Pair = tuple[str, str]
"""Names of two members, the first before the second."""


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


def pairs_by_patch(members: Sequence[Member]) -> Iterator[tuple[str, list[Member], list[Pair]]]:
    """Yield each patch with its members, as they are seen on it, and the candidate pairs that are measured on it.

    Every pair is measured on one patch only, and both its members have a cutout there. A survey image is a member of
    every patch, and meets those that are at home there.
    """
    by_name = {member.name: member for member in members}
    for patch in sorted({patch for member in members for patch in member.on_patches}):
        here = [member.on(patch) for member in members if patch in member.on_patches]
        pairs = [
            (first, second)
            for first, second in candidate_pairs(here)
            if patch_of(by_name[first], by_name[second]) == patch and _meet(by_name[first], by_name[second])
        ]
        yield patch, here, pairs


def _meet(first: Member, second: Member) -> bool:
    return first.patch == second.patch or not (first.locked or second.locked)


def rounding_floor(fits: Sequence[PairFit]) -> float:
    """Return the rms below which scatter is rounding and no noise: noise-free pairs differ by it and nothing else."""
    return float(64 * np.finfo(float).eps * max((abs(fit.plane.level) for fit in fits), default=0.0))
