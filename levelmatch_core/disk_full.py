"""What is said when a disk takes no more: no exposure is to blame, so that the run ends, and another one goes on."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from levelmatch_core.errors import NoRoomError

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})
"""What only writing raises: the disk is full, or may not be written to any more."""


@contextmanager
def room_for(place: Path | str) -> Iterator[None]:
    """Turn the refusal of a disk to take what is written at `place` into a clear error.

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
    """Raise if an error, or what it came from, says that a disk takes no more; else do nothing.

    Parameters
    ----------
    error
        Any; astropy wraps the system's error into one without a number.
    place
        What was being written; the error's own file if None.

    Raises
    ------
    NoRoomError
        If it does.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, NoRoomError):
            raise cause
        if isinstance(cause, OSError) and cause.errno in _NO_ROOM:
            message = (
                f"{place or cause.filename or 'output or LEVELMATCH_HOME'}: cannot be written: {cause.strerror}; make "
                f"room and run again: what is finished is kept"
            )
            raise NoRoomError(message) from error
        cause = cause.__cause__ or cause.__context__
