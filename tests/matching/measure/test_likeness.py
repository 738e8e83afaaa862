"""Two images that show different skies are told from two that differ by what telescopes do."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from levelmatch_core.matching.measure.likeness import likeness
from levelmatch_core.matching.measure.pair_fit import fit_pair
from levelmatch_core.products.strangers import ALIKE
from tests.benchmarks.statistics import SCENES, pair_of
from tests.matching.fakes import make_cutout, settings_for

SHAPE = (120, 160)


def nebula(seed, size=8.0, height=10.0):
    found = gaussian_filter(np.random.default_rng(seed).standard_normal(SHAPE), size, mode="wrap")
    return 100 + height * found / found.std()


def measured(seed, first, second, fit_type="level"):
    rng = np.random.default_rng([seed, 1])
    one, other = (image + rng.standard_normal(SHAPE) for image in (first, second))
    return fit_pair(make_cutout("a", one), make_cutout("b", 7 + other), fit_type, settings_for()).likeness


@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
@pytest.mark.parametrize(
    ("name", "of", "expected"),
    [
        ("inverted", lambda sky: -sky, -1.0),
        ("mirrored", lambda sky: sky[:, ::-1], 0.0),
        ("turned", lambda sky: sky[::-1, ::-1], 0.0),
        ("elsewhere", lambda sky: nebula(1000, 5.0) + 0 * sky, 0.0),
        ("off by 40 pixels", lambda sky: np.roll(sky, 40, axis=1), 0.0),
        ("three times as bright", lambda sky: 3 * sky, 0.6),
    ],
)
def test_another_sky_is_not_alike(name, of, expected, fit_type):
    found = []
    for seed in range(5):
        sky = nebula(seed, 5.0)
        correlation, sigma = measured(seed, sky, of(sky), fit_type)
        found.append(correlation)
        assert sigma < 0.3
    assert np.mean(found) == pytest.approx(expected, abs=0.35 if expected == 0 else 0.05), name
    assert sum(each + 3 * sigma < ALIKE for each in found) >= 4, found


def test_the_error_is_that_of_the_correlation_of_two_skies():
    found = np.array([measured(seed, nebula(seed, 5.0), nebula(500 + seed, 5.0)) for seed in range(60)])
    assert abs(found[:, 0].mean()) < 0.1
    assert 0.6 < (found[:, 0] / found[:, 1]).std() < 1.6


@pytest.mark.parametrize("height", [0.0, 0.3, 3.0, 30.0, 3000.0])
def test_the_same_sky_with_what_telescopes_do_to_it(height):
    """Noise, a gain, a gradient, a flat field, fringes, a shift of half a pixel: their difference is not two skies."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    for seed in range(4):
        sky = nebula(seed, height=height)
        flat = 1 + 0.01 * np.sin(x / 20) * np.cos(y / 15)
        for other in (sky, 1.1 * sky, sky + 0.05 * x, sky * flat, sky + 0.5 * np.sin(x / 4), np.roll(sky, 1, axis=1)):
            found = measured(seed, sky, other)
            assert found is None or found[0] + 3 * found[1] >= ALIKE, (seed, found)


@pytest.mark.parametrize("scene", SCENES)
def test_stars_of_two_psfs_are_one_sky(scene):
    for seed in range(3):
        pair = pair_of(SCENES[scene], np.random.default_rng(seed))
        found = fit_pair(*pair, "level", settings_for()).likeness
        assert found is None or found[0] + 3 * found[1] >= ALIKE


def test_few_blocks_say_nothing():
    values = np.random.default_rng(0).standard_normal((6, 400))
    values[5] = 2 * values[0]
    places = np.repeat(np.arange(4), 100)
    assert likeness(values, places, 4) is None
    assert likeness(values, np.arange(400) // 4, 10) is not None
