"""Observing programs as files, `<program>.toml`, which are checked before they are deployed.

Each file is one deployment. Paths may contain `$NAME`, an environment variable that is read when the program is
deployed.
"""

import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field as Described
from pydantic import ValidationError, field_validator, model_validator

import flows
from flows.home import deployed_environment
from levelmatch_core.errors import SettingsError, UsageError
from levelmatch_core.images.storage.remote import is_remote
from levelmatch_core.records import Record
from levelmatch_core.settings import MatchSettings

TAG = "levelmatch"
"""Tag of all deployments and their flow runs."""


ROOT = Path(flows.__file__).parents[1]
"""The folder in which workers look for the flows: of the repository, or of the installed package."""

_PATTERN = "; inputs are folders and files, and no patterns"


class Schedule(Record):
    """Times at which a program runs automatically: a cron line or an interval, in a time zone."""

    cron: str | None = None
    interval: int | None = Described(default=None, ge=10, description="seconds between runs")
    timezone: str = "UTC"
    active: bool = True

    @field_validator("timezone")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            message = f"no time zone {name!r}: expected a name such as America/New_York"
            raise ValueError(message) from error
        return name

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.cron is None) == (self.interval is None):
            message = "a schedule has either cron or interval"
            raise ValueError(message)
        if self.cron is not None:
            # here: it imports Prefect
            from prefect.client.schemas.schedules import CronSchedule  # noqa: PLC0415

            CronSchedule(cron=self.cron, timezone=self.timezone)
        return self


Event = Literal["quarantined", "failed", "crashed", "late", "incomplete", "doubtful", "cancelled", "completed"]
"""States of flow runs, by which their events are called."""


class Alert(Record):
    """A message about flow runs that reach one of some states."""

    on: tuple[Event, ...] = Described(min_length=1, description="names of the states")
    to: str = Described(
        pattern=r"^[a-z0-9-]+/[a-z0-9-]+$", description="TYPE/NAME of a block of Prefect that sends notifications"
    )


class Program(Record):
    """One observing program, as described by its file."""

    name: str = Described(description="stem of the file name; the name of the deployment")
    file: Path = Described(description="the file")
    description: str = ""
    program: str = Described(description="the MLflow experiment; by default the stem of the file name")
    inputs: tuple[str, ...] = Described(min_length=1, description="files and folders; $NAME is a variable")
    output: str
    recursive: bool = False
    group_by: str | None = None
    band: str | None = None
    settings: dict[str, Any] = Described(default={}, description="settings that differ from the defaults")
    grid: dict[str, list[Any]] = Described(
        default={}, description="settings varied by a sweep; without a grid, a single run"
    )
    schedule: tuple[Schedule, ...] = ()
    alert: tuple[Alert, ...] = Described(default=(), description="who is told of which ends of runs")
    concurrency: int = Described(default=1, ge=1, description="number of simultaneous runs")
    when_busy: Literal["wait", "skip"] = Described(
        default="skip", description="what a new run does while another is running"
    )
    retry_delays: tuple[float, ...] = Described(
        default=(1.0, 5.0), description="seconds before each retry after an error of the file system or network"
    )
    work_pool: str = "levelmatch"
    tags: tuple[str, ...] = ()

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and check one file; variables and folders are checked by :meth:`check`.

        Raises
        ------
        SettingsError
            If the file cannot be read, or has errors.
        """
        try:
            text = path.read_text(encoding="utf-8-sig")  # some editors put a mark at its start
            content = {"program": path.stem, **tomllib.loads(text), "name": path.stem}
            content["file"] = path
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            message = f"program file {path}: {error}"
            raise SettingsError(message) from error
        try:
            found = cls.model_validate(content)
            MatchSettings.from_mapping(found.settings)
            for name, values in found.grid.items():
                for value in values:
                    MatchSettings.from_mapping({**found.settings, name: value})
        except ValidationError as error:
            told = [(*map(str, each["loc"]), each["msg"].removeprefix("Value error, ")) for each in error.errors()]
            lines = [": ".join(filter(None, (".".join(where), what))) for *where, what in told]
            message = f"program file {path}: {'; '.join(lines)}"
            raise SettingsError(message) from error
        except SettingsError as error:
            message = f"program file {path}: {error}"
            raise SettingsError(message) from error
        return found

    @model_validator(mode="after")
    def _variables(self) -> Self:
        if wrong := [path for path in self.paths if not Template(path).is_valid()]:
            message = f"{wrong[0]}: a $ that begins no variable is written $$"
            raise ValueError(message)
        return self

    @property
    def entrypoint(self) -> str:
        """The flow to run, relative to the root of the repository."""
        return "flows/sweep.py:sweep" if self.grid else "flows/level_match.py:level_match"

    @property
    def deployed_name(self) -> str:
        """The name of the deployment on Prefect's server, with that of its flow."""
        return f"{self.entrypoint.partition(':')[2]}/{self.name}"

    @property
    def chosen(self) -> MatchSettings:
        """All settings of its runs; those of a sweep without its grid."""
        found = MatchSettings.from_mapping({"preset": "best", **self.settings})
        return found if self.band is None else found.model_copy(update={"band": self.band})

    @property
    def paths(self) -> tuple[str, ...]:
        """All texts that may contain variables."""
        return (*self.inputs, self.output, *([self.group_by] if self.group_by else []))

    def check(self, environ: Mapping[str, str] = os.environ) -> list[str]:
        """Return the obstacles to a run: variables that are not set, folders that do not exist."""
        wanted = sorted({name for path in self.paths for name in Template(path).get_identifiers()})
        missing = [name for name in wanted if not environ.get(name)]
        if missing:
            return [f"{self.name}: the variable {name} is not set" for name in missing]
        trouble = []
        given = [Template(path).substitute(environ) for path in self.inputs]
        inputs = [Path(path) for path in given if not is_remote(path)]
        output = Path(Template(self.output).substitute(environ))
        trouble += [
            f"{self.name}: {path} is relative; give the absolute path, since a worker may run anywhere"
            for path in (*inputs, output)
            if not path.is_absolute()
        ]
        trouble += [
            f"{self.name}: there is no input {path}{_PATTERN if set('*?[') & set(str(path)) else ''}"
            for path in inputs
            if not path.exists()
        ]
        if not output.exists() and not output.parent.is_dir():
            trouble.append(f"{self.name}: the output {output} cannot be created: there is no folder {output.parent}")
        place = output if output.exists() else output.parent
        if place.is_dir() and not os.access(place, os.W_OK | os.X_OK):
            trouble.append(f"{self.name}: the output {output} cannot be written: no permission for {place}")
        if any(output.resolve() == path.resolve() for path in inputs):
            trouble.append(f"{self.name}: the output {output} is an input")
        return trouble

    def deployment(self) -> dict[str, Any]:
        """Return the entry of prefect.yaml."""
        parameters: dict[str, Any] = {
            "inputs": [_templated(path) for path in self.inputs],
            "output": _templated(self.output),
            "program": self.program,
            "settings": {"preset": "best", **self.settings},
            "recursive": self.recursive,
            "retry_delays": list(self.retry_delays),
        }
        if self.group_by:
            parameters["group_by"] = _templated(self.group_by)
        if self.grid:
            parameters["grid"] = self.grid
            parameters["settings"] = {"preset": "best", **self.settings, **({"band": self.band} if self.band else {})}
        elif self.band:
            parameters["band"] = self.band
        return {
            "name": self.name,
            "description": self.description,
            "tags": [TAG, *self.tags],
            "entrypoint": self.entrypoint,
            "parameters": parameters,
            "schedules": [
                {
                    **({"cron": each.cron} if each.cron else {"interval": each.interval}),
                    "timezone": each.timezone,
                    "active": each.active,
                    "slug": f"{self.name}-{number}",
                }
                for number, each in enumerate(self.schedule, start=1)
            ],
            "concurrency_limit": {
                "limit": self.concurrency,
                "collision_strategy": {"wait": "ENQUEUE", "skip": "CANCEL_NEW"}[self.when_busy],
            },
            "work_pool": {"name": self.work_pool, "job_variables": {"env": deployed_environment()}},
        }


def load_programs(places: Sequence[Path]) -> tuple[Program, ...]:
    """Return the programs of some files, and of all files of some folders, sorted by name.

    Raises
    ------
    UsageError
        If a folder has none, one of them has errors, or two have the same name.
    """
    found: dict[str, Program] = {}
    for place in places:
        files = [place] if place.suffix == ".toml" else sorted(place.glob("*.toml"))
        if not files:
            message = (
                f"{place}: no program file; expected <program>.toml, such as one of deployments/examples that was "
                f"copied and edited"
            )
            raise UsageError(message)
        for program in map(Program.load, files):
            if program.name in found:
                message = f"{program.file} and {found[program.name].file}: one name for two programs; rename one"
                raise UsageError(message)
            found[program.name] = program
    return tuple(found[name] for name in sorted(found))


def refuse_trouble(programs: Sequence[Program], environ: Mapping[str, str] = os.environ) -> None:
    """Refuse to deploy programs that could not run.

    Raises
    ------
    UsageError
        If a variable is not set or a folder does not exist.
    """
    trouble = [line for program in programs for line in program.check(environ)]
    if trouble:
        raise UsageError("; ".join(trouble))


def _templated(path: str) -> str:
    """Return a path with its variables in the syntax of Prefect's templates."""
    names = Template(path).get_identifiers()
    return Template(path).substitute({name: f"{{{{ ${name} }}}}" for name in names})
