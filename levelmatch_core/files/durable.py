"""Files that survive a loss of power: written to disk, together with their folders, before they are relied upon."""

import errno
import os
from collections.abc import Iterable
from pathlib import Path

_NOT_FOR_FOLDERS = {errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EACCES}
"""Error codes of file systems that do not support fsync of a folder."""


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
    folders = {root, root.parent}
    for file in files:
        _sync(file, os.O_RDONLY)
        folders |= {folder for folder in file.parents if folder.is_relative_to(root)}
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
