"""Flow runs of a command that is interrupted end Cancelled, so that none is shown as running for ever."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.states import Cancelled

_MOST = 50
"""How many of the last flow runs are looked at."""


def cancel_runs(output: Path) -> None:
    """Cancel the flow runs that write an output folder, or a folder in it, and have not ended.

    They are known by their parameters: one that is about to begin has told this process no id yet. No other command
    has the folder, which is held by one run at a time.
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
