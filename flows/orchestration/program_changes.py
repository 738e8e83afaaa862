"""What a deployment changes: each program on Prefect's server and in its output, and as its file has it."""

import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound

from flows.home import VARIABLE, Home
from flows.orchestration.automations import told_alert, told_alerts_of
from flows.orchestration.programs import ROOT, TAG, Program
from flows.orchestration.trials import changes_of
from levelmatch_core.errors import OutputFolderError, SettingsError, UsageError
from levelmatch_core.products.output.folder import RUN
from levelmatch_core.products.output.settings_changes import changes_between, numbers_settings, told_settings
from levelmatch_core.products.runrecord import RunRecord
from levelmatch_core.settings import MatchSettings

_STEP = "prefect.deployments.steps.set_working_directory"

_PAGE = 200

_ELSEWHERE = {"settings", "band", "inputs", "recursive", "group_by", "grid"}
"""Parameters that are compared by what they mean."""


def told_differences(
    programs: Sequence[Program], environ: Mapping[str, str] = os.environ, *, whole: bool = True
) -> list[str]:
    """Return what will be different after a deployment, a line or more per program; asks Prefect's server.

    If these are all programs (`whole`), deployments of others are named, too.

    Raises
    ------
    UsageError
        As :func:`shared_outputs`.
    """
    lines: list[str] = []
    environ = {VARIABLE: str(Home.of(environ).root), **environ}
    with get_client(sync_client=True) as client:
        others = _others(client, programs)
        lines += shared_outputs(programs, others, environ)
        for program in programs:
            known = _known(client, program)
            alerts = [] if known is None else told_alerts_of(client, program, known.id)
            lines += _of_program(program, known, environ, alerts)
        if not whole:
            return lines
        lines += [
            f"{name}: on the server, and in no file here: it stays"
            f"{' and runs on' if any(each.active for each in left.schedules) else ''}; to remove it: {_removal(name)}"
            for name, left in others.items()
        ]
    return lines


def _others(client: SyncPrefectClient, programs: Sequence[Program]) -> dict[str, DeploymentResponse]:
    """Return the deployments of other programs, by name."""
    tagged = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))
    names = {program.deployed_name for program in programs}
    found: dict[str, DeploymentResponse] = {}
    while page := client.read_deployments(deployment_filter=tagged, limit=_PAGE, offset=len(found)):
        found |= {f"{client.read_flow(each.flow_id).name}/{each.name}": each for each in page}
        if len(page) < _PAGE:
            break
    return {name: each for name, each in found.items() if name not in names}


def shared_outputs(
    programs: Iterable[Program], others: Mapping[str, DeploymentResponse], environ: Mapping[str, str]
) -> list[str]:
    """Return which programs would undo the work of another one when they are started by hand, a line for each.

    Parameters
    ----------
    programs
        The programs to be deployed.
    others
        The other deployments on the server, by name.
    environ
        Variables of paths.

    Raises
    ------
    UsageError
        If both have a schedule, and would undo each other's work for ever.
    """
    known = [(name, dict(each.parameters), bool(each.schedules)) for name, each in others.items()]
    lines = []
    for program in programs:
        ours = _resolved(program.deployment(), environ)["parameters"]
        for name, theirs, scheduled in known:
            told = _undone(theirs, ours)
            if not told:
                continue
            message = (
                f"{program.name}: {name} writes to {ours['output']} as well, and each of both would undo the other's "
                f"work ({told}); give one of them another output"
                f"{f', or remove that one: {_removal(name)}' if name in others else ''}"
            )
            if program.schedule and scheduled:
                raise UsageError(message)
            lines.append(message)
        known.append((program.deployed_name, ours, bool(program.schedule)))
    return lines


def _undone(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """Return in words how two programs of one output differ; '' if they do not, or have outputs of their own."""
    if Path(str(theirs.get("output"))).resolve() != Path(ours["output"]).resolve():
        return ""
    try:
        return told_settings(changes_of(theirs, ours))
    except SettingsError as error:
        return str(error)


def _removal(name: str) -> str:
    return f"prefect deployment delete {shlex.quote(name)}"


def output_changes(program: Program, environ: Mapping[str, str] = os.environ) -> str:
    """Return which settings of the program's output its next run changes, in words; '' if none."""
    run = Path(Template(program.output).substitute(environ)) / RUN
    if program.grid or not run.is_file():
        return ""
    try:
        theirs = numbers_settings(RunRecord.load(run).settings)
    except OutputFolderError as error:
        return str(error)
    return told_settings(changes_between(theirs, numbers_settings(program.chosen.model_dump(mode="json"))))


def _known(client: SyncPrefectClient, program: Program) -> DeploymentResponse | None:
    try:
        return client.read_deployment_by_name(program.deployed_name)
    except ObjectNotFound:
        return None


def _of_program(
    program: Program, known: DeploymentResponse | None, environ: Mapping[str, str], alerts: Sequence[str]
) -> Iterator[str]:
    changes = [] if known is None else list(changes_on_server(program, known, environ, alerts))
    new = known is None
    yield f"{program.name}: {'new' if new else '; '.join(changes) or 'nothing changes on the server'}"
    if told := output_changes(program, environ):
        output = Template(program.output).substitute(environ)
        yield f"{program.name}: the next run brings {output} to these settings: {told}"


def changes_on_server(
    program: Program, known: DeploymentResponse, environ: Mapping[str, str], alerts: Sequence[str]
) -> Iterator[str]:
    """Yield how a program differs from its deployment, of which the alerts are given in words."""
    wanted = _resolved(program.deployment(), environ)
    ours, theirs = wanted["parameters"], dict(known.parameters)
    try:
        changes = changes_of(theirs, ours)
    except SettingsError as error:
        yield f"its settings on the server are those of another version ({error})"
    else:
        # those that affect the results, and the others
        changes |= changes_between(_all_settings(theirs), _all_settings(ours))
        changes.pop("preset", None)  # its settings are told
        if changes:
            yield told_settings(changes)
    for name in sorted({*ours, *theirs} - _ELSEWHERE):
        if theirs.get(name) != ours.get(name):
            yield f"{name} was {theirs.get(name)!r}, now {ours.get(name)!r}"
    limit = known.global_concurrency_limit.limit if known.global_concurrency_limit else known.concurrency_limit
    strategy = known.concurrency_options.collision_strategy.value if known.concurrency_options else None
    pairs = {
        "schedule": (_schedules_of(known), [_told_schedule(each) for each in wanted["schedules"]]),
        "concurrency": (limit, program.concurrency),
        "when_busy": (strategy, wanted["concurrency_limit"]["collision_strategy"]),
        # without one, Prefect shows that of the flow
        "description": (known.description, program.description or known.description),
        "tags": (sorted(known.tags), sorted(wanted["tags"])),
        "work_pool": (known.work_pool_name, program.work_pool),
        "alerts": (list(alerts), [told_alert(each) for each in program.alert]),
        "code": (_place_of(known), str(ROOT)),
    }
    then, now = ((known.job_variables or {}).get("env") or {}, wanted["work_pool"]["job_variables"]["env"])
    pairs |= {name: (then.get(name), now.get(name)) for name in sorted({*then, *now})}
    for name, (old, new) in pairs.items():
        if old != new:
            yield f"{name} was {_shown(old)}, now {_shown(new)}"


def _all_settings(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return MatchSettings.from_mapping(parameters.get("settings") or {}).model_dump(mode="json")


def _place_of(known: DeploymentResponse) -> str | None:
    """Return the folder of the flows that a deployment's runs use."""
    steps = [step[_STEP] for step in known.pull_steps or () if _STEP in step]
    return str(steps[-1].get("directory")) if steps else known.path


def _schedules_of(known: DeploymentResponse) -> list[str]:
    found = []
    for each in known.schedules:
        schedule = each.schedule
        interval = getattr(schedule, "interval", None)
        found.append(
            {
                "slug": each.slug or "",
                "cron": getattr(schedule, "cron", None),
                "interval": interval and int(interval.total_seconds()),
                "timezone": getattr(schedule, "timezone", None) or "UTC",
                "active": each.active,
            }
        )
    return [_told_schedule(each) for each in sorted(found, key=lambda one: str(one["slug"]))]


def _told_schedule(schedule: Mapping[str, Any]) -> str:
    when = schedule.get("cron") or f"every {schedule.get('interval')} s"
    return f"{when} {schedule['timezone']}{'' if schedule['active'] else ' (off)'}"


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else repr(value)


def _resolved(value: Any, environ: Mapping[str, str]) -> Any:  # noqa: ANN401 - plain values
    """Return an entry of prefect.yaml with the values of its variables, as the server gets it."""
    if isinstance(value, dict):
        return {name: _resolved(each, environ) for name, each in value.items()}
    if isinstance(value, list):
        return [_resolved(each, environ) for each in value]
    if isinstance(value, str) and "{{ $" in value:
        return Template(value.replace("{{ $", "${").replace(" }}", "}")).safe_substitute(environ)
    return value
