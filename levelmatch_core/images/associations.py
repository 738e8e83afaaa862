"""Associations: the JSON files by which JWST's pipeline is told which exposures make a product."""

import json
import os
from collections import Counter
from collections.abc import Collection
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


def science_members(path: Path, missing: Collection[Path] = ()) -> list[Path]:
    """Return the science exposures of an association, each once, in its order.

    Members of other types, such as backgrounds, are left out, and counted in the log.

    Parameters
    ----------
    path
        A file with `products`, each with `members` of `expname` (relative to the association's folder) and `exptype`.
    missing
        Absolute paths of members that are known not to exist.

    Raises
    ------
    UsageError
        If it is no association, has no science member, or another member does not exist.
    """
    found, others = _members(path)
    absent = [str(member) for member in found if not member.is_file() and _absolute(member) not in missing]
    if absent:
        message = f"input {path}: {len(absent)} of its {len(found)} members do not exist, {absent[0]} the first"
        raise UsageError(message)
    if others:
        logger.warning("%s: left out, for they are not science: %s", path, _counted(others))
    return found


def absent_members(path: Path) -> list[Path]:
    """Return the science exposures of an association that do not exist."""
    return [member for member in _members(path)[0] if not member.is_file()]


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 - links keep the names that users gave


def _members(path: Path) -> tuple[list[Path], list[tuple[str, str]]]:
    """Return the science exposures, and name and type of all other members.

    Raises
    ------
    UsageError
        If it is no association, or has no science member.
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
    return found, [(name, kind) for name, kind in named if kind != SCIENCE]


def _text(value: Any) -> str:  # noqa: ANN401 - whatever the JSON holds
    if not isinstance(value, str):
        message = f"{value!r} is no text"
        raise TypeError(message)
    return value


def _counted(named: list[tuple[str, str]]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(kind for _, kind in named).items()))
