"""Lines of a batch are one entry of Prefect's log, and as many lines as ever elsewhere."""

import logging
from collections.abc import Iterator

import pytest
from prefect.logging.handlers import APILogHandler

from flows.orchestration.log_lines import MOST_LINES, FlowRunLines, gathered
from flows.orchestration.quarantine import QuarantinedError
from levelmatch_core.errors import NoInputError
from levelmatch_core.process.log_context import log_context, logger_of
from levelmatch_core.process.thread_budget import parallel_map, thread_budget

LOGGER = logger_of("levelmatch_core.trial")
ROOT = logging.getLogger("levelmatch_core")


class _Prefect(APILogHandler):
    """Stands for the handler that sends lines to Prefect's server."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.entries.append((record.levelno, record.getMessage()))


@pytest.fixture
def prefect() -> Iterator[_Prefect]:
    handler = _Prefect()
    ROOT.addHandler(handler)
    yield handler
    ROOT.removeHandler(handler)


@pytest.fixture(autouse=True)
def at_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "levelmatch_core")


def test_many_lines_are_one_entry_and_each_is_seen_elsewhere(
    prefect: _Prefect, caplog: pytest.LogCaptureFixture
) -> None:
    def tell(number: int) -> None:
        with log_context(f"tile {number}", "solve"):
            LOGGER.info("%d pairs", number)

    with gathered(), thread_budget(2):
        parallel_map(tell, range(4))
        assert not prefect.entries
        assert len(caplog.messages) == 4
    ((level, text),) = prefect.entries
    assert level == logging.INFO
    assert sorted(text.splitlines()) == [f"[tile {number}, solve] {number} pairs" for number in range(4)]


def test_a_warning_is_an_entry_of_its_own_at_once(prefect: _Prefect) -> None:
    with gathered():
        LOGGER.info("well")
        LOGGER.warning("not well")
        assert prefect.entries == [(logging.WARNING, "not well")]
    assert prefect.entries == [(logging.WARNING, "not well"), (logging.INFO, "well")]


def test_lines_are_handed_on_where_the_batch_fails(prefect: _Prefect) -> None:
    def fail() -> None:
        with gathered():
            LOGGER.info("before")
            raise OSError

    with pytest.raises(OSError, match=r"^$"):
        fail()
    assert prefect.entries == [(logging.INFO, "before")]
    LOGGER.info("afterwards")
    assert prefect.entries[1:] == [(logging.INFO, "afterwards")]


def test_an_entry_has_an_end(prefect: _Prefect) -> None:
    with gathered():
        for number in range(MOST_LINES + 1):
            LOGGER.info("%d", number)
    assert [text.count("\n") for _, text in prefect.entries] == [MOST_LINES - 1, 0]
    assert [int(line) for _, text in prefect.entries for line in text.splitlines()] == list(range(MOST_LINES + 1))


def lines_on(error: Exception, caplog: pytest.LogCaptureFixture) -> list[tuple[str, bool]]:
    """Return what the two lines become, which Prefect writes on the error of a flow run, and if with a traceback."""
    logger = logging.getLogger("levelmatch_core.trial.prefect")
    logger.addFilter(chosen := FlowRunLines(QuarantinedError))
    caplog.clear()
    try:
        raise error
    except type(error):
        logger.exception("Encountered exception during execution: %r", error)
        logger.exception("Engine execution exited with unexpected exception")
    finally:
        logger.removeFilter(chosen)
    return [(record.getMessage(), bool(record.exc_info)) for record in caplog.records]


def test_an_expected_error_of_a_flow_run_is_one_line_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    error = NoInputError("none of 2 files can be used:\n  Pending: a")
    assert lines_on(error, caplog) == [(f"NoInputError: {error}", False)]
    assert lines_on(PermissionError("p"), caplog) == [("PermissionError: p", False)]


def test_a_quarantined_run_has_no_such_line_and_a_bug_keeps_all(caplog: pytest.LogCaptureFixture) -> None:
    assert lines_on(QuarantinedError("one tile"), caplog) == []
    assert [traced for _, traced in lines_on(KeyError("bug"), caplog)] == [True, True]
    caplog.set_level(logging.DEBUG, "levelmatch_core")
    assert len(lines_on(NoInputError("none"), caplog)) == 2
