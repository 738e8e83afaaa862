"""A celestial WCS straight from a raw header: what astropy's `WCS(header)` gives, without its writing and rereading.

astropy takes a header apart and writes it out three times to make a WCS of it, which costs more than all else that is
done with a small image. wcslib reads raw cards itself; only the SIP coefficients have to be taken out for it.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from astropy.wcs import WCS, Sip, Wcsprm
from numpy.typing import NDArray

from levelmatch_core.images.fits_headers import plain_cards

WCS_CARD = re.compile(
    rb"(WCSAXES|WCSNAME|NAXIS\d?|(CTYPE|CUNIT|CRPIX|CRVAL|CDELT|CROTA|PROJP)\d|(PC|CD)\d+_?\d+|P[VS]\d_\d+|"
    rb"[AB]P?_[^ =]+|LONPOLE|LATPOLE|RADE(C)?SYS|EQUINOX|EPOCH|DATE-OBS|MJD-OBS) *="
)
"""Cards that bear on a celestial WCS without tables; a JWST header has hundreds of others."""

_SIP = re.compile(rb"[AB]P?_")
_TERM = re.compile(r"([AB]P?)_(\d)_(\d)")
_UNUSUAL = re.compile(rb"P[VS]|PROJP|EPOCH")
"""Cards that astropy mends in ways of its own (those of old SCAMP headers), or that are old."""

_NEEDED = frozenset({"CTYPE1", "CTYPE2", "CRPIX1", "CRPIX2"})

Value = str | int | float | bool


def plain_wcs(cards: Sequence[bytes]) -> WCS | None:
    """Return the WCS of a header's `WCS_CARD` cards; None where anything is unusual: astropy then does all.

    Parameters
    ----------
    cards
        Of 80 bytes each.
    """
    values = plain_cards(cards)
    if values is None or len(values) != len(cards) or any(_UNUSUAL.match(card) for card in cards):
        return None
    if values.get("NAXIS", 2) != 2 or values.get("WCSAXES", 2) != 2 or not values.keys() >= _NEEDED:
        return None
    linear = [card for card in cards if not _SIP.match(card)]
    sip = None
    if len(linear) < len(cards):
        sip = _sip(values)
        if sip is None:
            return None
    wcs = WCS(naxis=2)
    wcs.wcs = Wcsprm(header=b"".join(linear), key=" ", relax=True).sub(2)
    wcs.sip = sip
    wcs.fix()
    wcs.wcs.set()
    return wcs


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
