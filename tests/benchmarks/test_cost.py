"""Bounds on time beside the floor, on what the whole command adds, and on memory."""

from pathlib import Path

import pytest

from tests.benchmarks.memory import exposure, tiles
from tests.benchmarks.speed import PROGRAMS, measure


@pytest.mark.full
@pytest.mark.parametrize("program", PROGRAMS)
def test_the_library_costs_at_most_twice_the_floor(program: str) -> None:
    timing = measure(PROGRAMS[program], rounds=2)
    assert timing.ratio <= 2.0


@pytest.mark.full
def test_an_exposure_costs_at_most_ten_times_its_image(tmp_path: Path) -> None:
    found = exposure(tmp_path, 2048)
    assert max(found.values()) <= 10.0
    assert max(found.values()) > 1.0  # it was measured


@pytest.mark.full
def test_memory_is_bounded_by_workers(tmp_path: Path) -> None:
    hundred, many = tiles(tmp_path, 10, 512), tiles(tmp_path, 20, 512)
    assert many <= 1.1 * hundred
    assert max(hundred, many) < 1500
