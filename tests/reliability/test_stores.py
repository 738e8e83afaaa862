"""What lies in the stores after a run: no pickles, nobody else's to read, no way out through links."""

import base64
import hashlib
import io
import json
import os
import pickle
import pickletools
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest

from flows.home import Home
from levelmatch_core import MatchSettings, match_levels
from levelmatch_core.errors import StoreError, UsageError
from levelmatch_core.products.corrected.undo import undo
from levelmatch_core.products.corrected.verify import verify
from levelmatch_core.sky.store import CutoutStore, StoredArray

KEY = "ab" * 16


def pickle_in(raw: bytes) -> bool:
    """Return whether bytes hold a pickle: at their start, as an array's data, in a zip, or as base64 text of one."""
    if raw.startswith(b"\x93NUMPY"):
        with io.BytesIO(raw) as file:
            np.lib.format.read_magic(file)
            return bool(np.lib.format.read_array_header_1_0(file)[2].hasobject)
    if zipfile.is_zipfile(io.BytesIO(raw)):
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            return any(pickle_in(archive.read(name)) for name in archive.namelist())
    # protocols 2 to 5 begin so; their base64 form is what Prefect's pickle serializer writes into JSON
    if raw[:1] == b"\x80" and raw[1:2] in {b"\x02", b"\x03", b"\x04", b"\x05"}:
        return True
    if any(mark in raw for mark in (b'"gAJ', b'"gAN', b'"gAS', b'"gAV', b"cloudpickle", b'"type":"pickle"')):
        return True
    try:  # protocols 0 and 1 have no mark, but end with STOP
        return raw.endswith(b".") and any(code.name == "GLOBAL" for code, _, _ in pickletools.genops(raw))
    except ValueError:
        return False


def test_the_search_finds_pickles():
    for protocol in range(6):
        assert pickle_in(pickle.dumps(Path("x"), protocol)), protocol
    assert pickle_in(b'{"result": "' + base64.b64encode(pickle.dumps(Path("x"))) + b'"}')
    array = io.BytesIO()
    np.save(array, np.array([Path("x")], dtype=object), allow_pickle=True)
    assert pickle_in(array.getvalue())
    assert not pickle_in(b'{"level": 1.0}')


@pytest.mark.slow
def test_nothing_at_rest_is_a_pickle(undisturbed):
    world = undisturbed.world
    files = [path for folder in (world.home, world.out) for path in folder.rglob("*") if path.is_file()]
    assert any(path.suffix == ".npy" for path in files)
    results = [path for path in files if path.is_relative_to(world.home / "results")]
    assert len(results) > 10
    assert [path for path in files if pickle_in(path.read_bytes())] == []
    records = [json.loads(path.read_bytes()) for path in results]  # the flow's own is bare JSON
    assert {record["metadata"]["serializer"]["type"] for record in records if "metadata" in record} == {"json"}


@pytest.mark.slow
def test_the_home_is_its_owners_alone(undisturbed):
    home = undisturbed.world.home
    for folder in (home, home / "cutouts", home / "results", home / "prefect", home / "mlflow"):
        assert stat.S_IMODE(folder.stat().st_mode) & 0o077 == 0, folder
    for path in (home / "cutouts").rglob("*"):
        assert stat.S_IMODE(path.lstat().st_mode) & 0o077 == 0, path
        assert path.lstat().st_uid == os.getuid()
        assert not path.is_symlink()


def test_links_are_not_followed(tmp_path):
    store = CutoutStore(tmp_path / "store")
    stored = store.put(KEY, np.arange(5.0))
    place = store.root / stored.file
    place.rename(tmp_path / "elsewhere.npy")
    place.symlink_to(tmp_path / "elsewhere.npy")
    assert not store.check(stored)
    with pytest.raises(StoreError, match="link"):
        store.open(stored)
    place.unlink()
    place.parent.rmdir()
    (tmp_path / "out").mkdir()
    place.parent.symlink_to(tmp_path / "out")
    with pytest.raises(StoreError, match="link"):
        store.put(KEY, np.arange(5.0))
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("file", ["../x.npy", "/etc/passwd", "ab/../../x.npy", "ab/..", f"cd/{KEY}.npy", ""])
def test_records_that_lead_out_are_refused(tmp_path, file):
    store = CutoutStore(tmp_path / "store")
    with pytest.raises(StoreError):
        store.open(StoredArray(file=file, sha256="0" * 64))
    assert not store.check(StoredArray(file=file, sha256="0" * 64))


def test_an_array_of_objects_is_never_read(tmp_path):
    store = CutoutStore(tmp_path / "store")
    stored = store.put(KEY, np.arange(5.0))
    np.save(store.root / stored.file, np.array([Path("x")], dtype=object), allow_pickle=True)
    assert not store.check(stored)
    with pytest.raises(StoreError, match="altered"):
        store.open(stored)
    # not even where its digest is the one that is known
    raw = (store.root / stored.file).read_bytes()
    stored = stored.model_copy(update={"sha256": hashlib.sha256(raw).hexdigest(), "xxh64": ""})
    with pytest.raises(StoreError, match="cannot be read"):
        store.open(stored)


# -- what a killed run leaves ------------------------------------------------------------------------------------------
def test_left_over_files_go_and_those_in_use_stay(tmp_path):
    store = CutoutStore(tmp_path / "store")
    store.put(KEY, np.arange(5.0))
    folder = store.root / KEY[:2]
    (folder / ".dead.part").write_bytes(b"half")
    (tmp_path / "mine.part").write_bytes(b"not the store's")
    (folder / ".link.part").symlink_to(tmp_path / "mine.part")
    with store._replacing(folder / f"{KEY}.json") as file:
        file.write(b"{}")
        store.clear_left_over()
        assert len([path for path in folder.glob(".*.part") if not path.is_symlink()]) == 1  # the one in use
    store.clear_left_over()
    assert sorted(path.name for path in folder.iterdir()) == [".link.part", f"{KEY}.json", f"{KEY}.npy"]
    assert (tmp_path / "mine.part").read_bytes() == b"not the store's"
    assert (folder / f"{KEY}.json").read_bytes() == b"{}"


def test_a_home_that_anybody_may_write_to_is_refused(tmp_path):
    home = Home(tmp_path / "home").make()
    for folder in (home.root, home.cutouts, home.results):
        before = folder.stat().st_mode
        folder.chmod(0o777)
        with pytest.raises(UsageError, match=f"{folder}: anybody may write to it"):
            Home(home.root).make()
        folder.chmod(before)
    Home(home.root).make()


def test_a_table_that_leads_out_gives_nothing_back(tmp_path, program):
    """A corrections table from elsewhere names its products; none may be read or written outside the folders."""
    match_levels(program, tmp_path / "out", MatchSettings(figures="none"))
    table = tmp_path / "out" / "corrections.ecsv"
    name = min(program.glob("*.fits")).name
    (tmp_path / "secret").write_bytes((tmp_path / "out" / "tiles" / name).read_bytes())
    text = table.read_text()
    for lead in ("tiles/../../secret", "tiles//etc/passwd"):
        table.write_text(text.replace(f"tiles/{name}", lead))
        found = undo(tmp_path / "out", tmp_path / "back")
        # the tile whose row was bent has none any more, and is named as well
        assert [failure.name for failure in found.failures] == [lead.removeprefix("tiles/"), name]
        assert verify(tmp_path / "out").mismatches
        assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "out", "secret"]
        assert not (tmp_path / "back" / "secret").exists()
