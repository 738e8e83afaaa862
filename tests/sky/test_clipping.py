"""Clipping is astropy's clipping from a robust start, whether everything is sorted or only what decides it."""

import os
import subprocess
import sys

import numpy as np
import pytest
from astropy.stats import sigma_clipped_stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from levelmatch_core.sky.robust import clipping
from levelmatch_core.sky.robust.clipping import ALL, BY_ITSELF, clip, clipped, cuts_of, sample_step
from levelmatch_core.sky.robust.clipping_kernels import Cuts, Start, run_moments, sift, sift_row
from tests.sky.oracles import robustly_clipped

CROOKED = [2.0137, 3.0171, 4.5291]
"""No value lies on a limit, where rounding decides."""


@settings(deadline=None)  # the first call compiles
@given(
    arrays(np.float64, st.integers(1, 60), elements=st.floats(-1e6, 1e6).map(lambda value: round(value, 3))),
    st.sampled_from(CROOKED),
    st.integers(1, 10),
)
def test_what_is_left_is_what_astropy_leaves(values: np.ndarray, sigma: float, maxiters: int) -> None:
    kept = robustly_clipped(values, sigma, maxiters)
    found = clipped(values, sigma, maxiters)
    assert found is not None
    assert (found.low, found.high, found.n) == (kept.min(), kept.max(), kept.size)
    assert found.median == np.median(kept)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("wild", [0.0, 1e10])
def test_an_image(dtype: type, wild: float) -> None:
    rng = np.random.default_rng(1)
    values = (rng.standard_normal((307, 326)) * 2 + 30).astype(dtype)
    values[:2] += wild
    values[100, ::3] = np.nan
    values[101, ::3] = np.inf
    theirs = sigma_clipped_stats(values[np.isfinite(values)].astype(float), sigma=3, maxiters=20)
    found = clipped(values, 3, 20)
    assert found is not None
    np.testing.assert_allclose((found.median + found.offset, found.median, found.std), theirs, rtol=1e-12)


def sifted(
    values: np.ndarray, cuts: Cuts, start: Start, sigma: float, maxiters: int
) -> tuple[clipping.Clipped | None, int]:
    kept = np.empty(values.size)
    left = sift(values, cuts, kept)
    return clip(kept, left, cuts, start, sigma, maxiters), left[0]


RNG = np.random.default_rng(4)
NOISE = RNG.standard_normal(60_001)
KINDS = {
    "noise": NOISE,
    "sources": NOISE + RNG.exponential(5, NOISE.size) * (RNG.random(NOISE.size) < 0.1),
    "wild": np.where(RNG.random(NOISE.size) < 0.01, 1e12, NOISE),
    "ramp": NOISE + np.linspace(0, 20, NOISE.size),
    "steps": np.round(NOISE, 1),
    "holes": np.where(RNG.random(NOISE.size) < 0.6, np.nan, NOISE),
    "far": 1e7 + NOISE,
    "same": np.full(NOISE.size, 3.7),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sigma", CROOKED)
@pytest.mark.parametrize("maxiters", [1, 10])
def test_sorting_what_decides_is_sorting_everything(kind: str, sigma: float, maxiters: int) -> None:
    values = KINDS[kind]
    cuts, start = cuts_of(values[:: sample_step(values.size)].copy(), sigma, maxiters)
    whole, _ = sifted(values, ALL, start, sigma, maxiters)
    assert whole is not None
    part, n_sorted = sifted(values, cuts, start, sigma, maxiters)
    finite = values[np.isfinite(values)]
    if part is None:  # seldom, and only where so few deviations clip on and on
        assert sigma < 3
        part = clipped(values, sigma, maxiters)
    elif kind not in {"steps", "same"}:
        assert n_sorted < 0.4 * finite.size
    assert part is not None
    left = finite[(finite >= part.low) & (finite <= part.high)]
    np.testing.assert_array_equal(left, finite[(finite >= whole.low) & (finite <= whole.high)])
    assert (part.n, part.median, part.converged) == (left.size, whole.median, whole.converged)
    assert part.median == np.median(left)
    assert part.offset == pytest.approx(whole.offset, rel=1e-9, abs=1e-12)
    assert part.square == pytest.approx(whole.square, rel=1e-12)


@pytest.mark.parametrize(
    "cuts",
    [
        pytest.param((0.0, -3.0, 0.5, 0.6, 3.0), id="the median is elsewhere"),
        pytest.param((0.0, -5.0, -0.1, 0.1, 5.0), id="the limits are elsewhere"),
    ],
)
def test_cuts_that_mislead_are_noticed(cuts: clipping.Cuts) -> None:
    values = np.random.default_rng(5).standard_normal(20_000)
    assert sifted(values, cuts, (-9.0, 9.0), 3.0, 10)[0] is None


def test_a_sample_that_misleads_costs_time_only(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(6).standard_normal(20_000)
    right = clipped(values, 3, 10)
    monkeypatch.setattr(clipping, "cuts_of", lambda *_: ((5.0, 4.9, 5.0, 5.1, 5.2), BY_ITSELF))
    assert clipped(values, 3, 10) == clipped(np.sort(values), 3, 10)
    assert right is not None
    assert clipped(values, 3, 10).n == right.n


def test_nothing_finite_is_none() -> None:
    assert clipped(np.array([np.nan, np.inf]), 3, 10) is None
    assert clipped(np.full(10_000, np.nan), 3, 10) is None


def test_moments_of_a_run() -> None:
    values = np.random.default_rng(0).standard_normal(37)
    mean, square = run_moments(values, 3, 30, 0.5)
    np.testing.assert_allclose([mean, square], [np.mean(values[3:30] - 0.5), np.mean((values[3:30] - 0.5) ** 2)])


def test_a_row_is_sifted_alike_without_a_compiler() -> None:
    """As where NUMBA_DISABLE_JIT is set: numpy's numbers of eight bits would count no further than 255."""
    row = np.random.default_rng(5).normal(0, 1, 2000)
    found = []
    for function in (sift_row, sift_row.py_func):
        kept, sums, take = np.empty(row.size + 1), np.zeros((2, row.size)), np.empty(row.size, np.uint8)
        counts = function(row, (0.0, -0.2, -0.1, 0.1, 0.2), kept, np.int64(0), sums, take)
        found.append([*counts, *kept[: counts[0]], *sums.ravel()])
    assert found[0][0] > 255
    assert found[1] == found[0]


WITHOUT = """
import os
import subprocess
import sys

import numpy as np
from levelmatch_core.matching.measure.difference_kernels import sift_difference
from levelmatch_core.sky.robust.clipping_kernels import sift

values = np.random.default_rng(5).normal(0, 1, 2000).astype(np.float32)
cuts = (0.0, -0.2, -0.1, 0.1, 0.2)
print(sift(values, cuts, np.empty(values.size + 1))[0])
first, second = np.zeros((20, 100), np.float32), values.reshape(20, 100)
print(sift_difference(first, second, (0, 0, 0, 0, 20, 100), (1.0, 1.0), cuts, np.empty(values.size + 1))[0][0])
"""


def test_as_many_values_are_kept_where_numba_compiles_nothing() -> None:
    found = []
    for disabled in ("0", "1"):
        environment = {**os.environ, "NUMBA_DISABLE_JIT": disabled}
        done = subprocess.run([sys.executable, "-c", WITHOUT], env=environment, capture_output=True, check=True)
        found.append(done.stdout.split())
    assert found[1] == found[0]
    assert all(int(count) > 255 for count in found[0])
