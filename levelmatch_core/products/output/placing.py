"""Writing of files to an output folder: complete, by rename, and only if their bytes have changed."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from levelmatch_core.errors import OutputFolderError
from levelmatch_core.files.states import Stamp, stamp_of
from levelmatch_core.files.writing import is_temporary, rename, room_for, sync_folder, temporary_next_to
from levelmatch_core.images.reading import file_digest
from levelmatch_core.products.manifest import OutputFile

RUN, LOG, JOURNAL = "run.json", "log.json", "unfinished.json"
WRITTEN = ".levelmatch-written.tmp"
"""Digests and stamps of the files that an unfinished run put into their places: what else lies there was edited."""

CORRECTED, EDITED = "tiles/", "tiles/.edited/"
"""Folders of corrected files, and of those that somebody edited, which are never touched."""

Writer = Callable[[Path], object]
"""Writes a file at the given path; it may return the :class:`Sha256` of the file."""


class Sha256(str):
    """The digest (hex) of a file, computed while it was written."""

    __slots__ = ()


def put(
    root: Path,
    name: str,
    writer: Writer,
    before: Callable[[str], None] | None = None,
    after: Callable[[str, Stamp | None], None] | None = None,
) -> tuple[OutputFile, bool]:
    """Have `writer` create a file below `root`, and move it to its place if its bytes are new.

    Parameters
    ----------
    root
        The output folder.
    name
        Path relative to it.
    writer
        As in :meth:`OutputFolder.write`.
    before
        Called with the file's digest once it is made and its bytes are new, before it appears.
    after
        Called with the digest and the stamp of a new file that has just appeared, None if it has no stamp.

    Returns
    -------
    The file, and whether it is new.

    Raises
    ------
    OutputFolderError
        If the name leaves the folder or is reserved, or if a folder lies in its place.
    """
    place = place_of(root, name)
    if place.is_dir() and not place.is_symlink():
        message = f"output folder {root}: {name!r} is a folder; move it away"
        raise OutputFolderError(message)
    with room_for(place):
        place.parent.mkdir(parents=True, exist_ok=True)
    with temporary_next_to(place) as temporary:
        known = writer(temporary)
        digest = str(known) if isinstance(known, Sha256) else file_digest(temporary)
        same = (
            place.is_file()
            and not place.is_symlink()
            and place.stat().st_size == temporary.stat().st_size
            and file_digest(place) == digest
        )
        if not same:
            if before is not None:
                before(digest)
            made = stamp_of(temporary)
            rename(temporary, place)
            if after is not None:
                stamp = stamp_of(place)  # of which renaming changes the second time alone
                still = made and stamp and (made[0], *made[2:]) == (stamp[0], *stamp[2:])
                after(digest, stamp if still else None)
    return OutputFile(name=name, sha256=digest), not same


def checked_name(name: str) -> str:
    """Return a file name if it is allowed in an output folder.

    Raises
    ------
    OutputFolderError
        If it lies outside the folder or is reserved.
    """
    if "\0" in name or not {"", ".", ".."}.isdisjoint(name.split("/")) or name in {RUN, LOG, JOURNAL}:
        message = f"output file {name!r}: expected a path inside the output folder that is not reserved"
        raise OutputFolderError(message)
    if is_temporary(name):
        message = f"output file {name!r}: such names are reserved for temporary files"
        raise OutputFolderError(message)
    return name


def place_of(root: Path, name: str) -> Path:
    """Return the path of a file with this name.

    Raises
    ------
    OutputFolderError
        As :func:`checked_name`, or if a link leads outside the folder.
    """
    folder = f"{root}"
    for part in checked_name(name).split("/")[:-1]:
        folder += f"/{part}"
        if os.path.islink(folder):  # noqa: PTH114 - faster than pathlib: called five times for every exposure
            message = f"output file {name!r}: a link leads out of {root}; remove the link"
            raise OutputFolderError(message)
    return root / name


def note_written(root: Path, name: str, digest: str, stamp: Stamp | None = None) -> None:
    """Note that a file appears with these bytes, and its stamp once it has; any number of processes may do so at once.

    The renaming of a file is a change of it, so that its stamp is known only afterwards.
    """
    line = f"\n{json.dumps([name, digest, stamp])}\n".encode()  # on a line of its own, whatever was cut short before
    with room_for(root / WRITTEN):
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(root / WRITTEN, flags, 0o600)
        try:
            while line:  # a disk that fills takes a part of it, and fails the next time
                line = line[os.write(descriptor, line) :]
        finally:
            os.close(descriptor)


def digests_written(root: Path) -> dict[str, set[str]]:
    """Return the digests that :func:`note_written` noted, by name."""
    found: dict[str, set[str]] = {}
    for name, digest, _ in _notes(root):
        found.setdefault(name, set()).add(digest)
    return found


def stamps_written(root: Path) -> dict[str, Stamp]:
    """Return the last stamps that :func:`note_written` noted, by name; earlier versions noted others, or none."""
    found: dict[str, Stamp] = {}
    for name, _, stamp in _notes(root):
        found.pop(name, None)  # of what was there before
        if isinstance(stamp, list) and len(stamp) == 4:
            found[name] = stamp[0], stamp[1], stamp[2], stamp[3]
    return found


def _notes(root: Path) -> Iterator[tuple[str, str, Any]]:
    """Yield what :func:`note_written` noted: name, digest, stamp; what else is there is passed over."""
    with suppress(FileNotFoundError):
        for line in (root / WRITTEN).read_bytes().splitlines():
            with suppress(ValueError, TypeError, RecursionError):
                name, digest, *stamp = json.loads(line)
                if isinstance(name, str) and isinstance(digest, str):
                    yield name, digest, stamp[0] if stamp else None


def edits_of(root: Path, name: str) -> list[str]:
    """Return the names of what :func:`keep_aside` moved aside of a corrected file and is still there, oldest first."""
    first = root / EDITED / name.removeprefix(CORRECTED)
    place, number = first, 1
    found: list[str] = []
    while place.exists() or place.is_symlink():
        found.append(place.relative_to(root).as_posix())
        number += 1
        place = first.with_name(f"{number}-{first.name}")
    return found


def keep_aside(root: Path, name: str) -> str:
    """Move a corrected file to where nothing touches it, and return its new name."""
    place, number = place_of(root, name), 1
    kept = root / EDITED / name.removeprefix(CORRECTED)
    kept.parent.mkdir(parents=True, exist_ok=True)
    target = kept
    while target.exists() or target.is_symlink():
        number += 1
        target = kept.with_name(f"{number}-{kept.name}")
    rename(place, target)
    for folder in (target.parent, place.parent):
        sync_folder(folder)
    return target.relative_to(root).as_posix()
