"""The celestial WCS of an image's two axes from its header: what `astropy.wcs.WCS` reads, at less cost where it can.

astropy takes a header apart and writes it out three times to make a WCS of it, which costs more than all else that is
done with a small image. wcslib reads raw cards itself; only the SIP coefficients have to be taken out for it. That
serves headers in which nothing is unusual (:func:`plain_wcs`); any other goes to astropy, whole, with the tables in
further HDUs that it points to, and is mended (`fix`) before it is reduced to two axes.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from copy import copy
from functools import lru_cache

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS, Sip, Wcsprm
from numpy.typing import NDArray

from levelmatch_core.images.fits_headers import Hdu, cards_of, plain_cards

_NUMBERS = rb"(CRPIX|CRVAL|CDELT|CROTA|PROJP)\d|(PC|CD)\d+_?\d+|PV\d_\d+|[AB]P?_\d_\d|LONPOLE|LATPOLE"

WCS_CARD = re.compile(
    rb"(WCSAXES|WCSNAME|NAXIS\d?|(CTYPE|CUNIT)\d|" + _NUMBERS + rb"|PS\d_\d+|"
    rb"[AB]P?_[^ =]+|RADE(C)?SYS|EQUINOX|EPOCH|DATE-OBS|MJD-OBS|WAT\d_\d+|WCSDIM|(CPDIS|CPERR|CQDIS|CQERR|DP|DQ)\d|"
    rb"DVERR\d?|D2IM[^ =]*|AXISCORR|AMD[XY]\d+|PPO\d|PLTRA[HMS]|PLTDEC[^ =]*|PLTSCALE|PLATEID|CNPIX\d|[XY]PIXELSZ|"
    rb"OBJCTRA|OBJCTDEC) *="
)
"""Cards that bear on a celestial WCS; a JWST header has hundreds of others."""

_SIP = re.compile(rb"[AB]P?_")
_TERM = re.compile(r"([AB]P?)_(\d)_(\d)")
_UNUSUAL = re.compile(rb"P[VS]\d|PROJP|EPOCH|WAT|WCSDIM|C[PQ]DIS|C[PQ]ERR|DP|DQ|DVERR|D2IM|AXISCORR|AMD|PPO|PLT|CNPIX")
"""Cards of distortions by tables or by other conventions than SIP, those that astropy mends in ways of its own, and
those that are old: all for astropy."""

_TABLES = re.compile(rb"CPDIS\d|D2IMDIS\d|D2IMEXT|AXISCORR")
"""Cards of distortions that lie in further HDUs of the file."""

_NUMBER = re.compile(rb"(?P<name>" + _NUMBERS + rb") *= *(?P<value>.*)")
_NUMBER_NAME = re.compile(_NUMBERS.decode("ascii"))
_REAL = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)(?:(?P<e>[EeDd])[+-]?\d+)?(?= *(/|$))")
_NOT_FINITE = re.compile(rb"(?P<name>[A-Z0-9_-]+) *= *(?P<value>[+-]?(nan|inf)[a-z]*)", re.IGNORECASE)
_NOTHING = re.compile(rb" *(/|$)")
_MAY_BE_UNDEFINED = re.compile(rb"PV|PROJP|CROTA|LONPOLE|LATPOLE")
"""Cards that may be there without a value, as if they were not."""

_SCAMP = re.compile(rb"PV[12]_([5-9]|\d\d) *=")
_ELEMENT = re.compile(r"(?P<stem>PC|CD)(?P<i>\d{3}(?=\d{3}$)|\d{1,2}(?=_))_?(?P<j>\d{1,3})")
_OF_AXIS = re.compile(
    r"(?P<stem>CTYPE|CUNIT|CRPIX|CRVAL|CDELT|CROTA|CRDER|CSYER|CNAME|P[VS]|WAT|C[PQ](?:DIS|ERR)|D[PQ]|D2IM\D*)(?P<i>[1-9])"
)

_PLAIN_TYPE = re.compile(r"(RA--|DEC-|[GE]LON|[GE]LAT)-(TAN|SIN|ARC|STG|ZEA|CAR|CEA|MER|SFL|PAR|MOL|AIT)(-SIP)?")
"""Axis types that wcslib alone knows what to do with."""

_NEEDED = frozenset({"CTYPE1", "CTYPE2", "CRPIX1", "CRPIX2"})

Value = str | int | float | bool

Tables = Callable[[], AbstractContextManager[fits.HDUList]]
"""Opens the file of an image, for the distortion tables that lie in it."""


def fits_wcs(hdu: Hdu, tables: Tables) -> WCS:
    """Return the WCS of the two axes of an image, as `astropy.wcs.WCS` reads it, distortions included.

    Axes of length 1 are left out, at their only pixel.

    Parameters
    ----------
    hdu
        The image.
    tables
        Opens its file; called only where distortion tables lie in other HDUs.

    Raises
    ------
    ValueError
        If a card that must be a number is none, or not finite: wcslib would take its default for it. Else what astropy
        raises (:data:`levelmatch_core.images.fits_headers.FAULTS`).
    """
    cards = [card for card in cards_of(hdu.raw) if WCS_CARD.match(card)]
    wcs = plain_wcs(cards) if hdu.plane_axes == (1, 2) else None
    if wcs is None:
        cards = [_with_e(card) for card in cards]
        for card in cards:
            _refuse_no_number(card)
        _refuse_no_step(cards)
        if any(_TABLES.match(card) or b"-TAB" in card for card in cards):
            with tables() as hdus:
                wcs = _by_astropy(hdu, cards, hdus)
        else:
            wcs = _by_astropy(hdu, cards, None)
    if hdu.plane is not None:  # a compressed image's own NAXISn are those of a table
        wcs.pixel_shape = hdu.plane[::-1]
    return wcs


def has_loose_sip(hdu: Hdu) -> bool:
    """Return whether SIP coefficients are used although CTYPE does not say so; beside PV polynomials they are not."""
    kind = str(hdu.get("CTYPE1", "")).strip().upper()
    return hdu.has("A_ORDER") and not kind.endswith(("-SIP", "-TPV")) and not _SCAMP.search(hdu.raw)


# -- numbers that are none ---------------------------------------------------------------------------------------------
def _with_e(card: bytes) -> bytes:
    """Return a card with E in place of the D that the standard allows in exponents: wcslib passes over it."""
    found = _NUMBER.match(card)
    real = found and _REAL.match(card, found.start("value"))
    if not real or real["e"] not in {b"D", b"d"}:
        return card
    return card[: real.start("e")] + b"E" + card[real.end("e") :]


def _refuse_no_step(cards: Sequence[bytes]) -> None:
    """Raise ValueError where all elements of a row of the matrix are given as 0: astropy mends that to 1 degree."""
    for row in (b"CD1_", b"CD2_"):
        given = [found for card in cards if card.startswith(row) and (found := _NUMBER.match(card))]
        if given and all(float(found["value"].partition(b"/")[0]) == 0 for found in given):
            names = ", ".join(found["name"].decode() for found in given)
            message = f"{names} are 0, expected degrees a pixel"
            raise ValueError(message)


def _refuse_no_number(card: bytes) -> None:
    """Raise ValueError where a value is not finite, or no number where there must be one."""
    found = _NOT_FINITE.match(card)
    if found is None:
        found = _NUMBER.match(card)
        if found is None:
            return
        real = _REAL.match(found["value"])
        if real is not None and np.isfinite(float(real[0])):
            return
        if _NOTHING.match(found["value"]) and _MAY_BE_UNDEFINED.match(card):
            return
    shown = found["value"].partition(b"/")[0].decode("latin-1").strip() or "without a value"
    message = f"{found['name'].decode()} is {shown}, expected a finite number"
    raise ValueError(message)


# -- by astropy --------------------------------------------------------------------------------------------------------
def _by_astropy(hdu: Hdu, cards: Sequence[bytes], hdus: fits.HDUList | None) -> WCS:
    """Return what astropy makes of the whole header; of its `cards` alone where another one is damaged."""
    try:
        return _astropys(cards_of(hdu.raw), hdu, hdus)
    except fits.VerifyError:
        return _astropys(cards, hdu, hdus)


def _astropys(cards: Sequence[bytes], hdu: Hdu, hdus: fits.HDUList | None) -> WCS:
    header = fits.Header.fromstring(b"".join(_with_e(card) for card in cards))
    try:
        return WCS(_of_plane(header, hdu), fobj=hdus)
    except MemoryError as error:  # what wcslib makes of records that lack something
        raise ValueError(*error.args) from error


def _of_plane(header: fits.Header, hdu: Hdu) -> fits.Header:
    """Return a header of the image's two axes alone: astropy cannot reduce a WCS that has distortions.

    The intermediate coordinates are M (p - CRPIX): at p = 1 along the other axes, or at the plane of a cube, terms of
    M that mix these with the two move CRPIX of the two.
    """
    axes = hdu.plane_axes
    further = {axis for name in header for axis in _axes_in(name)} - set(axes)
    counted = max(int(header.get("NAXIS", 2)), int(header.get("WCSAXES", 2)))
    if axes == (1, 2) and not further and counted <= 2 and not hdu.compressed:
        return header
    matrix, crpix = _linear(header)
    kept = np.array(axes) - 1
    others = np.setdiff1d(np.arange(len(crpix)), kept)
    at = np.array([_pixel_along(hdu, int(axis)) for axis in others])
    mixed = matrix[np.ix_(kept, others)] @ (at - crpix[others])
    reduced = fits.Header(
        [(_renumbered(name, axes), value, comment) for name, value, comment in header.cards if _stays(name, axes)]
    )
    if np.any(mixed != 0):
        moved = crpix[kept] - np.linalg.solve(matrix[np.ix_(kept, kept)], mixed)
        reduced["CRPIX1"], reduced["CRPIX2"] = float(moved[0]), float(moved[1])
    shape = hdu.plane or (1, 1)
    reduced["NAXIS"], reduced["NAXIS1"], reduced["NAXIS2"] = 2, shape[1], shape[0]
    reduced.remove("WCSAXES", ignore_missing=True)
    return reduced


def _pixel_along(hdu: Hdu, axis: int) -> int:
    """Return the pixel coordinate, from 1, of an image along one of its further axes, numbered from 0."""
    plane, shape = hdu.cube_plane, hdu.shape or ()
    if plane is None or axis >= len(shape):
        return 1
    return int(np.unravel_index(plane - 1, shape[:-2])[len(shape) - 1 - axis]) + 1


def _linear(header: fits.Header) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return M, to a factor a row, and CRPIX of all axes of a header."""
    number = max([2, *(axis for name in header for axis in _axes_in(name))])
    cards = {name: (found, header[name]) for name in header if (found := _ELEMENT.fullmatch(name))}
    stem = "CD" if any(found["stem"] == "CD" for found, _ in cards.values()) else "PC"
    matrix = np.eye(number) if stem == "PC" else np.zeros((number, number))
    for found, value in cards.values():
        if found["stem"] == stem:
            matrix[int(found["i"]) - 1, int(found["j"]) - 1] = float(value)
    return matrix, np.array([float(header.get(f"CRPIX{axis}", 0.0)) for axis in range(1, number + 1)])


def _axes_in(name: str) -> tuple[int, ...]:
    """Return the numbers of the axes that a card's name holds."""
    found = _ELEMENT.fullmatch(name)
    if found is not None:
        return int(found["i"]), int(found["j"])
    found = _OF_AXIS.match(name)
    return () if found is None else (int(found["i"]),)


def _stays(name: str, axes: tuple[int, int]) -> bool:
    return set(_axes_in(name)) <= set(axes) and re.fullmatch(r"NAXIS\d*", name) is None


def _renumbered(name: str, axes: tuple[int, int]) -> str:
    """Return a card's name with the axes' numbers 1 and 2 in place of theirs."""
    if axes == (1, 2):
        return name
    new = {str(axis): str(number) for number, axis in enumerate(axes, start=1)}
    found = _ELEMENT.fullmatch(name)
    if found is not None:
        return f"{found['stem']}{new[str(int(found['i']))]}_{new[str(int(found['j']))]}"
    found = _OF_AXIS.match(name)
    return name if found is None else f"{found['stem']}{new[found['i']]}{name[found.end('i') :]}"


# -- without astropy ---------------------------------------------------------------------------------------------------
def plain_wcs(cards: Sequence[bytes]) -> WCS | None:
    """Return the WCS of a header's `WCS_CARD` cards; None where anything is unusual: astropy then does all.

    It is a new object each time, since wcslib's structures must not be shared between threads.

    Parameters
    ----------
    cards
        Of 80 bytes each.
    """
    parts = _plain_parts(tuple(cards))
    if parts is None:
        return None
    wcs = WCS(naxis=2, fix=False)  # the parts were mended when they were made
    wcs.wcs, wcs.sip = copy(parts[0]), parts[1]
    wcs.wcs.set()
    return wcs


@lru_cache(maxsize=512)
def _plain_parts(cards: tuple[bytes, ...]) -> tuple[Wcsprm, Sip | None] | None:
    """Return what such a WCS is made of, which is never changed; each header is read twice at least."""
    values = plain_cards(cards)
    if values is None or len(values) != len(cards) or any(_UNUSUAL.match(card) for card in cards):
        return None
    if not _is_usual(values):
        return None
    linear = [card for card in cards if not _SIP.match(card)]
    sip = None
    if len(linear) < len(cards):
        sip = _sip(values)
        if sip is None:
            return None
    wcs = WCS(naxis=2)
    wcs.wcs = Wcsprm(header=b"".join(linear), key=" ", relax=True)
    if wcs.wcs.naxis != 2:
        return None
    wcs.fix()
    wcs.wcs.set()
    return wcs.wcs, sip


def _is_usual(values: Mapping[str, Value]) -> bool:
    """Return whether the cards are those of two celestial axes that wcslib alone knows what to do with."""
    numbers = [value for name, value in values.items() if _NUMBER_NAME.fullmatch(name)]
    return (
        all(not isinstance(value, str | bool) and math.isfinite(value) for value in numbers)
        and not any(values.get(f"CD{row}_1", 1) == values.get(f"CD{row}_2", 0) == 0 for row in (1, 2))
        and values.get("NAXIS", 2) == values.get("WCSAXES", 2) == 2
        and values.keys() >= _NEEDED
        and all(_PLAIN_TYPE.fullmatch(str(values[name])) for name in ("CTYPE1", "CTYPE2"))
        and all(values.get(name, "deg") == "deg" for name in ("CUNIT1", "CUNIT2"))
    )


def _sip(values: Mapping[str, Value]) -> Sip | None:
    """Return the distortion of SIP cards; None if they are unusual."""
    if not all(str(values[name]).endswith("-SIP") for name in ("CTYPE1", "CTYPE2")):
        return None
    terms: dict[str, NDArray[np.float64]] = {}
    for stem in ("A", "B", "AP", "BP"):
        order = values.get(f"{stem}_ORDER")
        if isinstance(order, int) and 2 <= order <= 9:
            terms[stem] = np.zeros((order + 1, order + 1))
        elif order is not None:
            return None
    for name, value in values.items():
        term = _TERM.fullmatch(name)
        if term is None:
            continue
        stem, i, j = term[1], int(term[2]), int(term[3])
        if stem not in terms or i + j >= len(terms[stem]) or isinstance(value, str | bool):
            return None
        terms[stem][i, j] = value
    if "A" not in terms or "B" not in terms or ("AP" in terms) != ("BP" in terms):
        return None
    return Sip(terms["A"], terms["B"], terms.get("AP"), terms.get("BP"), (values["CRPIX1"], values["CRPIX2"]))
