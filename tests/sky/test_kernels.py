"""The compiled loops over cutouts, beside plain numpy."""

import numpy as np
import pytest

from levelmatch_core.sky import kernels
from levelmatch_core.sky.robust.clipping_kernels import run_median, run_moments


def holed(seed, shape=(23, 31)):
    rng = np.random.default_rng(seed)
    data = rng.standard_normal(shape).astype(np.float32)
    data[rng.random(shape) < 0.3] = np.nan
    data[:3] = np.nan
    data[:, -2:] = np.nan
    return data


@pytest.mark.parametrize("seed", range(3))
def test_the_ends_of_rows_and_the_rectangle_of_what_is_valid(seed):
    data = holed(seed)
    ends = np.empty((len(data), 3), dtype=np.int64)
    kernels.row_ends(data, ends)
    for row, (first, last, count) in zip(data, ends, strict=True):
        seen = np.flatnonzero(~np.isnan(row))
        assert (first, last, count) == ((seen[0], seen[-1], len(seen)) if len(seen) else (-1, -1, 0))
    rows, columns = np.nonzero(np.isfinite(data))
    expected = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    assert kernels.valid_rectangle(data) == expected
    assert kernels.valid_rectangle(np.full((3, 4), np.nan)) == (0, 0, 0, 0)


def test_parts_add_up():
    data, variance = holed(1), np.abs(holed(2)) + 1
    plane = np.array([0.5, 0.01, -0.02])
    corrected, raw, variances = np.zeros((3, 40, 50))
    count = np.zeros((40, 50), dtype=np.int32)
    kernels.add_part(data, variance, (5, 7), plane, corrected, raw, variances, count)
    rows, columns = np.indices(data.shape)
    inside, seen = np.s_[5 : 5 + data.shape[0], 7 : 7 + data.shape[1]], ~np.isnan(data)
    level = plane[0] + plane[1] * columns + plane[2] * rows
    np.testing.assert_allclose(corrected[inside], np.where(seen, data - level, 0.0), atol=1e-6)
    np.testing.assert_allclose(raw[inside], np.where(seen, data, 0.0), atol=1e-6)
    np.testing.assert_allclose(variances[inside], np.where(seen, variance, 0.0), equal_nan=True)
    np.testing.assert_array_equal(count[inside], seen)
    assert count.sum() == seen.sum()
    assert kernels.share(data, (5, 7), count) == seen.sum()


@pytest.mark.parametrize(("low", "high"), [(0, 1), (3, 20), (5, 30), (0, 57)])
def test_moments_and_median_of_a_run(low, high):
    values = np.sort(np.random.default_rng(4).standard_normal(57))
    mean, square = run_moments(values, low, high, 0.3)
    assert mean == pytest.approx(np.mean(values[low:high] - 0.3))
    assert square == pytest.approx(np.mean((values[low:high] - 0.3) ** 2))
    assert run_median(values, low, high) == np.median(values[low:high])


@pytest.mark.parametrize("several", [1, 30, 5000])
def test_scattered_points_are_those_of_the_polynomials_of_their_cells(several):
    """Beyond the lattice those of the nearest cell go on; what is not finite is nowhere."""
    rng = np.random.default_rng(5)
    pieces, lattice = rng.standard_normal((3, 4, 4, 4, 2)), np.array([0.5, 3.0, -1.0, 4.0])
    x, y = rng.uniform(-2, 14, (2, several))
    x[1::7], y[2::7] = np.nan, np.inf
    found = kernels.spline_points(pieces, lattice, x, y)
    for k in rng.choice(several, min(several, 50), replace=False):
        if not np.isfinite([x[k], y[k]]).all():
            assert np.isnan(found[:, k]).all()
            continue
        j, i = (int(np.clip(np.floor(at), 0, last)) for at, last in (((x[k] - 0.5) / 3, 3), ((y[k] + 1) / 4, 2)))
        u, v = x[k] - 0.5 - 3 * j, y[k] + 1 - 4 * i
        powers = np.outer(v ** np.arange(3, -1, -1), u ** np.arange(3, -1, -1))
        np.testing.assert_allclose(found[:, k], np.einsum("mn,mna->a", powers, pieces[i, j]), rtol=1e-9, atol=1e-9)


def test_no_points_are_nowhere():
    assert kernels.spline_points(np.zeros((3, 4, 4, 4, 2)), np.ones(4), np.empty(0), np.empty(0)).shape == (2, 0)
