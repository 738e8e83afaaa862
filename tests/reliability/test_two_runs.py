"""Two runs at once: of the same input into two outputs, on a home that nobody used before; and into one output."""

import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest


def started(reliability, world, name, options=()):
    """Start a run of the same input and home into an output of its own."""
    run = reliability.world(world.root, world.inputs, (*world.options, *options))
    run.name = name
    return run, run.start()


def sound(database: Path) -> bool:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.slow
def test_two_first_runs_at_once_on_a_new_home(reliability, undisturbed, tmp_path):
    world = reliability.world(tmp_path / "world", undisturbed.world.inputs)
    before = reliability.digests(world.inputs)
    (one, first), (two, second) = (started(reliability, world, name) for name in ("one", "two"))
    while not (one.out / "unfinished.json").exists() and first.poll() is None:
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)  # so that it surely has its output in hand
    (again, third) = started(reliability, world, "one")  # into the output of the first
    refused = third.wait(600)
    first.send_signal(signal.SIGCONT)
    assert refused == 2, again.said
    assert "another levelmatch run is writing to it; wait until it ends, or choose another folder" in again.said
    assert first.wait(600) == 0, one.said
    assert second.wait(600) == 0, two.said
    for run in (one, two):
        assert reliability.digests(run.out) == undisturbed.files
        assert run.left_over() == []
        assert "lost" not in run.said
        assert "without Prefect" not in run.said
    assert reliability.digests(world.inputs) == before
    databases = [world.home / "mlflow" / "mlflow.db", *(world.home / "prefect").glob("*.db")]
    assert len(databases) == 2
    assert all(sound(database) for database in databases)
    with closing(sqlite3.connect(databases[0])) as connection:
        assert connection.execute("SELECT status FROM runs").fetchall() == [("FINISHED",)] * 2
    with closing(sqlite3.connect(databases[1])) as connection:
        assert connection.execute("SELECT state_type FROM flow_run").fetchall() == [("COMPLETED",)] * 2
