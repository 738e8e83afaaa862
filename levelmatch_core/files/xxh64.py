"""XXH64, a checksum seven times as fast as sha256, where what is feared is damage or a mix-up and not a forger.

It is that of the specification of xxHash (https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md), seed 0. The
rounds over whole stripes are compiled, the rest is a few whole numbers.
"""

import hashlib
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.process.compilation import njit

CHUNK = 1 << 18
"""Bytes that are digested at a time: they stay in the processor's cache."""

_STRIPE = 32
_DIGITS = 16
_WHOLE = (1 << 64) - 1
_PRIMES = (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5)
_FIRST, _SECOND = np.uint64(_PRIMES[0]), np.uint64(_PRIMES[1])
_UP, _DOWN = np.uint64(31), np.uint64(33)


class Hasher(Protocol):
    """What digests bytes, one after the other."""

    def update(self, data: bytes | memoryview, /) -> None:
        """Take all of them."""
        ...

    def hexdigest(self) -> str:
        """Return the digest (hex) of what was taken so far."""
        ...


class Xxh64:
    """The checksum of bytes that come one after the other, as one of `hashlib` is used."""

    def __init__(self) -> None:
        one, two = _PRIMES[:2]
        self._lanes = np.array([(one + two) & _WHOLE, two, 0, _WHOLE + 1 - one], np.uint64)
        self._rest = b""
        self._size = 0

    def update(self, data: bytes | memoryview, /) -> None:
        """Take bytes."""
        left = memoryview(data).toreadonly()
        self._size += len(left)
        if self._rest:
            missing = _STRIPE - len(self._rest)
            self._rest += left[:missing]
            left = left[missing:]
            if len(self._rest) < _STRIPE:
                return
            _stripes(_words(memoryview(self._rest)), self._lanes)
        whole = len(left) // _STRIPE * _STRIPE
        if whole:
            _stripes(_words(left[:whole]), self._lanes)
        self._rest = bytes(left[whole:])

    def hexdigest(self) -> str:
        """Return the checksum (hex, 16 digits) of what was taken so far."""
        one, two, three, four, five = _PRIMES
        lanes = self._lanes.tolist()
        if self._size >= _STRIPE:
            found = sum(_turned(lane, by) for lane, by in zip(lanes, (1, 7, 12, 18), strict=True)) & _WHOLE
            for lane in lanes:
                found = ((found ^ _round(0, lane)) * one + four) & _WHOLE
        else:
            found = five
        found = (found + self._size) & _WHOLE
        rest = self._rest
        while len(rest) >= 8:
            found = (_turned(found ^ _round(0, int.from_bytes(rest[:8], "little")), 27) * one + four) & _WHOLE
            rest = rest[8:]
        if len(rest) >= 4:
            found = (_turned(found ^ (int.from_bytes(rest[:4], "little") * one & _WHOLE), 23) * two + three) & _WHOLE
            rest = rest[4:]
        for byte in rest:
            found = _turned(found ^ (byte * five & _WHOLE), 11) * one & _WHOLE
        for shift, prime in ((33, two), (29, three)):
            found = (found ^ (found >> shift)) * prime & _WHOLE
        return f"{found ^ (found >> 32):016x}"


def hasher_for(digest: str) -> Hasher:
    """Return what makes digests of the kind of a given one: of 16 digits is an xxh64, any other a sha256."""
    return Xxh64() if len(digest) == _DIGITS else hashlib.sha256()


def digest_file(file: BinaryIO, *hashers: Hasher) -> None:
    """Let all hashers take the bytes of an open file, from where it stands to its end, in one pass."""
    buffer = memoryview(bytearray(CHUNK))
    while got := file.readinto(buffer):  # type: ignore[attr-defined]
        for hasher in hashers:
            hasher.update(buffer[:got])


def _words(data: memoryview) -> NDArray[np.uint64]:
    words = np.frombuffer(data, "<u8").astype(np.uint64, copy=False)
    if not words.flags.aligned:  # so that one compiled function serves all
        words = words.copy()
        words.flags.writeable = False
    return words


def _turned(word: int, by: int) -> int:
    return ((word << by) | (word >> (64 - by))) & _WHOLE


def _round(lane: int, word: int) -> int:
    return _turned((lane + word * _PRIMES[1]) & _WHOLE, 31) * _PRIMES[0] & _WHOLE


@njit(nogil=True, cache=True)
def _stripes(words: NDArray[np.uint64], lanes: NDArray[np.uint64]) -> None:  # pragma: no cover - compiled
    """Take whole stripes of four words into the four lanes."""
    a, b, c, d = lanes[0], lanes[1], lanes[2], lanes[3]
    for at in range(0, words.size, 4):
        a += words[at] * _SECOND
        b += words[at + 1] * _SECOND
        c += words[at + 2] * _SECOND
        d += words[at + 3] * _SECOND
        a = ((a << _UP) | (a >> _DOWN)) * _FIRST
        b = ((b << _UP) | (b >> _DOWN)) * _FIRST
        c = ((c << _UP) | (c >> _DOWN)) * _FIRST
        d = ((d << _UP) | (d >> _DOWN)) * _FIRST
    lanes[0], lanes[1], lanes[2], lanes[3] = a, b, c, d
