"""The commands verify, undo and apply, as a user starts them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from levelmatch_core.pipeline import Request, run
from levelmatch_core.runners import PlainRunner
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.store import CutoutStore

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def out(tmp_path_factory, small_program):
    root = tmp_path_factory.mktemp("undoing")
    request = Request(
        inputs=(small_program,), output=root / "out", settings=MatchSettings.from_mapping({"figures": "none"})
    )
    run(request, CutoutStore(root / "store"), PlainRunner)
    return root / "out"


def call(*arguments):
    code = (
        "import sys\nfrom flows.cli import main\ntry: main()\n"
        "finally: print('heavy', *sorted({'prefect', 'mlflow'} & set(sys.modules)), file=sys.stderr)"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=REPOSITORY,
        env=os.environ | {"COLUMNS": "100"},
    )


@pytest.mark.slow
def test_there_and_back(out, small_program, tmp_path):
    fine = call("verify", out)
    assert fine.returncode == 0, fine.stderr
    assert "4 corrected images: all as in run.json" in fine.stdout
    assert fine.stderr.split() == ["heavy"]  # no engine was imported
    undone = call("undo", out, "--output", tmp_path / "back")
    assert undone.returncode == 0, undone.stderr
    assert len(list((tmp_path / "back").iterdir())) == 4
    applied = call("apply", out / "corrections.ecsv", small_program, "--output", tmp_path / "again")
    assert applied.returncode == 0, applied.stderr
    for path in (out / "tiles").iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_exit_codes(out, small_program, tmp_path):
    missing = call("verify", tmp_path / "nowhere")
    assert missing.returncode == 2
    assert "no such folder" in missing.stderr
    assert call("undo", out, "--output", out / "back").returncode == 2
    one = min((out / "tiles").iterdir())
    raw = one.read_bytes()
    one.write_bytes(raw[:-1] + b"x")
    try:
        changed = call("verify", out)
        assert changed.returncode == 3
        assert f"tiles/{one.name}: was changed" in changed.stderr
        partly = call("undo", out, "--output", tmp_path / "back")
        assert partly.returncode == 3
        assert one.name in partly.stderr
    finally:
        one.write_bytes(raw)
    table = tmp_path / "corrections.ecsv"
    table.write_text("nonsense")
    refused = call("apply", table, small_program, "--output", tmp_path / "x")
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "x").exists()
