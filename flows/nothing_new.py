"""What `levelmatch run` can say at once: that nothing is new since its last run.

Prefect and MLflow take ten times as long to import as it takes to look: so a run that ended well leaves a note of what
it was asked and of the state of all files that it read and wrote. Where all of that is as it was, the note answers, and
no flow run is made. It is kept only where the records in Prefect and MLflow are those of LEVELMATCH_HOME: a server that
others look at hears of every run. Nothing here imports Prefect, MLflow or numerics.
"""

import hashlib
import os
import sqlite3
import stat
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field as Described
from pydantic import ValidationError

import flows
import levelmatch_core
from flows.found_here import FILES
from flows.home import Home
from flows.orchestration.availability import DATABASES
from levelmatch_core.errors import UsageError
from levelmatch_core.files.sealed import seal, unseal
from levelmatch_core.files.states import SETTLED, State, state_of
from levelmatch_core.files.writing import write_durably
from levelmatch_core.images.associations import is_association, science_members
from levelmatch_core.process.versions import levelmatch_version, versions_of_libraries
from levelmatch_core.products.grade import Grade
from levelmatch_core.records import Record
from levelmatch_core.settings import MatchSettings

if TYPE_CHECKING:
    from flows.summary import Summary

_OF_PACKAGES = ("LEVELMATCH_", "MLFLOW_", "NUMBA_", "PREFECT_")
"""What the names of variables begin with that may change a run, or where its records are."""

_ELSEWHERE = ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", *DATABASES)
"""Variables that give the address of a record elsewhere."""

_LONGEST = 90 * 86400.0
"""Seconds for which a note is kept that no run renews."""


class LastRun(Record):
    """What a run left that ended with everything matched."""

    asked: str = Described(description="digest of what was asked for: inputs, settings, versions, environment")
    read: str = Described(description="digest of the state of all files that it may have read")
    written: str = Described(description="digest of the state of all files in its output")
    ended: float = Described(description="Unix time, seconds")
    mlflow_run: str
    grade: Grade
    lines: tuple[str, ...] = Described(description="what it said of its result, as for a run that changes nothing")
    warnings: tuple[str, ...] = Described(description="what it warned of")


@dataclass(frozen=True)
class _Reading:
    """What is read: files, and folders with all that they hold."""

    places: tuple[Path, ...]
    without: tuple[Path, ...] = ()
    """What is passed over in folders."""
    deep: bool = False
    """Whether folders within folders are read."""

    def state(self) -> State:
        """Return the state of all files as it is now."""
        return state_of(path for place in self.places for path in self._files(place))

    def _files(self, place: Path) -> Iterator[str]:
        if not place.is_dir():
            yield str(place)
            return
        passed = {str(path) for path in self.without}
        for folder, folders, names in os.walk(place):
            inner = [name for name in folders if os.path.join(folder, name) not in passed]  # noqa: PTH118 - as above
            yield from (os.path.join(folder, name) for name in names)  # noqa: PTH118 - as above
            if not self.deep:
                return
            folders[:] = inner


@dataclass(frozen=True)
class Question:
    """What a command was asked for, and the state of its inputs when it was."""

    home: Home
    output: Path
    asked: str
    """As in :class:`LastRun`."""
    reading: _Reading
    state: State
    begun: float
    """When that state was looked at: Unix time, seconds."""

    @classmethod
    def of(
        cls,
        inputs: Iterable[Path | str],
        output: Path,
        settings: MatchSettings,
        options: Mapping[str, Any],
        environ: Mapping[str, str] = os.environ,
    ) -> Self | None:
        """Return the question, None where nothing but a run can answer it.

        Parameters
        ----------
        inputs, output
            As given to the command.
        settings
            All settings.
        options
            What else may change the result, of it `recursive` and `group_by` by these names.
        environ
            The environment, before anything was set for Prefect and MLflow.
        """
        if any(isinstance(entry, str) for entry in inputs) or any(environ.get(name) for name in _ELSEWHERE):
            return None
        begun = time.time()
        paths = [Path(entry).absolute() for entry in inputs]
        group_by = Path(options["group_by"] or os.devnull)
        try:
            here = Path.cwd()
            members = [member.absolute() for path in paths if is_association(path) for member in science_members(path)]
        except (UsageError, OSError):  # the run says so
            return None
        named = [path for path in (*paths, *members) if not path.is_dir()]
        tables = [value.absolute() for _, value in settings if isinstance(value, Path)]
        places = {*paths, *members, *(path.parent for path in named), *tables, group_by.absolute()}
        places |= {here / name for name in FILES}  # they may do what those variables do
        home = Home.of(environ)
        places.add(Path(environ.get("PREFECT_HOME") or home.prefect) / "profiles.toml")  # it may name a server
        asked = (
            [str(path) for path in paths],
            settings.model_dump_json(),
            sorted(options.items()),
            sorted((name, value) for name, value in environ.items() if name.startswith(_OF_PACKAGES)),
            _code(),
        )
        reading = _Reading(tuple(sorted(places)), (output.absolute(), home.root), deep=bool(options["recursive"]))
        return cls(home, output.absolute(), _digest(repr(asked)), reading, reading.state(), begun)

    def answer(self) -> LastRun | None:
        """Return what the last run left, where nothing has changed since; None where something has."""
        try:
            if self.home.root.stat().st_mode & stat.S_IWOTH:
                return None  # a run refuses such a home
            with open(self._note, encoding="utf-8", opener=_without_waiting) as note:
                known = os.fstat(note.fileno())
                if not stat.S_ISREG(known.st_mode) or known.st_uid != os.geteuid() or known.st_mode & 0o077:
                    return None  # a pipe, somebody else's, or open to others
                kept = LastRun.model_validate_json(unseal(self._key, note.read()))
        except (OSError, ValueError, ValidationError):  # there is none, or it is damaged
            return None
        same = (kept.asked, kept.read, kept.written) == (self.asked, self.state.digest, self._written().digest)
        return kept if same and self._is_recorded(kept.mlflow_run) else None

    def keep(self, summary: "Summary", lines: Iterable[str], warnings: Iterable[str]) -> None:
        """Leave a note of a run that has just ended, if the next one may be answered by it."""
        tracking = summary.tracking
        whole = summary.complete and not summary.problems and (summary.executed or summary.cached)
        if not whole or tracking is None or tracking.lost or not self._is_recorded(tracking.run_id):
            return
        if self.reading.state() != self.state or self.state.newest > self.begun - SETTLED:
            return  # something was written while it was read, or so shortly before that a further change may not show
        from levelmatch_core.products.output.folder import state_left  # noqa: PLC0415 - the run has imported it

        written = self._written()
        if state_left(self.output.resolve()) != summary.left or written.may_hide_changes:
            return  # somebody wrote into the output since the run let it go: seconds ago, before its records were made
        last = LastRun(
            asked=self.asked,
            read=self.state.digest,
            written=written.digest,
            ended=time.time(),
            mlflow_run=tracking.run_id,
            grade=summary.grade,
            lines=tuple(lines),
            warnings=tuple(warnings),
        )
        with suppress(OSError):  # the next run looks at everything then
            self._note.parent.mkdir(mode=0o700, exist_ok=True)
            for note in self._note.parent.iterdir():
                if note.stat().st_mtime < self.begun - _LONGEST:
                    note.unlink()
            write_durably(self._note, seal(self._key, last.to_text()).encode())
            self._note.chmod(0o600)

    @property
    def _key(self) -> str:
        return str(self.output)

    @property
    def _note(self) -> Path:
        return self.home.root / "last_runs" / f"{_digest(self._key)}.json"

    def _written(self) -> State:
        return _Reading((self.output,), deep=True).state()

    def _is_recorded(self, run: str) -> bool:
        """Return whether both records are still there."""
        try:
            with closing(sqlite3.connect(f"file:{self.home.root / 'mlflow' / 'mlflow.db'}?mode=ro", uri=True)) as store:
                found = store.execute("SELECT lifecycle_stage FROM runs WHERE run_uuid = ?", (run,)).fetchone()
            with (self.home.prefect / "prefect.db").open("rb") as database:
                return found == ("active",) and database.read(6) == b"SQLite"
        except (sqlite3.Error, OSError):
            return False


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _code() -> tuple[str, ...]:
    """Return the state of the program's modules, and all versions that are in run.json."""
    roots = [Path(package.__file__ or "").parent for package in (flows, levelmatch_core)]
    modules = (path for root in roots for path in root.rglob("*.*") if path.suffix in {".py", ".toml"})
    return state_of(modules).digest, levelmatch_version(), repr(versions_of_libraries()), sys.version


def _without_waiting(path: str, flags: int) -> int:
    """Open a file, also if it is a pipe that nobody writes to."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
