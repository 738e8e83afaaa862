"""The output folder: what may lie in it, how a file gets into it, and how a run on it begins and ends.

Only files that levelmatch made are ever touched. They are known by the manifest in run.json (a finished run), by the
journal (an unfinished one), and by the names of temporary files. A file appears by rename, whole; one whose bytes
would not change is left alone.
"""

import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from levelmatch_core.disk_full import room_for
from levelmatch_core.errors import OutputFolderError
from levelmatch_core.files.durable import see_on_disk
from levelmatch_core.images.reading import digest_of
from levelmatch_core.products.manifest import OutputFile
from levelmatch_core.products.output.lock import FolderLock
from levelmatch_core.products.output.placing import (
    JOURNAL,
    LOG,
    RUN,
    Writer,
    checked_name,
    is_temporary,
    place_of,
    put,
    replace,
)
from levelmatch_core.products.runrecord import RunRecord, json_bytes
from levelmatch_core.settings import MatchSettings, roles_by_name

__all__ = ["JOURNAL", "LOG", "RUN", "OutputFolder", "put"]

JOURNAL_SCHEMA = 1
_SHOWN = 5
"""How many names a message shows."""


class OutputFolder:
    """An output folder in the hands of one run: a context manager. Make it with :meth:`open`."""

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, Any],
        *,
        lock: FolderLock,
        previous: RunRecord | None,
        made: Iterable[str],
        in_journal: bool,
        created: Sequence[Path],
    ) -> None:
        self.path = path
        """The folder, absolute."""
        self.previous = previous
        """The record of the finished run of the same settings whose files lie here, if there is one."""
        self._settings = dict(settings)
        self._lock = lock
        self._claimed = set(made)
        self._expected: set[str] = set()
        self._in_journal = in_journal
        self._created = created
        self._changed = False
        self._guard = threading.Lock()

    @classmethod
    def open(cls, path: Path, settings: MatchSettings, inputs: Sequence[Path]) -> Self:
        """Check that a run may write here, and hold the folder for it; what is not there is made.

        Parameters
        ----------
        path
            The folder.
        settings
            Of this run. Another run's output is taken over only where `overwrite` is set, or all settings that can
            change a number are the same.
        inputs
            The files and folders that the run reads.

        Raises
        ------
        OutputFolderError
            If the folder cannot be used. Nothing was written.
        """
        shown, path = path, path.absolute().resolve()
        _refuse_inputs(shown, path, inputs)
        if path.exists() and not path.is_dir():
            message = f"output folder {shown}: is a file; choose a folder"
            raise OutputFolderError(message)
        created = tuple(folder for folder in (path, *path.parents) if not folder.exists())
        lock: FolderLock | None = None
        try:
            path.mkdir(parents=True, exist_ok=True)
            _refuse_unwritable(shown, path)
            lock = FolderLock(path)
            return cls._opened(shown, path, settings, lock, created)
        except OSError as error:
            _let_go(lock, created)
            message = f"output folder {shown}: {error.strerror or error}; choose another folder"
            raise OutputFolderError(message) from error
        except OutputFolderError:
            _let_go(lock, created)
            raise

    @classmethod
    def _opened(
        cls, shown: Path, path: Path, settings: MatchSettings, lock: FolderLock, created: Sequence[Path]
    ) -> Self:
        previous = RunRecord.load(path / RUN) if (path / RUN).exists() else None
        journal = _load_journal(path / JOURNAL) if (path / JOURNAL).exists() else None
        made = _made(previous, journal)
        _refuse_foreign(shown, path, made)
        ours = numbers_settings(settings.model_dump(mode="json"))
        # an unfinished run was let in by a check like this one: its settings are the newest
        theirs = journal["settings"] if journal else numbers_settings(previous.settings) if previous else ours
        if not settings.overwrite:
            _refuse_other_settings(shown, theirs, ours, unfinished=journal is not None)
        if previous is not None and _differences(numbers_settings(previous.settings), ours):
            previous = None
        in_journal = journal is not None and journal["settings"] == ours
        return cls(path, ours, lock=lock, previous=previous, made=made, in_journal=in_journal, created=created)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the folder go."""
        self.close()

    def close(self) -> None:
        """Let the folder go; if the run made it and wrote nothing, it is not left behind."""
        _let_go(self._lock, self._created)

    def expect(self, names: Iterable[str]) -> None:
        """Tell what will be written: the first file that is new puts all these names into the journal, at one go.

        Raises
        ------
        OutputFolderError
            If a name leaves the folder or is reserved.
        """
        with self._guard:
            self._expected |= {checked_name(name) for name in names}

    def claim(self, names: Iterable[str]) -> None:
        """Put names into the journal, so that after a crash their files are known as levelmatch's.

        Raises
        ------
        OutputFolderError
            If a name leaves the folder or is reserved.
        """
        checked = {checked_name(name) for name in names}
        with self._guard:
            if self._in_journal and checked <= self._claimed:
                return
            self._claimed |= checked | self._expected
            content = {"schema": JOURNAL_SCHEMA, "settings": self._settings, "files": sorted(self._claimed)}
            replace(self.path / JOURNAL, json_bytes(content))
            self._in_journal = True

    def write(self, name: str, writer: Writer) -> OutputFile:
        """Let `writer` make a file, and put it in its place.

        Parameters
        ----------
        name
            Path relative to the folder, posix; its folders are made.
        writer
            Gets the path of a temporary file in the same folder, with the same suffix.

        Returns
        -------
        The file; one that was there with the same bytes is left untouched.

        Raises
        ------
        OutputFolderError
            If the name leaves the folder or is reserved.
        """
        file, changed = put(self.path, name, writer, before=lambda: self.claim([name]))
        if changed:
            self._changed = True
        return file

    def note_change(self) -> None:
        """Note that a worker of another process put a new file into its place (see :class:`SharedFolder`)."""
        self._changed = True

    def check(self, file: OutputFile) -> bool:
        """Return whether a file is here as it was written: a regular file inside the folder with this digest."""
        try:
            path = place_of(self.path, file.name)
        except OutputFolderError:
            return False
        return path.is_file() and not path.is_symlink() and digest_of(path) == file.sha256

    def finish(self, record: RunRecord, log: Mapping[str, Any]) -> bool:
        """End the run: remove what it no longer needs, write run.json and log.json, and drop the journal.

        Parameters
        ----------
        record
            Its manifest is what stays, besides run.json and log.json.
        log
            Content of log.json: plain JSON types.

        Returns
        -------
        Whether anything changed. If not, log.json is not touched either.

        Raises
        ------
        OutputFolderError
            If a file of the manifest is not there.
        """
        wanted = {file.name for file in record.files}
        missing = [name for name in sorted(wanted) if not place_of(self.path, name).is_file()]
        if missing:
            message = f"output folder {self.path}: {_some(missing)} should be there and are not; run again"
            raise OutputFolderError(message)
        for name in sorted(self._claimed - wanted):
            self._changed |= _remove(self.path, name)
        clear_temporaries(self.path)
        content = record.to_bytes()
        run = self.path / RUN
        same = run.is_file() and run.read_bytes() == content
        changed = self._changed or not same
        if changed:
            self.claim([])
            with room_for(self.path):
                see_on_disk((place_of(self.path, name) for name in sorted(wanted)), self.path)
            replace(self.path / LOG, json_bytes(log))
            if not same:
                replace(run, content)
        (self.path / JOURNAL).unlink(missing_ok=True)
        self._in_journal, self._changed, self._claimed = False, False, wanted
        return changed


def note_in_log(root: Path, entries: Mapping[str, Any]) -> None:
    """Add entries to the log.json of a finished output: what is known only after it was finished, such as run ids."""
    log = root / LOG
    replace(log, json_bytes({**json.loads(log.read_bytes()), **entries}))


def clear_temporaries(root: Path) -> None:
    """Remove what a run that was killed left half written; only one that has the folder for itself may do so."""
    for path in [path for path in _walk(root) if is_temporary(path)]:
        path.unlink(missing_ok=True)


def files_below(root: Path) -> list[str]:
    """Return the names of all files in an output folder, relative and posix, temporary ones too."""
    return sorted(path.relative_to(root).as_posix() for path in _walk(root))


def numbers_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return those settings (name -> plain value) that can change a number."""
    roles = roles_by_name()
    return {name: value for name, value in settings.items() if roles.get(name, "input") not in {"run", "draw"}}


# -- who may come in ---------------------------------------------------------------------------------------------------
def _refuse_inputs(shown: Path, path: Path, inputs: Iterable[Path]) -> None:
    for given in inputs:
        for found in (given.absolute(), given.resolve()):
            if found == path or path in found.parents:
                where = "is also an input" if found == path else f"holds the input {given}"
                message = f"output folder {shown}: {where}; choose another folder"
                raise OutputFolderError(message)


def _refuse_unwritable(shown: Path, path: Path) -> None:
    if not os.access(path, os.W_OK | os.X_OK):
        message = f"output folder {shown}: no permission to write; choose another folder"
        raise OutputFolderError(message)


def _refuse_foreign(shown: Path, path: Path, made: set[str]) -> None:
    foreign = sorted(
        found.relative_to(path).as_posix()
        for found in _walk(path)
        if found.is_symlink() or (found.relative_to(path).as_posix() not in made and not is_temporary(found))
    )
    if foreign:
        message = f"output folder {shown}: holds files that levelmatch did not make ({_some(foreign)}); choose another"
        raise OutputFolderError(message)


def _refuse_other_settings(
    shown: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any], *, unfinished: bool
) -> None:
    differing = _differences(theirs, ours)
    if differing:
        kind = "an unfinished run" if unfinished else "a run"
        changes = "; ".join(f"{name} was {old!r}, now {new!r}" for name, (old, new) in differing.items())
        message = (
            f"output folder {shown}: made by {kind} with other settings: {changes}; use the same, choose another "
            f"folder, or set overwrite=true to replace what levelmatch made there"
        )
        raise OutputFolderError(message)


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ; one that an older version did not know had today's default."""
    defaults = MatchSettings().model_dump(mode="json")
    names = sorted({*theirs, *ours})
    pairs = {name: (theirs.get(name, defaults.get(name)), ours.get(name, defaults.get(name))) for name in names}
    return {name: (old, new) for name, (old, new) in pairs.items() if old != new}


def _made(previous: RunRecord | None, journal: Mapping[str, Any] | None) -> set[str]:
    """Return the names of the files that levelmatch made here."""
    names: set[str] = set()
    if previous is not None:
        names |= {file.name for file in previous.files} | {RUN, LOG}
    if journal is not None:
        names |= {*journal["files"], JOURNAL, LOG}
    return names


def _load_journal(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes())
        known = data["schema"] == JOURNAL_SCHEMA and isinstance(data["settings"], dict)
        if known and all(isinstance(name, str) for name in data["files"]):
            return dict(data)
    except (OSError, ValueError, TypeError, KeyError) as error:
        message = f"{path}: not a journal of levelmatch ({type(error).__name__}: {error}); choose another folder"
        raise OutputFolderError(message) from error
    message = f"{path}: not a journal that this version of levelmatch reads; choose another folder"
    raise OutputFolderError(message)


# -- names and files ---------------------------------------------------------------------------------------------------
def _remove(root: Path, name: str) -> bool:
    """Remove a file of ours, and the folders that are empty without it; return whether it was there."""
    if name in {RUN, LOG, JOURNAL}:
        return False
    place = place_of(root, name)
    there = place.is_file() or place.is_symlink()
    place.unlink(missing_ok=True)
    with suppress(OSError):  # a folder that is not empty stays
        for folder in place.parents:
            if folder == root:
                break
            folder.rmdir()
    return there


def _walk(root: Path) -> Iterator[Path]:
    """Yield all files below a folder, and links to folders, without following any."""
    for folder, folders, files in os.walk(root):
        yield from (Path(folder, name) for name in files)
        yield from (Path(folder, name) for name in folders if Path(folder, name).is_symlink())


def _let_go(lock: FolderLock | None, folders: Iterable[Path]) -> None:
    with suppress(OSError):  # only empty folders go
        for folder in folders:
            folder.rmdir()
    if lock is not None:
        lock.release()


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(repr(name) for name in names[:_SHOWN]) + more
