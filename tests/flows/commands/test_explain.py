import pytest
from click.testing import CliRunner

from flows.cli import main
from levelmatch_core.pipeline import Request, run
from levelmatch_core.runners import PlainRunner
from levelmatch_core.settings import MatchSettings
from levelmatch_core.simulate import SimulatedProgram, simulate
from levelmatch_core.sky.store import CutoutStore


@pytest.fixture
def program(tmp_path):
    simulate(tmp_path / "in", SimulatedProgram.of(tiles=(2, 1), dithers=2, size=128, stars=5))
    return tmp_path / "in"


def test_a_dry_run_shows_the_plan_and_writes_nothing(program, tmp_path):
    done = CliRunner().invoke(main, ["run", str(program), "--output", str(tmp_path / "out"), "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "expected reference jw0123400" in done.output
    assert "cost: about" in done.output
    assert not (tmp_path / "out").exists()


def test_a_dry_run_refuses_bad_settings(program, tmp_path):
    command = ["run", str(program), "--output", str(tmp_path / "out"), "--dry-run", "--set", "sigmaa=3"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 2
    assert "did you mean sigma" in done.output


def test_explain_tells_the_story_of_an_output(program, tmp_path):
    request = Request(inputs=(program,), output=tmp_path / "out", settings=MatchSettings(figures="none"))
    run(request, CutoutStore(tmp_path / "store"), PlainRunner)
    done = CliRunner().invoke(main, ["explain", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "4 of 4 exposures are matched" in done.output
    done = CliRunner().invoke(main, ["explain", str(program)])
    assert done.exit_code == 2
    assert "no run.json" in done.output
