"""Symbolic factorisation: the order in which members are eliminated, and the fill-in that this causes.

The members are bisected recursively (nested dissection: George 1973, SIAM J. Numer. Anal. 10, 345). Members of the
upper half that have a neighbour in the lower half form the separator, which is eliminated last, so that nothing
connects the two halves. Each separator, and each part that is too small to be bisected, is one node of the elimination
tree: its members are eliminated together, and the fill-in lies among the ancestors to which the node or its children
are coupled (Liu 1992, SIAM Review 34, 82).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from levelmatch_core.matching.graph_kernels import Flags, Floats, Index, neighbours
from levelmatch_core.process.compilation import njit

LEAF = 12
"""Parts of at most this many members are not bisected: dense algebra is cheaper there."""
WIDE = 10.0
"""A member with more pairs than this times sqrt(N) overlaps most of the others. It would put half of them into the
separator, and is eliminated last (as minimum degree orderings do with dense rows: Amestoy, Davis and Duff 1996, SIAM J.
Matrix Anal. Appl. 17, 886)."""

Plan = tuple[Index, Index, Index, Index, Index, Index]
"""Order, starts, parent, row starts, rows and positions of an elimination."""
Graph = tuple[Index, Index, Index, Index]
"""Adjacency lists: where each member's list starts, its neighbours, and the pairs that connect them; and the first
member of each pair."""


@dataclass(frozen=True)
class Elimination:
    """The symbolic factorisation."""

    order: Index
    """(N,) members in the order of elimination."""
    starts: Index
    """(S + 1,) where each node's members start in `order`; children come before their parents."""
    parent: Index
    """(S,) the parent of each node, -1 for a root."""
    row_starts: Index
    """(S + 1,) where each node's rows start."""
    rows: Index
    """Positions in `order`, sorted, of the members of ancestors that the elimination of each node affects."""
    graph: Graph
    """The pairs of which neither member is fixed."""

    @classmethod
    def of(cls, centres: Floats, first: Index, second: Index, fixed: Flags) -> "Elimination":
        """Find the order of elimination of a graph.

        Parameters
        ----------
        centres
            (N, 2) positions; members that form pairs should be near each other. Members at the same position are
            bisected by their distance in the graph.
        first, second
            (K,) the two members of each pair.
        fixed
            (N,) members that are not unknowns; one of them may form pairs with all others.
        """
        counting = np.flatnonzero(~(fixed[first] | fixed[second]))
        begin, adjacent, number = neighbours(len(centres), first[counting], second[counting])
        wide = np.diff(begin) > WIDE * len(centres) ** 0.5
        near = counting[~(wide[first[counting]] | wide[second[counting]])]
        narrow = neighbours(len(centres), first[near], second[near]) if wide.any() else (begin, adjacent, number)
        start, close, _ = narrow
        order, low, up = _bisected(np.flatnonzero(~wide), centres, start, close, LEAF)
        if wide.any():  # one more node, above all others
            up = np.append(np.where(up < 0, len(up), up), -1)
            low = np.append(low, len(order))
            order = np.concatenate([order, np.flatnonzero(wide)])
        by_place = np.argsort(low, kind="stable")
        rank = np.empty(len(low) + 1, dtype=np.int64)
        rank[by_place], rank[-1] = np.arange(len(low)), -1  # a root stays a root
        starts, parent = np.append(low[by_place], len(order)), rank[up[by_place]]
        row_starts, rows = _with_fill_in(starts, parent, order, begin, adjacent)
        return cls(order, starts, parent, row_starts, rows, (begin, adjacent, counting[number], first))

    @cached_property
    def place(self) -> Index:
        """(N,) position of each member in `order`."""
        place = np.empty_like(self.order)
        place[self.order] = np.arange(len(self.order))
        return place

    @property
    def widest(self) -> int:
        """Largest number of members and rows of a node."""
        return int(np.max(np.diff(self.starts) + np.diff(self.row_starts)))

    @property
    def arrays(self) -> Plan:
        """The plan in the form that the compiled functions take."""
        return self.order, self.starts, self.parent, self.row_starts, self.rows, self.place


@njit(nogil=True, cache=True)
def _distances(here: Index, start: Index, adjacent: Index, inside: Index, part: int) -> Floats:  # pragma: no cover
    """Return graph distances within a part from a peripheral member to each member; -1 where there is no path."""
    steps = np.full(inside.size, -1)
    queue, found = np.empty(here.size, dtype=np.int64), np.empty(here.size)
    source = here[0]
    for _ in range(2):
        steps[here] = -1
        steps[source] = 0
        queue[0], done, many = source, 0, 1
        while done < many:
            node = queue[done]
            done += 1
            for place in range(start[node], start[node + 1]):
                other = adjacent[place]
                if inside[other] == part and steps[other] < 0:
                    steps[other] = steps[node] + 1
                    queue[many] = other
                    many += 1
        source = queue[many - 1]
    for i in range(here.size):
        found[i] = steps[here[i]]
    return found


@njit(nogil=True, cache=True)
def _along(  # noqa: PLR0917 - compiled  # pragma: no cover
    here: Index, centres: Floats, start: Index, adjacent: Index, inside: Index, part: int
) -> Floats:
    """Return the coordinate of each member of a part along the longer side of their bounding box."""
    longest, values = 0.0, np.empty(here.size)
    for a in range(2):
        low, high = np.inf, -np.inf
        for i in range(here.size):
            low, high = min(low, centres[here[i], a]), max(high, centres[here[i], a])
        if high - low > longest:
            longest = high - low
            for i in range(here.size):
                values[i] = centres[here[i], a]
    if longest > 0:
        return values
    for i in range(here.size):
        inside[here[i]] = part
    return _distances(here, start, adjacent, inside, part)


@njit(nogil=True, cache=True)
def _parted(  # noqa: C901, PLR0917 - compiled  # pragma: no cover
    here: Index, values: Floats, start: Index, adjacent: Index, below: Index, part: int, turned: Index
) -> tuple[int, int]:
    """Write a part's members into `turned`: lower half, upper half, separator; return where the first two end."""
    middle, least, more = float(np.median(values)), values.min(), np.inf
    if middle == least:  # half of the members share the lowest coordinate
        for i in range(values.size):
            if values[i] > least:
                more = min(more, values[i])
        middle = more
    separator, lower, many = np.empty(here.size, dtype=np.int64), 0, 0
    for i in range(here.size):
        if values[i] < middle:
            below[here[i]] = part
            turned[lower] = here[i]
            lower += 1
    inner = lower
    for i in range(here.size):
        if values[i] < middle:
            continue
        apart = True
        for place in range(start[here[i]], start[here[i] + 1]):
            if below[adjacent[place]] == part:
                apart = False
                break
        if apart:
            turned[inner] = here[i]
            inner += 1
        else:
            separator[many] = here[i]
            many += 1
    for i in range(many):
        turned[inner + i] = separator[i]
    return lower, inner


@njit(nogil=True, cache=True)
def _bisected(  # pragma: no cover - compiled
    members: Index, centres: Floats, start: Index, adjacent: Index, leaf: int
) -> tuple[Index, Index, Index]:
    """Return the order of elimination of some members, and for each node where its members start, and its parent."""
    n, order = members.size, members.copy()
    below, inside = np.zeros(len(centres), dtype=np.int64), np.zeros(len(centres), dtype=np.int64)
    lows, ups, nodes = np.empty(n + 1, dtype=np.int64), np.empty(n + 1, dtype=np.int64), 0
    parts, waiting, number = np.empty((n + 2, 3), dtype=np.int64), 1, 0
    parts[0, 0], parts[0, 1], parts[0, 2] = 0, n, -1
    while waiting > 0:
        waiting -= 1
        low, high, up = parts[waiting, 0], parts[waiting, 1], parts[waiting, 2]
        number += 1
        lower, inner = 0, high - low
        if high - low > leaf:
            here = order[low:high].copy()
            values = _along(here, centres, start, adjacent, inside, number)
            lower, inner = _parted(here, values, start, adjacent, below, number, order[low:high])
        if not 0 < lower < high - low:  # too few to be bisected, or all are neighbours of all
            lower = inner = 0
        above = up
        if low + inner < high:
            lows[nodes], ups[nodes], above = low + inner, up, nodes
            nodes += 1
        if lower > 0:
            parts[waiting, 0], parts[waiting, 1], parts[waiting, 2] = low, low + lower, above
            waiting += 1
        if inner > lower:
            parts[waiting, 0], parts[waiting, 1], parts[waiting, 2] = low + lower, low + inner, above
            waiting += 1
    return order, lows[:nodes].copy(), ups[:nodes].copy()


@njit(nogil=True, cache=True)
def _with_fill_in(  # noqa: C901, PLR0912 - compiled: one loop  # pragma: no cover
    starts: Index, parent: Index, order: Index, begin: Index, adjacent: Index
) -> tuple[Index, Index]:
    """Return where each node's rows start, and the rows, fill-in included."""
    nodes = parent.size
    place = np.empty(order.size, dtype=np.int64)
    for p in range(order.size):
        place[order[p]] = p
    child, sibling = np.full(nodes, -1), np.full(nodes, -1)
    mark = np.full(order.size, -1)
    row_starts, rows, at = np.zeros(nodes + 1, dtype=np.int64), np.empty(4 * order.size + 16, dtype=np.int64), 0
    for node in range(nodes):
        stop, most = starts[node + 1], 0
        for p in range(starts[node], stop):
            most += begin[order[p] + 1] - begin[order[p]]
        below = child[node]
        while below >= 0:
            most += row_starts[below + 1] - row_starts[below]
            below = sibling[below]
        if at + most > rows.size:
            longer = np.empty(2 * rows.size + most, dtype=np.int64)
            for i in range(at):
                longer[i] = rows[i]
            rows = longer
        for p in range(starts[node], stop):
            for e in range(begin[order[p]], begin[order[p] + 1]):
                q = place[adjacent[e]]
                if q >= stop and mark[q] != node:
                    mark[q] = node
                    rows[at] = q
                    at += 1
        below = child[node]
        while below >= 0:
            for e in range(row_starts[below], row_starts[below + 1]):
                q = rows[e]
                if q >= stop and mark[q] != node:
                    mark[q] = node
                    rows[at] = q
                    at += 1
            below = sibling[below]
        rows[row_starts[node] : at].sort()
        row_starts[node + 1] = at
        if parent[node] >= 0:
            sibling[node] = child[parent[node]]
            child[parent[node]] = node
    return row_starts, rows[:at].copy()
