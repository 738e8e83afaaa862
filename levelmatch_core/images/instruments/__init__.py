"""The known instruments: each module here that defines `INSTRUMENT`, and each TOML table."""

import importlib
import pkgutil
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from levelmatch_core.errors import SettingsError
from levelmatch_core.images.exposure import Exposure
from levelmatch_core.images.fits_headers import Cards
from levelmatch_core.images.instruments.base import Instrument, Part, Source
from levelmatch_core.images.instruments.table import of_table
from levelmatch_core.instrument_tables import InstrumentTable, read_table

__all__ = ["Instrument", "Part", "Source", "by_name", "instrument_of", "instruments", "known_with", "recognise"]


@cache
def instruments() -> tuple[Instrument, ...]:
    """Return all instruments in the order in which they are tried, with the generic one last."""
    modules = (importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__))
    known = [module.INSTRUMENT for module in modules if hasattr(module, "INSTRUMENT")]
    known += [of_table(read_table(path)) for folder in __path__ for path in sorted(Path(folder).glob("*.toml"))]
    return tuple(sorted(known, key=lambda instrument: (instrument.rank, instrument.name)))


def known_with(tables: Iterable[InstrumentTable]) -> tuple[Instrument, ...]:
    """Return the user's instruments, in the order of their tables, and then all others.

    Raises
    ------
    SettingsError
        If two have the same name.
    """
    own = [of_table(table, own=True) for table in tables]
    known = (*own, *instruments())
    count = Counter(instrument.name for instrument in known)
    twice = [instrument.name for instrument in own if count[instrument.name] > 1]
    if twice:
        message = f"instruments: there is another one of the name {twice[0]!r}; rename yours"
        raise SettingsError(message)
    return known


def recognise(file_name: str, primary: Cards, known: Iterable[Instrument] = ()) -> Instrument:
    """Return the instrument of a file from its name (without folders) and primary header, among `known` or all."""
    return next(instrument for instrument in known or instruments() if instrument.recognises(file_name, primary))


def instrument_of(exposure: Exposure) -> Instrument:
    """Return the instrument of an exposure."""
    return by_name(exposure.instrument) if exposure.table is None else of_table(exposure.table, own=True)


def by_name(name: str, tables: Iterable[InstrumentTable] = ()) -> Instrument:
    """Return the instrument with this name, including the user's own.

    Raises
    ------
    KeyError
        If there is none.
    """
    return {instrument.name: instrument for instrument in known_with(tables)}[name]
