"""`levelmatch cache`: the size, what pruning removes, and that a run in progress keeps its store."""

import os
import time

import pytest
from click.testing import CliRunner

from flows.cli import main
from flows.home import Home
from flows.retention.files import entries, prune
from levelmatch_core import MatchSettings, match_levels
from levelmatch_core.errors import StoreInUseError
from levelmatch_core.images.storage.remote import local_inputs
from levelmatch_core.runners import PlainRunner
from levelmatch_core.sky.store import CutoutStore
from tests.folders import age

DAY = 86400.0


@pytest.fixture
def filled(tmp_path, monkeypatch):
    """A store of four files of 1000 bytes, used 40, 20, 10 and 0 days ago."""
    monkeypatch.setenv("LEVELMATCH_HOME", str(tmp_path / "home"))
    home = Home.of().make()
    for number, days in enumerate((40, 20, 10, 0)):
        path = (home.cutouts if number % 2 else home.results) / f"{number}{number}" / f"{days}.npy"
        path.parent.mkdir()
        path.write_bytes(bytes(1000))
        os.utime(path, (time.time() - days * DAY,) * 2)
    return home


def names(found):
    return [entry.path.name for entry in found]


def command(*words):
    return CliRunner().invoke(main, ["cache", *words])


def test_the_least_recently_used_comes_first(filled):
    assert names(entries(filled)) == ["40.npy", "20.npy", "10.npy", "0.npy"]


def test_by_age(filled):
    done = command("--older-than", "15d")
    assert done.exit_code == 0, done.output
    assert "removed: 2 files, 1.95 kB" in done.output
    assert names(entries(filled)) == ["10.npy", "0.npy"]
    assert not (filled.results / "00").exists()


def test_by_size(filled):
    assert names(prune(filled, most=2500)) == ["40.npy", "20.npy"]
    assert prune(filled, most=2500) == []


def test_a_dry_run_removes_nothing(filled):
    done = command("--older-than", "15d", "--dry-run")
    assert "would be removed: 2 files, 1.95 kB" in done.output
    assert len(entries(filled)) == 4


def test_one_kind_only(filled):
    assert "removed: 1 files" in command("--older-than", "15d", "--of", "results").output
    assert names(entries(filled)) == ["20.npy", "10.npy", "0.npy"]


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """Two fetched inputs, which were last used 40 and 0 days ago, and a part of a third one that is as old."""
    fsspec = pytest.importorskip("fsspec", reason="no fsspec: pip install 'levelmatch[remote]'")
    monkeypatch.setenv("LEVELMATCH_HOME", str(tmp_path / "home"))
    home, store = Home.of().make(), fsspec.filesystem("memory")
    for name in ("a", "b"):
        store.pipe(f"/night/{name}_cal.fits", name.encode() * 1000)

    def used():
        return local_inputs(["memory://night"], home.inputs).paths

    old, _ = used()
    (home.inputs / "parts" / "c").write_bytes(bytes(500))
    for path in (home.inputs / "parts" / "c", *(home.inputs / "known").iterdir()):
        age(path, 40 * DAY)
    monkeypatch.setattr("flows.retention.files._first_held", lambda _: 0.0)  # that they were fetched just now
    local_inputs(["memory://night/b_cal.fits"], home.inputs)
    yield home, old, used
    store.rm("/night", recursive=True)


def test_inputs_that_were_not_used_for_long_go_with_all_their_names(fetched):
    home, old, used = fetched
    assert "inputs:  3 files, 2.44 kB fetched" in command().output
    done = command("--older-than", "30d", "--of", "inputs")
    assert "removed: 2 files, 1.46 kB" in done.output, done.output
    assert not old.exists()
    assert len(entries(home, ["inputs"])) == 1
    assert [len(list((home.inputs / folder).iterdir())) for folder in ("known", "named")] == [1, 1]
    assert [path.read_bytes() for path in used()] == [b"a" * 1000, b"b" * 1000]


def test_inputs_down_to_a_size(fetched):
    home, old, _ = fetched
    assert "removed: 2 files, 1.46 kB" in command("--shrink-to", "1k", "--of", "inputs").output
    assert not old.exists()
    assert len(entries(home, ["inputs"])) == 1


@pytest.mark.parametrize(
    "words",
    [
        ("--of", "inputs"),
        ("--of", "flow-runs", "--shrink-to", "1G"),
        ("--of", "sweeps", "--older-than", "30d", "--shrink-to", "1G"),
    ],
)
def test_records_have_an_age_only(filled, words):
    done = command(*words)
    assert done.exit_code == 2
    assert "--older-than" in done.output
    assert len(entries(filled)) == 4


def test_showing_removes_nothing(filled):
    done = command()
    assert "stored:  4 files, 3.91 kB" in done.output
    assert "not used for 40.0 days" in done.output
    assert len(entries(filled)) == 4


def test_a_run_in_progress_keeps_everything(filled):
    store = CutoutStore(filled.cutouts)
    with store.in_use(), CutoutStore(filled.cutouts).in_use():
        with pytest.raises(StoreInUseError, match="run in progress"):
            prune(filled, most=0)
        done = command("--shrink-to", "0")
        assert done.exit_code == 1
        assert len(entries(filled)) == 4
    assert len(prune(filled, most=0)) == 4


@pytest.mark.parametrize("writes", [True, False])
def test_a_run_of_the_library_keeps_everything(filled, small_program, tmp_path, monkeypatch, writes):
    tried = []

    def pruning(each, jobs, title, do=PlainRunner.__call__):
        with pytest.raises(StoreInUseError):
            prune(filled, most=0)
        tried.append(title)
        return do(each, jobs, title)

    monkeypatch.setattr(PlainRunner, "__call__", pruning)
    output = tmp_path / "out" if writes else None
    match_levels(small_program, output, MatchSettings(figures="none"), cache=filled.cutouts)
    assert len(tried) > 5
    assert len(prune(filled, most=0)) > 4


@pytest.mark.parametrize("words", [("--older-than", "yesterday"), ("--shrink-to", "5 parsecs"), ("--older-than", "3y")])
def test_what_is_no_age_or_size_is_bad_usage(filled, words):
    done = command(*words)
    assert done.exit_code == 2
    assert "expected" in done.output
    assert len(entries(filled)) == 4
