"""Robust stacks: weights by noise, values that stand out left out, against plain numpy."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from levelmatch_core.records import content_key
from levelmatch_core.sky import stack_kernels
from levelmatch_core.sky.cutouts import CutoutRecord, open_cutout
from levelmatch_core.sky.plane import Plane
from levelmatch_core.sky.stack import box_of, robust_bands, stack, stack_weights
from levelmatch_core.sky.store import CutoutStore


def put(store: CutoutStore, name: str, image: NDArray[np.float64], x0: int = 0, y0: int = 0) -> CutoutRecord:
    """Store an image, with a variance of 1."""
    planes = np.stack([image, np.where(np.isnan(image), np.nan, 1e-6).astype(image.dtype)])
    ny, nx = image.shape
    return CutoutRecord(
        name=name,
        array=store.put(content_key(name), planes),
        x0=x0,
        y0=y0,
        shape=(ny, nx),
        has_variance=True,
        n_valid=int(np.isfinite(image).sum()),
        noise_gain=0.8,
        axis_angle=0.0,
        extent=(float(nx), float(ny)),
        outline=((x0, y0), (x0 + nx, y0), (x0 + nx, y0 + ny), (x0, y0 + ny)),
    )


def plainly(
    images: NDArray[np.float64], noise: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The same pixel by pixel."""
    median = np.full(images.shape[1:], np.nan)
    median[np.isfinite(images).any(axis=0)] = np.nanmedian(images[:, np.isfinite(images).any(axis=0)], axis=0)
    out = np.full(median.shape, np.nan)
    padded = np.pad(median, 1, constant_values=np.nan)
    beside = np.stack([padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]])
    steps = np.abs(beside - median)
    step = np.max(np.where(np.isfinite(steps), steps, 0.0), axis=0)
    valid = np.isfinite(images)
    off = np.where(valid, np.abs(images - median) - stack_kernels.STEEP * step, -np.inf) / noise[:, None, None]
    wrong = (off > stack_kernels.LIMIT) & (valid.sum(axis=0) >= stack_kernels.FEWEST)
    around = ndimage.binary_dilation(wrong, np.ones((1, 3, 3), dtype=bool))
    good = valid & ~wrong & ~(around & (off > stack_kernels.BESIDE))
    for r, c in np.argwhere(np.isfinite(median)).tolist():
        # the best that there are
        used = next(some for some in (good[:, r, c], valid[:, r, c] & ~wrong[:, r, c], valid[:, r, c]) if some.any())
        out[r, c] = np.sum(images[used, r, c] * weights[used]) / np.sum(weights[used])
    return out


@pytest.mark.parametrize("count", [2, 3, 4, 5])
@pytest.mark.parametrize("band_rows", [None, 7])
def test_it_is_the_mean_of_what_the_median_does_not_contradict(
    tmp_path: Path, count: int, band_rows: int | None
) -> None:
    store = CutoutStore(tmp_path)
    rng = np.random.default_rng(count)
    noise = 0.5 * 2.0 ** np.arange(count)
    images = rng.normal(size=(count, 30, 40)) * noise[:, None, None]
    images[rng.random(images.shape) < 0.05] += 200
    images[rng.random(images.shape) < 0.1] = np.nan
    planes = [Plane(level=3.0 * n, slope_x=0.01, slope_y=0.0, x0=0.0, y0=0.0) for n in range(count)]
    lean = 0.01 * np.arange(40)
    records = [put(store, f"p{n}", image + 3.0 * n + lean) for n, image in enumerate(images)]
    parts = list(zip(records, planes, strict=True))
    bands = list(robust_bands(parts, noise.tolist(), store, box_of(records), band_rows=band_rows))
    found = np.concatenate([band.mean for band in bands])
    np.testing.assert_allclose(found, plainly(images, noise, stack_weights(noise.tolist())), rtol=1e-9, atol=1e-12)


def test_cosmic_rays_do_not_get_into_a_stack(tmp_path: Path) -> None:
    store = CutoutStore(tmp_path)
    rng = np.random.default_rng(5)
    clean = rng.normal(size=(4, 80, 80))
    hit = clean.copy()
    hit[rng.random(hit.shape) < 0.02] += 50
    records = [put(store, f"h{n}", image) for n, image in enumerate(hit)]
    parts = [(record, Plane()) for record in records]
    plain = open_cutout(stack("a", parts, store), store).data
    robust = open_cutout(stack("b", parts, store, [1.0] * 4), store).data
    away = [np.mean(np.abs(image) > 4) for image in (plain, robust)]
    assert away[0] > 0.06
    assert away[1] < 0.005  # two hits of four at one place cannot be told from the other two
    assert 1.48 * np.median(np.abs(robust)) < 1.05 * np.std(clean.mean(axis=0))


def test_what_a_cosmic_ray_leaves_beside_it_is_left_out_too(tmp_path: Path) -> None:
    """Resampling spreads a hit; what is next to it is too close to the noise to be seen alone.

    The scatter over blocks of 10 x 10 pixels is what levels feel of it.
    """
    store = CutoutStore(tmp_path)
    rng = np.random.default_rng(11)
    clean = rng.normal(size=(4, 200, 200))
    hits = np.where(rng.random(clean.shape) < 0.005, 6.0 + 4.0 * rng.pareto(1.5, clean.shape), 0.0)
    spread = np.array([[0.1, 0.3, 0.1], [0.3, 1.0, 0.3], [0.1, 0.3, 0.1]])
    hit = clean + np.stack([ndimage.convolve(image, spread) for image in hits])
    parts = [(put(store, f"w{n}", image), Plane()) for n, image in enumerate(hit)]
    robust = open_cutout(stack("w", parts, store, [1.0] * 4), store).data
    blocks = (robust - clean.mean(axis=0)).reshape(20, 10, 20, 10).mean(axis=(1, 3))
    assert np.std(blocks) < 0.035  # 0.045 with what is beside hits; the noise itself is 0.05
    assert 1.48 * np.median(np.abs(robust)) < 1.05 * np.std(clean.mean(axis=0))


def test_the_order_of_parts_does_not_matter(tmp_path: Path) -> None:
    store = CutoutStore(tmp_path)
    images = np.random.default_rng(6).normal(size=(3, 20, 20))
    parts = [(put(store, f"o{n}", image), Plane(level=float(n), x0=0.0, y0=0.0)) for n, image in enumerate(images)]
    noise = [1.0, 2.0, 5.0]
    one, other = stack("s", parts, store, noise), stack("s", parts[::-1], store, noise[::-1])
    assert one == other


def test_weights_follow_noise_that_differs() -> None:
    assert stack_weights([1.0, 1.2, 1.1]).tolist() == [1.0, 1.0, 1.0]
    assert stack_weights([1.0, 100.0]) == pytest.approx([1.0, 1e-4])
    assert stack_weights([0.0, 1.0]).tolist() == [1.0, 1.0]


def test_a_part_with_a_huge_level_does_not_move_the_others(tmp_path: Path) -> None:
    """At a level of a million, pixels are multiples of 1/16; less 750000.007 they would all be rounded the same way."""
    rng, store = np.random.default_rng(8), CutoutStore(tmp_path)
    images = rng.normal(0, 0.1, (4, 60, 60))
    images[2] += 1e6
    levels = (-249999.95, -250000.01, 750000.0073, -250000.04)
    parts = [(put(store, f"e{n}", image.astype(np.float32)), Plane(level=levels[n])) for n, image in enumerate(images)]
    found = open_cutout(stack("s", parts, store, (0.1,) * 4), store).data.astype(float)
    expected = np.mean(images.mean(axis=(1, 2)) - levels)
    assert np.mean(found) == pytest.approx(expected, abs=1e-3)  # 0.0002 is the scatter of the rounding
