"""`levelmatch deploy`: program files -> prefect.yaml -> Prefect's server."""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import cloup

from flows.commands.console import clean_errors, say, say_lines
from flows.commands.options import examples, type_of_path
from flows.home import VARIABLE, prepare_environment
from flows.interruption import ending_itself
from levelmatch_core.errors import LevelMatchError, UsageError
from levelmatch_core.files.writing import replacing

if TYPE_CHECKING:
    from flows.orchestration.programs import Program

HEAD = """\
# Written by `levelmatch deploy` from program files: edit those, and run it again. In the root of the repository,
#     prefect --no-prompt deploy --all --prefect-file deployments/prefect.yaml
# deploys them with the same checks, and without automations.
"""

PROGRAMS = Path("deployments/programs")


class DeployError(LevelMatchError):
    """Prefect refused a deployment."""


@cloup.command(
    short_help="Deploy observing programs to Prefect's server.",
    epilog=examples("levelmatch deploy m33.toml --dry-run", "levelmatch deploy m33.toml", "levelmatch deploy"),
)
@cloup.argument(
    "files",
    nargs=-1,
    type=type_of_path,
    metavar="[FILE.toml]...",
    help="Program files; without any, all of --programs. `deployments/examples` has some to start from.",
)
@cloup.option(
    "--programs",
    "folder",
    type=type_of_path,
    default=PROGRAMS,
    show_default=True,
    metavar="DIR",
    help="Folder of program files; what is deployed is written next to it, as prefect.yaml.",
)
@cloup.option("--check", is_flag=True, help="Only check whether the programs could run here.")
@cloup.option("--render", is_flag=True, help="Only write prefect.yaml.")
@cloup.option("--dry-run", is_flag=True, help="Only show what would be different.")
def deploy(files: tuple[Path, ...], folder: Path, *, check: bool, render: bool, dry_run: bool) -> None:
    """Deploy observing programs to the Prefect server.

    Each file becomes a deployment. What will be different is shown for each: on the server, and in its output, which
    the next run brings to the settings of the file. If a variable is not set or a folder does not exist, nothing is
    deployed, and the exit code is 2.
    """
    with clean_errors():
        from flows.orchestration.programs import load_programs, refuse_trouble  # noqa: PLC0415 - slow to import

        if files and render:
            message = "--render writes the prefect.yaml of a folder: name it by --programs, and no files"
            raise UsageError(message)
        programs = load_programs(files or (folder,))
        if check:
            refuse_trouble(programs)
            if not os.environ.get(VARIABLE):  # Prefect would store its name as it is written
                message = f"the variable {VARIABLE} is not set: name the folder that all workers share"
                raise UsageError(message)
            return
        if not render:
            refuse_trouble(programs)
        if dry_run:
            _dry_run(programs, whole=not files)
            return
        text = prefect_yaml(programs)
        if files:
            with tempfile.TemporaryDirectory() as scratch:
                file = Path(scratch, "prefect.yaml")
                file.write_text(text, encoding="utf-8")
                _deploy(file, programs, whole=False)
            return
        file = folder.absolute().parent / "prefect.yaml"
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            with replacing(file) as temporary:
                temporary.write_text(text, encoding="utf-8")
        if render:
            say(f"{file}: {len(programs)} deployments")
            return
        _deploy(file, programs, whole=True)


def prefect_yaml(programs: Sequence["Program"]) -> str:
    """Return the text of prefect.yaml."""
    import yaml  # type: ignore[import-untyped]  # noqa: PLC0415 - untyped; slow to import

    content = {"name": "levelmatch", "deployments": [_with_check(program) for program in programs]}
    return HEAD + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)


def _with_check(program: "Program") -> dict[str, object]:
    """Return a deployment that fails if a variable is not set: Prefect would store the variable's name instead."""
    from flows.orchestration.programs import ROOT  # noqa: PLC0415 - slow to import

    file = program.file.absolute()
    named = file.relative_to(ROOT) if file.is_relative_to(ROOT) else file
    script = f"levelmatch deploy --check {shlex.quote(str(named))}"
    return {**program.deployment(), "build": [{"prefect.deployments.steps.run_shell_script": {"script": script}}]}


def _deploy(file: Path, programs: Sequence["Program"], *, whole: bool) -> None:
    """Have Prefect read prefect.yaml, after creating missing work pools, and create the automations.

    Raises
    ------
    UsageError
        If an alert cannot be sent; nothing is deployed then.
    DeployError
        If Prefect refuses.
    """
    from flows.orchestration.ephemeral_server import any_server  # noqa: PLC0415 - slow to import

    home = prepare_environment()
    with any_server(home) as address:
        _deploy_to_server(file, programs, {**address, VARIABLE: str(home.root)}, whole=whole)


def _deploy_to_server(file: Path, programs: Sequence["Program"], variables: dict[str, str], *, whole: bool) -> None:
    from flows.orchestration.automations import (  # noqa: PLC0415 - imports Prefect
        alert_blocks,
        make_automations,
        paused_alerts,
    )

    with _answering():
        blocks, paused = alert_blocks(programs), paused_alerts(programs)
    # so that Prefect finds the commands of this environment
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    environ = {**os.environ, "PATH": path, **variables}
    for pool in sorted({program.work_pool for program in programs}):
        if _prefect(environ, "work-pool", "inspect", pool).returncode:
            made = _prefect(environ, "work-pool", "create", pool, "--type", "process")
            if made.returncode and _prefect(environ, "work-pool", "inspect", pool).returncode:  # a worker may be faster
                _refuse(made, f"work pool {pool}")
    _say_differences(programs, whole=whole)
    _refuse(_prefect(environ, "deploy", "--all", "--prefect-file", str(file)), "deploy")
    make_automations(programs, blocks, paused)
    for program in programs:
        when = "; ".join(f"{each.cron or f'every {each.interval} s'} {each.timezone}" for each in program.schedule)
        alerts = "".join(f"; {', '.join(alert.on)}: {alert.to}" for alert in program.alert)
        say(f"{program.deployed_name}: {when or 'by hand'}{alerts}")
    say(f"a worker runs them: prefect worker start --pool {programs[0].work_pool} --type process")


def _dry_run(programs: Sequence["Program"], *, whole: bool) -> None:
    """Show what a deployment would change, or refuse what it would.

    Raises
    ------
    UsageError
        If an alert could not be sent, or two programs would undo each other's work.
    DeployError
        If Prefect's server cannot be asked.
    """
    home = prepare_environment(quiet=True)
    from flows.orchestration.automations import alert_blocks  # noqa: PLC0415 - imports Prefect
    from flows.orchestration.ephemeral_server import any_server  # noqa: PLC0415 - as above

    with any_server(home):
        with _answering():
            alert_blocks(programs)
        _say_differences(programs, whole=whole)


@contextmanager
def _answering() -> Iterator[None]:
    """Turn the errors of a server that does not answer into one line.

    Raises
    ------
    DeployError
        If it does not.
    """
    from httpx import HTTPError  # noqa: PLC0415 - slow to import, as all of Prefect
    from prefect.exceptions import PrefectException  # noqa: PLC0415

    try:
        yield
    except (PrefectException, HTTPError, OSError) as error:
        message = f"prefect, which deployments there are: {type(error).__name__}: {error}; is PREFECT_API_URL right?"
        raise DeployError(message) from error


def _say_differences(programs: Sequence["Program"], *, whole: bool) -> None:
    """Show what a deployment changes; if these are all programs, also what else is on the server."""
    prepare_environment(quiet=True)
    from flows.orchestration.program_changes import told_differences  # noqa: PLC0415 - imports Prefect

    with _answering():
        lines = told_differences(programs, whole=whole)
    say_lines("\n".join(lines))


def _prefect(environ: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    from flows.orchestration.programs import ROOT  # noqa: PLC0415 - slow to import

    command = [sys.executable, "-m", "prefect", "--no-prompt", *words]
    return subprocess.run(  # noqa: S603 - our words
        command, env=environ, cwd=ROOT, text=True, capture_output=True, check=False
    )


def _refuse(done: subprocess.CompletedProcess[str], what: str) -> None:
    if done.returncode:
        message = f"prefect, {what}: {(done.stderr + done.stdout).strip()[-2000:]}"
        raise DeployError(message)


@cloup.command(
    short_help="Run a command of yours for each alert.",
    epilog=examples(
        "levelmatch alerts -- sendmail observers@example.org",
        "levelmatch alerts --name pager --port 4301 -- /usr/local/bin/page",
    ),
)
@cloup.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="COMMAND...", help="And its words.")
@cloup.option("--name", default="command", show_default=True, help='Programs say: to = "webhook/NAME".')
@cloup.option("--port", type=click.IntRange(0, 65535), default=4300, show_default=True, help="On the loopback.")
def alerts(command: tuple[str, ...], name: str, port: int) -> None:
    """Run COMMAND for each alert to the block webhook/NAME, until Ctrl-C.

    The alert is its standard input, as JSON, and in its environment: ALERT_TEXT, ALERT_PROGRAM, ALERT_STATE,
    ALERT_MESSAGE, ALERT_URL, ALERT_FLOW_RUN. Prefect's server may send an alert twice; it is told once.
    """
    with clean_errors():
        from flows.alerting.receiver import Receiver  # noqa: PLC0415 - only where needed
        from flows.launch import terminal  # noqa: PLC0415 - as above
        from flows.orchestration.automations import name_webhook  # noqa: PLC0415 - imports Prefect
        from flows.orchestration.ephemeral_server import any_server  # noqa: PLC0415 - as above

        if shutil.which(command[0]) is None:
            message = f"{command[0]}: no such command"
            raise UsageError(message)
        home = prepare_environment(quiet=True)
        try:
            receiver = Receiver(command, home, port)
        except OSError as error:
            message = f"port {port}: {error.strerror}; name another one by --port"
            raise UsageError(message) from error
        with any_server(home):
            name_webhook(name, receiver.url)
        with terminal("info"), ending_itself() as asked:
            serving = threading.Thread(target=receiver.serve)
            serving.start()
            say(f'alerts to = "webhook/{name}" run {command[0]}; Ctrl-C ends it')
            asked.wait()
            receiver.stop()
            serving.join()
