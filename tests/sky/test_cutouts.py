import math
import resource
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.wcs import WCS
from numpy.typing import NDArray

from levelmatch_core.errors import NoUsablePixelsError, NoWcsError, PixelMapError, StoreError
from levelmatch_core.images.exposure import Exposure, Window
from levelmatch_core.images.reading import file_digest
from levelmatch_core.process.small_work import CompiledWhenLarge, everything_compiled
from levelmatch_core.records import content_key
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky import cutouts
from levelmatch_core.sky.cutouts import CutoutRecord, CutoutsInUse, cutout_key, make_cutout, open_cutout
from levelmatch_core.sky.grid import Grid
from levelmatch_core.sky.pixelmap import grid_to_image, place
from levelmatch_core.sky.resample import bilinear
from levelmatch_core.sky.store import CutoutStore

GRID = Grid(ra=83.0, dec=-5.0, angle=0.0, scale=1.0)
SETTINGS = MatchSettings()
Write = Callable[..., Exposure]
Make = Callable[..., WCS]


def image(shape: tuple[int, int], seed: int = 0, kind: Any = np.float32) -> NDArray[Any]:
    return np.random.default_rng(seed).normal(10, 1, size=shape).astype(kind)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_cutout_is_the_resampled_exposure(
    tmp_path: Path, store: CutoutStore, make_exposure: Write, make_wcs: Make, kind: Any
) -> None:
    shape = (80, 130)
    wcs = make_wcs(shape, angle=25.0, distortion=1e-5)
    data, error = image(shape, kind=kind), (1 + image(shape, 1, kind) ** 2).astype(kind)
    data[5:9, 60:70] = np.nan
    exposure = make_exposure(tmp_path / "a.fits", data, wcs, error)
    record = make_cutout(exposure, GRID, SETTINGS, store)
    cutout = open_cutout(record, store)

    box = place(GRID, wcs, (0, 80), (0, 130)).box
    oracle = bilinear(data, error**2, grid_to_image(GRID, wcs, shape, box), box)
    assert (record.x0, record.y0, record.shape) == (box.x0, box.y0, box.shape)
    # the header has the WCS to some digits less
    np.testing.assert_allclose(cutout.data, oracle.data, atol=2e-5)
    assert cutout.variance is not None
    np.testing.assert_allclose(cutout.variance, oracle.variance, rtol=1e-4)
    assert cutout.data.dtype == kind
    assert not cutout.data.flags.writeable
    assert record.n_valid == np.isfinite(cutout.data).sum()
    assert record.noise_gain == pytest.approx(oracle.noise_gain, abs=1e-6)
    assert record.has_variance
    # the extent along its own axes is its size, whatever the angle
    assert record.extent == pytest.approx((130, 80), abs=1.5)
    assert CutoutRecord.from_json(record.to_json()) == record


def test_outline_holds_the_valid_pixels_and_angle_is_that_of_x(
    tmp_path: Path, store: CutoutStore, make_exposure: Write, make_wcs: Make
) -> None:
    shape = (40, 100)
    record = make_cutout(
        make_exposure(tmp_path / "a.fits", image(shape), make_wcs(shape, angle=30.0)), GRID, SETTINGS, store
    )
    corners = np.array(record.outline)[::2]
    assert np.hypot(*(corners[1] - corners[0])) == pytest.approx(100, abs=0.01)
    along = corners[1] - corners[0]
    assert math.atan2(along[1], along[0]) == pytest.approx(record.axis_angle, abs=1e-4)
    y, x = np.nonzero(np.isfinite(open_cutout(record, store).data))
    u = along / np.hypot(*along)
    v = np.array([-u[1], u[0]])
    points = np.stack([x + record.x0, y + record.y0]).T - corners[0]
    assert points @ u == pytest.approx(50, abs=50.001)
    assert np.abs(points @ v).max() <= 40.001


def test_the_second_time_it_is_recalled(
    tmp_path: Path, store: CutoutStore, make_exposure: Write, make_wcs: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    exposure = make_exposure(tmp_path / "a.fits", image((30, 30)), make_wcs((30, 30)))
    first = make_cutout(exposure, GRID, SETTINGS, store)
    calls: list[Any] = []
    monkeypatch.setattr(cutouts, "read_exposure", lambda exposure: calls.append(exposure) or cutouts_read(exposure))
    assert make_cutout(exposure, GRID, SETTINGS, CutoutStore(store.root)) == first
    renamed = exposure.model_copy(update={"name": "b", "path": tmp_path / "moved"})
    assert make_cutout(renamed, GRID, SETTINGS, store) == first.model_copy(update={"name": "b"})
    assert not calls
    # an altered array is made anew, with the same bytes
    path = store.root / first.array.file
    content = path.read_bytes()
    path.write_bytes(content[:-4] + b"abcd")
    with pytest.raises(StoreError, match="altered"):
        open_cutout(first, store)
    assert make_cutout(exposure, GRID, SETTINGS, CutoutStore(store.root)) == first
    assert len(calls) == 1
    assert path.read_bytes() == content


cutouts_read = cutouts.read_exposure


def test_what_goes_into_the_key(make_bare: Callable[..., Exposure]) -> None:
    exposure = make_bare("a")
    key = cutout_key(exposure, GRID, SETTINGS)
    same = [
        cutout_key(exposure.model_copy(update={"name": "b", "path": Path("/b"), "tile": "t"}), GRID, SETTINGS),
        cutout_key(exposure, GRID, SETTINGS.model_copy(update={"rms_sig_limit": 9.0, "procs": 3, "sigma": 5.0})),
    ]
    assert set(same) == {key}
    window = Window(rows=(0, 5), columns=(0, 5), inside=True)
    clipped = SETTINGS.model_copy(update={"do_sigma_clip": True})
    others = [
        cutout_key(exposure.model_copy(update={"digest": "0" * 64}), GRID, SETTINGS),
        cutout_key(exposure.model_copy(update={"sci": 2}), GRID, SETTINGS),
        cutout_key(exposure.model_copy(update={"dq": 3}), GRID, SETTINGS),
        cutout_key(exposure.model_copy(update={"window": window}), GRID, SETTINGS),
        cutout_key(exposure.model_copy(update={"window": window.model_copy(update={"inside": False})}), GRID, SETTINGS),
        cutout_key(exposure.model_copy(update={"instrument": "miri"}), GRID, SETTINGS),
        cutout_key(exposure, GRID.model_copy(update={"angle": 5.0}), SETTINGS),
        cutout_key(exposure, GRID, SETTINGS.model_copy(update={"reproject_func": "exact"})),
        cutout_key(exposure, GRID, clipped),
        cutout_key(exposure, GRID, clipped.model_copy(update={"sigma": 5.0})),
    ]
    assert len({key, *others}) == len(others) + 1


def test_a_window_costs_its_own_box_only(
    tmp_path: Path, store: CutoutStore, make_exposure: Write, make_wcs: Make
) -> None:
    shape = (200, 200)
    wcs = make_wcs(shape, angle=10.0)
    window = Window(rows=(150, 200), columns=(0, 60), inside=True)
    whole = make_exposure(tmp_path / "a.fits", image(shape), wcs)
    inside = make_cutout(whole.model_copy(update={"window": window, "name": "in"}), GRID, SETTINGS, store)
    rest = window.model_copy(update={"inside": False})
    outside = make_cutout(whole.model_copy(update={"window": rest, "name": "out"}), GRID, SETTINGS, store)
    full = make_cutout(whole, GRID, SETTINGS, store)
    assert inside.shape[0] < 70
    assert inside.shape[1] < 80
    assert outside.shape == full.shape
    assert inside.n_valid + outside.n_valid < full.n_valid
    assert inside.n_valid + outside.n_valid > full.n_valid - 2.2 * (60 + 50) - 10  # the seam is lost
    assert inside.extent == pytest.approx((60, 50), abs=2)
    # on the shared grid their pixels are the whole image's
    row, column = inside.y0 - full.y0, inside.x0 - full.x0
    part = open_cutout(full, store).data[row : row + inside.shape[0], column : column + inside.shape[1]]
    mine = open_cutout(inside, store).data
    assert np.nanmax(np.abs(part - mine)) < 1e-5


def test_sources_are_masked_before_resampling(
    tmp_path: Path, store: CutoutStore, make_exposure: Write, make_wcs: Make
) -> None:
    shape = (60, 60)
    data = image(shape)
    data[30:34, 20:24] += 1000.0
    exposure = make_exposure(tmp_path / "a.fits", data, make_wcs(shape, angle=20.0))
    clipped = SETTINGS.model_copy(update={"do_sigma_clip": True})
    plain = open_cutout(make_cutout(exposure, GRID, SETTINGS, store), store).data
    masked = open_cutout(make_cutout(exposure, GRID, clipped, store), store).data
    assert np.nanmax(plain) > 900
    assert np.nanmax(masked) < 20
    assert np.isnan(masked).sum() - np.isnan(plain).sum() >= 8 * 8


@pytest.mark.parametrize("method", ["interp", "spline", "adaptive"])
def test_what_is_masked_is_kept_beside_and_nothing_is_read_twice(
    tmp_path: Path, store: CutoutStore, make_exposure: Write, make_wcs: Make, method: str
) -> None:
    shape = (60, 60)
    data = image(shape)
    data[30:34, 20:24] += 1000.0
    exposure = make_exposure(tmp_path / "a.fits", data, make_wcs(shape, angle=20.0), np.abs(data))
    settings = SETTINGS.model_copy(update={"reproject_func": method})
    plain = open_cutout(make_cutout(exposure, GRID, settings, store), store)
    record = make_cutout(exposure, GRID, settings.model_copy(update={"do_sigma_clip": True}), store)
    exposure.path.unlink()
    masked, whole = open_cutout(record, store), open_cutout(record.with_sources, store)
    np.testing.assert_array_equal(whole.data, plain.data)
    np.testing.assert_array_equal(whole.variance, plain.variance)
    assert whole.record.n_valid == plain.record.n_valid == np.isfinite(plain.data).sum()
    assert masked.record.n_valid == np.isfinite(masked.data).sum() < plain.record.n_valid - 8 * 8
    assert plain.record.with_sources == plain.record


@pytest.mark.parametrize("method", ["adaptive", "exact"])
def test_other_methods(tmp_path: Path, store: CutoutStore, make_exposure: Write, make_wcs: Make, method: str) -> None:
    shape = (40, 50)
    settings = SETTINGS.model_copy(update={"reproject_func": method})
    data = np.full(shape, 7.0, np.float32)
    exposure = make_exposure(tmp_path / "a.fits", data, make_wcs(shape, angle=20.0), data)
    exposure = exposure.model_copy(update={"blank": "none"})  # a constant image would be a dead chip
    record = make_cutout(exposure, GRID, settings, store)
    cutout = open_cutout(record, store)
    assert cutout.data.dtype == np.float32
    assert np.nanmax(np.abs(cutout.data - 7)) < 1e-5
    assert cutout.variance is not None
    assert np.nanmedian(cutout.variance) == pytest.approx(49 * record.noise_gain, rel=1e-3)
    assert 0 < record.noise_gain < 1
    assert record.n_valid > 0.85 * 40 * 50


def test_a_new_exposure_at_the_edge_resamples_one_exposure(
    tmp_path: Path, store: CutoutStore, make_exposure: Write, make_wcs: Make
) -> None:
    exposures = [
        make_exposure(tmp_path / f"{i}.fits", image((30, 30), i), make_wcs((30, 30), ra=83.0 + 0.005 * i))
        for i in range(3)
    ]
    before = [make_cutout(exposure, GRID, SETTINGS, store) for exposure in exposures]
    count = len(list(store.root.rglob("*.npy")))
    new = make_exposure(tmp_path / "new.fits", image((30, 30), 9), make_wcs((30, 30), ra=83.02, dec=-4.99))
    after = [make_cutout(exposure, GRID, SETTINGS, store) for exposure in (new, *exposures)]
    assert after[1:] == before
    assert len(list(store.root.rglob("*.npy"))) == count + 1


def test_what_is_bad_says_whose_it_is(tmp_path: Path, store: CutoutStore, make_exposure: Write, make_wcs: Make) -> None:
    far = make_exposure(tmp_path / "far.fits", image((20, 20)), make_wcs((20, 20), ra=263.0, dec=5.0))
    with pytest.raises(PixelMapError, match=r"far\.fits: the outline"):
        make_cutout(far, GRID, SETTINGS, store)
    lonely = np.full((20, 20), np.nan, np.float32)
    lonely[10, 10] = 1.0  # a single pixel has no neighbours
    single = make_exposure(tmp_path / "single.fits", lonely, make_wcs((20, 20), ra=83.00003, angle=20.0))
    with pytest.raises(NoUsablePixelsError, match=r"single\.fits: no usable pixel is left"):
        make_cutout(single, GRID, SETTINGS, store)
    plain = _without_wcs(tmp_path / "no.fits")
    bare = make_exposure(tmp_path / "bare.fits", image((9, 9)), make_wcs((9, 9)), sci=1)
    bare = bare.model_copy(update={"path": plain, "name": "bare.fits", "digest": file_digest(plain), "checksum": ""})
    with pytest.raises(NoWcsError, match=r"bare\.fits"):
        make_cutout(bare, GRID, SETTINGS, store)


def _without_wcs(path: Path) -> Path:
    from astropy.io import fits  # noqa: PLC0415 - here only

    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(image((9, 9)))]).writeto(path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("how", "most"), [("interp", 10), ("spline", 13)])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("is_compiled", [True, False])
def test_memory_of_a_large_exposure(  # noqa: PLR0917 - fixtures
    tmp_path: Path,
    store: CutoutStore,
    make_exposure: Write,
    make_wcs: Make,
    monkeypatch: pytest.MonkeyPatch,
    is_compiled: bool,
    clip: bool,
    how: str,
    most: int,
) -> None:
    from astropy.io import fits  # noqa: PLC0415 - here only

    if not is_compiled:  # as in a first run
        monkeypatch.setattr(CompiledWhenLarge, "__call__", lambda self, *arguments: self.plain(*arguments))
    shape = (2048, 2048)
    data = image(shape)
    exposure = make_exposure(tmp_path / "a.fits", data, make_wcs(shape, angle=45.0, scale=0.1, distortion=1e-6), data)
    with fits.open(exposure.path, mode="append") as hdus:
        hdus.append(fits.ImageHDU(np.zeros(shape, np.uint32), name="DQ"))
    exposure = exposure.model_copy(update={"dq": 3, "digest": file_digest(exposure.path), "checksum": ""})
    grid = GRID.model_copy(update={"scale": 0.1})
    settings = SETTINGS.model_copy(update={"do_sigma_clip": clip, "reproject_func": how})
    if is_compiled:
        with everything_compiled():
            make_cutout(exposure, grid, settings, CutoutStore(tmp_path / "before"))
    tracemalloc.start()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    make_cutout(exposure, grid, settings, store)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    sys.stdout.write(f"\npeak {peak / data.nbytes:.1f} SCI arrays (clip {clip}), rss grew {grown / 1024:.0f} MB\n")
    assert peak <= most * data.nbytes


def test_cutouts_are_mapped_from_first_to_last_use(store: CutoutStore) -> None:
    record: dict[str, Any] = {"x0": 0, "y0": 0, "shape": (2, 3), "has_variance": False, "n_valid": 6, "noise_gain": 1.0}
    record |= {"axis_angle": 0.0, "extent": (3.0, 2.0), "outline": ()}
    records = [
        CutoutRecord(name=name, array=store.put(content_key(name), np.full((1, 2, 3), n, np.float32)), **record)
        for n, name in enumerate("abc")
    ]
    pairs = [("a", "b"), ("b", "c"), ("a", "b")]
    used = CutoutsInUse(records, [name for pair in pairs for name in pair], store)
    mapped = []
    for pair in pairs:
        with used.use(*pair) as cutouts:
            assert [cutout.record.name for cutout in cutouts] == list(pair)
            mapped.append(sorted(used._opened))
    assert mapped == [["a", "b"], ["a", "b", "c"], ["a", "b"]]
    assert used._opened == {}


def test_pixels_that_stand_alone_are_counted_where_they_are_left_out(
    tmp_path: Path, store: CutoutStore, make_exposure: Write, make_wcs: Make
) -> None:
    data = image((60, 80))
    data[20, 30] += 100
    data[40, 50] += 50
    exposure = make_exposure(tmp_path / "hit.fits", data, make_wcs(data.shape))
    found = {
        how: make_cutout(exposure, GRID, SETTINGS.model_copy(update={"reproject_func": how}), store)
        for how in ("interp", "spline")
    }
    assert {how: record.n_wild for how, record in found.items()} == {"interp": 0, "spline": 2}
    assert found["spline"].n_valid < found["interp"].n_valid


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 2), (3, 4), (200, 33), (64, 64), (129, 50), (70, 901)])
def test_the_texture_is_the_median_step(shape: tuple[int, int]) -> None:
    for kind in (np.float32, np.float64):
        data = image(shape, kind=kind)
        data[-1, -1] = np.nan
        data[shape[0] // 2, shape[1] // 2] = np.finfo(kind).max
        rows = data[:: max(1, shape[0] // 64)].astype(np.float64)
        steps = np.abs(np.diff(rows, axis=1))
        steps = steps[np.isfinite(steps)]
        assert cutouts.texture_of(data) == (np.median(steps) if steps.size else 0.0)


@pytest.mark.parametrize("order", ["sorted", "few values", "one value"])
def test_the_texture_is_the_median_step_of_what_a_sample_does_not_show(order: str) -> None:
    steps = np.abs(np.random.default_rng(2).normal(size=(64, 400)))
    if order == "sorted":
        steps = np.sort(steps, axis=None).reshape(steps.shape)
    else:
        steps = np.where(steps > 2, steps, np.round(steps) if order == "few values" else 1.0)
    data = np.cumsum(steps, axis=1)
    assert cutouts.texture_of(data) == np.median(np.diff(data, axis=1))
