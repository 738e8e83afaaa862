"""Writing of files: complete under a temporary name, on disk if need be, then renamed; and the errors of a full disk.

No other module renames or synchronises files (`tests/test_rooms.py` holds that). A full disk is not the fault of an
exposure: it ends the run, which can be continued later.
"""

import errno
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path

from levelmatch_core.errors import NoRoomError

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
"""Error codes that only writing raises: the disk is full, or not writable any more."""

_NOT_FOR_FOLDERS = {errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EACCES}
"""Error codes of file systems that do not support fsync of a folder."""

_TEMPORARY = ".levelmatch-*.tmp*"


# -- replacing a file --------------------------------------------------------------------------------------------------
@contextmanager
def temporary_next_to(path: Path) -> Iterator[Path]:
    """Give the name of a temporary file in the folder of `path`; it is removed at the end, unless it was renamed.

    Raises
    ------
    NoRoomError
        If the disk is full.
    """
    # writers choose the format by the suffix, of which `.fits.gz` has two
    suffixes = "".join(path.suffixes[-2:] if path.suffix in {".gz", ".fz", ".bz2", ".Z"} else path.suffixes[-1:])
    temporary = path.parent / f".levelmatch-{secrets.token_hex(8)}.tmp{suffixes}"
    try:
        with room_for(path):
            yield temporary
    except BaseException:
        with suppress(OSError):  # a disk that takes no file may take no removal; the next run removes what is left
            temporary.unlink(missing_ok=True)
        raise
    with room_for(path):
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the name of a temporary file that becomes `path` at the end of the context, unless there is an error.

    Raises
    ------
    NoRoomError
        If the disk is full.
    """
    with temporary_next_to(path) as temporary:
        yield temporary
        rename(temporary, path)


def rename(old: Path | str, new: Path | str) -> None:
    """Rename a file, in place of another one if there is one."""
    os.replace(old, new)  # noqa: PTH105 - faster than pathlib: called thrice for every exposure


def write_durably(path: Path, content: bytes) -> None:
    """Write a small file: its content is on disk before it appears, and its name afterwards.

    Raises
    ------
    NoRoomError
        If the disk is full.
    """
    with temporary_next_to(path) as temporary:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        rename(temporary, path)
        sync_folder(path.parent)


def is_temporary(path: Path | str) -> bool:
    """Return whether a file has the name of a temporary file."""
    return fnmatchcase(os.path.basename(path), _TEMPORARY)  # noqa: PTH119 - as above


# -- what survives a loss of power -------------------------------------------------------------------------------------
def see_on_disk(files: Iterable[Path], root: Path) -> None:
    """Wait until files, and their names in all folders up to `root`, are on disk.

    Parameters
    ----------
    files
        Existing files below `root`.
    root
        The topmost folder, which may be new itself.

    Raises
    ------
    OSError
        If the disk reports an error.
    """
    folders = set()
    for file in files:
        _sync(file, os.O_RDONLY)
        folders.add(file.parent)
    above = {above for folder in folders for above in folder.parents if above.is_relative_to(root)}
    folders |= {root, root.parent, *above}
    for folder in sorted(folders, key=lambda path: -len(path.parts)):
        sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on disk, if its file system supports that.

    Raises
    ------
    OSError
        If the disk reports an error.
    """
    try:
        _sync(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        if error.errno not in _NOT_FOR_FOLDERS:
            raise


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- a full disk -------------------------------------------------------------------------------------------------------
@contextmanager
def room_for(place: Path | str) -> Iterator[None]:
    """Turn errors of a full disk, while `place` is written, into a clear message.

    Raises
    ------
    NoRoomError
        If the disk is full, a quota or a limit is reached, or the disk has become read-only.
    """
    try:
        yield
    except OSError as error:
        refuse_without_room(error, place)
        raise


def refuse_without_room(error: BaseException, place: Path | str | None = None) -> None:
    """Raise if an error, or one of its causes, is that of a full disk; else do nothing.

    Parameters
    ----------
    error
        Any error; astropy wraps the system's error into one without an error code.
    place
        The file that was being written; the file named in the error if None.

    Raises
    ------
    NoRoomError
        If it is such an error.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, NoRoomError):
            raise cause
        if isinstance(cause, OSError) and cause.errno in _NO_ROOM:
            mend = "make it writable" if cause.errno == errno.EROFS else "make room"
            message = (
                f"{place or cause.filename or 'output or LEVELMATCH_HOME'}: cannot be written: {cause.strerror}; "
                f"{mend} and run again: finished work is kept"
            )
            raise NoRoomError(message) from error
        cause = cause.__cause__ or cause.__context__
