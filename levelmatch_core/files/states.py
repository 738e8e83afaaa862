"""The state of files, by which a change is noticed without reading them: size, times and number, not the content."""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

Stamp = tuple[int, int, int]
"""Time of the last change (Unix time, ns), size (bytes) and number of a file: as they are, also after a rename."""


@dataclass(frozen=True)
class State:
    """Names, kinds, sizes, times and numbers of files."""

    digest: str
    newest: float
    """The latest time of any of them: Unix time, seconds."""


def state_of(paths: Iterable[Path | str]) -> State:
    """Return the state of files as it is now; one that is not there counts, too. Links are followed."""
    digest, newest = hashlib.sha256(), 0.0
    for path in sorted({os.fsencode(path) for path in paths}):
        try:
            found = os.stat(path)  # noqa: PTH116 - plain text: of each of thousands of files
        except OSError:  # there is none
            digest.update(repr((path, None)).encode())
            continue
        known = (path, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
        digest.update(repr(known).encode())
        newest = max(newest, found.st_mtime, found.st_ctime)
    return State(digest.hexdigest(), newest)


def stamp_of(path: Path) -> Stamp | None:
    """Return by what a changed file is told from the same one, None if there is none. Links are not followed."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
