"""Who is let in to a server on the loopback: its own pages, and programs of this machine."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.orchestration.own_pages import OwnPages, WithoutAssistant

PORT = 4200
OWN = "127.0.0.1:4200"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def status(method="GET", kind="http", path="/", guard=None, **headers):
    """Return the status of the answer, 200 where the request came through; a name may come twice as a list."""
    sent = []

    async def application(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        sent.append(message)

    listed = [
        (name.replace("_", "-").lower().encode(), each.encode())
        for name, value in headers.items()
        for each in (value if isinstance(value, list) else [value])
    ]
    scope = {"type": kind, "method": method, "path": path, "headers": listed}
    asyncio.run((OwnPages(application, PORT) if guard is None else guard(application))(scope, None, send))
    return 403 if sent[0]["type"] == "websocket.close" else sent[0]["status"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("host", [OWN, "localhost:4200", "LOCALHOST:4200", "[::1]:4200", "localhost", "127.0.0.1:9999"])
def test_programs_and_own_pages_come_in(method, host):
    assert status(method, Host=host) == 200
    assert status(method, Host=host, Origin=f"http://{host}") == 200
    assert status(method, Host=host, Origin="http://127.0.0.1:4200", Sec_Fetch_Site="cross-site") == 200


@pytest.mark.parametrize("rest", ["", "/message", "/config", "/sessions/1/stream"])
def test_nobody_has_mlflows_assistant_run_commands(rest):
    assert status("POST", path=f"/ajax-api/3.0/mlflow/assistant{rest}", Host=OWN, Origin=f"http://{OWN}") == 403
    assert status("POST", path="/ajax-api/2.0/mlflow/runs/search", Host=OWN, Origin=f"http://{OWN}") == 200


@pytest.mark.parametrize("path", ["/ajax-api/3.0/mlflow/assistant", "/prefix/ajax-api/3.0/mlflow/assistant/message"])
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_nor_where_mlflow_decides_itself_who_comes_in(path, kind):
    assert status("POST", kind, path, WithoutAssistant, Host="mlflow:5000") == 403
    assert status("POST", kind, "/api/2.0/mlflow/runs/search", WithoutAssistant, Host="mlflow:5000") == 200


def served(application):
    """What a service in a container serves, behind a proxy."""
    return OwnPages(application, names=["prefect", "Levels.example"])


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_a_service_is_asked_by_the_names_that_it_was_given(kind):
    assert status("POST", kind, guard=served, Host="prefect:4200") == 200
    assert status("POST", kind, guard=served, Host=OWN, Origin=f"http://{OWN}") == 200
    for name in ("levels.example", "LEVELS.example:8443"):
        for scheme in ("http", "https"):
            assert status("POST", kind, guard=served, Host=name, Origin=f"{scheme}://{name.lower()}") == 200
    for foreign in (
        {"Host": "evil.example:4200"},
        {"Host": "levels.example.evil.example"},
        {"Host": "levels.example", "Origin": "https://evil.example"},
        {"Host": "levels.example", "Origin": "http://127.0.0.1:8000"},
        {"Host": OWN, "Origin": f"https://{OWN}"},
        {"Host": OWN, "Origin": "http://localhost:8888"},
    ):
        assert status("POST", kind, guard=served, **foreign) == 403, foreign


FOREIGN = {
    "another site": {"Host": OWN, "Origin": "http://evil.example"},
    "another port": {"Host": OWN, "Origin": "http://127.0.0.1:8000"},
    "another scheme": {"Host": OWN, "Origin": "https://127.0.0.1:4200"},
    "a name that begins alike": {"Host": OWN, "Origin": "http://127.0.0.1:4200.evil.example"},
    "a file or a sandbox": {"Host": OWN, "Origin": "null"},
    "no origin": {"Host": OWN, "Origin": ""},
    "two origins": {"Host": OWN, "Origin": [f"http://{OWN}", "http://evil.example"]},
    "rebound": {"Host": "evil.example:4200"},
    "rebound, to its own": {"Host": "evil.example:4200", "Origin": "http://evil.example:4200"},
    "a name that ends alike": {"Host": "evil.127.0.0.1:4200"},
    "a name of localhost": {"Host": "evil.localhost:4200"},
    "no host": {},
    "two hosts": {"Host": [OWN, "evil.example"]},
    "an image": {"Host": OWN, "Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors", "Sec_Fetch_Dest": "image"},
    "a frame": {"Host": OWN, "Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "iframe"},
    "another port's image": {"Host": OWN, "Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "no-cors"},
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("what", FOREIGN)
def test_pages_of_others_are_refused_on_every_method(method, what):
    assert status(method, **FOREIGN[what]) == 403


@pytest.mark.parametrize("what", FOREIGN)
def test_and_by_websocket(what):
    assert status(kind="websocket", **FOREIGN[what]) == 403
    assert status(kind="websocket", Host=OWN, Origin=f"http://{OWN}") == 200


def test_a_link_that_a_person_follows_is_no_attack_and_a_form_is():
    followed = {"Host": OWN, "Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    assert status("GET", **followed) == 200
    assert status("POST", **followed) == 403


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30))
def test_no_other_host_comes_in(host):
    name = host.lower()
    own = {"127.0.0.1", "localhost", "[::1]"}
    if name not in own and not (name.rpartition(":")[0] in own and name.rpartition(":")[2].isdigit()):
        assert status(Host=host) == 403
        assert status(Host=OWN, Origin=f"http://{host}") == 403 or host.lower() in {f"{each}:4200" for each in own}
