"""Many runs in one process, and many runs of a served deployment: nothing grows."""

import gc
import json
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from http import HTTPStatus
from pathlib import Path

import psutil
import pytest

from levelmatch_core import MatchSettings, match_levels

REPOSITORY = Path(__file__).resolve().parents[2]
MEGABYTE = 1 << 20
WARM = 5
"""Runs after which libraries have what they keep: imports, compiled kernels, caches."""

ENDED = {"COMPLETED", "FAILED", "CRASHED"}


@pytest.fixture(autouse=True)
def temporary(monkeypatch):
    """A folder for temporary files of this test and of what it starts alone; its name is short: sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield


SERVED = """
import flows.orchestration.environment
from flows.level_match import level_match
if __name__ == "__main__":
    level_match.serve(name="soak", print_starting_message=False)
"""


def state(process=None):
    """Return memory (megabytes), open files and threads of a process, and how many temporary files there are."""
    process = process or psutil.Process()
    gc.collect()
    return {
        "memory": process.memory_info().rss / MEGABYTE,
        "handles": process.num_fds(),
        "threads": process.num_threads(),
        "temporary": sum(1 for _ in Path(tempfile.gettempdir()).glob("levelmatch-*")),
    }


def grown(states, megabytes):
    """Hold the states of many runs, first to last, to what may not grow."""
    first, last = states[0], states[-1]
    print(f"after {WARM} runs {first}, after {WARM + len(states) - 1} {last}")  # noqa: T201 - the numbers of the soak
    assert last["handles"] <= first["handles"], states
    assert last["threads"] <= first["threads"], states
    assert last["temporary"] <= first["temporary"], states
    assert last["memory"] - first["memory"] < megabytes, states


def many_runs(program, root, count):
    states = []
    for number in range(count):
        out = root / f"out {number}"
        match_levels(program, out, MatchSettings(figures="none", procs=2))
        if number + 1 >= WARM:
            states.append(state())
    return states


@pytest.mark.slow
def test_eight_runs_in_one_process(program, tmp_path):
    grown(many_runs(program, tmp_path, 8), megabytes=20)
    assert threading.active_count() < 20


@pytest.mark.full
def test_fifty_runs_in_one_process(program, tmp_path):
    grown(many_runs(program, tmp_path, 50), megabytes=20)


@pytest.mark.full
def test_fifty_runs_of_the_flow_in_one_process(reliability, program, server, tmp_path):
    """Under Prefect and with MLflow, as a worker's process does it."""
    code = f"""
import json, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import flows.orchestration.environment
from flows.level_match import level_match
from test_soak import state
from levelmatch_core import MatchSettings
for number in range(50):
    level_match([{str(program)!r}], f"{tmp_path}/out {{number}}", settings=MatchSettings(figures="none", procs=2))
    print(json.dumps(state()), flush=True)
"""
    environment = reliability.bare() | server | {"LEVELMATCH_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    states = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"memory"')]
    assert len(states) == 50
    grown(states[WARM - 1 :], megabytes=60)


def at_work(parent):
    """Return what a process started and has not reaped, without Python's tracker of shared memory, which stays."""
    return [each for each in parent.children(recursive=True) if "resource_tracker" not in words_of(each)]


def words_of(process):
    """Return a process's command line; '' of one that has ended, which is there until it is reaped."""
    try:
        return " ".join(process.cmdline())
    except (psutil.ZombieProcess, psutil.NoSuchProcess):
        return ""


def asked(url, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}{path}", data, {"Content-Type": "application/json"})  # noqa: S310 - loopback
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - loopback
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            # its database is busy, and nothing was done: Prefect's own clients come again, too
            if error.code != HTTPStatus.SERVICE_UNAVAILABLE:
                raise
            error.close()
            time.sleep(1)


@pytest.mark.full
def test_twenty_runs_of_a_served_deployment(reliability, program, server, tmp_path):
    url = server["PREFECT_API_URL"]
    (tmp_path / "served.py").write_text(SERVED)
    environment = (
        reliability.bare() | server | {"LEVELMATCH_HOME": str(tmp_path / "home"), "PYTHONPATH": str(REPOSITORY)}
    )
    environment["TMPDIR"] = str(tmp_path / "temporary")
    (tmp_path / "temporary").mkdir()
    with (tmp_path / "log").open("wb") as log:
        words = [sys.executable, str(tmp_path / "served.py")]
        process = subprocess.Popen(words, env=environment, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True)
    try:
        deployment = None
        deadline = time.monotonic() + 120
        while deployment is None:
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            found = asked(url, "/deployments/filter", {"deployments": {"name": {"any_": ["soak"]}}})
            deployment = found[0]["id"] if found else None
            time.sleep(0.5)
        states = []
        for number in range(20):
            settings = {"figures": "none"}
            parameters = {"inputs": [str(program)], "output": f"{tmp_path}/out {number}", "settings": settings}
            run = asked(url, f"/deployments/{deployment}/create_flow_run", {"parameters": parameters})
            deadline = time.monotonic() + 300
            while (kind := asked(url, f"/flow_runs/{run['id']}")["state_type"]) not in {
                "COMPLETED",
                "FAILED",
                "CRASHED",
            }:
                assert time.monotonic() < deadline, kind
                time.sleep(0.5)
            assert kind == "COMPLETED", (tmp_path / "log").read_text()[-3000:]
            parent = psutil.Process(process.pid)
            deadline = time.monotonic() + 60
            while at_work(parent) and time.monotonic() < deadline:
                time.sleep(0.2)
            assert at_work(parent) == []
            left = sum(1 for _ in (tmp_path / "temporary").rglob("*"))
            states.append({**state(parent), "temporary": left})
        grown(states[WARM - 1 :], megabytes=30)
    finally:
        reliability.kill_tree(process)
