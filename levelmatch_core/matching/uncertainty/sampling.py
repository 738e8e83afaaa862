"""Which pairs the noise of each exposure affects, and how: the compiled functions."""

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.matching.model.frames import from_centroid
from levelmatch_core.matching.model.problem import Array, Index
from levelmatch_core.matching.model.sample_points import Shapes, holds
from levelmatch_core.matching.uncertainty.pair_noise import semidefinite_root
from levelmatch_core.matching.uncertainty.plain_sampling import roots_by_exposure, sums_by_link
from levelmatch_core.matching.uncertainty.scene import Lists, Scene
from levelmatch_core.process.compilation import njit
from levelmatch_core.process.small_work import compiled_when_large

PASSES = 20
"""For a point of a link; more than numpy takes, since who has many such links has them in the next run, too."""


# -- compiled: one pass over all points ------------------------------------------------------------------------------
@njit(nogil=True, cache=True, inline="always")
def _seen_by(  # noqa: PLR0917 - compiled  # pragma: no cover
    shapes: Shapes, parts: Lists, weight: Array, member: int, x: float, y: float
) -> float:
    """Return the sum of the weights of a member's exposures that contain a point; 0 for none."""
    edges, starts, boxes = shapes
    total = 0.0
    for place in range(parts[0][member], parts[0][member + 1]):
        one = parts[1][place]
        if boxes[one, 0] <= x <= boxes[one, 2] and boxes[one, 1] <= y <= boxes[one, 3]:
            total += weight[place] if holds(edges, starts[one], starts[one + 1], x, y) else 0.0
    return total


@njit(nogil=True, cache=True)
def _links_of(scene: Scene, one: int, pair_of: Index, side_of: Index) -> None:  # pragma: no cover - compiled
    """Write the pairs of an exposure's members, and on which side of them the member is, into the two arrays."""
    link = 0
    for place in range(scene.members[0][one], scene.members[0][one + 1]):
        member = scene.members[1][place]
        for at in range(scene.adjacent[0][member], scene.adjacent[0][member + 1]):
            pair_of[link] = scene.adjacent[2][at]
            side_of[link] = 0 if scene.first[scene.adjacent[2][at]] == member else 1
            link += 1


@njit(nogil=True, cache=True)
def _touched(  # noqa: PLR0917 - compiled  # pragma: no cover
    scene: Scene, one: int, x: float, y: float, links: Index, shares: Array
) -> int:
    """Find the links of an exposure whose overlap contains a point, and its weight in the mean; return their number."""
    edges, starts, _ = scene.shapes
    if not holds(edges, starts[one], starts[one + 1], x, y):
        return 0
    many, link = 0, 0
    for place in range(scene.members[0][one], scene.members[0][one + 1]):
        member, covered = scene.members[1][place], 0.0
        for at in range(scene.adjacent[0][member], scene.adjacent[0][member + 1]):
            if _seen_by(scene.shapes, scene.parts, scene.part_weight, scene.adjacent[1][at], x, y) > 0.0:
                if covered == 0.0:
                    covered = _seen_by(scene.shapes, scene.parts, scene.part_weight, member, x, y)
                links[many], shares[many] = link, scene.member_weight[place] / covered
                many += 1
            link += 1
    return many


@compiled_when_large(lambda scene, start: PASSES * int(start[-1]) * len(scene.unit), sums_by_link)
@njit(nogil=True, cache=True)
def sums(scene: Scene, start: Index) -> tuple[Index, Index, Index, Array, Array, Array]:  # pragma: no cover
    """Return the fields of `_Links`."""
    unit, boxes, links = scene.unit, scene.shapes[2], start[-1]
    pair_of, side_of = np.empty(links, dtype=np.int64), np.empty(links, dtype=np.int64)
    count, area = np.zeros(links, dtype=np.int64), np.zeros(links)
    power, share = np.zeros(links), np.zeros((links, 3, 3))
    basis = np.ones(3)
    for one in range(len(start) - 1):
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
                right, up = from_centroid(scene.views, pair, side_of[link], x, y)
                basis[1], basis[2] = right / scene.scales[pair], up / scene.scales[pair]
                count[link] += 1
                area[link] += cell * shares[t]
                power[link] += (scene.amplitude[one] * shares[t]) ** 2
                for a in range(3):
                    for b in range(3):
                        share[link, a, b] += cell * shares[t] * basis[a] * basis[b]
    return pair_of, side_of, count, area, power, share


@njit(nogil=True, cache=True)
def _columns_of(pair_of: Index, seen: NDArray[np.bool_], rows: Index, slot_of: Index, column_of: Index) -> int:
    """Assign rows of y to each link of an exposure; return the number of rows that its noise affects."""
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
    scene: Scene, one: int, links: tuple[Index, Index, Index], matched: Array, rows: Index, wide: int
) -> Array:
    """Return the lower triangle of the covariance of the rows of y that an exposure's noise affects."""
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
            right, up = from_centroid(scene.views, pair, side_of[found[t]], x, y)
            basis[1], basis[2] = right / scene.scales[pair], up / scene.scales[pair]
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


@compiled_when_large(lambda scene, start, *_: PASSES * int(start[-1]) * len(scene.unit), roots_by_exposure)
@njit(nogil=True, cache=True)
def roots(
    scene: Scene, start: Index, matched: Array, seen: NDArray[np.bool_], rows: Index
) -> tuple[Array, Index, Index]:
    """Return the response to the noise of all exposures in turn: values, columns (rows of y), row starts (sources).

    The noise of an exposure affects the pairs of all members that contain it. The columns of the Cholesky factor of
    their covariance are the responses to independent sources.
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
        semidefinite_root(gram)
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
    for at in range(numbers.size):  # assigned as a slice, it has numba compile the text of an error about shapes
        longer[at] = numbers[at]
    return longer
