"""The folder of all state, and the environment that Prefect and MLflow read when they are imported.

Nothing here imports either of them: :func:`prepare_environment` has to be called before.
"""

import os
import stat
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from flows.found_here import tell_settings
from levelmatch_core.errors import NoInputError, UsageError
from levelmatch_core.files.locks import lock
from levelmatch_core.process.versions import levelmatch_version

VARIABLE = "LEVELMATCH_HOME"

DEPLOYED_BY = "LEVELMATCH_DEPLOYED_BY"
"""Variable of a deployment's runs: the version of levelmatch that deployed it."""

_ODD = frozenset("#?%'\"\\")
"""Characters that mean something in the address of a database or of an artifact."""

HEARTBEAT = 60
"""Seconds between the heartbeats of a deployed flow run; one that is silent for two of them has crashed."""

LOGGERS = ("levelmatch_core", "flows")
"""Loggers whose lines belong to the log of a run."""


@dataclass(frozen=True)
class Home:
    """The folder of all state. Its folders are readable by their owner only."""

    root: Path
    """Absolute path."""

    @classmethod
    def of(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Return the home given by the environment, by default `~/.levelmatch`."""
        chosen = environ.get(VARIABLE) or "~/.levelmatch"
        return cls(Path(chosen).expanduser().absolute())

    @property
    def cutouts(self) -> Path:
        """Store of cutouts."""
        return self.root / "cutouts"

    @property
    def results(self) -> Path:
        """Stored results of tasks, which a second run uses (state Cached)."""
        return self.root / "results"

    @property
    def prefect(self) -> Path:
        """Prefect's own home: the database of its embedded server."""
        return self.root / "prefect"

    @property
    def artifacts(self) -> Path:
        """MLflow's artifacts, unless a tracking server keeps them."""
        return self.root / "mlflow" / "artifacts"

    @property
    def inputs(self) -> Path:
        """Inputs that were fetched from elsewhere."""
        return self.root / "inputs"

    @property
    def mlflow_pages(self) -> Path:
        """The file with the address at which MLflow's pages were started last."""
        return self.root / "mlflow" / "pages"

    @property
    def tracking_uri(self) -> str:
        """MLflow's store: `MLFLOW_TRACKING_URI` if set, else a file in this folder."""
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.root / 'mlflow' / 'mlflow.db'}"

    def make(self) -> Self:
        """Create missing folders.

        Raises
        ------
        UsageError
            If they cannot be created, or the path cannot be a part of the addresses that Prefect and MLflow make of it.
        """
        odd = sorted({character for character in str(self.root) if character in _ODD or not character.isprintable()})
        if odd:
            message = (
                f"{VARIABLE} {str(self.root)!r}: {' '.join(map(repr, odd))} cannot be in the address of a database; "
                f"choose another folder"
            )
            raise UsageError(message)
        try:
            for folder in (self.root, self.cutouts, self.results, self.prefect, self.artifacts.parent, self.artifacts):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            message = f"{VARIABLE} {self.root}: {error.strerror or error}; choose a folder that you may write to"
            raise UsageError(message) from error
        for folder in (self.root, self.cutouts, self.results, self.prefect, self.artifacts.parent):
            if not os.access(folder, os.W_OK):  # also false on a read-only file system
                message = f"{VARIABLE} {folder}: it cannot be written to; choose a folder that you may write to"
                raise UsageError(message)
            if folder.stat().st_mode & stat.S_IWOTH:
                message = f"{VARIABLE} {folder}: anybody may write to it; chmod o-w {folder}"
                raise UsageError(message)
        for database in (self.prefect / "prefect.db", self.artifacts.parent / "mlflow.db"):
            with suppress(FileExistsError):  # SQLite gives its further files the mode of this one
                os.close(os.open(database, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        self.tighten()
        return self

    def tighten(self) -> None:
        """Take all files and folders from everybody but their owner: Prefect and MLflow make theirs for all to read."""
        for folder, folders, names in os.walk(self.root):
            if folder == str(self.root) and self.cutouts.name in folders:
                folders.remove(self.cutouts.name)  # all its files are made so
            for name in (*folders, *names):
                path = os.path.join(folder, name)  # noqa: PTH118 - plain text: of each of thousands of files
                with suppress(OSError):  # gone, or somebody else's
                    mode = os.lstat(path).st_mode
                    if mode & 0o077 and (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                        _take_from_others(path, 0o700 if stat.S_ISDIR(mode) else 0o600)

    def remove_empty(self) -> None:
        """Remove the files and folders that hold nothing: of a home that was just made, all of them."""
        for place in sorted(self.root.rglob("*"), reverse=True):
            with suppress(OSError):  # a folder that is not empty
                if place.is_dir():
                    place.rmdir()
                elif not place.stat().st_size:
                    place.unlink()
        with suppress(OSError):
            self.root.rmdir()

    @contextmanager
    def alone(self, purpose: str) -> Iterator[None]:
        """Wait until no other process does the same work, which only one process may do at a time."""
        descriptor = os.open(self.root / f".{purpose}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            lock(descriptor)
            yield
        finally:
            os.close(descriptor)


@contextmanager
def private_files() -> Iterator[None]:
    """Have all files that this process and its children make readable by their owner only; for what writes at home."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def _take_from_others(path: str, mode: int) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def prepare_environment(environ: MutableMapping[str, str] = os.environ, *, quiet: bool = False) -> Home:
    """Set the environment, and create the home folder.

    Parameters
    ----------
    environ, quiet
        As for :func:`set_environment`.

    Raises
    ------
    UsageError
        If the home cannot be created.
    """
    return set_environment(environ, quiet=quiet).make()


@contextmanager
def home_in_use() -> Iterator[Home]:
    """Prepare the home for a command; one that was made for a request that turns out to be wrong goes again.

    Raises
    ------
    UsageError
        If the home cannot be created.
    """
    existed = Home.of().root.exists()
    home = prepare_environment(quiet=True)
    try:
        yield home
    except (UsageError, NoInputError):
        if not existed:
            home.remove_empty()
        raise


def set_environment(environ: MutableMapping[str, str] = os.environ, *, quiet: bool = False) -> Home:
    """Set variables that Prefect, MLflow and BLAS read when imported, unless the user has set them; write nothing.

    Parameters
    ----------
    environ
        The environment to fill in.
    quiet
        Whether Prefect prints nothing on the terminal. Its run logs are sent to its server as usual.
    """
    home = Home.of(environ)
    defaults = {
        "PREFECT_HOME": str(home.prefect),
        "PREFECT_LOCAL_STORAGE_PATH": str(home.results),
        # never pickles, which could execute code when they are read
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
        # a new database is migrated first, which takes over ten seconds on a busy machine; Prefect's default is 20
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        # task runs are written to the database once per second instead of one by one, which took three times as much
        # CPU time and was so slow that the last ones were missing when a command's server ended
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "100",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_LOGGING_EXTRA_LOGGERS": ",".join(LOGGERS),
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "MLFLOW_LOGGING_LEVEL": "ERROR",
        # an unreachable tracking server then costs seconds, not minutes
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        # a file of the current folder, such as .env beside data of unknown origin, must not name what is run
        "PREFECT_LOGGING_SETTINGS_PATH": str(Path(environ.get("PREFECT_HOME", home.prefect)) / "logging.yml"),
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT),
        "NUMBA_DISABLE_JIT": "0",  # likewise: without a compiler a run takes a hundred times as long
        "NUMBA_CACHE_DIR": "",
        "NUMBA_CACHE_LOCATOR_CLASSES": "",
        # solves use one BLAS thread; further threads of numpy and scipy would spin for a tenth of a second
        "OPENBLAS_NUM_THREADS": "1",
    }
    if quiet:
        defaults["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
        # a command goes on without a server that has ended: each request to it then costs seconds, not a minute
        defaults["PREFECT_CLIENT_MAX_RETRIES"] = "2"
    if "PREFECT_RESULTS_LOCAL_STORAGE_PATH" in environ:  # another name of the same setting
        del defaults["PREFECT_LOCAL_STORAGE_PATH"]
    for name, value in defaults.items():
        environ.setdefault(name, value)
    # no child looks for what it imports in the current folder, as `python -m` and `python -c` do
    environ["PYTHONSAFEPATH"] = "1"
    with suppress(FileNotFoundError):  # a folder that was removed has no files
        tell_settings(Path.cwd(), frozenset(name.upper() for name in environ))
    return home


_DEPLOYED = (
    "PREFECT_RESULTS_DEFAULT_SERIALIZER",
    "PREFECT_LOGGING_EXTRA_LOGGERS",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW",
    "PREFECT_SERVER_ANALYTICS_ENABLED",
    "DO_NOT_TRACK",
    "MLFLOW_DISABLE_TELEMETRY",
    "MLFLOW_LOGGING_LEVEL",
    "OPENBLAS_NUM_THREADS",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY",
)
"""What a run of a deployment needs besides its home."""


def deployed_environment() -> dict[str, str]:
    """Return the variables of a deployment's runs, with its home as Prefect's templates have a variable.

    The process in which a worker runs a flow has imported Prefect before the flow's module could set them.
    """
    root, template = "/home", f"{{{{ ${VARIABLE} }}}}"
    environ = {VARIABLE: root}
    results = set_environment(environ).results.relative_to(root)
    return {
        VARIABLE: template,
        DEPLOYED_BY: levelmatch_version(),
        # by the name under which a worker passes on a setting of its own, which would take precedence over any other
        "PREFECT_RESULTS_LOCAL_STORAGE_PATH": f"{template}/{results}",
        **{name: environ[name] for name in _DEPLOYED},
    }
