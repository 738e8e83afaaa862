"""The band of an image: by the cards that its instrument names, else by those that cameras at large use."""

import re
from collections.abc import Iterable, Sequence

from astropy.io.fits.card import Undefined

from levelmatch_core.images.fits_headers import Cards, number_of, text_of
from levelmatch_core.images.instruments import Instrument

USUAL_CARDS: tuple[tuple[str, ...], ...] = (
    ("FILTER",),
    ("FILTER1", "FILTER2", "FILTER3", "FILTER4"),
    ("FILTER01", "FILTER02", "FILTER03", "FILTER04"),
    ("FILTERS",),
    ("FILTNAM1", "FILTNAM2", "FILTNAM3"),
    ("FILTNAME",),
    ("FILTNAM",),
    ("FILTERNM",),
    ("FILTERNA",),
    ("FILTR",),
    ("WFFBAND",),
    ("FILTERID",),
    ("FILT1", "FILT2"),
    ("ESO INS FILT1 NAME", "ESO INS FILT2 NAME", "ESO INS FILT3 NAME"),
    ("ESO INS FILT NAME",),
    ("FPA.FILTERID",),
    ("FPA.FILTER",),
    ("INSFLNAM",),
    ("INSFILTE",),
    ("IRFILTER",),
    ("FLTRNM",),
    ("BAND",),
    ("BANDPASS",),
    ("WAVEBAND",),
    ("PASSBAND",),
    ("CHNLNUM",),
    ("WAVELNTH",),
    ("WAVELEN",),
    ("WAVELENG",),
    ("PUPIL",),
    ("ENERGYBD",),
)
"""Sets of cards, in the order in which they are asked: the first with a value that tells names the band, by all of its
values. The second in such a set is another wheel in the same beam."""

STOKES = {2: "q", 3: "u", 4: "v", -1: "rr", -2: "ll", -3: "rl", -4: "lr", -5: "xx", -6: "yy", -7: "xy", -8: "yx"}
"""Values of a Stokes axis (FITS standard 4.0, table 29) but for 1, the intensity: no image of one is like another's."""

_TELLS_NOTHING = re.compile(
    r"(clear|open|empty|hole|air|blank|none|null|unknown|undefined|undef|out|home|nofilter|no filter|n/?a|not "
    r"(set|available|applicable)|-+|\?+)([ _-]?\d+)?[lsp]?(-\d+)?",
    re.IGNORECASE,
)
"""Values of a wheel's empty place, or of no known one."""


_REST_FREQUENCY = ("RESTFRQ", "RESTFREQ")
_HERTZ = {"khz": 1e3, "mhz": 1e6, "ghz": 1e9}
_WAVES = frozenset({"LAMBDA", "WAVE", "AWAV", "WAVELENGTH"})
_METRES = {"um": 1e-6, "micron": 1e-6, "microns": 1e-6, "nm": 1e-9, "angstrom": 1e-10, "mm": 1e-3, "cm": 1e-2}
_LIGHT = 299792458.0
"""Its speed, m/s."""

_TWICE = frozenset("UBVRI")
"""Bands of Johnson and Cousins of which Sloan's or Stroemgren's have the small letter."""


class BandCards:
    """The band of one image.

    Parameters
    ----------
    headers
        In which cards are looked up in turn: the image's own, the primary one, those of other images.
    instrument
        What took it.
    """

    def __init__(self, headers: Iterable[Cards], instrument: Instrument) -> None:
        self._headers = tuple(headers)
        values = [value for name in instrument.band_cards if (value := self._value(name))]
        told = [
            value for value in values if value.lower() not in instrument.no_band and not _TELLS_NOTHING.fullmatch(value)
        ]
        cards = [*(told or self._usual() or values[:1]), *self._stokes()]
        once = {card.lower(): card if card in _TWICE else card.lower() for card in reversed(cards)}
        self.band: str = "-".join(dict.fromkeys(card.lower() for card in cards))
        """Lower case, '' where no card tells."""
        self.spelling: str = "-".join(dict.fromkeys(once[card.lower()] for card in cards))
        """The band as it is told from others: r and R are two, f770w and F770W one."""
        self.names: frozenset[str] = frozenset(
            {self.band, "-".join(values).lower(), *(value.lower() for value in values[:1])}
        )
        """All that a user may call it."""

    def _usual(self) -> Sequence[str]:
        for names in USUAL_CARDS:
            values = [value for name in names if (value := self._value(name)) and not _TELLS_NOTHING.fullmatch(value)]
            if values:
                return values
        return ()

    def _stokes(self) -> Sequence[str]:
        """Return the Stokes parameter of an image whose axis of it has length 1, where it is not the intensity."""
        own = self._headers[0]
        for axis in (3, 4):
            if str(own.get(f"CTYPE{axis}", "")).strip().upper() == "STOKES":
                value = number_of(own.get(f"CRVAL{axis}"))
                return [] if value is None or round(value) not in STOKES else [STOKES[round(value)]]
        return []

    def _value(self, name: str) -> str:
        for header in self._headers:
            value = header.get(name)
            if value is not None and not isinstance(value, Undefined) and str(value).strip():
                return str(value).strip()
        return ""


def frequency_of(sci: Cards) -> float | None:
    """Return the frequency of an image, Hz, by its spectral axis of length 1 or its rest frequency; else None."""
    for axis in (3, 4):
        kind = re.split(r"[^A-Z]", text_of(sci.get(f"CTYPE{axis}")).upper(), maxsplit=1)[0]
        value, unit = number_of(sci.get(f"CRVAL{axis}")), text_of(sci.get(f"CUNIT{axis}")).lower()
        if value is not None and value > 0 and kind == "FREQ":
            return value * _HERTZ.get(unit, 1.0)
        if value is not None and value > 0 and kind in _WAVES:  # plates of IRAS
            return _LIGHT / (value * _METRES.get(unit, 1.0))
    values = (number_of(sci.get(card)) for card in _REST_FREQUENCY)
    return next((value for value in values if value is not None and value > 0), None)


def band_note(files: Sequence[str]) -> list[str]:
    """Return what to know of files of which no card tells the band, given those that are matched."""
    if len(files) < 2:
        return []
    note = (
        f"no card tells the band (FILTER, BAND and the like) of {len(files)} files, {files[0]} the first: they are "
        f"taken as one band; name the card in an instrument table ([band] cards), or match each band by itself"
    )
    return [note]
