"""What takes the bytes of a file that is being written, and digests them on the way."""

import hashlib
from typing import BinaryIO, Protocol

_CHUNK = 1 << 18
"""Bytes that are digested and written at a time: they stay in the processor's cache."""


class Sink(Protocol):
    """What takes bytes, one after the other."""

    def write(self, data: bytes | memoryview, /) -> int:
        """Take all of them."""
        ...


class HashedFile:
    """A new file that is written from its start to its end, and digested on the way.

    Parameters
    ----------
    file
        Open for writing, empty.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()

    def write(self, data: bytes | memoryview) -> int:
        """Write all of it."""
        whole = memoryview(data)
        for start in range(0, len(whole), _CHUNK):
            chunk = whole[start : start + _CHUNK]
            self._digest.update(chunk)
            self._file.write(chunk)
        return len(whole)

    def sha256(self) -> str:
        """Return the digest (hex) of what was written so far."""
        return self._digest.hexdigest()
