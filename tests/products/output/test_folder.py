import errno
import fcntl
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from levelmatch_core.errors import OutputFolderError
from levelmatch_core.products.manifest import OutputFile
from levelmatch_core.products.output import placing
from levelmatch_core.products.output.folder import JOURNAL, LOG, RUN, OutputFolder, state_left
from levelmatch_core.products.output.placing import WRITTEN
from levelmatch_core.products.runrecord import RunRecord, record_of
from levelmatch_core.settings import MatchSettings

SETTINGS = MatchSettings()


def saying(text: str) -> Any:
    return lambda path: path.write_text(text)


def tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def record(make: Any) -> Any:
    match = make.match()

    def of(files: list[OutputFile], settings: MatchSettings = SETTINGS) -> RunRecord:
        return record_of([match], settings, "program", make.inventory(match), files)

    return of


@pytest.fixture
def finished(tmp_path: Path, record: Any) -> Path:
    out = tmp_path / "out"
    with OutputFolder.open(out, SETTINGS, []) as folder:
        files = [folder.write(name, saying(name)) for name in ("tiles/a.fits", "tiles/sub/b.fits", "corrections.ecsv")]
        assert folder.finish(record(files), {"seconds": 1})
    return out


def refused(path: Path, *words: str, settings: MatchSettings = SETTINGS, inputs: tuple[Path, ...] = ()) -> None:
    before = tree(path) if path.is_dir() else None
    with pytest.raises(OutputFolderError) as caught:
        OutputFolder.open(path, settings, inputs)
    for word in words:
        assert word in str(caught.value)
    assert (tree(path) if path.is_dir() else None) == before


def test_a_finished_folder_holds_its_manifest_run_and_log_and_nothing_else(finished: Path) -> None:
    assert set(tree(finished)) == {"tiles/a.fits", "tiles/sub/b.fits", "corrections.ecsv", RUN, LOG}
    run = json.loads((finished / RUN).read_bytes())
    assert [file["name"] for file in run["files"]] == ["corrections.ecsv", "tiles/a.fits", "tiles/sub/b.fits"]


def test_the_same_again_touches_nothing(finished: Path, record: Any) -> None:
    before = tree(finished)
    with OutputFolder.open(finished, SETTINGS, []) as folder:
        assert folder.previous is not None
        files = [folder.write(file.name, saying(file.name)) for file in folder.previous.files]
        assert not (finished / JOURNAL).exists()
        assert not folder.finish(record(files), {"seconds": 2})
    assert tree(finished) == before


def test_an_update_replaces_what_changed_and_removes_what_is_gone(finished: Path, record: Any) -> None:
    before = tree(finished)
    with OutputFolder.open(finished, SETTINGS, []) as folder:
        files = [folder.write("tiles/a.fits", saying("tiles/a.fits")), folder.write("corrections.ecsv", saying("new"))]
        assert folder.finish(record(files), {"seconds": 2})
    after = tree(finished)
    assert set(after) == {"tiles/a.fits", "corrections.ecsv", RUN, LOG}
    assert after["tiles/a.fits"] == before["tiles/a.fits"]
    assert after["corrections.ecsv"][0] == b"new"
    assert not (finished / "tiles" / "sub").exists()
    assert json.loads(after[LOG][0]) == {"seconds": 2}


def test_foreign_files_are_refused_by_name(tmp_path: Path, finished: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / ".DS_Store").write_text("")
    refused(other, ".DS_Store", "did not make")
    (finished / "tiles" / "notes.txt").write_text("mine")
    refused(finished, "tiles/notes.txt")
    refused(finished, "tiles/notes.txt", settings=MatchSettings(overwrite=True, sigma=4))


def test_a_log_or_journal_or_run_of_another_program_is_foreign(tmp_path: Path) -> None:
    for name, content in ((LOG, "{}"), (JOURNAL, "[1]"), (JOURNAL, "{"), (RUN, '{"a": 1}'), (RUN, "x")):
        out = tmp_path / f"{name}{len(content)}{content[-1]}"
        out.mkdir()
        (out / name).write_text(content)
        refused(out, name)


def test_links_are_refused(tmp_path: Path, finished: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (finished / "tiles" / "a.fits").unlink()
    (finished / "tiles" / "a.fits").symlink_to(outside / "secret")
    refused(finished, "tiles/a.fits")
    (finished / "tiles" / "a.fits").unlink()
    (finished / "link").symlink_to(outside, target_is_directory=True)
    refused(finished, "link")


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    refused(tmp_path / "out", "is a file")
    refused(tmp_path / "out" / "deeper", "choose another")


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path: Path, finished: Path) -> None:
    (finished / "corrections.ecsv").unlink()
    (finished / "corrections.ecsv").mkdir()
    refused(finished, "'corrections.ecsv' is a folder")
    (tmp_path / "new" / "pairs.ecsv").mkdir(parents=True)
    refused(tmp_path / "new", "'pairs.ecsv' is a folder")
    (tmp_path / "other" / "tiles" / "a.fits").mkdir(parents=True)
    with OutputFolder.open(tmp_path / "other", SETTINGS, []) as folder:
        with pytest.raises(OutputFolderError, match=r"a\.fits' is a folder"):
            folder.write("tiles/a.fits", saying("x"))
        folder.write("tiles/b.fits", saying("x"))


def test_damaged_notes_of_what_was_written_are_passed_over(finished: Path, record: Any) -> None:
    lines = ["[", "[]", "3", '{"a": 1}', '["x"]', '["x", 1]', '[["x"], "y"]', '["x", "y", {"a": 1}]', '["x", "y", [1]]']
    (finished / WRITTEN).write_text("\n".join([*lines, "[" * 100_000, '["tiles/a.fits", "0", [null, 1, 2, 3]]']))
    with OutputFolder.open(finished, SETTINGS, []) as folder:
        assert folder.last is not None
        files = [folder.write(file.name, saying(file.name)) for file in folder.last.files]
        folder.finish(record(files), {})
        assert folder.left == state_left(finished)


def test_an_input_may_not_be_the_folder_nor_lie_in_it_but_may_hold_it(tmp_path: Path) -> None:
    out = tmp_path / "data" / "out"
    refused(out, "input", inputs=(out,))
    refused(out, "input", inputs=(out / "tiles" / "a.fits",))
    (tmp_path / "link").symlink_to(tmp_path / "data")
    refused(out, "input", inputs=(tmp_path / "link" / "out",))
    assert not out.exists()
    OutputFolder.open(out, SETTINGS, [tmp_path / "data"]).close()


def test_other_settings_are_refused_with_old_and_new_value(finished: Path) -> None:
    refused(finished, "sigma was 3.0, now 4.0", "overwrite", settings=MatchSettings(sigma=4))
    refused(finished, "band was None, now 'f770w'", settings=MatchSettings(band="f770w"))


def test_settings_that_change_no_number_do_not_matter(finished: Path) -> None:
    with OutputFolder.open(finished, MatchSettings(procs=7, max_points=99), []) as folder:
        assert folder.previous is not None


def test_overwrite_replaces_the_manifest_and_nothing_before_the_end(finished: Path, record: Any) -> None:
    settings = MatchSettings(sigma=4, overwrite=True)
    with OutputFolder.open(finished, settings, []) as folder:
        assert folder.previous is None
        files = [folder.write("tiles/c.fits", saying("c"))]
        assert (finished / "tiles" / "a.fits").exists()
        folder.finish(record(files, settings), {})
    assert set(tree(finished)) == {"tiles/c.fits", RUN, LOG}


def test_an_unfinished_run_goes_on_with_its_own_settings_only(finished: Path, record: Any) -> None:
    settings = MatchSettings(sigma=4, overwrite=True)
    with OutputFolder.open(finished, settings, []) as folder:
        folder.write("tiles/c.fits", saying("c"))
    assert (finished / JOURNAL).exists()
    refused(finished, "unfinished", "sigma was 4.0, now 3.0")
    with OutputFolder.open(finished, MatchSettings(sigma=4), []) as folder:  # let in already
        files = [folder.write("tiles/c.fits", saying("c"))]
        folder.finish(record(files, settings), {})
    assert set(tree(finished)) == {"tiles/c.fits", RUN, LOG}


def test_a_new_run_after_an_unfinished_one_of_other_settings_owns_the_journal(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with OutputFolder.open(out, MatchSettings(sigma=4), []) as folder:
        folder.write("tiles/c.fits", saying("c"))
    with OutputFolder.open(out, MatchSettings(sigma=5, overwrite=True), []) as folder:
        folder.write("tiles/c.fits", saying("other"))
    refused(out, "sigma was 5.0, now 4.0", settings=MatchSettings(sigma=4))


def test_names_stay_inside_the_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    bad = [
        "../x",
        "/x",
        "a/../../x",
        "a/../b",
        "./a",
        "",
        "a//b",
        "a/",
        "a\0b",
        RUN,
        LOG,
        JOURNAL,
        "a/.levelmatch-1.tmp",
    ]
    with OutputFolder.open(out, SETTINGS, []) as folder:
        for name in bad:
            with pytest.raises(OutputFolderError):
                folder.write(name, saying("x"))
        (out / "link").symlink_to(tmp_path, target_is_directory=True)
        with pytest.raises(OutputFolderError):
            folder.write("link/x", saying("x"))
        assert not folder.check(OutputFile(name="../x", sha256="0"))
        folder.write("odd name 'with' \"quotes\" *\n.txt", saying("x"))
    assert set(tmp_path.iterdir()) == {out}


def test_the_writer_gets_a_path_beside_the_file_with_its_suffix(tmp_path: Path) -> None:
    seen: list[Path] = []

    def writer(path: Path) -> None:
        seen.append(path)
        path.write_text("x")

    with OutputFolder.open(tmp_path / "out", SETTINGS, []) as folder:
        for name in ("tiles/a_cal.fits.gz", "f/b.png", "c.d/e"):
            folder.write(name, writer)
    assert [path.name.partition(".tmp")[2] for path in seen] == [".fits.gz", ".png", ""]
    assert [path.parent.name for path in seen] == ["tiles", "f", "c.d"]


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def broken(path: Path) -> None:
        path.write_text("half")
        message = "disk full"
        raise OSError(message)

    with OutputFolder.open(tmp_path / "out", SETTINGS, []) as folder:
        folder.write("tiles/a", saying("whole"))
        with pytest.raises(OSError, match="disk full"):
            folder.write("tiles/a", broken)
    assert set(tree(tmp_path / "out")) == {"tiles/a", JOURNAL, WRITTEN}
    assert (tmp_path / "out" / "tiles" / "a").read_text() == "whole"


def test_check_sees_what_was_altered(finished: Path) -> None:
    with OutputFolder.open(finished, SETTINGS, []) as folder:
        file = folder.write("tiles/a.fits", saying("tiles/a.fits"))
        assert folder.check(file)
        (finished / file.name).write_text("altered")
        assert not folder.check(file)
        (finished / file.name).unlink()
        assert not folder.check(file)


def change_in_place(path: Path) -> None:
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


def change_and_give_back_its_time(path: Path) -> None:
    before = path.stat()
    change_in_place(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_by_one_of_its_time(path: Path) -> None:
    """The file system may give the new one the number of the old one."""
    before, content = path.stat(), path.read_bytes()
    path.unlink()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES = [change_in_place, change_and_give_back_its_time, replace_by_one_of_its_time]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("name", ["tiles/a.fits", "pairs.ecsv"])
def test_what_somebody_changed_in_the_run_is_none_of_what_it_left(
    tmp_path: Path, record: Any, caplog: pytest.LogCaptureFixture, name: str, change: Any, *, again: bool
) -> None:
    out, names = tmp_path / "out", ["tiles/a.fits", "tiles/b.fits", "pairs.ecsv"]
    for _ in range(2 if again else 1):  # in the second run nothing is written
        with OutputFolder.open(out, SETTINGS, []) as folder:
            files = [folder.write(each, saying(each)) for each in names]
            if again == (folder.last is not None):
                change(out / name)
            folder.finish(record(files), {})
    assert folder.left == ""
    assert f"{name}: changed by somebody while the run went on" in caplog.text.replace("'", "")
    with OutputFolder.open(out, SETTINGS, []) as folder:
        files = [folder.write(each, saying(each)) for each in names]
        folder.finish(record(files), {})
        assert folder.left == state_left(out)
        assert list(folder.edited) == ([name] if name.startswith("tiles/") else [])


@pytest.mark.parametrize("again", [False, True])
def test_where_times_are_coarse_a_change_in_the_same_step_is_seen(
    tmp_path: Path, record: Any, monkeypatch: pytest.MonkeyPatch, *, again: bool
) -> None:
    """Whatever is changed within a step of the file system's clock, by seconds on FAT, has the stamp that it had."""
    second = int(time.time())

    def lstat(path: Path) -> os.stat_result:
        times = {f"st_{which}time{unit}": second * size for which in "mc" for unit, size in (("", 1), ("_ns", 10**9))}
        return os.stat_result((*os.lstat(path)[:7], second, second, second), times)

    monkeypatch.setattr(Path, "lstat", lstat)
    out = tmp_path / "out"
    for _ in range(2 if again else 1):
        with OutputFolder.open(out, SETTINGS, []) as folder:
            files = [folder.write("tiles/a.fits", saying("whole"))]
            if again == (folder.last is not None):
                change_in_place(out / "tiles" / "a.fits")
            folder.finish(record(files), {})
    assert folder.left == ""


def test_what_changes_as_it_appears_is_seen(tmp_path: Path, record: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"

    def rename(temporary: Path, place: Path) -> None:
        temporary.rename(place)
        if place.name == "a.fits":
            change_in_place(place)

    monkeypatch.setattr(placing, "rename", rename)
    with OutputFolder.open(out, SETTINGS, []) as folder:
        folder.finish(record([folder.write("tiles/a.fits", saying("whole"))]), {})
    assert folder.left == ""


def test_a_file_that_was_only_touched_is_what_the_run_left(tmp_path: Path, record: Any) -> None:
    with OutputFolder.open(tmp_path / "out", SETTINGS, []) as folder:
        files = [folder.write("tiles/a.fits", saying("a"))]
        os.utime(tmp_path / "out" / "tiles" / "a.fits", (1, 1))
        folder.finish(record(files), {})
        assert folder.left == state_left(tmp_path / "out")


def test_finish_refuses_a_manifest_with_a_file_that_is_not_there(tmp_path: Path, record: Any) -> None:
    with OutputFolder.open(tmp_path / "out", SETTINGS, []) as folder:
        with pytest.raises(OutputFolderError, match=r"gone\.fits"):
            folder.finish(record([OutputFile(name="tiles/gone.fits", sha256="0")]), {})
        assert not (tmp_path / "out" / RUN).exists()


def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with OutputFolder.open(out, SETTINGS, []):
        refused(out, "another levelmatch run")
    OutputFolder.open(out, SETTINGS, []).close()


def _hold(path: Path, ready: Any) -> None:
    with OutputFolder.open(path, SETTINGS, []) as folder:
        folder.write("tiles/a", saying("x"))
        ready.set()
        signal.pause()


def test_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(tmp_path / "out", ready))
    holder.start()
    assert ready.wait(20)
    refused(tmp_path / "out", "another levelmatch run")
    holder.kill()
    holder.join()
    OutputFolder.open(tmp_path / "out", SETTINGS, []).close()


def test_a_file_system_that_cannot_lock_folders_locks_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fcntl.flock

    def picky(descriptor: int, how: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):  # noqa: PTH112 - a descriptor, not a path
            raise OSError(errno.EBADF, "no locks on folders")
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", picky)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    with OutputFolder.open(tmp_path / "out", SETTINGS, []):
        refused(tmp_path / "out", "another levelmatch run")
    OutputFolder.open(tmp_path / "out", SETTINGS, []).close()


def test_a_run_that_wrote_nothing_leaves_no_folder_of_its_own(tmp_path: Path) -> None:
    with OutputFolder.open(tmp_path / "a" / "b" / "out", SETTINGS, []):
        assert (tmp_path / "a" / "b" / "out").is_dir()
    assert not (tmp_path / "a").exists()
    (tmp_path / "mine").mkdir()
    OutputFolder.open(tmp_path / "mine", SETTINGS, []).close()
    assert (tmp_path / "mine").is_dir()


def test_many_threads_write_at_once(tmp_path: Path, record: Any) -> None:
    with OutputFolder.open(tmp_path / "out", SETTINGS, []) as folder:
        files: list[OutputFile] = []
        threads = [
            threading.Thread(target=lambda n=n: files.append(folder.write(f"tiles/{n}", saying(str(n)))))
            for n in range(40)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        journal = json.loads((tmp_path / "out" / JOURNAL).read_bytes())
        assert {f"tiles/{n}" for n in range(40)} <= set(journal["files"])
        folder.finish(record(files), {})
    assert len(tree(tmp_path / "out")) == 42


_KILLED = """
import sys, time
from pathlib import Path
from levelmatch_core.products.output.folder import OutputFolder
from levelmatch_core.settings import MatchSettings

def slow(path):
    with path.open("wb") as file:
        file.write(b"half")
        file.flush()
        print("writing", flush=True)
        time.sleep(60)

with OutputFolder.open(Path(sys.argv[1]), MatchSettings(), []) as folder:
    folder.write("tiles/a.fits", lambda path: path.write_bytes(b"whole"))
    folder.write("tiles/b.fits", slow)
"""


def test_killed_in_the_middle_of_a_file_leaves_a_temporary_one_that_the_next_run_removes(
    tmp_path: Path, record: Any
) -> None:
    out = tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", _KILLED, str(out)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        process.kill()
    left = set(tree(out))
    assert {"tiles/a.fits", JOURNAL, WRITTEN} < left
    (temporary,) = left - {"tiles/a.fits", JOURNAL, WRITTEN}
    assert temporary.startswith("tiles/.levelmatch-")
    with OutputFolder.open(out, SETTINGS, []) as folder:
        files = [folder.write(f"tiles/{name}.fits", saying("whole")) for name in "ab"]
        folder.finish(record(files), {})
    assert set(tree(out)) == {"tiles/a.fits", "tiles/b.fits", RUN, LOG}


def test_what_is_expected_goes_into_the_journal_at_one_go(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with OutputFolder.open(out, SETTINGS, []) as folder:
        folder.expect(["tiles/a.fits", "tiles/b.fits"])
        assert not (out / JOURNAL).exists()  # a run that changes nothing writes none
        folder.write("tiles/a.fits", saying("a"))
        written = (out / JOURNAL).stat().st_mtime_ns
        assert json.loads((out / JOURNAL).read_bytes())["files"] == ["tiles/a.fits", "tiles/b.fits"]
        folder.write("tiles/b.fits", saying("b"))
        assert (out / JOURNAL).stat().st_mtime_ns == written
        with pytest.raises(OutputFolderError, match="inside the output folder"):
            folder.expect(["../c.fits"])
