"""A first run in a new home: nothing in it is anybody else's to read, and Prefect has nothing to complain of."""

import os
import stat
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.slow
def test_a_first_run_in_a_new_home_of_an_odd_name(reliability: Any, program: Path, tmp_path: Path) -> None:
    world = reliability.world(tmp_path / "world ü", program)
    world.environment = {"LEVELMATCH_HOME": str(tmp_path / "not" / "yet there, ü"), "PYTHONWARNINGS": "default"}
    before = os.umask(0)
    try:
        assert world.run() == 0, world.said
    finally:
        os.umask(before)
    assert "home directory" not in world.said
    home = tmp_path / "not" / "yet there, ü"
    made = [home, *home.rglob("*")]
    assert {"prefect.db", "mlflow.db", "artifacts"} <= {path.name for path in made}
    assert [str(path) for path in made if stat.S_IMODE(path.stat().st_mode) & 0o077] == []
    # what a run writes for others is as the user has it
    assert stat.S_IMODE((world.out / "run.json").stat().st_mode) == 0o666
