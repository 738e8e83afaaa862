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

import numpy as np
from scipy.sparse import coo_array, csr_array, vstack

from levelmatch_core.matching.model.problem import Array, Index
from levelmatch_core.matching.uncertainty.pair_noise import FEWEST, TINY
from levelmatch_core.matching.uncertainty.sampling import Exposures, MatchedGroup, Scene, roots, sums


@dataclass(frozen=True)
class PairErrors:
    """The errors of one component's pair differences, as linear maps to their scores."""

    noise: csr_array
    """(K k, R) from unit noise of the R sources, which all components share."""
    carried: csr_array
    """(K k, 3 E) from the errors of the exposures' corrections so far: level at the centre, and slopes a grid pixel."""


def pair_errors(groups: Sequence[MatchedGroup], exposures: Exposures) -> list[PairErrors]:
    """Return how noise and the errors of earlier stages enter each component's pairs.

    Parameters
    ----------
    groups
        Components of all stages; in the order of stages if errors are to be carried.
    exposures
        All exposures in them.
    """
    links = _Links.of(Scene.of(groups, exposures))
    firsts = np.cumsum([0, *(len(part.problem.rms) for part in groups)])
    coefficients = np.repeat([part.problem.k for part in groups], np.diff(firsts))
    rows = np.concatenate([[0], np.cumsum(coefficients)])
    noise = _noise(links, groups, firsts, rows)
    carried = _carried(links, groups, exposures, firsts, rows)
    return [
        PairErrors(noise[rows[low] : rows[high]], carried[rows[low] : rows[high]])
        for low, high in zip(firsts[:-1].tolist(), firsts[1:].tolist(), strict=True)
    ]


@dataclass(frozen=True)
class _Links:
    """Each use of an exposure's points by one side of one pair, exposure by exposure, and what the points add up to."""

    scene: Scene
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
    def of(cls, scene: Scene) -> "_Links":
        starts, owner = scene.members
        degree = np.diff(scene.beside[0])[owner]  # one link for each pair of each member
        start = np.concatenate([[0], np.cumsum(degree)])[starts]
        return cls(scene, start, *sums(scene, start))

    def of_sides(self, values: Array, pairs: int) -> Array:
        """Return (K, 2, ...) the sum of values (L, ...) over the exposures of each side of each pair."""
        flat = values.reshape(len(values), -1)
        summed = [np.bincount(2 * self.pair + self.side, weights=column, minlength=2 * pairs) for column in flat.T]
        return np.stack(summed, axis=1).reshape(pairs, 2, *values.shape[1:]).astype(float)


def _noise(links: _Links, groups: Sequence[MatchedGroup], firsts: Index, rows: Index) -> csr_array:
    """Return (sum of K k, R) the scores that unit noise of each source makes."""
    pairs = int(firsts[-1])
    variance = np.concatenate([part.problem.variance for part in groups])
    shared = np.concatenate([part.problem.shared for part in groups])
    count = links.of_sides(links.count.astype(float), pairs)
    seen = (count.min(axis=1) >= FEWEST) & (shared > 0)
    power = np.maximum(links.of_sides(links.power, pairs), np.finfo(float).tiny)
    area = np.where(seen[:, None], links.of_sides(links.area, pairs), 1.0)  # what is not seen has no part in it
    pixels = power / area**2
    part = np.where(seen, variance * shared, 0.0)[:, None] * pixels / pixels.sum(axis=1, keepdims=True)
    own = np.where(seen, variance * (1 - shared), variance)
    own += np.concatenate([part.excess_scatter**2 * np.isfinite(part.problem.rms) for part in groups])
    # a fit weighs all pixels alike, and so do the moments; where fewer exposures overlap, the noise is larger
    share = links.of_sides(links.share, pairs)
    share = share / np.maximum(share[:, :, :1, :1], np.finfo(float).tiny)
    matched = np.zeros((pairs, 2, 3, 3))
    alone = np.zeros((pairs, 3, 3))
    for component, low, high in zip(groups, firsts[:-1].tolist(), firsts[1:].tolist(), strict=True):
        k = component.problem.k
        root = np.linalg.cholesky(component.problem.moments + TINY * np.eye(k))
        sampled = np.linalg.cholesky(share[low:high, :, :k, :k] + TINY * np.eye(k))
        size = np.array([-1.0, 1.0]) * np.sqrt(part[low:high] / power[low:high])
        matched[low:high, :, :k, :k] = size[:, :, None, None] * (root[:, None] @ np.linalg.inv(sampled))
        alone[low:high, :k, :k] = np.sqrt(own[low:high])[:, None, None] * root
    k_of = np.diff(rows)
    values, places, starts = roots(links.scene, links.start, matched, seen, rows)
    by_exposure = csr_array((values, places, starts), shape=(len(starts) - 1, int(rows[-1])))
    filled = np.arange(3)[:, None] < k_of[:, None, None]
    filled = filled & filled.transpose(0, 2, 1) & (own > 0)[:, None, None]
    pair, score, source = np.nonzero(filled)
    by_pair = csr_array(
        coo_array((alone[pair, score, source], (rows[pair] + source, rows[pair] + score)), shape=(int(rows[-1]),) * 2)
    )
    return csr_array(vstack([by_exposure, by_pair]).T)


def _carried(
    links: _Links, groups: Sequence[MatchedGroup], exposures: Exposures, firsts: Index, rows: Index
) -> csr_array:
    """Return (sum of K k, 3 E) the scores that errors of the exposures' corrections make."""
    pairs = int(firsts[-1])
    whole = links.of_sides(links.share, pairs)
    owner = np.repeat(np.arange(len(links.start) - 1), np.diff(links.start))
    useful = links.area > 0
    owner, pair, side, share = owner[useful], links.pair[useful], links.side[useful], links.share[useful]
    centroids = links.scene.centroids
    blocks = np.zeros((len(pair), 3, 3))
    for component, low, high in zip(groups, firsts[:-1].tolist(), firsts[1:].tolist(), strict=True):
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
