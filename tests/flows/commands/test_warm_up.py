"""`levelmatch warm-up` compiles what a first run would, and a first run says that it compiles."""

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

import levelmatch_core.warm_up
from flows.cli import main
from levelmatch_core.process.compiled import is_cold
from levelmatch_core.simulate import SimulatedProgram, simulate


def test_a_machine_is_cold_until_all_kernels_are_compiled(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert is_cold()
    (tmp_path / "sky").mkdir()
    (tmp_path / "sky" / "stack_kernels.robust_mean-7.py311.nbi").touch()
    assert not is_cold()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "nowhere"))
    assert is_cold()


def test_the_command_is_listed_and_says_what_it_does(monkeypatch):
    monkeypatch.setattr(levelmatch_core.warm_up, "warm_up", lambda: 3.2)
    done = CliRunner().invoke(main, ["warm-up"])
    assert done.exit_code == 0
    assert "compiling" in done.output
    assert "done in 3 s" in done.output
    assert "warm-up" in CliRunner().invoke(main, ["--help"]).output


@pytest.mark.full  # compiles everything, a minute of one core
def test_after_a_warm_up_a_first_run_compiles_next_to_nothing(tmp_path):
    simulate(tmp_path / "in", SimulatedProgram.of(tiles=(2, 2), dithers=2, size=128, stars=20))
    kept = tmp_path / "numba"
    kept.mkdir()
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(kept), "LEVELMATCH_HOME": str(tmp_path / "home")}

    def command(*arguments):
        whole = [sys.executable, "-c", "from flows.cli import main; main()", *map(str, arguments)]
        return subprocess.run(whole, env=environment, capture_output=True, text=True, check=True).stderr

    command("warm-up")
    before = set(kept.rglob("*.nbc"))
    assert len(before) > 30
    told = command("run", tmp_path / "in", "-o", tmp_path / "out")
    assert "compiles for some" not in told
    assert len(set(kept.rglob("*.nbc")) - before) <= 3
