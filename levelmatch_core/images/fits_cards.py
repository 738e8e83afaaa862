"""FITS at the level of bytes: where the HDUs of a file lie, headers changed card by card, checksums.

astropy rewrites what it parses; here every card and every byte that is not meant to change stays as it came.
"""

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from levelmatch_core.errors import NotFitsError
from levelmatch_core.files.regular import refuse_irregular
from levelmatch_core.images.byte_sink import Sink
from levelmatch_core.images.fits_headers import BLOCK, PLANE_CARD, plain_cards, quiet, scan
from levelmatch_core.images.planes import image_in, is_cube
from levelmatch_core.images.storage.checksums import complaint, ones_sum, pieces, sums_in
from levelmatch_core.images.storage.one_pass import unchanged
from levelmatch_core.images.storage.packing import PACKING_FAULTS, Packing, unpacked

_CARD = 80
_NAME = 9
"""Bytes of a card that hold its keyword and the equals sign."""
_END = b"END".ljust(_CARD)
_GZIP = b"\x1f\x8b\x08"
_CHUNK = 1 << 18
"""Bytes that are copied at a time: they stay in the processor's cache."""

# Of a compressed image (FITS standard 4.0, section 10.1). What the image was before, ZTENSION or ZSIMPLE and the like,
# is not among them; ZHECKSUM and ZDATASUM, which hold for its former pixels, are, so that they go.
_STRUCTURE = re.compile(
    r"XTENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|TFIELDS|(TTYPE|TFORM|TUNIT|TDIM)\d+|THEAP|ZIMAGE|ZBITPIX|ZNAXIS\d*|"
    r"ZTILE\d+|ZCMPTYPE|ZNAME\d+|ZVAL\d+|ZSCALE|ZZERO|ZBLANK|ZQUANTIZ|ZDITHER0|ZMASKCMP|ZHECKSUM|ZDATASUM"
)

CardValue = str | int | float | bool


class RawHeader:
    """A header as its 80-byte cards; those that are not touched stay as they are."""

    def __init__(self, raw: bytes) -> None:
        cards = [raw[at : at + _CARD] for at in range(0, len(raw), _CARD)]
        self._cards = cards[: cards.index(_END)]
        self._places: dict[bytes, int] | None = None

    def __contains__(self, keyword: str) -> bool:
        return self._find(keyword) is not None

    def parsed(self) -> fits.Header:
        """Return the header as astropy reads it."""
        with quiet():
            return fits.Header.fromstring(self.to_bytes())

    def get(self, keyword: str, default: CardValue = "") -> CardValue:
        """Return a card's value, or the default where there is none."""
        at = self._find(keyword)
        if at is None:
            return default
        plain = plain_cards([self._cards[at]])
        value: CardValue = plain[keyword] if plain is not None else self.parsed()[keyword]
        return value

    def set(self, keyword: str, value: CardValue, comment: str = "") -> None:
        """Put a card where the keyword stands, or at the end."""
        new = _format(keyword, value, comment)
        at = self._find(keyword)
        if at is not None:
            after = self._after(at)
            self._cards[at:after] = new
            if after - at != len(new):
                self._places = None
            return
        if self._places is not None:
            self._places[new[0][:_NAME]] = len(self._cards)
        self._cards.extend(new)

    def structure(self) -> list[bytes]:
        """Return the cards of a compressed image that say how its pixels are stored."""
        return [card for card in self._cards if _STRUCTURE.fullmatch(_keyword(card))]

    def replace_structure(self, structure: list[bytes]) -> None:
        """Put other cards for those that say how a compressed image's pixels are stored."""
        self._cards = structure + [card for card in self._cards if not _STRUCTURE.fullmatch(_keyword(card))]
        self._places = None

    def remove(self, keyword: str) -> None:
        """Remove the card of a keyword, where there is one."""
        at = self._find(keyword)
        if at is not None:
            del self._cards[at : self._after(at)]
            self._places = None

    def take(self, keyword: str) -> bytes:
        """Remove the card of a keyword and return it with its continuation, as it stood; b"" if there is none."""
        at = self._find(keyword)
        if at is None:
            return b""
        taken = b"".join(self._cards[at : self._after(at)])
        self.remove(keyword)
        return taken

    def put_back(self, cards: bytes) -> None:
        """Put cards that :meth:`take` gave at the end."""
        self._cards += _cut(cards)
        self._places = None

    def add_history(self, text: str) -> None:
        """Add a HISTORY record, of as many cards as it takes, at the end."""
        self._places = None
        with quiet():
            lines = fits.Header([("HISTORY", as_ascii(text))]).tostring(endcard=False, padding=False)
        self._cards += _cut(lines.encode("ascii"))

    def to_bytes(self) -> bytes:
        """Return the header with END, padded to whole blocks."""
        raw = b"".join([*self._cards, _END])
        return raw.ljust(_padded(len(raw)))

    def _find(self, keyword: str) -> int | None:
        if self._places is None:
            self._places = {}
            for at, card in enumerate(self._cards):
                self._places.setdefault(card[:_NAME], at)
        return self._places.get(keyword.encode("ascii").ljust(8) + b"=")

    def _after(self, at: int) -> int:
        """Return the index after a card and the CONTINUE cards that belong to it."""
        at += 1
        while at < len(self._cards) and self._cards[at].startswith(b"CONTINUE"):
            at += 1
        return at


@dataclass(frozen=True)
class Span:
    """Where an HDU lies in its file, in bytes."""

    header: int
    data: int
    end: int


class RawFile:
    """A FITS file, unpacked where it is compressed, that gives out the bytes of its HDUs. Made by :func:`open_raw`."""

    def __init__(
        self, file: BinaryIO, spans: tuple[Span, ...], packing: Packing = Packing.NONE, plane: int | None = None
    ) -> None:
        self._file = file
        self._plane = plane
        self.spans = spans
        self.packing = packing

    def header(self, index: int) -> RawHeader:
        """Return the header of an HDU."""
        span = self.spans[index]
        return RawHeader(self._read(span.header, span.data))

    def data(self, index: int) -> bytes:
        """Return the data of an HDU with its padding."""
        span = self.spans[index]
        return self._read(span.data, span.end)

    def sums_hold(self, index: int) -> bool:
        """Return whether an HDU is what its DATASUM and CHECKSUM claim, or claims nothing."""
        span = self.spans[index]
        raw = self._read(span.header, span.data)
        claimed = sums_in(raw)
        return not claimed or not complaint(raw, claimed, pieces(self._file, span.end - span.data))

    def image(self, index: int) -> NDArray[np.generic]:
        """Return a copy of an image's values as they are stored: not scaled, but decompressed.

        Axes of length 1 beside rows and columns are left out; :func:`stored_image` does without them. Of a cube it is
        the plane that was named at the opening, or by the card of a corrected one.
        """
        header = self.header(index)
        return image_in(self._image(index, header), self._plane_in(header))

    def with_image(self, index: int, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """Return what is stored in an HDU with other values in place of its image: of a cube the other planes stay."""
        header = self.header(index)
        plane = self._plane_in(header)
        if plane is None:
            return values
        stored = self._image(index, header)
        if not is_cube(stored.shape):
            return values
        image_in(stored, plane)[:] = values
        return stored

    def _plane_in(self, header: RawHeader) -> int | None:
        return int(header.get(PLANE_CARD)) if PLANE_CARD in header and self._plane is None else self._plane

    def _image(self, index: int, header: RawHeader) -> NDArray[np.generic]:
        if "ZIMAGE" in header:
            return _decompressed(header, self.data(index))
        axes = [int(header.get(f"NAXIS{axis}")) for axis in range(int(header.get("NAXIS")), 0, -1)]
        stored = np.empty(axes, STORED[int(header.get("BITPIX"))])
        self._file.seek(self.spans[index].data)
        if stored.size:
            self._file.readinto(stored.reshape(-1).view(np.uint8).data)  # type: ignore[attr-defined]
        return stored

    def copy(self, out: Sink, start: int, end: int | None) -> None:
        """Copy bytes from `start` to `end` (or the file's end) to `out`."""
        self._file.seek(start)
        buffer = np.empty(_CHUNK, np.uint8).data
        left = _CHUNK if end is None else end - start
        while left > 0:
            got = self._file.readinto(buffer[:left])  # type: ignore[attr-defined]
            if not got:
                return
            out.write(buffer[:got])
            left = _CHUNK if end is None else left - got

    def _read(self, start: int, end: int) -> bytes:
        self._file.seek(start)
        return self._file.read(end - start)


STORED = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
"""BITPIX -> numpy's name of the stored type (FITS standard 4.0, table 8)."""


@contextmanager
def open_raw(path: Path, shown: str, digest: str | None = None, plane: int | None = None) -> Iterator[RawFile]:
    """Open a file for reading.

    Parameters
    ----------
    path
        The file.
    shown
        What to call it in messages.
    digest
        The sha256 or xxh64 (hex) that its bytes must have, from the opening to the end of the block; None for any.
    plane
        Which plane of its cubes, from 1, is their image; None for what their cards say.

    Raises
    ------
    NotFitsError
        If it cannot be read as FITS.
    ChangedInputError
        If its bytes are not those of the digest, at the end of the block.
    """
    refuse_irregular(path, NotFitsError, shown)
    with path.open("rb") as file, nullcontext() if digest is None else unchanged(file, digest, shown):
        try:
            stream, packing = unpacked(file)
            spans = _spans(stream, shown)
        except (*PACKING_FAULTS, ValueError, OSError, fits.VerifyError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # the disk's fault, not the file's
                raise
            message = f"{shown}: damaged since it was read ({error}); fetch it again"
            raise NotFitsError(message) from error
        yield RawFile(stream, spans, packing, plane)


def _spans(stream: BinaryIO, shown: str) -> tuple[Span, ...]:
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    return tuple(Span(hdu.start, hdu.data, hdu.end) for hdu in scan(stream, shown, size))


def stored_image(header: RawHeader, values: NDArray[np.generic]) -> memoryview:
    """Return the bytes of an image's data, without padding; the header is changed to what they are.

    An image that was compressed is compressed again, floats without loss (GZIP_2), integers as they were.
    """
    bitpix = next(bits for bits, name in STORED.items() if np.dtype(name) == values.dtype.newbyteorder(">"))
    if "ZIMAGE" in header:
        return memoryview(_compressed(header, values))
    if header.get("BITPIX") != bitpix:
        header.set("BITPIX", bitpix, "array data type")
    stored = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder(">"))
    return stored.reshape(-1).view(np.uint8).data if stored.size else memoryview(b"")


def _decompressed(header: RawHeader, data: bytes) -> NDArray[np.generic]:
    primary = fits.PrimaryHDU().header.tostring().encode("ascii")
    with (
        quiet(),
        fits.open(io.BytesIO(primary + header.to_bytes() + data), memmap=False, do_not_scale_image_data=True) as hdus,
    ):
        return np.array(hdus[1].data)


def _compressed(header: RawHeader, values: NDArray[np.generic]) -> bytes:
    cards = header.parsed()
    axes = range(int(cards["ZNAXIS"]), 0, -1)
    tile = tuple(int(cards[f"ZTILE{axis}"]) for axis in axes) if "ZTILE1" in cards else None
    method = "GZIP_2" if values.dtype.kind == "f" else str(cards["ZCMPTYPE"])
    native = values.astype(values.dtype.newbyteorder("=")).reshape([int(cards[f"ZNAXIS{axis}"]) for axis in axes])
    buffer = io.BytesIO()
    with quiet():
        # quantize_level 0: floats are stored as they are
        hdu = fits.CompImageHDU(native, compression_type=method, tile_shape=tile, quantize_level=0)
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(buffer)
    made = RawFile(buffer, _spans(buffer, "compressed image"))
    header.replace_structure(made.header(1).structure())
    return _without_times(made.header(1), made.data(1))


def _without_times(header: RawHeader, data: bytes) -> bytes:
    """Return the data of a compressed image with no time in the headers of its gzip streams (RFC 1952, MTIME)."""
    content = bytearray(data)
    row, rows = int(header.get("NAXIS1")), int(header.get("NAXIS2"))
    heap = int(header.get("THEAP", row * rows))
    column = 0
    for number in range(1, int(header.get("TFIELDS")) + 1):
        form = str(header.get(f"TFORM{number}"))
        kind = np.dtype(">u8" if "Q" in form else ">u4")
        if not {"P", "Q"} & set(form):  # scale and zero of a tile, doubles
            column += 8
            continue
        for at in range(column, row * rows, row):
            length, offset = np.frombuffer(data, kind, 2, at).tolist()
            if length > 8 and content.startswith(_GZIP, heap + offset):
                content[heap + offset + 4 : heap + offset + 8] = bytes(4)
        column += 2 * kind.itemsize
    return bytes(content)


def renew_checksums(header: RawHeader, data: Callable[[], bytes | memoryview]) -> None:
    """Renew DATASUM and CHECKSUM, where the header has them (FITS standard 4.0, section 4.4.2.7 and appendix J).

    Parameters
    ----------
    header
        Is changed.
    data
        Gives the HDU's data, padded or not; called only where it is wanted.
    """
    if "DATASUM" not in header and "CHECKSUM" not in header:
        return
    datasum = ones_sum(data())
    if "DATASUM" in header:
        header.set("DATASUM", str(datasum), "data unit checksum")
    if "CHECKSUM" in header:
        header.set("CHECKSUM", "0" * 16, "HDU checksum")
        header.set("CHECKSUM", _encoded(ones_sum(header.to_bytes(), datasum)), "HDU checksum")


def _encoded(checksum: int) -> str:
    """Return the ASCII form of a checksum's complement (FITS standard 4.0, appendix J.2)."""
    complement = 0xFFFFFFFF - checksum
    columns = []
    for shift in (24, 16, 8, 0):
        byte = (complement >> shift) & 0xFF
        four = [byte // 4 + 48] * 4
        four[0] += byte % 4
        # no character may be punctuation: pairs are moved apart until none is
        while any(58 <= c <= 64 or 91 <= c <= 96 for c in four):
            for first in (0, 2):
                if any(58 <= c <= 64 or 91 <= c <= 96 for c in four[first : first + 2]):
                    four[first] += 1
                    four[first + 1] -= 1
        columns.append(four)
    text = "".join(chr(columns[byte][repeat]) for repeat in range(4) for byte in range(4))
    return text[-1] + text[:-1]


def _keyword(card: bytes) -> str:
    return card[:8].rstrip().decode("latin-1")


@lru_cache(maxsize=4096, typed=True)
def _format(keyword: str, value: CardValue, comment: str) -> tuple[bytes, ...]:
    plain = as_ascii(value) if isinstance(value, str) else value
    with quiet():
        image = str(fits.Card(keyword, plain, as_ascii(comment)))
    return tuple(_cut(image.encode("ascii")))


def _cut(raw: bytes) -> list[bytes]:
    raw = raw.ljust(-(-len(raw) // _CARD) * _CARD)
    return [raw[at : at + _CARD] for at in range(0, len(raw), _CARD)]


def as_ascii(text: str) -> str:
    """Return text as FITS allows it in a header: printable ASCII, the rest escaped."""
    printable = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return printable.encode("ascii", "backslashreplace").decode("ascii")


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
