"""Cancellation of the flow runs of an interrupted command, so that none is shown as running forever."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import Cancelled

_MOST = 50
"""Number of the latest flow runs that are examined."""


def cancel_runs(output: Path) -> None:
    """Cancel unfinished flow runs that write to an output folder or to a folder in it.

    They are identified by their parameters, since the id of a run that is just starting is not known to this process.
    No other command can be using the folder, which is locked by one run at a time.
    """
    begun = FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING])
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=begun)),
            sort=FlowRunSort.START_TIME_DESC,
            limit=_MOST,
        )
        for run in reversed(runs):  # a sweep before the run in it, which may be one of many
            if _writes(run.parameters, output):
                client.set_flow_run_state(run.id, Cancelled(message="interrupted; run again to go on"), force=True)


def _writes(parameters: Mapping[str, Any], output: Path) -> bool:
    request = parameters.get("request")
    named = parameters.get("output") or (request.get("output") if isinstance(request, Mapping) else None)
    return isinstance(named, str) and Path(named).is_relative_to(output)
