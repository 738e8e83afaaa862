"""The jobs that the pipeline consists of: a job is a record that can be run, cached and repeated.

Each job contains everything that its result depends on. `key()` is the digest of this content, so that a runner may use
a stored result instead of running the job. Results are records; arrays go to the cutout store, files to the output
folder.
"""

import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from levelmatch_core.files.writing import refuse_without_room
from levelmatch_core.images.exposure import Failure
from levelmatch_core.process.blas_threads import one_blas_thread
from levelmatch_core.process.log_context import log_context, logger_of
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
    """The places on disk that jobs may use."""

    store: CutoutStore
    folder: OutputFolder | SharedFolder | None = None

    def output(self) -> OutputFolder | SharedFolder:
        """Return the output folder; only for runs that have one."""
        if self.folder is None:
            message = "this workspace has no output folder"
            raise RuntimeError(message)
        return self.folder

    def held(self) -> OutputFolder:
        """Return the output folder that is locked by this run."""
        if not isinstance(self.folder, OutputFolder):
            message = "this workspace does not hold its output folder"
            raise TypeError(message)
        return self.folder

    def shared(self) -> "Workspace":
        """Return a workspace for workers in other processes: the same places, without the run's own privileges."""
        return Workspace(CutoutStore(self.store.root), None if self.folder is None else SharedFolder(self.folder.path))

    def intact(self, result: object) -> bool:
        """Return whether every array and file that a result refers to exists and is unchanged."""
        return all(
            self.store.check(one) if isinstance(one, StoredArray) else self.held().check(one)
            for one in _references(result)
        )

    def harmed(self, result: object) -> bool:
        """Return whether any such array or file was lost or altered, but not by a later run with other inputs."""
        return any(
            not self.store.check(one) if isinstance(one, StoredArray) else self.held().harmed(one.name)
            for one in _references(result)
        )


def _references(result: object) -> Iterator[StoredArray | OutputFile]:
    """Yield all arrays and files that a result refers to."""
    if isinstance(result, StoredArray | OutputFile):
        yield result
    elif isinstance(result, Record):
        for name in type(result).model_fields:
            yield from _references(getattr(result, name))
    elif isinstance(result, Mapping):
        for value in result.values():
            yield from _references(value)
    elif isinstance(result, list | tuple):
        for value in result:
            yield from _references(value)


class Job(Record):
    """A unit of work."""

    step: ClassVar[str]
    """What it does, in one word: the name of the task."""
    version: ClassVar[int] = 1
    """To be raised whenever the same content gives a different result: older cached results are then ignored."""
    roles: ClassVar[tuple[Role, ...]] = ()
    """Roles of the settings that the job reads."""
    gives: ClassVar[type[Record]]
    """The type of its result."""
    aside: ClassVar[tuple[str, ...]] = ()
    """Fields that the result does not depend on, besides the label and the names of the exposures."""

    logs_told: ClassVar[bool] = False
    """Whether the job logs what it did by itself."""

    label: str
    """What it works on, for the user: an exposure, a tile, a field."""
    exposures: tuple[str, ...]
    """Names of the exposures that are lost if the job fails."""
    settings: MatchSettings

    def key(self) -> str:
        """Return the digest of everything that the result depends on."""
        content = digest_of(self, "settings", "label", "exposures", *self.aside)
        return content_key(self.step, self.version, content, self.settings.of_role(*self.roles))

    @property
    def place(self) -> tuple[str, str]:
        """The tile (or field) and the stage that are named in its log lines."""
        return self.label, self.step

    @property
    def bundle(self) -> str:
        """Label of the jobs of the same step that are run together, such as those of a tile's exposures."""
        return self.label

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the exposures, corrections and files whose most recent jobs give what this one needs."""
        return self.exposures

    @property
    def makes(self) -> tuple[str, ...]:
        """The same kind of names: those for which this job is the most recent once it is done."""
        return self.exposures

    def told(self, result: Any) -> str:  # noqa: ANN401, ARG002 - a record of `gives`
        """Return in words what the job did, '' if there is nothing to tell."""
        return ""

    def do(self, workspace: Workspace) -> Record:
        """Run the job on one BLAS thread, with log lines that name its tile and stage."""
        with log_context(*self.place), one_blas_thread():
            started = time.monotonic()
            result = self.run(workspace)
            logger.debug("%s: done in %.2f s", self.label, time.monotonic() - started)
            return result

    def writes(self) -> tuple[str, ...] | None:
        """Return the names of the output files that it will write; None if they are not known beforehand."""
        return ()

    @abstractmethod
    def run(self, workspace: Workspace) -> Record:
        """Do the actual work."""


class JobRunner(Protocol):
    """Runs jobs, in any order and on any worker, and returns the results in the order of the jobs.

    A failed job results in a :class:`Failure`, and does not stop the others.
    """

    def __call__(self, jobs: Sequence[Job], title: str) -> list[Any]:
        """Run all jobs; `title` describes them to the user."""
        ...


def failure_of(job: Job, error: BaseException) -> Failure:
    """Return the record of a failed job, and log it once.

    Raises
    ------
    NoRoomError
        If it failed because a disk is full: this is not the fault of an exposure, and would affect all other solutions.
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
    """Return the results, and separately the failures."""
    failures = [result for result in results if isinstance(result, Failure)]
    return [result for result in results if not isinstance(result, Failure)], failures
