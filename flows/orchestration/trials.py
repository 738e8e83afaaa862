"""What a run of a deployment may write: the program's output with the program's settings, else a trial next to it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from httpx import HTTPError
from prefect import get_run_logger, runtime
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectException

from flows.combinations import folder_of
from levelmatch_core.errors import SettingsError
from levelmatch_core.pipeline import TRIAL
from levelmatch_core.products.output.settings_changes import Changes, changes_between, numbers_settings, told_settings
from levelmatch_core.records import content_key
from levelmatch_core.settings import MatchSettings

_LONGEST = 80
"""Largest length of the name of a trial that lists what differs."""

_OTHERS = ("inputs", "recursive", "group_by", "grid")
"""Parameters of a flow, besides its settings, that affect the results."""


def settings_and_output(settings: MatchSettings, output: Path, trial: str | None = None) -> tuple[MatchSettings, Path]:
    """Return the settings and the output of the current flow run.

    With the settings of its program, a run brings the program's output to them, whatever made it before. With others,
    it is a trial and writes next to it. Runs without a deployment, and runs with an output of their own, are left as
    they are.

    Parameters
    ----------
    settings, output
        As requested, including the band.
    trial
        The name of the trial; None for a name that lists what differs from the program.

    Raises
    ------
    SettingsError
        If the name of the trial cannot be that of a folder.
    """
    parameters = _parameters_of_program()
    if parameters is None or Path(str(parameters.get("output"))) != output:
        return settings, (output if trial is None else trial_of(output, trial))
    changes = changes_of(parameters, {**runtime.flow_run.parameters, "settings": settings, "band": settings.band})
    overwriting = settings.model_copy(update={"overwrite": True})
    if not changes and trial is None:
        return overwriting, output
    chosen = trial_of(output, trial_name(changes) if trial is None else trial)
    get_run_logger().warning(
        "not the settings of the program (%s): a trial, which is written to %s and leaves %s as it is",
        *(told_settings(changes) or f"named {trial}", chosen, output),
    )
    return overwriting, chosen


def trial_note(folder: Path, output: Path) -> str:
    """Return the beginning of the message of a run that was to write `output`; '' if it did, and was no trial."""
    return f"A trial, in {folder}; {output} is as it was: start its program again to bring it up to date. " * (
        folder != output
    )


def changes_of(program: Mapping[str, Any], run: Mapping[str, Any]) -> Changes:
    """Return what affects the results and differs between the parameters of a deployment and those of a run of it."""
    changes = changes_between(_numbers(program), _numbers(run))
    for name in _OTHERS:
        theirs, ours = program.get(name) or None, run.get(name) or None
        if theirs != ours:
            changes[name] = (theirs, ours)
    return changes


def trial_name(changes: Changes) -> str:
    """Return the name of a trial: what differs, or its digest if that is too long."""
    values = {
        name: content_key(new)[:8] if name in _OTHERS and name != "recursive" else new
        for name, (_, new) in changes.items()
    }
    name = folder_of(values)
    return name if len(name) <= _LONGEST else content_key(values)[:12]


def trial_of(output: Path, name: str) -> Path:
    """Return the folder of a trial.

    Raises
    ------
    SettingsError
        If the name cannot be part of a folder's.
    """
    odd = sorted({sign for sign in name if not (sign.isalnum() or sign in "._+-=,")})
    if odd or not name or len(name) > _LONGEST:
        message = f"trial {name!r}: expected 1 to {_LONGEST} letters, digits and signs out of ._+-=,"
        raise SettingsError(message)
    return output.with_name(f"{output.name}{TRIAL}{name}")


def _numbers(parameters: Mapping[str, Any]) -> dict[str, Any]:
    given = parameters.get("settings") or {}
    settings = given if isinstance(given, MatchSettings) else MatchSettings.from_mapping(given)
    if parameters.get("band") is not None:
        settings = settings.model_copy(update={"band": parameters["band"]})
    return numbers_settings(settings.model_dump(mode="json"))


def _parameters_of_program() -> dict[str, Any] | None:
    """Return the parameters of the deployment that this flow run is of, as they are now; None if there is none."""
    deployment = runtime.deployment.id
    if deployment is None:
        return None
    try:
        with get_client(sync_client=True) as client:
            return dict(client.read_deployment(deployment).parameters)
    except (PrefectException, HTTPError, OSError) as error:
        get_run_logger().warning("the settings of the program are not known (%s): other settings are refused", error)
        return None
