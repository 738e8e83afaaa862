"""Files packed by gzip, bzip2 and compress: read as what they hold, written as they came, refused where damaged."""

import bz2
import gzip
import io
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from levelmatch_core.errors import NotFitsError
from levelmatch_core.images.fits_headers import read_headers
from levelmatch_core.images.inventory import take_inventory
from levelmatch_core.images.storage.lzw import compress, uncompress
from levelmatch_core.images.storage.packing import Packing, packed, packing_of, streamed, unpacked
from levelmatch_core.settings import MatchSettings
from tests.images.conftest import MakeFile
from tests.images.pixels import read_pixels

PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".Z": compress,
    "": bytes,
}


class BitsOut:
    """Codes as bits, their lowest first, in groups of eight of one width, as a plain reader of the format has it."""

    def __init__(self, last: int) -> None:
        self.bits: list[int] = []
        self.start, self.width, self.last, self.free = 0, 9, last, 256

    def put(self, code: int) -> None:
        if self.free > 2**self.width - 1 and self.width < self.last:
            self.pad()
            self.width += 1
        self.bits += [(code >> bit) & 1 for bit in range(self.width)]
        self.free += 1

    def pad(self) -> None:
        group = 8 * self.width
        self.bits += [0] * (-(len(self.bits) - self.start) % group)
        self.start = len(self.bits)

    def clear(self) -> None:
        self.put(256)
        self.pad()
        self.width, self.free = 9, 256


def plain_compress(content: bytes, last: int, every: int) -> bytes:
    """Pack as compress does, by dictionaries, the table emptied after each `every` codes."""
    out, table, current, free, count = BitsOut(last), {bytes([n]): n for n in range(256)}, b"", 257, 0
    for at in range(len(content)):
        longer = current + content[at : at + 1]
        if longer in table:
            current = longer
            continue
        out.put(table[current])
        count += 1
        if free < 2**last:
            table[longer] = free
            free += 1
        current = content[at : at + 1]
        if count % every == 0:
            out.clear()
            table, free = {bytes([n]): n for n in range(256)}, 257
    if current:
        out.put(table[current])
    bits = out.bits + [0] * (-len(out.bits) % 8)
    return b"\x1f\x9d" + bytes([last | 128]) + np.packbits(np.array(bits, np.uint8), bitorder="little").tobytes()


@settings(max_examples=60, deadline=None)
@given(
    content=st.binary(max_size=4000) | st.text("ab", max_size=4000).map(str.encode),
    last=st.integers(9, 16),
    every=st.sampled_from((7, 300, 10**9)),
)
def test_whatever_compress_wrote_is_read(content: bytes, last: int, every: int) -> None:
    """Widths of all kinds, tables that are full and that are emptied, by an independent packer."""
    assert uncompress(plain_compress(content, last, every)) == content
    assert uncompress(compress(content)) == content


@pytest.mark.skipif(shutil.which("gzip") is None, reason="gzip reads .Z files")
@pytest.mark.parametrize("kinds", [2, 200, 256])
def test_another_program_reads_what_is_written(kinds: int) -> None:
    """Long enough to fill the table."""
    content = np.random.default_rng(kinds).integers(0, kinds, 600_000, np.uint8).tobytes()
    made = subprocess.run(["gzip", "-dc"], input=compress(content), capture_output=True, check=True)
    assert made.stdout == content


@pytest.mark.parametrize(
    "raw", [b"", b"\x1f\x9d", b"\x1f\x9d\x88abc", b"\x1f\x9d\x91abc", b"\x1f\x8b\x90", b"\x1f\x9d\x90\xff\xff\xff\xff"]
)
def test_damaged_codes_are_refused(raw: bytes) -> None:
    with pytest.raises(OSError, match=r"compress|code"):
        uncompress(raw)


@pytest.mark.parametrize("ending", PACK)
def test_content_comes_back_both_ways(ending: str) -> None:
    content = np.random.default_rng(1).integers(0, 9, 50_000, np.uint8).tobytes()
    raw = PACK[ending](content)
    stream, length = streamed(io.BytesIO(raw))
    assert stream.read() == content
    assert length in {None, len(content)}
    again, packing = unpacked(io.BytesIO(raw))
    assert again.read() == content
    made = io.BytesIO()
    with packed(made, packing) as out:
        out.write(content[:100])
        out.write(memoryview(content)[100:])
    made.seek(0)
    assert packing_of(made) is packing
    assert unpacked(made)[0].read() == content


@pytest.mark.parametrize("ending", PACK)
def test_images_are_read_however_they_are_packed(make_generic: MakeFile, tmp_path: Path, ending: str) -> None:
    path = make_generic("a.fits")
    data = fits.getdata(path)
    path.rename(tmp_path / "kept")
    (tmp_path / f"a.fit{ending}").write_bytes(PACK[ending]((tmp_path / "kept").read_bytes()))
    found = take_inventory([tmp_path], MatchSettings())
    ((exposure,),) = (field.exposures for field in found.fields)
    assert exposure.name == f"a.fit{ending}"
    np.testing.assert_array_equal(read_pixels(exposure).data, data)


@pytest.mark.parametrize(("ending", "name"), [(".gz", "gzip"), (".bz2", "bzip2"), (".Z", "compress")])
@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_damaged_files_are_named(make_generic: MakeFile, ending: str, name: str, damage: str) -> None:
    path = make_generic("a.fits")
    raw = bytearray(PACK[ending](path.read_bytes()))
    if damage == "cut":
        raw = raw[: len(raw) // 2]
    else:
        raw[len(raw) // 2 :] = bytes(255 for _ in raw[len(raw) // 2 :])
    path.write_bytes(raw)
    with pytest.raises(NotFitsError, match=rf"a\.fits: truncated.*(damaged {name} file|fewer)"):
        read_headers(path)


def test_what_is_not_packed_is_itself() -> None:
    file = io.BytesIO(b"SIMPLE  =")
    assert unpacked(file) == (file, Packing.NONE)
