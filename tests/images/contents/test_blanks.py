"""Which pixels are blank: fills, holes and sentinels are, values that the data take by themselves are not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from levelmatch_core.images.contents.blanks import HUGE, Blanks, _may_repeat, blank_out, find_blanks

SHAPE = (200, 240)
Y, X = np.mgrid[: SHAPE[0], : SHAPE[1]]
DIAMOND = np.abs(X - 120) + np.abs(Y - 100) > 105
CORNER = X + Y < 30


def sky(level: float = 50.0, sigma: float = 5.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(level, sigma, SHAPE).astype(np.float32)


def mask_of(image: np.ndarray, rule: str | float = "auto") -> np.ndarray:
    found = find_blanks(image, rule).mask_of(image)
    return np.zeros(SHAPE, bool) if found is None else found


@settings(deadline=None, max_examples=40)
@given(st.sampled_from([0.0, -1.0, 37.25, 1e5, -0.1]), st.sampled_from([0.0, 50.0, -300.0]), st.booleans())
def test_a_fill_of_any_constant_is_blank_whatever_the_sky(fill: float, level: float, small: bool) -> None:
    image = sky(level)
    where = CORNER if small else DIAMOND
    image[where] = fill
    if small and fill > level:  # as saturated pixels are
        return
    np.testing.assert_array_equal(mask_of(image), where)


@given(
    st.integers(0, 400),
    st.sampled_from([0.0, -0.0, 37.25, -1e30, 5e-324]),
    st.integers(0, 9),
    st.booleans(),
)
def test_the_quick_look_overlooks_no_frequent_value(size: int, value: float, equal: int, both_signs: bool) -> None:
    sample = np.random.default_rng(size).normal(size=size)
    sample[: min(equal, size)] = value
    if both_signs:
        sample[: min(equal, size) : 2] *= -1
    counts = np.unique(sample, return_counts=True)[1]
    if size > 1 and (len(counts) == 1 or counts.max() > max(0.01 * size, 8)):
        assert _may_repeat(sample)


def test_the_quick_look_spares_the_sorting_of_noise() -> None:
    assert not any(_may_repeat(sky(seed=seed).astype(np.float64).ravel()[:10_000]) for seed in range(20))


def test_holes_without_weight_are_blank_where_zeros_fill_an_image() -> None:
    image = sky()
    image[DIAMOND] = 0
    image[100, 120:124] = 0
    assert mask_of(image)[100, 120:124].all()


@pytest.mark.parametrize("shape", [(1, 90), (90, 1), (2, 70), (70, 3), (1, 1), (17, 12), (2, 2)])
def test_small_and_narrow_images_of_noise_have_nothing_blank(shape: tuple[int, int]) -> None:
    """A pixel at the end of a row of pixels is a whole edge, and few pixels hold equal values by chance."""
    for seed in range(100):
        image = np.random.default_rng(seed).normal(100, 0.001, shape).astype(np.float32)
        assert find_blanks(image, "auto") == Blanks()


@pytest.mark.parametrize("shape", [(1, 90), (90, 1), (3, 70), (17, 12)])
def test_fills_of_small_and_narrow_images_are_blank(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).normal(100, 1, shape).astype(np.float32)
    image.ravel()[:20] = 0
    assert find_blanks(image, "auto").values == (0.0,)


def test_a_zero_of_the_data_is_none() -> None:
    image = sky(level=0.0)
    image[100, 120:124] = 0
    image[30, 31] = 0
    assert not mask_of(image).any()


@pytest.mark.parametrize("mean", [0.02, 0.3, 3.0, 40.0])
def test_counts_of_nothing_are_counts(mean: float) -> None:
    image = np.random.default_rng(1).poisson(mean, SHAPE)
    assert not mask_of(image.astype(np.int16)).any()
    assert not mask_of((image / 7.3).astype(np.float32)).any()


@pytest.mark.parametrize("mean", [0.1, 0.3, 1.0, 3.0])
def test_zeros_of_rates_are_those_of_no_photon(mean: float) -> None:
    """Divided by an exposure map, counts are no whole numbers, and 0 is still one of them."""
    exposure = 1 + 0.3 * np.sin(X / 30) * np.cos(Y / 40)
    image = (np.random.default_rng(1).poisson(mean * exposure, SHAPE) / exposure).astype(np.float32)
    assert not mask_of(image).any()
    if mean >= 1:  # of fewer, solid areas without any are no fill's alone
        image[DIAMOND] = 0
        found = mask_of(image)
        assert found[DIAMOND].mean() > 0.98
        assert not found[np.abs(X - 120) + np.abs(Y - 100) < 98].any()


PATTERNS = {
    "every other column": X % 2 == 0,
    "every other row": Y % 2 == 0,
    "every other pixel": (X + Y) % 2 == 0,
    "three of four pixels": (X % 2 == 0) | (Y % 2 == 0),
    "two of three columns": X % 3 > 0,
}


@pytest.mark.parametrize("kind", [np.float32, np.int16, np.uint8])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_zeros_in_a_pattern_are_those_of_no_pixels(pattern: str, kind: type) -> None:
    """As in one colour of a camera with a mosaic of filters, and of rows or columns that were not read."""
    image = np.where(PATTERNS[pattern], 0, np.random.default_rng(1).normal(100, 5, SHAPE)).astype(kind)
    assert np.array_equal(mask_of(image), PATTERNS[pattern])


@pytest.mark.parametrize("kind", [np.float32, np.int16])
@pytest.mark.parametrize("part", [0.05, 0.12, 0.3, 0.5, 0.7, 0.9])
def test_scattered_zeros_far_below_the_sky_are_blank(part: float, kind: type) -> None:
    """No photon fell on them, if they were pixels: then some of the others would hold twice as many as most."""
    rng = np.random.default_rng(1)
    holes = rng.random(SHAPE) < part
    image = np.where(holes, 0, rng.normal(100, 5, SHAPE)).astype(kind)
    assert np.array_equal(mask_of(image), holes)


@pytest.mark.parametrize("part", [0.03, 0.3])
@pytest.mark.parametrize("value", [-9999.0, -1000.0])
def test_a_flag_far_below_all_others_is_blank_though_it_lies_scattered(part: float, value: float) -> None:
    image = sky()
    bad = np.random.default_rng(3).random(SHAPE) < part
    image[bad] = value
    np.testing.assert_array_equal(mask_of(image), bad)


def test_of_counts_only_a_solid_area_is_blank() -> None:
    image = np.random.default_rng(2).poisson(2.0, SHAPE).astype(np.float32)
    image[DIAMOND] = 0
    found = mask_of(image)
    assert found[DIAMOND].mean() > 0.98
    assert not found[np.abs(X - 120) + np.abs(Y - 100) < 98].any()  # real zeros beside the area look like it


def test_a_small_area_of_a_count_is_blank_at_an_edge_only() -> None:
    image = np.random.default_rng(4).poisson(6.0, SHAPE).astype(np.float32)
    edge, inside = image.copy(), image.copy()
    edge[:18, :20] = 0
    inside[96:114, 96:116] = 0
    found = mask_of(edge)
    assert found[:18, :20].all()
    assert not found[19:].any()
    assert not mask_of(inside).any()


@pytest.mark.parametrize("fill", [0, -32768, 65535, -2147483648])
def test_a_fill_of_whole_numbers_far_from_the_others_is_blank_to_its_last_sliver(fill: int) -> None:
    image = np.rint(sky(level=200.0)).astype(np.int64)
    image[DIAMOND] = fill
    image[100, 120:124] = fill
    np.testing.assert_array_equal(mask_of(image.astype(np.float32)), image == fill)


def test_saturated_pixels_at_an_edge_are_not_blank() -> None:
    image = sky()
    image[:5, 100:112] = 60000
    assert not mask_of(image).any()


@pytest.mark.parametrize("value", [-32768.0, -9999.0, -2147483648.0])
def test_a_sentinel_here_and_there_is_blank(value: float) -> None:
    image = sky()
    where = np.random.default_rng(3).random(SHAPE) < 0.001
    image[where] = value
    np.testing.assert_array_equal(mask_of(image), where)


def test_what_looks_like_a_sentinel_among_such_values_is_none() -> None:
    image = sky(level=-9990.0)
    image[5, 5] = -9999.0
    assert not mask_of(image).any()


def test_the_user_may_know_better() -> None:
    image = sky()
    image[DIAMOND], image[3, 100] = 0, 7.5
    assert not mask_of(image, "none").any()
    assert np.argwhere(mask_of(image, 7.5)).tolist() == [[3, 100]]
    assert find_blanks(image, "none", zero=True) == Blanks((0.0,))


def test_a_dead_chip_is_all_blank() -> None:
    for value in (0.0, 7.0):
        assert mask_of(np.full(SHAPE, value, np.float32)).all()


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("some_masked", [False, True])
def test_pixels_that_are_masked_or_huge_become_nan(kind: type[np.floating], some_masked: bool) -> None:
    image = sky().astype(kind)
    image[3, :4] = np.nan, np.inf, -np.inf, HUGE
    image[5, :2] = np.nextafter(kind(HUGE), kind(0)), -HUGE
    mask = np.random.default_rng(1).random(SHAPE) < 0.1 if some_masked else np.zeros((1, 1), np.bool_)
    invalid = ~(np.abs(image) < kind(HUGE))
    huge = np.count_nonzero(invalid & ~np.isnan(image))
    expected = np.where(invalid | mask, np.nan, image)
    assert blank_out(image, mask, kind(HUGE)) == (np.count_nonzero(np.isfinite(expected)), huge)
    assert huge == 4
    assert image.tobytes() == expected.astype(kind).tobytes()
