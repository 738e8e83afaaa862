"""In which order members are eliminated, and what fills in: the plan of a sparse factorisation, without its numbers.

Members are halved again and again (nested dissection: George 1973, SIAM J. Numer. Anal. 10, 345): those of the upper
half that have a neighbour in the lower come last, and nothing joins the halves then. What such a border, or a part that
is too small to be halved, leaves is one node of a tree: its members are eliminated together, and what that fills in
lies among the members above it that the node or its children touch (Liu 1992, SIAM Review 34, 82).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numba import njit

from levelmatch_core.matching.graph_kernels import Flags, Floats, Index, neighbours

LEAF = 12
"""Parts of so many members are not halved: dense algebra is cheaper there."""
WIDE = 10.0
"""A member with pairs beyond this times the root of all members' number is no neighbour but lies over all: it would
make a border of half of them, and is eliminated last (as minimum degree orderings do with dense rows: Amestoy, Davis
and Duff 1996, SIAM J. Matrix Anal. Appl. 17, 886)."""

Plan = tuple[Index, Index, Index, Index, Index, Index]
"""Order, starts, parent, row starts, rows and places of an elimination."""
Graph = tuple[Index, Index, Index, Index]
"""Where each member's list starts, the members beside it, the pairs that join them; the first member of each pair."""


@dataclass(frozen=True)
class Elimination:
    """The plan of a factorisation."""

    order: Index
    """(N,) members, the first to be eliminated first."""
    starts: Index
    """(S + 1,) where each node's members start in the order; children come before their parents."""
    parent: Index
    """(S,) the node above, -1 where none is."""
    row_starts: Index
    """(S + 1,) where each node's rows start."""
    rows: Index
    """Places in the order, sorted, of the members above each node that its elimination touches."""
    graph: Graph
    """The pairs that count: neither of whose members is held."""

    @classmethod
    def of(cls, centres: Floats, first: Index, second: Index, fixed: Flags) -> "Elimination":
        """Plan the elimination of a graph.

        Parameters
        ----------
        centres
            (N, 2) places: near members should be those that have pairs. Members on one place are halved by their
            distance in the graph.
        first, second
            (K,) members of each pair.
        held
            (N,) members that are no unknowns; one of them may have pairs with all others.
        """
        counting = np.flatnonzero(~(fixed[first] | fixed[second]))
        begin, beside, number = neighbours(len(centres), first[counting], second[counting])
        wide = np.diff(begin) > WIDE * len(centres) ** 0.5
        near = counting[~(wide[first[counting]] | wide[second[counting]])]
        start, close, _ = neighbours(len(centres), first[near], second[near]) if wide.any() else (begin, beside, number)
        order, low, up = _bisected(np.flatnonzero(~wide), centres, start, close, LEAF)
        if wide.any():  # one more node, above all others
            up = np.append(np.where(up < 0, len(up), up), -1)
            low = np.append(low, len(order))
            order = np.concatenate([order, np.flatnonzero(wide)])
        by_place = np.argsort(low, kind="stable")
        rank = np.empty(len(low) + 1, dtype=np.int64)
        rank[by_place], rank[-1] = np.arange(len(low)), -1  # who has no parent keeps none
        starts, parent = np.append(low[by_place], len(order)), rank[up[by_place]]
        row_starts, rows = _with_fill_in(starts, parent, order, begin, beside)
        return cls(order, starts, parent, row_starts, rows, (begin, beside, counting[number], first))

    @cached_property
    def place(self) -> Index:
        """(N,) where each member is in the order."""
        place = np.empty_like(self.order)
        place[self.order] = np.arange(len(self.order))
        return place

    @property
    def widest(self) -> int:
        """Most members and rows of a node."""
        return int(np.max(np.diff(self.starts) + np.diff(self.row_starts)))

    @property
    def arrays(self) -> Plan:
        """The same as the compiled loops take it."""
        return self.order, self.starts, self.parent, self.row_starts, self.rows, self.place


@njit(nogil=True, cache=True)
def _distances(here: Index, start: Index, beside: Index, inside: Index, part: int) -> Floats:  # pragma: no cover
    """Return steps of the graph from a member that is far out to each member of a part, -1 where no way leads."""
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
                other = beside[place]
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
    here: Index, centres: Floats, start: Index, beside: Index, inside: Index, part: int
) -> Floats:
    """Return where each member of a part lies along the longer side of the box around them."""
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
    return _distances(here, start, beside, inside, part)


@njit(nogil=True, cache=True)
def _parted(  # noqa: C901, PLR0917 - compiled  # pragma: no cover
    here: Index, values: Floats, start: Index, beside: Index, below: Index, part: int, turned: Index
) -> tuple[int, int]:
    """Put a part's members into `turned`, the lower half first, the border last; return where these end and begin."""
    middle, least, more = float(np.median(values)), values.min(), np.inf
    if middle == least:  # half of the members share the lowest place
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
            if below[beside[place]] == part:
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
    members: Index, centres: Floats, start: Index, beside: Index, leaf: int
) -> tuple[Index, Index, Index]:
    """Return the order of some members, and where each node's members start and the node above."""
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
            values = _along(here, centres, start, beside, inside, number)
            lower, inner = _parted(here, values, start, beside, below, number, order[low:high])
        if not 0 < lower < high - low:  # too few to be halved, or all neighbours of all
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
    starts: Index, parent: Index, order: Index, begin: Index, beside: Index
) -> tuple[Index, Index]:
    """Return where each node's rows start, and the rows."""
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
                q = place[beside[e]]
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
