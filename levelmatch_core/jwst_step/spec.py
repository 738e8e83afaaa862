"""The settings as parameters of a step: the specification that stpipe reads, and the way back."""

import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from levelmatch_core.pjpipe_step.state import SPELLINGS, spelled
from levelmatch_core.settings import MatchSettings, toml_value

LEFT_OUT = frozenset(
    {
        "preset",  # single parameters have defaults of their own
        "step_ext",  # of folders
        "checksums",  # of files; models have none
        "companions",
        "plane",
        "settle_seconds",
        "overwrite",  # stpipe replaces what a step wrote before
    }
)
"""Settings that mean nothing where images come as models."""

CHANGED = {"wcs_source": "gwcs"}
"""What a step does otherwise: the WCS of a model is its gwcs, which tweakreg changes."""

_NUMBERS = {bool: "boolean", int: "integer", float: "float"}


def spec_of_settings() -> str:
    """Return the parameters, one a line: name, type with default, and what it does."""
    fields = {name: field for name, field in MatchSettings.model_fields.items() if name not in LEFT_OUT}
    return "\n".join(
        f"{name} = {_kind(field.annotation, CHANGED.get(name, field.default))}  # {_comment(field.description)}"
        for name, field in fields.items()
    )


def settings_of_parameters(parameters: Mapping[str, Any]) -> MatchSettings:
    """Return the settings that the parameters of a step say.

    Parameters
    ----------
    parameters
        Value by name, as stpipe has checked them; what is no setting is passed over.

    Raises
    ------
    SettingsError
        If a value is out of range.
    """
    given = {name: value for name, value in parameters.items() if name in MatchSettings.model_fields}
    values = {name: _value(name, value) for name, value in given.items() if name not in LEFT_OUT}
    return MatchSettings.from_mapping({**spelled(values), "overwrite": True})


def _value(name: str, value: object) -> object:
    """Return a value; text of a setting that takes both numbers and words is read as in `--set`."""
    return toml_value(name, value) if isinstance(value, str) and _is_mixed(name) else value


def _is_mixed(name: str) -> bool:
    kinds = _kinds(MatchSettings.model_fields[name].annotation)
    return float in kinds and len(kinds) > 1


def _kinds(annotation: Any) -> tuple[Any, ...]:  # noqa: ANN401 - a type
    """Return what a setting takes, without None and what pydantic adds."""
    several = get_origin(annotation) in {Union, types.UnionType}
    parts = get_args(annotation) if several else (annotation,)
    plain = (get_args(part)[0] if hasattr(part, "__metadata__") else part for part in parts)
    return tuple(part for part in plain if part is not type(None))


def _kind(annotation: Any, default: object) -> str:  # noqa: ANN401 - a type
    """Return the type and default of a parameter in stpipe's words."""
    kinds = _kinds(annotation)
    if len(kinds) == 1 and get_origin(kinds[0]) is Literal:
        choices = list(get_args(kinds[0]))
        choices += [other for other, ours in SPELLINGS.items() if ours in choices]
        return f"option({', '.join(map(repr, choices))}, default={default!r})"
    if len(kinds) == 1 and kinds[0] in _NUMBERS:
        return f"{_NUMBERS[kinds[0]]}(default={default!r})"
    if len(kinds) == 1 and get_origin(kinds[0]) is tuple:
        return "force_list(default=list())"
    if len(kinds) > 1 or kinds[0] in {str, Path}:
        return f"string(default={default!r})"
    message = f"no parameter of a step is of type {annotation}"
    raise TypeError(message)


def _comment(description: str | None) -> str:
    return " ".join((description or "").split())
