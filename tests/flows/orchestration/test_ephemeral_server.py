"""The embedded server of a command: started early where nothing else is configured, and gone with the command."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest

from flows.home import set_environment
from flows.orchestration import ephemeral_server
from levelmatch_core.errors import ServerError


def plain_environment(home: Path) -> dict[str, str]:
    """The environment as prepared for a home without any configuration of Prefect."""
    names = {name for name in os.environ if name.startswith(("PREFECT", "LEVELMATCH", "MLFLOW"))}
    kept = {name: value for name, value in os.environ.items() if name not in names}
    return {**kept, "LEVELMATCH_HOME": str(home)}


CONFIGURED = {
    "a server": {"PREFECT_API_URL": "http://127.0.0.1:1/api"},
    "a profile": {"PREFECT_PROFILE": "mine"},
    "none may be started": {"PREFECT_SERVER_EPHEMERAL_ENABLED": "false"},
}


@pytest.mark.parametrize("what", CONFIGURED)
def test_what_is_configured_is_left_to_prefect(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "prefect", raising=False)
    monkeypatch.chdir(tmp_path)
    assert ephemeral_server.start({"PREFECT_HOME": str(tmp_path), **CONFIGURED[what]}) is None


@pytest.mark.parametrize(
    ("file", "content"),
    [("prefect.toml", ""), (".env", ""), ("pyproject.toml", "[tool.prefect]\n"), ("profiles.toml", "")],
)
def test_files_of_configuration_are_left_to_prefect(
    tmp_path: Path, file: str, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "prefect", raising=False)
    (tmp_path / file).write_text(content)
    monkeypatch.chdir(tmp_path)
    assert ephemeral_server.start({"PREFECT_HOME": str(tmp_path)}) is None


def test_a_server_that_ends_is_told() -> None:
    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"]) as process:
        server = ephemeral_server.EmbeddedServer(process, "http://127.0.0.1:9/api", 60.0, "a:b")
        server.open({})
        with pytest.raises(ServerError, match="ended with code 7"):
            server.wait()


def test_a_server_that_stays_silent_is_told() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        server = ephemeral_server.EmbeddedServer(process, "http://127.0.0.1:9/api", 0.2, "a:b")
        server.open({})
        with pytest.raises(ServerError, match=r"does not answer after 0\.2 s"):
            server.wait()
        server.stop()
        assert process.returncode is not None


@pytest.mark.slow
def test_before_it_is_opened_it_writes_nothing_and_it_ends_when_nobody_is_left_to_open_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "prefect", raising=False)
    monkeypatch.chdir(tmp_path)
    environment = plain_environment(tmp_path / "home")
    set_environment(environment, quiet=True)
    server = ephemeral_server.start(environment)
    assert server is not None
    assert server.process.stdin is not None
    server.process.stdin.close()
    assert server.process.wait(60) == 0  # all is imported by then
    assert not list(tmp_path.iterdir())


def test_a_wrong_request_leaves_no_home(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from flows.cli import main; main()", "run", "none", "--output", "out"]
    environment = plain_environment(tmp_path / "home") | {"PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert not list(tmp_path.iterdir())


SCRIPT = """
import os, sys
from flows.home import prepare_environment
from flows.orchestration import ephemeral_server
prepare_environment(quiet=True)
server = ephemeral_server.start()
assert "prefect" not in sys.modules
server.open()
server.wait()
from prefect import flow
from prefect.settings import PREFECT_API_URL
@flow
def little():
    return 7
assert little() == 7
assert PREFECT_API_URL.value() == server.url
assert "prefect.server.api.server" not in sys.modules
print(server.process.pid)
"""


@pytest.mark.slow
def test_a_flow_runs_on_it_and_it_ends_with_the_process(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**plain_environment(tmp_path / "home"), "PYTHONPATH": str(Path(__file__).parents[3])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pid = int(done.stdout.split()[-1])
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{pid}").exists()


KILLED = """
import os, signal
from flows.home import prepare_environment
from flows.orchestration import ephemeral_server
prepare_environment(quiet=True)
server = ephemeral_server.start()
server.open()
server.wait()
print(server.process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_it_ends_with_a_process_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(KILLED)
    environment = {**plain_environment(tmp_path / "home"), "PYTHONPATH": str(Path(__file__).parents[3])}
    with (tmp_path / "told").open("w+") as told:  # no pipe, which the server would hold open
        done = subprocess.run([sys.executable, str(script)], env=environment, cwd=tmp_path, stdout=told, check=False)
        assert done.returncode == -signal.SIGKILL
        told.seek(0)
        pid = int(told.read())
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_the_server_of_a_deployment_ends_with_a_command_that_is_killed(tmp_path: Path) -> None:
    """Prefect's own command would start one that stays."""
    programs = tmp_path / "deployments" / "programs"
    programs.mkdir(parents=True)
    (tmp_path / "in").mkdir()
    (programs / "small.toml").write_text(f'inputs = ["{tmp_path}/in"]\noutput = "{tmp_path}/out"\n')
    environment = {**plain_environment(tmp_path / "home"), "HOME": str(tmp_path)}
    words = [str(Path(sys.executable).parent / "levelmatch"), "deploy", "--programs", str(programs)]
    root = Path(__file__).parents[3]
    with (tmp_path / "log").open("w") as log:  # no pipe, which the server would hold open
        process = subprocess.Popen(words, env=environment, cwd=root, stdout=log, stderr=log, start_new_session=True)
    family: dict[psutil.Process, str] = {}
    deadline = time.monotonic() + 120
    while not any("work-pool" in words for words in family.values()):
        assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        assert process.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.1)
        with suppress(psutil.NoSuchProcess):
            family |= {each: " ".join(each.cmdline()) for each in psutil.Process(process.pid).children(recursive=True)}
    process.kill()
    process.wait(30)
    assert any("flows.orchestration.server_process" in words for words in family.values())
    _, alive = psutil.wait_procs(list(family), timeout=60)  # the others end for want of it
    assert not alive, [family[each] for each in alive]


MANY = """
import os, sqlite3, sys
from flows.home import prepare_environment
from flows.orchestration import ephemeral_server
home = prepare_environment(quiet=True)
server = ephemeral_server.start()
server.open()
server.wait()
from prefect import flow, task
@task
def one(number):
    return number
@flow
def many():
    return sum(future.result() for future in [one.submit(number) for number in range(60)])
assert many() == 1770
"""


@pytest.mark.slow
def test_every_task_run_is_in_the_database_when_the_command_has_ended(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(MANY)
    environment = {**plain_environment(tmp_path / "home"), "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    database = tmp_path / "home" / "prefect" / "prefect.db"
    deadline = time.monotonic() + 20
    while (states := _task_states(database)) != [("COMPLETED", 60)]:  # the server may still be ending
        assert time.monotonic() < deadline, states
        time.sleep(0.5)


def _task_states(database: Path) -> list[tuple[str, int]]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return connection.execute("SELECT state_type, count(*) FROM task_run GROUP BY state_type").fetchall()


BLOCKS = """
import contextlib, os, sqlite3
from flows.home import prepare_environment
from flows.orchestration import ephemeral_server
home = prepare_environment(quiet=True)
def listed():
    with contextlib.closing(sqlite3.connect(home.prefect / "prefect.db")) as connection:
        return connection.execute("SELECT count(*) FROM block_type").fetchone()[0]
server = ephemeral_server.start()
server.open({})
server.wait()
server.stop()
print(listed())
with ephemeral_server.any_server(home):
    print(listed())
"""


@pytest.mark.slow
def test_types_of_blocks_are_listed_by_the_first_server_that_needs_them(tmp_path: Path) -> None:
    environment = {**plain_environment(tmp_path / "home"), "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(
        [sys.executable, "-c", BLOCKS], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    of_a_run, of_a_deployment = map(int, done.stdout.split())
    assert of_a_run == 0
    assert of_a_deployment > 5


def test_flow_runs_on_it_send_no_heartbeats() -> None:
    """The thread that sends them would cost up to a second at the end of each."""
    code = (
        "from flows.level_match import no_heartbeats\n"
        "from prefect.settings import get_current_settings\n"
        "with no_heartbeats():\n"
        "    print(get_current_settings().flows.heartbeat_frequency)\n"
        "print(get_current_settings().flows.heartbeat_frequency)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    inside, outside = done.stdout.split()
    assert inside == "None"
    assert int(outside) >= 30


@pytest.mark.parametrize("chosen", [{}, {"OPENBLAS_NUM_THREADS": str(min(2, os.cpu_count() or 1))}])
def test_a_command_starts_no_threads_that_spin_unless_they_are_asked_for(chosen: dict[str, str]) -> None:
    code = (
        "from flows.home import set_environment; set_environment()\n"
        "import numpy, scipy.linalg, threadpoolctl\n"
        "print(*{each['num_threads'] for each in threadpoolctl.threadpool_info() if each['user_api'] == 'blas'})\n"
    )
    environ = {name: value for name, value in os.environ.items() if not name.endswith("NUM_THREADS")} | chosen
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [chosen.get("OPENBLAS_NUM_THREADS", "1")]


def test_a_process_that_ends_looks_for_no_rubbish() -> None:
    code = (
        "import atexit, gc; from flows.garbage_collection import end_at_once\n"
        "print(gc.get_freeze_count())\n"  # Python 3.12 freezes some at its start
        "atexit.register(lambda: print(gc.get_freeze_count()))\n"
        "end_at_once()\n"
        "print(gc.get_freeze_count())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    at_start, before, after = map(int, done.stdout.split())
    assert before == at_start
    assert after > at_start + 1000


def told_by_help() -> tuple[float, int, str]:
    """Return the CPU seconds of `levelmatch --help`, how many modules it imports, and which of those are heavy."""
    code = (
        "import sys, time; from flows.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'astropy', 'numba', 'prefect', 'mlflow', 'matplotlib'} & set(sys.modules)\n"
        "print('took', time.process_time(), len(sys.modules), sorted(heavy))"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    _, seconds, modules, heavy = done.stdout.splitlines()[-1].split(maxsplit=3)
    return float(seconds), int(modules), heavy


def test_help_comes_at_once() -> None:
    """Neither numerics nor Prefect nor MLflow is imported for it, nor much else. No clock is asked."""
    _, modules, heavy = told_by_help()
    assert heavy == "[]"
    assert modules < 350  # 284; Prefect alone brings a thousand


@pytest.mark.full
def test_help_takes_less_than_half_a_second_of_cpu() -> None:
    assert min(told_by_help()[0] for _ in range(3)) < 0.5
