"""The headers of a FITS file, with every HDU's claim about its size held against the file before anything is read.

astropy opens a truncated file with a warning at most, and believes whatever size a header claims; here a file that is
cut short, damaged or absurd is refused while only its headers are in memory.
"""

import math
import re
import threading
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from astropy import log
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import NoConvergence, WcsError

from levelmatch_core.errors import NoImageError, NotFitsError
from levelmatch_core.images.planes import is_cube, plane_axes_of, plane_of
from levelmatch_core.images.storage.checksums import Sums, complaint, pieces, sums_in
from levelmatch_core.images.storage.packing import PACKING_FAULTS, packing_of, streamed
from levelmatch_core.process.log_context import Without

BLOCK = 2880
"""Bytes of a FITS block (FITS standard 4.0, section 3.1)."""

MAX_PIXELS = 2**30
"""Most pixels of an image: twice the largest mosaic cameras, and 4 GB in float32. What claims more is damaged."""

_MAX_HEADER_BLOCKS = 20_000
"""Most blocks of one header (720,000 cards): what goes on longer has lost its END card."""

_BITPIX = frozenset({8, 16, 32, 64, -32, -64})
_MAX_FIELDS = 999
"""Most columns of a table (FITS standard, section 7.3.1); astropy counts up to whatever is claimed."""

_CHUNK = 1 << 20
_CARD = 80
_KEYWORD = 8

MATCHED_CARD = "LVLSTAT"
"""The card by which a file says that it was matched before."""
PLANE_CARD = "LVLPLANE"
"""The card by which a corrected cube says which of its planes, from 1, was matched."""

_STRUCTURE = re.compile(
    rb"(?:SIMPLE|XTENSION|BITPIX|Z?NAXIS\d{0,3}|[PG]COUNT|GROUPS|TFIELDS|EXTNAME|EXTVER|ZIMAGE|ZTILE\d{1,3}|"
    + MATCHED_CARD.encode()
    + rb") *="
)
_STARTS = frozenset(b"SI XT BI NA ZN PC GC GR TF EX ZI ZT".split()) | {MATCHED_CARD[:2].encode()}
"""With which such a card begins: most others are told by that."""

_PLAIN = re.compile(
    rb"([A-Z0-9_-]{1,8}) *= +(?:([TF])|([+-]?\d{1,18})|([+-]?\d{1,25}(?:\.\d{0,25})?(?:E[+-]?\d{1,3})?)|'([ -%(-~]*)')"
    rb" *(?:/[ -~]*)?"
)
"""A card in the standard's form (FITS 4.0, section 4.2): keyword; logical, integer, real or string value."""

_END = b"END     "

FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    NoConvergence,
    RuntimeError,
    TypeError,
    ValueError,
    WcsError,
    fits.VerifyError,
    zlib.error,
)
"""What astropy raises on cards of the wrong type, out of range or at odds with each other; only ever caught around
calls of astropy alone, where they mean a damaged file."""


_NO_SIP_NOTE = Without("Inconsistent SIP distortion")
"""Drops the fifteen lines that astropy logs of each SIP header whose CTYPE lacks -SIP."""


class _Quiet:
    """Ignores warnings in a block of code, in any number of threads at once.

    `warnings.catch_warnings` restores what it found: two threads that overlap would leave the filters of the first in
    place for ever. Here the first thread in sets the filters and the last one out restores them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._catcher = warnings.catch_warnings()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if self._inside == 0:
                self._catcher = warnings.catch_warnings()
                self._catcher.__enter__()
                for category in (AstropyWarning, RuntimeWarning):
                    warnings.simplefilter("ignore", category)
                warnings.filterwarnings("ignore", module=r"(asdf|gwcs)\b")  # versions of packages, mostly
                log.addFilter(_NO_SIP_NOTE)
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    log.removeFilter(_NO_SIP_NOTE)
                    self._catcher.__exit__(None, None, None)


quiet = _Quiet()
"""Ignore what astropy has to say on cards that are slightly off the standard: levelmatch checks what it uses."""


class Cards(Protocol):
    """What of a header is looked up by those who only want to know a value."""

    def get(self, keyword: str, default: Any = None, /) -> Any:  # noqa: ANN401 - as astropy's headers have it
        """Return the value of a card, or the default where there is none."""
        ...


@dataclass(frozen=True)
class Hdu:
    """One HDU, without its data."""

    index: int
    raw: bytes
    """The header's bytes, whole blocks."""
    name: str
    """EXTNAME, upper case; '' where there is none."""
    version: int
    """EXTVER, 1 where there is none."""
    shape: tuple[int, ...] | None
    """Shape of its image in numpy's order, uncompressed; None for tables and HDUs without data."""
    matched: str | None = None
    """The value of `MATCHED_CARD`, if it has that card."""
    bitpix: int = 8
    """Type of its stored values (FITS standard 4.0, table 8)."""
    compressed: bool = False
    """Whether it is a compressed image, stored as a table."""
    start: int = 0
    """Where its header begins in the file, bytes (unpacked where that is compressed)."""
    end: int = 0
    """Where its data end, with their padding."""
    chosen: int | None = None
    """Which plane of a cube is its image, from 1; None for none, or for what `PLANE_CARD` says."""
    complaint: str = ""
    """What is wrong by its DATASUM or CHECKSUM; '' if nothing is, or they were not looked at."""

    @property
    def data(self) -> int:
        """Where its data begin, bytes."""
        return self.start + len(self.raw)

    @property
    def plane(self) -> tuple[int, int] | None:
        """Rows and columns of its image, without further axes of length 1; None where it is a cube or no image.

        Of a cube of which one plane is chosen it is the size of that.
        """
        if self.shape is None:
            return None
        plane = plane_of(self.shape)
        if plane is None and self.cube_plane is not None:
            return self.shape[-2], self.shape[-1]
        return plane

    @property
    def cube_plane(self) -> int | None:
        """The plane of a cube that is its image, from 1; None where it is none, or none is chosen."""
        if self.shape is None or not is_cube(self.shape):
            return None
        chosen = self.chosen
        if chosen is None and self.has(PLANE_CARD):
            chosen = int(number_of(self.get(PLANE_CARD)) or 0)
        return chosen if chosen is not None and 1 <= chosen <= math.prod(self.shape[:-2]) else None

    @property
    def plane_axes(self) -> tuple[int, int]:
        """Numbers, from 1, of the axes along the columns and rows of its image."""
        return plane_axes_of(self.shape or ()) or (1, 2)

    @cached_property
    def header(self) -> fits.Header:
        """The header, taken apart when it is first asked for: most HDUs' never are."""
        with quiet():
            return fits.Header.fromstring(self.raw)

    def has(self, card: str) -> bool:
        """Return whether the header has a card, without taking it apart."""
        return f"{card:8}=" in self._places

    def get(self, keyword: str, default: Any = None) -> Any:  # noqa: ANN401 - as astropy's headers have it
        """Return what `header.get` does; of cards that are written as the standard has them without taking it apart."""
        if len(keyword) > _KEYWORD and self._usual:  # there is no card of such a name
            return default
        if self._usual and keyword.isupper():
            at = self._places.get(f"{keyword:8}=")
            if at is None:  # as most that are asked for
                return default
            found = plain_cards([self.raw[at : at + _CARD]])
            if found is not None:
                return found.get(keyword, default)
        return self.header.get(keyword, default)

    @cached_property
    def _usual(self) -> bool:
        """Whether all keywords are of eight characters and upper case at most: astropy takes others, too."""
        keywords = "".join(start[:_KEYWORD] for start in self._places)
        return b"HIERARCH" not in self.raw and keywords == keywords.upper()

    @cached_property
    def _places(self) -> dict[str, int]:
        """Where the first card of each keyword begins: forty of them are asked for."""
        text = self.raw.decode("latin-1")
        return {text[at : at + _KEYWORD + 1]: at for at in range(len(text) - _CARD, -1, -_CARD)}


def read_headers(path: Path, shown: str | None = None, *, checksums: bool = False) -> tuple[Hdu, ...]:
    """Return all HDUs of a file, packed or not, after a check that the file holds all that they claim.

    Parameters
    ----------
    path
        The file; it is read only, and of its data nothing is kept.
    shown
        What to call it in messages; its name if None.
    checksums
        Whether to hold DATASUM and CHECKSUM against the bytes, where there are such cards; see `Hdu.complaint`.

    Raises
    ------
    NotFitsError
        If it is not FITS, truncated or damaged.
    NoImageError
        If an HDU claims more than `MAX_PIXELS` pixels.
    """
    shown = shown or path.name
    with path.open("rb") as file:
        packing = packing_of(file)
        try:
            stream, size = streamed(file)
            found = scan(stream, shown, size, checksums=checksums)
            while size is None and stream.read(_CHUNK):  # its own checksum comes at the end
                pass
        except PACKING_FAULTS as error:
            fault: Exception = error
        except OSError as error:
            if error.errno is not None:  # the disk's fault, not the file's
                raise
            fault = error
        else:
            return found
    message = f"{shown}: truncated or damaged {packing} file ({fault}); fetch it again"
    raise NotFitsError(message) from fault


def scan(stream: BinaryIO, shown: str, size: int | None, *, checksums: bool = False) -> tuple[Hdu, ...]:
    """Return all HDUs of an open stream; `size` is its length in bytes, or None where that is not known.

    Raises
    ------
    NotFitsError, NoImageError
        As :func:`read_headers`.
    """
    found: list[Hdu] = []
    position = 0
    with quiet():
        while True:
            raw = _header_bytes(stream, shown, first=not found)
            if raw is None:
                return tuple(found)
            hdu, span = _describe(raw, len(found), shown, position)
            position = hdu.end
            claimed = sums_in(raw) if checksums else {}
            if claimed and (size is None or position <= size):
                hdu, whole = _summed(hdu, stream, span, claimed)
            else:
                whole = _skip(stream, span, position, size)
            if not whole:
                message = (
                    f"{shown}: truncated: HDU {hdu.index} ({hdu.name or 'primary'}) claims {span} bytes of data, of "
                    f"which the file holds fewer; fetch it again"
                )
                raise NotFitsError(message)
            found.append(hdu)


def _header_bytes(stream: BinaryIO, shown: str, *, first: bool) -> bytes | None:
    """Read one header, whole blocks up to the one with END; None where the file has no further HDU."""
    start = b"SIMPLE  =" if first else b"XTENSION"
    block = stream.read(BLOCK)
    if not block.startswith(start):
        if first:
            message = f"{shown}: not a FITS file: it begins with {block[:16]!r}, expected 'SIMPLE  ='"
            raise NotFitsError(message)
        # The standard lets other records follow the last HDU; only the stump of a header tells of a lost one.
        if not block or not start.startswith(block[: len(start)]):
            return None
    blocks: list[bytes] = []
    while len(block) == BLOCK and len(blocks) < _MAX_HEADER_BLOCKS:
        blocks.append(block)
        if _ends(block):
            return b"".join(blocks)
        block = stream.read(BLOCK)
    message = f"{shown}: truncated or damaged: a header has no END card; fetch it again"
    raise NotFitsError(message)


def _ends(block: bytes) -> bool:
    """Return whether a block holds the END card."""
    at = block.find(_END)
    while at >= 0 and at % _CARD:
        at = block.find(_END, at + 1)
    return at >= 0


def _describe(raw: bytes, index: int, shown: str, start: int) -> tuple[Hdu, int]:
    """Return the HDU of a raw header that begins at `start`, and the bytes that its data take with padding."""
    try:
        header = _structure(raw)
        axes = _axes(header, "NAXIS")
        groups = bool(header.get("GROUPS", False)) and bool(axes) and axes[0] == 0
        count = math.prod(axes[1:] if groups else axes) if axes else 0
        bitpix, fields = int(header["BITPIX"]), int(header.get("TFIELDS", 0))
        bits = abs(bitpix) * int(header.get("GCOUNT", 1)) * (int(header.get("PCOUNT", 0)) + count)
        compressed = header.get("ZIMAGE", False) is True
        is_image = index == 0 or str(header.get("XTENSION", "")).strip() == "IMAGE"
        image_axes = _axes(header, "ZNAXIS") if compressed else axes
        tile = [int(header.get(f"ZTILE{axis}", 1)) for axis in range(1, len(image_axes) + 1)]
        matched = str(header[MATCHED_CARD]) if MATCHED_CARD in header else None
        name, version = str(header.get("EXTNAME", "")).strip().upper(), int(header.get("EXTVER", 1))
    except FAULTS as error:
        message = f"{shown}: damaged header of HDU {index}: {error}"
        raise NotFitsError(message) from error
    sizes = (*axes, *image_axes, *tile, fields, bits)
    if bitpix not in _BITPIX or min(sizes) < 0 or fields > _MAX_FIELDS or math.prod(tile) > MAX_PIXELS:
        message = (
            f"{shown}: damaged header of HDU {index}: BITPIX {bitpix}, {fields} columns, sizes {axes}, tiles {tile}"
        )
        raise NotFitsError(message)
    shape = tuple(reversed(image_axes)) if (is_image or compressed) and image_axes and not groups else None
    if shape is not None and math.prod(shape) > MAX_PIXELS:
        message = (
            f"{shown}: HDU {index} claims {' x '.join(map(str, image_axes))} pixels, more than the {MAX_PIXELS} that "
            f"an image may have; the header is damaged"
        )
        raise NoImageError(message)
    span = -(-(bits // 8) // BLOCK) * BLOCK
    end = start + len(raw) + span
    return Hdu(index, raw, name, version, shape, matched, bitpix, compressed, start, end), span


def cards_of(raw: bytes) -> list[bytes]:
    """Return the cards of a raw header, whole blocks."""
    return [raw[at : at + _CARD] for at in range(0, len(raw), _CARD)]


def _structure(raw: bytes) -> Mapping[str, Any]:
    """Return those cards of a header that tell the HDU's size and name."""
    cards = [card for card in cards_of(raw) if card[:2] in _STARTS and _STRUCTURE.match(card)]
    return plain_cards(cards) or fits.Header.fromstring(b"".join(cards))


def plain_cards(cards: Iterable[bytes]) -> dict[str, str | int | float | bool] | None:
    """Return the values of cards that are written as the standard has them, by keyword; of repeated ones the first.

    Taking such cards apart with astropy costs thirty times as much. None if any card is unusual: astropy then decides.
    """
    values: dict[str, str | int | float | bool] = {}
    for card in cards:
        found = _PLAIN.fullmatch(card)
        if found is None:
            return None
        name, logical, integer, real, text = found.groups()
        value: str | int | float | bool
        if text is not None:
            if (
                not text.strip() and card.count(b"'") > 2
            ):  # astropy takes quotes of a comment for those of a blank value
                return None
            value = text.decode("ascii").rstrip()
        elif integer is not None:
            value = int(integer)
        elif real is not None:
            value = float(real)
        else:
            value = logical == b"T"
        values.setdefault(name.decode("ascii"), value)
    return values


def _axes(header: Mapping[str, Any], stem: str) -> tuple[int, ...]:
    return tuple(int(header[f"{stem}{axis}"]) for axis in range(1, int(header[stem]) + 1))


def _skip(stream: BinaryIO, span: int, end: int, size: int | None) -> bool:
    """Pass over `span` bytes, up to the position `end`; return whether they are all there."""
    if size is not None:
        if end > size:
            return False
        stream.seek(end)
        return True
    while span > 0:
        got = len(stream.read(min(span, _CHUNK)))
        if got == 0:
            return False
        span -= got
    return True


def _summed(hdu: Hdu, stream: BinaryIO, span: int, claimed: Sums) -> tuple[Hdu, bool]:
    """Pass over `span` bytes, held against the sums that the header claims; say whether they are all there."""
    passed = 0

    def counted() -> Iterator[bytes]:
        nonlocal passed
        for piece in pieces(stream, span):
            passed += len(piece)
            yield piece

    found = complaint(hdu.raw, claimed, counted())
    return replace(hdu, complaint=found), passed == span


def text_of(value: object) -> str:
    """Return a card's value as text, '' where there is none."""
    return "" if value is None else str(value).strip()


def number_of(value: object) -> float | None:
    """Return a card's value as a finite number; None where it is none."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
