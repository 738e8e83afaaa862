"""The same run without Prefect, for commands where Prefect cannot be used."""

import time
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from flows.home import Home
from flows.progress import REPORTER
from flows.summary import FlowFacts, Summary, summarize
from levelmatch_core.jobs.job import Job, Workspace
from levelmatch_core.pipeline import Request, peak_memory, run
from levelmatch_core.products.output.folder import note_in_log
from levelmatch_core.runners import PlainRunner
from levelmatch_core.sky.store import CutoutStore
from levelmatch_core.workers import worker_pool


def match_alone(request: Request) -> Summary:
    """Match, write and record in MLflow; only the record in Prefect is missing.

    Raises
    ------
    LevelMatchError
        As raised by :func:`levelmatch_core.pipeline.run`.
    """
    from flows.tracking.tracker import Tracker  # noqa: PLC0415 - MLflow takes seconds to import

    started = time.time()
    home = Home.of().make()

    with worker_pool(request.settings) as pool:

        def runner_of(workspace: Workspace) -> "_ShownRunner":
            return _ShownRunner(PlainRunner(workspace, pool))

        result = run(request, CutoutStore(home.cutouts), runner_of)
    summary = summarize(result, peak_memory=peak_memory())
    name = " ".join(filter(None, (request.program, request.settings.band)))
    facts = FlowFacts(flow_run_id=f"none-{uuid4()}", name=name, started=started)
    tracking = Tracker(home).log(result, summary, facts)
    if result.changed:
        note_in_log(request.output, {"prefect_flow_run": None, "mlflow_run": tracking.run_id})
    return summary.model_copy(update={"tracking": tracking})


class _ShownRunner:
    """A plain runner that shows the progress of its steps."""

    def __init__(self, each: PlainRunner) -> None:
        self._each = each

    def __call__(self, jobs: Sequence[Job], title: str) -> list[Any]:
        if not jobs:
            return []
        with REPORTER.get().step(title, len(jobs)) as advance:
            results = self._each(jobs, title)
            advance(len(jobs))
        return results
