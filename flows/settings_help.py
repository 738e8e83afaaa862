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
    """Return the descriptions of the settings with these names, or with these words in their names, or of all.

    Raises
    ------
    SettingsError
        If a name is unknown, and in no setting's name.
    """
    fields = MatchSettings.model_fields
    wanted = tuple(dict.fromkeys(found for name in names for found in _meant(name)))
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


def _meant(name: str) -> list[str]:
    """Return the setting of a name, or those whose names hold it.

    Raises
    ------
    SettingsError
        If there is none.
    """
    fields = MatchSettings.model_fields
    found = [name] if name in fields else [one for one in fields if name.lower() in one]
    if not found or not name:
        raise SettingsError(MatchSettings.no_such(name))
    return found


def _toml(value: object) -> str:
    return "none" if value is None else json.dumps(value)


def few_values(name: str) -> tuple[str, ...]:
    """Return the possible values of a setting if they are a few words; empty for numbers and free text."""
    kind = MatchSettings.model_fields[name].annotation
    if kind is bool:
        return ("true", "false")
    arguments = [argument for part in (kind, *get_args(kind)) for argument in get_args(part)]
    return tuple(dict.fromkeys(value for value in arguments if isinstance(value, str)))
