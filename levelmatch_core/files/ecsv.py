"""ECSV tables that astropy reads back without changes to any text.

astropy writes texts unchanged, but strips blanks at their ends when reading, treats rows that start with # as comments,
and splits lines at other characters than line feeds. Columns with such texts are therefore written as JSON, which ECSV
supports (subtype json) and astropy reads as a column of Python strings. All other columns are written as usual.
"""

import io
import warnings
from itertools import islice
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.table import Column, MaskedColumn, Table

from levelmatch_core.files.regular import refuse_irregular

BLOCK = 1000
"""Number of rows whose text is made at a time."""

FAULTS = (OSError, ValueError, TypeError, KeyError, RecursionError)
"""Errors raised when a file is not a table, or damaged."""


def write_ecsv(path: Path, table: Table) -> None:
    """Write a table; the same content gives the same bytes, which are those that astropy would write at once.

    The text is made of blocks of rows one after the other: that of a whole table takes several times its memory.
    """
    written = table.copy(copy_data=False)
    for name in table.colnames:
        column = table[name]
        if column.dtype.kind == "U" and not all(_is_ordinary(str(text)) for text in column):
            held = np.empty(len(column), dtype=object)
            held[:] = [str(text) for text in column]
            written.replace_column(name, Column(held, name=name))
    with path.open("w", encoding="utf-8", newline="") as stream:
        head = 0
        for start in range(0, max(1, len(written)), BLOCK):
            text = io.StringIO()
            written[start : start + BLOCK].write(text, format="ascii.ecsv")
            text.seek(0)
            lines = iter(text)
            if start == 0:
                for line in lines:
                    stream.write(line)
                    head += 1
                    if not line.startswith("#"):  # the names of the columns end the header
                        break
            else:
                next(islice(lines, head - 1, head))
            stream.writelines(lines)


def read_ecsv(path: Path) -> Table:
    """Read a table; columns of texts are strings, whether they were written as JSON or not.

    Raises
    ------
    OSError, ValueError, TypeError, KeyError, RecursionError
        If the file is not such a table.
    """
    refuse_irregular(path, ValueError)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", u.UnitsWarning)  # BUNIT may be anything
        table = Table.read(path, format="ascii.ecsv")
    for name in table.colnames:
        column = table[name]
        if column.dtype == object:
            if not all(isinstance(text, str) for text in column):
                message = f"column {name}: contains values that are not texts"
                raise ValueError(message)
            table.replace_column(name, Column(np.array(list(column), dtype=str), name=name))
        elif column.dtype.kind == "U" and isinstance(column, MaskedColumn):
            # astropy reads an empty text as a missing one
            table.replace_column(name, Column(column.filled(""), name=name))
    return table


def _is_ordinary(text: str) -> bool:
    """Return whether a text is read back unchanged: printable characters, no blanks at its ends, no quotes."""
    return text.isprintable() and text == text.strip() and not text.startswith("#") and not set(text) & set("\"'\\")
