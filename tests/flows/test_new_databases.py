"""A new home's databases: those that Prefect's and MLflow's own migrations make, and whole or not there."""

import logging
import os
import re
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import pytest

from flows.home import Home
from flows.new_databases import making as new_databases
from flows.orchestration.availability import making_database

ROOT = Path(__file__).parents[2]


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return ours without what the engines read."""
    names = {name for name in os.environ if name.startswith(("PREFECT", "LEVELMATCH", "MLFLOW"))}
    kept = {name: value for name, value in os.environ.items() if name not in names}
    return {**kept, "LEVELMATCH_HOME": str(home), "PYTHONPATH": str(ROOT), **more}


def done_by(code: str, home: Path, **more: str) -> str:
    """Run a script with a home, and return what it said on stderr."""
    script = f"from flows.home import prepare_environment\nhome = prepare_environment(quiet=True)\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(home, **more),
        cwd=home.parent,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def content(database: Path) -> list[str]:
    """Return all statements that make a database, all columns in their order, and all rows but for their times.

    The constraints of a table are a set for alembic: in each process they come in another order.
    """
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        schema = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
        tables = [name for kind, name, _, _ in schema if kind == "table"]
        columns = [(name, connection.execute(f"PRAGMA table_xinfo({name!r})").fetchall()) for name in tables]
        rows = [line for line in connection.iterdump() if line.startswith("INSERT")]
    parts = [(*which, sorted(line.strip(" ,\t") for line in (sql or "").split("\n"))) for *which, sql in schema]
    return (
        sorted(map(str, parts)) + sorted(map(str, columns)) + sorted(re.sub(r"\b\d{13}\b", "TIME", row) for row in rows)
    )


OURS = """
import prefect.server.api.server
from flows.new_databases.making import prefects_in_memory, put_prefects
content = prefects_in_memory(home)
assert content is not None
assert not (home.prefect / "prefect.db").stat().st_size
put_prefects(home, content)
"""
PREFECTS = """
import asyncio
from prefect.server.database.dependencies import provide_database_interface
asyncio.run(provide_database_interface().create_db())
"""


@pytest.mark.slow
def test_prefects_database_is_the_one_that_its_own_way_makes(tmp_path: Path) -> None:
    done_by(OURS, tmp_path / "ours")
    done_by(PREFECTS, tmp_path / "own")
    ours, own = (content(tmp_path / home / "prefect" / "prefect.db") for home in ("ours", "own"))
    assert any("'alembic_version'" in line for line in ours)
    assert any(line.startswith('INSERT INTO "alembic_version"') for line in ours)
    assert len(ours) > 200
    assert ours == own
    # and there is nothing left for Prefect to do
    before = (tmp_path / "ours" / "prefect" / "prefect.db").read_bytes()
    done_by(PREFECTS, tmp_path / "ours")
    assert content(tmp_path / "ours" / "prefect" / "prefect.db") == ours
    assert len((tmp_path / "ours" / "prefect" / "prefect.db").read_bytes()) == len(before)


MADE = """
from flows.tracking.tracker import Tracker
Tracker(home).make_store()
"""
MLFLOWS = """
from mlflow import MlflowClient
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
SqlAlchemyStore(home.tracking_uri, home.artifacts.as_uri())
"""


@pytest.mark.slow
def test_mlflows_database_is_the_one_that_its_own_way_makes(tmp_path: Path) -> None:
    said = done_by(MADE, tmp_path / "home")
    assert "own way" not in said
    (tmp_path / "home").rename(tmp_path / "ours")
    done_by(MLFLOWS, tmp_path / "home")  # its rows name the folder
    ours, own = (content(tmp_path / home / "mlflow" / "mlflow.db") for home in ("ours", "home"))
    assert len(ours) > 100
    assert ours == own
    assert stat.S_IMODE((tmp_path / "ours" / "mlflow" / "mlflow.db").stat().st_mode) == 0o600


ELSEWHERE = """
import prefect.server.api.server
from flows.new_databases.making import prefects_in_memory
assert prefects_in_memory(home) is None
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PREFECT_API_DATABASE_CONNECTION_URL", "postgresql+asyncpg://nobody:none@127.0.0.1:1/none"),
        ("PREFECT_SERVER_DATABASE_CONNECTION_URL", "sqlite+aiosqlite:////dev/null"),
        ("PREFECT_HOME", "/tmp"),  # noqa: S108 - nothing is written there
    ],
)
def test_a_database_of_somebodys_own_is_left_to_prefect(tmp_path: Path, name: str, value: str) -> None:
    done_by(ELSEWHERE, tmp_path / "home", **{name: value})


SERVED = """
from flows.orchestration import ephemeral_server
server = ephemeral_server.start()
server.open()
server.wait()
"""


@pytest.mark.slow
def test_a_home_in_which_the_first_command_was_killed_works(tmp_path: Path) -> None:
    """It left an empty file, and a part of the new one under another name."""
    home = Home(tmp_path / "home").make()
    left = home.prefect / f".levelmatch-{'0' * 16}.tmp.db"
    left.write_bytes(b"SQLite format 3\x00")
    said = done_by(SERVED, home.root)
    assert "own way" not in said
    assert not left.exists()
    assert any("'flow_run'" in line for line in content(home.prefect / "prefect.db"))


CHANGED = """
from flows.new_databases import making as new_databases
new_databases._AS_KNOWN["do_run_migrations"] = "of another version"
import sys
sys.stdin.readline = lambda: "go"
import prefect.server.api.server
assert new_databases.prefects_in_memory(home) is None
"""


@pytest.mark.slow
def test_another_version_of_prefect_is_told_and_makes_its_own(tmp_path: Path) -> None:
    said = done_by(CHANGED, tmp_path / "home")
    assert "the new database of Prefect is made in its own way, which takes seconds more: this version of" in said
    assert not (tmp_path / "home" / "prefect" / "prefect.db").stat().st_size


@pytest.mark.fast
def test_what_installed_prefect_runs_its_migrations_with_is_known(tmp_path: Path) -> None:
    """Where this fails, compare the two functions with ours, and test_prefects_database_is_..., before it is mended."""
    found = find_spec("prefect")
    assert found is not None
    assert found.origin is not None
    new_databases._refuse_unknown(Path(found.origin).parent / "server" / "database" / "_migrations" / "env.py")
    other = tmp_path / "env.py"
    other.write_text("def do_run_migrations(connection):\n    pass\n")
    with pytest.raises(new_databases.OtherwiseError, match="not known here"):
        new_databases._refuse_unknown(other)


@pytest.mark.fast
def test_what_cannot_be_made_is_told_by_name(caplog: pytest.LogCaptureFixture) -> None:
    def make() -> bytes:
        message = "no attribute 'orm'\nat all"
        raise AttributeError(message)

    with caplog.at_level(logging.WARNING):
        assert new_databases._made("Prefect", make) is None
    told = "the new database of Prefect is made in its own way, which takes seconds more: no attribute 'orm'"
    assert [record.getMessage() for record in caplog.records] == [told]


@pytest.mark.fast
def test_a_database_that_was_moved_away_is_made_again_by_one_process_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("PREFECT")]:
        monkeypatch.delenv(name)
    home = Home(tmp_path / "home").make()
    with making_database(home) as unmade:
        assert unmade
        (home.prefect / "prefect.db").write_bytes(b"SQLite")
    with making_database(home) as unmade:
        assert not unmade
    (home.prefect / "prefect.db").unlink()
    home.make()  # an empty file
    with making_database(home) as unmade:
        assert unmade


@pytest.mark.fast
@pytest.mark.parametrize("beside", ["", "-wal", "-shm", "-journal"])
def test_what_is_there_is_left_alone(tmp_path: Path, beside: str) -> None:
    home = Home(tmp_path / "home").make()
    database = home.prefect / "prefect.db"
    database.with_name(f"prefect.db{beside}").write_bytes(b"somebody's")
    assert new_databases.prefects_in_memory(home) is None
    new_databases.put_prefects(home, b"ours")
    assert database.read_bytes() == (b"" if beside else b"somebody's")


@pytest.mark.fast
def test_a_new_file_is_its_owners_alone_and_takes_the_place_of_what_was_left(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").make()
    (home.prefect / ".levelmatch-0123456789abcdef.tmp.db").write_bytes(b"half")
    (home.prefect / ".levelmatch-0123456789abcdef.tmp").write_bytes(b"another file, which somebody is writing")
    before = os.umask(0)
    try:
        new_databases.put_prefects(home, b"ours")
    finally:
        os.umask(before)
    names = sorted(path.name for path in home.prefect.iterdir())
    assert names == [".levelmatch-0123456789abcdef.tmp", "prefect.db"]
    assert (home.prefect / "prefect.db").read_bytes() == b"ours"
    assert stat.S_IMODE((home.prefect / "prefect.db").stat().st_mode) == 0o600


@pytest.mark.fast
def test_a_store_of_mlflow_elsewhere_is_left_to_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mine.db")
    home = Home(tmp_path / "home").make()
    new_databases.make_mlflows(home)
    assert not (home.artifacts.parent / "mlflow.db").stat().st_size
    assert not (tmp_path / "mine.db").exists()
