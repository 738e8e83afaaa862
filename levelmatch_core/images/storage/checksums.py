"""DATASUM and CHECKSUM of an HDU, held against its bytes (FITS standard 4.0, section 4.4.2.7 and appendix J)."""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

import numpy as np

_CHUNK = 1 << 20
_ALL = 0xFFFFFFFF
_SUMS = re.compile(rb"(?P<name>DATASUM|CHECKSUM) *= *(?:'(?P<text>[^']*)'|(?P<number>\d+))")
_CARD = 80
_UNDEFINED = frozenset({b"", b"0" * 16})

Sums = dict[str, bytes]
"""The values of DATASUM and CHECKSUM, those that a header has."""


def ones_sum(data: bytes | memoryview, start: int = 0) -> int:
    """Return the 32-bit ones' complement sum of bytes, added to another one whose bytes came in whole words."""
    whole = len(data) // 4 * 4
    rest = int.from_bytes(bytes(data[whole:]).ljust(4, b"\0"), "big")
    total = start + rest + int(np.frombuffer(data[:whole], ">u4").sum(dtype=np.uint64))
    while total >> 32:
        total = (total & _ALL) + (total >> 32)
    return total


def sums_in(raw: bytes) -> Sums:
    """Return the sums that a raw header claims; what is empty claims nothing."""
    if b"DATASUM " not in raw and b"CHECKSUM=" not in raw:
        return {}
    found: Sums = {}
    for at in range(0, len(raw), _CARD):
        match = _SUMS.match(raw, at, at + _CARD)
        if match is not None:
            value = (match["number"] if match["text"] is None else match["text"]).strip()
            if value not in _UNDEFINED:
                found.setdefault(match["name"].decode("ascii"), value)
    return found


def complaint(raw: bytes, claimed: Sums, data: Iterable[bytes | memoryview]) -> str:
    """Return what is wrong with an HDU by the sums that it claims, '' if all is well.

    Parameters
    ----------
    raw
        Its header, whole blocks.
    claimed
        As :func:`sums_in` gives them.
    data
        Its data with their padding, in pieces of whole words.
    """
    total = 0
    for piece in data:
        total = ones_sum(piece, total)
    expected = claimed.get("DATASUM")
    if expected is not None and (not expected.isdigit() or int(expected) % _ALL != total % _ALL):
        return f"its data sum up to {total}, its DATASUM is {expected.decode('latin-1')}: they were changed or damaged"
    # all words of an HDU with its CHECKSUM sum up to -0, all bits set; +0 is the same number
    if "CHECKSUM" in claimed and ones_sum(raw, total) % _ALL:
        what = "header or data were" if expected is None else "its data are sound, its header was"
        return f"its CHECKSUM does not hold: {what} changed or damaged"
    return ""


def pieces(stream: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield `size` bytes of a stream, from where it stands; fewer where it ends before."""
    while size > 0:
        got = _exactly(stream.read, min(size, _CHUNK))
        if not got:
            return
        size -= len(got)
        yield got


def _exactly(read: Callable[[int], bytes], size: int) -> bytes:
    """Read `size` bytes, in as many parts as it takes: sums are of whole words."""
    got = read(size)
    while len(got) < size and (more := read(size - len(got))):
        got += more
    return got
