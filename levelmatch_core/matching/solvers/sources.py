"""One set of noise sources for all stages: what the exposures' pixels do to every pair's difference.

Each exposure is given evenly spread sample points, and white noise at each. A member of a later stage is the mean of
the exposures that cover a pixel: at a point that c of its exposures see, each one's noise counts 1/c. So the noise of
one point enters the pair of dithers that lie on it and the pair of stacks that lie on it, and what two stages owe to
the same pixels is counted as the same. The points of a pair's overlap are moment-matched to its true moments and scaled
to its standard error, so that each pair has its own measured variance.

Stacks are made of corrected exposures: an error of an earlier correction is in the stack as well, with weight 1/c
where c exposures are averaged, and moves the difference of the stacks. That linear map comes with the sources.

All is about a pair's *score*, its moment matrix times the error of its plane: scores of singular moments (of a given
level, of a line of pixels) are as good as any other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array, vstack

from levelmatch_core.matching.kernels import neighbours
from levelmatch_core.matching.solvers.noise import (
    FEWEST,
    POINTS,
    TINY,
    _holds,
    _semidefinite_root,
    _shapes_of,
    spread_evenly,
)
from levelmatch_core.matching.solvers.problem import Array, Index, Problem

Shapes = tuple[Array, Index, Array]
Lists = tuple[Index, Index]
"""Lists one after the other: where each starts (one more than there are), and what they hold."""


@dataclass(frozen=True)
class Exposures:
    """What the noise of all stages comes from."""

    outlines: NDArray[np.object_]
    """(E,) polygons (shapely), grid pixels."""
    centres: Array
    """(E, 2) x, y about which each one's correction is, grid pixels."""
    sigma: Array
    """(E,) scatter of a pixel, data unit."""


@dataclass(frozen=True)
class Posed:
    """One component of one stage, and the exposures in each of its members."""

    problem: Problem
    parts: tuple[tuple[int, ...], ...]
    """Numbers of each member's exposures; none of a member that is no image."""
    misfit: float = 0.0
    """1 sigma of one more error of every measured pair's level, data unit."""


@dataclass(frozen=True)
class PairErrors:
    """The errors of one component's pair differences, as linear maps to their scores."""

    noise: csr_array
    """(K k, R) from unit noise of the R sources, which all components share."""
    carried: csr_array
    """(K k, 3 E) from the errors of the exposures' corrections so far: level at the centre, and slopes a grid pixel."""


def pair_errors(posed: Sequence[Posed], exposures: Exposures) -> list[PairErrors]:
    """Return how noise and the errors of earlier stages enter each component's pairs.

    Parameters
    ----------
    posed
        Components of all stages; in the order of stages if errors are to be carried.
    exposures
        All exposures in them.
    """
    links = _Links.of(_Scene.of(posed, exposures))
    firsts = np.cumsum([0, *(len(part.problem.rms) for part in posed)])
    coefficients = np.repeat([part.problem.k for part in posed], np.diff(firsts))
    rows = np.concatenate([[0], np.cumsum(coefficients)])
    noise = _noise(links, posed, firsts, rows)
    carried = _carried(links, posed, exposures, firsts, rows)
    return [
        PairErrors(noise[rows[low] : rows[high]], carried[rows[low] : rows[high]])
        for low, high in zip(firsts[:-1].tolist(), firsts[1:].tolist(), strict=True)
    ]


class _Scene(NamedTuple):
    """Exposures, members and pairs of all components as the compiled loops go through them."""

    unit: Array
    """(Q, 2) the sample points of every exposure, in the unit square."""
    shapes: Shapes
    """The exposures' outlines."""
    amplitude: Array
    """(E,) scatter of the mean of the pixels about a point, times their area."""
    members: Lists
    """Of each exposure, the members that hold it."""
    parts: Lists
    """Of each member, its exposures."""
    beside: tuple[Index, Index, Index]
    """Where each member's pairs start, the members beside it, and the pairs."""
    first: Index
    """(K,) first member of each pair."""
    centroids: Array
    """(K, 2)"""
    scales: Array
    """(K,) grid pixels over which slopes count."""

    @classmethod
    def of(cls, posed: Sequence[Posed], exposures: Exposures) -> "_Scene":
        offsets = np.cumsum([0, *(len(part.parts) for part in posed)]).tolist()
        first = np.concatenate([part.problem.first + at for part, at in zip(posed, offsets, strict=False)])
        second = np.concatenate([part.problem.second + at for part, at in zip(posed, offsets, strict=False)])
        parts = _lists([part for each in posed for part in each.parts])
        shapes = _shapes_of(exposures.outlines)
        left, bottom, right, top = shapes[2].T
        scales = np.repeat([float(part.problem.scale) for part in posed], [len(part.problem.rms) for part in posed])
        return cls(
            unit=spread_evenly(POINTS),
            shapes=shapes,
            amplitude=exposures.sigma * np.sqrt((right - left) * (top - bottom) / POINTS),
            members=_lists_of(parts, len(exposures.sigma)),
            parts=parts,
            beside=neighbours(offsets[-1], first, second),
            first=first,
            centroids=np.concatenate([part.problem.centroids for part in posed]),
            scales=scales,
        )


@dataclass(frozen=True)
class _Links:
    """Each use of an exposure's points by one side of one pair, exposure by exposure, and what the points add up to."""

    scene: _Scene
    start: Index
    """(E + 1,) where each exposure's links start."""
    pair: Index
    """(L,) number of the pair over all components."""
    side: Index
    """(L,) 0 of the first member, 1 of the second."""
    count: Index
    """(L,) points in the overlap."""
    area: Array
    """(L,) area of the overlap that is this exposure's share, grid pixels."""
    power: Array
    """(L,) sum of squared amplitudes."""
    share: Array
    """(L, 3, 3) sum of [1, x, y] outer itself times the shares of area; x, y about the centroid in the scale."""

    @classmethod
    def of(cls, scene: _Scene) -> "_Links":
        starts, owner = scene.members
        degree = np.diff(scene.beside[0])[owner]  # one link for each pair of each member
        start = np.concatenate([[0], np.cumsum(degree)])[starts]
        return cls(scene, start, *_sums(scene, start))

    def of_sides(self, values: Array, pairs: int) -> Array:
        """Return (K, 2, ...) the sum of values (L, ...) over the exposures of each side of each pair."""
        flat = values.reshape(len(values), -1)
        summed = [np.bincount(2 * self.pair + self.side, weights=column, minlength=2 * pairs) for column in flat.T]
        return np.stack(summed, axis=1).reshape(pairs, 2, *values.shape[1:]).astype(float)


def _noise(links: _Links, posed: Sequence[Posed], firsts: Index, rows: Index) -> csr_array:
    """Return (sum of K k, R) the scores that unit noise of each source makes."""
    pairs = int(firsts[-1])
    variance = np.concatenate([part.problem.variance for part in posed])
    shared = np.concatenate([part.problem.shared for part in posed])
    count = links.of_sides(links.count.astype(float), pairs)
    seen = (count.min(axis=1) >= FEWEST) & (shared > 0)
    power = np.maximum(links.of_sides(links.power, pairs), np.finfo(float).tiny)
    pixels = power / np.maximum(links.of_sides(links.area, pairs), np.finfo(float).tiny) ** 2
    part = np.where(seen, variance * shared, 0.0)[:, None] * pixels / pixels.sum(axis=1, keepdims=True)
    own = np.where(seen, variance * (1 - shared), variance)
    own += np.concatenate([part.misfit**2 * np.isfinite(part.problem.rms) for part in posed])
    # a fit weighs all pixels alike, and so do the moments; where fewer exposures overlap, the noise is larger
    share = links.of_sides(links.share, pairs)
    share = share / np.maximum(share[:, :, :1, :1], np.finfo(float).tiny)
    matched = np.zeros((pairs, 2, 3, 3))
    alone = np.zeros((pairs, 3, 3))
    for component, low, high in zip(posed, firsts[:-1].tolist(), firsts[1:].tolist(), strict=True):
        k = component.problem.k
        root = np.linalg.cholesky(component.problem.moments + TINY * np.eye(k))
        sampled = np.linalg.cholesky(share[low:high, :, :k, :k] + TINY * np.eye(k))
        size = np.array([-1.0, 1.0]) * np.sqrt(part[low:high] / power[low:high])
        matched[low:high, :, :k, :k] = size[:, :, None, None] * (root[:, None] @ np.linalg.inv(sampled))
        alone[low:high, :k, :k] = np.sqrt(own[low:high])[:, None, None] * root
    k_of = np.diff(rows)
    values, places, starts = _roots(links.scene, links.start, matched, seen, rows)
    by_exposure = csr_array((values, places, starts), shape=(len(starts) - 1, int(rows[-1])))
    filled = np.arange(3)[:, None] < k_of[:, None, None]
    filled = filled & filled.transpose(0, 2, 1) & (own > 0)[:, None, None]
    pair, score, source = np.nonzero(filled)
    by_pair = csr_array(
        coo_array((alone[pair, score, source], (rows[pair] + source, rows[pair] + score)), shape=(int(rows[-1]),) * 2)
    )
    return csr_array(vstack([by_exposure, by_pair]).T)


def _carried(links: _Links, posed: Sequence[Posed], exposures: Exposures, firsts: Index, rows: Index) -> csr_array:
    """Return (sum of K k, 3 E) the scores that errors of the exposures' corrections make."""
    pairs = int(firsts[-1])
    whole = links.of_sides(links.share, pairs)
    owner = np.repeat(np.arange(len(links.start) - 1), np.diff(links.start))
    useful = links.area > 0
    owner, pair, side, share = owner[useful], links.pair[useful], links.side[useful], links.share[useful]
    centroids = links.scene.centroids
    blocks = np.zeros((len(pair), 3, 3))
    for component, low, high in zip(posed, firsts[:-1].tolist(), firsts[1:].tolist(), strict=True):
        k, scale = component.problem.k, component.problem.scale
        mine = np.flatnonzero((pair >= low) & (pair < high))
        if not len(mine):
            continue
        seen = whole[pair[mine], side[mine], :k, :k]
        floor = TINY * seen[:, :1, :1] * np.eye(k)
        moments = component.problem.moments[pair[mine] - low]
        blocks[mine, :k] = moments @ np.linalg.solve(seen + floor, share[mine, :k]) * np.array([1.0, scale, scale])
    # from the plane about the exposure's centre to that about the centroid, lengths in pixels
    move = np.broadcast_to(np.eye(3), (len(pair), 3, 3)).copy()
    move[:, 0, 1:] = centroids[pair] - exposures.centres[owner]
    # an error that was subtracted from the first member makes second - first larger
    blocks = np.where(side == 0, 1.0, -1.0)[:, None, None] * (blocks @ move)
    k_of = np.diff(rows)[pair]
    inside = np.broadcast_to(np.arange(3)[:, None] < k_of[:, None, None], blocks.shape)
    link, score, coefficient = np.nonzero(inside)
    entries = (blocks[inside], (rows[pair[link]] + score, 3 * owner[link] + coefficient))
    return csr_array(coo_array(entries, shape=(int(rows[-1]), 3 * len(exposures.sigma))))


def _lists(parts: Sequence[Sequence[int]]) -> Lists:
    starts = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    return starts, np.array([item for part in parts for item in part], dtype=np.int64)


def _lists_of(lists: Lists, count: int) -> Lists:
    """Return for each item the numbers of the lists that hold it."""
    starts, items = lists
    owner = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    order = np.argsort(items, kind="stable")
    return np.concatenate([[0], np.cumsum(np.bincount(items, minlength=count))]), owner[order]


# -- compiled: once through all points -------------------------------------------------------------------------------
@njit(nogil=True, cache=True, inline="always")
def _seen_by(shapes: Shapes, parts: Lists, member: int, x: float, y: float) -> int:  # pragma: no cover - compiled
    """Return how many of a member's exposures hold a point."""
    edges, starts, boxes = shapes
    count = 0
    for place in range(parts[0][member], parts[0][member + 1]):
        one = parts[1][place]
        if boxes[one, 0] <= x <= boxes[one, 2] and boxes[one, 1] <= y <= boxes[one, 3]:
            count += _holds(edges, starts[one], starts[one + 1], x, y)
    return count


@njit(nogil=True, cache=True)
def _links_of(scene: _Scene, one: int, pair_of: Index, side_of: Index) -> None:  # pragma: no cover - compiled
    """Put the pairs that an exposure's members have, and on which side they are, into the two arrays."""
    link = 0
    for place in range(scene.members[0][one], scene.members[0][one + 1]):
        member = scene.members[1][place]
        for at in range(scene.beside[0][member], scene.beside[0][member + 1]):
            pair_of[link] = scene.beside[2][at]
            side_of[link] = 0 if scene.first[scene.beside[2][at]] == member else 1
            link += 1


@njit(nogil=True, cache=True)
def _touched(  # noqa: PLR0917 - compiled  # pragma: no cover
    scene: _Scene, one: int, x: float, y: float, links: Index, shares: Array
) -> int:
    """Find the links of an exposure whose overlap holds a point, and its share of the mean there; return how many."""
    edges, starts, _ = scene.shapes
    if not _holds(edges, starts[one], starts[one + 1], x, y):
        return 0
    many, link = 0, 0
    for place in range(scene.members[0][one], scene.members[0][one + 1]):
        member, covered = scene.members[1][place], 0
        for at in range(scene.beside[0][member], scene.beside[0][member + 1]):
            if _seen_by(scene.shapes, scene.parts, scene.beside[1][at], x, y):
                covered = covered or _seen_by(scene.shapes, scene.parts, member, x, y)
                links[many], shares[many] = link, 1.0 / covered
                many += 1
            link += 1
    return many


@njit(nogil=True, cache=True)
def _sums(scene: _Scene, start: Index) -> tuple[Index, Index, Index, Array, Array, Array]:  # pragma: no cover
    """Return the columns of `_Links`."""
    unit, boxes, links = scene.unit, scene.shapes[2], start[-1]
    pair_of, side_of = np.empty(links, dtype=np.int64), np.empty(links, dtype=np.int64)
    count, area = np.zeros(links, dtype=np.int64), np.zeros(links)
    power, share = np.zeros(links), np.zeros((links, 3, 3))
    basis = np.ones(3)
    for one in range(len(boxes)):
        base, most = start[one], start[one + 1] - start[one]
        _links_of(scene, one, pair_of[base : base + most], side_of[base : base + most])
        found, shares = np.empty(most, dtype=np.int64), np.empty(most)
        wide, high = boxes[one, 2] - boxes[one, 0], boxes[one, 3] - boxes[one, 1]
        cell = wide * high / len(unit)
        for q in range(len(unit)):
            x, y = boxes[one, 0] + unit[q, 0] * wide, boxes[one, 1] + unit[q, 1] * high
            for t in range(_touched(scene, one, x, y, found, shares)):
                link = base + found[t]
                pair = pair_of[link]
                basis[1] = (x - scene.centroids[pair, 0]) / scene.scales[pair]
                basis[2] = (y - scene.centroids[pair, 1]) / scene.scales[pair]
                count[link] += 1
                area[link] += cell * shares[t]
                power[link] += (scene.amplitude[one] * shares[t]) ** 2
                for a in range(3):
                    for b in range(3):
                        share[link, a, b] += cell * shares[t] * basis[a] * basis[b]
    return pair_of, side_of, count, area, power, share


@njit(nogil=True, cache=True)
def _columns_of(pair_of: Index, seen: NDArray[np.bool_], rows: Index, slot_of: Index, column_of: Index) -> int:
    """Give each link of an exposure a place for its scores; return how many scores its noise touches."""
    wide = 0
    for link in range(len(pair_of)):
        pair = pair_of[link]
        slot_of[link] = -1
        if seen[pair]:
            slot_of[link] = wide
            for row in range(rows[pair], rows[pair + 1]):
                column_of[wide] = row
                wide += 1
    return wide


@njit(nogil=True, cache=True)
def _gram_of(  # noqa: PLR0917 - compiled  # pragma: no cover
    scene: _Scene, one: int, links: tuple[Index, Index, Index], matched: Array, rows: Index, wide: int
) -> Array:
    """Return the lower triangle of the covariance between the scores that an exposure's noise touches."""
    pair_of, side_of, slot_of = links
    unit, boxes = scene.unit, scene.shapes[2]
    gram, noise, basis = np.zeros((wide, wide)), np.zeros(wide), np.ones(3)
    found, shares = np.empty(len(pair_of), dtype=np.int64), np.empty(len(pair_of))
    touched = np.empty(wide, dtype=np.int64)
    for q in range(len(unit)):
        x = boxes[one, 0] + unit[q, 0] * (boxes[one, 2] - boxes[one, 0])
        y = boxes[one, 1] + unit[q, 1] * (boxes[one, 3] - boxes[one, 1])
        many = 0
        for t in range(_touched(scene, one, x, y, found, shares)):
            slot, pair = slot_of[found[t]], pair_of[found[t]]
            if slot < 0:
                continue
            basis[1] = (x - scene.centroids[pair, 0]) / scene.scales[pair]
            basis[2] = (y - scene.centroids[pair, 1]) / scene.scales[pair]
            k = rows[pair + 1] - rows[pair]
            for a in range(k):
                total = 0.0
                for b in range(k):
                    total += matched[pair, side_of[found[t]], a, b] * basis[b]
                noise[slot + a] = total * scene.amplitude[one] * shares[t]
                touched[many] = slot + a
                many += 1
        for i in range(many):
            for j in range(i + 1):
                gram[touched[i], touched[j]] += noise[touched[i]] * noise[touched[j]]
    return gram


@njit(nogil=True, cache=True)
def _roots(
    scene: _Scene, start: Index, matched: Array, seen: NDArray[np.bool_], rows: Index
) -> tuple[Array, Index, Index]:
    """Return one exposure's noise after the other, as values, columns (scores) and row starts (sources).

    The noise at an exposure's points touches the scores of the pairs of all members that hold it; their covariance has
    as many sources as it has columns in its root.
    """
    most = 3 * start[-1]
    row_starts = np.zeros(most + 1, dtype=np.int64)
    values, columns = np.empty(0), np.empty(0, dtype=np.int64)
    filled, row = 0, 0
    for one in range(len(start) - 1):
        count = start[one + 1] - start[one]
        pair_of, side_of, slot_of = (
            np.empty(count, dtype=np.int64),
            np.empty(count, dtype=np.int64),
            np.empty(count, dtype=np.int64),
        )
        column_of = np.empty(3 * count, dtype=np.int64)
        _links_of(scene, one, pair_of, side_of)
        wide = _columns_of(pair_of, seen, rows, slot_of, column_of)
        gram = _gram_of(scene, one, (pair_of, side_of, slot_of), matched, rows, wide)
        _semidefinite_root(gram)
        if filled + wide * (wide + 1) // 2 > len(values):
            room = 2 * (filled + wide * (wide + 1))
            values, columns = _longer(values, room), _longer(columns, room)
        for r in range(wide):
            for c in range(r, wide):
                if gram[c, r] != 0:
                    values[filled], columns[filled] = gram[c, r], column_of[c]
                    filled += 1
            row += 1
            row_starts[row] = filled
    return values[:filled].copy(), columns[:filled].copy(), row_starts[: row + 1].copy()


@njit(nogil=True, cache=True)
def _longer(numbers: NDArray[np.generic], size: int) -> NDArray[np.generic]:  # pragma: no cover - compiled
    longer = np.empty(size, dtype=numbers.dtype)
    longer[: len(numbers)] = numbers
    return longer
