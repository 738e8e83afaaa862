"""Running the flow from a command, with output on the terminal, and Prefect and MLflow in the background."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from rich.console import Console

from flows.garbage_collection import importing, pass_over_imports
from flows.home import LOGGERS, Home, prepare_environment
from flows.interruption import farewell
from flows.orchestration import ephemeral_server
from flows.orchestration.availability import forget_unsent, making_database, of_engine, prepare_engine
from flows.orchestration.log_lines import ONCE, ConsoleHandler, hearing
from flows.progress import REPORTER, BarReporter, LineReporter
from flows.secrets import without_secrets
from flows.summary import Summary
from flows.without_prefect import match_alone
from levelmatch_core.errors import EngineError, ServerError
from levelmatch_core.images.finding import find_files
from levelmatch_core.images.missing import LocalInputs, as_given, reasons_of
from levelmatch_core.pipeline import Request, outputs_of
from levelmatch_core.process.beside import process_beside
from levelmatch_core.process.compile_ahead import CompileAhead, compiling_ahead
from levelmatch_core.process.log_context import logger_of
from levelmatch_core.products.output.folder import RUN, OutputFolder
from levelmatch_core.sky.store import CutoutStore

logger = logger_of(__name__)


def check(request: Request) -> tuple[int, int]:
    """Check the request as far as possible without any work, before the slow start of Prefect.

    Returns
    -------
    files, size
        The number of files, and of their bytes.

    Raises
    ------
    UsageError
        If the output folder or an input cannot be used.
    NoInputError
        If there are no files.
    """
    with OutputFolder.open(request.output, request.settings, request.inputs):
        found = find_files(
            request.inputs,
            step_ext=request.settings.step_ext,
            recursive=request.recursive,
            exclude=outputs_of(request.output),
            missing=reasons_of(request.missing).keys(),
        )
    size = 0
    for path, _ in found:
        with suppress(OSError):  # the run will tell
            size += path.stat().st_size
    return len(found), size


def launch(
    request: Request,
    log_level: str | None = None,
    server: ephemeral_server.EmbeddedServer | None = None,
    heard: list[str] | None = None,
) -> Summary:
    """Run the flow in this process and return its summary; if Prefect cannot be used, do the same without it.

    Parameters
    ----------
    request
        The request.
    log_level
        Lowest level of the lines shown on stderr; None shows warnings and a progress bar on a terminal, and
        everything from `info` on elsewhere.
    server
        Prefect's embedded server, if it was started already; it is opened after the request has been checked.
    heard
        To this list all warnings of the run are added.

    Raises
    ------
    LevelMatchError
        As raised by :func:`levelmatch_core.pipeline.run`.
    """
    files, size = check(request)
    home = prepare_environment(quiet=True)
    with (
        terminal(log_level),
        hearing([] if heard is None else heard),
        private(home),
        compiling_ahead(files, size) as ahead,
    ):
        if ahead is not None:
            logger.warning(
                "the first run on this machine compiles for some seconds more than the next ones (`levelmatch warm-up` "
                "does so beforehand)",
                extra=ONCE,
            )
        try:
            prepare_engine(home)
            return _under_prefect(request, home, server or ephemeral_server.start(), ahead, files)
        except EngineError as error:
            logger.warning(
                "Prefect cannot be used: %s; this run is done without Prefect, and only its record there is lost", error
            )
            if server is not None:
                server.stop()
            forget_unsent()
        if ahead is not None:
            import_late(request)
            ahead.wait(files)
        _paint_soon(request)
        return match_alone(request)


def import_late(request: Request) -> None:
    """Import what a run needs late, for which it has the time now: it waits for what is compiled."""
    import levelmatch_core.products.report.page  # noqa: F401, PLC0415 - what this is about

    if request.settings.figures != "none":
        from levelmatch_core.products.figures import ready_to_paint  # noqa: PLC0415

        ready_to_paint()


def _paint_soon(request: Request) -> None:
    """Let the process beside this one, if there is one, import what draws: a first run of an output draws for sure."""
    helper = process_beside()
    if helper is not None and not (request.output / RUN).exists():
        from levelmatch_core.products.figures import ready_to_paint  # noqa: PLC0415

        helper.begin(ready_to_paint)


@contextmanager
def private(home: Home) -> Iterator[None]:
    """Leave a home whose files are their owner's alone, whatever Prefect and MLflow wrote."""
    try:
        yield
    finally:
        home.tighten()


def _under_prefect(
    request: Request,
    home: Home,
    server: ephemeral_server.EmbeddedServer | None,
    ahead: CompileAhead | None,
    files: int,
) -> Summary:
    """Run the flow, on a server that was started or on one that Prefect finds by itself.

    Raises
    ------
    EngineError
        If Prefect cannot be started or stopped working; finished work is in the stores.
    LevelMatchError
        As :func:`launch`.
    """
    try:
        with engine(home, server, request.output):
            from flows.level_match import level_match  # noqa: PLC0415 - Prefect takes seconds to import
            from flows.orchestration.quarantine import content_of  # noqa: PLC0415

            if ahead is not None:
                import_late(request)
                ahead.wait(files)
            _paint_soon(request)  # the server, which has the other processor until now, answers
            state = level_match(
                inputs=as_given(LocalInputs(request.inputs, request.missing)),
                output=str(request.output),
                program=request.program,
                settings=request.settings,
                recursive=request.recursive,
                group_by=request.group_by,
                prune=request.prune,
                return_state=True,
            )
            outcome = content_of(state)
    except ServerError as error:
        raise EngineError(str(error)) from error
    except Exception as error:
        if not of_engine(error):
            raise
        outcome = error
    if isinstance(outcome, BaseException):
        if of_engine(outcome) and not isinstance(outcome, EngineError):
            text = without_secrets(str(outcome).strip() or type(outcome).__name__).splitlines()[0]
            message = f"it stopped working ({type(outcome).__name__}: {text})"
            raise EngineError(message) from outcome
        raise outcome
    return Summary.from_json(outcome)


@contextmanager
def engine(home: Home, server: ephemeral_server.EmbeddedServer | None, output: Path) -> Iterator[None]:
    """Provide Prefect and MLflow during the context: imported, with their stores and a server that answers.

    A server that Prefect would start by itself is replaced by our own, which ends with this process even if it is
    killed. If the process is interrupted, the flow runs that write `output` are cancelled.

    Raises
    ------
    ServerError
        If the server does not answer.
    """
    with ExitStack() as stack:
        with making_database(home) as unmade:
            if server is not None:
                server.open()  # the server creates the database
            # imported here: Prefect and MLflow take seconds to import, and the server takes as long to start
            with importing():
                import mlflow.store.tracking.sqlalchemy_store  # noqa: F401, PLC0415 - of a store in a file

                from flows.level_match import no_heartbeats  # noqa: PLC0415
                from flows.orchestration.cancelling import cancel_runs  # noqa: PLC0415
                from flows.tracking.tracker import Tracker  # noqa: PLC0415

                pass_over_imports()
            serving = stack.enter_context(ephemeral_server.in_place_of_prefects(server))
            if unmade:
                Tracker(home).make_store()  # while the server creates its own
            if serving is not None:
                serving.wait()
        stack.enter_context(farewell(partial(cancel_runs, output)))
        if serving is not None:
            stack.enter_context(no_heartbeats())
        # until Prefect has stored the flow's own result as well: who waits to prune the store waits for all of it
        stack.enter_context(CutoutStore(home.cutouts).in_use())
        yield


@contextmanager
def terminal(log_level: str | None) -> Iterator[None]:
    """Show log lines and progress on stderr during the context."""
    console = Console(stderr=True)
    level = logging.getLevelNamesMapping()[(log_level or ("warning" if console.is_terminal else "info")).upper()]
    handler = ConsoleHandler(console)
    handler.setLevel(level)
    for name in LOGGERS:
        logging.getLogger(name).addHandler(handler)
        logging.getLogger(name).setLevel(min(level, logging.INFO))  # Prefect's run log keeps the rest
    shown = REPORTER.set(BarReporter(console) if console.is_terminal else LineReporter())
    try:
        yield
    finally:
        REPORTER.reset(shown)
        for name in LOGGERS:
            logging.getLogger(name).removeHandler(handler)
