"""`levelmatch ui`: both servers answer, on the loopback only, and are gone after Ctrl-C."""

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
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert log.read_text().endswith("stopping\nstopped\n")
        assert not [child for child in started if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
