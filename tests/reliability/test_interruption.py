"""Ctrl-C and SIGTERM, at any moment: the command ends within two seconds, says so in one line, and leaves nothing."""

import os
import pty
import signal
import sqlite3
import subprocess
import sys
import time
import tomllib
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest

from flows.interruption import INTERRUPTED, LINE

SECONDS = 2.0
MOMENTS = {
    "imports": 0.0,
    "first files": 0.05,
    "a third": 0.33,
    "two thirds": 0.66,
    "nearly all": 0.95,
    "record": 1.0,
}
"""The share of the files that an undisturbed run makes."""

TO = {
    "SIGINT": lambda process: process.send_signal(signal.SIGINT),
    "SIGTERM": lambda process: process.send_signal(signal.SIGTERM),
    "SIGINT to all": lambda process: os.killpg(process.pid, signal.SIGINT),
    "SIGTERM to all": lambda process: os.killpg(process.pid, signal.SIGTERM),
}


def slowness() -> float:
    """Return how many times longer than on free processors work takes here just now: 1 where nothing else is done."""
    wall, cpu = time.monotonic(), time.process_time()
    while time.process_time() - cpu < 0.1:
        pass
    return max(1.0, (time.monotonic() - wall) / 0.1)


class Watch:
    """Measures the time since it began in seconds of free processors, by how slow they are before and after."""

    def __init__(self) -> None:
        self.slowness = slowness()
        self.begun = 0.0

    def begin(self) -> None:
        self.begun = time.monotonic()

    def left_of(self, seconds: float) -> float:
        """Return what is left of so many seconds of free processors: none if it took longer."""
        took = time.monotonic() - self.begun
        return seconds * max(self.slowness, slowness()) - took


def await_listening(process):
    """Wait until a command heeds SIGTERM, which Python itself does not: until it has read what handles signals."""
    caught, status = 1 << (signal.SIGTERM - 1), Path(f"/proc/{process.pid}/status")
    while not int(status.read_text().partition("SigCgt:")[2].split()[0], 16) & caught:
        assert process.poll() is None, "it ended before it could be interrupted"
        time.sleep(0.002)


def states(database: Path, table: str, column: str) -> list[str]:
    if not database.exists():
        return []
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return [state for (state,) in connection.execute(f"SELECT {column} FROM {table}")]  # noqa: S608 - ours


def flow_runs(world):
    """Return the states of the flow runs after the undisturbed one, of which the home has the databases."""
    found = states(world.home / "prefect" / "prefect.db", "flow_run", "state_type")
    found.remove("COMPLETED")
    return found


def left_of(family, seconds):
    """Return those of a family of processes that are still there after some seconds."""
    gone = [psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD]
    end = time.monotonic() + seconds
    while True:
        with suppress(psutil.NoSuchProcess):
            alive = [each for each in family if each.is_running() and each.status() not in gone]
            if not alive or time.monotonic() > end:
                return alive
        time.sleep(0.02)


def await_moment(world, process, events):
    """Wait until so many files are there, and return a watch that was made before: at that moment no time is lost."""
    watch = Watch() if events else None
    if watch is None:
        await_listening(process)  # click is imported, and the rest is not
    while process.poll() is None and world.events() < events:
        time.sleep(0.005)
    assert process.poll() is None, "it ended before it could be interrupted"
    return watch or Watch()


def interrupted(world, process, events, send):
    """Interrupt a run and hold what must be so afterwards."""
    watch = await_moment(world, process, events)
    family = psutil.Process(process.pid).children(recursive=True)
    watch.begin()
    send(process)
    assert process.wait(100) == INTERRUPTED, world.said
    left = watch.left_of(SECONDS)
    assert left > 0
    assert not left_of(family, max(0.1, left))
    lines = world.said.splitlines()
    assert lines[-1] == LINE
    assert not [line for line in lines if "Traceback" in line or "cannot be used" in line]
    assert set(flow_runs(world)) <= {"CANCELLED", "COMPLETED"}
    assert "RUNNING" not in states(world.home / "mlflow" / "mlflow.db", "runs", "status")


LATE = """
import os, signal, sys, time
from flows.interruption import farewell, work_interruptibly

def work():
    with farewell(lambda: time.sleep(0.5)):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        with farewell(lambda: None):
            open(sys.argv[1], "w").close()
        time.sleep(10)

work_interruptibly(work)
"""


def test_what_nothing_would_close_is_not_opened_after_a_signal(tmp_path):
    process = subprocess.run([sys.executable, "-c", LATE, str(tmp_path / "opened")], check=False, timeout=30)
    assert process.returncode == INTERRUPTED
    assert not (tmp_path / "opened").exists()


def run_again(reliability, undisturbed, world):
    assert world.run() == 0, world.said
    assert reliability.digests(world.out) == undisturbed.files
    assert world.left_over() == []


def started(undisturbed, root, *options):
    world = undisturbed.fresh(root)
    world.options = (*world.options, *options)
    return world, world.start()


WHILE_IMPORTED = """
import os, signal, sys
MODULE = sys.argv.pop(1)
class Signal:
    def find_spec(self, name, *_):
        if name == MODULE:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Signal())
signal.signal(signal.SIGINT, signal.default_int_handler)
from importlib.metadata import EntryPoint
command = EntryPoint("levelmatch", sys.argv.pop(1), "console_scripts")
sys.argv.append("settings")
command.load()()
"""


@pytest.mark.fast
@pytest.mark.parametrize("module", ["flows.cli", "click", "cloup", "flows.commands.settings", "pydantic"])
def test_a_signal_while_the_command_is_imported_ends_it_in_one_line(module):
    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())
    words = [sys.executable, "-c", WHILE_IMPORTED, module, project["project"]["scripts"]["levelmatch"]]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip(), done.stdout) == (INTERRUPTED, LINE, "")


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "to"), list(zip(MOMENTS, [*TO, "SIGINT", "SIGTERM to all"], strict=True)))
def test_one_signal_ends_a_run(reliability, undisturbed, tmp_path, moment, to):
    world, process = started(undisturbed, tmp_path / "world")
    interrupted(world, process, round(MOMENTS[moment] * undisturbed.events), TO[to])
    if 0 < MOMENTS[moment] < 0.9:
        assert flow_runs(world) == ["CANCELLED"]
    if moment in {"a third", "record"}:
        run_again(reliability, undisturbed, world)


@pytest.mark.full
@pytest.mark.parametrize("to", TO)
@pytest.mark.parametrize("moment", MOMENTS)
def test_each_signal_ends_a_run_at_each_moment(reliability, undisturbed, tmp_path, moment, to):
    world, process = started(undisturbed, tmp_path / "world")
    interrupted(world, process, round(MOMENTS[moment] * undisturbed.events), TO[to])
    run_again(reliability, undisturbed, world)


@pytest.mark.slow
def test_ctrl_c_on_a_terminal(undisturbed, tmp_path, reliability):
    """The terminal sends it to all processes at once; workers in processes pass over it, and are gone."""
    world = undisturbed.fresh(tmp_path / "world")
    ours, theirs = pty.openpty()
    words = [*reliability.command, "run", str(world.inputs), "--output", str(world.out), *world.options]
    environment = reliability.bare() | {"LEVELMATCH_HOME": str(world.home), "TERM": "xterm"}
    process = subprocess.Popen(
        [*words, "--set", "runner=processes"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        start_new_session=True,
        preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),  # noqa: PLW1509 - a test
    )
    os.close(theirs)
    watch = Watch()
    while process.poll() is None and not world.events():
        time.sleep(0.01)
    time.sleep(0.3)
    family = psutil.Process(process.pid).children(recursive=True)
    watch.begin()
    os.write(ours, b"\x03")
    text = b""
    with suppress(OSError):
        while more := os.read(ours, 65536):
            text += more
    assert process.wait(100) == INTERRUPTED, text
    assert watch.left_of(SECONDS) > 0
    assert not left_of(family, 1.0 * slowness())
    assert text.endswith(f"\x1b[?25h{LINE}\r\n".encode())
    assert b"Traceback" not in text
    assert flow_runs(world) == ["CANCELLED"]


@pytest.mark.slow
def test_the_second_signal_ends_at_once(undisturbed, tmp_path):
    """Also where Prefect's server has ceased to answer."""
    world, process = started(undisturbed, tmp_path / "world")
    watch = await_moment(world, process, undisturbed.events // 2)
    server = [each for each in psutil.Process(process.pid).children() if "server_process" in " ".join(each.cmdline())]
    for each in server:
        each.suspend()
    process.send_signal(signal.SIGINT)
    while LINE not in world.said:  # two signals that are sent at once may come as one
        time.sleep(0.002)
    assert process.poll() is None
    watch.begin()
    process.send_signal(signal.SIGINT)
    assert process.wait(100) == INTERRUPTED
    assert watch.left_of(0.5) > 0
    for each in server:
        each.resume()
    assert not left_of(server, 15)


@pytest.mark.slow
def test_a_sweep_is_interrupted_with_the_run_in_it(reliability, undisturbed, tmp_path):
    world = undisturbed.fresh(tmp_path / "world")
    words = [*reliability.command, "sweep", str(world.inputs), "--output", str(world.out)]
    environment = reliability.bare() | {"LEVELMATCH_HOME": str(world.home)}
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*words, "--grid", "rms_sig_limit=2,3", *world.options],
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    watch = Watch()
    # what is kept of the undisturbed run is not done again: by numbers of files, it may be over before one looks
    while process.poll() is None and flow_runs(world).count("RUNNING") < 2:
        time.sleep(0.01)
    assert process.poll() is None, log.read_text()
    family = psutil.Process(process.pid).children(recursive=True)
    watch.begin()
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(100) == INTERRUPTED, log.read_text()
    assert watch.left_of(SECONDS) > 0
    assert not left_of(family, 1.0 * slowness())
    assert log.read_text().splitlines()[-1] == LINE
    assert flow_runs(world) == ["CANCELLED", "CANCELLED"]


def held(command, undisturbed, back):
    """Return the code of a command that is held at its work: on eight small files it is soon done."""
    table, inputs = undisturbed.world.out / "corrections.ecsv", undisturbed.world.inputs
    given = [str(table), str(inputs)] if command == "apply" else [str(undisturbed.world.out)]
    module, name = ("reapply", "apply_solution") if command == "apply" else ("undo", "undo")
    return "\n".join(
        [
            f"import sys, time; sys.argv[1:] = {[command, *given, '--output', str(back)]!r}",
            f"import levelmatch_core.products.corrected.{module} as module",
            f"module.{name} = lambda *_, **__: (print('held', flush=True), time.sleep(60))",
            "from flows.cli import main; main()",
        ]
    )


@pytest.mark.slow
def test_a_signal_that_is_ignored_stays_ignored(reliability, undisturbed, tmp_path):
    """A command in the background of a script is not ended by the Ctrl-C of what runs in the foreground."""
    process = subprocess.Popen(
        [reliability.command[0], "-c", held("undo", undisturbed, tmp_path / "back")],
        env=reliability.bare(),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # noqa: PLW1509 - as a shell does it
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (INTERRUPTED, f"{LINE}\n")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["apply", "undo"])
def test_apply_and_undo_are_interrupted(reliability, undisturbed, tmp_path, command):
    process = subprocess.Popen(
        [reliability.command[0], "-c", held(command, undisturbed, tmp_path / "back")],
        env=reliability.bare(),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    watch = Watch()
    watch.begin()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=100)
    assert process.returncode == INTERRUPTED, said
    assert watch.left_of(SECONDS) > 0
    assert said.splitlines() == [LINE]
