"""Tests of whether Prefect can be used: its server answers, and its database is created by one process at a time."""

import os
import queue
import sqlite3
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

from flows.home import Home
from flows.secrets import without_secrets
from levelmatch_core.errors import EngineError

_TRIES, _PATIENCE = 3, 5.0
"""Number of requests to a server, and time limit for each answer and for all pauses in between, seconds."""

_PACKAGES = frozenset({"prefect", "httpx", "httpcore", "anyio", "sqlalchemy", "aiosqlite", "websockets", "sqlite3"})
"""Packages whose errors are errors of the engine."""

DATABASES = ("PREFECT_API_DATABASE_CONNECTION_URL", "PREFECT_SERVER_DATABASE_CONNECTION_URL")
"""Variables that give the address of Prefect's database."""


def prepare_engine(home: Home) -> None:
    """Check that Prefect can be used: its server answers or, if runs start their own, its database is intact.

    Raises
    ------
    EngineError
        If it cannot be used.
    """
    url = os.environ.get("PREFECT_API_URL")
    if url:
        _refuse_silent(url)
    elif not any(name in os.environ for name in DATABASES):
        database = _database(home)
        if database.exists():
            try:
                with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
                    connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
            except sqlite3.DatabaseError as error:
                message = (
                    f"its database {database} is damaged ({error}); move it away, and the next run creates a new one"
                )
                raise EngineError(message) from error


@contextmanager
def making_database(home: Home) -> Iterator[bool]:
    """Lock the creation of Prefect's own database, and yield whether it has to be created.

    This is the case if this version of Prefect has not created or migrated it yet. Two servers that do so at the same
    time would damage it. If the block ends without an error, the database counts as created: a server that answers has
    done it.
    """
    elsewhere = any(name in os.environ for name in ("PREFECT_API_URL", *DATABASES))
    database = _database(home)
    mark = database.parent / f"made-by-prefect-{version('prefect')}"
    if elsewhere or (_has_content(database) and mark.exists()):
        yield False
        return
    with home.alone("prefect"):
        unmade = not (_has_content(database) and mark.exists())
        yield unmade
        if unmade:
            mark.touch(mode=0o600)


def of_engine(error: BaseException) -> bool:
    """Return whether an error was raised by Prefect, or by a library that it uses, and not by our own work."""
    if isinstance(error, EngineError):
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    modules = [type(error).__module__]
    if trace is not None:
        modules.append(str(trace.tb_frame.f_globals.get("__name__", "")))
    return any(module.partition(".")[0] in _PACKAGES for module in modules)


def forget_unsent() -> None:
    """Discard the events and log lines that Prefect has not yet sent to a server that has ended.

    At the end of the process it would try to send each of them for seconds, minutes in total. Prefect's public
    interface offers no way to prevent that; its queues are emptied here.
    """
    services = sys.modules.get("prefect._internal.concurrency.services")
    for service in tuple(getattr(services, "_active_services", ())):
        with suppress(queue.Empty):
            while True:
                service._queue.get_nowait()  # noqa: SLF001 - see above


def _refuse_silent(url: str) -> None:
    """Refuse a server that does not answer; an answer may also be a request for a password, or an unknown page."""
    problem = ""
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(_PATIENCE / _TRIES)
        try:
            if urlsplit(url).scheme not in {"http", "https"}:
                problem = "not an http address"
                break
            with urllib.request.urlopen(f"{_plain(url)}/health", timeout=_PATIENCE):  # noqa: S310 - checked above
                return
        except urllib.error.HTTPError as error:
            if error.code < 500:
                return
            problem = str(error)
        except (urllib.error.URLError, OSError, ValueError) as error:
            problem = str(getattr(error, "reason", error))
    message = f"PREFECT_API_URL {without_secrets(url)} does not answer ({problem})"
    raise EngineError(message)


def _plain(url: str) -> str:
    """Return an address without user and password, which urllib would treat as part of the host name."""
    return without_secrets(url).rstrip("/")


def _has_content(database: Path) -> bool:
    """Return whether there is a database; :meth:`Home.make` makes an empty file of one that was moved away."""
    return database.exists() and database.stat().st_size > 0


def _database(home: Home) -> Path:
    return Path(os.environ.get("PREFECT_HOME", home.prefect)) / "prefect.db"
