"""Files that are compressed as a whole: by gzip, bzip2 or compress (`.Z`), told by their first bytes, not their name.

What is written is packed as its input is, without a time or a name, so that the same content is the same file.
"""

import bz2
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import BinaryIO, cast

from levelmatch_core.images.byte_sink import Sink


class Packing(StrEnum):
    """How a file is compressed."""

    NONE = "none"
    GZIP = "gzip"
    BZIP2 = "bzip2"
    LZW = "compress"


_MAGIC = {b"\x1f\x8b": Packing.GZIP, b"BZ": Packing.BZIP2, b"\x1f\x9d": Packing.LZW}
_GZIP_LEVEL = 6
_BZIP2_LEVEL = 9

PACKING_FAULTS = (EOFError, zlib.error, gzip.BadGzipFile)
"""What unpacking a damaged file raises, besides an OSError without a number."""


def packing_of(file: BinaryIO) -> Packing:
    """Return how a file is compressed; its position is set to the start."""
    magic = file.read(2)
    file.seek(0)
    return _MAGIC.get(magic, Packing.NONE)


def streamed(file: BinaryIO) -> tuple[BinaryIO, int | None]:
    """Return a file's content, to be read once from its start, and its length where that is known beforehand."""
    packing = packing_of(file)
    if packing is Packing.GZIP:
        return cast(BinaryIO, gzip.GzipFile(fileobj=file)), None
    if packing is Packing.BZIP2:
        return cast(BinaryIO, bz2.BZ2File(file)), None
    stream, _ = unpacked(file)
    return stream, length_of(stream)


def unpacked(file: BinaryIO) -> tuple[BinaryIO, Packing]:
    """Return a file's content, to be read in any order, and how it is packed: itself where it is not."""
    packing = packing_of(file)
    if packing is Packing.NONE:
        return file, packing
    raw = file.read()
    if packing is Packing.GZIP:
        return io.BytesIO(gzip.decompress(raw)), packing
    if packing is Packing.BZIP2:
        return io.BytesIO(bz2.decompress(raw)), packing
    # here and no earlier: its kernels are compiled, and few files are packed so
    from levelmatch_core.images.storage.lzw import uncompress  # noqa: PLC0415

    return io.BytesIO(uncompress(raw)), packing


def length_of(stream: BinaryIO) -> int:
    """Return the length of a stream in bytes; its position is set to the start."""
    length = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    return length


@contextmanager
def packed(file: Sink, packing: Packing) -> Iterator[Sink]:
    """Give what takes a file's content and puts it, packed, into another sink."""
    if packing is Packing.NONE:
        yield file
    elif packing is Packing.GZIP:
        target = cast(BinaryIO, file)
        with gzip.GzipFile(filename="", mode="wb", fileobj=target, mtime=0, compresslevel=_GZIP_LEVEL) as out:
            yield out
    elif packing is Packing.BZIP2:
        with bz2.BZ2File(cast(BinaryIO, file), "wb", compresslevel=_BZIP2_LEVEL) as out:
            yield out
    else:
        from levelmatch_core.images.storage.lzw import compress  # noqa: PLC0415 - as in `unpacked`

        content = io.BytesIO()
        yield content
        file.write(compress(content.getvalue()))
