"""Files that outlive a loss of power: seen on disk, with the folders that name them, before anything relies on them."""

import errno
import os
from collections.abc import Iterable
from pathlib import Path

_NOT_FOR_FOLDERS = {errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EACCES}
"""What file systems say that cannot do it for a folder: they keep names in other ways."""


def see_on_disk(files: Iterable[Path], root: Path) -> None:
    """Wait until files, and their names in all folders up to `root`, are on disk.

    Parameters
    ----------
    files
        Existing files below `root`.
    root
        The uppermost folder, which may be new itself.

    Raises
    ------
    OSError
        If the disk refuses.
    """
    folders = {root, root.parent}
    for file in files:
        _sync(file, os.O_RDONLY)
        folders |= {folder for folder in file.parents if folder.is_relative_to(root)}
    for folder in sorted(folders, key=lambda path: -len(path.parts)):
        sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on disk, where its file system can tell.

    Raises
    ------
    OSError
        If the disk refuses.
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
