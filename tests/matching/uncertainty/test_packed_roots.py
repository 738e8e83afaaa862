"""The compiled products with packed factors, beside the dense factors; points in polygons, beside shapely."""

import numpy as np
import pytest
import shapely
from scipy.sparse import csr_array

from levelmatch_core.matching.model.frames import ONE_FRAME
from levelmatch_core.matching.model.sample_points import holds, shapes_of, spread_evenly
from levelmatch_core.matching.uncertainty.packed_roots import as_rows, covariance_times, spread
from levelmatch_core.matching.uncertainty.pair_noise import _inside, semidefinite_root


class Packed:
    """Drawn factors of the members of a graph, packed and dense: of some there are more rows than points."""

    def __init__(self, seed: int, k: int, points: int) -> None:
        rng = np.random.default_rng(seed)
        self.k, self.points, degrees = k, points, np.array([2, 0, 5, 1, 9])
        self.begin = np.concatenate([[0], np.cumsum(degrees)])
        self.pairs = 12
        self.number = np.concatenate([rng.choice(self.pairs, d, replace=False) for d in degrees]).astype(np.int64)
        starts, packed, columns = [0], [], []
        for member, degree in enumerate(degrees):
            wide = k * degree
            dense = rng.standard_normal((wide, min(wide, points)))
            if wide <= points:
                dense = np.tril(dense)
                packed += [dense[r, c] for r in range(wide) for c in range(r + 1)]
            else:
                packed += dense.ravel().tolist()
            starts.append(len(packed))
            whole = np.zeros((self.pairs * k, dense.shape[1]))
            for place in range(degree):
                pair = self.number[self.begin[member] + place]
                whole[pair * k : (pair + 1) * k] = dense[place * k : (place + 1) * k]
            columns.append(whole)
        self.roots = (np.array(starts), np.array(packed), points)
        self.factor = np.concatenate(columns, axis=1)
        self.rng = rng


@pytest.mark.parametrize(("k", "points"), [(1, 100), (1, 4), (3, 100), (3, 7)])
def test_products_are_those_of_the_dense_factor(k, points):
    packed = Packed(1, k, points)
    noise = packed.rng.standard_normal(packed.factor.shape[1])
    drawn = np.zeros((packed.pairs, k))
    spread(packed.begin, packed.number, packed.roots, noise, drawn)
    np.testing.assert_allclose(drawn.ravel(), packed.factor @ noise, atol=1e-12)
    values, product = packed.rng.standard_normal((packed.pairs, k)), np.zeros((packed.pairs, k))
    covariance_times(packed.begin, packed.number, packed.roots, values, product)
    np.testing.assert_allclose(product.ravel(), packed.factor @ (packed.factor.T @ values.ravel()), atol=1e-12)
    data, columns, starts = as_rows(packed.begin, packed.number, packed.roots, k)
    rows = csr_array((data, columns, starts), shape=(len(starts) - 1, packed.pairs * k))
    np.testing.assert_allclose(rows.toarray(), packed.factor.T, atol=1e-12)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_the_factor_of_a_semidefinite_matrix_gives_it_back(rank):
    rng = np.random.default_rng(rank)
    half = rng.standard_normal((6, rank))
    matrix = half @ half.T
    root = np.tril(matrix)
    semidefinite_root(root)
    np.testing.assert_allclose(np.tril(root) @ np.tril(root).T, matrix, atol=1e-6)


def test_points_in_overlaps_are_those_that_shapely_finds():
    rng = np.random.default_rng(5)
    shapes = [
        shapely.affinity.translate(shapely.affinity.rotate(shapely.box(0, 0, 80, 60), rng.uniform(0, 90)), *place)
        for place in rng.uniform(0, 60, (5, 2))
    ]
    edges, starts, boxes = packed = shapes_of(np.array(shapes, dtype=object))
    unit, ends = spread_evenly(300), np.array([(i, j) for i in range(5) for j in range(i + 1, 5)])
    centroids, scale = rng.uniform(0, 100, (len(ends), 2)), 40.0
    count, sums = _inside(unit, packed, ends, np.ascontiguousarray(ends[:, ::-1]), ONE_FRAME.views(centroids), scale, 3)
    for pair, members in enumerate(ends):
        for side in range(2):
            mine, other = members[side], members[1 - side]
            points = boxes[mine, :2] + unit * (boxes[mine, 2:] - boxes[mine, :2])
            inside = shapely.contains_xy(shapes[other], points[:, 0], points[:, 1])
            basis = np.column_stack([np.ones(inside.sum()), (points[inside] - centroids[pair]) / scale])
            assert count[pair, side] == inside.sum()
            np.testing.assert_allclose(sums[pair, side], basis.T @ basis, atol=1e-9)
    x, y = shapes[0].centroid.coords[0]
    assert holds(edges, starts[0], starts[1], x, y)
    assert not holds(edges, starts[0], starts[1], x + 500, y)
