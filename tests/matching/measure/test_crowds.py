"""Crowds that pixels sample too coarsely, through one PSF and two, and what must not be smoothed."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import convolve, gaussian_filter, shift
from scipy.special import erf

from levelmatch_core import MatchSettings
from levelmatch_core.matching.measure import crowds
from levelmatch_core.matching.measure.crowds import AREA, LEAST, NOISE_LEFT, gain_of_blocks, smoothed
from levelmatch_core.matching.measure.pair_fit import fit_pair
from levelmatch_core.matching.results import PairFit
from tests.matching.fakes import make_cutout

LEVEL = 3.0
SHAPE = (110, 130)
BEST = MatchSettings.from_mapping({"preset": "best"})
BINOMIAL = np.array([1.0, 4.0, 6.0, 4.0, 1.0]) / 16


def crowd(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return (n, 3) places and flux of a star in fourteen pixels."""
    n = SHAPE[0] * SHAPE[1] // 14
    flux = 20 * np.minimum(rng.pareto(0.8, n) + 0.05, 1000)
    return np.column_stack([rng.uniform(-3, SHAPE[0] + 3, n), rng.uniform(-3, SHAPE[1] + 3, n), flux])


def seen(stars: NDArray[np.float64], width: float, phase: tuple[float, float]) -> NDArray[np.float64]:
    """Return the stars in pixels that lie at a phase, brought back to whole pixels by a cubic spline."""
    image = np.zeros(SHAPE)
    edges = [np.arange(side + 1) - 0.5 + off for side, off in zip(SHAPE, phase, strict=True)]
    for y, x, flux in stars:
        up, across = (
            np.diff(erf((edge - at) / (np.sqrt(2) * width))) / 2 for edge, at in zip(edges, (y, x), strict=True)
        )
        rows, columns = up > 1e-9, across > 1e-9
        image[np.ix_(rows, columns)] += flux * np.outer(up[rows], across[columns])
    return np.asarray(shift(image, phase, order=3, mode="nearest"))


def pair(
    seed: int, widths: tuple[float, float] = (0.47, 0.47)
) -> tuple[NDArray[np.float64], NDArray[np.float64], np.random.Generator]:
    """Return two images of a crowd in noise of 0.1, the second `LEVEL` above the first."""
    rng = np.random.default_rng(seed)
    stars = crowd(rng)
    first, second = (seen(stars, width, tuple(rng.uniform(-0.5, 0.5, 2))) for width in widths)
    return first + rng.normal(0, 0.1, SHAPE), second + LEVEL + rng.normal(0, 0.1, SHAPE), rng


def fitted(first: NDArray[np.float64], second: NDArray[np.float64], settings: MatchSettings = BEST) -> PairFit:
    fit = fit_pair(make_cutout("a", first), make_cutout("b", second), "level", settings)
    assert fit is not None
    return fit


def is_smoothed(fit: PairFit) -> bool:
    return fit.correlation > AREA


@pytest.mark.fast
def test_both_are_smoothed_with_the_pixels_that_are_valid_in_both() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 31, 40))
    first[rng.random(first.shape) < 0.05] = np.nan
    second[:7, 20:] = np.inf
    box = (1, 2, 0, 3, 29, 35)
    one, other = first[1:30, 2:37], second[:29, 3:38]
    good = np.isfinite(other - one)
    kernel = np.outer(BINOMIAL, BINOMIAL)
    weight = convolve(good.astype(float), kernel, mode="constant")
    found_one, found_other, where = smoothed(first, second, box)
    assert where == (0, 0, 0, 0, 29, 35)
    for found, image in ((found_one, one), (found_other, other)):
        plain = convolve(np.where(good, image, 0.0), kernel, mode="constant") / np.maximum(weight, 1e-9)
        np.testing.assert_allclose(found, np.where(weight > LEAST, plain, np.nan), rtol=1e-12)
    assert pytest.approx(np.sum(kernel**2)) == NOISE_LEFT


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 3), (4, 5), (5, 5)])
def test_the_smallest_overlaps_are_smoothed(shape: tuple[int, int]) -> None:
    images = np.ones((2, *shape))
    one, other, _ = smoothed(images[0], images[1], (0, 0, 0, 0, *shape))
    inside = np.isfinite(one)
    np.testing.assert_array_equal(inside, np.isfinite(other))
    np.testing.assert_allclose(one[inside], 1.0)


@pytest.mark.parametrize("widths", [(0.47, 0.47), (0.47, 0.6), (0.53, 0.6)], ids=["one PSF", "wider", "sharper"])
def test_levels_of_undersampled_crowds_are_as_good_as_their_noise(
    widths: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [pair(seed, widths)[:2] for seed in range(8)]
    fits = [fitted(*one) for one in pairs]
    assert all(map(is_smoothed, fits))
    errors = np.array([fit.plane.level - LEVEL for fit in fits])
    pulls = errors / [np.hypot(fit.stderr, fit.structure) for fit in fits]
    monkeypatch.setattr(crowds, "CROWD", np.inf)
    before = np.array([fitted(*one).plane.level - LEVEL for one in pairs])
    assert np.sqrt(np.mean(errors**2)) < 0.6 * np.sqrt(np.mean(before**2))
    assert np.sqrt(np.mean(errors**2)) < 4 * 0.1 * np.sqrt(2 / np.prod(SHAPE))
    assert 0.3 < np.sqrt(np.mean(pulls**2)) < 1.6


@pytest.mark.parametrize("what", ["noise", "cosmic rays", "hot pixels"])
def test_what_is_no_crowd_is_left_as_it_is(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a bit changes: smoothed, what is in one image alone spreads over its neighbours."""
    rng = np.random.default_rng(3)
    first, second = rng.normal(size=(2, *SHAPE))
    if what == "cosmic rays":
        for image in (first, second):
            image[rng.random(SHAPE) < 0.06] += 10
    if what == "hot pixels":
        second[rng.random(SHAPE) < 0.12] += 10
    found = fitted(first, second)
    monkeypatch.setattr(crowds, "CROWD", np.inf)
    assert fitted(first, second) == found
    assert not is_smoothed(found)


def test_a_crowd_with_cosmic_rays_in_one_image_is_left_as_it_is() -> None:
    """Smoothed, they moved a level three times as far: what is left is lopsided all over the overlap then."""
    errors = []
    for seed in range(4):
        first, second, rng = pair(seed)
        hit = rng.random(SHAPE) < 0.03
        second[hit] += 2 * rng.pareto(1.0, int(hit.sum())) + 0.5
        fit = fitted(first, second)
        errors.append(fit.plane.level - LEVEL)
        assert not is_smoothed(fit)
    assert np.sqrt(np.mean(np.square(errors))) < 0.05


def test_the_presets_of_the_step_smooth_nothing() -> None:
    first, second, _ = pair(1)
    assert not is_smoothed(fitted(first, second, MatchSettings()))


def field(seed: int, gain: float, *, stars: float = 0.13) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return two larger images of a crowd, each star moved a little, the second's gain off."""
    rng = np.random.default_rng(seed)
    shape = (250, 260)
    sky = np.where(rng.random(shape) < stars, 20 * np.minimum(rng.pareto(1.0, shape), 15), 0.0)
    first, second = (gaussian_filter(shift(sky, rng.uniform(-0.1, 0.1, 2), order=1), 0.6) for _ in range(2))
    noise = rng.normal(0, 0.1, (2, *shape))
    images = first + noise[0], second * (1 + gain) + LEVEL + noise[1]
    images[1][rng.random(shape) < 0.01] = np.nan
    one, other = (np.ascontiguousarray(image, np.float32) for image in images)
    return one, other


@pytest.mark.parametrize("gain", [0.0, 0.005, -0.02])
def test_blocks_of_a_crowd_show_a_gain_with_its_error(gain: float) -> None:
    found = [gain_of_blocks(*field(seed, gain), (2, 1, 2, 1, 240, 250)) for seed in range(12)]
    measured = [each for each in found if each is not None]
    assert len(measured) == len(found)
    pulls = np.array([(each.slope - gain) / each.sigma for each in measured])
    assert 0.5 < np.sqrt(np.mean(pulls**2)) < 1.6
    assert np.abs(pulls).max() < 4
    assert np.median([each.sigma for each in measured]) < 0.003


def test_blocks_see_the_gain_where_clipping_hides_it(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = field(3, 0.05)
    fit = fitted(first, second)
    assert fit.gain is not None
    assert fit.gain[0] > 5 * fit.gain[1]
    assert fit.gain[0] == pytest.approx(0.05, rel=0.3)
    monkeypatch.setattr(crowds, "gain_of_blocks", lambda *_: None)
    fit = fitted(first, second)
    assert fit.gain is None or fit.gain[0] < 5 * fit.gain[1]


def test_a_few_bright_stars_show_no_gain() -> None:
    for seed in range(5):
        assert gain_of_blocks(*field(seed, 0.02, stars=0.002), (0, 0, 0, 0, 240, 60)) is None


def test_what_does_not_vary_has_no_gain_of_blocks() -> None:
    flat = np.ones((200, 200), np.float32)
    for first, second in ((flat, flat), (flat, flat + 1), (flat * np.nan, flat), (flat * np.inf, flat * np.inf)):
        assert gain_of_blocks(first, second, (0, 0, 0, 0, 200, 200)) is None
    assert gain_of_blocks(flat, flat, (0, 0, 0, 0, 1, 1)) is None
