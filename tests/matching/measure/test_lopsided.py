"""What a lopsided difference hides: about as much as it does, and nothing in noise and in what two images see alike."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from levelmatch_core.matching.measure.lopsided import hidden
from tests.matching.measure.plain_blocks import blocks_of

BLOCKS, PIXELS = 64, 400
SHAPE = (BLOCKS, PIXELS)


def said(values: np.ndarray, noise_gain: float = 1.0) -> float:
    """What is said of values, a row for each block."""
    table = np.stack([*((values**power).sum(axis=1) for power in range(4)), np.zeros(len(values))], axis=1)
    return hidden(blocks_of(table, 1, 8), noise_gain)


def pair(seed: int) -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).normal(0, np.sqrt(2), SHAPE))


@pytest.mark.parametrize(("part", "off"), [(0.2, 2.0), (0.2, 3.0), (0.2, 6.0), (0.1, 4.0), (0.05, 4.0)])
@pytest.mark.parametrize("sign", [-1, 1])
def test_wrong_pixels_are_said_to_move_a_level_as_they_do(part: float, off: float, sign: int) -> None:
    wrong = np.random.default_rng(9).random(SHAPE) < part
    assert 0.4 < said(pair(1) + sign * off * wrong) / (part * off) < 2.5


def test_the_third_cumulant_is_that_of_the_pixels() -> None:
    """Of a gamma distribution it is known; the levels of the blocks, and few pixels in them, do not matter."""
    rng = np.random.default_rng(2)
    values = rng.gamma(4.0, 0.5, (4000, 12)) + rng.normal(0, 5, (4000, 1))  # cumulants 2, 1 and 1
    assert said(values) == pytest.approx(min(0.04 ** (1 / 3), 1 / (2 * 1 / 2)), rel=0.05)
    assert said(values, 0.5) == pytest.approx(min((0.04 * 4) ** (1 / 3), 4 / 2), rel=0.05)


def test_noise_hides_nothing_however_wide_its_wings() -> None:
    for seed in range(100):
        assert said(pair(seed)) == 0
        assert said(np.clip(np.random.default_rng(seed).standard_t(3, SHAPE), -5, 5)) < 0.03


def test_nor_does_what_lies_in_some_places_only() -> None:
    """A star that two images see differently, a nebula on two pixel grids: blocks of it are lopsided to either side."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        star = np.zeros(SHAPE)
        star[rng.integers(0, BLOCKS, 5), :30] = rng.uniform(1, 10, (5, 30))
        nebula = gaussian_filter(rng.normal(0, 1, (BLOCKS * 20, 20)), 4).reshape(SHAPE)
        assert said(pair(seed) + star) == 0
        assert said(pair(seed) + 30 * nebula) < 0.1


def test_of_few_photons_no_more_is_said_than_the_mean_is_off_the_median() -> None:
    """A hundred photons of one image against many of another are lopsided by nature: 0.1 of their deviation."""
    rng = np.random.default_rng(3)
    photons = (rng.poisson(100, (BLOCKS, 10000)) - 100) / 10 + rng.normal(0, 0.2, (BLOCKS, 10000))
    assert 0.1 / 6 < said(photons) < 0.15


def test_few_blocks_tell_nothing() -> None:
    values = pair(4) + 4 * (np.random.default_rng(5).random(SHAPE) < 0.2)
    assert said(values[:16]) > 0
    assert said(values[:15]) == 0
    assert said(np.zeros(SHAPE)) == 0
