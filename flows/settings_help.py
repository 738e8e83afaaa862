"""What a person reads of the settings: names, defaults, choices, meanings."""

import json
from collections.abc import Iterable
from typing import NamedTuple, get_args

from levelmatch_core.errors import SettingsError
from levelmatch_core.presets import PRESETS
from levelmatch_core.settings import MatchSettings


class Described(NamedTuple):
    """A setting, as a person reads of it."""

    name: str
    default: str
    """As it stands in a TOML file; `none` where there is no value."""
    best: str
    """The same in the preset `best`."""
    choices: str
    """The few words that it takes, or nothing."""
    meaning: str


def described(names: Iterable[str] = ()) -> list[Described]:
    """Describe the settings of these names, or all.

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
    """Return the words that a setting takes, where they are few: nothing for numbers and free text."""
    kind = MatchSettings.model_fields[name].annotation
    if kind is bool:
        return ("true", "false")
    arguments = [argument for part in (kind, *get_args(kind)) for argument in get_args(part)]
    return tuple(dict.fromkeys(value for value in arguments if isinstance(value, str)))
