"""The port of a run's own Prefect server, which every user of the machine can reach: nothing without its password."""

import json
import subprocess
import sys
import urllib.error
import urllib.request

import psutil
import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

SERVED = """
import sys
from flows.home import prepare_environment
from flows.orchestration import ephemeral_server
prepare_environment(quiet=True)
server = ephemeral_server.start()
server.open()
server.wait()
print(server.url, server.process.pid, flush=True)
sys.stdin.readline()
from prefect.client.orchestration import get_client
with get_client(sync_client=True) as client:
    print(client.create_flow_from_name("ours"))
"""


def asked(url, method="GET", body=None, **headers):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers}, method=method)  # noqa: S310 - loopback
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - loopback
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


@pytest.fixture
def served(reliability, undisturbed, tmp_path):
    """The address of an embedded server, its process, and what uses it."""
    world = undisturbed.fresh(tmp_path / "world")
    environment = reliability.bare() | {"LEVELMATCH_HOME": str(world.home)}
    process = subprocess.Popen(
        [sys.executable, "-c", SERVED],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    url, number = process.stdout.readline().split()
    yield url, psutil.Process(int(number)), process
    process.communicate()


@pytest.mark.slow
def test_a_stranger_on_the_machine_gets_nothing(served):
    url, server, command = served
    flow = {"name": "theirs", "flow_id": "00000000-0000-0000-0000-000000000000"}
    for method, path, body in (
        ("GET", "admin/settings", None),
        ("GET", "admin/version", None),
        ("POST", "flow_runs/filter", {}),
        ("POST", "artifacts/filter", {}),
        ("POST", "flows/", {"name": "theirs"}),
        ("POST", "deployments/", flow),
        ("POST", "variables/", {"name": "theirs", "value": 1}),
        ("POST", "admin/database/clear", {"confirm": True}),
    ):
        for headers in ({}, {"Authorization": "Basic bGV2ZWxtYXRjaDo="}, {"Authorization": "Bearer x"}):
            assert asked(f"{url}/{path}", method, body, **headers)[0] == 401, path
    assert asked(f"{url}/health")[0] == 200
    for path in ("events/in", "events/out", "logs/out"):
        with connect(f"{url.replace('http', 'ws')}/{path}", subprotocols=["prefect"]) as socket:
            socket.send(json.dumps({"type": "auth", "token": "none"}))
            with pytest.raises(ConnectionClosedError, match="Invalid token"):
                socket.recv(timeout=30)
    # on the loopback, and nowhere else; others read no password on its command line
    assert {each.laddr.ip for each in server.net_connections() if each.status == psutil.CONN_LISTEN} == {"127.0.0.1"}
    secret = server.environ()["PREFECT_SERVER_API_AUTH_STRING"]
    assert len(secret) > 40
    assert secret not in " ".join(server.cmdline())
    told, _ = command.communicate("\n")
    assert command.returncode == 0
    assert told.strip()


@pytest.mark.slow
def test_nobody_takes_the_port_before_the_server_does(monkeypatch, tmp_path):
    import socket  # noqa: PLC0415

    from flows.home import set_environment  # noqa: PLC0415
    from flows.orchestration import ephemeral_server  # noqa: PLC0415

    environ = {"LEVELMATCH_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    set_environment(environ, quiet=True)
    monkeypatch.delitem(sys.modules, "prefect", raising=False)
    monkeypatch.chdir(tmp_path)
    server = ephemeral_server.start(environ)
    try:
        with socket.socket() as thief, pytest.raises(OSError, match="in use"):
            thief.bind(("127.0.0.1", int(server.url.split(":")[2].split("/")[0])))
        assert server.credentials not in repr(server)
    finally:
        server.stop()
        server.process.stdin.close()
