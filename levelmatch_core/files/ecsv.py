"""ECSV tables, written so that astropy reads back every text, and read with every fault as one error.

astropy writes a text as it stands, and reads it with blanks at its ends gone, a row that begins with # as a comment,
and lines cut at more characters than a line feed. A column that holds such a text is written as JSON, which ECSV knows
(subtype json): astropy gives it back as a column of Python strings. All other columns are written as ever.
"""

import warnings
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.table import Column, MaskedColumn, Table

from levelmatch_core.files.regular import refuse_irregular

FAULTS = (OSError, ValueError, TypeError, KeyError, RecursionError)
"""What reading a table raises that is none, or damaged."""


def write_ecsv(path: Path, table: Table) -> None:
    """Write a table; the same content gives the same bytes."""
    written = table.copy(copy_data=False)
    for name in table.colnames:
        column = table[name]
        if column.dtype.kind == "U" and not all(_is_ordinary(str(text)) for text in column):
            held = np.empty(len(column), dtype=object)
            held[:] = [str(text) for text in column]
            written.replace_column(name, Column(held, name=name))
    written.write(path, format="ascii.ecsv", overwrite=True)


def read_ecsv(path: Path) -> Table:
    """Read a table; its texts are columns of texts, whether they were written as JSON or not.

    Raises
    ------
    OSError, ValueError, TypeError, KeyError, RecursionError
        If the file is no such table.
    """
    refuse_irregular(path, ValueError)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", u.UnitsWarning)  # BUNIT may be anything
        table = Table.read(path, format="ascii.ecsv")
    for name in table.colnames:
        column = table[name]
        if column.dtype == object:
            if not all(isinstance(text, str) for text in column):
                message = f"column {name}: holds other things than texts"
                raise ValueError(message)
            table.replace_column(name, Column(np.array(list(column), dtype=str), name=name))
        elif column.dtype.kind == "U" and isinstance(column, MaskedColumn):
            # astropy takes an empty text for a missing one
            table.replace_column(name, Column(column.filled(""), name=name))
    return table


def _is_ordinary(text: str) -> bool:
    """Return whether a text comes back as it is: of printable characters, no blank at its ends, no quotes."""
    return text.isprintable() and text == text.strip() and not text.startswith("#") and not set(text) & set("\"'\\")
