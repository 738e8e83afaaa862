"""Description of the settings for the user: names, defaults, choices, meanings."""

import json
from collections.abc import Iterable
from typing import NamedTuple, get_args

from levelmatch_core.errors import SettingsError
from levelmatch_core.presets import PRESETS
from levelmatch_core.settings import MatchSettings


class Described(NamedTuple):
    """The description of a setting for the user."""

    name: str
    default: str
    """As written in a TOML file; `none` for no value."""
    best: str
    """The same in the preset `best`."""
    choices: str
    """The possible values, if they are a few words; else ''."""
    meaning: str


def described(names: Iterable[str] = ()) -> list[Described]:
    """Return the descriptions of the settings with these names, or of all.

    Raises
    ------
    SettingsError
        If a name is unknown.
    """
    wanted = tuple(names)
    fields = MatchSettings.model_fields
    unknown = [name for name in wanted if name not in fields]
    if unknown:
        raise SettingsError("; ".join(MatchSettings.no_such(name) for name in unknown))
    return [
        Described(
            name=name,
            default=_toml(fields[name].default),
            best=_toml(PRESETS["best"].get(name, fields[name].default)),
            choices=" | ".join(few_values(name)),
            meaning=fields[name].description or "",
        )
        for name in wanted or fields
    ]


def _toml(value: object) -> str:
    return "none" if value is None else json.dumps(value)


def few_values(name: str) -> tuple[str, ...]:
    """Return the possible values of a setting if they are a few words; empty for numbers and free text."""
    kind = MatchSettings.model_fields[name].annotation
    if kind is bool:
        return ("true", "false")
    arguments = [argument for part in (kind, *get_args(kind)) for argument in get_args(part)]
    return tuple(dict.fromkeys(value for value in arguments if isinstance(value, str)))
