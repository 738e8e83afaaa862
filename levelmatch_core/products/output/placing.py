"""How a file gets into an output folder: whole, by rename, under a name that lies in it; the same bytes stay."""

import os
import secrets
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from levelmatch_core.disk_full import room_for
from levelmatch_core.errors import OutputFolderError
from levelmatch_core.files.durable import sync_folder
from levelmatch_core.images.reading import digest_of
from levelmatch_core.products.manifest import OutputFile

RUN, LOG, JOURNAL = "run.json", "log.json", "unfinished.json"
_TEMPORARY = ".levelmatch-*.tmp*"
Writer = Callable[[Path], object]
"""Writes a file at the path that it is given; a :class:`Sha256` that it returns is the file's."""


class Sha256(str):
    """The digest (hex) of a file, from one who saw all its bytes."""

    __slots__ = ()


def put(root: Path, name: str, writer: Writer, before: Callable[[], None] | None = None) -> tuple[OutputFile, bool]:
    """Let `writer` make a file below `root`, and put it in its place if its bytes are new.

    Parameters
    ----------
    root
        The output folder.
    name
        Path relative to it.
    writer
        As in :meth:`OutputFolder.write`.
    before
        Called once the file is made and its bytes are new, before it appears.

    Returns
    -------
    The file, and whether it is new.
    """
    place = place_of(root, name)
    with room_for(place):
        place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.parent / f".levelmatch-{secrets.token_hex(8)}.tmp{_suffix(place.name)}"
    try:
        with room_for(place):
            known = writer(temporary)
        digest = str(known) if isinstance(known, Sha256) else digest_of(temporary)
        same = (
            place.is_file()
            and not place.is_symlink()
            and place.stat().st_size == temporary.stat().st_size
            and digest_of(place) == digest
        )
        if not same:
            if before is not None:
                before()
            temporary.replace(place)
    finally:
        temporary.unlink(missing_ok=True)
    return OutputFile(name=name, sha256=digest), not same


def checked_name(name: str) -> str:
    """Return a file's name if it may be one of an output folder.

    Raises
    ------
    OutputFolderError
        If it leaves the folder or is reserved.
    """
    parts = PurePosixPath(name).parts
    plain = name and "\0" not in name and PurePosixPath(name).as_posix() == name
    if not plain or name.startswith("/") or {".", ".."} & set(parts) or name in {RUN, LOG, JOURNAL}:
        message = f"output file {name!r}: expected a path inside the output folder that is not reserved"
        raise OutputFolderError(message)
    if is_temporary(Path(name)):
        message = f"output file {name!r}: such names are kept for temporary files"
        raise OutputFolderError(message)
    return name


def place_of(root: Path, name: str) -> Path:
    """Return where a file of this name lies.

    Raises
    ------
    OutputFolderError
        As :func:`checked_name`, or if a link leads out of the folder.
    """
    place = root / checked_name(name)
    folder = os.path.realpath(root)
    if os.path.realpath(place.parent) != os.path.normpath(f"{folder}/{PurePosixPath(name).parent}"):
        message = f"output file {name!r}: a link leads out of {root}; remove the link"
        raise OutputFolderError(message)
    return place


def is_temporary(path: Path) -> bool:
    """Return whether a file is, by its name, one that is being written."""
    return fnmatchcase(path.name, _TEMPORARY)


def _suffix(name: str) -> str:
    """Return a name's suffix, both parts of such as `.fits.gz`: writers choose the format by it."""
    suffixes = PurePosixPath(name).suffixes
    return "".join(suffixes[-2:] if suffixes[-1:] in ([".gz"], [".fz"], [".bz2"], [".Z"]) else suffixes[-1:])


def replace(path: Path, content: bytes) -> None:
    """Write a small file whole, and see it safely on disk before it appears, and its name after."""
    temporary = path.parent / f".levelmatch-{secrets.token_hex(8)}.tmp"
    try:
        with room_for(path):
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
