"""Reading the bytes that count and their digest in one pass, so that what is kept is kept under its own digest.

A file may be replaced or written to between the inventory, which digests it, and the reading of its pixels. Whoever
reads through here gets pixels of the bytes that were digested, or an error.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from levelmatch_core.errors import ChangedInputError

_CHUNK = 1 << 18
"""Bytes that are digested at a time: they stay in the processor's cache."""

Range = tuple[int, int]
"""Where bytes begin and end in a file."""


def read_whole(file: BinaryIO, digest: str, shown: str) -> bytes:
    """Return all bytes of a file.

    Raises
    ------
    ChangedInputError
        If they are not those of the digest (sha256, hex).
    """
    file.seek(0)
    content = file.read()
    _compare(hashlib.sha256(content).hexdigest(), digest, shown)
    return content


def read_ranges(file: BinaryIO, ranges: Sequence[Range], digest: str, shown: str) -> list[bytearray]:
    """Return some ranges of a file's bytes, from one pass through all of it.

    Raises
    ------
    ChangedInputError
        If the file's bytes are not those of the digest (sha256, hex).
    """
    found = [bytearray(end - start) for start, end in ranges]
    hashed = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))
    file.seek(0)
    position = 0
    while got := file.readinto(buffer):  # type: ignore[attr-defined]
        hashed.update(buffer[:got])
        for (start, end), content in zip(ranges, found, strict=True):
            low, high = max(start, position), min(end, position + got)
            if low < high:
                content[low - start : high - start] = buffer[low - position : high - position]
        position += got
    _compare(hashed.hexdigest(), digest, shown)
    return found


@contextmanager
def unchanged(file: BinaryIO, digest: str, shown: str) -> Iterator[None]:
    """Hold that an open file has the bytes of a digest all the while that a block reads from it.

    Raises
    ------
    ChangedInputError
        If it has not, at the end of the block; what the block made is then of no use.
    """
    before = _stamp(file)
    yield
    file.seek(0)
    read_ranges(file, (), digest, shown)
    if _stamp(file) != before:
        raise changed(shown)


@contextmanager
def same_file(path: Path, file: BinaryIO, digest: str, shown: str) -> Iterator[None]:
    """Hold that a path leads to the file that is open, all the while that a block opens it again by its path.

    Raises
    ------
    ChangedInputError
        If it does not, and the file that it leads to has other bytes.
    """
    before = os.fstat(file.fileno())
    yield
    after = path.stat()
    if (before.st_dev, before.st_ino, before.st_mtime_ns) != (after.st_dev, after.st_ino, after.st_mtime_ns):
        with path.open("rb") as now:
            _compare(hashlib.file_digest(now, "sha256").hexdigest(), digest, shown)


def _stamp(file: BinaryIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def _compare(found: str, digest: str, shown: str) -> None:
    if found != digest:
        raise changed(shown)


def changed(shown: str) -> ChangedInputError:
    """Return the error of a file that changed."""
    return ChangedInputError(
        f"{shown}: changed while it was read: its bytes are not those that the inventory saw; run again once nobody "
        f"writes to it"
    )
