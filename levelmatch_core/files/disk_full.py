"""Errors of a full disk: they are not the fault of an exposure, and end the run, which can be continued later."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from levelmatch_core.errors import NoRoomError

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
"""Error codes that only writing raises: the disk is full, or not writable any more."""


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
