"""Lines of a batch are one entry of Prefect's log, and as many lines as ever elsewhere."""

import logging
from collections.abc import Iterator

import pytest
from prefect.logging.handlers import APILogHandler

from flows.orchestration.log_lines import MOST_LINES, gathered
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
