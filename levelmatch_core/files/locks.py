"""Locks between processes, which end with the process that holds them, however it ends.

No other module locks files (`tests/test_rooms.py` holds that).
"""

import errno
import fcntl
import hashlib
import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from levelmatch_core.errors import OutputFolderError

_NO_LOCKS_HERE = {errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOTSUP, errno.EACCES, errno.EPERM}
"""Error codes of file systems that cannot lock folders (such as NFS)."""


def lock(descriptor: int, *, shared: bool = False, wait: bool = True) -> None:
    """Lock an open file or folder, until it is closed.

    Parameters
    ----------
    descriptor
        The open file or folder.
    shared
        Whether others may hold a shared lock on it at the same time.
    wait
        Whether to wait for another process that holds it.

    Raises
    ------
    BlockingIOError
        If another process holds it, and `wait` is not set.
    OSError
        If its file system has no locks.
    """
    fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))


# -- an output folder --------------------------------------------------------------------------------------------------
class FolderLock:
    """A lock on an output folder, which only one run at a time may use; it leaves no file in the folder.

    Parameters
    ----------
    folder
        An existing folder.

    Raises
    ------
    OutputFolderError
        If another run holds it.
    """

    def __init__(self, folder: Path) -> None:
        self._descriptor: int | None = None
        try:
            self._descriptor = _locked(folder, os.O_RDONLY | os.O_DIRECTORY)
        except BlockingIOError as error:
            raise _in_use(folder) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS_HERE:
                raise
            self._descriptor = _locked_elsewhere(folder)

    def release(self) -> None:
        """Release the folder; may be called more than once."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _locked(path: Path, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        lock(descriptor, wait=False)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _locked_elsewhere(folder: Path) -> int:
    """Lock a file that represents the folder, in the system's folder for temporary files."""
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]
    path = Path(tempfile.gettempdir()) / f"levelmatch-{os.getuid()}-{name}.lock"
    try:
        return _locked(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
    except BlockingIOError as error:
        raise _in_use(folder) from error


def _in_use(folder: Path) -> OutputFolderError:
    return OutputFolderError(
        f"output folder {folder}: another levelmatch run is writing to it; wait until it ends, or choose another folder"
    )


# -- temporary files that others can tell from left-over ones ----------------------------------------------------------
def locked_temporary(folder: str, suffix: str) -> tuple[int, str]:
    """Create and lock a temporary file (0600); an unlocked one was left over by a process that was killed."""
    while True:
        name = f"{folder}/.{secrets.token_hex(8)}{suffix}"
        handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with suppress(OSError):  # a file system without locks, where nothing is ever removed
            lock(handle)
        if os.fstat(handle).st_nlink:
            return handle, name
        os.close(handle)  # removed before it was locked


def remove_if_left(path: Path) -> None:
    """Remove a temporary file of :func:`locked_temporary`, unless it is still being written."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # removed, or not accessible
        return
    try:
        lock(handle, wait=False)
        path.unlink(missing_ok=True)
    except OSError:  # in use, or no locks here
        return
    finally:
        os.close(handle)
