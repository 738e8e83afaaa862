"""Tiles that the user names: by a regular expression on the file's name, or by a table."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath

from levelmatch_core.errors import DataError, UsageError
from levelmatch_core.files.regular import refuse_irregular
from levelmatch_core.text.patterns import Pattern

GroupBy = Callable[[str], str]
"""Gives the tile of a file, by its shown name; raises DataError where the user named none."""

_COLUMNS = ("file", "tile")


def grouping(group_by: str | Path | GroupBy) -> GroupBy:
    """Return the function that gives each file's tile.

    Parameters
    ----------
    group_by
        An existing file: a table of two columns, file and tile (ECSV, CSV or separated by blanks), the file by its
        shown name or by its name alone. Anything else: a regular expression, searched in the shown name, whose first
        group, or whole match, is the tile. Or the function itself.

    Raises
    ------
    UsageError
        If the table or the expression cannot be used.
    """
    if not isinstance(group_by, str | Path):
        return group_by
    if _is(Path.is_file, group_by):
        return _by_table(Path(group_by))
    if not _is(Path.is_dir, group_by):  # a folder may be called as an expression is
        refuse_irregular(Path(group_by), UsageError, f"group_by {group_by}")
    try:
        pattern = Pattern(str(group_by))
    except UsageError as error:
        message = (
            f"group_by {str(group_by)!r}: neither an existing file nor a regular expression ({error}); expressions are "
            f"those of RE2"
        )
        raise UsageError(message) from error
    return _by_pattern(pattern)


def _is(kind: Callable[[Path], bool], group_by: str | Path) -> bool:
    """Return whether something is a file of a kind; an expression may be none that any file can be called by."""
    with suppress(OSError, ValueError):
        return kind(Path(group_by))
    return False


def _by_pattern(pattern: Pattern) -> GroupBy:
    def tile(shown: str) -> str:
        name = pattern.first(shown)
        if not name:
            message = (
                f"{shown}: group_by {pattern.text!r} names no tile for it (no file of that name exists either); "
                f"make the expression match every file"
            )
            raise DataError(message)
        return name

    return tile


def _by_table(path: Path) -> GroupBy:
    tiles: dict[str, str] = {}
    for file, tile in _rows(path):
        if tiles.setdefault(file, tile) != tile:
            message = f"group_by table {path}: names two tiles for {file}: {tiles[file]!r} and {tile!r}"
            raise UsageError(message)

    def tile_of(shown: str) -> str:
        name = tiles.get(shown) or tiles.get(PurePosixPath(shown).name)
        if not name:
            message = f"{shown}: group_by table {path.name} names no tile for it; add a row"
            raise DataError(message)
        return name

    return tile_of


def _rows(path: Path) -> list[tuple[str, str]]:
    """Read the two columns as text: a tile called 007 keeps its zeros."""
    # here and no earlier: tables take a third of a second to import, and few files are grouped by one
    from astropy.io import ascii as text_tables  # noqa: PLC0415

    try:
        head = path.read_text(encoding="utf-8").partition("\n")[0]
        as_text = {"*": [text_tables.convert_numpy(str)]}
        table = text_tables.read(path, guess=False, converters=as_text, **_form(head))
    except (text_tables.InconsistentTableError, ValueError) as error:
        reason = " ".join(str(error).split())
        message = f"group_by table {path}: cannot be read as two columns, file and tile ({reason})"
        raise UsageError(message) from error
    columns = {name.lower(): [str(value).strip() for value in table[name]] for name in table.colnames}
    if set(columns) != set(_COLUMNS):
        message = f"group_by table {path}: has the columns {', '.join(table.colnames)}, expected file and tile"
        raise UsageError(message)
    return list(zip(columns["file"], columns["tile"], strict=True))


def _form(head: str) -> dict[str, object]:
    """Return how to read a table, by its first line: ECSV, else by the separator that it has; with a header or not."""
    if head.startswith("# %ECSV"):
        return {"format": "ecsv"}
    delimiter = next((mark for mark in ",\t" if mark in head), " ")
    words = {word.strip(" \"'\r").lower() for word in head.split(None if delimiter == " " else delimiter)}
    if words & set(_COLUMNS):
        return {"format": "basic", "delimiter": delimiter}
    return {"format": "no_header", "delimiter": delimiter, "names": _COLUMNS}
