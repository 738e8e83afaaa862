"""Which task runs a task run waits for, so that Prefect's graph shows the way of the data."""

from collections.abc import Iterable, Sequence
from uuid import UUID

from prefect.client.schemas.objects import RunInput, TaskRunResult

from levelmatch_core.jobs.job import Job


class TaskInputs:
    """The most recent task runs that made what jobs read: see `reads` and `makes` of a job.

    The task runs of one call of the runner do not wait for each other.
    """

    def __init__(self) -> None:
        self._makers: dict[str, tuple[UUID, ...]] = {}
        self._call: dict[str, dict[UUID, None]] = {}

    def of(self, jobs: Sequence[Job]) -> set[RunInput]:
        """Return the task runs of earlier calls that made what these jobs read."""
        made = {maker for job in jobs for name in job.reads for maker in self._makers.get(name, ())}
        return {TaskRunResult(id=maker) for maker in made}

    def done(self, jobs: Iterable[Job], task_run: UUID) -> None:
        """Note that a task run of this call did these jobs."""
        for job in jobs:
            for name in job.makes:
                self._call.setdefault(name, {})[task_run] = None

    def end_call(self) -> None:
        """End a call: its task runs are the most recent ones from now on."""
        self._makers |= {name: tuple(makers) for name, makers in self._call.items()}
        self._call = {}
