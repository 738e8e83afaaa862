from typing import Any

import numpy as np
import pytest
from astropy.stats import SigmaClip
from numpy.typing import NDArray
from photutils.segmentation import detect_sources, detect_threshold

from levelmatch_core.errors import NoUsablePixelsError
from levelmatch_core.sky.masks import local_sky, source_mask


def scene(seed: int = 0, shape: tuple[int, int] = (120, 150)) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape)
    data = rng.normal(5.0, 0.2, size=shape)
    for _ in range(25):
        x0, y0, flux = rng.uniform(0, shape[1]), rng.uniform(0, shape[0]), rng.uniform(1, 30)
        data += flux * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / 6.0)
    return data


@pytest.mark.parametrize("size", [1, 4, 7])
@pytest.mark.parametrize("npixels", [1, 3, 6])
def test_agrees_with_photutils(size: int, npixels: int) -> None:
    data = scene()
    invalid = np.zeros(data.shape, dtype=bool)
    invalid[10:20, 30:50] = True
    clip = SigmaClip(sigma=3.0, maxiters=20)
    threshold = detect_threshold(data, 3.0, mask=invalid, sigma_clip=clip)
    segments = detect_sources(data, threshold, npixels, mask=invalid)
    expected = segments.make_source_mask(size=size if size > 1 else None)
    holed = np.where(invalid, np.nan, data)
    found = source_mask(holed, sigma=3.0, npixels=npixels, dilate_size=size, max_iters=20)
    assert np.array_equal(found, expected)
    assert 0 < found.sum() < found.size


def test_nothing_found_without_a_warning() -> None:
    assert not source_mask(np.full((20, 20), 3.0)).any()
    assert not source_mask(np.full((20, 20), np.nan)).any()


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_local_sky_is_the_level_between_the_sources(kind: Any) -> None:
    data = scene().astype(kind)
    data[50:60] = np.nan
    assert local_sky(data) == pytest.approx(5.0, abs=0.02)
    assert abs(np.nanmedian(data) - 5.0) > abs(local_sky(data) - 5.0)
    assert local_sky(data + kind(7)) == pytest.approx(local_sky(data) + 7, abs=1e-4)


def test_no_sky_is_an_error() -> None:
    with pytest.raises(NoUsablePixelsError, match="no pixel of 4 x 5 is left"):
        local_sky(np.full((4, 5), np.nan))
