"""Sampling the noise of few members by numpy, point for point what the compiled functions of `pair_noise` do.

A first run would wait seconds for these to be compiled, and their interpreted loops over points would take longer than
all the rest of a solve. Sums are made in the order of the loops, so that all give the same bytes.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.matching.model.frames import Views
from levelmatch_core.matching.model.problem import Array, Index
from levelmatch_core.matching.model.sample_points import Shapes, points_within

NO_PIVOT = 1e-14
"""Pivots below this fraction of the largest are rounding errors."""
_AT_A_TIME = 1 << 17
"""So many products are summed together at most."""


def points_inside(  # noqa: PLR0917 - those of the compiled function
    unit: Array, shapes: Shapes, ends: Index, seen: Index, views: Views, scale: float, k: int
) -> tuple[Index, Array]:
    """Return what :func:`levelmatch_core.matching.uncertainty.pair_noise._inside` does."""
    count = np.zeros(ends.shape, dtype=np.int64)
    sums = np.zeros((len(ends), 2, k, k))
    bounds, _, all_x, all_y = points_within(unit, shapes, ends.ravel(), seen.ravel())
    for pair in range(len(ends)):
        for side in range(2):
            mine = slice(bounds[2 * pair + side], bounds[2 * pair + side + 1])
            x, y = all_x[mine], all_y[mine]
            count[pair, side] = x.size
            sums[pair, side, 0, 0] = x.size
            if k > 1 and x.size:
                right, up = _steps(views, pair, side, x, y)
                basis = np.stack([np.ones(x.size), right / scale, up / scale])
                sums[pair, side] = 0.0 + np.add.accumulate(basis[:, None] * basis, axis=2)[:, :, -1]
    return count, sums


def noise_by_member(  # noqa: PLR0917 - those of the compiled function
    unit: Array,
    shapes: Shapes,
    lists: tuple[Index, Index, Index],
    first: Index,
    views: Views,
    scale: float,
    matched: Array,
) -> tuple[Index, Array]:
    """Return what :func:`levelmatch_core.matching.uncertainty.pair_noise._by_member` does."""
    begin, adjacent, number = lists
    k, points = matched.shape[2], len(unit)
    wide = k * np.diff(begin)
    starts = np.concatenate([[0], np.cumsum(np.where(wide <= points, wide * (wide + 1) // 2, wide * points))])
    packed = np.zeros(starts[-1])
    members = np.repeat(np.arange(len(begin) - 1), np.diff(begin))
    bounds, point, all_x, all_y = points_within(unit, shapes, members, adjacent)
    for member in range(len(begin) - 1):
        noise = np.zeros((wide[member], points))
        for place in range(begin[member], begin[member + 1]):
            pair, slot = number[place], k * (place - begin[member])
            side = 0 if first[pair] == member else 1
            mine = slice(bounds[place], bounds[place + 1])
            held, steps = point[mine], _steps(views, pair, side, all_x[mine], all_y[mine]) if k > 1 else ()
            for a in range(k):
                value = matched[pair, side, a, 0]
                for b in range(1, k):
                    value = value + matched[pair, side, a, b] * steps[b - 1] / scale
                noise[slot + a, held] = value
        packed[starts[member] : starts[member + 1]] = _packed(noise)
    return starts, packed


def _packed(noise: Array) -> Array:
    """Return the packed root of the products of responses (wide, points), or these if there are fewer points."""
    wide, points = noise.shape
    if wide > points:
        return noise.ravel()
    gram = summed_products(noise)
    lower_root(gram)
    return gram[_lower_triangle(wide)]


def summed_products(noise: Array) -> Array:
    """Return (wide, wide) the sum over points of the products of responses (wide, points), 0 where there is none."""
    wide = len(noise)
    gram = np.zeros((wide, wide))
    columns, step = noise.T[noise.any(axis=0)], max(1, _AT_A_TIME // max(wide * wide, 1))
    finite = np.isfinite(columns).all()
    for start in range(0, len(columns), step):
        part = columns[start : start + step]
        products = part[:, :, None] * part[:, None]
        if not finite:  # infinite times nothing is nothing: no point has both
            products[~((part != 0)[:, :, None] & (part != 0)[:, None])] = 0.0
        products[0] += gram
        gram = np.add.accumulate(products, axis=0)[-1]
    return gram


@lru_cache(maxsize=64)
def _lower_triangle(wide: int) -> NDArray[np.bool_]:
    """Return where a matrix has its lower triangle; most members have as many pairs as others."""
    return np.tri(wide, dtype=np.bool_)


def lower_root(matrix: Array) -> None:
    """Do what :func:`levelmatch_core.matching.uncertainty.pair_noise.semidefinite_root` does."""
    least = NO_PIVOT * max(0.0, *np.diag(matrix).tolist()) if len(matrix) else 0.0
    for j in range(len(matrix)):
        if matrix[j, j] <= least:
            matrix[j:, j] = 0.0
            continue
        matrix[j, j] = np.sqrt(matrix[j, j])
        matrix[j + 1 :, j] /= matrix[j, j]
        for c in range(j + 1, len(matrix)):
            if matrix[c, j] != 0:
                matrix[c:, c] -= matrix[c:, j] * matrix[c, j]


def _steps(views: Views, pair: int, side: int, x: Array, y: Array) -> tuple[Array, Array]:
    """Return the steps from the centroid of a pair to points, as `frames.from_centroid` does."""
    places, back = views
    right, up = x - places[pair, side, 0], y - places[pair, side, 1]
    if len(back):
        turn = back[pair, side]
        return turn[0, 0] * right + turn[0, 1] * up, turn[1, 0] * right + turn[1, 1] * up
    return right, up
