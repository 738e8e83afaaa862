"""An input that is replaced while a run goes on: it fails by name, and nothing of it is kept under its old digest."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

import levelmatch_core.jobs.products as writing
from levelmatch_core import pipeline
from levelmatch_core.pipeline import Request, RunResult, run
from levelmatch_core.products.corrected.verify import verify
from levelmatch_core.runners import PlainRunner
from levelmatch_core.settings import MatchSettings
from levelmatch_core.simulate import SimulatedProgram, simulate
from levelmatch_core.sky.store import CutoutStore

SETTINGS = MatchSettings.from_mapping({"figures": "none"})


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    simulate(tmp_path / "in", SimulatedProgram(instrument="miri", tiles=(2, 1), dithers=2, size=64))
    return tmp_path / "in"


def match(inputs: Path, output: Path, store: Path) -> RunResult:
    request = Request(inputs=(inputs,), output=output, settings=SETTINGS)
    return run(request, CutoutStore(store), PlainRunner)


def brightened(path: Path, by: float = 50.0) -> None:
    """Put a file of the same size in the place of one, brighter."""
    other = path.with_name(f"{path.name}.new")
    with fits.open(path, do_not_scale_image_data=True, memmap=False) as hdus:
        hdus["SCI"].data = hdus["SCI"].data + np.asarray(by, hdus["SCI"].data.dtype)
        hdus.writeto(other)
    if path.suffix == ".gz":
        other.write_bytes(gzip.compress(other.read_bytes(), mtime=0))
    other.replace(path)


def plain(_path: Path) -> None:
    """Leave a file as it is."""


def gzipped(path: Path) -> None:
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    path.unlink()


def as_integers(path: Path) -> None:
    """Store the image as scaled integers, which astropy unscales."""
    with fits.open(path, memmap=False) as hdus:
        values = hdus["SCI"].data
        scaled = fits.ImageHDU(np.nan_to_num(values * 100).astype("i2"), hdus["SCI"].header, name="SCI")
        hdus[hdus.index_of("SCI")] = scaled
        scaled.header["BSCALE"] = 0.01
        hdus.writeto(path, overwrite=True)


def refused(result: Any, victim: Path, out: Path) -> None:
    """Hold that one file failed by name because it changed, and that nothing was written of it."""
    (failure,) = result.failures
    assert failure.name == victim.name
    assert "changed while it was read" in failure.reason
    assert not (out / "tiles" / victim.name).exists()


@pytest.mark.parametrize("stored", [plain, gzipped, as_integers])
def test_replaced_between_inventory_and_reading(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: Callable[[Path], None]
) -> None:
    for path in sorted(inputs.glob("*.fits")):
        stored(path)
    victim = min(path for path in inputs.iterdir() if ".fits" in path.name)
    listed = pipeline.inventory_of

    def replaced_after(*request: Any) -> Any:
        inventory = listed(*request)
        brightened(victim)
        return inventory

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "inventory_of", replaced_after)
        result = match(inputs, tmp_path / "out", tmp_path / "store")
    refused(result, victim, tmp_path / "out")
    # the next run takes it as it is now: as a run that never saw it otherwise
    assert match(inputs, tmp_path / "out", tmp_path / "store").complete
    assert match(inputs, tmp_path / "fresh", tmp_path / "other store").complete
    assert verify(tmp_path / "out").mismatches == ()
    for path in sorted((tmp_path / "fresh" / "tiles").iterdir()):
        assert (tmp_path / "out" / "tiles" / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("how", ["renamed over", "written in place"])
@pytest.mark.parametrize("stored", [plain, gzipped])
def test_replaced_between_reading_and_writing(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: Callable[[Path], None], how: str
) -> None:
    for path in sorted(inputs.glob("*.fits")):
        stored(path)
    victim = min(path for path in inputs.iterdir() if ".fits" in path.name)
    write = writing.write_corrected

    def replaced_before(path: Path, parts: Any, *further: Any) -> Any:
        if parts[0].exposure.path == victim:
            raw = victim.read_bytes()
            brightened(victim)
            if how == "written in place":
                new = victim.read_bytes()
                victim.write_bytes(raw)
                victim.write_bytes(new)
        return write(path, parts, *further)

    monkeypatch.setattr(writing, "write_corrected", replaced_before)
    result = match(inputs, tmp_path / "out", tmp_path / "store")
    refused(result, victim, tmp_path / "out")


def test_written_to_while_it_is_copied(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The corrected image is made, and then the file changes below what is copied from it."""
    victim = min(inputs.glob("*.fits"))
    made = writing.write_corrected.__globals__["EditedFile"].write

    def changed_below(self: Any, file: Any) -> None:
        if self.base._file.name == str(victim):
            with victim.open("r+b") as stream:
                stream.seek(-2880, 2)
                stream.write(b"\x01" * 100)
        made(self, file)

    monkeypatch.setattr(writing.write_corrected.__globals__["EditedFile"], "write", changed_below)
    result = match(inputs, tmp_path / "out", tmp_path / "store")
    refused(result, victim, tmp_path / "out")
