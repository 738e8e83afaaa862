"""The output folder: which files it may contain, how they are written, and how a run starts and ends.

Only files that levelmatch wrote are ever changed. They are listed in the manifest in run.json (of a finished run) or in
the journal (of an unfinished one), or have the name of a temporary file. Files are renamed into place when they are
complete; a file whose bytes would not change is left alone.
"""

import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from levelmatch_core.errors import OutputFolderError
from levelmatch_core.files.locks import FolderLock
from levelmatch_core.files.states import Stamp, stamp_of, state_of
from levelmatch_core.files.writing import is_temporary, room_for, see_on_disk, write_durably
from levelmatch_core.images.reading import file_digest
from levelmatch_core.process.log_context import logger_of
from levelmatch_core.products.manifest import OutputFile
from levelmatch_core.products.output.checks import (
    JOURNAL_SCHEMA,
    contents_of,
    files_in,
    refuse_inputs,
    refuse_unwritable,
)
from levelmatch_core.products.output.placing import (
    CORRECTED,
    EDITED,
    JOURNAL,
    LOG,
    RUN,
    WRITTEN,
    Writer,
    checked_name,
    digests_written,
    keep_aside,
    note_written,
    place_of,
    put,
    stamps_written,
)
from levelmatch_core.products.output.settings_changes import changes_between, numbers_settings
from levelmatch_core.products.runrecord import RunRecord, json_bytes
from levelmatch_core.settings import MatchSettings
from levelmatch_core.text.naming import some_of

__all__ = ["JOURNAL", "LOG", "RUN", "OutputFolder", "numbers_settings", "put"]

logger = logger_of(__name__)


class OutputFolder:
    """An output folder locked by one run; a context manager, created with :meth:`open`."""

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, Any],
        *,
        lock: FolderLock,
        last: RunRecord | None,
        same: bool,
        made: Iterable[str],
        in_journal: bool,
        created: Sequence[Path],
    ) -> None:
        self.path = path
        """Absolute path of the folder."""
        self.last = last
        """The record of the finished run whose files lie here, if there is one."""
        self.previous = last if same else None
        """The same, if it was one of the same settings."""
        self.edited: dict[str, str] = {}
        """Corrected files that somebody edited since a run wrote them, and the names under which they lie now."""
        self.left = ""
        """What :func:`state_left` says at the end of the run: what comes later is not the run's. '' before it, and if a
        file is not as the run wrote or found it."""
        self._settings = dict(settings)
        self._lock = lock
        self._claimed = set(made)
        self._expected: set[str] = set()
        self._in_journal = in_journal
        self._created = created
        self._changed = False
        self._guard = threading.Lock()
        self._digests = digests_written(path)
        for file in last.files if last is not None else ():
            self._digests.setdefault(file.name, set()).add(file.sha256)
        self._looked_at: set[str] = set()
        self._at_first = {name: stamp_of(path / name) for name in self._digests}

    @classmethod
    def open(cls, path: Path, settings: MatchSettings, inputs: Sequence[Path]) -> Self:
        """Check that a run may write to the folder, and lock it; a missing folder is created.

        Parameters
        ----------
        path
            The folder.
        settings
            Settings of this run. The output of another run is taken over only if `overwrite` is set, or if all settings
            that affect the results are the same.
        inputs
            The files and folders that the run reads.

        Raises
        ------
        OutputFolderError
            If the folder cannot be used. Nothing has been written then.
        """
        shown, path = path, path.absolute().resolve()
        refuse_inputs(shown, path, inputs)
        if path.exists() and not path.is_dir():
            message = f"output folder {shown}: is a file; choose a folder"
            raise OutputFolderError(message)
        created = tuple(folder for folder in (path, *path.parents) if not folder.exists())
        lock: FolderLock | None = None
        try:
            path.mkdir(parents=True, exist_ok=True)
            refuse_unwritable(shown, path)
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
        previous, journal, made, ours = contents_of(shown, path, settings)
        same = previous is not None and not changes_between(numbers_settings(previous.settings), ours)
        in_journal = journal is not None and journal["settings"] == ours
        return cls(path, ours, lock=lock, last=previous, same=same, made=made, in_journal=in_journal, created=created)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the folder."""
        self.close()

    def close(self) -> None:
        """Release the folder, and remove it if the run created it and wrote nothing."""
        _let_go(self._lock, self._created)

    def expect(self, names: Iterable[str]) -> None:
        """Announce the files that will be written: the first new file enters all these names into the journal at once.

        Raises
        ------
        OutputFolderError
            If a name leaves the folder or is reserved.
        """
        with self._guard:
            self._expected |= {checked_name(name) for name in names}

    def claim(self, names: Iterable[str]) -> None:
        """Enter names into the journal, so that their files are recognised as levelmatch's after a crash.

        A corrected file of such a name that somebody edited is moved aside first.

        Raises
        ------
        OutputFolderError
            If a name leaves the folder or is reserved.
        """
        checked = {checked_name(name) for name in names}
        for name in sorted(checked):
            self._keep_edited(name)
        with self._guard:
            if self._in_journal and checked <= self._claimed:
                return
            self._claimed |= checked | self._expected
            content = {"schema": JOURNAL_SCHEMA, "settings": self._settings, "files": sorted(self._claimed)}
            write_durably(self.path / JOURNAL, json_bytes(content))
            self._in_journal = True

    def write(self, name: str, writer: Writer) -> OutputFile:
        """Have `writer` create a file, and move it to its place.

        Parameters
        ----------
        name
            Path relative to the folder, posix; missing subfolders are created.
        writer
            Receives the path of a temporary file in the same folder, with the same suffix.

        Returns
        -------
        The file; an existing one with the same bytes is not touched.

        Raises
        ------
        OutputFolderError
            If the name leaves the folder or is reserved.
        """
        note = partial(note_written, self.path, name)

        def before(digest: str) -> None:
            self.claim([name])
            note(digest)

        file, changed = put(self.path, name, writer, before=before, after=note)
        if changed:
            self._changed = True
        return file

    def keeps(self, name: str) -> bool:
        """Return whether a corrected file is here as a run wrote it; one that somebody edited is moved aside."""
        self._keep_edited(name)
        place = place_of(self.path, name)
        return place.is_file() and not place.is_symlink()

    def _keep_edited(self, name: str) -> None:
        """Move a corrected file aside whose bytes are none that a run put there."""
        known = self._digests.get(name)
        if not name.startswith(CORRECTED) or not known or name in self._looked_at:
            return
        self._looked_at.add(name)
        place = place_of(self.path, name)
        if not place.is_file() or place.is_symlink() or file_digest(place) in known:
            return
        kept = keep_aside(self.path, name)
        self.edited[name] = kept
        logger.warning("%s was edited since it was written: it is kept as %s", name, kept)

    def note_change(self) -> None:
        """Record that a worker in another process wrote a new file (see :class:`SharedFolder`)."""
        self._changed = True

    def check(self, file: OutputFile) -> bool:
        """Return whether a file is unchanged: a regular file inside the folder with this digest."""
        try:
            path = place_of(self.path, file.name)
        except OutputFolderError:
            return False
        return path.is_file() and not path.is_symlink() and file_digest(path) == file.sha256

    def harmed(self, name: str) -> bool:
        """Return whether a file that a run wrote here, and that should be here, is missing or was altered since."""
        known = self._digests.get(name)
        if not known:
            return False
        path = place_of(self.path, name)
        return not path.is_file() or path.is_symlink() or file_digest(path) not in known

    def finish(self, record: RunRecord, log: Mapping[str, Any]) -> bool:
        """Finish the run: remove obsolete files, write run.json and log.json, and remove the journal.

        Parameters
        ----------
        record
            Its manifest lists the files that are kept, besides run.json and log.json.
        log
            Content of log.json, in plain JSON types; what was edited is added.

        Returns
        -------
        Whether anything changed. If not, log.json is not rewritten either.

        Raises
        ------
        OutputFolderError
            If a file of the manifest is missing.
        """
        wanted = {file.name for file in record.files}
        missing = [name for name in sorted(wanted) if not place_of(self.path, name).is_file()]
        if missing:
            named = some_of([repr(name) for name in missing])
            message = f"output folder {self.path}: {named} should be there but are missing; run again"
            raise OutputFolderError(message)
        for name in sorted(self._claimed - wanted):
            self._keep_edited(name)
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
            edited = {"edited": sorted(self.edited.values())} if self.edited else {}
            write_durably(self.path / LOG, json_bytes({**log, **edited}))
            if not same:
                write_durably(run, content)
        (self.path / JOURNAL).unlink(missing_ok=True)
        stamps = stamps_written(self.path)
        (self.path / WRITTEN).unlink(missing_ok=True)
        self._in_journal, self._changed, self._claimed = False, False, wanted
        left = state_left(self.path)
        touched = [file.name for file in record.files if self._touched(file, stamps)]
        if touched:
            logger.warning("%s: changed by somebody while the run went on: run again", some_of(touched))
        self.left = left if not touched and run.read_bytes() == content else ""
        return changed

    def _touched(self, file: OutputFile, stamps: Mapping[str, Stamp]) -> bool:
        """Return whether a file is neither as it was before all this run looked at nor as the run put it there."""
        stamp = stamp_of(self.path / file.name)
        known = stamp is not None and stamp in (self._at_first.get(file.name), stamps.get(file.name))
        return not (known or self.check(file))


def state_left(root: Path) -> str:
    """Return the digest of the state of all files in an output folder but the log, which is added to after the run."""
    return state_of(path for path in files_in(root) if path != root / LOG).digest


def note_in_log(root: Path, entries: Mapping[str, Any]) -> None:
    """Add entries to the log.json of a finished output that are known only afterwards, such as run ids."""
    log = root / LOG
    write_durably(log, json_bytes({**json.loads(log.read_bytes()), **entries}))


def clear_temporaries(root: Path) -> None:
    """Remove what a run that was killed left half written; only one that has the folder for itself may do so.

    Its notes of what it wrote stay, until a run has finished.
    """
    for path in [path for path in files_in(root) if is_temporary(path) and path != root / WRITTEN]:
        path.unlink(missing_ok=True)


def files_below(root: Path) -> list[str]:
    """Return the names of all files in an output folder, relative and posix, temporary ones too, edited ones not."""
    names = (path.relative_to(root).as_posix() for path in files_in(root))
    return sorted(name for name in names if not name.startswith(EDITED))


# -- names and files ---------------------------------------------------------------------------------------------------
def _remove(root: Path, name: str) -> bool:
    """Remove a file that levelmatch wrote, and folders that become empty; return whether it existed."""
    if name in {RUN, LOG, JOURNAL}:
        return False
    place = place_of(root, name)
    if place.is_dir() and not place.is_symlink():  # somebody's
        return False
    there = place.is_file() or place.is_symlink()
    place.unlink(missing_ok=True)
    with suppress(OSError):  # folders that are not empty are kept
        for folder in place.parents:
            if folder == root:
                break
            folder.rmdir()
    return there


def _let_go(lock: FolderLock | None, folders: Iterable[Path]) -> None:
    with suppress(OSError):  # only empty folders are removed
        for folder in folders:
            folder.rmdir()
    if lock is not None:
        lock.release()
