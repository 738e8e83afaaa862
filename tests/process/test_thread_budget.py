"""Threads that a job may use beside its own: the same results, in the same order, for any number."""

import threading
import time

import pytest

from levelmatch_core.process.log_context import log_context, logger_of
from levelmatch_core.process.thread_budget import parallel_map, thread_budget, threads_available, threads_per_job


def test_who_gets_how_many():
    assert [threads_per_job(4, jobs) for jobs in (0, 1, 2, 3, 4, 9)] == [4, 4, 2, 1, 1, 1]


@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_the_order_of_the_items(threads):
    seen = set()

    def work(item):
        seen.add(threading.get_ident())
        time.sleep(0.002 * (5 - item % 5))
        assert threads_available() == 1 or threads == 1  # what is lent is lent once
        return item * item

    with thread_budget(threads):
        assert parallel_map(work, range(20)) == [item * item for item in range(20)]
    assert 1 <= len(seen) <= threads
    assert threads_available() == 1


def test_a_failure_ends_it():
    done = []

    def work(item):
        if item == 3:
            message = "three"
            raise ValueError(message)
        time.sleep(0.01)
        done.append(item)

    with thread_budget(2), pytest.raises(ValueError, match="three"):
        parallel_map(work, range(100))
    assert len(done) < 50


def test_lines_of_other_threads_keep_their_place(caplog):
    logger = logger_of("levelmatch_core.test_spare")
    with thread_budget(2), log_context("tile", "stage"):
        parallel_map(lambda item: logger.warning("item %d", item), range(4))
    assert sorted(caplog.messages) == [f"[tile, stage] item {item}" for item in range(4)]
