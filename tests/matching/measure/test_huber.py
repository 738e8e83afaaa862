"""Huber's estimate against a plain one, and the choice between it and the median."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from levelmatch_core.matching.measure.difference_kernels import unit
from levelmatch_core.matching.measure.huber import MEDIAN_APART, huber, trusted
from levelmatch_core.matching.measure.pair_fit import fit_pair
from tests.matching.fakes import make_cutout, settings_for


def plainly(values: np.ndarray, basis: np.ndarray, limit: float) -> np.ndarray:
    """Reweighted least squares until it settles."""
    found = np.zeros(basis.shape[1])
    for _ in range(500):
        left = np.abs(values - basis @ found)
        weight = np.minimum(1.0, limit / np.maximum(left, 1e-12))
        found = np.linalg.lstsq(basis * weight[:, None] ** 0.5, values * weight**0.5, rcond=None)[0]
    return found


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.booleans())
def test_it_is_reweighted_least_squares(seed: int, slopes: bool) -> None:
    rng = np.random.default_rng(seed)
    ny, nx = rng.integers(8, 20, 2).tolist()
    first = rng.normal(size=(ny, nx))
    second = first + 3 + 0.1 * unit(nx) + rng.standard_t(3, (ny, nx))
    second[rng.random((ny, nx)) < 0.1] = np.nan
    for image in (first, second):
        image.flags.writeable = False
    cut = (3.0, 0.0, 0.0, -4.0, 5.0)
    found = huber((first, second, (0, 0, 0, 0, ny, nx)), cut, np.array([3.0, 0.0, 0.0]), 1.345, slopes=slopes)
    assert found is not None
    difference = second - first
    kept = (difference >= -1.0) & (difference <= 8.0)
    y, x = np.nonzero(kept)
    basis = np.stack([np.ones(len(x)), unit(nx)[x], unit(ny)[y]], axis=1)[:, : 3 if slopes else 1]
    expected = plainly(difference[kept], basis, 1.345)
    assert found.coefficients[: basis.shape[1]] == pytest.approx(expected, abs=1e-5)
    left = difference[kept] - basis @ expected
    assert found.rms == pytest.approx(np.sqrt(np.mean(left**2)), rel=1e-5)
    assert found.converged


def levels(statistic: str, trials: int, contaminate: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Level and stated error of pairs of noise, a part of the second's pixels faint sources."""
    found = []
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        first, second = rng.normal(size=(2, 70, 70))
        second += rng.exponential(1.5, second.shape) * (rng.random(second.shape) < contaminate)
        fit = fit_pair(make_cutout("a", first), make_cutout("b", second), "level", settings_for(statistic=statistic))
        assert fit is not None
        found.append((fit.plane.level, fit.stderr))
    return np.array(found).T


def test_in_noise_adaptive_is_nearly_as_good_as_hubers_and_knows_it() -> None:
    adaptive, median, own = (levels(name, 400) for name in ("adaptive", "median", "huber"))
    assert own[0].std() * 0.97 < adaptive[0].std() < 0.92 * median[0].std()
    assert np.std(adaptive[0] / adaptive[1]) == pytest.approx(1.0, abs=0.12)


def test_where_the_two_disagree_it_is_nearer_the_median() -> None:
    adaptive, median, own = (levels(name, 40, contaminate=0.4)[0] for name in ("adaptive", "median", "huber"))
    assert np.mean(own - median) > 1.5 * MEDIAN_APART * np.sqrt(2) / 70
    assert np.mean(adaptive - median) < 0.6 * np.mean(own - median)


def test_trust_falls_evenly() -> None:
    assert [trusted(apart) for apart in (0.0, 1.0, -2.0, 3.0, 5.0)] == [1.0, 1.0, 0.5, 0.0, 0.0]
