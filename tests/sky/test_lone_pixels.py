"""Wild pixels all over an image are found on its own grid, whatever they hold; images of the sky lose nothing."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from levelmatch_core.sky import lone_pixels as module
from levelmatch_core.sky.lone_pixels import is_of_few_values, rough_noise

Image = NDArray[np.float64]
SHAPE = (160, 200)
Y, X = np.indices(SHAPE).astype(float)


def frozen(data: Image) -> Image:
    data = data.copy()
    data.flags.writeable = False
    return data


def lone_pixels(data: Image) -> NDArray[np.uint8] | None:
    return module.lone_pixels(data, rough_noise(data))


def noise(seed: int = 0) -> Image:
    return np.random.default_rng(seed).normal(100 + 0.05 * X + 10 * np.sin(Y / 30), 1.0)


WILD: dict[str, Callable[[np.random.Generator, Image], Image]] = {
    "any size, both signs": lambda rng, old: rng.choice([-1.0, 1.0], old.shape) * 10 ** rng.uniform(4, 300, old.shape),
    "a constant": lambda _, old: np.full_like(old, 5e3),
    "zeros": lambda _, old: np.zeros_like(old),
    "twelve sigma up": lambda _, old: old + 12,
    "twelve sigma down": lambda _, old: old - 12,
    "a range": lambda rng, old: rng.uniform(-1e3, 1e3, old.shape),
}


@pytest.mark.parametrize("part", [0.05, 0.2])
@pytest.mark.parametrize("kind", WILD)
def test_nearly_all_are_found_and_hardly_another(part: float, kind: str) -> None:
    rng = np.random.default_rng(3)
    data = noise()
    bad = rng.random(SHAPE) < part
    data[bad] = WILD[kind](rng, data[bad])
    with np.errstate(over="ignore"):
        far = bad & (np.abs(data - noise()) > 8)  # a range holds values of the sky, too
        found = lone_pixels(frozen(data))
    assert found is not None
    assert found[far].mean() > 0.95
    assert found[~bad].mean() < 1e-3


def crowd(width: float) -> Image:
    """Every 25 pixels a star, of a width below which no image is sampled at all, and of any brightness."""
    rng = np.random.default_rng(5)
    data = noise()
    for row, column in rng.uniform(0, SHAPE, (SHAPE[0] * SHAPE[1] // 25, 2)):
        near = np.s_[max(0, int(row) - 5) : int(row) + 6, max(0, int(column) - 5) : int(column) + 6]
        profile = np.exp(-((Y[near] - row) ** 2 + (X[near] - column) ** 2) / (2 * width**2))
        data[near] += 10 * rng.pareto(1.2) * profile
    return data


SKIES: dict[str, Callable[[], Image]] = {
    "noise": noise,
    "crowd": lambda: crowd(1.0),
    "undersampled crowd": lambda: crowd(0.47),
    "filaments": lambda: noise() + 300 * np.exp(-((np.sin(X / 3) * 20 - Y % 40) ** 2)),
    "few photons": lambda: np.random.default_rng(1).poisson(0.5, SHAPE).astype(float),
    "fewer photons": lambda: np.random.default_rng(1).poisson(0.05, SHAPE) / 1500.0,
    "rates of few photons": lambda: (
        np.random.default_rng(1).poisson(2, SHAPE) * np.random.default_rng(2).normal(1, 0.1)
    ),
    "whole numbers": lambda: np.rint(noise() / 2),
    "speckle": lambda: np.random.default_rng(1).exponential(1.0, SHAPE),
    "a model without noise": lambda: 1e5 * np.exp(-((X - 80) ** 2 + (Y - 80) ** 2) / 2),
    "one value": lambda: np.full(SHAPE, 7.0),
    "two per cent of cosmic rays": lambda: np.where(np.random.default_rng(1).random(SHAPE) < 0.02, 1e4, noise()),
    "columns": lambda: np.where(X % 10 == 3, -1e5, noise()),
    "half of it NaN": lambda: np.where(X % 2 == 1, np.nan, noise()),
    "nothing": lambda: np.full(SHAPE, np.nan),
    "a row": lambda: noise()[:1],
}


@pytest.mark.parametrize("sky", SKIES)
def test_an_image_of_the_sky_keeps_all(sky: str) -> None:
    assert lone_pixels(frozen(SKIES[sky]())) is None


def test_real_crowds_are_far_from_the_limit() -> None:
    data = frozen(crowd(0.47))
    found = np.zeros(SHAPE, np.uint8)
    module.flag_lone(data, np.zeros(SHAPE, np.uint8), (1.0, module.FAR, 0.0), 1, found)
    assert found.mean() < 0.3 * module.MOST


@pytest.mark.parametrize("value", [1e29, -1e15, 1.7e308, -1.7e308])
@pytest.mark.parametrize("sky", ["noise", "few photons", "fewer photons", "whole numbers"])
def test_an_impossible_value_is_left_out_alone_and_in_a_block(value: float, sky: str) -> None:
    data = SKIES[sky]()
    expected = np.zeros(SHAPE, np.uint8)
    expected[0, 0] = expected[40, 50] = 1
    expected[90:93, 120:123] = 1
    data[expected > 0] = value
    np.testing.assert_array_equal(lone_pixels(frozen(data)), expected)


def test_a_bright_star_is_possible() -> None:
    """A million times the noise, no wider than a pixel."""
    data = noise() + 1e6 * np.exp(-((X - 80) ** 2 + (Y - 80) ** 2) / (2 * 0.4**2))
    assert lone_pixels(frozen(data)) is None


FEW = ["fewer photons", "quarter photons", "coarse steps"]
SKIES |= {
    "quarter photons": lambda: np.random.default_rng(1).poisson(0.25, SHAPE) / 40.0,
    "coarse steps": lambda: np.rint(np.random.default_rng(1).normal(100, 0.3, SHAPE)),
    "stars without noise": lambda: np.where((X - 80) ** 2 + (Y - 80) ** 2 < 400, 5.0 + X, 0.0),
}


@pytest.mark.parametrize("sky", SKIES)
def test_of_few_values_no_median_sees_the_level(sky: str) -> None:
    data = frozen(SKIES[sky]())
    assert is_of_few_values(data, rough_noise(data)) == (sky in FEW)
