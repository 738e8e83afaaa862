"""Inputs in stores: fetched once, resumed, under their own names, and no credentials told."""

import errno
import logging
import os
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from levelmatch_core.errors import NoInputError, NoRoomError, UsageError
from levelmatch_core.images.missing import as_given
from levelmatch_core.images.storage.remote import _fetched, _wanted, is_remote, local_inputs
from tests.servers import free_port

fsspec = pytest.importorskip("fsspec", reason="no fsspec: pip install 'levelmatch[remote]'")


def fetched(*arguments, **options):
    """Return the files, of which none is missing."""
    found = local_inputs(*arguments, **options)
    assert found.missing == ()
    return found.paths


@pytest.fixture
def memory():
    """Two FITS files, one in a folder within, and something else."""
    store = fsspec.filesystem("memory")
    for name in ("a_cal.fits", "deep/b_cal.fits", "notes.txt"):
        store.pipe(f"/stage2/{name}", name.encode() * 1000)
    yield store
    store.rm("/stage2", recursive=True)


def test_addresses_and_paths_are_told_apart():
    assert is_remote("s3://bucket/a")
    assert is_remote("https://example.org/a.fits")
    assert not is_remote("/data/s3:/a")
    assert not is_remote(Path("s3://bucket"))


def test_a_folder_is_listed_and_fetched_once(memory, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    (found,) = fetched(["memory://stage2"], tmp_path)
    assert (found.name, found.read_bytes()) == ("a_cal.fits", b"a_cal.fits" * 1000)
    both = fetched(["memory://stage2", tmp_path], tmp_path, recursive=True)
    assert [path.name for path in both] == ["a_cal.fits", "b_cal.fits", tmp_path.name]
    assert caplog.text.count("a_cal.fits: fetched") == 1
    memory.pipe("/stage2/a_cal.fits", b"new" * 1000)
    assert fetched(["memory://stage2/a_cal.fits"], tmp_path) == (found,)
    assert found.read_bytes() == b"new" * 1000


def test_the_same_content_is_kept_once(memory, tmp_path):
    memory.pipe("/stage2/c_cal.fits", b"a_cal.fits" * 1000)
    first, second = fetched(["memory://stage2"], tmp_path)
    assert first.samefile(second)


def test_what_broke_off_is_resumed(memory, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("levelmatch_core.images.storage.remote._CHUNK", 1000)
    opened = type(memory).open

    class Breaking:
        def __init__(self, file):
            self.file, self.left = file, 3

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def read(self, size):
            self.left -= 1
            if self.left < 0:
                message = "https://signed?secret=abc"
                raise ConnectionError(message)
            return self.file.read(size)

    monkeypatch.setattr(type(memory), "open", lambda self, *rest: Breaking(opened(self, *rest)))
    with pytest.raises(NoInputError, match="ConnectionError") as caught:
        local_inputs(["memory://stage2"], tmp_path)
    assert "secret" not in str(caught.value)
    monkeypatch.setattr(type(memory), "open", opened)
    (found,) = fetched(["memory://stage2"], tmp_path)
    assert found.read_bytes() == b"a_cal.fits" * 1000
    assert "fetched from byte 3000" in caplog.text


def test_a_file_that_cannot_be_fetched_is_named_and_a_full_disk_is_said_to_be_one(memory, tmp_path, monkeypatch):
    class Failing:
        error = ConnectionError("https://signed?secret=abc")

        def __call__(self, *_):
            raise self.error

    monkeypatch.setattr(type(memory), "open", failing := Failing())
    with pytest.raises(NoInputError, match=r"memory:///stage2/a_cal\.fits: could not be fetched: ConnectionError"):
        fetched(["memory://stage2"], tmp_path)
    failing.error = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(NoRoomError, match="No space left"):
        fetched(["memory://stage2"], tmp_path)


class Answers:
    """How a store opens its files: with an error for some, and then no longer."""

    def __init__(self, opened, errors):
        self.opened, self.errors, self.asked = opened, errors, []

    def __get__(self, store, _):
        return partial(self.open, store)

    def open(self, store, path, *rest, **options):
        self.asked.append(path)
        name = path.rpartition("/")[2]
        if self.errors.get(name):
            raise self.errors[name].pop(0)
        return self.opened(store, path, *rest, **options)


@pytest.fixture
def answers(memory, monkeypatch):
    """Four files, and the errors with which the store answers instead of giving one."""
    for name in "cde":
        memory.pipe(f"/stage2/{name}_cal.fits", name.encode() * 1000)
    found = Answers(type(memory).open, {})
    monkeypatch.setattr(type(memory), "open", found)
    return found


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (FileNotFoundError("https://signed?secret=abc"), "it is not there"),
        (PermissionError("secret"), "access is denied"),
        (TimeoutError("secret"), "TimeoutError"),
        (ConnectionResetError("secret"), "ConnectionResetError"),
    ],
)
def test_a_file_that_the_store_does_not_give_is_missing_and_the_others_are_fetched(answers, tmp_path, error, told):
    answers.errors["c_cal.fits"] = [error]
    found = local_inputs(["memory://stage2"], tmp_path)
    assert [path.name for path in found.paths] == [f"{name}_cal.fits" for name in "acde"]
    (missing,) = found.missing
    assert missing.path == found.paths[1]
    assert [path.is_file() for path in found.paths] == [True, False, True, True]
    assert missing.given == "memory:///stage2/c_cal.fits"
    assert told in missing.reason
    assert "run again" in missing.reason
    assert "secret" not in missing.reason
    assert fetched(as_given(found), tmp_path) == found.paths  # whoever gets them tries again
    assert found.paths[1].read_bytes() == b"c" * 1000


def test_a_missing_file_has_no_older_version_of_itself_in_its_place(answers, tmp_path):
    """Or rather: it has, and is missing nevertheless."""
    fetched(["memory://stage2"], tmp_path)
    fsspec.filesystem("memory").pipe("/stage2/c_cal.fits", b"new" * 1000)
    answers.errors["c_cal.fits"] = [PermissionError()]
    found = local_inputs(["memory://stage2"], tmp_path)
    assert [one.path.name for one in found.missing] == ["c_cal.fits"]


def test_only_what_may_come_is_asked_for_again(answers, tmp_path):
    answers.errors |= {"c_cal.fits": [ConnectionResetError()] * 2, "d_cal.fits": [PermissionError()] * 2}
    found = local_inputs(["memory://stage2"], tmp_path, retry_delays=(0.0, 0.0))
    assert [one.path.name for one in found.missing] == ["d_cal.fits"]
    assert [asked.rpartition("/")[2][0] for asked in answers.asked] == list("acdecc")


def test_a_store_that_answers_nothing_is_not_waited_for_a_thousand_times(answers, tmp_path):
    answers.errors |= {f"{name}_cal.fits": [TimeoutError()] for name in "acde"}
    with pytest.raises(NoInputError, match="out of reach"):
        local_inputs(["memory://stage2"], tmp_path)
    assert len(answers.asked) == 3


def test_a_file_of_this_machine_may_be_missing_only_where_that_is_allowed(tmp_path):
    here, gone = tmp_path / "a.fits", tmp_path / "b.fits"
    here.touch()
    assert local_inputs([here, gone], tmp_path).missing == ()
    found = local_inputs([str(here), str(gone), tmp_path / "folder"], tmp_path, absent=True)
    assert [(one.path, one.given) for one in found.missing] == [(gone, str(gone))]
    assert local_inputs([gone], tmp_path, absent=True).missing == ()  # where nothing is there it is a typing error


@pytest.mark.usefixtures("memory")
def test_what_broke_off_begins_again_where_the_store_tells_no_version(tmp_path, monkeypatch):
    monkeypatch.setattr("levelmatch_core.images.storage.remote._VERSIONS", ())
    (found,) = fetched(["memory://stage2"], tmp_path)
    (note,) = (tmp_path / "known").iterdir()
    (tmp_path / "parts" / note.stem).write_bytes(b"of another version of it")
    (again,) = fetched(["memory://stage2"], tmp_path)
    assert again == found
    assert again.read_bytes() == b"a_cal.fits" * 1000


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"sha256": 3}', b'{"sha256": "../../x"}'])
def test_a_damaged_note_is_made_again(memory, tmp_path, damage):
    (found,) = fetched(["memory://stage2"], tmp_path)
    (note,) = (tmp_path / "known").iterdir()
    note.write_bytes(damage)
    assert fetched(["memory://stage2"], tmp_path) == (found,)
    assert found.read_bytes() == b"a_cal.fits" * 1000
    assert memory.exists("/stage2/a_cal.fits")


@pytest.mark.parametrize(
    "address", ["s3://key:secret@bucket/a", "https://me:secret@example.org/a.fits", "https://h/a.fits?token=secret"]
)
def test_credentials_in_an_address_are_refused_and_not_told(tmp_path, address):
    with pytest.raises(UsageError) as caught:
        fetched([address], tmp_path)
    assert "secret" not in str(caught.value)


def test_nothing_there_is_no_input(memory, tmp_path):
    memory.pipe("/stage2/empty/x.txt", b"")
    for address in ("memory://stage2/empty", "memory://nowhere"):
        with pytest.raises(NoInputError, match="memory://"):
            fetched([address], tmp_path)


def test_a_folder_of_a_web_server(tmp_path, caplog):
    """Of one that only sends whole files: what broke off begins again there."""
    pytest.importorskip("aiohttp", reason="no aiohttp: pip install 'levelmatch[remote]'")
    caplog.set_level(logging.INFO)
    (tmp_path / "web" / "stage2").mkdir(parents=True)
    (tmp_path / "web" / "stage2" / "a_cal.fits").write_bytes(b"a" * 50_000)
    os.utime(tmp_path / "web" / "stage2" / "a_cal.fits", (1e9, 1e9))
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "web"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/stage2/"
        (found,) = fetched([address], tmp_path / "held")
        assert found.read_bytes() == b"a" * 50_000
        assert found.stat().st_mtime == 1e9  # it was not written just now
        assert fetched([address + "a_cal.fits"], tmp_path / "held") == (found,)
        assert caplog.text.count("a_cal.fits: fetched") == 1
        for note in (tmp_path / "held" / "known").iterdir():
            part = tmp_path / "held" / "parts" / note.stem
            part.write_bytes(b"a" * 100)
            note.unlink()
        (again,) = fetched([address], tmp_path / "held")
        assert again.read_bytes() == b"a" * 50_000
        server.shutdown()


@pytest.mark.slow
def test_a_bucket_of_s3(tmp_path, monkeypatch, caplog):
    """A server of the S3 protocol on the loopback, with its keys in the environment only."""
    server_of = pytest.importorskip("moto.server", reason="no moto: pip install 'levelmatch[test]'")
    pytest.importorskip("s3fs", reason="no s3fs: pip install 'levelmatch[remote]'")
    caplog.set_level(logging.INFO)
    server = server_of.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "verysecret")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        store = fsspec.filesystem("s3", skip_instance_cache=True)
        store.mkdir("stpubdata")
        store.pipe("stpubdata/jwst/public/x_cal.fits", b"x" * 100_000)
        (found,) = fetched(["s3://stpubdata/jwst/public/"], tmp_path)
        assert found.read_bytes() == b"x" * 100_000
        assert fetched(["s3://stpubdata/jwst/public/x_cal.fits"], tmp_path) == (found,)
        assert caplog.text.count("x_cal.fits: fetched") == 1
        assert "verysecret" not in caplog.text
        with pytest.raises(NoInputError):
            fetched(["s3://stpubdata/other/"], tmp_path)
        for name in ("denied", "gone"):
            store.pipe(f"stpubdata/jwst/public/{name}_cal.fits", name.encode())
        wanted, answer = _wanted("s3://stpubdata/jwst/public/", tmp_path, False), server._server.app
        store.rm("stpubdata/jwst/public/gone_cal.fits")

        def denying(environ, respond):
            if "denied" not in environ["PATH_INFO"]:
                return answer(environ, respond)
            respond("403 Forbidden", [("Content-Length", "0")])
            return []

        server._server.app = denying
        missing = _fetched(wanted)
        assert {path.name: one.reason.partition(";")[0] for path, one in missing.items()} == {
            "denied_cal.fits": "could not be fetched: access is denied",
            "gone_cal.fits": "could not be fetched: it is not there",
        }
        assert missing[wanted[0].place].given == "s3://stpubdata/jwst/public/denied_cal.fits"
        assert wanted[-1].place.read_bytes() == b"x" * 100_000
    finally:
        server.stop()


@pytest.mark.slow
def test_a_bucket_of_google(tmp_path, monkeypatch, caplog):
    """A server of Google's protocol on the loopback, which wants no credentials."""
    emulator = pytest.importorskip("gcp_storage_emulator.server", reason="no gcp-storage-emulator: extra `services`")
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # else gcsfs asks another protocol of Google's
    pytest.importorskip("gcsfs", reason="no gcsfs: pip install 'levelmatch[remote]'")
    caplog.set_level(logging.INFO)
    port = free_port()
    server = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket="archive")
    server.start()
    try:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        store = fsspec.filesystem("gs", skip_instance_cache=True)
        for name in ("a", "b"):
            store.pipe(f"archive/night/{name}_cal.fits", name.encode() * 100_000)
        first, second = fetched(["gs://archive/night/"], tmp_path)
        assert (first.read_bytes(), second.read_bytes()) == (b"a" * 100_000, b"b" * 100_000)
        assert fetched(["gs://archive/night/a_cal.fits"], tmp_path) == (first,)
        assert caplog.text.count("a_cal.fits: fetched") == 1
        store.pipe("archive/night/a_cal.fits", b"new" * 1000)
        (changed,) = fetched(["gs://archive/night/a_cal.fits"], tmp_path)
        assert changed.read_bytes() == b"new" * 1000
        with pytest.raises(NoInputError):
            fetched(["gs://archive/other/"], tmp_path)
    finally:
        server.stop()
