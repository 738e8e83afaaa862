"""A celestial WCS straight from a raw header: what astropy's `WCS(header)` gives, without its writing and rereading.

astropy takes a header apart and writes it out three times to make a WCS of it, which costs more than all else that is
done with a small image. wcslib reads raw cards itself; only the SIP coefficients have to be taken out for it.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from astropy.wcs import WCS, Sip, Wcsprm
from numpy.typing import NDArray

from levelmatch_core.images.headers import plain_cards

WCS_CARD = re.compile(
    rb"(WCSAXES|WCSNAME|NAXIS\d?|(CTYPE|CUNIT|CRPIX|CRVAL|CDELT|CROTA|PROJP)\d|(PC|CD)\d+_?\d+|P[VS]\d_\d+|"
    rb"[AB]P?_[^ =]+|LONPOLE|LATPOLE|RADE(C)?SYS|EQUINOX|EPOCH|DATE-OBS|MJD-OBS) *="
)
"""Cards that bear on a celestial WCS without tables; a JWST header has hundreds of others."""

_SIP = re.compile(rb"[AB]P?_")
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
    inverse = any(name.startswith(("AP_", "BP_")) for name in values)
    terms = [_terms(stem, values) for stem in ("A", "B", *(("AP", "BP") if inverse else ()))]
    if any(found is None for found in terms):
        return None
    return Sip(*terms, *(() if inverse else (None, None)), (values["CRPIX1"], values["CRPIX2"]))


def _terms(stem: str, values: Mapping[str, Value]) -> NDArray[np.float64] | None:
    """Return the (n + 1, n + 1) coefficients of one SIP polynomial; None if they are unusual."""
    order = values.get(f"{stem}_ORDER")
    if not isinstance(order, int) or not 2 <= order <= 9:
        return None
    terms = np.zeros((order + 1, order + 1))
    for name, value in values.items():
        found = re.fullmatch(rf"{stem}_(\d)_(\d)", name)
        if found is not None:
            i, j = int(found[1]), int(found[2])
            if i + j > order or isinstance(value, str | bool):
                return None
            terms[i, j] = value
    return terms
