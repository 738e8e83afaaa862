"""Regular files, and nothing else: opening a pipe would wait for ever, a device or a socket is no one's data."""

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
    """Return what a file is that is no regular one, such as "a pipe (FIFO)", links followed; '' where it is one.

    What cannot be looked at is left to whoever opens it, whose error says why.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return ""
    if stat.S_ISREG(mode):
        return ""
    return next((name for is_kind, name in _KINDS if is_kind(mode)), "no regular file")


def refuse_irregular(path: Path, error: type[Exception], shown: str | None = None) -> None:
    """Raise where a file is there and is no regular one.

    Parameters
    ----------
    path
        The file.
    error
        The class of the error to raise.
    shown
        What to call it in the message; the path if None.
    """
    kind = irregular(path)
    if kind:
        message = f"{shown or path}: is {kind}, expected a regular file; copy what it gives to one"
        raise error(message)
