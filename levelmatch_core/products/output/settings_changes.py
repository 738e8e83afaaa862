"""Settings that affect the results, how they differ between two runs, and how that is said."""

from collections.abc import Mapping
from typing import Any

from levelmatch_core.settings import MatchSettings, roles_by_name

Changes = dict[str, tuple[Any, Any]]
"""Setting -> its value before, and now."""


def numbers_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings (name -> plain value) that affect the results."""
    roles = roles_by_name()
    return {name: value for name, value in settings.items() if roles.get(name, "input") not in {"run", "draw"}}


def changes_between(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> Changes:
    """Return the settings that differ; a setting unknown to an older version had the present default there."""
    defaults = MatchSettings().model_dump(mode="json")
    names = sorted({*theirs, *ours})
    pairs = {name: (theirs.get(name, defaults.get(name)), ours.get(name, defaults.get(name))) for name in names}
    return {name: (old, new) for name, (old, new) in pairs.items() if old != new}


def told_settings(changes: Mapping[str, tuple[Any, Any]]) -> str:
    """Return the differences as words: `rms_sig_limit was 2.0, now 3.0`."""
    return "; ".join(f"{name} was {old!r}, now {new!r}" for name, (old, new) in changes.items())


def settings_before(
    previous: Mapping[str, Any], earlier: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the settings were that changed last, by name.

    Parameters
    ----------
    previous
        All settings of the run before.
    earlier
        What that run recorded as changed: kept while nothing changes, so that a run without changes writes nothing.
    settings
        All settings of this run.
    """
    changed = changes_between(numbers_settings(previous), numbers_settings(settings))
    return {name: old for name, (old, _) in changed.items()} if changed else dict(earlier)
