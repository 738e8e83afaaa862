"""The checksum: its published values, bytes in any pieces, and what it must see."""

import numpy as np
import pytest

from levelmatch_core.files.xxh64 import Xxh64, hasher_for

WHOLE = (1 << 64) - 1
PRIMES = (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F)


def checksum(*pieces: bytes) -> str:
    hasher = Xxh64()
    for piece in pieces:
        hasher.update(piece)
    return hasher.hexdigest()


def turned(word: int, by: int) -> int:
    return ((word << by) | (word >> (64 - by))) & WHOLE


def plain(content: bytes) -> str:
    """The checksum of whole stripes in plain whole numbers, as the specification has it, step by step."""
    one, two = PRIMES
    lanes = [one + two & WHOLE, two, 0, -one & WHOLE]
    for at in range(0, len(content), 8):
        lane = at // 8 % 4
        word = int.from_bytes(content[at : at + 8], "little")
        lanes[lane] = turned(lanes[lane] + word * two & WHOLE, 31) * one & WHOLE
    found = sum(map(turned, lanes, (1, 7, 12, 18))) & WHOLE
    for lane in lanes:
        found = (found ^ turned(lane * two & WHOLE, 31) * one & WHOLE) * one + 0x85EBCA77C2B2AE63 & WHOLE
    found = found + len(content) & WHOLE
    for shift, prime in ((33, two), (29, 0x165667B19E3779F9)):
        found = (found ^ found >> shift) * prime & WHOLE
    return f"{found ^ found >> 32:016x}"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        # as published with the programs and packages of xxHash
        (b"", "ef46db3751d8e999"),
        (b"a", "d24ec4f1a98c6e5b"),
        (b"abc", "44bc2cf5ad770999"),
        (b"Nobody inspects the spammish repetition", "fbcea83c8a378bf1"),
    ],
)
def test_published_values(content: bytes, expected: str) -> None:
    assert checksum(content) == expected


def test_compiled_stripes_are_those_of_the_specification() -> None:
    content = np.random.default_rng(1).bytes(32 * 1001)
    assert checksum(content) == plain(content)


def test_the_pieces_do_not_matter() -> None:
    content = np.random.default_rng(2).bytes(100_003)
    whole = checksum(content)
    for seed in range(50):
        draw, at, pieces = np.random.default_rng(seed), 0, []
        while at < len(content):
            size = int(draw.choice([0, 1, 3, 8, 31, 32, 33, 1000, 70_000]))
            pieces.append(content[at : at + size])
            at += size
        assert checksum(*pieces) == whole


@pytest.mark.parametrize("flips", [((0, 0x80),), ((7, 0x80), (39, 0x80)), ((3, 0x80), (35, 0x80)), ((99_999, 1),)])
def test_turned_bits_are_seen(flips: tuple[tuple[int, int], ...]) -> None:
    # signs of two numbers in one lane, too, which sums and products modulo 2^64 alone do not see
    content = bytearray(np.random.default_rng(3).bytes(100_000))
    before = checksum(bytes(content))
    for at, bits in flips:
        content[at] ^= bits
    assert checksum(bytes(content)) != before


def test_a_digest_tells_what_made_it() -> None:
    for digest in (checksum(b"a"), "0" * 64, ""):
        assert isinstance(hasher_for(digest), Xxh64) == (len(digest) == 16)
