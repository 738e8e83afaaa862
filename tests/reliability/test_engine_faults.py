"""Prefect out of reach, its database damaged, its server gone in mid-run: the run ends as it would have."""

import json
import sqlite3
import time
import urllib.error
import urllib.request
from contextlib import closing

import pytest

from flows.home import Home
from flows.orchestration.availability import forget_unsent, of_engine, prepare_engine
from flows.secrets import without_secrets
from levelmatch_core.errors import EngineError

AT_MOST = 150
"""Seconds within which a run ends whose server died: Prefect tries each call for a while, the work is done again."""


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["out of reach", "damaged database"])
def test_a_run_without_prefect(reliability, undisturbed, tmp_path, fault):
    world = undisturbed.fresh(tmp_path / "world")
    if fault == "out of reach":
        world.environment = {"PREFECT_API_URL": "http://me:hunter2@127.0.0.1:9/api"}
    else:
        (database,) = (world.home / "prefect").glob("*.db")
        database.write_bytes(b"no database" * 1000)
    assert world.run() == 0, world.said
    assert reliability.digests(world.out) == undisturbed.files
    assert "Prefect cannot be used" in world.said
    assert "only its record there is lost" in world.said
    assert ("127.0.0.1:9/api does not answer" if fault == "out of reach" else "is damaged") in world.said
    assert "hunter2" not in world.said
    assert "Traceback" not in world.said
    assert world.left_over() == []
    with closing(sqlite3.connect(world.home / "mlflow" / "mlflow.db")) as connection:
        runs = connection.execute("SELECT run_uuid, status FROM runs ORDER BY start_time").fetchall()
    told = json.loads((world.out / "log.json").read_text())
    assert runs[-1] == (told["mlflow_run"], "FINISHED")
    assert told["prefect_flow_run"] is None


def server_dies(reliability, undisturbed, root, share):
    world = undisturbed.fresh(root / "world")
    with reliability.prefect_server(root / "prefect") as (environment, server):
        world.environment = environment
        process = world.start()
        while process.poll() is None and world.events() < undisturbed.events * share:
            time.sleep(0.005)
        assert process.poll() is None
        reliability.kill_tree(server)
        assert process.wait(AT_MOST) == 0, world.said
    assert reliability.digests(world.out) == undisturbed.files
    assert world.left_over() == []
    assert "Traceback" not in world.said


@pytest.mark.full
@pytest.mark.parametrize("share", [0.0, 0.1, 0.4, 0.7, 0.9])
def test_a_server_that_dies_at_any_time(reliability, undisturbed, tmp_path, share):
    server_dies(reliability, undisturbed, tmp_path, share)


# -- the pieces --------------------------------------------------------------------------------------------------------
def test_what_could_not_be_sent_is_dropped():
    """It is found in Prefect's internals, which another version may arrange otherwise."""
    from prefect._internal.concurrency.services import QueueService  # noqa: PLC0415 - as the docstring says

    class Service(QueueService[int]):
        async def _handle(self, item: int) -> None:
            raise AssertionError(item)

    service = Service()
    for number in range(100):
        service._queue.put(number)
    forget_unsent()
    assert service._queue.empty()


def test_whose_error_it_is():
    with pytest.raises(urllib.error.URLError) as caught:
        urllib.request.urlopen("http://127.0.0.1:9", timeout=1)
    assert not of_engine(caught.value)
    import httpx  # noqa: PLC0415 - what Prefect speaks with

    assert of_engine(httpx.ConnectError("All connection attempts failed"))
    assert of_engine(EngineError("x"))
    assert not of_engine(ValueError("x"))
    assert not of_engine(OSError("x"))


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/api", "ftp://127.0.0.1/api", "nonsense"])
def test_an_address_that_does_not_answer(tmp_path, monkeypatch, url):
    monkeypatch.setenv("PREFECT_API_URL", url)
    monkeypatch.setattr("flows.orchestration.availability._PATIENCE", 0.2)
    with pytest.raises(EngineError, match="does not answer"):
        prepare_engine(Home(tmp_path / "home").make())


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("http://me:pw@host:5000/x", "http://host:5000/x"),
        ("postgresql://me:p%40w@db/mlflow", "postgresql://db/mlflow"),
        ("cannot reach https://me@host and http://a:b@c:1/d", "cannot reach https://host and http://c:1/d"),
        ("https://host/api?token=abc", "https://host/api"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("mail me@here.org", "mail me@here.org"),
    ],
)
def test_addresses_lose_users_and_passwords(text, plain):
    assert without_secrets(text) == plain
