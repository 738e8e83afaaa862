"""The compiled passes over a pair's difference, beside plain numpy on the whole difference image."""

import numpy as np
import pytest

from levelmatch_core.matching.measure.difference_kernels import (
    HOLE,
    HOLE_ROWS,
    difference_row,
    mask_sums,
    plane_sums,
    sift_difference,
    unit,
)
from levelmatch_core.matching.measure.gain import _block_products, _products, regressed
from levelmatch_core.process.small_work import interpreted
from levelmatch_core.sky.robust.clipping import ALL


def a_pair(seed=3):
    rng = np.random.default_rng(seed)
    first, second = rng.standard_normal((2, 40, 50)).astype(np.float32)
    first[rng.random(first.shape) < 0.1] = np.nan
    second[rng.random(second.shape) < 0.1] = np.inf
    return first, second, (4, 7, 0, 2, 30, 41)


def difference_of(first, second, box):
    rows, columns = box[4:]
    a = first[box[0] : box[0] + rows, box[1] : box[1] + columns].astype(float)
    b = second[box[2] : box[2] + rows, box[3] : box[3] + columns].astype(float)
    return b - a


def test_a_row_is_a_row_of_the_difference():
    first, second, box = a_pair()
    whole, row = difference_of(first, second, box), np.empty(box[5])
    for r in range(box[4]):
        difference_row(first, second, box, r, row)
        np.testing.assert_array_equal(row, whole[r])


@pytest.mark.parametrize("cut", [(0.1, 0.3, -0.2, -1.5, 1.2), (0.0, 0.0, 0.0, -0.1, 0.1), (0.0, 0.0, 0.0, 5.0, 4.0)])
def test_sums_are_those_over_the_pixels_that_the_cut_keeps(cut):
    first, second, box = a_pair()
    whole = difference_of(first, second, box)
    x, y = np.meshgrid(unit(box[5]), unit(box[4]))
    with np.errstate(invalid="ignore"):
        rest = whole - (cut[0] + cut[1] * x + cut[2] * y)
        keep = (rest >= cut[3]) & (rest <= cut[4])
    x, y, r = x[keep], y[keep], rest[keep]
    expected = [keep.sum(), *(v.sum() for v in (x, y, x * x, x * y, y * y, r, r * x, r * y, r * r))]
    np.testing.assert_allclose(plane_sums(first, second, box, cut), expected, atol=1e-9)
    rows, columns = np.nonzero(keep)
    exact = [len(rows), *(int(v.sum()) for v in (columns, rows, columns**2, columns * rows, rows**2))]
    assert list(mask_sums(first, second, box, cut)) == exact


def test_products_are_those_of_residuals_from_planes():
    rng = np.random.default_rng(1)
    values = rng.standard_normal((6, 200)) + np.array([3.0, 5.0, 9.0, 0.2, -0.1, 0.0])[:, None]
    before = values.copy()
    mean, square, together, with_delta, with_here, beside, own = interpreted(_products)(values, 180)
    basis = np.column_stack([np.ones(180), *before[3:5, :180]])
    d, here, other = (v - basis @ np.linalg.lstsq(basis, v, rcond=None)[0] for v in before[:3, :180])
    np.testing.assert_allclose(values[:3, :180], [d, here, other], atol=1e-9)
    expected = before[1, :180].mean(), d @ d, d @ here, other @ d, other @ here, other @ other, d @ before[5, :180]
    found = mean, square, together, with_delta, with_here, beside, own
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("repeats", [1, 7])
def test_holes_are_short_runs_of_invalid_pixels_between_valid_ones(repeats):
    first, second, (*corner, ny, nx) = a_pair()
    first[10:20, 12:17] = np.nan
    first[15, 20:40] = np.nan
    second[7] = np.nan
    first, second = np.tile(first, (repeats, 1)), np.tile(second, (repeats, 1))
    box = *corner, repeats * ny, nx
    rows = np.isfinite(difference_of(first, second, box))[:: max(1, box[4] // HOLE_ROWS)]
    holes = 0
    for row in rows:
        valid = np.flatnonzero(row)
        gaps = np.diff(valid) - 1
        holes += gaps[gaps <= HOLE].sum()
    assert holes > 0
    kept = np.empty(box[4] * nx + 1)
    assert sift_difference(first, second, box, (1.0, 0.0), ALL, kept)[-1] == (holes, rows.sum())


def test_products_are_summed_over_the_blocks_that_have_any():
    rng = np.random.default_rng(4)
    values, places = rng.standard_normal((5, 60)), np.sort(rng.choice([0, 2, 3, 7], 50))
    products = values[2, :50] * (values[0, :50] - 0.3 * values[1, :50])
    expected = np.bincount(places, weights=products)[[0, 2, 3, 7]]
    blocks, squares = interpreted(_block_products)(values, 0.3, places, 50, np.zeros((2, 11)))
    assert blocks == 4
    assert squares == pytest.approx(expected @ expected)


@pytest.mark.parametrize("unequal", [1.0, 3.0])
def test_a_gain_is_made_of_the_same_with_and_without_a_compiler(unequal):
    """With noise that is alike in both images, and that is not."""
    rng = np.random.default_rng(5)
    first, second = rng.normal(100, 1, (2, 60, 70)).astype(np.float32)
    second = np.float32(unequal) * second
    second[rng.random(second.shape) < 0.05] = np.nan
    given = first, second, (0, 3, 2, 0, 58, 60), (0.0, 0.0, 0.0, -1e3, 1e3), 2
    arrays = [(np.empty((6, 2000)), np.empty(2000, np.int64)) for _ in range(2)]
    found = regressed(*given, *arrays[0])
    assert found[0] > 400
    assert found == pytest.approx(interpreted(regressed)(*given, *arrays[1]), rel=1e-12)
    assert arrays[0][0][:, : found[0]] == pytest.approx(arrays[1][0][:, : found[0]], rel=1e-9, abs=1e-9)
