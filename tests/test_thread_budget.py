"""Threads that a job may use beside its own: the same results, in the same order, for any number."""

import threading
import time

import pytest

from levelmatch_core.log_context import logger_of, placed
from levelmatch_core.thread_budget import lent, share, side_by_side, threads_lent


def test_who_gets_how_many():
    assert [share(4, jobs) for jobs in (0, 1, 2, 3, 4, 9)] == [4, 4, 2, 1, 1, 1]


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_the_order_of_the_items(threads):
    seen = set()

    def work(item):
        seen.add(threading.get_ident())
        time.sleep(0.002 * (5 - item % 5))
        assert threads_lent() == 1 or threads == 1  # what is lent is lent once
        return item * item

    with lent(threads):
        assert side_by_side(work, range(20)) == [item * item for item in range(20)]
    assert 1 <= len(seen) <= threads
    assert threads_lent() == 1


def test_a_failure_ends_it():
    done = []

    def work(item):
        if item == 3:
            message = "three"
            raise ValueError(message)
        time.sleep(0.01)
        done.append(item)

    with lent(2), pytest.raises(ValueError, match="three"):
        side_by_side(work, range(100))
    assert len(done) < 50


def test_lines_of_other_threads_keep_their_place(caplog):
    logger = logger_of("levelmatch_core.test_spare")
    with lent(2), placed("tile", "stage"):
        side_by_side(lambda item: logger.warning("item %d", item), range(4))
    assert sorted(caplog.messages) == [f"[tile, stage] item {item}" for item in range(4)]
