"""One set of noise sources for all stages: the effect of the exposures' pixel noise on the difference of every pair.

Each exposure has evenly distributed sample points with white noise at each of them. A member of a later stage is the
mean of the exposures that cover a pixel: at a point that m of its exposures cover, the noise of each one has the weight
1/m. The noise of one point therefore enters the pair of dithers that covers it as well as the pair of stacks that
covers it, and errors of two stages that come from the same pixels are correlated. The points in the overlap of a pair
are matched to its true moments and scaled to its standard error, so that each pair has its measured variance.

What a pair shows in addition to pixel noise (`Problem.structure`) is counted twice: as an error of that pair alone, and
as one that its members have in all of their pairs, because a flat field, a gain or a PSF of one exposure affects all of
them (clusters: Liang and Zeger 1986, Biometrika 73, 13). The solve follows the latter, so that no residual shows it.

Stacks are made of corrected exposures. The error of an earlier correction is therefore also in the stack, with weight
1/m where m exposures are averaged, and changes the difference of the stacks. This linear map is returned with the
sources.

In the notation of section 9 of matching/MODEL.md, the maps R and F lead to y = M e, the moment matrix of a pair times
the error of its plane, which exists for singular moments, too (a given level, or an overlap that is a line of pixels).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array, csr_array, vstack

from levelmatch_core.matching.model.problem import Array, Index, Problem
from levelmatch_core.matching.uncertainty.pair_noise import FEWEST, TINY, noise_roots
from levelmatch_core.matching.uncertainty.sampling import roots, sums
from levelmatch_core.matching.uncertainty.scene import Exposures, MatchedGroup, Scene


@dataclass(frozen=True)
class PairErrors:
    """The errors of the differences of one component's pairs, as linear maps to y = M e."""

    noise: csr_array
    """(K k, R) from unit noise of the R sources, which are common to all components."""
    carried: csr_array
    """(K k, 3 E) from the errors of the exposures' corrections in earlier stages: level at the centre, and slopes per
    grid pixel."""


def pair_errors(groups: Sequence[MatchedGroup], exposures: Exposures) -> list[PairErrors]:
    """Return how noise and the errors of earlier stages enter the pairs of each component.

    Parameters
    ----------
    groups
        Components of all stages; in the order of the stages, if errors are to be propagated from stage to stage.
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
    """The combinations of exposure, pair and side of the pair, sorted by exposure, with the sums over their points."""

    scene: Scene
    start: Index
    """(E + 1,) where the links of each exposure start."""
    pair: Index
    """(L,) index of the pair, counted over all components."""
    side: Index
    """(L,) 0 for the first member, 1 for the second."""
    count: Index
    """(L,) number of points in the overlap."""
    area: Array
    """(L,) area of the overlap, weighted by this exposure's weight in the mean, grid pixels."""
    power: Array
    """(L,) sum of squared amplitudes."""
    share: Array
    """(L, 3, 3) area-weighted sum of the outer product of [1, x, y] with itself; x, y about the centroid in units of
    the scale."""

    @classmethod
    def of(cls, scene: Scene) -> "_Links":
        starts, owner = scene.members
        degree = np.diff(scene.adjacent[0])[owner]  # one link per pair of each member
        start = np.concatenate([[0], np.cumsum(degree)])[starts]
        return cls(scene, start, *sums(scene, start))

    def of_sides(self, values: Array, pairs: int) -> Array:
        """Return (K, 2, ...) the sum of values (L, ...) over the exposures of each side of each pair."""
        flat = values.reshape(len(values), -1)
        summed = [np.bincount(2 * self.pair + self.side, weights=column, minlength=2 * pairs) for column in flat.T]
        return np.stack(summed, axis=1).reshape(pairs, 2, *values.shape[1:]).astype(float)


def _noise(links: _Links, groups: Sequence[MatchedGroup], firsts: Index, rows: Index) -> csr_array:
    """Return (sum of K k, R) the response of y to unit noise of each source."""
    pairs = int(firsts[-1])
    variance = np.concatenate([part.problem.variance for part in groups])
    shared = np.concatenate([part.problem.shared for part in groups])
    count = links.of_sides(links.count.astype(float), pairs)
    seen = (count.min(axis=1) >= FEWEST) & (shared > 0)
    power = np.maximum(links.of_sides(links.power, pairs), np.finfo(float).tiny)
    area = np.where(seen[:, None], links.of_sides(links.area, pairs), 1.0)  # not used where a pair is not sampled
    pixels = power / area**2
    part = np.where(seen, variance * shared, 0.0)[:, None] * pixels / pixels.sum(axis=1, keepdims=True)
    own = np.where(seen, variance * (1 - shared), variance)
    own += np.concatenate([part.excess_scatter**2 * np.isfinite(part.problem.rms) for part in groups])
    own += np.concatenate([part.problem.structure_variance for part in groups])
    # a fit weights all pixels equally, and so do the moments; where fewer exposures overlap, the noise is larger
    share = links.of_sides(links.share, pairs)
    share = share / np.maximum(share[:, :, :1, :1], np.finfo(float).tiny)
    matched = np.zeros((pairs, 2, 3, 3))
    alone = np.zeros((pairs, 3, 3))
    for component, low, high in zip(groups, firsts[:-1].tolist(), firsts[1:].tolist(), strict=True):
        k = component.problem.k
        root = noise_roots(component.problem)
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
    return csr_array(vstack([by_exposure, by_pair, *_by_member(groups, firsts, rows)]).T)


def _by_member(groups: Sequence[MatchedGroup], firsts: Index, rows: Index) -> list[csr_array]:
    """Return, for each component, the response (N, sum of K k) of y to an error that all pairs of a member have."""
    found = []
    for part, low in zip(groups, firsts[:-1].tolist(), strict=True):
        problem, size = part.problem, shared_structure(part.problem)
        for ends, sign in ((problem.first, -1.0), (problem.second, 1.0)):
            score = np.arange(problem.k)
            values = sign * size[ends][:, None] * problem.moments[:, :, 0]
            column = rows[low + np.arange(len(ends))][:, None] + score
            member = np.broadcast_to(ends[:, None], column.shape)
            entries = values.ravel(), (member.ravel(), column.ravel())
            found.append(csr_array(coo_array(entries, shape=(len(problem.names), int(rows[-1])))))
    return [csr_array(one + other) for one, other in zip(found[::2], found[1::2], strict=True)]


def shared_structure(problem: Problem) -> Array:
    """Return (N,) 1 sigma of the error that all pairs of a member have: half the (lower) median of their variances."""
    ends, shown = np.concatenate([problem.first, problem.second]), np.tile(problem.structure_variance, 2)
    order = np.lexsort((shown, ends))
    count = np.bincount(ends, minlength=len(problem.names))
    middle = np.cumsum(count) - count + (count - 1) // 2
    found = np.zeros(len(count))
    found[count > 0] = 0.5 * shown[order][middle[count > 0]]
    return np.sqrt(found)


def _carried(
    links: _Links, groups: Sequence[MatchedGroup], exposures: Exposures, firsts: Index, rows: Index
) -> csr_array:
    """Return (sum of K k, 3 E) the response of y to errors of the exposures' corrections."""
    pairs = int(firsts[-1])
    whole = links.of_sides(links.share, pairs)
    owner = np.repeat(np.arange(len(links.start) - 1), np.diff(links.start))
    useful = links.area > 0
    owner, pair, side, share = owner[useful], links.pair[useful], links.side[useful], links.share[useful]
    places, back = links.scene.views
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
    # from a plane about the exposure's centre to one about the centroid, lengths in pixels
    move = np.broadcast_to(np.eye(3), (len(pair), 3, 3)).copy()
    move[:, 0, 1:] = places[pair, side] - exposures.centres[owner]
    if len(back):
        move[:, 1:, 1:] = np.linalg.inv(back[pair, side]).swapaxes(1, 2)
    # an error that is subtracted from the first member increases second - first
    blocks = np.where(side == 0, 1.0, -1.0)[:, None, None] * (blocks @ move)
    k_of = np.diff(rows)[pair]
    inside = np.broadcast_to(np.arange(3)[:, None] < k_of[:, None, None], blocks.shape)
    link, score, coefficient = np.nonzero(inside)
    entries = (blocks[inside], (rows[pair[link]] + score, 3 * owner[link] + coefficient))
    return csr_array(coo_array(entries, shape=(int(rows[-1]), 3 * len(exposures.sigma))))
