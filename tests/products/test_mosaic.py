import itertools
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from levelmatch_core.errors import NoUsablePixelsError, StoreError
from levelmatch_core.process.thread_budget import thread_budget
from levelmatch_core.products.mosaic import HOLE, in_holes, write_mosaic
from levelmatch_core.records import content_key
from levelmatch_core.sky.cutouts import CutoutRecord
from levelmatch_core.sky.grid import Grid
from levelmatch_core.sky.plane import Plane
from levelmatch_core.sky.stack import box_of, mosaic_bands
from levelmatch_core.sky.store import CutoutStore

GRID = Grid(ra=83.5, dec=-5.0, angle=15.0, scale=0.11)


@pytest.fixture
def store(tmp_path: Path) -> CutoutStore:
    return CutoutStore(tmp_path / "store")


def parts_in(store: CutoutStore, *, variance: bool = True, n: int = 3) -> list[tuple[CutoutRecord, Plane, float]]:
    parts = []
    for seed in range(n):
        rng = np.random.default_rng(seed)
        planes = rng.normal(10, 1, size=(2 if variance else 1, 20, 31)).astype(np.float32) ** 2
        planes[:, rng.random((20, 31)) < 0.1] = np.nan
        record = CutoutRecord(
            name=f"c{seed}",
            array=store.put(content_key(seed, variance), planes),
            x0=12 * seed - 5,
            y0=-7 * seed,
            shape=(20, 31),
            has_variance=variance,
            n_valid=int(np.isfinite(planes[0]).sum()),
            noise_gain=0.5,
            axis_angle=0.0,
            extent=(31.0, 20.0),
            outline=(),
        )
        parts.append((record, Plane(level=seed, slope_x=0.01 * seed), 0.25))
    return parts


def test_threads_do_not_matter(store: CutoutStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = parts_in(store, n=5)
    monkeypatch.setattr("levelmatch_core.products.mosaic.STRIP_PIXELS", 200)
    for threads in (1, 3):
        with thread_budget(threads):
            write_mosaic(tmp_path / f"{threads}.fits", GRID, parts, store, band_rows=2)
    monkeypatch.undo()
    write_mosaic(tmp_path / "whole.fits", GRID, parts, store)
    one, three, whole = ((tmp_path / f"{name}.fits").read_bytes() for name in ("1", "3", "whole"))
    assert one == three == whole


def test_the_file_holds_what_was_asked_for(store: CutoutStore, tmp_path: Path) -> None:
    parts = parts_in(store)
    path = tmp_path / "mosaic_f_1.fits"
    write_mosaic(path, GRID, parts, store, unit="MJy/sr", cards={"BAND": ("F770W", "filter")}, band_rows=7)
    box = box_of([record for record, *_ in parts])
    [band] = mosaic_bands(
        [(record, plane + Plane(level=sky)) for record, plane, sky in parts], store, box, before=True, band_rows=999
    )
    with fits.open(path) as hdus:
        hdus.verify("exception")
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "SCI", "ERR", "COVERAGE", "BEFORE"]
        np.testing.assert_array_equal(hdus["SCI"].data, band.mean.astype(np.float32))
        assert band.variance is not None
        np.testing.assert_array_equal(hdus["ERR"].data, np.sqrt(band.variance).astype(np.float32))
        np.testing.assert_array_equal(hdus["COVERAGE"].data, band.coverage)
        assert band.before is not None
        np.testing.assert_array_equal(hdus["BEFORE"].data, band.before.astype(np.float32))
        assert hdus["COVERAGE"].data.dtype == np.dtype(">i2")
        assert hdus[0].header["BAND"] == "F770W"
        for name in ("SCI", "ERR", "COVERAGE", "BEFORE"):
            header = hdus[name].header
            assert header.get("BUNIT") == (None if name == "COVERAGE" else "MJy/sr")
            sky = WCS(header).pixel_to_world_values(3, 4)
            np.testing.assert_allclose(sky, GRID.wcs(box.x0, box.y0).pixel_to_world_values(3, 4), rtol=0, atol=1e-11)
    # the local sky is taken from SCI and left in BEFORE
    difference = band.before - band.mean
    assert np.nanmin(difference) >= 0.25


def test_one_part_is_itself_minus_its_correction(store: CutoutStore, tmp_path: Path) -> None:
    [part] = parts_in(store, n=1)
    write_mosaic(tmp_path / "m.fits", GRID, [(part[0], Plane(level=2.0), 0.5)], store)
    image = store.open(part[0].array)
    with fits.open(tmp_path / "m.fits") as hdus:
        np.testing.assert_allclose(hdus["SCI"].data, image[0] - 2.5, rtol=1e-6)
        np.testing.assert_allclose(hdus["ERR"].data, np.sqrt(image[1]), rtol=1e-6)
        np.testing.assert_array_equal(hdus["BEFORE"].data, image[0])
        assert "BUNIT" not in hdus["SCI"].header


def test_same_bytes_in_any_order_and_any_bands(store: CutoutStore, tmp_path: Path) -> None:
    parts = parts_in(store)
    contents = set()
    for number, (order, rows) in enumerate([(parts, None), (parts[::-1], 1), (parts[1:] + parts[:1], 5)]):
        path = tmp_path / f"{number}.fits"
        write_mosaic(path, GRID, order, store, band_rows=rows)
        contents.add(path.read_bytes())
    assert len(contents) == 1
    assert len(contents.pop()) % 2880 == 0


def test_without_errors_there_is_no_err(store: CutoutStore, tmp_path: Path) -> None:
    write_mosaic(tmp_path / "m.fits", GRID, parts_in(store, variance=False), store)
    with fits.open(tmp_path / "m.fits") as hdus:
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "SCI", "COVERAGE", "BEFORE"]


def test_it_appears_whole_or_not_at_all(store: CutoutStore, tmp_path: Path) -> None:
    parts = parts_in(store)
    path = tmp_path / "out" / "m.fits"
    path.parent.mkdir()
    path.write_bytes(b"before")
    (store.root / parts[2][0].array.file).unlink()
    with pytest.raises(StoreError, match="missing"):
        write_mosaic(path, GRID, parts, store, band_rows=2)
    assert path.read_bytes() == b"before"
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(NoUsablePixelsError):
        write_mosaic(path, GRID, [], store)
    write_mosaic(path, GRID, parts[:2], store)
    (tmp_path / "other").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


def test_memory_does_not_grow_with_the_mosaic(store: CutoutStore, tmp_path: Path, monkeypatch: Any) -> None:
    import tracemalloc  # noqa: PLC0415 - here only

    monkeypatch.setattr("levelmatch_core.sky.stack.BAND_PIXELS", 1 << 16)
    parts = parts_in(store)
    far = [parts[0], (parts[1][0].model_copy(update={"y0": 4000, "x0": 1000}), Plane(), 0.0)]
    write_mosaic(tmp_path / "warm.fits", GRID, parts, store)
    tracemalloc.start()
    write_mosaic(tmp_path / "m.fits", GRID, far, store)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    size = (tmp_path / "m.fits").stat().st_size
    assert size > 50e6
    assert peak < 8e6


def test_holes_are_counted_and_gaps_between_exposures_are_not() -> None:
    rng = np.random.default_rng(3)
    covered = rng.random((30, 200)) < 0.7
    covered[:, 80:100] = False  # a gap
    covered[:, [79, 100]] = True
    covered[:, :20] = covered[:, -30:] = False
    covered[11] = False
    found = 0
    for row in covered:
        inside = np.flatnonzero(row)
        for before, after in itertools.pairwise(inside.tolist()):
            found += after - before - 1 if after - before - 1 <= HOLE else 0
    assert in_holes(covered.astype(np.int32)) == found > 0


def test_the_holes_of_a_file_are_returned(store: CutoutStore, tmp_path: Path) -> None:
    parts = parts_in(store)
    found = [write_mosaic(tmp_path / f"{rows}.fits", GRID, parts, store, band_rows=rows) for rows in (1, 7, None)]
    assert found == [in_holes(fits.getdata(tmp_path / "1.fits", "COVERAGE"))] * 3
    assert found[0] > 0
