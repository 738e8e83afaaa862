"""Prefect's and MLflow's databases of a new home: made in memory by their own migrations, and written as one file.

Each has some seventy to a hundred migrations. In a new file MLflow's wait for the disk after each; Prefect's run over a
connection whose nine thousand statements each wait for another thread, which costs as much CPU time as the migrations.
In memory and over a plain connection, the same migrations make the same tables in half of the time.

That is done for a new file in LEVELMATCH_HOME only. Where what is installed is not as it is known here, Prefect and
MLflow make their databases in their own way, and the log says why.
"""

import ast
import hashlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.home import Home, private_files
from levelmatch_core.errors import NoRoomError
from levelmatch_core.files.writing import is_temporary, write_durably
from levelmatch_core.process.log_context import logger_of

logger = logger_of(__name__)

_AS_KNOWN = {
    "do_run_migrations": "1d2573ee9681a5ee0b4769cf07ceb82c8697ac3308293e46d86e692873f20506",
    "disable_sqlite_foreign_keys": "9c5294312a05b9480c95b68ccd87f0835cae6b25eb71d5c8dbc274b9d07a399f",
}
"""What Prefect runs its migrations with, and the sha256 of its text: :func:`_prefects_migrations` does the same."""


class OtherwiseError(Exception):
    """What is installed is not as it is known here."""


def prefects_in_memory(home: Home) -> bytes | None:
    """Return the content of Prefect's new database, or None if there is one, or if Prefect has to make it.

    Nothing is written. Prefect's server must have been imported, which reads its settings.
    """
    if not _is_new(home.prefect / "prefect.db") or not _is_prefects(home):
        return None
    return _made("Prefect", _prefects_migrations)


def put_prefects(home: Home, content: bytes) -> None:
    """Write Prefect's new database, unless there is one now; :func:`making_database` keeps others from doing so."""
    _put(home.prefect / "prefect.db", content)


def make_mlflows(home: Home) -> None:
    """Make MLflow's new database, if its store is the file of the home, and new.

    The caller has locked its creation.
    """
    database = home.artifacts.parent / "mlflow.db"
    if home.tracking_uri != f"sqlite:///{database}" or not _is_new(database):
        return
    content = _made("MLflow", lambda: _mlflows_migrations(home))
    if content is not None:
        _put(database, content)


def _is_new(database: Path) -> bool:
    """Return whether a database has no content, and nobody is about to give it some."""
    beside = [database.with_name(f"{database.name}{end}") for end in ("-wal", "-shm", "-journal")]
    if database.is_symlink() or any(each.exists() for each in beside):
        return False
    return not database.exists() or (database.is_file() and not database.stat().st_size)


def _is_prefects(home: Home) -> bool:
    """Return whether Prefect's database is the file of the home, and not one that somebody chose."""
    from prefect.settings import get_current_settings  # noqa: PLC0415 - takes a second, and reads the environment

    chosen = get_current_settings().server.database.connection_url
    plain = chosen.get_secret_value() if chosen is not None else ""
    return plain == f"sqlite+aiosqlite:///{home.prefect / 'prefect.db'}"


def _made(whose: str, make: Callable[[], bytes]) -> bytes | None:
    """Return what was made, or None, which is told, if it could not be."""
    try:
        return make()
    except Exception as error:  # noqa: BLE001 - whatever has changed in them, their own way is left
        told = (str(error).strip() or type(error).__name__).splitlines()[0]
        logger.warning(
            "the new database of %s is made in its own way, which takes seconds more: %s", whose, told, extra=_ONCE
        )
        return None


_ONCE = {"of_one_run": True}  # as flows.orchestration.log_lines.ONCE, which lies above


def _prefects_migrations() -> bytes:
    """Return a new database of Prefect, made by its own migrations, as `prefect.server.database._migrations.env` does.

    Raises
    ------
    OtherwiseError
        If that module does it in another way than when this was written.
    """
    import sqlalchemy  # noqa: PLC0415 - this and the next ones take a second, and are imported by the server
    from alembic.runtime.environment import EnvironmentContext  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415
    from prefect.server.database.alembic_commands import alembic_config  # noqa: PLC0415
    from prefect.server.database.dependencies import provide_database_interface  # noqa: PLC0415

    database = provide_database_interface()
    config = alembic_config()
    scripts = ScriptDirectory.from_config(config)
    _refuse_unknown(Path(scripts.env_py_location))
    scripts.version_locations = [str(database.orm.versions_dir)]
    engine = sqlalchemy.create_engine("sqlite://", poolclass=sqlalchemy.StaticPool, paramstyle="named")

    @sqlalchemy.event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: object) -> None:  # noqa: ANN401 - sqlite3's
        connection.isolation_level = None  # transactions begin where SQLAlchemy says so, see _begun
        connection.execute("PRAGMA foreign_keys=OFF")
        connection.execute("PRAGMA legacy_alter_table=OFF")

    @sqlalchemy.event.listens_for(engine, "begin")
    def _begun(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    def upgrades(revision: Any, _context: object) -> Any:  # noqa: ANN401 - alembic's
        return scripts._upgrade_revs("head", revision)  # noqa: SLF001 - as alembic.command.upgrade does

    with warnings.catch_warnings(), engine.connect() as connection:
        warnings.simplefilter("ignore")  # of indices of expressions, as Prefect does
        with EnvironmentContext(config, scripts, fn=upgrades, as_sql=False, destination_rev="head") as environment:
            environment.configure(
                connection=connection,
                target_metadata=database.Base.metadata,
                include_schemas=True,
                render_as_batch=True,
                transaction_per_migration=True,
                template_args={"dialect": "sqlite"},
            )
            with environment.begin_transaction():
                environment.run_migrations()
    try:
        return _content(engine, scripts.get_heads())
    finally:
        engine.dispose()


def _refuse_unknown(environment: Path) -> None:
    text = environment.read_text(encoding="utf-8")
    found = {
        node.name: hashlib.sha256((ast.get_source_segment(text, node) or "").encode()).hexdigest()
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef) and node.name in _AS_KNOWN
    }
    if found != _AS_KNOWN:
        message = "this version of Prefect runs its migrations in a way that is not known here"
        raise OtherwiseError(message)


def _mlflows_migrations(home: Home) -> bytes:
    """Return a new database of MLflow, as its store makes one in memory."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # noqa: PLC0415 - takes seconds

    if os.environ.get("MLFLOW_ENABLE_WORKSPACES"):
        message = "its stores have workspaces"  # those are another class
        raise OtherwiseError(message)
    store = SqlAlchemyStore("sqlite:///:memory:", home.artifacts.as_uri())
    try:
        return _content(store.engine, ())
    finally:
        store.engine.dispose()


def _content(engine: Any, heads: Any) -> bytes:  # noqa: ANN401 - SQLAlchemy's and alembic's
    """Return the bytes of a database in memory; `heads` are the revisions that it has to have, if any are given."""
    connection = engine.raw_connection()
    try:
        found = connection.driver_connection.execute("SELECT version_num FROM alembic_version").fetchall()
        if not found or (heads and sorted(heads) != sorted(head for (head,) in found)):
            message = f"its migrations ended at {found}"
            raise OtherwiseError(message)
        content: bytes = connection.driver_connection.serialize()
        return content
    finally:
        connection.close()


def _put(database: Path, content: bytes) -> None:
    """Write a new database, as it is on disk when it appears, for its owner alone; what killed ones left goes."""
    if not _is_new(database):
        return
    for left in database.parent.glob(f".*{database.suffix}"):
        if is_temporary(left):
            left.unlink(missing_ok=True)
    try:
        with private_files():
            write_durably(database, content)
    except (OSError, NoRoomError) as error:
        logger.warning("%s cannot be written (%s)", database, error, extra=_ONCE)
