"""Rejection of files that are not regular: opening a pipe would wait forever, and devices or sockets are not data."""

import stat
from pathlib import Path

_KINDS = (
    (stat.S_ISFIFO, "a pipe (FIFO)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISDIR, "a folder"),
)


def irregular(path: Path) -> str:
    """Return the kind of a file that is not regular, such as "a pipe (FIFO)"; '' for a regular one. Links are followed.

    Files that cannot be examined are left to the caller, whose attempt to open them gives a suitable error.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return ""
    if stat.S_ISREG(mode):
        return ""
    return next((name for is_kind, name in _KINDS if is_kind(mode)), "no regular file")


def refuse_irregular(path: Path, error: type[Exception], shown: str | None = None) -> None:
    """Raise if a file exists and is not a regular file.

    Parameters
    ----------
    path
        The file.
    error
        The class of the error to raise.
    shown
        Name of the file in the message; the path if None.
    """
    kind = irregular(path)
    if kind:
        message = f"{shown or path}: is {kind}, expected a regular file; copy its content to one"
        raise error(message)
