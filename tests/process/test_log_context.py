"""Log lines name tile and stage, whatever handler shows them and whatever thread writes them."""

import logging
from concurrent.futures import ThreadPoolExecutor

from levelmatch_core.process.log_context import log_context, logger_of

logger = logger_of(__name__)


def test_a_line_begins_with_its_tile_and_stage(caplog):
    with caplog.at_level(logging.INFO), log_context("100%s tile", "cutout"):
        logger.info("%d pixels", 3)
        logger.info("100 % of them")
    assert caplog.messages == ["[100%s tile, cutout] 3 pixels", "[100%s tile, cutout] 100 % of them"]
    assert [(each.tile, each.stage) for each in caplog.records] == [("100%s tile", "cutout")] * 2


def test_a_line_of_no_job_is_left_as_it_is(caplog):
    with caplog.at_level(logging.INFO):
        with log_context("tile", "cutout"):
            pass
        logger.info("%s: %d done", "cutouts", 4)
    assert caplog.messages == ["cutouts: 4 done"]


def test_a_logger_that_is_asked_for_twice_names_the_place_once(caplog):
    with caplog.at_level(logging.INFO), log_context("tile", "cutout"):
        logger_of(__name__).info("again")
    assert caplog.messages == ["[tile, cutout] again"]


def test_threads_have_places_of_their_own(caplog):
    def work(number):
        with log_context(f"tile {number}", "cutout"):
            logger.info("of %d", number)

    with caplog.at_level(logging.INFO), ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(50)))
    assert sorted(caplog.messages) == sorted(f"[tile {number}, cutout] of {number}" for number in range(50))
