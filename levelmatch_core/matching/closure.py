"""Do the measured differences close? Around a loop of overlaps they must add up to 0, whatever the levels are.

A loop needs no solve, so that a bad pair cannot hide in the residuals of its neighbours. A set of independent loops is
taken, as short as the order of a search makes them (most are triangles and quadrilaterals): each has one pair that no
loop before it holds. A pair that is in many loops that fail, and whose error would close them all, explains them.
"""

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import breadth_first_order

from levelmatch_core.matching.results import Loop, LoopClosure, Suspect
from levelmatch_core.matching.solvers.problem import Array, Problem

LIMIT = 4.0
"""A loop fails whose sum is beyond so many of its sigmas (times the scatter of all loops, where that is above 1)."""
MOST_LOOPS = 5000
"""Most loops of a component that are tested."""
NAMED = 10
"""Most loops, and most suspects, that are told."""
ALIKE = 0.98
"""Pairs that explain as much as this part of the best one's cannot be told from it."""
NORMAL_MEDIAN = 0.6744897501960817
"""Median absolute value of a standard normal variable."""

Way = list[tuple[int, float]]
"""Pairs along a loop, each with +1 where it is walked from its first member to its second, -1 the other way."""


def independent_loops(members: int, first: Sequence[int], second: Sequence[int], most: int) -> list[Way]:
    """Return independent loops of a connected graph, at most `most`, in an order that hangs on the graph alone.

    Parameters
    ----------
    members
        Number of nodes.
    first, second
        Ends of each edge.
    most
        Most loops.
    """
    edges = len(first)
    ends = np.array([first, second], dtype=np.int64).reshape(2, -1)
    degree = np.bincount(ends.ravel(), minlength=members)
    graph = csr_array(coo_array((np.ones(edges), ends), shape=(members, members)))
    order, parents = breadth_first_order(graph, int(np.argmax(degree)), directed=False)
    rank = np.full(members, members)
    rank[order] = np.arange(len(order))
    of = {(int(a), int(b)): pair for pair, (a, b) in enumerate(ends.T.tolist())}
    tree = {
        of[a, b] if (a, b) in of else of[b, a]
        for a, b in ((int(parents[node]), int(node)) for node in order.tolist() if parents[node] >= 0)
    }
    near: list[list[tuple[int, int, float]]] = [[] for _ in range(members)]

    def join(pair: int) -> None:
        a, b = int(ends[0, pair]), int(ends[1, pair])
        near[a].append((b, pair, 1.0))
        near[b].append((a, pair, -1.0))

    for pair in sorted(tree):
        join(pair)
    rest = [pair for pair in range(edges) if pair not in tree]
    rest.sort(key=lambda pair: (int(rank[ends[:, pair]].max()), int(rank[ends[:, pair]].min())))
    loops = []
    for pair in rest[:most]:
        loops.append([(pair, 1.0), *_way(near, int(ends[1, pair]), int(ends[0, pair]))])
        join(pair)
    return loops


def _way(near: list[list[tuple[int, int, float]]], start: int, goal: int) -> Way:
    """Return the shortest way, the first found of equals."""
    came: dict[int, tuple[int, int, float]] = {start: (-1, -1, 0.0)}
    queue = deque([start])
    while goal not in came:
        node = queue.popleft()
        for other, pair, sign in near[node]:
            if other not in came:
                came[other] = node, pair, sign
                queue.append(other)
    way: Way = []
    node = goal
    while node != start:
        node, pair, sign = came[node]
        way.append((pair, sign))
    return way[::-1]


def closure(problem: Problem, covariance: csr_array) -> LoopClosure | None:
    """Return how well the loops of a component close; None where it has none.

    Parameters
    ----------
    problem
        The component, with all pairs that it might use.
    covariance
        Of the pairs, as :func:`~levelmatch_core.matching.solvers.seams.pair_covariance` gives it.
    """
    pairs = len(problem.rms)
    count = pairs - len(problem.names) + 1
    if count <= 0:
        return None
    first, second = problem.first.tolist(), problem.second.tolist()
    loops = independent_loops(len(problem.names), first, second, MOST_LOOPS)
    walk = _walk(problem, loops)
    sums = np.asarray(walk @ problem.delta.ravel())
    sigma = np.sqrt(np.asarray((walk @ covariance).multiply(walk).sum(axis=1)).ravel())
    size = np.abs(sums) / sigma
    scatter = float(np.median(size)) / NORMAL_MEDIAN
    failed = size > LIMIT * max(1.0, scatter)
    worst = np.argsort(-size, kind="stable")[:NAMED]
    names = problem.names
    return LoopClosure(
        tested=len(loops),
        untested=count - len(loops),
        scatter=scatter,
        failed=int(np.count_nonzero(failed)),
        worst=tuple(
            Loop(
                members=tuple(names[first[pair] if sign > 0 else second[pair]] for pair, sign in loops[loop]),
                sum=float(sums[loop]),
                sigma=float(sigma[loop]),
            )
            for loop in worst.tolist()
        ),
        suspects=_suspects(problem, loops, sums, sigma, failed),
    )


def _walk(problem: Problem, loops: list[Way]) -> csr_array:
    """Return (L, K k): from the pairs' coefficients to each loop's sum, taken about the mean of its centroids."""
    k = problem.k
    rows, columns, values = [], [], []
    for number, loop in enumerate(loops):
        members = [pair for pair, _ in loop]
        away = (problem.centroids[members].mean(axis=0) - problem.centroids[members]) / problem.scale
        terms = np.concatenate([np.ones((len(loop), 1)), away], axis=1)[:, :k]
        rows.append(np.full(len(loop) * k, number))
        columns.append((np.array(members)[:, None] * k + np.arange(k)).ravel())
        values.append((terms * np.array([sign for _, sign in loop])[:, None]).ravel())
    entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))
    return csr_array(coo_array(entries, shape=(len(loops), problem.delta.size)))


def _suspects(
    problem: Problem, loops: list[Way], sums: Array, sigma: Array, failed: NDArray[np.bool_]
) -> tuple[Suspect, ...]:
    """Name the pairs that explain the loops that fail, the one that explains most first.

    A pair's error is fitted to all loops that hold it; those are then out, and the next is looked for.
    """
    holding: dict[int, list[tuple[int, float]]] = {}
    for number, loop in enumerate(loops):
        for pair, sign in loop:
            holding.setdefault(pair, []).append((number, sign))
    open_loops = np.ones(len(loops), dtype=bool)
    found: list[Suspect] = []
    while len(found) < NAMED and np.any(failed & open_loops):
        inside = sorted({pair for loop in np.flatnonzero(failed & open_loops).tolist() for pair, _ in loops[loop]})
        explained: dict[int, tuple[float, float, int]] = {}
        for pair in inside:
            mine = [(loop, sign) for loop, sign in holding[pair] if open_loops[loop]]
            at, signs = np.array([loop for loop, _ in mine]), np.array([sign for _, sign in mine])
            precision = sigma[at] ** -2.0
            error = float(np.sum(precision * signs * sums[at]) / np.sum(precision))
            explained[pair] = error**2 * float(np.sum(precision)), error, int(np.count_nonzero(failed[at]))
        best = max(inside, key=lambda pair: explained[pair][0])
        alike = [pair for pair in inside if explained[pair][0] >= ALIKE * explained[best][0]]
        found.append(
            Suspect(
                pairs=tuple((problem.names[problem.first[one]], problem.names[problem.second[one]]) for one in alike),
                loops=explained[best][2],
                error=explained[best][1],
            )
        )
        for pair in alike:
            open_loops[[loop for loop, _ in holding[pair]]] = False
    return tuple(found)
