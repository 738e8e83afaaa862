"""Digests: of the kind that a digest is of, in pieces or at once, and what a checksum must see."""

import hashlib
import io
import secrets

import numpy as np
import pytest

from levelmatch_core.files.digests import CHUNK, digest_file, hasher_for


def checksum(content: bytes) -> str:
    hasher = hasher_for("0" * 16)
    digest_file(io.BytesIO(content), hasher)
    return hasher.hexdigest()


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


def test_several_digests_of_one_pass() -> None:
    content = secrets.token_bytes(2 * CHUNK + 17)
    hashers = [hasher_for("0" * digits) for digits in (16, 64)]
    digest_file(io.BytesIO(content), *hashers)
    assert [one.hexdigest() for one in hashers] == [checksum(content), hashlib.sha256(content).hexdigest()]


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
        assert len(hasher_for(digest).hexdigest()) == (16 if len(digest) == 16 else 64)
