"""The event that Prefect's scheduler does not emit when it creates a flow run.

Each event of a flow run names the one that it follows, and automations wait up to 15 minutes for it. The scheduler
emits none for the runs that it creates, so that all alerts on a run that was scheduled within five minutes of its start
(as just after a deployment) would be late. Emitted afterwards, under the id that the others name, it lets them pass.
"""

from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.events import emit_event


def tell_scheduled() -> None:
    """Emit the missing event of the current flow run, if the scheduler created it."""
    context = FlowRunContext.get()
    run = None if context is None else context.flow_run
    if run is None or not run.auto_scheduled or run.run_count > 1:
        return
    with get_client(sync_client=True) as client:
        first = min(client.read_flow_run_states(run.id), key=lambda state: state.timestamp, default=None)
    if first is None or not first.is_scheduled():
        return
    emit_event(
        "prefect.flow-run.Scheduled",
        resource={
            "prefect.resource.id": f"prefect.flow-run.{run.id}",
            "prefect.resource.name": run.name,
            "prefect.state-name": first.name or "",
            "prefect.state-type": first.type.value,
            "prefect.state-timestamp": first.timestamp.isoformat(),
        },
        occurred=first.timestamp,
        id=first.id,
    )
