"""The instruments that levelmatch knows: each module here that defines `INSTRUMENT` is one, and each TOML table."""

import importlib
import pkgutil
from functools import cache
from pathlib import Path

from astropy.io import fits

from levelmatch_core.images.instruments.base import Instrument, Part, Source
from levelmatch_core.images.instruments.table import load

__all__ = ["Instrument", "Part", "Source", "by_name", "instruments", "recognise"]


@cache
def instruments() -> tuple[Instrument, ...]:
    """Return all instruments, in the order in which they are asked: the generic one last."""
    modules = (importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__))
    known = [module.INSTRUMENT for module in modules if hasattr(module, "INSTRUMENT")]
    known += [load(path) for folder in __path__ for path in sorted(Path(folder).glob("*.toml"))]
    return tuple(sorted(known, key=lambda instrument: (instrument.rank, instrument.name)))


def recognise(file_name: str, primary: fits.Header) -> Instrument:
    """Return the instrument of a file, by its name (without folders) and primary header."""
    return next(instrument for instrument in instruments() if instrument.recognises(file_name, primary))


def by_name(name: str) -> Instrument:
    """Return the instrument of this name.

    Raises
    ------
    KeyError
        If there is none.
    """
    return {instrument.name: instrument for instrument in instruments()}[name]
