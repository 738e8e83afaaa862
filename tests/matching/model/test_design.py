"""The compiled products with the design matrix, beside the matrix itself."""

import numpy as np
import pytest

from levelmatch_core.matching.model.design import normal_blocks, pair_residuals, to_members, to_pairs


class Drawn:
    """A drawn geometry, and its design matrix B (K k, N k), written out."""

    def __init__(self, seed: int, k: int, *, turned: bool = False) -> None:
        rng = np.random.default_rng(seed)
        self.n, self.k, self.scale = 6, k, 37.0
        first, second = np.triu_indices(self.n, 1)
        keep = rng.random(first.size) < 0.7
        self.first, self.second = first[keep], second[keep]
        self.centres, self.centroids = rng.uniform(0, 300, (self.n, 2)), rng.uniform(0, 300, (keep.sum(), 2))
        pairs = len(self.first)
        places, turns = np.zeros((0, 2, 2)), np.zeros((0, 2, 2, 2))
        if turned:
            places, turns = rng.uniform(0, 300, (pairs, 2, 2)), rng.standard_normal((pairs, 2, 2, 2))
        self.geometry = (self.first, self.second, self.centres, self.centroids, places, turns, self.scale)
        self.design = np.zeros((pairs * k, self.n * k))
        for pair in range(pairs):
            for side, end, sign in ((0, self.first[pair], -1.0), (1, self.second[pair], 1.0)):
                shift = np.eye(k)
                if k == 3:
                    place = places[pair, side] if turned else self.centroids[pair]
                    shift[0, 1:] = (place - self.centres[end]) / self.scale
                    shift[1:, 1:] = turns[pair, side] if turned else np.eye(2)
                self.design[pair * k : (pair + 1) * k, end * k : (end + 1) * k] = sign * shift
        self.rng = rng


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_products_are_those_of_the_dense_design_matrix(seed, k, turned):
    drawn = Drawn(seed, k, turned=turned)
    pairs, n, design = len(drawn.first), drawn.n, drawn.design
    corrections = drawn.rng.standard_normal((n, k))
    delta = drawn.rng.standard_normal((pairs, k))
    expected = delta - (design @ corrections.ravel()).reshape(pairs, k)
    np.testing.assert_allclose(pair_residuals(drawn.geometry, delta, corrections), expected, atol=1e-10)
    several = drawn.rng.standard_normal((n, k, 4))
    np.testing.assert_allclose(
        to_pairs(drawn.geometry, several).reshape(pairs * k, 4), design @ several.reshape(n * k, 4), atol=1e-10
    )
    total = drawn.rng.standard_normal((n, k))
    added = total + (design.T @ delta.ravel()).reshape(n, k)
    to_members(drawn.geometry, delta, total)
    np.testing.assert_allclose(total, added, atol=1e-10)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("k", [1, 3])
def test_blocks_are_those_of_the_dense_normal_matrix(k, turned):
    drawn = Drawn(7, k, turned=turned)
    pairs, n = len(drawn.first), drawn.n
    roots = drawn.rng.standard_normal((pairs, k, k))
    weighted = roots @ roots.transpose(0, 2, 1)
    dense = np.zeros((pairs * k, pairs * k))
    for pair in range(pairs):
        dense[pair * k : (pair + 1) * k, pair * k : (pair + 1) * k] = weighted[pair]
    normal = (drawn.design.T @ dense @ drawn.design).reshape(n, k, n, k)
    own, across = normal_blocks(drawn.geometry, weighted)
    np.testing.assert_allclose(own, normal[np.arange(n), :, np.arange(n)], atol=1e-9)
    np.testing.assert_allclose(across, normal[drawn.first, :, drawn.second], atol=1e-9)
