"""The flow `level_match`: the complete pipeline under Prefect, with its record in MLflow."""

import flows.orchestration.environment  # noqa: F401 - before Prefect and MLflow

# isort: split
import os
import time
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, runtime
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext, SettingsContext, get_settings_context
from prefect.settings import PREFECT_LOCAL_STORAGE_PATH
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.alerting.scheduled import tell_scheduled
from flows.home import DEPLOYED_BY, Home
from flows.orchestration.artifacts import ProgressArtifact, publish
from flows.orchestration.quarantine import REMEDY, quarantined
from flows.orchestration.server_guard import guard_prefects_own
from flows.orchestration.task_runner import RETRY_DELAYS, PrefectEach
from flows.orchestration.trials import settings_and_output, trial_note
from flows.progress import REPORTER
from flows.summary import FlowFacts, Summary, summarize
from flows.tracking.tracker import Tracker
from levelmatch_core.errors import AllPendingError
from levelmatch_core.images.storage.remote import local_inputs
from levelmatch_core.jobs.job import Workspace
from levelmatch_core.pipeline import Request, RunResult, peak_memory, run
from levelmatch_core.process.versions import levelmatch_version
from levelmatch_core.products.grade import Grade
from levelmatch_core.products.output.folder import OutputFolder, note_in_log
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.store import CutoutStore
from levelmatch_core.workers import worker_pool

INCOMPLETE = "Incomplete"
"""Name of the completed state of a flow run that could not connect every exposure."""


def _run_name() -> str:
    parameters: dict[str, Any] = runtime.flow_run.parameters
    band = parameters.get("band") or dict(parameters.get("settings") or {}).get("band")
    return " ".join(part for part in (parameters["program"], band) if part)


@flow(name="level_match", flow_run_name=_run_name, persist_result=True, result_serializer="json")
def level_match(  # noqa: PLR0917 - the order of Prefect's form, which shows the descriptions under Args only
    inputs: list[str],
    output: str,
    program: str = "levelmatch",
    band: str | None = None,
    settings: MatchSettings = MatchSettings(),  # noqa: B008 - frozen; the form in Prefect's UI shows its defaults
    recursive: bool = False,
    group_by: str | None = None,
    prune: bool = False,
    retry_delays: tuple[float, ...] = RETRY_DELAYS,
    trial: str | None = None,
) -> State[dict[str, Any]]:
    """Match the sky levels of overlapping exposures and write them to an output folder.

    Args:
        inputs: Files, and folders that are searched for FITS files; also s3://, gs:// and https:// addresses.
        output: The folder for the results.
        program: The observing program: the name of the MLflow experiment.
        band: Only exposures of this filter; takes precedence over the band of `settings`.
        settings: All settings of the match.
        recursive: Whether to search folders within folders.
        group_by: A regular expression or a table that says which files make a tile.
        prune: Whether corrected files of earlier runs go whose input is missing or damaged now.
        retry_delays: Seconds before each retry of what failed by the file system or the network.
        trial: Name of a trial, which writes to OUTPUT@trial-NAME. Other settings than the program's are one anyway.

    Returns
    -------
    A state with the summary of the run, JSON: completed; completed and named Incomplete if an exposure is untied, or
    Doubtful if what was measured says that the result may be wrong; failed and named Quarantined if something failed
    and the rest was done without it. A deployed run that finds nothing but files that are still being written is
    Incomplete, and has no summary.
    """
    chosen = settings.model_copy(update={"band": band}) if band is not None else settings
    chosen, folder = settings_and_output(chosen, Path(output), trial)
    tell_scheduled()
    home = Home.of()
    with CutoutStore(home.cutouts).in_use():  # what is fetched stays until the end
        found = local_inputs(inputs, home.inputs, recursive=recursive, retry_delays=retry_delays, absent=True)
        request = Request(
            inputs=found.paths,
            missing=found.missing,
            output=folder,
            settings=chosen,
            program=program,
            recursive=recursive,
            group_by=group_by,
            prune=prune,
        )
        try:
            _, summary = match_and_record(request, retry_delays)
        except AllPendingError as error:
            if runtime.deployment.id is None:
                raise  # a command's user waits for a result
            return Completed(name=INCOMPLETE, message=str(error))
    return ending(summary, trial_note(folder, Path(output)))


def match_and_record(request: Request, retry_delays: tuple[float, ...]) -> tuple[RunResult, Summary]:
    """Execute a request in the current flow run, and record it in Prefect and MLflow."""
    started = time.time()
    guard_prefects_own()
    home = Home.of().make()
    _tell_other_deployment(home)
    runners: list[PrefectEach] = []
    folders: list[OutputFolder] = []
    reporter = ProgressArtifact(REPORTER.get(), request.program)
    store = CutoutStore(home.cutouts)
    with store.in_use(), worker_pool(request.settings) as pool:
        task_runner: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=pool.size)

        def runner_of(workspace: Workspace) -> PrefectEach:
            folders.append(workspace.held())
            runners.append(PrefectEach(workspace, task_runner, reporter, retry_delays, pool))
            return runners[-1]

        with task_runner:
            result = run(request, store, runner_of)
    summary = summarize(result, peak_memory=peak_memory())
    summary = summary.model_copy(
        update={
            "executed": dict(sum((runner.executed for runner in runners), start=Counter[str]())),
            "cached": dict(sum((runner.cached for runner in runners), start=Counter[str]())),
            "tracking": Tracker(home).log(result, summary, facts_of_run(started)),
            "left": folders[-1].left,
        }
    )
    if result.changed:
        note_in_log(request.output, _run_ids(summary))
    publish(result, summary)
    return result, summary


def _tell_other_deployment(home: Home) -> None:
    """Tell that a deployment's run is of another version, or keeps its results elsewhere than commands and workers."""
    ours, theirs = levelmatch_version(), os.environ.get(DEPLOYED_BY)
    if runtime.deployment.id is not None and theirs not in {None, ours}:
        get_run_logger().warning(
            "this worker has levelmatch %s, and %s deployed the program: install one version everywhere, and deploy "
            "the program again by `levelmatch deploy`",
            *(ours, theirs),
        )
    store = Path(str(PREFECT_LOCAL_STORAGE_PATH.value()))
    if runtime.deployment.id is not None and store != home.results:
        get_run_logger().warning(
            "results are stored in %s and not in %s, where commands and other workers look for them; deploy the "
            "program again by `levelmatch deploy`",
            *(store, home.results),
        )


def _run_ids(summary: Summary) -> dict[str, Any]:
    """Return the ids of the run in Prefect and MLflow, for log.json."""
    mlflow_run = summary.tracking.run_id if summary.tracking else None
    return {"prefect_flow_run": str(runtime.flow_run.id), "mlflow_run": mlflow_run}


def facts_of_run(started: float) -> FlowFacts:
    """Return the properties of the current flow run for MLflow; `started` is a Unix time."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        message = "level_match runs as a flow"
        raise RuntimeError(message)
    flow_run = context.flow_run
    return FlowFacts(
        # distinguishes a run of a sweep from the sweep
        flow_run_id=str(flow_run.id if flow_run.parent_task_run_id else runtime.flow_run.root_flow_run_id),
        name=flow_run.name,
        started=started,
        attempt=max(1, flow_run.run_count),
        tags=tuple(sorted(flow_run.tags)),
    )


def no_heartbeats() -> AbstractContextManager[object]:
    """Disable the heartbeats of flow runs in this context, which are useless for a server that ends with its command.

    The thread that sends them takes up to a second at the end of each run.
    """
    context = get_settings_context()
    # Prefect's own temporary_settings would read all settings again, which takes a twentieth of a second
    flows = context.settings.flows.model_copy(update={"heartbeat_frequency": None})
    return SettingsContext(profile=context.profile, settings=context.settings.model_copy(update={"flows": flows}))


def ending(summary: Summary, note: str = "") -> State[dict[str, Any]]:
    """Return the final state of the flow run, which is what the user sees first; its message begins with the note."""
    data = summary.to_json()
    if summary.quarantined:
        return quarantined(f"{note}{summary.verdict} Failed: {summary.failed_tiles}. To do: {REMEDY}.", data)
    message = f"{note}{summary.told}. {summary.verdict}"
    if not summary.complete:
        return Completed(name=INCOMPLETE, message=message, data=data)
    if summary.grade in {Grade.DOUBTFUL, Grade.FAILED}:
        return Completed(name=summary.grade.value.capitalize(), message=message, data=data)
    return Completed(message=message, data=data)
