"""Digests of files: sha256, and xxh64 where what is feared is damage or a mix-up, and not a forger.

An xxh64 takes a seventh of the time (12 against 1.7 GB/s).
"""

import hashlib
from typing import BinaryIO, Protocol

import numpy as np
import xxhash

CHUNK = 1 << 18
"""Bytes that are digested at a time: they stay in the processor's cache."""

_DIGITS = 16


class Hasher(Protocol):
    """What digests bytes, one after the other."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Take all of them."""
        ...

    def hexdigest(self) -> str:
        """Return the digest (hex) of what was taken so far."""
        ...


def hasher_for(digest: str) -> Hasher:
    """Return what makes digests of the kind of a given one: of 16 digits is an xxh64, any other a sha256."""
    return xxhash.xxh64() if len(digest) == _DIGITS else hashlib.sha256()


def digest_file(file: BinaryIO, *hashers: Hasher) -> None:
    """Let all hashers take the bytes of an open file, from where it stands to its end, in one pass."""
    buffer = np.empty(CHUNK, np.uint8).data
    while got := file.readinto(buffer):  # type: ignore[attr-defined]
        for hasher in hashers:
            hasher.update(buffer[:got])
