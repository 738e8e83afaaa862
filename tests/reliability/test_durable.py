"""Before run.json names a file, the file and the folders that name it are on disk: what a loss of power leaves."""

import os
from pathlib import Path
from typing import Any

import pytest

from levelmatch_core import MatchSettings, match_levels
from levelmatch_core.products.corrected.undo import undo
from levelmatch_core.simulate import SimulatedProgram, simulate

Event = tuple[str, tuple[int, int] | str]


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """Record, in their order, what was synchronised (by device and inode) and which names appeared by rename."""
    seen: list[Event] = []
    sync, replace = os.fsync, os.replace

    def record_sync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        sync(descriptor)
        seen.append(("sync", (status.st_dev, status.st_ino)))

    def record_replace(old: Any, new: Any) -> None:
        replace(old, new)
        seen.append(("appears", str(new)))

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(os, "replace", record_replace)  # which Path.replace calls, too
    return seen


def identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


@pytest.mark.parametrize("runner", ["threads", pytest.param("processes", marks=pytest.mark.slow)])
def test_all_is_on_disk_before_run_json_names_it(tmp_path: Path, events: list[Event], runner: str) -> None:
    simulate(tmp_path / "in", SimulatedProgram(instrument="miri", tiles=(2, 1), dithers=2, size=64))
    out = tmp_path / "out"
    settings = MatchSettings.from_mapping({"figures": "none", "runner": runner})
    match_levels(tmp_path / "in", out, settings, cache=tmp_path / "store")
    named = events.index(("appears", str(out / "run.json")))
    before = {each for kind, each in events[:named] if kind == "sync"}
    files = [path for path in out.rglob("*") if path.is_file() and path.name not in {"run.json", "log.json"}]
    folders = {folder for path in files for folder in path.parents if folder.is_relative_to(out)}
    assert len(files) > 5
    assert [path for path in (*files, *folders) if identity(path) not in before] == []
    # and run.json itself: its bytes before it appears, its name after
    assert identity(out / "run.json") in before
    assert ("sync", identity(out)) in events[named:]


def test_what_is_given_back_is_on_disk(tmp_path: Path, events: list[Event]) -> None:
    simulate(tmp_path / "in", SimulatedProgram(instrument="miri", tiles=(2, 1), dithers=1, size=64))
    match_levels(tmp_path / "in", tmp_path / "out", MatchSettings.from_mapping({"figures": "none"}))
    events.clear()
    back = tmp_path / "back"
    found = undo(tmp_path / "out", back)
    assert found.complete
    synced = {each for kind, each in events if kind == "sync"}
    assert [file.name for file in found.files if identity(back / file.name) not in synced] == []
    assert identity(back) in synced
