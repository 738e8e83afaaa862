"""What a deployment changes: each program on Prefect's server and in its output, and as its file has it."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound

from flows.orchestration.programs import Program
from flows.orchestration.trials import changes_of
from levelmatch_core.errors import OutputFolderError, SettingsError
from levelmatch_core.products.output.folder import RUN
from levelmatch_core.products.output.settings_changes import changes_between, numbers_settings, told_settings
from levelmatch_core.products.runrecord import RunRecord

_ELSEWHERE = {"settings", "band", "inputs", "recursive", "group_by", "grid"}
"""Parameters that are compared by what they mean."""


def told_differences(
    programs: Sequence[Program], environ: Mapping[str, str] = os.environ, *, whole: bool = True
) -> list[str]:
    """Return what will be different after a deployment, a line or more per program; asks Prefect's server.

    If these are all programs (`whole`), deployments of others are named, too.
    """
    lines: list[str] = []
    with get_client(sync_client=True) as client:
        for program in programs:
            known = _known(client, program)
            lines += _of_program(program, known, environ)
        if not whole:
            return lines
        tagged = DeploymentFilter(tags=DeploymentFilterTags(all_=["levelmatch"]))
        names = {program.deployed_name for program in programs}
        for left in client.read_deployments(deployment_filter=tagged, limit=200):
            name = f"{client.read_flow(left.flow_id).name}/{left.name}"
            if name not in names:
                lines.append(
                    f"{name}: on the server, and in no file here: it stays"
                    f"{' and runs on' if any(each.active for each in left.schedules) else ''}; to remove it: "
                    f"prefect deployment delete {name}"
                )
    return lines


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


def _of_program(program: Program, known: DeploymentResponse | None, environ: Mapping[str, str]) -> Iterator[str]:
    changes = [] if known is None else list(_changes(program, known, environ))
    new = known is None
    yield f"{program.name}: {'new' if new else '; '.join(changes) or 'nothing changes on the server'}"
    if told := output_changes(program, environ):
        output = Template(program.output).substitute(environ)
        yield f"{program.name}: the next run brings {output} to these settings: {told}"


def _changes(program: Program, known: DeploymentResponse, environ: Mapping[str, str]) -> Iterator[str]:
    wanted = _resolved(program.deployment(), environ)
    ours, theirs = wanted["parameters"], dict(known.parameters)
    try:
        changes = changes_of(theirs, ours)
    except SettingsError as error:
        yield f"its settings on the server are those of another version ({error})"
    else:
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
    }
    for name, (old, new) in pairs.items():
        if old != new:
            yield f"{name} was {_shown(old)}, now {_shown(new)}"


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
