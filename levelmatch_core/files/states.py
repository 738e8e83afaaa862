"""The state of files, by which a change is noticed without reading them: size, times and number, not the content."""

import hashlib
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SETTLED = 2.0
"""Seconds after which a further change of a file has another time on every file system."""

Stamp = tuple[int, int, int, int]
"""Times of the last change of a file's content and of the file (Unix time, ns), its size (bytes) and number. The second
time is the system's alone: who edits a file and gives it the first one back has not set that."""

_COARSE = 1_000_000
"""Nanoseconds of which all times of some file systems are multiples: FAT, HFS+ and old ext4 have steps of 10 ms to
2 s, within which a second change does not show."""


@dataclass(frozen=True)
class State:
    """Names, kinds, sizes, times and numbers of files."""

    digest: str
    newest: float
    """The latest time of any of them: Unix time, seconds."""
    coarse: float = 0.0
    """The same of those on file systems with coarse times; 0 where there are none."""

    @property
    def may_hide_changes(self) -> bool:
        """Whether a file is so new for the times of its file system that a further change may not show."""
        return self.coarse > time.time() - SETTLED


def state_of(paths: Iterable[Path | str]) -> State:
    """Return the state of files as it is now; one that is not there counts, too. Links are followed."""
    digest, newest, coarse = hashlib.sha256(), 0.0, 0.0
    for path in sorted({os.fsencode(path) for path in paths}):
        try:
            found = os.stat(path)  # noqa: PTH116 - plain text: of each of thousands of files
        except OSError:  # there is none
            digest.update(repr((path, None)).encode())
            continue
        known = (path, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
        digest.update(repr(known).encode())
        newest = max(newest, found.st_mtime, found.st_ctime)
        if _is_coarse(found):
            coarse = max(coarse, found.st_mtime, found.st_ctime)
    return State(digest.hexdigest(), newest, coarse)


def stamp_of(path: Path) -> Stamp | None:
    """Return by what a changed file is told from the same one. Links are not followed.

    None if there is no file, or if it is so new for the times of its file system that a further change may not show.
    """
    try:
        found = path.lstat()
    except OSError:
        return None
    if _is_coarse(found) and found.st_ctime > time.time() - SETTLED:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def _is_coarse(found: os.stat_result) -> bool:
    return found.st_ctime_ns % _COARSE == 0
