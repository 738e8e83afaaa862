"""Bounds on the levels' errors under hard skies; the whole table is `python -m tests.benchmarks.scenes`."""

from pathlib import Path

import pytest

from levelmatch_core import MatchSettings
from tests.benchmarks.scenes.program import SCENES, write
from tests.benchmarks.scenes.score import oracle, ours

BEST = MatchSettings.from_mapping({"preset": "best", "figures": "none"})
TIMES_ORACLE = {
    "plain": 1.5,
    "sharp nebula": 2.5,
    "undersampled crowd": 3.5,
    "nebula, a PSF a tile": 4.0,
    "misregistered": 5.0,
    "cosmic rays": 2.5,
}


@pytest.mark.full
@pytest.mark.parametrize("name", TIMES_ORACLE)
def test_levels_come_near_those_without_a_sky(name: str, tmp_path: Path) -> None:
    truth = write(SCENES[name], tmp_path / "raw", 77)
    assert ours(tmp_path / "raw", truth, BEST).error < TIMES_ORACLE[name] * oracle(truth)
