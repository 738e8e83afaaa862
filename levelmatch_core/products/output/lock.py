"""The lock that allows only one run at a time to use an output folder."""

import errno
import fcntl
import hashlib
import os
import tempfile
from pathlib import Path

from levelmatch_core.errors import OutputFolderError

_NO_LOCKS_HERE = {errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOTSUP, errno.EACCES, errno.EPERM}
"""Error codes of file systems that cannot lock folders (such as NFS)."""


class FolderLock:
    """A lock on a folder that ends with the process that holds it, however it ends; it leaves no file in the folder.

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
            self._descriptor = _locked_beside(folder)

    def release(self) -> None:
        """Release the folder; may be called more than once."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _locked(path: Path, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _locked_beside(folder: Path) -> int:
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
