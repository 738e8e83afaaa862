"""What an output folder must be before a run writes to it: no input, writable, without other files or settings."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from levelmatch_core.errors import OutputFolderError
from levelmatch_core.files.regular import irregular, refuse_irregular
from levelmatch_core.files.writing import is_temporary
from levelmatch_core.products.output.placing import CORRECTED, EDITED, JOURNAL, LOG, RUN
from levelmatch_core.products.output.settings_changes import changes_between, numbers_settings, told_settings
from levelmatch_core.products.runrecord import RunRecord
from levelmatch_core.settings import MatchSettings
from levelmatch_core.text.naming import some_of

JOURNAL_SCHEMA = 1
TABLES = ("corrections.ecsv", "pairs.ecsv")
"""Tables that every run writes, after all else."""
_SHOWN = 5
"""Number of names shown in a message."""


def check_folder(path: Path, settings: MatchSettings, inputs: Sequence[Path]) -> None:
    """Check all that a run does before it writes, and change nothing.

    Parameters
    ----------
    path, settings, inputs
        As for :meth:`levelmatch_core.products.output.folder.OutputFolder.open`.

    Raises
    ------
    OutputFolderError
        If a run could not use the folder.
    """
    shown, path = path, path.absolute().resolve()
    refuse_inputs(shown, path, inputs)
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    if not there.is_dir():
        message = f"output folder {shown}: {'' if there == path else f'{there} '}is a file; choose a folder"
        raise OutputFolderError(message)
    try:
        refuse_unwritable(shown, there)
        if there == path:
            contents_of(shown, path, settings)
    except OSError as error:
        message = f"output folder {shown}: {error.strerror or error}; choose another folder"
        raise OutputFolderError(message) from error


def contents_of(
    shown: Path, path: Path, settings: MatchSettings
) -> tuple[RunRecord | None, Mapping[str, Any] | None, set[str], dict[str, Any]]:
    """Return what lies in a folder (record, journal, names of files that levelmatch made) and the settings of this run.

    Raises
    ------
    OutputFolderError
        If there are other files, or those of other settings.
    """
    previous = RunRecord.load(path / RUN) if (path / RUN).exists() else None
    journal = _load_journal(path / JOURNAL) if (path / JOURNAL).exists() else None
    made = _made(previous, journal)
    _refuse_foreign(shown, path, made)
    ours = numbers_settings(settings.model_dump(mode="json"))
    # an unfinished run has passed this check before: its settings are the most recent
    theirs = journal["settings"] if journal else numbers_settings(previous.settings) if previous else ours
    if not settings.overwrite:
        _refuse_other_settings(shown, theirs, ours, unfinished=journal is not None)
    return previous, journal, made, ours


def refuse_inputs(shown: Path, path: Path, inputs: Iterable[Path]) -> None:
    """Refuse a folder that is, or holds, an input."""
    for given in inputs:
        for found in (given.absolute(), given.resolve()):
            if found == path or path in found.parents:
                where = "is also an input" if found == path else f"contains the input {given}"
                message = f"output folder {shown}: {where}; choose another folder"
                raise OutputFolderError(message)


def refuse_unwritable(shown: Path, path: Path) -> None:
    """Refuse a folder without permission to write."""
    if not os.access(path, os.W_OK | os.X_OK):
        message = f"output folder {shown}: no permission to write; choose another folder"
        raise OutputFolderError(message)


def _refuse_foreign(shown: Path, path: Path, made: set[str]) -> None:
    foreign = sorted(
        found.relative_to(path).as_posix()
        for found in files_in(path)
        if found.is_symlink() or irregular(found) or not (is_temporary(found) or _is_ours(found, path, made))
    )
    if foreign:
        named = some_of([repr(name) for name in foreign], _SHOWN)
        message = f"output folder {shown}: contains files that levelmatch did not make ({named}); choose another"
        raise OutputFolderError(message)
    # one in the place of a corrected file fails that, and no other
    folders = sorted(name for name in {*made, *TABLES} if not name.startswith(CORRECTED) and (path / name).is_dir())
    if folders:
        message = (
            f"output folder {shown}: {some_of([repr(name) for name in folders], _SHOWN)} is a folder; move it away"
        )
        raise OutputFolderError(message)


def _is_ours(found: Path, root: Path, made: set[str]) -> bool:
    name = found.relative_to(root).as_posix()
    return name in made or name.startswith(EDITED)


def _refuse_other_settings(
    shown: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any], *, unfinished: bool
) -> None:
    differing = changes_between(theirs, ours)
    if differing:
        kind = "an unfinished run" if unfinished else "a run"
        message = (
            f"output folder {shown}: written by {kind} with other settings: {told_settings(differing)}; use the same "
            f"settings, choose another folder, or set overwrite=true to replace the files that levelmatch wrote there"
        )
        raise OutputFolderError(message)


def _made(previous: RunRecord | None, journal: Mapping[str, Any] | None) -> set[str]:
    """Return the names of the files that levelmatch wrote to the folder."""
    names: set[str] = set()
    if previous is not None:
        names |= {file.name for file in previous.files} | {RUN, LOG}
    if journal is not None:
        names |= {*journal["files"], JOURNAL, LOG}
    return names


def _load_journal(path: Path) -> dict[str, Any]:
    refuse_irregular(path, OutputFolderError)
    try:
        data = json.loads(path.read_bytes())
        known = data["schema"] == JOURNAL_SCHEMA and isinstance(data["settings"], dict)
        if known and all(isinstance(name, str) for name in data["files"]):
            return dict(data)
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        message = f"{path}: not a journal of levelmatch ({type(error).__name__}: {error}); choose another folder"
        raise OutputFolderError(message) from error
    message = f"{path}: not a journal that this version of levelmatch reads; choose another folder"
    raise OutputFolderError(message)


def files_in(root: Path) -> Iterator[Path]:
    """Yield all files below a folder, and links to folders, without following links."""
    for folder, folders, files in os.walk(root):
        yield from (Path(folder, name) for name in files)
        yield from (Path(folder, name) for name in folders if Path(folder, name).is_symlink())
