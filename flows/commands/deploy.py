"""`levelmatch deploy`: program files -> deployments/prefect.yaml -> Prefect's server."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import cloup

from flows.commands.console import clean_errors, say, say_lines
from flows.home import VARIABLE, Home, prepare_environment
from levelmatch_core.errors import LevelMatchError, UsageError
from levelmatch_core.files.writing import replacing

if TYPE_CHECKING:
    from flows.orchestration.programs import Program

HEAD = """\
# Written by `levelmatch deploy` from programs/*.toml: edit those. To deploy, run in the root of the repository
#     levelmatch deploy
# or, equivalently,
#     prefect --no-prompt deploy --all --prefect-file deployments/prefect.yaml
"""

PROGRAMS = Path("deployments/programs")


class DeployError(LevelMatchError):
    """Prefect refused a deployment."""


@cloup.command(short_help="Deploy the observing programs to Prefect's server.")
@cloup.option(
    "--programs",
    "folder",
    type=click.Path(path_type=Path),
    default=PROGRAMS,
    show_default=True,
    metavar="DIR",
    help="Folder of <program>.toml files; prefect.yaml is written next to it.",
)
@cloup.option("--check", "only", metavar="NAME", help="Only check whether this program could run here.")
@cloup.option("--render", is_flag=True, help="Only write prefect.yaml.")
@cloup.option("--dry-run", is_flag=True, help="Only show what would be different.")
def deploy(folder: Path, only: str | None, *, render: bool, dry_run: bool) -> None:
    """Deploy every observing program, from the root of the repository, to the Prefect server.

    Each file of DIR becomes a deployment. What will be different is shown for each: on the server, and in its output,
    which the next run brings to the settings of the file. If a variable is not set or a folder does not exist, nothing
    is deployed, and the exit code is 2.
    """
    with clean_errors():
        from flows.orchestration.programs import load_programs, refuse_trouble  # noqa: PLC0415 - slow to import

        programs = load_programs(Path(os.environ.get("LEVELMATCH_PROGRAMS", folder)) if only else folder)
        if only is not None:
            refuse_trouble(_named(programs, only))
            if not os.environ.get(VARIABLE):  # Prefect would store its name as it is written
                message = f"the variable {VARIABLE} is not set: name the folder that all workers share"
                raise UsageError(message)
            return
        if not render:
            refuse_trouble(programs)
        if dry_run:
            _say_differences(programs)
            return
        file = folder.absolute().parent / "prefect.yaml"
        text = prefect_yaml(programs)
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            with replacing(file) as temporary:
                temporary.write_text(text, encoding="utf-8")
        if render:
            say(f"{file}: {len(programs)} deployments")
            return
        _deploy(file, programs, folder.absolute())


def prefect_yaml(programs: Sequence["Program"]) -> str:
    """Return the text of prefect.yaml."""
    import yaml  # type: ignore[import-untyped]  # noqa: PLC0415 - untyped; slow to import

    content = {"name": "levelmatch", "deployments": [program.deployment() for program in programs]}
    return HEAD + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)


def _named(programs: Sequence["Program"], name: str) -> list["Program"]:
    found = [program for program in programs if program.name == name]
    if not found:
        message = f"no program {name!r}; there are {', '.join(program.name for program in programs)}"
        raise UsageError(message)
    return found


def _deploy(file: Path, programs: Sequence["Program"], folder: Path) -> None:
    """Have Prefect read prefect.yaml, after creating missing work pools.

    Raises
    ------
    UsageError
        If the current folder is not the root of the repository.
    DeployError
        If Prefect refuses.
    """
    if not Path("flows", "level_match.py").is_file():
        message = f"{Path.cwd()}: no flows/level_match.py here; deploy from the root of the repository"
        raise UsageError(message)
    home = prepare_environment()
    with _server(home) as address:
        _deploy_to_server(file, programs, folder, {**address, VARIABLE: str(home.root)})


@contextmanager
def _server(home: Home) -> Iterator[dict[str, str]]:
    """Provide a server during the context, and yield the variables that name it.

    Prefect would start one for each of its commands, which would survive if we were killed; this one does not.
    """
    from flows.orchestration.availability import making_database  # noqa: PLC0415 - slow to import
    from flows.orchestration.ephemeral_server import in_place_of_prefects  # noqa: PLC0415 - as above

    with ExitStack() as stack:
        with making_database(home):
            server = stack.enter_context(in_place_of_prefects(None))
            if server is not None:
                server.wait()
        yield {} if server is None else {"PREFECT_API_URL": server.url}


def _deploy_to_server(file: Path, programs: Sequence["Program"], folder: Path, variables: dict[str, str]) -> None:
    """Create work pools, deployments and automations.

    Raises
    ------
    UsageError
        If an alert cannot be sent; nothing is deployed then.
    DeployError
        If Prefect refuses.
    """
    from flows.orchestration.automations import (  # noqa: PLC0415 - imports Prefect
        alert_blocks,
        make_automations,
        paused_alerts,
    )

    blocks, paused = alert_blocks(programs), paused_alerts(programs)
    # so that Prefect finds the commands of this environment, and --check uses the same folder
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    environ = {**os.environ, "PATH": path, "LEVELMATCH_PROGRAMS": str(folder), **variables}
    for pool in sorted({program.work_pool for program in programs}):
        if _prefect(environ, "work-pool", "inspect", pool).returncode:
            made = _prefect(environ, "work-pool", "create", pool, "--type", "process")
            if made.returncode and _prefect(environ, "work-pool", "inspect", pool).returncode:  # a worker may be faster
                _refuse(made, f"work pool {pool}")
    _say_differences(programs)
    _refuse(_prefect(environ, "deploy", "--all", "--prefect-file", str(file)), "deploy")
    make_automations(programs, blocks, paused)
    for program in programs:
        when = "; ".join(f"{each.cron or f'every {each.interval} s'} {each.timezone}" for each in program.schedule)
        alerts = "".join(f"; {', '.join(alert.on)}: {alert.to}" for alert in program.alert)
        say(f"{program.deployed_name}: {when or 'by hand'}{alerts}")
    say(f"a worker runs them: prefect worker start --pool {programs[0].work_pool} --type process")


def _say_differences(programs: Sequence["Program"]) -> None:
    """Show what a deployment changes.

    Raises
    ------
    DeployError
        If Prefect's server cannot be asked.
    """
    prepare_environment(quiet=True)
    from httpx import HTTPError  # noqa: PLC0415 - slow to import, as all of Prefect
    from prefect.exceptions import PrefectException  # noqa: PLC0415

    from flows.orchestration.program_changes import told_differences  # noqa: PLC0415

    try:
        lines = told_differences(programs)
    except (PrefectException, HTTPError, OSError) as error:
        message = f"prefect, which deployments there are: {type(error).__name__}: {error}; is PREFECT_API_URL right?"
        raise DeployError(message) from error
    say_lines("\n".join(lines))


def _prefect(environ: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "prefect", "--no-prompt", *words]
    return subprocess.run(command, env=environ, text=True, capture_output=True, check=False)  # noqa: S603 - our words


def _refuse(done: subprocess.CompletedProcess[str], what: str) -> None:
    if done.returncode:
        message = f"prefect, {what}: {(done.stderr + done.stdout).strip()[-2000:]}"
        raise DeployError(message)
