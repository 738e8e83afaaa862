import sys
import time
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from astropy.stats import sigma_clip
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from levelmatch_core.matching.measure.pair_fit import _Pair, difference, fit_pair
from levelmatch_core.sky.cutouts import Cutout
from levelmatch_core.sky.robust.clipped_noise import kappa_of
from tests.matching.fakes import make_cutout, settings_for
from tests.sky.oracles import robustly_clipped

LEVEL = settings_for()


def pair_of(second_minus_first: np.ndarray, rng: np.random.Generator) -> tuple:
    base = rng.normal(size=second_minus_first.shape)
    return make_cutout("a", base), make_cutout("b", base + second_minus_first)


def test_difference_is_second_minus_first_over_the_common_box() -> None:
    first, second = np.arange(30.0).reshape(5, 6), 100 + np.arange(20.0).reshape(4, 5)
    second[0, 1] = np.nan
    found = difference(make_cutout("a", first, 10, 20), make_cutout("b", second, 13, 22))
    assert found is not None
    assert (found.x0, found.y0) == (13, 22)
    np.testing.assert_array_equal(found.data, second[:3, :3] - first[2:, 3:])
    assert not found.valid[0, 1]
    assert np.isnan(found.data[0, 1])
    with pytest.raises(ValueError, match="read-only"):
        found.data[0, 0] = 1


def test_no_common_pixel_is_none() -> None:
    blank = np.full((4, 4), np.nan)
    assert difference(make_cutout("a", np.ones((4, 4))), make_cutout("b", np.ones((4, 4)), 4, 0)) is None
    assert difference(make_cutout("a", np.ones((4, 4))), make_cutout("b", blank, 1, 1)) is None
    assert fit_pair(make_cutout("a", np.ones((4, 4))), make_cutout("b", np.ones((4, 4)), 0, 9), "level", LEVEL) is None


def test_infinite_pixels_are_not_used_and_do_not_warn() -> None:
    first, second = np.zeros((3, 3)), np.full((3, 3), 5.0)
    first[0, 0] = second[0, 0] = np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = fit_pair(make_cutout("a", first), make_cutout("b", second), "level", LEVEL)
    assert fit is not None
    assert (fit.npix, fit.plane.level) == (8, 5.0)


@settings(deadline=None)  # the first call compiles
@given(
    arrays(
        np.float64,
        st.integers(1, 60),
        elements=st.one_of(st.floats(-10, 10), st.sampled_from([0.0, 1.0, 1e6, -1e12, 3e15])),
    ),
    st.sampled_from([1.5, 2.0, 3.0, 5.0]),
    st.integers(1, 12),
)
def test_level_is_astropys_clipped_median_from_a_robust_start(values: np.ndarray, sigma: float, maxiters: int) -> None:
    kept = robustly_clipped(values, sigma, maxiters)
    image = values[None, :]
    options = settings_for(sigma=sigma, maxiters=maxiters)
    fit = fit_pair(make_cutout("a", np.zeros_like(image)), make_cutout("b", image), "level", options)
    assert fit is not None
    if kept.size:  # astropy may leave nothing where rounding puts all beyond the limit
        assert (fit.plane.level, fit.n_used) == (np.median(kept), kept.size)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_large_overlap_is_measured_as_pixel_by_pixel(dtype: type) -> None:
    """Most of its pixels are never sorted (see sky/robust/clipping.py): numpy and astropy are the oracle."""
    rng = np.random.default_rng(14)
    first = rng.normal(100, 5, (200, 300))
    second = first[20:, 31:] + rng.normal(4, 0.3, (180, 269)) + rng.exponential(3, (180, 269)) ** 3 / 50
    first[:, :40][rng.random((200, 40)) < 0.3] = np.nan
    second[rng.random(second.shape) < 0.01] = 1e6
    a, b = make_cutout("a", first.astype(dtype), 5, 7), make_cutout("b", second.astype(dtype), 36, 27)
    fit, both = fit_pair(a, b, "level", LEVEL), difference(a, b)
    assert fit is not None
    assert both is not None
    pair = _Pair.of(a, b)
    assert pair is not None
    kept = robustly_clipped(both.data[both.valid], LEVEL.sigma, LEVEL.maxiters, pair.sample())
    y, x = np.nonzero((both.data >= kept.min()) & (both.data <= kept.max()))
    assert (fit.npix, fit.n_used) == (both.n_valid, kept.size)
    assert fit.plane.level == np.median(kept)
    assert (fit.plane.x0, fit.plane.y0) == pytest.approx((x.mean() + 36, y.mean() + 27), rel=1e-13)
    assert fit.rms == pytest.approx(np.sqrt(np.mean((kept - np.median(kept)) ** 2)), rel=1e-10)
    dx, dy = x - x.mean(), y - y.mean()
    expected = [kept.size, 0, 0, 0, dx @ dx, dx @ dy, 0, dx @ dy, dy @ dy]
    np.testing.assert_allclose(fit.moments, expected, rtol=1e-9, atol=1e-3)


def test_clipping_that_does_not_settle_is_told() -> None:
    """What it costs is by how much the next iteration moves it."""
    values = np.random.default_rng(0).exponential(size=(1, 2001)) ** 2
    pair = make_cutout("a", np.zeros_like(values)), make_cutout("b", values)
    fits = {n: fit_pair(*pair, "level", settings_for(maxiters=n, sigma=2.0)) for n in (2, 3, 50)}
    short, longer, full = (fit for fit in fits.values() if fit is not None)
    assert not short.converged
    assert short.last_step > 0.01 * short.stderr
    assert short.last_step == pytest.approx(abs(longer.plane.level - short.plane.level))
    assert (full.converged, full.last_step) == (True, 0.0)


def test_level_with_sources_and_wild_pixels() -> None:
    rng = np.random.default_rng(3)
    noise = 5 + rng.normal(0, 0.1, (100, 120))
    noise[rng.random(noise.shape) < 0.01] += 1e4
    fit = fit_pair(*pair_of(noise, rng), "level", LEVEL)
    assert fit is not None
    assert abs(fit.plane.level - 5) < 5 * fit.stderr + 0.002
    assert fit.converged
    assert fit.plane.is_level
    assert fit.rms == pytest.approx(0.1, rel=0.03)
    assert fit.npix == 12000
    assert 11700 < fit.n_used < 11900


@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
def test_standard_error_is_the_scatter_of_the_level(fit_type: str) -> None:
    rng = np.random.default_rng(4)
    fits = [fit_pair(*pair_of(rng.normal(size=(20, 25)), rng), fit_type, LEVEL) for _ in range(1500)]
    pulls = [fit.plane.level / fit.stderr for fit in fits if fit]
    # 1500 draws: 1.8 % (1 sigma)
    assert np.std(pulls) == pytest.approx(1.0, abs=0.06)


@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
def test_standard_error_allows_for_resampled_pixels(fit_type: str) -> None:
    """Bilinear resampling by half a pixel: each pixel is the mean of four, the noise gain 1/4."""
    rng = np.random.default_rng(5)
    pulls = []
    for _ in range(800):
        raw = rng.normal(size=(2, 31, 31))
        smooth = (raw[:, 1:, 1:] + raw[:, :-1, 1:] + raw[:, 1:, :-1] + raw[:, :-1, :-1]) / 4
        first, second = (make_cutout(name, data, noise_gain=0.25) for name, data in zip("ab", smooth, strict=True))
        fit = fit_pair(first, second, fit_type, LEVEL)
        assert fit is not None
        assert fit.correlation == 4
        pulls.append(fit.plane.level / fit.stderr)
    # 800 draws: 2.5 % (1 sigma); the frame's edge takes another few per cent from the correlation
    assert np.std(pulls) == pytest.approx(1.0, abs=0.09)


@pytest.mark.parametrize(("statistic", "variance"), [("median", np.pi / 2), ("clipped_mean", 1.0), ("huber", 1 / 0.95)])
@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
@pytest.mark.parametrize("smooth", [False, True])
def test_every_statistic_has_its_efficiency_and_knows_it(
    fit_type: str, statistic: str, variance: float, smooth: bool
) -> None:
    rng = np.random.default_rng(12)
    options = settings_for("dithers", fit_type, statistic=statistic)
    levels, errors = [], []
    for _ in range(600):
        raw = rng.normal(size=(2, 31, 31))
        if smooth:
            raw = (raw[:, 1:, 1:] + raw[:, :-1, 1:] + raw[:, 1:, :-1] + raw[:, :-1, :-1]) / 4
        first, second = (make_cutout(n, d, noise_gain=0.25 if smooth else 1.0) for n, d in zip("ab", raw, strict=True))
        fit = fit_pair(first, second, fit_type, options)  # type: ignore[arg-type]
        assert fit is not None
        levels.append(fit.plane.about(15, 15).level)
        errors.append(fit.stderr)
    # 600 draws: 2.9 % (1 sigma); the frame's edge takes another few per cent where pixels are correlated
    assert np.std(levels) / np.mean(errors) == pytest.approx(1.0, abs=0.09)
    if not smooth:
        wanted = 2 / 31**2 * (1.0 if fit_type == "level+slope" and statistic == "median" else variance)
        assert np.var(levels) == pytest.approx(wanted, rel=0.16)


@pytest.mark.parametrize("statistic", ["median", "clipped_mean", "huber"])
@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
def test_wild_pixels_and_stars_of_another_width_leave_little_bias(fit_type: str, statistic: str) -> None:
    """Bright emission and a star on each 670 pixels, seen with two PSFs, and 1 % wild pixels of either sign.

    The wings of the wider PSF that stay below the clip leave all three statistics about 0.05 of the noise too high.
    """
    rng = np.random.default_rng(13)
    y, x = np.mgrid[:200, :200]
    first = 50 * np.exp(-((x - 90) ** 2 + (y - 60) ** 2) / 2 / 40**2)
    second = 50 * np.exp(-((x - 90) ** 2 + (y - 60) ** 2) / 2 / 40.01**2) * 40**2 / 40.01**2
    for sx, sy, flux in zip(*rng.uniform(0, 200, (2, 60)), rng.exponential(500, 60), strict=True):
        squared = (x - sx) ** 2 + (y - sy) ** 2
        first += flux / 0.9**2 * np.exp(-squared / 2 / 0.9**2)
        second += flux / 1.1**2 * np.exp(-squared / 2 / 1.1**2)
    found = []
    for _ in range(6):
        noisy = [image + rng.normal(size=image.shape) for image in (first, second)]
        wild = rng.random(first.shape) < 0.01
        noisy[1][wild] += rng.choice([-1e4, 1e4], wild.sum())
        cutouts = [make_cutout(name, image) for name, image in zip("ab", noisy, strict=True)]
        fit = fit_pair(*cutouts, fit_type, settings_for("dithers", fit_type, statistic=statistic))  # type: ignore[arg-type]
        assert fit is not None
        found.append(fit.plane.about(99.5, 99.5).level)
    assert abs(np.mean(found)) < 0.07


def test_pixels_that_are_larger_than_the_grids_count_once() -> None:
    """Four pixels of the grid that share the noise of one are one measurement; of one image of two, one of 2.5 is."""
    rng = np.random.default_rng(0)
    coarse = [np.kron(rng.standard_normal((30, 30)), np.ones((2, 2))) for _ in range(2)]
    plain = [make_cutout(name, data) for name, data in zip("ab", coarse, strict=True)]
    large = [Cutout(one.record.model_copy(update={"noise_reach": 4.0}), one.data) for one in plain]
    found = [fit_pair(*pair, "level", LEVEL) for pair in (plain, (plain[0], large[1]), large)]
    assert [fit.correlation for fit in found if fit is not None] == [1.0, 2.5, 4.0]


def test_noise_gain_above_one_is_clamped() -> None:
    a, b = make_cutout("a", np.zeros((5, 5)), noise_gain=1.5), make_cutout("b", np.ones((5, 5)), noise_gain=1.1)
    fit = fit_pair(a, b, "level", LEVEL)
    assert fit is not None
    assert fit.correlation == 1


def test_kappa_is_the_clipped_standard_deviation() -> None:
    values = np.random.default_rng(6).normal(size=400_000)
    for sigma in (2.5, 3.0):
        kept = sigma_clip(values, sigma=sigma, maxiters=10, masked=False)
        assert kappa_of(sigma, 10) == pytest.approx(np.std(kept), rel=0.005)
    assert kappa_of(1.0, 10) == 0.5


def test_plane_is_plain_least_squares_where_nothing_is_clipped() -> None:
    rng = np.random.default_rng(7)
    data = rng.normal(size=(30, 41))
    data[rng.random(data.shape) < 0.3] = np.nan
    wide = settings_for(sigma=50.0)
    fit = fit_pair(make_cutout("a", np.zeros_like(data), 7, -3), make_cutout("b", data, 7, -3), "level+slope", wide)
    assert fit is not None
    y, x = np.nonzero(np.isfinite(data))
    cx, cy = x.mean() + 7, y.mean() - 3
    basis = np.stack([np.ones(x.size), x + 7 - cx, y - 3 - cy], axis=1)
    expected, *_ = np.linalg.lstsq(basis, data[y, x], rcond=None)
    plane = fit.plane
    assert (plane.x0, plane.y0) == pytest.approx((cx, cy), abs=1e-10)
    assert (plane.level, plane.slope_x, plane.slope_y) == pytest.approx(expected, abs=1e-12)
    np.testing.assert_allclose(np.reshape(fit.moments, (3, 3)), basis.T @ basis, atol=1e-8)
    assert fit.rms == pytest.approx(np.sqrt(np.mean((data[y, x] - basis @ expected) ** 2)))


def test_steep_plane_under_sources() -> None:
    rng = np.random.default_rng(8)
    y, x = np.mgrid[:80, :300]
    data = 2 + 0.05 * x - 0.02 * y + rng.normal(0, 0.1, x.shape)
    data[rng.random(x.shape) < 0.05] += rng.exponential(20)
    fit = fit_pair(*pair_of(data, rng), "level+slope", LEVEL)
    assert fit is not None
    assert fit.converged
    assert fit.plane.slope_x == pytest.approx(0.05, abs=3e-5)
    assert fit.plane.slope_y == pytest.approx(-0.02, abs=1e-4)
    assert float(fit.plane(0, 0)) == pytest.approx(2, abs=0.01)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 2)])
@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
def test_the_smallest_overlaps(shape: tuple[int, int], fit_type: str) -> None:
    y, x = np.mgrid[: shape[0], : shape[1]]
    fit = fit_pair(make_cutout("a", np.zeros(shape)), make_cutout("b", 3.0 + 0.5 * x), fit_type, LEVEL)
    assert fit is not None
    if fit_type == "level+slope":
        assert fit.rms < 1e-12
        assert fit.plane(x, y) == pytest.approx(3 + 0.5 * x)
    assert np.isfinite(fit.stderr)


def test_constant_difference_of_float32() -> None:
    base = np.random.default_rng(9).normal(size=(50, 50)).astype(np.float32)
    for fit_type in ("level", "level+slope"):
        fit = fit_pair(make_cutout("a", base), make_cutout("b", base), fit_type, LEVEL)
        assert fit is not None
        assert (fit.plane.level, fit.rms, fit.n_used, fit.converged) == (0, 0, 2500, True)


@settings(max_examples=30)
@given(st.floats(-3, 3), st.integers(0, 2**32 - 1))
def test_extents_are_those_of_all_pixels(angle: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = np.where(rng.random((25, 18)) < 0.1, 1.0, np.nan)
    data[3, 4] = 1.0
    first = make_cutout("a", data, axis_angle=angle, extent=(1000.0, 1000.0))
    fit = fit_pair(first, make_cutout("b", np.ones((25, 18)), axis_angle=angle, extent=(50.0, 80.0)), "level", LEVEL)
    assert fit is not None
    y, x = np.nonzero(np.isfinite(data))
    along = np.ptp(x * np.cos(angle) + y * np.sin(angle)) + 1
    across = np.ptp(y * np.cos(angle) - x * np.sin(angle)) + 1
    assert fit.extent == pytest.approx((along, across))
    assert fit.linear == pytest.approx((min(1, along / 50), min(1, across / 80)))


def test_second_members_extent_is_turned_to_the_firsts_axes() -> None:
    first = make_cutout("a", np.zeros((20, 10)), extent=(1000.0, 1000.0))
    turned = make_cutout("b", np.zeros((20, 10)), axis_angle=np.pi / 2, extent=(100.0, 40.0))
    fit = fit_pair(first, turned, "level", LEVEL)
    assert fit is not None
    assert fit.linear == pytest.approx((10 / 40, 20 / 100))


def cpu_of(work: Callable[[], object], tries: int = 5) -> float:
    """The least CPU seconds of some tries: the rest is other people's noise."""
    if sys.gettrace() is not None:
        pytest.skip("coverage looks on, which costs what is not compiled most")
    took = []
    for _ in range(tries):
        start = time.process_time()
        work()
        took.append(time.process_time() - start)
    return min(took)


def tiles_with_15_percent() -> tuple:
    rng = np.random.default_rng(10)
    tiles = [rng.normal(size=(512, 512)).astype(np.float32) for _ in range(2)]
    return make_cutout("a", tiles[0]), make_cutout("b", tiles[1], 435)


def plain_level(first: Cutout, second: Cutout) -> float:
    """Subtract, clip by astropy's numbers (sorted once, which is its fastest plain form)."""
    ordered = np.sort((second.data[:, :77].astype(float) - first.data[:, 435:]).ravel())
    low, high = 0, ordered.size
    for _ in range(LEVEL.maxiters):
        centre = np.median(ordered[low:high])
        limit = LEVEL.sigma * np.std(ordered[low:high])
        start, stop = np.searchsorted(ordered, centre - limit), np.searchsorted(ordered, centre + limit, "right")
        if (max(low, start), min(high, stop)) == (low, high):
            break
        low, high = max(low, start), min(high, stop)
    return float(np.median(ordered[low:high]))


def test_a_level_is_its_plain_clipped_median() -> None:
    first, second = tiles_with_15_percent()
    fit = fit_pair(first, second, "level", LEVEL)
    assert fit is not None
    assert fit.plane.level == plain_level(first, second)


@pytest.mark.full
def test_a_level_costs_less_than_its_plain_clipped_median() -> None:
    """In pairs, of which the best counts: what else the machine does slows one or the other, and speeds up none."""
    first, second = tiles_with_15_percent()
    ratios = [
        cpu_of(lambda: [fit_pair(first, second, "level", LEVEL) for _ in range(5)], tries=1)
        / cpu_of(lambda: [plain_level(first, second) for _ in range(5)], tries=1)
        for _ in range(24)
    ]
    assert min(ratios) < 0.6  # about 0.45, moments, extent, gain and blocks included


@pytest.mark.full
def test_levels_of_180_pairs_take_well_under_half_a_cpu_second() -> None:
    first, second = tiles_with_15_percent()
    fit_pair(first, second, "level", LEVEL)
    assert 3 * cpu_of(lambda: [fit_pair(first, second, "level", LEVEL) for _ in range(60)]) < 0.5
