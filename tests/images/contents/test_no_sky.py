"""What pixels hold tells masks, weights and labels from images of the sky, whatever they are called."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from levelmatch_core.errors import NoInputError
from levelmatch_core.images.contents.no_sky import reason_of
from levelmatch_core.images.inventory import take_inventory
from levelmatch_core.settings import MatchSettings

SIZE = 96
Y, X = np.mgrid[:SIZE, :SIZE]


def stars(rng: np.random.Generator, flux: float, number: int = 25, width: float = 1.5) -> np.ndarray:
    """Return an image of stars."""
    image = np.zeros((SIZE, SIZE))
    for x, y, size in zip(*rng.uniform(0, SIZE, (2, number)), rng.pareto(1.2, number), strict=True):
        image += flux * size * np.exp(-((X - x) ** 2 + (Y - y) ** 2) / (2 * width**2))
    return image


def patches(rng: np.random.Generator, part: float, width: float) -> np.ndarray:
    """Return areas that cover part of an image; single pixels for a width of 0."""
    field = rng.normal(size=(SIZE, SIZE))
    field = ndimage.gaussian_filter(field, width) if width else field
    return np.asarray(field > np.quantile(field, 1 - part))


@given(
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(["u1", "u2", "i2", "i4", "f4"]),
    level=st.floats(0, 200),
    noise=st.floats(0.3, 60),
    flux=st.floats(0, 4000),
    factor=st.sampled_from([1, 2, 3, 1.5, 0.7]),
    black=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_whole_numbers_of_the_sky_are_no_mask(
    *, seed: int, kind: str, level: float, noise: float, flux: float, factor: float, black: bool
) -> None:
    """Raw counts, scans of plates, images of 8 bits: with saturated stars, cut at black, multiplied and rounded."""
    rng = np.random.default_rng(seed)
    if factor % 1:  # nobody rounds away what little there is
        noise, level = noise + 2, level + 10
    image = level + stars(rng, flux) + rng.normal(0, noise, (SIZE, SIZE))
    image = np.rint(np.rint(image) * factor)
    least, most = (0, 255) if kind == "u1" else (0, 65535) if kind == "u2" else (-32768, 32767)
    image = np.clip(image, 0 if black else least, most)
    if len(np.unique(image)) > 2:
        assert not reason_of(image.astype(kind))


@given(seed=st.integers(0, 10**6), mean=st.floats(0.01, 5), flux=st.floats(0, 20), time=st.sampled_from([1.0, 7.3]))
@settings(max_examples=100, deadline=None)
def test_counts_of_few_photons_are_no_mask(seed: int, mean: float, flux: float, time: float) -> None:
    rng = np.random.default_rng(seed)
    image = rng.poisson(mean + stars(rng, flux)) / time
    if len(np.unique(image)) > 2:
        assert not reason_of(image.astype(np.float32))
        assert time != 1 or not reason_of(image.astype(np.int16))


@given(
    seed=st.integers(0, 10**6),
    bits=st.lists(st.sampled_from(range(15)), min_size=1, max_size=5, unique=True),
    part=st.floats(0.05, 0.25),
    width=st.sampled_from([0, 2, 4]),
    kind=st.sampled_from(["i2", "u2", "i4", "u4", "f4"]),
)
@settings(max_examples=150, deadline=None)
def test_bits_are_a_mask(*, seed: int, bits: list[int], part: float, width: float, kind: str) -> None:
    rng = np.random.default_rng(seed)
    image = np.zeros((SIZE, SIZE), np.int64)
    for bit in bits:
        image[patches(rng, part * rng.uniform(0.3, 1), width)] |= 1 << bit
    told = reason_of(image.astype(kind))
    if width or len(bits) == 1 or any(two - one > 1 for one, two in pairwise(sorted(bits))):
        assert told
    # single pixels of bits that follow each other, the rarer the higher, look like photons; and of six flags, of which
    # most pixels have several, nearly all numbers occur


@given(seed=st.integers(0, 10**6), number=st.integers(2, 8), kind=st.sampled_from(["u1", "i2", "f4", "f8"]))
@settings(max_examples=100, deadline=None)
def test_weights_over_areas_are_told(seed: int, number: int, kind: str) -> None:
    """Exposures that overlap: how often each pixel was seen, or the sum of their weights."""
    rng = np.random.default_rng(seed)
    seen = np.zeros((SIZE, SIZE))
    for x, y in rng.uniform(-40, 40, (number - 1, 2)):
        seen += (np.abs(X - SIZE / 2 - x) < 40) & (np.abs(Y - SIZE / 2 - y) < 40)
    seen *= 1.37 if kind.startswith("f") else 1
    if len(np.unique(seen)) > 1:
        assert reason_of(seen.astype(kind))


def test_labels_of_sources_are_told() -> None:
    labels, number = ndimage.label(stars(np.random.default_rng(1), 500, 40) > 20)
    assert number > 8
    assert reason_of(labels.astype(np.int32))


def test_the_highest_bit_is_a_bit() -> None:
    image = np.zeros((SIZE, SIZE), np.int16)
    image[10:20, 30:50] = -32768
    image[15:30, 40:60] |= 4
    assert "powers of two" in reason_of(image)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
@pytest.mark.parametrize("kind", ["i2", "u1", "f4"])
def test_an_image_of_no_pixels_is_refused_for_that(
    tmp_path: Path, sky_header: Callable[..., Any], shape: tuple[int, int], kind: str
) -> None:
    image = np.zeros(shape, kind)
    assert not reason_of(image)
    fits.PrimaryHDU(sky(0).astype(np.float32), sky_header()).writeto(tmp_path / "a.fits")
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(image, sky_header(), name="SCI")]).writeto(tmp_path / "b.fits")
    inventory = take_inventory([tmp_path], MatchSettings())
    assert [(one.name, "two-dimensional" in one.reason) for one in inventory.failures] == [("b.fits", True)]
    assert [one.name for field in inventory.fields for one in field.exposures] == ["a.fits"]


def test_bright_stars_on_next_to_no_sky_are_no_mask() -> None:
    """An image of 8 bits that was multiplied by 0.7 and rounded: 1, 2 and 4 are frequent, and its stars have gaps."""
    rng = np.random.default_rng(29025)
    image = stars(rng, 712.0) + rng.normal(0, 2.3046875, (SIZE, SIZE))
    assert not reason_of(np.clip(np.rint(np.rint(image) * 0.7), 0, 255).astype("u1"))


def sky(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.asarray(100 + stars(rng, 50) + rng.normal(0, 3, (SIZE, SIZE)))


MASK = np.where((X > 30) & (X < 50), 4, 0) | np.where(Y > 80, 16, 0)


@pytest.mark.parametrize("ending", [".fits", ".fits.gz", ".fits.fz"])
@pytest.mark.parametrize("kind", ["u2", "i4", "f4"])
@pytest.mark.parametrize("companions", ["use", "ignore"])
def test_a_mask_without_a_telling_name_is_left_out_by_name(
    tmp_path: Path, sky_header: Callable[..., Any], ending: str, kind: str, companions: Any
) -> None:
    def write(name: str, data: np.ndarray) -> None:
        header = sky_header()
        hdus = [fits.PrimaryHDU(), fits.CompImageHDU(data, header)] if ending.endswith("fz") else None
        (fits.PrimaryHDU(data, header) if hdus is None else fits.HDUList(hdus)).writeto(tmp_path / (name + ending))

    for number in range(2):
        write(f"p{number}", np.rint(sky(number)).astype(kind))
        write(f"a{number}", (MASK << number).astype(kind))
    inventory = take_inventory([tmp_path], MatchSettings(companions=companions))
    assert [one.name for field in inventory.fields for one in field.exposures] == [f"p0{ending}", f"p1{ending}"]
    assert not inventory.failures
    note = next(note for note in inventory.notes if "no exposures" in note)
    assert f"a0{ending} (its pixels hold" in note
    assert f"a1{ending} (its pixels hold" in note


def test_a_chip_that_is_a_mask_keeps_the_numbers_of_the_others(tmp_path: Path, sky_header: Callable[..., Any]) -> None:
    header, other = sky_header(), sky_header()
    other["CRVAL1"] += 0.02
    images = [fits.ImageHDU(MASK.astype(np.int16), other), fits.ImageHDU(sky(0).astype(np.float32), header)]
    fits.HDUList([fits.PrimaryHDU(), *images]).writeto(tmp_path / "m.fits")
    inventory = take_inventory([tmp_path], MatchSettings())
    assert [one.name for field in inventory.fields for one in field.exposures] == ["m.fits#2"]
    assert [(one.name, one.error) for one in inventory.failures] == [("m.fits#1", "NoImageError")]


def test_nothing_but_masks_is_refused_with_the_reasons(tmp_path: Path, sky_header: Callable[..., Any]) -> None:
    fits.PrimaryHDU(MASK.astype(np.int16), sky_header()).writeto(tmp_path / "a.fits")
    with pytest.raises(NoInputError, match="as those of a mask"):
        take_inventory([tmp_path], MatchSettings())
