"""The `.Z` files of Unix's compress: Lempel-Ziv-Welch codes of 9 to 16 bits (T. A. Welch 1984, Computer 17, 8).

A file is the bytes 1F 9D, a byte of flags (the largest width of a code; 128 if code 256 empties the table), then codes,
their lowest bit first. The table gains an entry with each code but the first; when it outgrows a width, codes become
wider. Codes of one width fill whole groups of eight: where the width changes, and where the table is emptied, the rest
of the group is padding. So where each code lies depends on their number alone, and not on what they stand for.
"""

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.process.compilation import njit

_MAGIC = b"\x1f\x9d"
_HEAD = 3
_FIRST_BITS, _LAST_BITS = 9, 16
_WIDTH, _BLOCK_MODE = 0x1F, 0x80
_CLEAR = 256
_SLOTS = 1 << 18
"""Of the table in which strings are looked up: four for each code."""

Bytes = NDArray[np.uint8]
Codes = NDArray[np.int32]


def uncompress(packed: bytes) -> bytes:
    """Return the content of a `.Z` file.

    Raises
    ------
    OSError
        If it is none, or damaged, as for other ways of packing.
    """
    if len(packed) < _HEAD or not packed.startswith(_MAGIC):
        message = f"not a file of compress: it begins with {packed[:2]!r}"
        raise OSError(message)
    bits, block = packed[2] & _WIDTH, bool(packed[2] & _BLOCK_MODE)
    if not _FIRST_BITS <= bits <= _LAST_BITS:
        message = f"codes of {bits} bits, expected 9 to 16"
        raise OSError(message)
    stored = np.frombuffer(packed, np.uint8)[_HEAD:]
    codes = np.empty(8 * len(stored) // _FIRST_BITS, np.int32)
    codes = codes[: _unpack(stored, bits, block, codes)]
    size = _measure(codes, bits, block)
    if size < 0:
        message = "a code that was never made"
        raise OSError(message)
    content = np.empty(size, np.uint8)
    _expand(codes, bits, block, content)
    return content.tobytes()


def compress(content: bytes) -> bytes:
    """Return the `.Z` file of a content; the same content gives the same bytes. The table is filled once, and kept."""
    codes = np.empty(len(content), np.int32)
    codes = codes[: _encode(np.frombuffer(content, np.uint8), codes)]
    made = np.zeros(2 * len(codes) + 64, np.uint8)
    size = _pack(codes, made)
    return _MAGIC + bytes([_LAST_BITS | _BLOCK_MODE]) + made[:size].tobytes()


@njit(nogil=True, cache=True)
def _next_group(place: int, start: int, width: int) -> int:
    """Return where the group of eight codes that ends at or after a bit ends; groups are counted from `start`."""
    group = 8 * width
    return start + (place - start + group - 1) // group * group


@njit(nogil=True, cache=True)
def _unpack(stored: Bytes, last_bits: int, block: bool, codes: Codes) -> int:
    """Write all codes to `codes`; return their number."""
    first = 257 if block else 256
    free, width, place, start, count = first - 1, 9, 0, 0, 0
    while True:
        if free > (1 << width) - 1 and width < last_bits:
            place = start = _next_group(place, start, width)
            width += 1
        if place + width > 8 * len(stored):
            return count
        code = np.int64(0)
        for bit in range(width):
            at = place + bit
            code |= ((np.int64(stored[at >> 3]) >> (at & 7)) & 1) << bit
        place += width
        codes[count] = code
        count += 1
        free += 1
        if block and code == _CLEAR:
            place = start = _next_group(place, start, width)
            width, free = 9, first - 1


@njit(nogil=True, cache=True)
def _pack(codes: Codes, out: Bytes) -> int:
    """Write codes, none of which empties the table, as bits to `out`, which is 0; return how many bytes they take."""
    free, width, place, start = 256, 9, 0, 0
    for code in codes:
        if free > (1 << width) - 1 and width < 16:
            place = start = _next_group(place, start, width)
            width += 1
        for bit in range(width):
            at = place + bit
            out[at >> 3] |= np.uint8(((code >> bit) & 1) << (at & 7))
        place += width
        free += 1
    return (place + 7) // 8


@njit(nogil=True, cache=True)
def _measure(codes: Codes, last_bits: int, block: bool) -> int:
    """Return how many bytes the codes stand for, -1 where one is none that was made."""
    length = np.ones(1 << last_bits, np.int64)
    first = 257 if block else 256
    free, size, old = first, 0, -1
    for code in codes:
        if block and code == _CLEAR:
            free, old = first, -1
            continue
        if code > free or (old < 0 and code > 255) or (code == free and free >= 1 << last_bits):
            return -1
        if old >= 0 and free < 1 << last_bits:
            length[free] = length[old] + 1
            free += 1
        size += length[code]
        old = code
    return size


@njit(nogil=True, cache=True)
def _expand(codes: Codes, last_bits: int, block: bool, out: Bytes) -> None:
    """Write what the codes stand for: each entry is a piece of what was written before, by where it begins."""
    begin = np.zeros(1 << last_bits, np.int64)
    length = np.ones(1 << last_bits, np.int64)
    first = 257 if block else 256
    free, size, old = first, 0, -1
    for code in codes:
        if block and code == _CLEAR:
            free, old = first, -1
            continue
        if old >= 0 and free < 1 << last_bits:
            # the string before and the byte after it, which is the first that is written now
            begin[free], length[free] = size - length[old], length[old] + 1
            free += 1
        if code < 256:
            out[size] = code
            size += 1
        else:
            for at in range(begin[code], begin[code] + length[code]):
                out[size] = out[at]
                size += 1
        old = code


@njit(nogil=True, cache=True)
def _encode(content: Bytes, codes: Codes) -> int:
    """Write the codes of a content to `codes`; return their number."""
    if len(content) == 0:
        return 0
    keys = np.full(_SLOTS, -1, np.int64)
    values = np.zeros(_SLOTS, np.int64)
    free, count = 257, 0
    current = np.int64(content[0])
    for byte in content[1:]:
        key = (current << 8) | np.int64(byte)
        slot = (key * 2654435761) & (_SLOTS - 1)
        while keys[slot] >= 0 and keys[slot] != key:
            slot = (slot + 1) & (_SLOTS - 1)
        if keys[slot] == key:
            current = values[slot]
            continue
        codes[count] = current
        count += 1
        if free < 65536:
            keys[slot], values[slot] = key, free
            free += 1
        current = np.int64(byte)
    codes[count] = current
    return count + 1
