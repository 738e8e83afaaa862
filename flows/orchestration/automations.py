"""Automations of Prefect's server that belong to the deployed programs: alerts, and the end of silent flow runs."""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from uuid import UUID

from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import BlockDocument, StateType
from prefect.events.actions import CallWebhook, ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from flows.home import HEARTBEAT
from flows.orchestration.programs import TAG, Alert, Program
from levelmatch_core.errors import UsageError

SILENCE = "levelmatch: a silent flow run has crashed"
"""Name of the automation that ends flow runs without heartbeats."""

_WEBHOOK = "webhook"
"""Type of the blocks that are called; all others are notified."""

_WRITTEN = ". Written by `levelmatch deploy`"
"""End of the description of an alert's automation."""

_SUBJECT = "{{ flow_run.name }}: {{ flow_run.state.name }}"
_BODY = "{{ flow_run.name }}: {{ flow_run.state.name }}. {{ flow_run.state.message or '' }}\n{{ flow_run | ui_url }}"
_PAYLOAD = """{
  "text": {{ (flow_run.name ~ ": " ~ flow_run.state.name ~ ". " ~ (flow_run.state.message or "")) | tojson }},
  "program": {{ deployment.name | tojson }},
  "state": {{ flow_run.state.name | tojson }},
  "message": {{ (flow_run.state.message or "") | tojson }},
  "flow_run": {{ (flow_run.id | string) | tojson }},
  "url": {{ (flow_run | ui_url) | tojson }},
  "event": {{ (event.id | string) | tojson }}
}"""
"""Payload of a webhook; chat services such as Slack and Mattermost show `text`, and `event` is the same in repeats."""


def alert_blocks(programs: Iterable[Program]) -> dict[str, BlockDocument]:
    """Return the blocks that alerts are sent to, by their names in program files.

    Raises
    ------
    UsageError
        If one does not exist, or cannot send anything.
    """
    found: dict[str, BlockDocument] = {}
    with get_client(sync_client=True) as client:
        for program in programs:
            for alert in program.alert:
                kind, _, name = alert.to.partition("/")
                try:
                    block = client.read_block_document_by_name(name, kind)
                except ObjectNotFound as error:
                    message = (
                        f"{program.name}: no block {alert.to} on Prefect's server, to which alerts should be sent; "
                        f"create it on its page Blocks, or by `prefect block create {kind}`"
                    )
                    raise UsageError(message) from error
                schema = block.block_schema
                if kind != _WEBHOOK and (schema is None or "notify" not in schema.capabilities):
                    message = f"{program.name}: the block {alert.to} sends no notifications; use one that does"
                    raise UsageError(message)
                found[alert.to] = block
    return found


def name_webhook(name: str, url: str) -> None:
    """Let alerts to webhook/NAME go to an address.

    Raises
    ------
    UsageError
        If Prefect refuses the name.
    """
    try:
        Webhook(url=url).save(name, overwrite=True)
    except ValueError as error:
        message = f"--name {name}: {error}"
        raise UsageError(message) from error


def paused_alerts(programs: Iterable[Program]) -> frozenset[str]:
    """Return the names of the programs' automations that the user has switched off.

    To be asked before deploying: Prefect's own command may remove the automations of a deployment.
    """
    names = [_name_of(program, number) for program in programs for number in range(1, len(program.alert) + 1)]
    with get_client(sync_client=True) as client:
        return frozenset(
            name for name in names if any(not each.enabled for each in client.read_automations_by_name(name))
        )


def make_automations(
    programs: Sequence[Program], blocks: dict[str, BlockDocument], paused: frozenset[str] = frozenset()
) -> None:
    """Create or renew the automations of deployed programs; one that the user has paused stays so.

    Parameters
    ----------
    programs
        The programs.
    blocks
        As from :func:`blocks_of`.
    paused
        As from :func:`paused_alerts`.
    """
    with get_client(sync_client=True) as client:
        for program in programs:
            flow = program.entrypoint.partition(":")[2]
            deployment = client.read_deployment_by_name(f"{flow}/{program.name}").id
            owner = f"prefect.deployment.{deployment}"
            client.delete_resource_owned_automations(owner)
            for number, alert in enumerate(program.alert, start=1):
                automation = alert_automation(program, number, alert, deployment, blocks[alert.to])
                client.create_automation(automation.model_copy(update={"enabled": automation.name not in paused}))
        _renew(client, silence_automation())


def alert_automation(
    program: Program, number: int, alert: Alert, deployment: UUID, block: BlockDocument
) -> AutomationCore:
    """Return the automation that sends an alert of a program."""
    owner = f"prefect.deployment.{deployment}"
    action = (
        CallWebhook(block_document_id=block.id, payload=_PAYLOAD)
        if alert.to.startswith(f"{_WEBHOOK}/")
        else SendNotification(block_document_id=block.id, subject=_SUBJECT, body=_BODY)
    )
    return AutomationCore(
        name=_name_of(program, number),
        description=f"{told_alert(alert)}{_WRITTEN} from {program.name}.toml.",
        trigger=EventTrigger(
            expect={f"prefect.flow-run.{name.capitalize()}" for name in alert.on},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.role": "deployment", "prefect.resource.id": owner},
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,  # at once: a time in which further events count as repeated loses alerts
        ),
        actions=[action],
        owner_resource=owner,
    )


def told_alert(alert: Alert) -> str:
    """Return an alert in words, as its automation is described."""
    return f"{', '.join(alert.on)}: to {alert.to}"


def told_alerts_of(client: SyncPrefectClient, program: Program, deployment: UUID) -> list[str]:
    """Return the alerts of a deployed program on the server in words, in the order of its file."""
    made = {each.name: each for each in client.read_resource_related_automations(f"prefect.deployment.{deployment}")}
    found: list[str] = []
    while (automation := made.get(_name_of(program, len(found) + 1))) is not None:
        gone = "" if _is_sent(client, automation) else " (lost: its block is gone)"
        found.append(f"{automation.description.partition(_WRITTEN)[0]}{gone}")
    return found


def _name_of(program: Program, number: int) -> str:
    return f"{program.name}: alert {number}"


def _is_sent(client: SyncPrefectClient, automation: AutomationCore) -> bool:
    """Return whether the blocks that an automation uses exist: one made anew under the same name is another."""
    for action in automation.actions:
        if isinstance(action, CallWebhook | SendNotification):
            try:
                client.read_block_document(action.block_document_id)
            except ObjectNotFound:
                return False
    return True


def silence_automation() -> AutomationCore:
    """Return the automation that ends deployed flow runs that were silent for two heartbeats."""
    return AutomationCore(
        name=SILENCE,
        description="The process, worker or machine of a flow run died. Written by `levelmatch deploy`.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.*"},  # a heartbeat, or whatever the final state is called
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{TAG}"},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=2 * HEARTBEAT),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message=f"no heartbeat for {2 * HEARTBEAT} s: its process, worker or machine died; the next run, or "
                f"Retry, continues from the work that was finished",
            )
        ],
    )


def _renew(client: SyncPrefectClient, automation: AutomationCore) -> None:
    known = client.read_automations_by_name(automation.name)
    for each in known:
        client.delete_automation(each.id)
    client.create_automation(automation.model_copy(update={"enabled": all(each.enabled for each in known)}))
