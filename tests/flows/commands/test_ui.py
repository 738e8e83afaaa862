"""`levelmatch ui`: both servers answer, on the loopback only, and are gone after Ctrl-C."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from flows.cli import main
from tests.servers import free_port


def test_a_port_in_use_is_bad_usage(tmp_path, monkeypatch):
    monkeypatch.setenv("LEVELMATCH_HOME", str(tmp_path))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = CliRunner().invoke(main, ["ui", "--mlflow-port", str(taken.getsockname()[1])])
    assert done.exit_code == 2
    assert "name another port" in done.output


def asked(port, method, path, body=None, **headers):
    """Return status, headers and content of the answer to what a page of any site could make a browser send."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, None if body is None else json.dumps(body), names)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, content


def start(home, ports, output):
    """Start the command on ports of Prefect and of MLflow."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    words = [str(Path(sys.executable).parent / "levelmatch"), "ui"]
    words += ["--prefect-port", str(ports[0]), "--mlflow-port", str(ports[1])]
    return subprocess.Popen(words, env={**kept, "LEVELMATCH_HOME": str(home)}, stdout=output)


METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def other_sites_are_refused(prefect, mlflow):
    evil = "http://evil.example"
    json_type = {"Content_Type": "application/json"}
    create = "/api/2.0/mlflow/experiments/create"
    search = "/api/2.0/mlflow/experiments/search?max_results=10"
    for port, path in ((prefect, "/api/flows/"), (prefect, "/"), (mlflow, create), (mlflow, search), (mlflow, "/")):
        for method in METHODS:
            for kind in ({}, json_type, {"Content_Type": "text/plain"}):
                for strange in ({"Origin": evil}, {"Origin": "null"}, {"Host": f"evil.example:{port}"}):
                    status, headers, content = asked(port, method, path, {"name": "evil"}, **strange, **kind)
                    assert status == 403, (port, method, path, strange)
                    assert content.startswith(b"refused")
                    assert "access-control-allow-origin" not in headers
    # one's own pages may, with the token that Prefect's pages and programs ask for
    for origin in (f"http://127.0.0.1:{prefect}", f"http://localhost:{prefect}"):
        body = {"name": "mine"}
        assert asked(prefect, "POST", "/api/flows/", body, Origin=origin, **json_type)[0] == 403  # no token
        token = json.loads(asked(prefect, "GET", "/api/csrf-token?client=me", Origin=origin)[2])["token"]
        proof = {"Prefect_Csrf_Token": token, "Prefect_Csrf_Client": "me"}
        status, headers, _ = asked(prefect, "POST", "/api/flows/", body, Origin=origin, **json_type, **proof)
        assert status in {200, 201}
        assert headers["access-control-allow-origin"] == origin
        listed = asked(prefect, "POST", "/api/flows/filter", {}, Origin=origin, **json_type, **proof)[2]
        assert b"mine" in listed
        assert b"evil" not in listed
    assert asked(mlflow, "POST", create, {"name": "mine"}, Origin=f"http://127.0.0.1:{mlflow}", **json_type)[0] == 200
    content = asked(mlflow, "GET", search)[2]
    assert b"mine" in content
    assert b"evil" not in content


@pytest.mark.slow
def test_both_answer_and_ctrl_c_leaves_nothing(tmp_path):
    ports = free_port(), free_port()
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = start(tmp_path / "home", ports, output)
    started = []
    try:
        deadline = time.monotonic() + 300
        while "Ctrl-C stops both" not in log.read_text():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.5)
        started = psutil.Process(process.pid).children(recursive=True)
        assert len(started) >= 2
        for port, path in zip(ports, ("/api/health", "/health"), strict=True):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
                assert answer.status == 200
        heard = {
            each.laddr.ip
            for child in started
            for each in child.net_connections(kind="inet")
            if each.status == psutil.CONN_LISTEN
        }
        assert heard == {"127.0.0.1"}
        other_sites_are_refused(*ports)
        files = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
        assert {"pages", "prefect-ui.log", "mlflow-ui.log"} <= {path.name for path in files}
        assert [str(path) for path in files if path.stat().st_mode & 0o077] == []  # the owner's alone, of a run's too
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert log.read_text().endswith("stopping\nstopped\n")
        assert not [child for child in started if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


@pytest.mark.slow
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_no_server_outlives_the_command(tmp_path, kill):
    """Not even when it is killed while they start."""
    process = start(tmp_path, (free_port(), free_port()), subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(started := psutil.Process(process.pid).children(recursive=True)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(2)
    process.send_signal(kill)
    process.wait(60)
    assert not psutil.wait_procs(started, timeout=20)[1]
