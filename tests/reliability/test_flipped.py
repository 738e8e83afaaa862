"""A digit that is flipped in what is stored, cutouts, their records and results of tasks, changes no output."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from levelmatch_core import MatchSettings, match_levels
from levelmatch_core.errors import StoreError
from levelmatch_core.simulate import SimulatedProgram, simulate
from levelmatch_core.sky.store import CutoutStore
from tests.folders import contents

SETTINGS = MatchSettings.from_mapping({"figures": "none"})
KEY = "ab" * 16
DIGIT = re.compile(rb"(?<=[0-9.])[0-9](?=[0-9])")


def flipped(raw: bytes, number: int) -> bytes:
    """Return bytes with one digit of a number in them changed: the same place for the same `number`."""
    places = [found.start() for found in DIGIT.finditer(raw)]
    at = places[number * 7919 % len(places)]
    return raw[:at] + (b"7" if raw[at : at + 1] != b"7" else b"3") + raw[at + 1 :]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flipped") / "in"
    simulate(folder, SimulatedProgram(instrument="miri", tiles=(2, 1), dithers=2, size=64))
    return folder


@pytest.mark.parametrize("number", range(4))
def test_records_of_cutouts(inputs: Path, tmp_path: Path, number: int) -> None:
    match_levels(inputs, tmp_path / "out", SETTINGS, cache=tmp_path / "store")
    records = sorted((tmp_path / "store").glob("*/*.json"))
    assert records
    for place, path in enumerate(records):
        path.write_bytes(flipped(path.read_bytes(), number + 10 * place))
    match_levels(inputs, tmp_path / "again", SETTINGS, cache=tmp_path / "store")
    assert contents(tmp_path / "again") == contents(tmp_path / "out")


def test_arrays_of_cutouts(inputs: Path, tmp_path: Path) -> None:
    match_levels(inputs, tmp_path / "out", SETTINGS, cache=tmp_path / "store")
    for path in (tmp_path / "store").glob("*/*.npy"):
        flip_in(path)
    match_levels(inputs, tmp_path / "again", SETTINGS, cache=tmp_path / "store")
    assert contents(tmp_path / "again") == contents(tmp_path / "out")


def flip_in(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-6] ^= 0x40
    path.write_bytes(raw)


def test_an_array_that_was_altered_is_refused_at_its_first_use(tmp_path: Path) -> None:
    stored = CutoutStore(tmp_path).put(KEY, np.arange(100.0))
    flip_in(tmp_path / stored.file)
    with pytest.raises(StoreError, match="altered"):
        CutoutStore(tmp_path).open(stored)


def test_a_record_under_another_key_is_not_taken(tmp_path: Path) -> None:
    store = CutoutStore(tmp_path)
    store.remember(KEY, {"a": 1.5})
    assert store.recall(KEY) == {"a": 1.5}
    other = "cd" * 16
    store.remember(other, {"a": 2.5})
    (tmp_path / "cd" / f"{other}.json").write_bytes((tmp_path / "ab" / f"{KEY}.json").read_bytes())
    assert store.recall(other) is None


@pytest.mark.parametrize(
    "raw", [b"[" * 100_000, b'{"a":' * 100_000, b"", b"null", b"\xff", b'{"sha256": 5, "record": []}']
)
def test_a_record_that_is_none_is_made_anew(tmp_path: Path, raw: bytes) -> None:
    store = CutoutStore(tmp_path)
    store.remember(KEY, {"a": 1.5})
    (tmp_path / "ab" / f"{KEY}.json").write_bytes(raw)
    assert store.recall(KEY) is None


def results(world: Any) -> Iterator[Path]:
    yield from sorted(path for path in (world.home / "results").rglob("*") if path.is_file())


@pytest.mark.slow
@pytest.mark.parametrize("number", range(3))
def test_stored_results(undisturbed: Any, reliability: Any, tmp_path: Path, number: int) -> None:
    world = undisturbed.fresh(tmp_path / "world")
    assert world.run() == 0, world.said
    for place, path in enumerate(results(world)):
        path.write_bytes(flipped(path.read_bytes(), number + 10 * place))
    for path in world.out.rglob("*"):
        if path.is_file():
            path.unlink()
    assert world.run() == 0, world.said
    assert reliability.digests(world.out) == undisturbed.files
