"""The pieces of work that the pipeline is made of: a job is a record that can be done, cached and done again.

Each job carries all that its result depends on; `key()` is that content's digest, so that a runner may look a result
up instead of doing the job. Results are records; arrays go to the cutout store, files to the output folder.
"""

import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from levelmatch_core.disk_full import refuse_without_room
from levelmatch_core.images.exposure import Failure
from levelmatch_core.log_context import log_context, logger_of
from levelmatch_core.products.manifest import OutputFile
from levelmatch_core.products.output.folder import OutputFolder
from levelmatch_core.products.output.shared_folder import SharedFolder
from levelmatch_core.records import Record, content_key, digest_of
from levelmatch_core.settings import MatchSettings, Role
from levelmatch_core.sky.cutouts import StoredArray
from levelmatch_core.sky.store import CutoutStore

logger = logger_of(__name__)


@dataclass(frozen=True)
class Workspace:
    """Where jobs may touch the disk."""

    store: CutoutStore
    folder: OutputFolder | SharedFolder | None = None

    def output(self) -> OutputFolder | SharedFolder:
        """Return the output folder of a run that has one."""
        if self.folder is None:
            message = "this workspace has no output folder"
            raise RuntimeError(message)
        return self.folder

    def held(self) -> OutputFolder:
        """Return the output folder in the hands of the run."""
        if not isinstance(self.folder, OutputFolder):
            message = "this workspace does not hold its output folder"
            raise TypeError(message)
        return self.folder

    def shared(self) -> "Workspace":
        """Return what a worker in another process may use: the same places, without what only the run may do."""
        return Workspace(CutoutStore(self.store.root), None if self.folder is None else SharedFolder(self.folder.path))

    def intact(self, result: object) -> bool:
        """Return whether every array and file that a result names is there, with the bytes that were written."""
        if isinstance(result, StoredArray):
            return self.store.check(result)
        if isinstance(result, OutputFile):
            return self.held().check(result)
        if isinstance(result, Record):
            return all(self.intact(getattr(result, name)) for name in type(result).model_fields)
        if isinstance(result, Mapping):
            return all(self.intact(value) for value in result.values())
        if isinstance(result, list | tuple):
            return all(self.intact(value) for value in result)
        return True


class Job(Record):
    """One piece of work."""

    step: ClassVar[str]
    """What it does, in a word: the task's name."""
    version: ClassVar[int] = 1
    """Raised whenever the same content gives another result: old cached results are then passed over."""
    roles: ClassVar[tuple[Role, ...]] = ()
    """Roles of the settings that it reads."""
    gives: ClassVar[type[Record]]
    """The type of its result."""

    label: str
    """On what it works, as a person reads it: an exposure, a tile, a field."""
    exposures: tuple[str, ...]
    """Names of the exposures that are lost if it fails."""
    settings: MatchSettings

    def key(self) -> str:
        """Return the digest of all that the result depends on."""
        content = digest_of(self, "settings", "label", "exposures")
        return content_key(self.step, self.version, content, self.settings.of_role(*self.roles))

    @property
    def place(self) -> tuple[str, str]:
        """The tile (or field) and the stage that its log lines name."""
        return self.label, self.step

    @property
    def bundle(self) -> str:
        """What is done in one go with it: jobs of one step and one bundle, such as a tile's exposures."""
        return self.label

    def do(self, workspace: Workspace) -> Record:
        """Do the work, with log lines that say where."""
        with log_context(*self.place):
            started = time.monotonic()
            result = self.run(workspace)
            logger.debug("%s: done in %.2f s", self.label, time.monotonic() - started)
            return result

    def writes(self) -> tuple[str, ...] | None:
        """Return the names of the output files that it will write; None where only doing it tells."""
        return ()

    @abstractmethod
    def run(self, workspace: Workspace) -> Record:
        """Do the work itself."""


class JobRunner(Protocol):
    """A runner: does jobs, in any order and on any worker, and gives results in the order of the jobs.

    A job that fails becomes a :class:`Failure`; it never stops the others.
    """

    def __call__(self, jobs: Sequence[Job], title: str) -> list[Any]:
        """Do all jobs; `title` names them for a person."""
        ...


def failure_of(job: Job, error: BaseException) -> Failure:
    """Return the record of a job that failed, and log it, once.

    Raises
    ------
    NoRoomError
        If it failed since a disk is full: that is no fault of an exposure, and would spoil the solution for all others.
    """
    refuse_without_room(error)
    with log_context(*job.place):
        logger.error("%s: %s: %s", job.label, type(error).__name__, error)
    return Failure(
        name=job.label,
        step=job.step,
        error=type(error).__name__,
        reason=str(error) or type(error).__name__,
        exposures=job.exposures,
    )


def parted(results: Sequence[Any]) -> tuple[list[Any], list[Failure]]:
    """Part what was done from what failed."""
    failures = [result for result in results if isinstance(result, Failure)]
    return [result for result in results if not isinstance(result, Failure)], failures
