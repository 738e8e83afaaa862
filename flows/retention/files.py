"""Stored files of LEVELMATCH_HOME that every run can make or fetch again: cutouts, results of tasks, fetched inputs.

Every run, including those of the library, holds a lock on the store; pruning needs exclusive use.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flows.home import Home

CUTOUTS, RESULTS, INPUTS = "cutouts", "results", "inputs"
KINDS = (CUTOUTS, RESULTS, INPUTS)


@dataclass(frozen=True)
class Entry:
    """A stored file."""

    path: Path
    size: int
    """Bytes."""
    used: float
    """Time of writing or last reading (to within a day on most file systems): Unix time, seconds."""
    links: tuple[Path, ...] = ()
    """What goes with it: its other names, and the notes that lead to it."""


def entries(home: Home, kinds: Sequence[str] = (CUTOUTS, RESULTS)) -> list[Entry]:
    """Return the stored files of some kinds, least recently used first."""
    found: list[Entry] = []
    for root in (getattr(home, kind) for kind in kinds if kind != INPUTS):
        for path, status in _files(root):
            found.append(Entry(path, status.st_size, max(status.st_mtime, status.st_atime)))
    if INPUTS in kinds:
        found += _inputs(home.inputs)
    return sorted(found, key=lambda entry: (entry.used, entry.path))


def prune(
    home: Home,
    kinds: Sequence[str] = (CUTOUTS, RESULTS),
    *,
    before: float | None = None,
    most: int | None = None,
    wait: bool = False,
    remove: bool = True,
) -> list[Entry]:
    """Remove stored files and return them.

    Parameters
    ----------
    home
        The home whose store is pruned.
    kinds
        What is pruned, out of :data:`KINDS`.
    before
        Unix time: files that have not been used since are removed.
    most
        Largest total size, bytes: the least recently used files are removed first.
    wait
        Whether to wait for runs in progress.
    remove
        Whether to remove them, or only to return what would be removed.

    Raises
    ------
    StoreInUseError
        If a run is in progress, and `wait` is not set.
    """
    if not remove:
        return _chosen(entries(home, kinds), before, most)
    from levelmatch_core.sky.store import CutoutStore  # noqa: PLC0415 - slow to import

    with CutoutStore(home.cutouts).alone(wait=wait):
        gone = _chosen(entries(home, kinds), before, most)
        for entry in gone:
            for path in (*entry.links, entry.path):  # a note never leads to what is gone
                path.unlink(missing_ok=True)
                with suppress(OSError):  # only empty folders are removed
                    path.parent.rmdir()
    return gone


def _chosen(stored: list[Entry], before: float | None, most: int | None) -> list[Entry]:
    left = sum(entry.size for entry in stored)
    chosen = []
    for entry in stored:
        too_old = before is not None and entry.used < before
        too_much = most is not None and left > most
        if too_old or too_much:
            left -= entry.size
            chosen.append(entry)
    return chosen


def _files(root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for folder, _, names in os.walk(root):
        for name in names:
            with suppress(FileNotFoundError):  # a run has just renamed it
                yield Path(folder, name), Path(folder, name).lstat()


def _inputs(root: Path) -> Iterator[Entry]:
    """Yield the fetched contents, each with its names and notes, and what was fetched in part."""
    notes: dict[str, list[Path]] = {}
    for note, _ in _files(root / "known"):
        with suppress(OSError, ValueError, AttributeError):  # damaged: the next run fetches again
            notes.setdefault(str(json.loads(note.read_text()).get("sha256", "")), []).append(note)
    names: dict[int, list[Path]] = {}
    for name, status in _files(root / "named"):
        names.setdefault(status.st_ino, []).append(name)
    for path, status in _files(root / "content"):
        its = notes.get(path.name, [])
        used = max([_first_held(status), *(note.stat().st_mtime for note in its)])
        yield Entry(path, status.st_size, used, (*its, *names.get(status.st_ino, [])))
    for path, status in _files(root / "parts"):
        yield Entry(path, status.st_size, status.st_mtime)


def _first_held(status: os.stat_result) -> float:
    """Return when a file was fetched: its own time is that of the file in its store."""
    return status.st_ctime
