"""Flow runs on Prefect's server that ended long ago; the last good one of each program stays."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import TERMINAL_STATES, FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound

_FLOWS = ["level_match", "sweep"]
_PAGE = 200


@dataclass(frozen=True)
class OldRuns:
    """What was found."""

    old: tuple[FlowRun, ...]
    """The runs that may go."""
    kept: tuple[FlowRun, ...]
    """Runs as old, each the last good one of its program."""


def old_runs(before: float) -> OldRuns:
    """Return the flow runs that ended before a Unix time, without the combinations of sweeps, which go with them."""
    with get_client(sync_client=True) as client:
        return old_flow_runs(_ended(client), before)


def old_flow_runs(ended: Iterable[FlowRun], before: float) -> OldRuns:
    """Return which of some ended flow runs may go.

    The last completed run of a program and an output stays, and the last whose result was not doubtful.
    """
    limit = datetime.fromtimestamp(before, UTC)
    old: list[FlowRun] = []
    kept: list[FlowRun] = []
    seen: set[tuple[object, ...]] = set()
    for run in sorted(ended, key=_end, reverse=True):
        last = False
        if run.state_type is StateType.COMPLETED:
            made = (run.flow_id, run.parameters.get("program"), run.parameters.get("output"))
            for key in (made, *([(*made, "sure")] if run.state_name != "Doubtful" else [])):
                last = last or key not in seen
                seen.add(key)
        if _end(run) < limit:
            (kept if last else old).append(run)
    return OldRuns(tuple(old), tuple(kept))


def delete_flow_runs(runs: Iterable[FlowRun]) -> None:
    """Delete flow runs, and the combinations of sweeps with them."""
    with get_client(sync_client=True) as client:
        for run in runs:
            children = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run.id]))
            for child in list(_pages(client, None, children)):
                _delete(client, child)
            _delete(client, run)


def _delete(client: SyncPrefectClient, run: FlowRun) -> None:
    with suppress(ObjectNotFound):  # somebody else was faster
        client.delete_flow_run(run.id)


def _end(run: FlowRun) -> datetime:
    return run.end_time or run.expected_start_time or datetime.max.replace(tzinfo=UTC)


def _ended(client: SyncPrefectClient) -> list[FlowRun]:
    state = FlowRunFilterState(type=FlowRunFilterStateType(any_=sorted(TERMINAL_STATES)))
    return list(_pages(client, FlowFilter(name=FlowFilterName(any_=_FLOWS)), FlowRunFilter(state=state)))


def _pages(client: SyncPrefectClient, flows: FlowFilter | None, runs: FlowRunFilter) -> Iterator[FlowRun]:
    start = 0
    while True:
        page = client.read_flow_runs(
            flow_filter=flows, flow_run_filter=runs, sort=FlowRunSort.ID_DESC, limit=_PAGE, offset=start
        )
        yield from page
        start += len(page)
        if len(page) < _PAGE:
            return
