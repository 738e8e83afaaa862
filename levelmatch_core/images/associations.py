"""Associations: the JSON files by which JWST's pipeline is told which exposures make a product."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from levelmatch_core.errors import UsageError
from levelmatch_core.process.log_context import logger_of

logger = logger_of(__name__)

SUFFIX = ".json"
SCIENCE = "science"


def is_association(path: Path) -> bool:
    """Return whether an input is taken for an association: a file whose name ends in `.json`."""
    return path.suffix.lower() == SUFFIX and path.is_file()


def science_members(path: Path) -> list[Path]:
    """Return the science exposures of an association, each once, in its order.

    Members of other types, such as backgrounds, are left out, and counted in the log.

    Parameters
    ----------
    path
        A file with `products`, each with `members` of `expname` (relative to the association's folder) and `exptype`.

    Raises
    ------
    UsageError
        If it is no association, has no science member, or a member does not exist.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        members = [member for product in content["products"] for member in product["members"]]
        named = [(_text(member["expname"]), _text(member["exptype"]).lower()) for member in members]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        message = (
            f"input {path}: no association ({type(error).__name__}: {error}); expected JSON with products, their "
            f"members, and expname and exptype of each"
        )
        raise UsageError(message) from error
    found = list(dict.fromkeys(path.parent / name for name, kind in named if kind == SCIENCE))
    if not found:
        message = f"input {path}: an association without science members (it has {_counted(named) or 'none at all'})"
        raise UsageError(message)
    missing = [str(member) for member in found if not member.is_file()]
    if missing:
        message = f"input {path}: {len(missing)} of its {len(found)} members do not exist, {missing[0]} the first"
        raise UsageError(message)
    others = [(name, kind) for name, kind in named if kind != SCIENCE]
    if others:
        logger.warning("%s: left out, for they are not science: %s", path, _counted(others))
    return found


def _text(value: Any) -> str:  # noqa: ANN401 - whatever the JSON holds
    if not isinstance(value, str):
        message = f"{value!r} is no text"
        raise TypeError(message)
    return value


def _counted(named: list[tuple[str, str]]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(kind for _, kind in named).items()))
