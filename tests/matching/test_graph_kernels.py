"""The compiled walks over the graph, beside plain twins."""

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from levelmatch_core.matching.graph_kernels import agreeing_moves, bridge_flags, neighbours


def drawn(seed, n=12, pairs=16):
    rng = np.random.default_rng(seed)
    ends = np.sort(rng.integers(0, n, (pairs, 2)), axis=1)
    ends = np.unique(ends[ends[:, 0] != ends[:, 1]], axis=0)
    return n, ends[:, 0].copy(), ends[:, 1].copy(), rng


def components(n, first, second):
    return connected_components(coo_array((np.ones(len(first)), (first, second)), shape=(n, n)), directed=False)[0]


@pytest.mark.parametrize("seed", range(20))
def test_neighbours_are_those_of_the_adjacency_matrix(seed):
    n, first, second, _ = drawn(seed)
    starts, others, pairs = neighbours(n, first, second)
    for member in range(n):
        found = sorted(
            zip(others[starts[member] : starts[member + 1]], pairs[starts[member] : starts[member + 1]], strict=True)
        )
        ends = [(b, k) for k, (a, b) in enumerate(zip(first, second, strict=True)) if a == member]
        ends += [(a, k) for k, (a, b) in enumerate(zip(first, second, strict=True)) if b == member]
        assert found == sorted(ends)


@pytest.mark.parametrize("seed", range(40))
def test_a_bridge_is_a_pair_without_which_there_is_one_component_more(seed):
    n, first, second, _ = drawn(seed, pairs=14)
    whole = components(n, first, second)
    expected = [components(n, np.delete(first, k), np.delete(second, k)) > whole for k in range(len(first))]
    np.testing.assert_array_equal(bridge_flags(n, first, second), expected)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("seed", range(5))
def test_members_move_to_where_their_truncated_squares_are_least(seed, k):
    n, first, second, rng = drawn(seed, n=8, pairs=20)
    count, limit = len(first), 2.0
    left = rng.standard_normal((count, k)) * 3
    roots = rng.standard_normal((count, k, k))
    moments = roots @ roots.transpose(0, 2, 1) + np.eye(k)
    variance, free = rng.uniform(0.5, 2, count), rng.random(n) < 0.8
    expected = left.copy()

    def cost(member, shift):
        total = 0.0
        for pair in np.flatnonzero((first == member) | (second == member)):
            moved = expected[pair].copy()
            moved[0] -= shift if second[pair] == member else -shift
            total += min(moved @ moments[pair] @ moved / variance[pair], limit**2)
        return total

    for member in np.flatnonzero(free):
        mine = np.flatnonzero((first == member) | (second == member))
        shifts = [0.0] + [expected[p, 0] * (1.0 if second[p] == member else -1.0) for p in mine]
        taken = shifts[int(np.argmin([cost(member, shift) for shift in shifts]))]
        for pair in mine:
            expected[pair, 0] -= taken if second[pair] == member else -taken
    agreeing_moves(left, moments, variance, (first, second), free, limit)
    np.testing.assert_allclose(left, expected, atol=1e-12)
