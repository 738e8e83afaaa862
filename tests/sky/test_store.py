import hashlib
import mmap
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from levelmatch_core.errors import StoreError
from levelmatch_core.records import content_key
from levelmatch_core.sky.store import CutoutStore, StoredArray

KEY = content_key("an array")


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12.0).reshape(3, 4),
        np.zeros((0, 5), np.float32),
        np.array(3.5),
        np.arange(12, dtype=">i2").reshape(3, 4)[:, ::2],
        np.random.default_rng(0).normal(size=(700, 800)),
    ],
)
def test_what_goes_in_comes_out(store: CutoutStore, array: Any) -> None:
    stored = store.put(KEY, array)
    back = store.open(stored)
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)
    assert not back.flags.writeable
    assert stored.file == f"{KEY[:2]}/{KEY}.npy"
    assert CutoutStore(store.root).check(stored)
    # a plain .npy that numpy itself reads
    assert np.array_equal(np.load(store.root / stored.file, allow_pickle=False), array)


def test_arrays_are_mapped_and_private(store: CutoutStore) -> None:
    stored = store.put(KEY, np.ones((4, 4)))
    below: Any = store.open(stored)
    while isinstance(below, np.ndarray | memoryview):
        below = below.base if isinstance(below, np.ndarray) else below.obj
    assert isinstance(below, mmap.mmap)
    path = store.root / stored.file
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name]
    assert store.size() == path.stat().st_size


def test_altered_or_missing_files_are_noticed(store: CutoutStore) -> None:
    stored = store.put(KEY, np.ones((4, 4)))
    path = store.root / stored.file
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    assert not store.check(stored)
    with pytest.raises(StoreError, match="altered"):
        store.open(stored)
    path.write_bytes(content[:-9])
    assert not store.check(stored)
    with pytest.raises(StoreError, match="altered"):
        store.open(stored)
    path.unlink()
    assert not store.check(stored)
    with pytest.raises(StoreError, match="missing"):
        store.open(stored)
    with pytest.raises(StoreError, match="shape"):
        store.open(store.put(KEY, np.ones(3)), shape=(4,))


def test_links_are_refused(store: CutoutStore, tmp_path: Path) -> None:
    stored = store.put(KEY, np.ones((4, 4)))
    path = store.root / stored.file
    outside = tmp_path / "outside"
    outside.mkdir()
    path.rename(outside / path.name)
    path.symlink_to(outside / path.name)
    assert not store.check(stored)
    with pytest.raises(StoreError, match="link"):
        store.open(stored)
    path.unlink()
    path.parent.rmdir()
    path.parent.symlink_to(outside)
    assert not store.check(stored)
    with pytest.raises(StoreError, match="link"):
        store.open(stored)
    with pytest.raises(StoreError, match="link"):
        store.put(KEY, np.ones(3))
    assert np.load(outside / path.name).shape == (4, 4)


@pytest.mark.parametrize(
    "file",
    ["../x.npy", "/etc/passwd", f"{KEY}.npy", f"00/{KEY}.npy", f"{KEY[:2]}/../{KEY}.npy", f"{KEY[:2]}/{KEY}", ""],
)
def test_paths_out_of_the_store_are_refused(store: CutoutStore, file: str) -> None:
    store.put(KEY, np.ones(3))
    stored = StoredArray(file=file, sha256="0" * 64)
    assert not store.check(stored)
    with pytest.raises(StoreError, match="does not lie in the store"):
        store.open(stored)


@pytest.mark.parametrize("key", ["", "short", "../../../../etc/passwd", "A" * 64, "g" * 64])
def test_only_hexadecimal_keys(store: CutoutStore, key: str) -> None:
    for action in (lambda: store.put(key, np.ones(3)), lambda: store.recall(key), lambda: store.remember(key, {})):
        with pytest.raises(StoreError, match="no key"):
            action()


def test_nothing_is_ever_pickled(store: CutoutStore) -> None:
    with pytest.raises(StoreError, match="plain numbers"):
        store.put(KEY, np.array([{}], dtype=object))
    stored = store.put(KEY, np.ones(3))
    np.save(store.root / stored.file, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(StoreError, match="altered"):
        store.open(stored)
    digest = hashlib.sha256((store.root / stored.file).read_bytes()).hexdigest()
    with pytest.raises(StoreError, match="cannot be read"):
        store.open(stored.model_copy(update={"sha256": digest, "xxh64": ""}))


def test_records_are_recalled_while_their_arrays_are_whole(store: CutoutStore) -> None:
    assert store.recall(KEY) is None
    stored = store.put(KEY, np.ones(3))
    record = {"name": "a", "deep": [{"array": stored.to_json()}], "number": 0.1}
    store.remember(KEY, record)
    assert store.recall(KEY) == record
    assert CutoutStore(store.root).recall(KEY) == record
    path = store.root / stored.file
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"x")
    assert store.recall(KEY) is None
    path.write_bytes(content)
    assert store.recall(KEY) == record
    path.unlink()
    assert store.recall(KEY) is None
    (path.with_suffix(".json")).write_text("{half")
    assert store.recall(KEY) is None


def test_what_earlier_versions_stored_is_read_and_checked(store: CutoutStore) -> None:
    stored = store.put(KEY, np.ones((4, 4)))
    path = store.root / stored.file
    earlier = StoredArray(file=stored.file, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    store.remember(KEY, {"array": {"file": earlier.file, "sha256": earlier.sha256}})
    assert StoredArray.from_json(CutoutStore(store.root).recall(KEY)["array"]) == earlier  # type: ignore[index]
    assert np.array_equal(CutoutStore(store.root).open(earlier), np.ones((4, 4)))
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x80
    path.write_bytes(content)
    assert CutoutStore(store.root).recall(KEY) is None
    with pytest.raises(StoreError, match="was altered"):
        CutoutStore(store.root).open(earlier)


def test_an_alteration_under_the_same_size_and_time_is_seen_by_another_reader(store: CutoutStore) -> None:
    stored = store.put(KEY, np.ones(3))
    path = store.root / stored.file
    before = path.stat()
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"x")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not CutoutStore(store.root).check(stored)


def test_a_failed_write_leaves_nothing(store: CutoutStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        message = "disk full"
        raise OSError(message)

    monkeypatch.setattr("numpy.lib.format.write_array_header_1_0", fail)
    with pytest.raises(OSError, match="disk full"):
        store.put(KEY, np.ones(3))
    assert [path for path in store.root.rglob("*") if path.is_file()] == []


def test_many_writers_at_once(store: CutoutStore) -> None:
    array = np.arange(100_000.0)
    with ThreadPoolExecutor(8) as pool:
        stored = set(pool.map(lambda _: store.put(KEY, array), range(32)))
    assert len(stored) == 1
    assert np.array_equal(store.open(stored.pop()), array)


@given(st.text())
def test_any_file_name_is_either_in_the_store_or_refused(make_temporary: Callable[[], Path], name: str) -> None:
    assert not CutoutStore(make_temporary()).check(StoredArray(file=name, sha256=""))


@pytest.fixture(scope="module")
def make_temporary(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    root = tmp_path_factory.mktemp("store")
    return lambda: root
