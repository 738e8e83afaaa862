"""Loop closure: around a loop of overlaps the measured differences must add up to 0, whatever the levels are.

Loops are tested without a solve, so that a bad pair is not hidden by the residuals of its neighbours. A set of
independent loops of little variance is used: each contains one pair that no earlier loop contains. A pair between
members that other pairs connect with less variance than its own (that of a corner, beside those of two sides) closes
its loop along the least of them; the others close theirs without such pairs, whose noise would hide an error, as a
breadth-first search comes to them, which keeps loops short (most are triangles and quadrilaterals). A pair that is in
many failed loops, and whose error would close them all, explains them.

Differences of planes are compared at one point of a loop. Between members on several grids there is none: each pair has
the planes of its members as it sees them, T c (section 2 of matching/MODEL.md). A functional f of a pair's difference
is therefore carried on from pair to pair so that every member on the way drops out of the sum,

    T_{m,next}' f_next = T_{m,last}' f_last,

and begins as (1, g), the value at a point. Around the loop it comes back with a small change, times which the slopes of
the member where the loop begins remain in the sum. That is part of the sum's error, and g is the point where the error
is least.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order

from levelmatch_core.matching.model.problem import Array, Index, Problem
from levelmatch_core.matching.results import Loop, LoopClosure, Suspect
from levelmatch_core.matching.uncertainty.pair_noise import unit_covariances
from levelmatch_core.process.compilation import njit
from levelmatch_core.process.small_work import compiled_when_large

LIMIT = 4.0
"""A loop fails whose sum is beyond so many of the sigmas that pixel noise makes."""
MOST_LOOPS = 100_000
"""Largest number of loops of a component that are tested."""
NAMED = 10
"""Largest number of loops, and of suspects, that are reported."""
ALIKE = 0.98
"""Pairs that explain at least this fraction of what the best one explains cannot be distinguished from it."""
SEEN_TO = 1e-3
"""Part of a plane's change over an exposure to which a pair on another grid sees it."""
NORMAL_MEDIAN = 0.6744897501960817
"""Median absolute value of a standard normal variable."""


@dataclass(frozen=True)
class Loops:
    """Loops of a graph, in concatenated form."""

    starts: Index
    """(L + 1,) where each starts."""
    pairs: Index
    """The pairs along the loops."""
    signs: Array
    """+1 if the pair is traversed from its first member to its second, else -1."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __iter__(self) -> Iterator[tuple[Index, Array]]:
        return (self.at(number) for number in range(len(self)))

    def at(self, number: int) -> tuple[Index, Array]:
        """Return the pairs and signs of one loop."""
        here = slice(self.starts[number], self.starts[number + 1])
        return self.pairs[here], self.signs[here]

    @property
    def loop(self) -> Index:
        """The index of the loop for each entry of `pairs`."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))


def independent_loops(members: int, first: Index, second: Index, most: int, variance: Array | None = None) -> Loops:
    """Return independent loops of a connected graph, at most `most`, in an order that depends on the graph only.

    Parameters
    ----------
    members
        Number of nodes.
    first, second
        (K,) ends of each edge.
    most
        Largest number of loops.
    variance
        (K,) of each edge; equal if it is not given.
    """
    variance = np.ones(len(first)) if variance is None else np.ascontiguousarray(variance, dtype=float)
    largest = np.finfo(float).max / (1 + len(first))  # a way of infinite variance, or NaN, would be none
    variance = np.where(variance < largest, variance, largest)
    spanned = _spanned(members, first, second, variance)
    core = np.flatnonzero(~spanned)
    ends = first[core], second[core]
    degree = np.bincount(ends[0], minlength=members) + np.bincount(ends[1], minlength=members)
    graph = csr_array((np.ones(len(core)), ends), shape=(members, members))
    order, parents = breadth_first_order(graph, int(np.argmax(degree)), directed=False)
    rank = np.full(members, members)
    rank[order] = np.arange(len(order))
    tree = (parents[ends[0]] == ends[1]) | (parents[ends[1]] == ends[0])
    late, early = np.maximum(*(rank[end] for end in ends)), np.minimum(*(rank[end] for end in ends))
    rest = core[~tree][np.lexsort((early[~tree], late[~tree]))]
    spanned = np.flatnonzero(spanned)
    rest = np.concatenate([rest, spanned[np.argsort(variance[spanned], kind="stable")]])[:most]
    return Loops(*_closed(members, first, second, variance, core[tree], rest))


@njit(nogil=True, cache=True)
def _search(  # noqa: PLR0917 - compiled: one search  # pragma: no cover
    ends: tuple[Index, Index],
    variance: Array,
    start: int,
    goal: int,
    most: float,
    without: int,
    entries: tuple[Index, Index],
    state: tuple[Index, Index, Array, Index],
    mark: int,
) -> float:
    """Return the variance of the way of least variance from start to goal, at most `most`, without a pair.

    The ways that lead from a node are those of its entries, 2 pair from first to second and 2 pair + 1 back. Where each
    node was come to from is left in `state`.
    """
    head, following = entries
    came, seen, far, queue = state
    first, second = ends
    size = queue.size
    seen[start], far[start], queue[0] = 2 * mark, 0.0, start  # 2 mark + 1: seen, and waiting
    begin, waiting, least = 0, 1, most
    while waiting > 0:
        node = queue[begin]
        begin = begin + 1 if begin + 1 < size else 0
        waiting -= 1
        seen[node] = 2 * mark
        if far[node] >= least:
            continue
        way = head[node]
        while way >= 0:
            pair = way // 2
            if pair != without:
                other = second[pair] if way % 2 == 0 else first[pair]
                there = far[node] + variance[pair]
                if there < least and (seen[other] < 2 * mark or there < far[other]):
                    far[other], came[other] = there, way
                    if other == goal:
                        least, seen[other] = there, 2 * mark
                    elif seen[other] != 2 * mark + 1:
                        seen[other] = 2 * mark + 1
                        queue[(begin + waiting) % size] = other
                        waiting += 1
            way = following[way]
    return least


@compiled_when_large(lambda n, first, *_: 4 * first.size * (n + first.size))
@njit(nogil=True, cache=True)
def _spanned(members: int, first: Index, second: Index, variance: Array) -> NDArray[np.bool_]:  # pragma: no cover
    """Return (K,) whether other pairs between the same members have less variance together than the pair alone."""
    head, following = np.full(members, -1), np.full(2 * first.size, -1)
    for entry in range(2 * first.size):
        node = first[entry // 2] if entry % 2 == 0 else second[entry // 2]
        following[entry] = head[node]
        head[node] = entry
    state = np.full(members, -1), np.full(members, -1), np.zeros(members), np.empty(members, dtype=np.int64)
    spanned = np.zeros(first.size, dtype=np.bool_)
    for pair in range(first.size):
        most = variance[pair]
        found = _search(
            (first, second), variance, first[pair], second[pair], most, pair, (head, following), state, pair
        )
        spanned[pair] = found < most
    return spanned


@compiled_when_large(lambda n, first, *rest: 8 * first.size + 4 * rest[3].size * (n + first.size))
@njit(nogil=True, cache=True)
def _closed(  # noqa: PLR0917 - compiled: one search a loop  # pragma: no cover
    members: int, first: Index, second: Index, variance: Array, tree: Index, rest: Index
) -> tuple[Index, Index, Array]:
    """Return, for each edge outside the tree, the loop that it closes along the way of least variance."""
    head, tail = np.full(members, -1), np.full(members, -1)
    following = np.full(2 * first.size, -1)  # entry 2 pair leads from first to second, 2 pair + 1 back
    came = np.full(members, -1)
    state = came, np.full(members, -1), np.zeros(members), np.empty(members, dtype=np.int64)
    starts, pairs, at = np.zeros(rest.size + 1, dtype=np.int64), np.empty(8 * rest.size + members, dtype=np.int64), 0
    signs = np.empty(pairs.size)
    for number in range(tree.size + rest.size):
        pair = tree[number] if number < tree.size else rest[number - tree.size]
        if number >= tree.size:
            loop = number - tree.size
            start, goal = second[pair], first[pair]
            _search((first, second), variance, start, goal, np.inf, pair, (head, following), state, loop)
            length, node = 1, goal
            while node != start:
                node = first[came[node] // 2] if came[node] % 2 == 0 else second[came[node] // 2]
                length += 1
            if at + length > pairs.size:
                longer, signed = np.empty(2 * pairs.size + length, dtype=np.int64), np.empty(2 * pairs.size + length)
                for i in range(at):
                    longer[i], signed[i] = pairs[i], signs[i]
                pairs, signs = longer, signed
            pairs[at], signs[at] = pair, 1.0
            place, node = at + length - 1, goal
            while node != start:
                way = came[node]
                pairs[place], signs[place] = way // 2, 1.0 if way % 2 == 0 else -1.0
                node = first[way // 2] if way % 2 == 0 else second[way // 2]
                place -= 1
            at += length
            starts[loop + 1] = at
        for side in range(2):
            node, entry = (first[pair] if side == 0 else second[pair]), 2 * pair + side
            if head[node] < 0:
                head[node] = entry
            else:
                following[tail[node]] = entry
            tail[node] = entry
    return starts, pairs[:at].copy(), signs[:at].copy()


def closure(problem: Problem, covariance: csr_array, allowed: csr_array | None = None) -> LoopClosure | None:
    """Return how well the loops of a component close; None if it has none.

    Parameters
    ----------
    problem
        The component, with all pairs that could be used.
    covariance
        Of the pairs, from :func:`~levelmatch_core.matching.uncertainty.leave_one_out.pair_covariance`.
    allowed
        The same with what each pair shows in addition to pixel noise; None if no pair does.
    """
    pairs = len(problem.rms)
    count = pairs - len(problem.names) + 1
    if count <= 0:
        return None
    variance = problem.variance + problem.structure_variance
    loops = independent_loops(len(problem.names), problem.first, problem.second, MOST_LOOPS, variance)
    several = bool(problem.frames) and problem.k == 3
    walk, slopes_left = (
        _walk_between_grids(problem, loops) if several else (_walk(problem, loops), np.zeros(len(loops)))
    )
    sums = np.asarray(walk @ problem.delta.ravel())
    sigma = _sigma(walk, covariance, slopes_left)
    size = np.abs(sums) / sigma
    unexplained = size > LIMIT if allowed is None else np.abs(sums) / _sigma(walk, allowed, slopes_left) > LIMIT
    scatter = float(np.median(size)) / NORMAL_MEDIAN
    failed = size > LIMIT
    worst = np.argsort(-size, kind="stable")[:NAMED]
    return LoopClosure(
        tested=len(loops),
        untested=count - len(loops),
        scatter=scatter,
        failed=int(np.count_nonzero(failed)),
        unexplained=int(np.count_nonzero(failed & unexplained)),
        worst=tuple(
            Loop(members=_members(problem, *loops.at(loop)), sum=float(sums[loop]), sigma=float(sigma[loop]))
            for loop in worst.tolist()
        ),
        suspects=_suspects(problem, loops, sums, sigma, failed) if failed.any() else (),
    )


def _sigma(walk: csr_array, covariance: csr_array, more: Array) -> Array:
    """Return (L,) 1 sigma of the sums over loops; `more` (L,) is a variance in addition to that of the pairs."""
    return np.sqrt(np.asarray((walk @ covariance).multiply(walk).sum(axis=1), dtype=float).ravel() + more)


def _members(problem: Problem, pairs: Index, signs: Array) -> tuple[str, ...]:
    """Return the members along a loop."""
    return tuple(problem.names[i] for i in np.where(signs > 0, problem.first[pairs], problem.second[pairs]).tolist())


def _walk(problem: Problem, loops: Loops) -> csr_array:
    """Return (L, K k) the map from the pairs' coefficients to the sums over loops, about their mean centroids."""
    k, loop = problem.k, loops.loop
    places = problem.centroids[loops.pairs]
    mean = np.add.reduceat(places, loops.starts[:-1]) / np.diff(loops.starts)[:, None]
    terms = np.ones((len(loop), k))
    terms[:, 1:] = ((mean[loop] - places) / problem.scale)[:, : k - 1]
    terms *= loops.signs[:, None]
    columns = loops.pairs[:, None] * k + np.arange(k)
    entries = terms.ravel(), (np.repeat(loop, k), columns.ravel())
    return csr_array(entries, shape=(len(loops), problem.delta.size))


def _walk_between_grids(problem: Problem, loops: Loops) -> tuple[csr_array, Array]:
    """Return what :func:`_walk` does for planes on several grids, and (L,) the variance by slopes left in the sums."""
    pairs, loop, forwards = loops.pairs, loops.loop, loops.signs > 0
    sides = np.stack([problem.shifts(0), problem.shifts(1)])
    begins, ends = sides[np.where(forwards, 0, 1), pairs], sides[np.where(forwards, 1, 0), pairs]
    carried = np.broadcast_to(np.eye(3), (len(pairs), 3, 3)).copy()
    lengths = np.diff(loops.starts)

    def onward(entries: Index, following: Index) -> Array:
        """Return the functional of one pair as that of the pair that follows, by their common member."""
        there = ends[entries].swapaxes(1, 2) @ carried[entries]
        return np.asarray(np.linalg.solve(begins[following].swapaxes(1, 2), there), dtype=float)

    for step in range(1, int(lengths.max())):
        here = loops.starts[:-1][lengths > step] + step
        carried[here] = onward(here - 1, here)
    first, last = loops.starts[:-1], loops.starts[1:] - 1
    left = (begins[first].swapaxes(1, 2) @ (onward(last, first) - np.eye(3)))[:, 1:]
    # 1 sigma of a member's slopes: a pair has the difference of two
    slope = float(np.median(np.abs(problem.delta[:, 1:]))) / (NORMAL_MEDIAN * 2**0.5)
    own = problem.variance[:, None, None] * unit_covariances(problem)
    each = carried.swapaxes(1, 2) @ own[pairs] @ carried
    total = np.add.reduceat(each, first) + slope**2 * left.swapaxes(1, 2) @ left
    start = np.ones((len(loops), 3))
    start[:, 1:] = -np.linalg.solve(total[:, 1:, 1:], total[:, 1:, :1])[:, :, 0]
    remaining = slope**2 * np.sum(np.einsum("lab,lb->la", left, start) ** 2, axis=1)
    seen = np.bincount(loop, weights=problem.frames.crosses[pairs], minlength=len(loops)) * (2 * slope * SEEN_TO) ** 2
    terms = np.einsum("eab,eb->ea", carried, start[loop]) * loops.signs[:, None]
    columns = pairs[:, None] * 3 + np.arange(3)
    entries = terms.ravel(), (np.repeat(loop, 3), columns.ravel())
    return csr_array(entries, shape=(len(loops), problem.delta.size)), remaining + seen


def _suspects(
    problem: Problem, loops: Loops, sums: Array, sigma: Array, failed: NDArray[np.bool_]
) -> tuple[Suspect, ...]:
    """Return the pairs that explain failed loops, beginning with the one that explains most.

    The error of a pair is fitted to all loops that contain it; these are then removed, and the next pair is searched.
    """
    count, loop, precision = len(problem.rms), loops.loop, sigma**-2.0
    still = np.ones(len(loops), dtype=bool)
    found: list[Suspect] = []
    while len(found) < NAMED and np.any(failed & still):
        here = still[loop]
        pairs, of = loops.pairs[here], loop[here]
        inside = np.unique(loops.pairs[(failed & still)[loop]])
        known = np.bincount(pairs, weights=precision[of], minlength=count)[inside]
        error = (
            np.bincount(pairs, weights=precision[of] * loops.signs[here] * sums[of], minlength=count)[inside] / known
        )
        explained = error**2 * known
        best = int(np.argmax(explained))
        alike = inside[explained >= ALIKE * explained[best]]
        found.append(
            Suspect(
                pairs=tuple((problem.names[problem.first[one]], problem.names[problem.second[one]]) for one in alike),
                loops=int(np.count_nonzero(failed[of[pairs == inside[best]]])),
                error=float(error[best]),
            )
        )
        still[loop[np.isin(loops.pairs, alike)]] = False
    return tuple(found)
