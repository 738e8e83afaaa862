import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.wcs import WCS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from levelmatch_core.errors import NoUsablePixelsError
from levelmatch_core.images.exposure import Exposure
from levelmatch_core.records import content_key
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.cutouts import CutoutRecord, make_cutout, open_cutout
from levelmatch_core.sky.grid import Grid
from levelmatch_core.sky.pixelmap import Box
from levelmatch_core.sky.plane import Plane
from levelmatch_core.sky.stack import box_of, mosaic_bands, stack
from levelmatch_core.sky.store import CutoutStore

SEEDS = range(4)


def made(store: CutoutStore, seed: int, *, variance: bool = True, kind: Any = np.float32) -> CutoutRecord:
    """A cutout of noise with holes, somewhere near the origin."""
    rng = np.random.default_rng(seed)
    ny, nx = (int(n) for n in rng.integers(15, 30, 2))
    planes = rng.normal(10, 1, size=(2 if variance else 1, ny, nx)).astype(kind)
    planes[:, rng.random((ny, nx)) < 0.2] = np.nan
    x0, y0 = (int(n) for n in rng.integers(-12, 12, 2))
    return CutoutRecord(
        name=f"c{seed}",
        array=store.put(content_key("made", seed, variance, np.dtype(kind).str), planes),
        x0=x0,
        y0=y0,
        shape=(ny, nx),
        has_variance=variance,
        n_valid=int(np.isfinite(planes[0]).sum()),
        noise_gain=float(rng.uniform(0.3, 1)),
        axis_angle=0.1 * seed,
        extent=(float(nx), float(ny)),
        outline=((x0, y0), (x0 + nx, y0), (x0 + nx, y0 + ny), (x0, y0 + ny)),
    )


def plane_of(seed: int) -> Plane:
    rng = np.random.default_rng(100 + seed)
    level, a, b, x0, y0 = rng.normal(size=5)
    return Plane(level=level, slope_x=0.1 * a, slope_y=0.1 * b, x0=x0, y0=y0)


def plainly(parts: Any, store: CutoutStore, box: Box) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Mean, variance and number by numpy, all in memory."""
    images, variances = [], []
    for record, plane in parts:
        cutout = open_cutout(record, store)
        image, variance = np.full(box.shape, np.nan), np.full(box.shape, np.nan)
        row, column = record.y0 - box.y0, record.x0 - box.x0
        where = np.s_[row : row + record.shape[0], column : column + record.shape[1]]
        y, x = np.indices(record.shape)
        image[where] = cutout.data - plane(x + record.x0, y + record.y0)
        variance[where] = np.nan if cutout.variance is None else cutout.variance
        images.append(image)
        variances.append(variance)
    count = np.isfinite(images).sum(axis=0)
    with np.errstate(invalid="ignore"):
        return np.nansum(images, axis=0) / count, np.nansum(variances, axis=0) / count**2, count


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_stack_against_plain_numpy(store: CutoutStore, kind: Any) -> None:
    parts = [(made(store, seed, kind=kind), plane_of(seed)) for seed in SEEDS]
    record = stack("tile", parts, store)
    cutout = open_cutout(record, store)
    box = box_of([record for record, _ in parts])
    mean, variance, count = plainly(parts, store, box)
    tolerance = 1e-6 if kind is np.float32 else 1e-13
    assert (record.x0, record.y0, record.shape) == (box.x0, box.y0, box.shape)
    assert cutout.data.dtype == kind
    np.testing.assert_allclose(cutout.data, mean, rtol=tolerance)
    np.testing.assert_allclose(cutout.variance, variance, rtol=10 * tolerance)
    assert record.n_valid == np.count_nonzero(count)
    assert record.name == "tile"
    assert record.axis_angle == parts[0][0].axis_angle


def test_any_order_gives_the_same(store: CutoutStore) -> None:
    parts = [(made(store, seed), plane_of(seed)) for seed in SEEDS]
    records = {stack("tile", order, store).to_json()["array"]["file"] for order in itertools.permutations(parts)}
    assert len(records) == 1
    fresh = [open_cutout(stack("tile", order, store), store).data for order in (parts, parts[::-1])]
    assert np.array_equal(fresh[0], fresh[1], equal_nan=True)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(rows=st.integers(1, 80), dx=st.integers(-20, 20), dy=st.integers(-20, 20), n=st.integers(1, 30))
def test_bands_do_not_matter(store: CutoutStore, rows: int, dx: int, dy: int, n: int) -> None:
    parts = [(made(store, seed), plane_of(seed)) for seed in SEEDS]
    box = Box(dx, dy, (n, n + 3))  # anywhere: it may cut the parts, or miss them
    bands = list(mosaic_bands(parts, store, box, band_rows=rows, before=True))
    assert [band.row0 for band in bands] == list(range(0, n, rows))
    wide = box_of([record for record, _ in parts])
    whole = Box(min(wide.x0, dx), min(wide.y0, dy), (140, 140))
    at = np.s_[dy - whole.y0 : dy - whole.y0 + n, dx - whole.x0 : dx - whole.x0 + n + 3]
    mean, variance, count = plainly(parts, store, whole)
    before, *_ = plainly([(record, Plane()) for record, _ in parts], store, whole)
    np.testing.assert_allclose(np.concatenate([band.mean for band in bands]), mean[at], rtol=1e-9)
    np.testing.assert_allclose(np.concatenate([band.variance for band in bands]), variance[at], rtol=1e-9)
    np.testing.assert_allclose(np.concatenate([band.before for band in bands]), before[at], rtol=1e-9)
    assert np.array_equal(np.concatenate([band.coverage for band in bands]), count[at])


def test_one_part_without_a_correction_is_itself(store: CutoutStore) -> None:
    part = made(store, 1)
    before = sorted(store.root.rglob("*"))
    assert stack("tile", [(part, Plane(x0=3.0))], store) == part.model_copy(update={"name": "tile"})
    assert sorted(store.root.rglob("*")) == before
    moved = open_cutout(stack("tile", [(part, Plane(level=2.0))], store), store).data
    np.testing.assert_allclose(moved, open_cutout(part, store).data - 2, rtol=1e-6)


def test_a_stack_is_recalled(store: CutoutStore, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [(made(store, seed), plane_of(seed)) for seed in SEEDS]
    record = stack("tile", parts, store)
    monkeypatch.setattr("levelmatch_core.sky.stack.mosaic_bands", None)
    assert stack("other", parts, store) == record.model_copy(update={"name": "other"})
    with pytest.raises(TypeError):
        stack("tile", [*parts[1:], (parts[0][0], Plane())], store)


def test_variance_only_if_all_have_it(store: CutoutStore) -> None:
    parts = [(made(store, 1), Plane(level=1.0)), (made(store, 2, variance=False), Plane())]
    record = stack("tile", parts, store)
    assert not record.has_variance
    assert open_cutout(record, store).variance is None


def test_nothing_to_stack_is_an_error(store: CutoutStore) -> None:
    with pytest.raises(NoUsablePixelsError, match="nothing to stack"):
        stack("tile", [], store)


def test_gain_weighs_each_part_by_its_share_of_the_variance(store: CutoutStore) -> None:
    parts = [(made(store, seed), Plane()) for seed in SEEDS]
    record = stack("tile", parts, store)
    box = box_of([part for part, _ in parts])
    _, _, count = plainly(parts, store, box)
    shares = []
    for part, _ in parts:
        row, column = part.y0 - box.y0, part.x0 - box.x0
        valid = np.isfinite(open_cutout(part, store).data)
        shares.append(np.sum(1.0 / count[row : row + part.shape[0], column : column + part.shape[1]][valid] ** 2))
    expected = np.average([part.noise_gain for part, _ in parts], weights=shares)
    assert record.noise_gain == pytest.approx(expected, rel=1e-12)
    assert record.noise_reach == 1.0


def test_gain_tells_the_error_of_a_mean_over_the_stack(
    tmp_path: Path, store: CutoutStore, make_exposure: Callable[..., Exposure], make_wcs: Callable[..., WCS]
) -> None:
    # resampled pixels are correlated: n of them are worth n * gain independent ones of their own variance
    grid = Grid(ra=83.0, dec=-5.0, angle=0.0, scale=1.0)
    shape, block = (420, 420), 16
    parts = []
    for dither in range(2):
        noise = np.random.default_rng(dither).normal(size=shape).astype(np.float32)
        wcs = make_wcs(shape, ra=83.0 + 0.0001 * dither, angle=3.0 * dither)
        exposure = make_exposure(tmp_path / f"{dither}.fits", noise, wcs)
        parts.append((make_cutout(exposure, grid, MatchSettings(), store), Plane()))
    record = stack("tile", parts, store)
    middle = open_cutout(record, store).data[20:404, 20:404].astype(float)
    means = middle.reshape(384 // block, block, 384 // block, block).mean(axis=(1, 3))
    predicted = middle.var() / record.noise_gain / block**2
    assert means.var() == pytest.approx(predicted, rel=0.18)  # 3 sigma of 576 blocks
    assert record.noise_gain < 0.7  # and without the gain it would be outside of that


def test_outline_is_the_hull(store: CutoutStore) -> None:
    parts = [(made(store, seed), plane_of(seed)) for seed in SEEDS]
    record = stack("tile", parts, store)
    x, y = np.array(record.outline).T
    box = box_of([part for part, _ in parts])
    assert (x.min(), y.min()) == (box.x0, box.y0)
    assert (x.max(), y.max()) == (box.x0 + box.shape[1], box.y0 + box.shape[0])
    assert len(record.outline) >= 4
