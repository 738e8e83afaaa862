"""A disk that is full, or does not read: a clear end, inputs untouched, and the next run brings the same bytes."""

import errno
import io
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from levelmatch_core import MatchSettings, match_levels
from levelmatch_core.errors import NoRoomError
from levelmatch_core.files.writing import temporary_next_to
from levelmatch_core.products.output.placing import WRITTEN
from levelmatch_core.sky.store import CutoutStore
from tests.folders import digests

REPOSITORY = Path(__file__).resolve().parents[2]
FULL = tuple(round(0.05 + 0.1 * step, 2) for step in range(10))


def used(folder, *, but_last=False):
    """Return the bytes that the files of a folder take, in whole pages, `but_last` without the newest."""
    files = sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_mtime_ns)
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in files[: -1 if but_last else None])


@contextmanager
def small_disk(place: Path, size: int) -> Iterator[None]:
    """Have a disk of so many bytes at a folder."""
    place.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here (root may): {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def make_room(place):
    subprocess.run(["mount", "-o", "remount,size=1g", str(place)], check=True)


def filled_and_run_again(undisturbed, world, part, share):
    """Run with a disk that takes `share` of what a part of the work needs, then with room."""
    known = undisturbed.world
    needed = {"out": known.out, "cutouts": known.home / "cutouts", "results": known.home / "results"}[part]
    place = {"out": world.out, "cutouts": world.home / "cutouts", "results": world.home / "results"}[part]
    before = digests(world.inputs)
    # the flow's own result comes last, when all is done: without room for it, Prefect warns and nothing is lost
    with small_disk(place, max(8192, round(used(needed, but_last=part == "results") * share))):
        code = world.run()
        said = world.said
        assert code == 1, said
        assert "No space left on device" in said
        assert "make room and run again" in said
        assert "Traceback" not in said
        # what the next run needs: that the folder is ours, and which of its files nobody edited
        assert set(world.left_over()) <= {str(world.out / name) for name in ("unfinished.json", WRITTEN)}
        assert digests(world.inputs) == before
        make_room(place)
        assert world.run() == 0, world.said
        assert digests(world.out) == undisturbed.files
        assert world.left_over() == []


@pytest.mark.slow
def test_a_disk_that_fills_during_the_writing_of_outputs(undisturbed, world):
    filled_and_run_again(undisturbed, world, "out", 0.6)


@pytest.mark.full
@pytest.mark.parametrize("part", ["out", "cutouts", "results"])
@pytest.mark.parametrize("share", FULL)
def test_a_disk_that_fills_at_ten_moments(undisturbed, world, part, share):
    filled_and_run_again(undisturbed, world, part, share)


# -- without a disk of its own -----------------------------------------------------------------------------------------
LIMITED = """
import resource, sys
from pathlib import Path
from levelmatch_core import MatchSettings, match_levels
from levelmatch_core.errors import NoRoomError
folder, cache, out, limit = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
try:
    match_levels(folder, out, MatchSettings(figures="none"), cache=cache)
except NoRoomError as error:
    sys.exit(str(error))
"""


@pytest.fixture(scope="module")
def matched(program, tmp_path_factory):
    """The files of an undisturbed run of the library, and its cutouts."""
    root = tmp_path_factory.mktemp("matched")
    match_levels(program, root / "out", MatchSettings(figures="none"), cache=root / "cache")
    return digests(root / "out"), root / "cache"


@pytest.mark.parametrize("what", ["cutouts", "corrected exposures", "mosaic", "run.json"])
def test_a_limit_of_file_size(program, matched, tmp_path, what):
    """RLIMIT_FSIZE stands for a quota: whatever is larger cannot be written whole."""
    expected, cache = matched
    out, own = tmp_path / "out", tmp_path / "cache"
    sizes = sorted(path.stat().st_size for path in program.glob("*.fits"))
    limit = {
        "cutouts": max(path.stat().st_size for path in cache.rglob("*.npy")) - 100,
        "corrected exposures": sizes[0] - 1,
        "mosaic": sizes[-1] + 20_000,
        "run.json": 2000,
    }[what]
    if what != "cutouts":
        own = cache  # what lies there is not written again
    before = digests(program)
    words = [sys.executable, "-c", LIMITED, str(program), str(own), str(out), str(limit)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}  # it writes, too
    done = subprocess.run(words, cwd=REPOSITORY, env=environ, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert "File too large; make room and run again" in done.stderr
    assert "Traceback" not in done.stderr
    left = [
        path
        for folder in (out, own)
        for path in folder.rglob("*")
        if path.name.startswith(".") and path.name != WRITTEN
    ]
    assert left == []
    match_levels(program, out, MatchSettings(figures="none"), cache=own)
    assert digests(out) == expected
    assert digests(program) == before


def test_an_array_is_stored_whole_or_not_at_all(tmp_path):
    """The system writes what there is room for and says so by a number; the rest must not be forgotten."""
    store = CutoutStore(tmp_path / "store")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        with pytest.raises(NoRoomError, match="File too large; make room"):
            store.put("ab" * 16, np.arange(1000.0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path for path in store.root.rglob("*") if path.is_file()] == []


# -- a read error ------------------------------------------------------------------------------------------------------
READS_BADLY = '''
"""The disk that holds one file reads it up to the middle, from its nth opening on."""
import errno, io, os
name, first = os.environ["BAD_FILE"], int(os.environ["BAD_FROM"])
seen = 0
whole = io.open

class Bad(io.FileIO):
    def readinto(self, buffer):
        if self.tell() + len(buffer) > os.fstat(self.fileno()).st_size // 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO), self.name)
        return super().readinto(buffer)

    def readall(self):
        raise OSError(errno.EIO, os.strerror(errno.EIO), self.name)

def opened(file, mode="r", *further, **options):
    global seen
    if mode == "rb" and os.path.basename(str(file)) == name and "out" not in str(file).split(os.sep):
        seen += 1
        if seen > first:
            return io.BufferedReader(Bad(file, "rb"))
    return whole(file, mode, *further, **options)

io.open = opened
'''


def openings_of(program, folder, monkeypatch):
    """Return how often a run opens an input."""
    monkeypatch.setenv("BAD_FILE", sorted(program.glob("*.fits"))[2].name)
    monkeypatch.setenv("BAD_FROM", str(10**6))
    counter = {}
    with monkeypatch.context() as patched:
        patched.setattr(io, "open", io.open)
        exec(READS_BADLY, counter)  # noqa: S102 - the same text that the command's test gives to its process
        assert match_levels(program, folder / "out", NO_FIGURES, cache=folder / "cache").complete
    return counter["seen"]


NO_FIGURES = MatchSettings(figures="none")


def test_a_read_error_in_the_middle_of_a_file(program, matched, tmp_path, monkeypatch):
    """Whenever in a run it comes, it costs that exposure, named; nothing of it is left once the disk reads again."""
    expected, _ = matched
    bad = sorted(program.glob("*.fits"))[2].name
    count = openings_of(program, tmp_path / "counted", monkeypatch)
    assert count >= 2
    for openings in range(count):
        place = tmp_path / f"from_{openings}"
        monkeypatch.setenv("BAD_FROM", str(openings))
        with monkeypatch.context() as patched:
            patched.setattr(io, "open", io.open)
            exec(READS_BADLY, {})  # noqa: S102 - as above
            result = match_levels(program, place / "out", NO_FIGURES, cache=place / "cache")
        (failure,) = result.failures
        assert bad in failure.name
        assert "Input/output error" in failure.reason
        assert [path for path in place.rglob("*") if path.name.startswith(".")] == []
        again = match_levels(program, place / "out", NO_FIGURES, cache=place / "cache")
        assert again.complete
        assert digests(place / "out") == expected


@pytest.mark.full
def test_a_read_error_under_the_command(undisturbed, world, tmp_path):
    bad = sorted(world.inputs.glob("*.fits"))[2].name
    (tmp_path / "sitecustomize.py").write_text(READS_BADLY)
    server = world.environment
    world.environment = {"BAD_FILE": bad, "BAD_FROM": "3", "PYTHONPATH": str(tmp_path), **server}
    before = digests(world.inputs)
    assert world.run() == 3, world.said
    assert f"{bad}: failed:" in world.said
    assert "Input/output error" in world.said
    assert "Traceback" not in world.said
    assert digests(world.inputs) == before
    assert world.left_over() == []
    world.environment = server
    assert world.run() == 0, world.said
    assert digests(world.out) == undisturbed.files


def test_what_cannot_be_removed_any_more_hides_no_full_disk(tmp_path, monkeypatch):
    """A disk that turns read-only takes no removal either: the message is about what was not written."""

    def refuse(path, **_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    place = tmp_path / "one.fits"
    full, turned = "No space left on device; make room", "Read-only file system; make it writable"
    with pytest.raises(NoRoomError, match=rf"one\.fits: cannot be written: {full}"), temporary_next_to(place):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(NoRoomError, match=rf"one\.fits: cannot be written: {turned}"), temporary_next_to(place) as made:
        made.touch()
    with pytest.raises(KeyboardInterrupt), temporary_next_to(place):
        raise KeyboardInterrupt
