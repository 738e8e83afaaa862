"""The flow `sweep`: the same exposures with many settings, one MLflow run per combination, and a ranking."""

import flows.orchestration.environment  # noqa: F401 - before Prefect and MLflow

# isort: split
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import flow, runtime, tags
from prefect.artifacts import create_link_artifact, create_table_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.alerting.scheduled import tell_scheduled
from flows.combinations import combinations, folder_of
from flows.home import Home
from flows.level_match import facts_of_run, match_and_record
from flows.orchestration.artifacts import key_of
from flows.orchestration.quarantine import QuarantinedError, content_of, quarantined
from flows.orchestration.task_runner import RETRY_DELAYS
from flows.orchestration.trials import settings_and_output, trial_note
from flows.tracking.markdown import escaped
from flows.tracking.ranking import Combination, Ranking, compare_address, write_ranking
from flows.tracking.tracker import Tracker, output_id
from levelmatch_core.errors import LevelMatchError
from levelmatch_core.images.storage.remote import local_inputs
from levelmatch_core.matching.model_selection import leave_one_pair_out
from levelmatch_core.pipeline import Request
from levelmatch_core.process.log_context import logger_of
from levelmatch_core.records import content_key
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.store import CutoutStore

logger = logger_of(__name__)

_DEFAULTS = MatchSettings().model_dump(mode="json")


@flow(name="sweep", flow_run_name="{program} sweep", persist_result=True, result_serializer="json")
def sweep(  # noqa: PLR0917 - the order of Prefect's form, which shows the descriptions under Args only
    inputs: list[str],
    output: str,
    grid: dict[str, list[Any]],
    program: str = "levelmatch",
    settings: MatchSettings = MatchSettings(),  # noqa: B008 - frozen; the form in Prefect's UI shows its defaults
    recursive: bool = False,
    group_by: str | None = None,
    retry_delays: tuple[float, ...] = RETRY_DELAYS,
) -> State[dict[str, Any]]:
    """Match the same exposures with every combination of some settings, and rank the combinations.

    Args:
        inputs: Files, and folders that are searched for FITS files.
        output: The folder for one subfolder per combination, and the ranking.
        grid: Setting -> its values.
        program: The observing program: the name of the MLflow experiment.
        settings: Settings common to all combinations. Figures are drawn only if requested here or in the grid.
        recursive: Whether to search folders within folders.
        group_by: A regular expression or a table that defines which files form a tile.
        retry_delays: Seconds before each retry after an error of the file system or the network.

    Returns
    -------
    A state with the ranking as JSON: failed and named Quarantined if a combination, or a tile in one, failed.
    """
    tell_scheduled()
    settings, place = settings_and_output(settings, Path(output))
    common = settings.model_dump(exclude_unset=True)
    if "figures" not in settings.model_fields_set:
        common["figures"] = "none"
    chosen = combinations(grid)
    sweep_id = content_key(output_id(place), common, grid)[:12]
    home = Home.of()
    with (
        CutoutStore(home.cutouts).in_use(),  # what is fetched stays until the end
        tags(*runtime.flow_run.tags),  # a combination is of its program as well
    ):
        found = local_inputs(inputs, home.inputs, recursive=recursive, retry_delays=retry_delays, absent=True)
        done = [
            combine(
                values=values,
                request=Request(
                    inputs=found.paths,
                    missing=found.missing,
                    output=place / folder_of(values),
                    program=program,
                    recursive=recursive,
                    group_by=group_by,
                ).to_json(),
                common=common,
                sweep_id=sweep_id,
                retry_delays=retry_delays,
                return_state=True,
            )
            for values in chosen
        ]
    rows = [_row(values, state) for values, state in zip(chosen, done, strict=True)]
    ranking = Ranking.of(program, sweep_id, tuple(grid), rows, compare_address(rows))
    write_ranking(place, ranking)
    create_table_artifact(ranking.table(), key=f"{key_of(program)}-ranking", description=escaped(ranking.verdict))
    if ranking.compare:
        create_link_artifact(ranking.compare, link_text="Compare in MLflow", key=f"{key_of(program)}-compare")
    data = ranking.to_json()
    message = f"{trial_note(place, Path(output))}{ranking.verdict}"
    if any(row.failed for row in ranking.rows):
        return quarantined(message, data)
    return Completed(message=message, data=data)


def _run_name() -> str:
    return folder_of(runtime.flow_run.parameters["values"])


@flow(name="combination", flow_run_name=_run_name, persist_result=True, result_serializer="json")
def combine(
    values: dict[str, Any],
    request: dict[str, Any],
    common: dict[str, Any],
    sweep_id: str,
    retry_delays: tuple[float, ...],
) -> State[dict[str, Any]]:
    """Run one combination and return its row of the ranking as JSON; a failure is recorded, and stops no other one."""
    started = time.time()
    sweep_tags = {"sweep_id": sweep_id, **{f"sweep.{name}": str(value) for name, value in values.items()}}
    try:
        combination, message = _combined(values, request, common, sweep_tags, retry_delays)
        return Completed(message=message, data=combination.to_json())
    except Exception as error:  # whatever the error, the other combinations go on
        reason = f"{type(error).__name__}: {error}"
        if not isinstance(error, LevelMatchError):
            logger.exception("%s: unexpected error", folder_of(values))
        tracking = Tracker(Home.of().make()).log_failure(
            str(request["program"]), facts_of_run(started), reason, {**_DEFAULTS, **common, **values}, sweep_tags
        )
        failed = Combination(values=values, failed=reason, tracking=tracking)
        return Failed(message=reason, data=QuarantinedError(reason, failed.to_json()))


def _combined(
    values: dict[str, Any],
    request: dict[str, Any],
    common: dict[str, Any],
    sweep_tags: dict[str, str],
    retry_delays: tuple[float, ...],
) -> tuple[Combination, str]:
    settings = MatchSettings.from_mapping({**common, **values})
    asked = Request.from_json(request).model_copy(update={"settings": settings})
    result, summary = match_and_record(asked, retry_delays)
    seams = leave_one_pair_out(
        solution for match in result.matches for stage in match.stages for solution in stage.solutions
    )
    if summary.tracking is not None and not summary.tracking.lost:
        Tracker(Home.of()).add(summary.tracking.run_id, sweep_tags)
    units = {each.unit for each in summary.residuals}
    combination = Combination(
        values=values,
        seam=seams.rms,
        unit=units.pop() if len(units) == 1 else "",
        tested=seams.tested,
        used=seams.used,
        residual=max((each.after for each in summary.residuals), default=0.0),
        left_out=len(summary.problems),
        executed=summary.executed,
        output=summary.output,
        tracking=summary.tracking,
    )
    return combination, f"{summary.told}. {summary.verdict}"


def _row(values: dict[str, Any], state: State[Any]) -> Combination:
    content = content_of(state)
    if isinstance(content, Mapping):
        row = Combination.from_json(content)
        if row.failed:
            logger.error("%s: %s", folder_of(values), row.failed)
        return row
    reason = f"{type(content).__name__}: {content}" if isinstance(content, BaseException) else str(state.message)
    logger.error("%s: %s", folder_of(values), reason)
    return Combination(values=values, failed=reason)
