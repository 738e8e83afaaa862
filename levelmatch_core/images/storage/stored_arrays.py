"""The images of a file as native numbers, of exactly the bytes that its digest is of."""

import io
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from levelmatch_core.images.fits_headers import Hdu, cards_of, plain_cards, quiet, scan
from levelmatch_core.images.storage.one_pass import changed, read_ranges, read_whole
from levelmatch_core.images.storage.packing import Packing, packing_of, unpacked

_SCALING = (b"BSCALE  =", b"BZERO   =", b"BLANK   =")


def read_stored(
    file: BinaryIO,
    digest: str,
    shown: str,
    wanted: Sequence[int | None],
    check: Callable[[tuple[Hdu, ...]], None] = lambda _hdus: None,
) -> tuple[tuple[Hdu, ...], list[Any]]:
    """Return headers and images of an open file.

    Parameters
    ----------
    file
        The file, compressed as a whole or not.
    digest
        The sha256 or xxh64 (hex) that its bytes must have.
    shown
        What to call it in messages.
    wanted
        Indices of the HDUs whose images are returned.
    check
        Raises where the headers will not do, before any image is read.

    Returns
    -------
    hdus
        Of all the file.
    arrays
        Images as native numbers, scaled by BSCALE and BZERO; None for None.

    Raises
    ------
    ChangedInputError
        If the bytes are not those of the digest.
    NotFitsError, NoImageError
        As :func:`levelmatch_core.images.fits_headers.scan`.
    """
    if packing_of(file) is not Packing.NONE:
        stream, _ = unpacked(io.BytesIO(read_whole(file, digest, shown)))
        content = stream.read()
        hdus = scan(io.BytesIO(content), shown, len(content))
        check(hdus)
        forms = _forms(hdus, wanted)
        if forms is None:
            return hdus, _by_astropy(content, wanted)
        pieces = [memoryview(bytearray(content[form.start : form.end])) for form in forms if form is not None]
    else:
        hdus = scan(file, shown, os.fstat(file.fileno()).st_size)
        check(hdus)
        forms = _forms(hdus, wanted)
        if forms is None:
            return hdus, _by_astropy(read_whole(file, digest, shown), wanted)
        headers = [(hdu.start, hdu.data) for hdu in hdus]
        ranges = [*headers, *((form.start, form.end) for form in forms if form is not None)]
        found = read_ranges(file, ranges, digest, shown)
        # the headers were read before: had they changed in between, the digest would be that of others
        if any(bytes(raw) != hdu.raw for raw, hdu in zip(found, hdus, strict=False)):
            raise changed(shown)
        pieces = found[len(headers) :]
    rest = iter(pieces)
    return hdus, [None if form is None else _native(next(rest), form) for form in forms]


def read_rows(file: BinaryIO, hdu: Hdu, rows: Sequence[int]) -> NDArray[np.generic] | None:
    """Return some rows of an image as native numbers; None where they are not stored plainly, row by row.

    Parameters
    ----------
    file
        The open file.
    hdu
        The image in it.
    rows
        Which ones, from 0.
    """
    form = None if packing_of(file) is not Packing.NONE else _form(hdu)
    if form is None or hdu.plane is None or hdu.plane_axes != (1, 2) or not rows:
        return None
    columns = hdu.plane[1]
    size = columns * np.dtype(form.kind).itemsize
    first = ((hdu.cube_plane or 1) - 1) * hdu.plane[0]
    content = bytearray()
    for row in rows:
        file.seek(form.start + (first + row) * size)
        content += file.read(size)
    return _native(memoryview(content), replace(form, shape=(len(rows), columns)))


@dataclass(frozen=True)
class _Form:
    """How a plain image is stored: where its bytes lie, and how they become numbers."""

    start: int
    end: int
    kind: str
    shape: tuple[int, ...]
    unsigned: bool


def _forms(hdus: Sequence[Hdu], wanted: Sequence[int | None]) -> list[_Form | None] | None:
    """Return how images are stored; None where one of them is compressed or scaled, which astropy undoes."""
    forms: list[_Form | None] = []
    for index in wanted:
        form = None if index is None else _form(hdus[index])
        if form is None and index is not None:
            return None
        forms.append(form)
    return forms


def _form(hdu: Hdu) -> _Form | None:
    """Return how an image is stored as plain numbers; None where it is not.

    Integers that stand for unsigned ones (FITS standard 4.0, table 11) are no scaling: their highest bit is turned.
    """
    if hdu.compressed or hdu.shape is None:
        return None
    cards = plain_cards(card for card in cards_of(hdu.raw) if card.startswith(_SCALING))
    if cards is None:
        return None
    unsigned = hdu.bitpix in {16, 32} and cards == {"BSCALE": 1, "BZERO": 1 << (hdu.bitpix - 1)}
    if cards and not unsigned:
        return None
    kind = {-32: ">f4", -64: ">f8", 8: ">u1", 16: ">i2", 32: ">i4", 64: ">i8"}[hdu.bitpix]
    size = math.prod(hdu.shape) * abs(hdu.bitpix) // 8
    return _Form(hdu.data, hdu.data + size, kind, hdu.shape, unsigned)


def _native(content: memoryview, form: _Form) -> NDArray[np.generic]:
    """Return stored bytes as native numbers, in their place."""
    values = np.frombuffer(content, form.kind).reshape(form.shape)
    native = values.dtype.newbyteorder("=")
    if values.dtype != native:
        values = values.byteswap(inplace=True).view(native)
    if form.unsigned:
        bits = values.view(f"u{values.itemsize}")
        bits ^= bits.dtype.type(1 << (8 * values.itemsize - 1))
        return bits
    return values


def _by_astropy(content: bytes, wanted: Sequence[int | None]) -> list[Any]:
    """Return arrays that are compressed or scaled."""
    with quiet(), np.errstate(all="ignore"), fits.open(io.BytesIO(content), mode="readonly", memmap=False) as opened:
        return [None if index is None else np.asarray(opened[index].data) for index in wanted]
