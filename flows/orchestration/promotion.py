"""A combination of a sweep as the settings of a program: written into its file, whose comments and order stay."""

import difflib
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit
from pydantic import ValidationError
from tomlkit.exceptions import TOMLKitError

from flows.combinations import folder_of
from flows.orchestration.programs import Program
from flows.tracking.ranking import Combination, Ranking
from levelmatch_core.errors import SettingsError, UsageError
from levelmatch_core.files.writing import replacing, write_durably
from levelmatch_core.products.output.folder import RUN
from levelmatch_core.products.output.settings_changes import changes_between, numbers_settings
from levelmatch_core.products.runrecord import RunRecord

RANKING = "ranking.json"

_MARK = "\ufeff"
"""What some editors put at the start of a file."""

_KEYS = {"band"}
"""Settings that are keys of the program itself: what it observes, and not how it is matched."""


@dataclass(frozen=True)
class Promotion:
    """A program file, and what it is to become."""

    program: Path
    before: str
    after: str
    notes: tuple[str, ...]

    @property
    def difference(self) -> str:
        """The difference as a patch; '' if there is none."""
        lines = difflib.unified_diff(
            *(self.before.splitlines(), self.after.splitlines()),
            *(str(self.program), f"{self.program} (promoted)"),
            lineterm="",
        )
        return "\n".join(lines)

    def write(self) -> None:
        """Replace the file."""
        place = self.program.resolve()  # a link stays one
        with replacing(place) as temporary:
            write_durably(temporary, self.after.encode("utf-8"))
            shutil.copymode(place, temporary)


def promotion(sweep: Path, rank: int, program: Path) -> Promotion:
    """Return the program file with all settings of a combination that affect the results.

    Parameters
    ----------
    sweep
        The output of a finished sweep.
    rank
        Row of its ranking, from 1.
    program
        The program file.

    Raises
    ------
    UsageError
        If there is no such sweep or combination, or it failed.
    SettingsError
        If the program file has errors, is a sweep itself, or cannot hold a setting.
    """
    ranking = _ranking(sweep)
    row = _row(ranking, rank, sweep)
    wanted = numbers_settings(_settings(sweep, row))
    found = Program.load(program)
    if found.grid:
        message = f"program file {program}: is a sweep itself; name the file of the program that is to be changed"
        raise SettingsError(message)
    has = numbers_settings(found.chosen.model_dump(mode="json"))
    changes = {name: new for name, (_, new) in changes_between(has, wanted).items()}
    before = program.read_bytes().decode("utf-8")
    after = _changed(program, before, {name: new for name, new in changes.items() if name not in _KEYS}, wanted)
    return Promotion(program, before, after, tuple(_notes(ranking, rank, changes, found)))


def _ranking(sweep: Path) -> Ranking:
    file = sweep / RANKING
    try:
        return Ranking.from_json(json.loads(file.read_bytes()))
    except FileNotFoundError as error:
        message = f"{sweep}: no {RANKING}; name the output folder of a finished sweep"
        raise UsageError(message) from error
    except (OSError, ValueError, ValidationError, RecursionError) as error:
        message = f"{file}: not the ranking of a sweep ({error}); run the sweep again"
        raise UsageError(message) from error


def _row(ranking: Ranking, rank: int, sweep: Path) -> Combination:
    if rank > len(ranking.rows):
        message = f"--rank {rank}: the sweep {sweep} has {len(ranking.rows)} combinations"
        raise UsageError(message)
    row = ranking.rows[rank - 1]
    if row.failed:
        message = f"--rank {rank}: {folder_of(row.values)} failed ({row.failed}); choose another"
        raise UsageError(message)
    return row


def _settings(sweep: Path, row: Combination) -> dict[str, Any]:
    """Return all settings of a combination, from its own record."""
    record = RunRecord.load(sweep / folder_of(row.values) / RUN)
    strangers = {name for name, value in row.values.items() if record.settings.get(name, value) != value}
    if strangers:
        names = ", ".join(sorted(strangers))
        message = f"{sweep / folder_of(row.values)}: was made again with another {names}; sweep again"
        raise UsageError(message)
    return record.settings


def _changed(program: Path, text: str, changes: dict[str, Any], wanted: dict[str, Any]) -> str:
    """Return the text of the program file with changed settings, after checking that it says what is wanted.

    Raises
    ------
    SettingsError
        If a setting cannot be written.
    """
    if not changes:
        return text
    mark = _MARK * text.startswith(_MARK)
    windows = "\r\n" in text and text.count("\r\n") == text.count("\n")
    plain = text.removeprefix(mark)
    try:
        document = tomlkit.parse(plain.replace("\r\n", "\n") if windows else plain)
        settings = document.setdefault("settings", tomlkit.table())
        for name, value in changes.items():
            if value is None:  # TOML has no such value: it is that of what is not given
                settings.pop(name, None)
            else:
                settings[name] = value
        after = mark + (tomlkit.dumps(document).replace("\n", "\r\n") if windows else tomlkit.dumps(document))
    except (TOMLKitError, TypeError, ValueError) as error:
        message = f"program file {program}: {error}"
        raise SettingsError(message) from error
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, program.name)
        file.write_bytes(after.encode("utf-8"))
        has = numbers_settings(Program.load(file).chosen.model_dump(mode="json"))
    wrong = [name for name in changes_between(has, wanted) if name not in _KEYS]
    if wrong:
        message = f"program file {program}: {', '.join(wrong)} cannot be written there; edit the file by hand"
        raise SettingsError(message)
    return after


def _notes(ranking: Ranking, rank: int, changes: dict[str, Any], program: Program) -> list[str]:
    row = ranking.rows[rank - 1]
    first = ranking.ties[rank - 1]
    equals = [str(number) for number, one in enumerate(ranking.ties, start=1) if one == first and number != rank]
    notes = []
    if equals:
        notes.append(f"rank {rank} ties with {', '.join(equals)}: nothing in the sweep tells them apart")
    if not row.tested:
        notes.append(f"rank {rank} cannot be ranked: no pair is predicted by others")
    if unmoved := [name for name in ranking.without_effect if name in changes]:
        notes.append(f"{', '.join(unmoved)} changed nothing in the sweep")
    if "band" in changes:
        notes.append(f"the sweep was of band {changes['band']}, and the program keeps {program.band}")
    return notes
