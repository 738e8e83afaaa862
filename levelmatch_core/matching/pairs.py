"""Which members overlap, which of the measured pairs may be used, and the pairs as matrices."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import chain
from typing import TypeVar

import numpy as np
import shapely
from numpy.typing import NDArray

from levelmatch_core.matching.results import Member, PairFit, Rejection, Solution
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.cutouts import CutoutRecord

_T = TypeVar("_T", np.float64, np.int64, np.bool_)

Pair = tuple[str, str]
"""Names of two members, the first before the second."""

CHANCE = 4.0
"""Standard deviations of an rms, of so many pixels, that chance may explain."""
DENSE_MEMBERS = 2000
"""Most members for which the N x N matrices are built."""


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


# -- as matrices ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class PairTriplets:
    """The pairs as columns, one entry a pair: what is kept where N x N matrices would be too large."""

    names: tuple[str, ...]
    """Members, sorted."""
    first: NDArray[np.int64]
    """(K,) index of the first member."""
    second: NDArray[np.int64]
    """(K,) index of the second member."""
    delta: NDArray[np.float64]
    """(K, k) second - first: the level at the overlap's centroid, and for planes the slopes along x and y."""
    npix: NDArray[np.int64]
    """(K,) pixels valid in both."""
    rms: NDArray[np.float64]
    """(K,) scatter about the fit, data unit."""
    linear: NDArray[np.float64]
    """(K, 2) overlap as a fraction of the members' extents, along the first's detector axes."""
    valid: NDArray[np.bool_]
    """(K,) whether the pair was used."""

    def __post_init__(self) -> None:
        _lock(self)


@dataclass(frozen=True)
class PairMatrices:
    """The pairs as N x N matrices; entries without a pair are 0, and False in `valid`."""

    names: tuple[str, ...]
    """Members, sorted: the order of rows and columns."""
    delta: NDArray[np.float64]
    """(N, N, k) delta[j, i] describes data_j - data_i (level at the overlap's centroid, slopes); antisymmetric."""
    npix: NDArray[np.int64]
    """(N, N) pixels valid in both."""
    rms: NDArray[np.float64]
    """(N, N) scatter about the fit, data unit."""
    linear: NDArray[np.float64]
    """(N, N, 2) overlap as a fraction of the members' extents."""
    valid: NDArray[np.bool_]
    """(N, N) whether the pair was used."""

    def __post_init__(self) -> None:
        _lock(self)


def triplets(solution: Solution) -> PairTriplets:
    """Return the pairs of a solution as columns."""
    names = tuple(member.name for member in solution.members)
    index = {name: i for i, name in enumerate(names)}
    k = 1 if solution.fit_type == "level" else 3
    fits = [pair.fit for pair in solution.pairs]
    delta = [(fit.plane.level, fit.plane.slope_x, fit.plane.slope_y)[:k] for fit in fits]
    return PairTriplets(
        names=names,
        first=np.array([index[fit.first] for fit in fits], dtype=np.int64),
        second=np.array([index[fit.second] for fit in fits], dtype=np.int64),
        delta=np.array(delta, dtype=np.float64).reshape(-1, k),
        npix=np.array([fit.npix for fit in fits], dtype=np.int64),
        rms=np.array([fit.rms for fit in fits], dtype=np.float64),
        linear=np.array([fit.linear for fit in fits], dtype=np.float64).reshape(-1, 2),
        valid=np.array([pair.rejected is None for pair in solution.pairs], dtype=np.bool_),
    )


def matrices(solution: Solution) -> PairMatrices | None:
    """Return the N x N matrices of a solution, or None above 2,000 members, where :func:`triplets` serves."""
    n = len(solution.members)
    if n > DENSE_MEMBERS:
        return None
    flat = triplets(solution)
    i, j = flat.first, flat.second

    def square(values: NDArray[_T], turned: NDArray[_T]) -> NDArray[_T]:
        matrix = np.zeros((n, n, *values.shape[1:]), dtype=values.dtype)
        matrix[j, i], matrix[i, j] = values, turned
        return matrix

    return PairMatrices(
        names=flat.names,
        delta=square(flat.delta, -flat.delta),
        npix=square(flat.npix, flat.npix),
        rms=square(flat.rms, flat.rms),
        linear=square(flat.linear, flat.linear),
        valid=square(flat.valid, flat.valid),
    )


def _lock(arrays: PairTriplets | PairMatrices) -> None:
    for field in fields(arrays):
        value = getattr(arrays, field.name)
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
