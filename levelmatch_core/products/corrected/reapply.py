"""Applying a known solution to other files: another reduction of the same exposures."""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from levelmatch_core.errors import DataError, LevelMatchError, NoInputError, OutputFolderError
from levelmatch_core.images.exposure import Exposure, Failure
from levelmatch_core.images.inventory import take_inventory
from levelmatch_core.images.missing import MissingInput
from levelmatch_core.matching.corrections import Correction
from levelmatch_core.products.corrected.known_solution import Known, KnownSolution
from levelmatch_core.products.corrected.undo import Restored, put_new, refuse_overlap
from levelmatch_core.products.corrected.write import products_of, write_corrected
from levelmatch_core.products.manifest import OutputFile
from levelmatch_core.products.output.folder import clear_temporaries
from levelmatch_core.products.output.placing import Sha256, Writer
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.grid import Grid
from levelmatch_core.text.naming import some_of

STEP = "apply"


def apply_solution(
    table: Path, inputs: Sequence[Path], output: Path, *, recursive: bool = False, missing: Sequence[MissingInput] = ()
) -> Restored:
    """Subtract the corrections of a table from other files of the same exposures.

    Exposures are identified by their name in the table or, if no row has the full name, by the name of the file without
    folders, if exactly one row has that.

    Parameters
    ----------
    table
        A corrections.ecsv.
    inputs
        Files and folders, as for a run.
    output
        The folder for the corrected files. Existing files are not changed.
    recursive
        Whether to search folders within folders.
    missing
        Files of the inputs that are not there: each is a failure.

    Returns
    -------
    The files, with the names of the inputs. Exposures that are not in the table are failures, and their files are not
    written.

    Raises
    ------
    UsageError
        If the table, an input or the output folder cannot be used.
    NoInputError
        If no exposure of the inputs is in the table.
    """
    solution = KnownSolution.read(table)
    refuse_overlap(output, *(path if path.is_dir() else path.parent for path in inputs), table.parent)
    settings = solution.settings()
    inventory = take_inventory(inputs, settings, recursive=recursive, exclude=(output,), missing=missing)
    failures = list(inventory.failures)
    corrections = []
    find = _finder(solution)
    for exposure in (exposure for field in inventory.fields for exposure in field.exposures):
        try:
            corrections.append(_known(exposure, find, solution).correction(exposure))
        except DataError as error:
            failures.append(_failure(exposure.file, error, [exposure]))
    lost = {failure.name for failure in failures}
    parts_of = products_of(corrections)
    whole = {name: parts for name, parts in parts_of.items() if not lost & {part.exposure.file for part in parts}}
    if not whole:
        reasons = "".join(f"\n  {failure.reason}" for failure in failures[:10])
        message = f"no input to which {table} can be applied:{reasons}"
        raise NoInputError(message)
    files: list[OutputFile] = []
    notes: list[str] = []
    for name, parts in whole.items():
        said: list[str] = []
        try:
            files.append(put_new(output, name, _writer(parts, solution.grids, settings, said)))
            notes += said
        except OutputFolderError:
            raise
        except (LevelMatchError, OSError) as error:
            failures.append(_failure(name, error, [part.exposure for part in parts]))
    clear_temporaries(output)
    return Restored(tuple(files), tuple(notes), tuple(failures))


Finder = Callable[[str], Sequence[Known]]
"""Name of an exposure -> its rows."""


def _finder(solution: KnownSolution) -> Finder:
    whole: dict[str, list[Known]] = {}
    last: dict[str, list[Known]] = {}
    for row in solution.rows:
        whole.setdefault(row.exposure, []).append(row)
        last.setdefault(PurePosixPath(row.exposure).name, []).append(row)
    return lambda name: whole.get(name) or last.get(PurePosixPath(name).name, [])


def _known(exposure: Exposure, find: Finder, solution: KnownSolution) -> Known:
    """Return the row of an exposure.

    Raises
    ------
    DataError
        If there is none, or if it describes something else.
    """
    rows = find(exposure.name)
    name = PurePosixPath(exposure.name).name
    if len(rows) > 1:
        message = (
            f"{exposure.name}: {len(rows)} rows of the table have this name: {_listed(row.exposure for row in rows)}"
        )
        raise DataError(message)
    if not rows:
        if any(PurePosixPath(failed).name == name for failed in solution.failed):
            message = f"{exposure.name}: failed in the run that made the table, so that its level is not known"
            raise DataError(message)
        near = difflib.get_close_matches(name, [PurePosixPath(row.exposure).name for row in solution.rows], n=2)
        hint = f"; similar names: {_listed(near)}" if near else ""
        message = f"{exposure.name}: not in the table, in which exposures are identified by file name{hint}"
        raise DataError(message)
    (row,) = rows
    if row.unit != exposure.unit:
        message = (
            f"{exposure.name}: BUNIT is {exposure.unit!r}, in the table {row.unit!r}: the levels cannot be applied"
        )
        raise DataError(message)
    if row.window != exposure.window:
        message = f"{exposure.name}: is another part of its image ({exposure.window}) than in the table ({row.window})"
        raise DataError(message)
    return row


def _writer(
    parts: Sequence[Correction], grids: Mapping[str, Grid], settings: MatchSettings, notes: list[str]
) -> Writer:
    def write(path: Path) -> Sha256:
        made = write_corrected(path, parts, grids, settings)
        notes.extend(made.notes)
        return Sha256(made.sha256)

    return write


def _failure(name: str, error: Exception, exposures: Iterable[Exposure]) -> Failure:
    names = tuple(exposure.name for exposure in exposures)
    return Failure(name=name, step=STEP, error=type(error).__name__, reason=str(error), exposures=names)


def _listed(names: Iterable[str]) -> str:
    return some_of(sorted(names))
