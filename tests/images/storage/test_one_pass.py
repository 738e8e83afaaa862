"""Ranges of a file from one pass, held against a digest of either kind."""

import hashlib
import io

import numpy as np
import pytest

from levelmatch_core.errors import ChangedInputError
from levelmatch_core.files.xxh64 import CHUNK, Xxh64
from levelmatch_core.images.storage.one_pass import read_ranges, read_whole, unchanged

CONTENT = np.random.default_rng(0).bytes(2 * CHUNK + 12_345)
RANGES = [(CHUNK - 7, CHUNK + 9), (0, 2880), (2880, 2880), (CHUNK + 9, 2 * CHUNK + 1), (len(CONTENT) - 5, len(CONTENT))]


def digest(kind: str, content: bytes = CONTENT) -> str:
    hasher = Xxh64() if kind == "xxh64" else hashlib.new(kind)
    hasher.update(content)
    return hasher.hexdigest()


@pytest.mark.parametrize("kind", ["sha256", "xxh64"])
def test_ranges_in_any_order_are_those_of_the_file(kind: str) -> None:
    found = read_ranges(io.BytesIO(CONTENT), RANGES, digest(kind), "a.fits")
    assert [bytes(one) for one in found] == [CONTENT[start:end] for start, end in RANGES]
    assert not any(one.readonly for one in found)
    assert read_whole(io.BytesIO(CONTENT), digest(kind), "a.fits") == CONTENT


@pytest.mark.parametrize("kind", ["sha256", "xxh64"])
@pytest.mark.parametrize("place", [0, CHUNK, CHUNK + 10, len(CONTENT) - 1])
def test_a_bit_anywhere_is_seen(kind: str, place: int) -> None:
    other = bytearray(CONTENT)
    other[place] ^= 0x80
    with pytest.raises(ChangedInputError, match=r"a\.fits: changed while it was read"):
        read_ranges(io.BytesIO(other), RANGES, digest(kind), "a.fits")
    with pytest.raises(ChangedInputError):
        read_whole(io.BytesIO(other), digest(kind), "a.fits")


@pytest.mark.parametrize("kind", ["sha256", "xxh64"])
@pytest.mark.parametrize("size", [0, 5, CHUNK + 5, len(CONTENT) - 1, len(CONTENT) + 1])
def test_a_file_that_shrank_or_grew_is_seen(kind: str, size: int) -> None:
    other = (CONTENT + b"x")[:size]
    for ranges in (RANGES, ()):
        with pytest.raises(ChangedInputError):
            read_ranges(io.BytesIO(other), ranges, digest(kind), "a.fits")


@pytest.mark.parametrize("kind", ["sha256", "xxh64"])
def test_a_file_must_stay_while_a_block_reads_it(kind: str, tmp_path) -> None:
    path = tmp_path / "a.fits"
    path.write_bytes(CONTENT)
    with path.open("rb") as file, unchanged(file, digest(kind), "a.fits"):
        assert file.read(10) == CONTENT[:10]
    with (
        pytest.raises(ChangedInputError),
        path.open("rb") as file,
        unchanged(file, digest(kind), "a.fits"),
    ):
        path.write_bytes(CONTENT[:-1] + b"x" if CONTENT[-1:] != b"x" else CONTENT[:-1] + b"y")
