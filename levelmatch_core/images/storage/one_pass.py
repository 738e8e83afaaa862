"""Reading the bytes that count and their digest in one pass, so that what is kept is kept under its own digest.

A file may be replaced or written to between the inventory, which digests it, and the reading of its pixels. Whoever
reads through here gets pixels of the bytes that were digested, or an error. A digest is a sha256 or an xxh64 (hex).
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from levelmatch_core.errors import ChangedInputError
from levelmatch_core.files.digests import CHUNK, Hasher, digest_file, hasher_for

Range = tuple[int, int]
"""Where bytes begin and end in a file."""


def read_whole(file: BinaryIO, digest: str, shown: str) -> bytes:
    """Return all bytes of a file.

    Raises
    ------
    ChangedInputError
        If they are not those of the digest.
    """
    file.seek(0)
    content = file.read()
    hashed = hasher_for(digest)
    hashed.update(content)
    _compare(hashed.hexdigest(), digest, shown)
    return content


def read_ranges(file: BinaryIO, ranges: Sequence[Range], digest: str, shown: str) -> list[memoryview]:
    """Return some ranges of a file's bytes, which do not overlap, from one pass through all of it.

    Raises
    ------
    ChangedInputError
        If the file's bytes are not those of the digest.
    """
    found = [np.empty(end - start, np.uint8).data for start, end in ranges]
    hashed = hasher_for(digest)
    passed_over = np.empty(CHUNK, np.uint8).data
    file.seek(0)
    position = 0
    for (start, end), content in sorted(zip(ranges, found, strict=True), key=lambda one: one[0]):
        while position < start:
            position += _taken(file, passed_over[: start - position], hashed, shown)
        while position < end:
            position += _taken(file, content[position - start : position - start + CHUNK], hashed, shown)
    digest_file(file, hashed)
    _compare(hashed.hexdigest(), digest, shown)
    return found


def _taken(file: BinaryIO, into: memoryview, hashed: Hasher, shown: str) -> int:
    """Read into a part of memory, digest that, and return how much it was."""
    got = int(file.readinto(into))  # type: ignore[attr-defined]
    if not got:  # it was longer
        raise changed(shown)
    hashed.update(into[:got])
    return got


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
            read_ranges(now, (), digest, shown)


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
