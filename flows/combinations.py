"""The combinations of a sweep: a grid of settings, and the name of the folder of each combination."""

from collections.abc import Mapping
from itertools import product
from typing import Any

from levelmatch_core.errors import SettingsError
from levelmatch_core.settings import MatchSettings

MOST = 500
"""Largest number of combinations of one sweep."""


def combinations(grid: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """Return every combination of the grid's values.

    Raises
    ------
    SettingsError
        If there are none, or more than 500, or if a name is not a setting.
    """
    empty = [name for name, values in grid.items() if not values]
    if not grid or empty:
        message = f"a sweep varies one setting or more, each with a value or more{': ' if empty else ''}{empty or ''}"
        raise SettingsError(message)
    for name in grid:
        if name not in MatchSettings.model_fields:
            MatchSettings.from_mapping({name: None})  # names similar settings
    found = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    if len(found) > MOST:
        message = f"{len(found)} combinations; a sweep takes {MOST} at most"
        raise SettingsError(message)
    return found


def folder_of(values: Mapping[str, Any]) -> str:
    """Return the name of a combination's folder."""
    return ",".join(f"{name}={_plain(value)}" for name, value in values.items())


def _plain(value: object) -> str:
    return "".join(sign if sign.isalnum() or sign in "._+-" else "_" for sign in str(value))
