"""A sparse Cholesky factorisation over members and pairs: one dense front a node of the elimination tree.

A front holds a node's own unknowns and the rows above that they touch. What its children leave is added to it, its own
unknowns are eliminated in panels, and what is left goes to its parent (multifrontal method: Duff and Reid 1983, ACM
Trans. Math. Softw. 9, 302). Of each panel the inverse of its triangle and the rows below are kept, so that a solve is
products of dense matrices and nothing else.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from levelmatch_core.matching.graph_kernels import Floats, Index
from levelmatch_core.matching.linear.nested_dissection import Elimination, Graph, Plan

PANEL = 96
"""Unknowns that are eliminated at a time."""
ROWS = 128
"""Rows that are updated at a time: they stay in the cache."""
SINGULAR = 1e-13
"""A pivot below this, of a matrix of unit diagonal, is rounding: its unknown is not determined."""
UNDETERMINED = 1e64
"""What stands in place of the root of such a pivot: the unknown comes out 0."""


@dataclass(frozen=True)
class Cholesky:
    """The factors of D A D, D being diagonal; the unknowns at which D is 0 are taken out."""

    plan: Elimination
    scaling: Floats
    """(N, k) D."""
    numbers: Floats
    """The panels one after another, each the inverse of its triangle and the rows below."""
    missing: int
    """Pivots that vanish: unknowns that nothing determines."""
    logarithm: float
    """Of the determinant of D A D, vanishing pivots left out."""

    @classmethod
    def of(cls, plan: Elimination, own: Floats, across: Floats, scaling: Floats) -> "Cholesky":
        """Factorise.

        Parameters
        ----------
        plan
            Of the graph of members and pairs.
        own
            (N, k, k) A's diagonal blocks.
        across
            (K, k, k) A's block in the row of each pair's first and the column of its second member.
        scaling
            (N, k) D, about the inverse root of A's diagonal; 0 takes an unknown out.
        """
        return cls(plan, scaling, *_factorise(plan.arrays, plan.graph, own, across, scaling))

    def solve(self, right: Floats) -> Floats:
        """Return A^-1 times right-hand sides (N k,) or (N k, M); what was taken out is 0."""
        scaling = self.scaling.reshape(-1, *(1,) * (right.ndim - 1))
        return self.apply(right * scaling) * scaling

    def apply(self, right: Floats) -> Floats:
        """Return (D A D)^-1 times right-hand sides (N k,) or (N k, M); what was taken out stays as it is."""
        n, k = self.scaling.shape
        columns = right.reshape(n, k, -1)[self.plan.order].reshape(n * k, -1)
        _solve((self.plan.starts, self.plan.row_starts, self.plan.rows), self.plan.widest * k, self.numbers, k, columns)
        solved = np.empty((n, k, columns.shape[1]))
        solved[self.plan.order] = columns.reshape(solved.shape)
        return solved.reshape(right.shape)


@njit(nogil=True, cache=True)
def _sizes(
    starts: Index, parent: Index, row_starts: Index, k: int
) -> tuple[int, int, int, int, int]:  # pragma: no cover
    """Return panels, numbers in the factor, the largest front, the largest panel below, and the most that waits."""
    panels, numbers, widest, tallest, waiting, most = 0, 0, 0, 0, 0, 0
    fixed = np.zeros(parent.size + 1, dtype=np.int64)
    for node in range(parent.size):
        own, rows = k * (starts[node + 1] - starts[node]), k * (row_starts[node + 1] - row_starts[node])
        widest = max(widest, own + rows)
        for low in range(0, own, PANEL):
            width = min(PANEL, own - low)
            panels += 1
            numbers += width * (own + rows - low)
            tallest = max(tallest, own + rows - low - width)
        waiting -= fixed[node]
        left = rows * (rows + 1) // 2
        fixed[parent[node]] += left  # of no parent: the last place
        waiting += left
        most = max(most, waiting)
    return panels, numbers, widest, tallest, most


@njit(nogil=True, cache=True)
def _eliminate(  # noqa: C901 - compiled: two loops  # pragma: no cover
    triangle: Floats, inverse: Floats
) -> tuple[int, float]:
    """Take the Cholesky root of a lower triangle in its place; put the root's inverse into `inverse`.

    Returns how many pivots vanish, and the logarithm of the product of the others.
    """
    n = len(triangle)
    missing, logarithm = 0, 0.0
    for j in range(n):
        pivot = triangle[j, j]
        for c in range(j):
            pivot -= triangle[j, c] * triangle[j, c]
        if pivot > SINGULAR:
            root = np.sqrt(pivot)
            logarithm += np.log(pivot)
        else:
            root = UNDETERMINED
            missing += 1
        triangle[j, j] = root
        for i in range(j + 1, n):
            value = triangle[i, j]
            for c in range(j):
                value -= triangle[i, c] * triangle[j, c]
            triangle[i, j] = value / root
    for i in range(n):
        for j in range(i):
            inverse[i, j] = 0.0
        for c in range(i):
            factor = triangle[i, c]
            for j in range(c + 1):
                inverse[i, j] -= factor * inverse[c, j]
        for j in range(i):
            inverse[i, j] /= triangle[i, i]
        inverse[i, i] = 1.0 / triangle[i, i]
        for j in range(i + 1, n):
            inverse[i, j] = 0.0
    return missing, logarithm


@njit(nogil=True, cache=True)
def _factorise(  # noqa: C901, PLR0912, PLR0915 - compiled: one loop over the nodes  # pragma: no cover
    plan: Plan, graph: Graph, own_blocks: Floats, pair_blocks: Floats, scaling: Floats
) -> tuple[Floats, int, float]:
    """Return the numbers of a factor, the pivots that vanish, and the determinant's logarithm."""
    order, starts, parent, row_starts, rows, place = plan
    begin, beside, number, first = graph
    k = own_blocks.shape[1]
    _, size, widest, tallest, most = _sizes(starts, parent, row_starts, k)
    numbers = np.empty(size)
    work, waiting = np.empty(widest * widest), np.empty(most)
    column, product = np.empty(max(1, tallest) * PANEL), np.empty(ROWS * max(1, tallest))
    triangles, inverses = np.empty(PANEL * PANEL), np.empty(PANEL * PANEL)
    local = np.zeros(order.size, dtype=np.int64)
    last_child, sibling = np.full(parent.size, -1), np.full(parent.size, -1)
    at, top, missing, logarithm = 0, 0, 0, 0.0
    for node in range(parent.size):
        low, high = starts[node], starts[node + 1]
        mine = rows[row_starts[node] : row_starts[node + 1]]
        inner = high - low
        size = k * (inner + mine.size)
        front = work[: size * size].reshape(size, size)
        for i in range(size):
            for j in range(i + 1):
                front[i, j] = 0.0
        for p in range(low, high):
            local[p] = p - low
        for i in range(mine.size):
            local[mine[i]] = inner + i
        for p in range(low, high):
            member, j = order[p], k * (p - low)
            for a in range(k):
                for b in range(a + 1):
                    front[j + a, j + b] = own_blocks[member, a, b] * scaling[member, a] * scaling[member, b]
                if scaling[member, a] == 0:
                    front[j + a, j + a] = 1.0
            for e in range(begin[member], begin[member + 1]):
                other = beside[e]
                if place[other] < p:
                    continue
                pair, i = number[e], k * local[place[other]]
                turned = first[pair] == member
                for a in range(k):
                    for b in range(k):
                        value = pair_blocks[pair, b, a] if turned else pair_blocks[pair, a, b]
                        front[i + a, j + b] += value * scaling[other, a] * scaling[member, b]
        below = last_child[node]
        while below >= 0:
            theirs = rows[row_starts[below] : row_starts[below + 1]]
            top -= k * theirs.size * (k * theirs.size + 1) // 2
            source = top
            for i in range(theirs.size):
                to = k * local[theirs[i]]
                for a in range(k):
                    for j in range(i):
                        across = k * local[theirs[j]]
                        for b in range(k):
                            front[to + a, across + b] += waiting[source]
                            source += 1
                    for b in range(a + 1):
                        front[to + a, to + b] += waiting[source]
                        source += 1
            below = sibling[below]
        own = k * inner
        for left in range(0, own, PANEL):
            width = min(PANEL, own - left)
            right = left + width
            tall = size - right
            triangle, inverse = (
                triangles[: width * width].reshape(width, width),
                inverses[: width * width].reshape(width, width),
            )
            for i in range(width):
                for j in range(i + 1):
                    triangle[i, j] = front[left + i, left + j]
            lost, part = _eliminate(triangle, inverse)
            missing += lost
            logarithm += part
            for i in range(width * width):
                numbers[at + i] = inverses[i]
            at += width * width
            if tall == 0:
                continue
            strip = column[: tall * width].reshape(tall, width)
            for i in range(tall):
                for j in range(width):
                    strip[i, j] = front[right + i, left + j]
            panel = numbers[at : at + tall * width].reshape(tall, width)
            np.dot(strip, inverse.T, panel)
            at += tall * width
            for i0 in range(0, tall, ROWS):
                i1 = min(i0 + ROWS, tall)
                update = product[: (i1 - i0) * i1].reshape(i1 - i0, i1)
                np.dot(panel[i0:i1], panel[:i1].T, update)
                for i in range(i0, i1):
                    for j in range(i + 1):
                        front[right + i, right + j] -= update[i - i0, j]
        for i in range(own, size):
            for j in range(own, i + 1):
                waiting[top] = front[i, j]
                top += 1
        if parent[node] >= 0:
            sibling[node] = last_child[parent[node]]
            last_child[parent[node]] = node
    return numbers, missing, logarithm


@njit(nogil=True, cache=True)
def _below(node: int, right: int, tree: tuple[Index, Index, Index], k: int, place: Index) -> int:  # pragma: no cover
    """Put the unknowns below a panel that ends at `right` into `place`; return how many."""
    starts, row_starts, rows = tree
    many = 0
    for unknown in range(right, k * starts[node + 1]):
        place[many] = unknown
        many += 1
    for i in range(row_starts[node], row_starts[node + 1]):
        for a in range(k):
            place[many] = k * rows[i] + a
            many += 1
    return many


@njit(nogil=True, cache=True)
def _solve(  # noqa: C901 - compiled: there and back  # pragma: no cover
    tree: tuple[Index, Index, Index], most: int, numbers: Floats, k: int, x: Floats
) -> None:
    """Solve for several right-hand sides (N k, M), in the order of the elimination, in their place."""
    starts = tree[0]
    at, nodes, several = 0, starts.size - 1, x.shape[1]
    place, above, new = np.empty(most, dtype=np.int64), np.empty(most * several), np.empty(PANEL * several)
    for node in range(nodes):
        for left in range(k * starts[node], k * starts[node + 1], PANEL):
            right = min(left + PANEL, k * starts[node + 1])
            width, tall = right - left, _below(node, right, tree, k, place)
            y = new[: width * several].reshape(width, several)
            np.dot(numbers[at : at + width * width].reshape(width, width), x[left:right], y)
            at += width * width
            for j in range(width):
                for m in range(several):
                    x[left + j, m] = y[j, m]
            change = above[: tall * several].reshape(tall, several)
            np.dot(numbers[at : at + tall * width].reshape(tall, width), y, change)
            at += tall * width
            for i in range(tall):
                for m in range(several):
                    x[place[i], m] -= change[i, m]
    for back in range(nodes):
        node = nodes - 1 - back
        low, high = k * starts[node], k * starts[node + 1]
        for left in range(low + (high - low - 1) // PANEL * PANEL, low - 1, -PANEL):
            right = min(left + PANEL, high)
            width, tall = right - left, _below(node, right, tree, k, place)
            gathered = above[: tall * several].reshape(tall, several)
            for i in range(tall):
                for m in range(several):
                    gathered[i, m] = x[place[i], m]
            y = new[: width * several].reshape(width, several)
            at -= tall * width
            np.dot(numbers[at : at + tall * width].reshape(tall, width).T, gathered, y)
            for j in range(width):
                for m in range(several):
                    y[j, m] = x[left + j, m] - y[j, m]
            at -= width * width
            np.dot(numbers[at : at + width * width].reshape(width, width).T, y, x[left:right])
