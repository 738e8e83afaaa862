"""The compiled parts of the sparse factorisation, beside numpy's dense algebra."""

import numpy as np
import pytest

from levelmatch_core.matching.linear.cholesky import SINGULAR, Cholesky, _eliminate
from levelmatch_core.matching.linear.nested_dissection import Elimination


def a_matrix(seed, n=40, k=3, pairs=70):
    """Return drawn blocks, and the dense symmetric positive definite matrix that they make."""
    rng = np.random.default_rng(seed)
    tree = np.stack([rng.integers(0, np.arange(1, n)), np.arange(1, n)])
    more = np.sort(rng.integers(0, n, (2, pairs)), axis=0)
    ends = np.unique(np.concatenate([tree, more[:, more[0] != more[1]]], axis=1).T, axis=0)
    first, second = ends[:, 0].copy(), ends[:, 1].copy()
    across = 0.1 * rng.standard_normal((len(first), k, k))
    own = np.broadcast_to(np.eye(k), (n, k, k)).copy() * 2
    dense = np.zeros((n * k, n * k))
    for i in range(n):
        dense[i * k : (i + 1) * k, i * k : (i + 1) * k] = own[i]
    for pair, (i, j) in enumerate(ends):
        dense[i * k : (i + 1) * k, j * k : (j + 1) * k] += across[pair]
        dense[j * k : (j + 1) * k, i * k : (i + 1) * k] += across[pair].T
    return first, second, own, across, dense, rng


@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_a_triangle_is_factored_and_inverted_as_numpy_does(n):
    rng = np.random.default_rng(n)
    root = np.tril(rng.standard_normal((n, n))) + 3 * np.eye(n)
    triangle, inverse = np.tril(root @ root.T), np.empty((n, n))
    missing, logarithm = _eliminate(triangle, inverse)
    expected = np.linalg.cholesky(root @ root.T)
    np.testing.assert_allclose(np.tril(triangle), expected, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(inverse, np.linalg.inv(expected), rtol=1e-8, atol=1e-10)
    assert missing == 0
    assert logarithm == pytest.approx(np.linalg.slogdet(root @ root.T)[1])


def test_a_pivot_that_vanishes_is_counted_and_its_unknown_is_zero():
    triangle = np.array([[1.0, 0.0], [1.0, 1.0 + SINGULAR / 10]])
    missing, _ = _eliminate(triangle, np.empty((2, 2)))
    assert missing == 1


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_solutions_and_determinant_are_those_of_the_dense_matrix(seed, k):
    first, second, own, across, dense, rng = a_matrix(seed, k=k)
    n = len(own)
    plan = Elimination.of(rng.uniform(0, 100, (n, 2)), first, second, np.zeros(n, dtype=bool))
    scaling = np.full((n, k), 2.0**-0.5)
    factor = Cholesky.of(plan, own, across, scaling)
    right = rng.standard_normal((n * k, 3))
    np.testing.assert_allclose(factor.solve(right), np.linalg.solve(dense, right), atol=1e-10)
    np.testing.assert_allclose(factor.solve(right[:, 0]), np.linalg.solve(dense, right[:, 0]), atol=1e-10)
    scaled = dense * scaling.reshape(-1, 1) * scaling.reshape(1, -1)
    assert factor.logarithm == pytest.approx(np.linalg.slogdet(scaled)[1])


@pytest.mark.parametrize("seed", range(4))
def test_the_rows_of_a_node_are_those_of_the_symbolic_elimination(seed):
    """Eliminate the graph member by member: whoever is left of a member's neighbours becomes a clique."""
    first, second, own, _, _, rng = a_matrix(seed, k=1)
    n = len(own)
    plan = Elimination.of(rng.uniform(0, 100, (n, 2)), first, second, np.zeros(n, dtype=bool))
    joined = np.zeros((n, n), dtype=bool)
    place = plan.place
    joined[place[first], place[second]] = joined[place[second], place[first]] = True
    for member in range(n):
        later = np.flatnonzero(joined[member, member + 1 :]) + member + 1
        joined[np.ix_(later, later)] = True
    for node in range(len(plan.parent)):
        low, high = plan.starts[node], plan.starts[node + 1]
        needed = np.flatnonzero(joined[low:high, high:].any(axis=0)) + high
        rows = plan.rows[plan.row_starts[node] : plan.row_starts[node + 1]]
        assert set(needed) <= set(rows.tolist())
        if plan.parent[node] >= 0 and len(rows):  # the first row lies in the parent, or above it
            assert rows[0] >= plan.starts[plan.parent[node]]
