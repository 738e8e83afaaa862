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


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


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


def other_sites_are_refused(prefect, mlflow):
    evil = "http://evil.example"
    # Prefect: no other site reads its answers, or asks for a change
    own = f"http://127.0.0.1:{prefect}"
    json_type = {"Content_Type": "application/json"}
    for origin, readable in ((own, True), (f"http://localhost:{prefect}", True), (evil, False)):
        status, headers, _ = asked(prefect, "POST", "/api/flows/filter", {}, Origin=origin, **json_type)
        assert (headers.get("access-control-allow-origin") == origin) is readable, (origin, status)
        ask = {"Origin": origin, "Access_Control_Request_Method": "POST"}
        status, headers, _ = asked(
            prefect, "OPTIONS", "/api/flows/", **ask, Access_Control_Request_Headers="content-type"
        )
        assert (status == 200) is readable
        assert headers.get("access-control-allow-origin") in ((origin,) if readable else (None,))
    # what a browser sends without asking first, it does not take
    status, _, _ = asked(prefect, "POST", "/api/flows/", {"name": "evil"}, Origin=evil, Content_Type="text/plain")
    assert status >= 400
    assert b"evil" not in asked(prefect, "POST", "/api/flows/filter", {}, **json_type)[2]
    # MLflow: nor under another name of this machine
    create = "/api/2.0/mlflow/experiments/create"
    assert asked(mlflow, "POST", create, {"name": "mine"}, Origin=f"http://127.0.0.1:{mlflow}", **json_type)[0] == 200
    assert asked(mlflow, "POST", create, {"name": "evil"}, Origin=evil, **json_type)[0] == 403
    assert asked(mlflow, "POST", create, {"name": "evil"}, Host="evil.example", **json_type)[0] == 403
    search = "/api/2.0/mlflow/experiments/search?max_results=10"
    status, headers, content = asked(mlflow, "GET", search, Origin=evil)
    assert "access-control-allow-origin" not in headers
    assert b"mine" in content
    assert b"evil" not in content
    assert asked(mlflow, "GET", search, Host=f"evil.example:{mlflow}")[0] == 403


@pytest.mark.slow
def test_both_answer_and_ctrl_c_leaves_nothing(tmp_path):
    ports = free_port(), free_port()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    words = [str(Path(sys.executable).parent / "levelmatch"), "ui"]
    words += ["--prefect-port", str(ports[0]), "--mlflow-port", str(ports[1])]
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(words, env={**kept, "LEVELMATCH_HOME": str(tmp_path / "home")}, stdout=output)
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
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert log.read_text().endswith("stopping\nstopped\n")
        assert not [child for child in started if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
