"""Sampling the noise of few exposures by numpy, point for point what the compiled functions of `sampling` do.

As in :mod:`levelmatch_core.matching.uncertainty.plain_points`: sums are made in the order of the loops.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.matching.model.problem import Array, Index
from levelmatch_core.matching.model.sample_points import plain_holds
from levelmatch_core.matching.uncertainty.plain_points import lower_root, summed_products
from levelmatch_core.matching.uncertainty.scene import Scene


def sums_by_link(scene: Scene, start: Index) -> tuple[Index, Index, Index, Array, Array, Array]:
    """Return what :func:`levelmatch_core.matching.uncertainty.sampling.sums` does."""
    links = int(start[-1])
    pair_of, side_of = np.empty(links, dtype=np.int64), np.empty(links, dtype=np.int64)
    count, area = np.zeros(links, dtype=np.int64), np.zeros(links)
    power, share = np.zeros(links), np.zeros((links, 3, 3))
    for one in range(len(start) - 1):
        mine = slice(start[one], start[one + 1])
        found = _Links.of(scene, one)
        pair_of[mine], side_of[mine] = found.pair, found.side
        x_low, y_low, x_high, y_high = scene.shapes[2][one].tolist()
        here = (x_high - x_low) * (y_high - y_low) / len(scene.unit) * found.share
        basis = (1.0, *found.steps(scene))
        count[mine] = np.bincount(found.link, minlength=len(found.pair))
        area[mine] = found.summed(here)
        power[mine] = found.summed((scene.amplitude[one] * found.share) ** 2)
        for a in range(3):
            for b in range(3):
                share[mine, a, b] = found.summed(here * basis[a] * basis[b])
    return pair_of, side_of, count, area, power, share


def roots_by_exposure(
    scene: Scene, start: Index, matched: Array, seen: NDArray[np.bool_], rows: Index
) -> tuple[Array, Index, Index]:
    """Return what :func:`levelmatch_core.matching.uncertainty.sampling.roots` does."""
    values, columns, counts = [np.empty(0)], [np.empty(0, dtype=np.int64)], [np.zeros(1, dtype=np.int64)]
    for one in range(len(start) - 1):
        found = _Links.of(scene, one)
        size = np.where(seen[found.pair], rows[found.pair + 1] - rows[found.pair], 0)
        slot = np.cumsum(size) - size
        column = np.repeat(rows[found.pair] - slot, size) + np.arange(size.sum())
        gram = _gram_of(scene, one, found, matched, size, slot)
        lower_root(gram)
        upper = np.triu(gram.T)
        row, at = np.nonzero(upper)
        values.append(upper[row, at])
        columns.append(column[at])
        counts.append(np.bincount(row, minlength=len(gram)))
    return np.concatenate(values), np.concatenate(columns), np.cumsum(np.concatenate(counts))


@dataclass(frozen=True)
class _Links:
    """The links of an exposure, and the points that lie in their overlaps: link by link, in the order of the points."""

    pair: Index
    """(L,) as in `sampling`; so is `side`."""
    side: Index
    point: Index
    """(N,) number of each point, and its link, place and weight in the mean of the member."""
    link: Index
    x: Array
    y: Array
    share: Array

    @classmethod
    def of(cls, scene: Scene, one: int) -> "_Links":
        """Find the links of an exposure, and their points."""
        edges, starts, boxes = scene.shapes
        left, bottom, right, top = boxes[one].tolist()
        x, y = left + scene.unit[:, 0] * (right - left), bottom + scene.unit[:, 1] * (top - bottom)
        inside = np.flatnonzero(plain_holds(edges[starts[one] : starts[one + 1]], x, y))
        covers = _Covers(scene, x[inside], y[inside])
        places = range(scene.members[0][one], scene.members[0][one + 1])
        members = scene.members[1][places.start : places.stop].tolist()
        begin, other, number = scene.adjacent
        at = np.concatenate([np.arange(begin[member], begin[member + 1]) for member in members] or [np.arange(0)])
        touched = np.array([covers.of(neighbour) > 0.0 for neighbour in other[at].tolist()], dtype=np.bool_)
        link, held = np.nonzero(touched.reshape(len(at), len(inside)))
        owner = np.repeat(np.arange(len(members)), [begin[member + 1] - begin[member] for member in members])
        covered = np.array([covers.of(member) for member in members]).reshape(len(members), len(inside))
        share = scene.member_weight[places.start + owner[link]] / covered[owner[link], held]
        pair = number[at]
        side = np.where(scene.first[pair] == np.array(members, dtype=np.int64)[owner], 0, 1)
        return cls(pair, side, inside[held], link, x[inside[held]], y[inside[held]], share)

    def steps(self, scene: Scene) -> tuple[Array, Array]:
        """Return the steps from the centroids of the pairs to the points, in units of their scales."""
        places, back = scene.views
        pair, side = self.pair[self.link], self.side[self.link]
        right, up = self.x - places[pair, side, 0], self.y - places[pair, side, 1]
        if len(back):
            turn = back[pair, side]
            right, up = turn[:, 0, 0] * right + turn[:, 0, 1] * up, turn[:, 1, 0] * right + turn[:, 1, 1] * up
        return right / scene.scales[pair], up / scene.scales[pair]

    def summed(self, values: Array) -> Array:
        """Return (L,) the sums of values over the points of each link."""
        return np.asarray(np.bincount(self.link, weights=values, minlength=len(self.pair)), dtype=float)


class _Covers:
    """How much of each member covers some points, found once.

    Parameters
    ----------
    scene
        The members.
    x, y
        The points.
    """

    def __init__(self, scene: Scene, x: Array, y: Array) -> None:
        self._scene, self._x, self._y = scene, x, y
        self._known: dict[int, Array] = {}
        self._held: dict[int, NDArray[np.bool_]] = {}

    def of(self, member: int) -> Array:
        """Return the sum of the weights of a member's exposures that contain each point."""
        if member not in self._known:
            begin, parts = self._scene.parts
            total = np.zeros(len(self._x))
            for place in range(begin[member], begin[member + 1]):
                total += np.where(self._is_in(int(parts[place])), self._scene.part_weight[place], 0.0)
            self._known[member] = total
        return self._known[member]

    def _is_in(self, one: int) -> NDArray[np.bool_]:
        """Return which points an exposure contains, its box and its outline."""
        if one not in self._held:
            edges, starts, boxes = self._scene.shapes
            left, bottom, right, top = boxes[one].tolist()
            boxed = (left <= self._x) & (self._x <= right) & (bottom <= self._y) & (self._y <= top)
            if boxed.any():
                boxed &= plain_holds(edges[starts[one] : starts[one + 1]], self._x, self._y)
            self._held[one] = boxed
        return self._held[one]


def _gram_of(  # noqa: PLR0917 - those of the compiled function
    scene: Scene, one: int, found: _Links, matched: Array, size: Index, slot: Index
) -> Array:
    """Return what :func:`levelmatch_core.matching.uncertainty.sampling._gram_of` does."""
    noise = np.zeros((int(size.sum()), len(scene.unit)))
    basis = (np.ones(len(found.link)), *found.steps(scene))
    of_pair = matched[found.pair, found.side][found.link]
    for a in range(3):
        mine = np.flatnonzero(size[found.link] > a)
        link, k = found.link[mine], size[found.link[mine]]
        total = np.zeros(len(mine))
        for b in range(3):
            inner = np.flatnonzero(k > b)
            total[inner] += of_pair[mine[inner], a, b] * basis[b][mine[inner]]
        noise[slot[link] + a, found.point[mine]] = total * scene.amplitude[one] * found.share[mine]
    return summed_products(noise)
