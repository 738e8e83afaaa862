"""Settings that other packages read from files in the current folder, which may contain data of unknown origin.

Prefect and numba read such files by themselves (matplotlib does, too, but our figures do without them). The settings
found are logged, so that no run is redirected silently; settings that could make them execute code are not left to such
files (:func:`flows.home.set_environment`).
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flows.secrets import without_secrets
from levelmatch_core.errors import UsageError
from levelmatch_core.files.regular import refuse_irregular
from levelmatch_core.process.log_context import logger_of

logger = logger_of(__name__)

FILES = (".env", "prefect.toml", "pyproject.toml", ".numba_config.yaml")
"""The names of these files."""

_LINE = re.compile(r"^\s*(?:export\s+)?(?P<name>\w+)\s*[=:]\s*(?P<value>.*?)\s*$", re.MULTILINE)
_MOST = 100_000
"""Number of characters of a file that are read."""


_told: set[Path] = set()


def tell_settings(folder: Path, known: frozenset[str]) -> None:
    """Log, once per folder, which settings come from files in it.

    Parameters
    ----------
    folder
        The current folder.
    known
        Names of the variables that are set, which take precedence over files.

    Raises
    ------
    UsageError
        If one of the files is a pipe, a socket or a device: who reads it would wait forever; or if it is not UTF-8.
    """
    if folder in _told:
        return
    for file in (folder / name for name in FILES):
        if not file.is_dir():  # such as a virtual environment; nobody reads that
            refuse_irregular(file, UsageError)
        _refuse_undecodable(file)
    _told.add(folder)
    for package, file, names in _found(folder, known):
        logger.warning(
            "%s takes settings from %s: %s; set them as variables, or run in another folder, to change them",
            *(package, file, ", ".join(names)),
        )


def _refuse_undecodable(file: Path) -> None:
    try:
        if file.is_file():
            file.read_bytes().decode()
    except UnicodeDecodeError as error:
        message = f"{file}: not UTF-8 (byte {error.start}), which those need that take settings from it; run elsewhere"
        raise UsageError(message) from error


def _found(folder: Path, known: frozenset[str]) -> Iterator[tuple[str, Path, list[str]]]:
    """Yield package, file and settings; addresses with their values, but without secrets."""
    env = folder / ".env"
    given = {each["name"].upper(): each["value"].strip("'\"") for each in _LINE.finditer(_text(env))}
    names = [_shown(name, value) for name, value in given.items() if name.startswith("PREFECT_") and name not in known]
    if names:
        yield "Prefect", env, names
    for file, table in ((folder / "prefect.toml", ()), (folder / "pyproject.toml", ("tool", "prefect"))):
        names = [_shown(name, value) for name, value in _flat(_toml(file, table))]
        if names:
            yield "Prefect", file, names
    numba = folder / ".numba_config.yaml"
    given = {f"NUMBA_{each['name'].upper()}": "" for each in _LINE.finditer(_text(numba))}
    if names := [name for name in given if name not in known]:
        yield "numba", numba, names


def _text(file: Path) -> str:
    if not file.is_file():
        return ""
    with file.open(encoding="utf-8", errors="replace") as opened:
        return opened.read(_MOST)


def _toml(file: Path, table: tuple[str, ...]) -> Mapping[str, Any]:
    try:
        content: Any = tomllib.loads(_text(file))
    except tomllib.TOMLDecodeError:  # Prefect reports it
        return {}
    for name in table:
        content = content.get(name, {}) if isinstance(content, Mapping) else {}
    return content if isinstance(content, Mapping) else {}


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value)


def _shown(name: str, value: str) -> str:
    return f"{name}={without_secrets(value)}" if value.startswith(("http://", "https://")) else name
