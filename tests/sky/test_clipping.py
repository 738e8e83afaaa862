"""Clipping of sorted values is astropy's clipping."""

import numpy as np
import pytest
from astropy.stats import sigma_clip, sigma_clipped_stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from levelmatch_core.sky.clipping import clip_sorted, clipped_statistics, run_moments


@settings(deadline=None)  # the first call compiles
@given(
    arrays(np.float64, st.integers(1, 60), elements=st.floats(-1e6, 1e6).map(lambda value: round(value, 3))),
    st.sampled_from([2.0137, 3.0171, 4.5291]),  # crooked: no value lies on a limit, where rounding decides
    st.integers(1, 10),
)
def test_statistics_are_astropys(values: np.ndarray, sigma: float, maxiters: int) -> None:
    kept = sigma_clip(values, sigma=sigma, maxiters=maxiters, masked=False, axis=None)
    ordered = np.sort(values)
    low, high, _ = clip_sorted(ordered, sigma, maxiters)
    np.testing.assert_array_equal(ordered[low:high], np.sort(kept))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("wild", [0.0, 1e10])
def test_an_image(dtype: type, wild: float) -> None:
    rng = np.random.default_rng(1)
    values = (rng.standard_normal(100_003) * 2 + 30).astype(dtype)
    values[:500] += wild
    theirs = sigma_clipped_stats(values.astype(float), sigma=3, maxiters=20)
    np.testing.assert_allclose(clipped_statistics(values, 3, 20), theirs, rtol=1e-12)


def test_moments_of_a_run() -> None:
    values = np.random.default_rng(0).standard_normal(37)
    mean, square = run_moments(values, 3, 30, 0.5)
    np.testing.assert_allclose([mean, square], [np.mean(values[3:30] - 0.5), np.mean((values[3:30] - 0.5) ** 2)])
