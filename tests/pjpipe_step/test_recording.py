"""`do_step` and MLflow: recorded where asked, else kept so that `levelmatch log` sends it; the core knows neither."""

import sqlite3
import subprocess
import sys
from types import SimpleNamespace

import pytest

from flows.recording import record as mlflow_record
from levelmatch_core import LevelMatchStep
from levelmatch_core.errors import UsageError
from levelmatch_core.pjpipe_step import recording


def test_the_recorder_is_told_whether_to_send(program, tmp_path, monkeypatch):
    told = []
    (installed,) = recording.entry_points(group=recording.GROUP)
    assert installed.load() is mlflow_record
    plugin = SimpleNamespace(load=lambda: lambda result, send: told.append((result.request.output, send)))
    monkeypatch.setattr(recording, "entry_points", lambda group: [plugin] if group == recording.GROUP else [])
    for tracking in (False, True):
        out = tmp_path / f"{tracking}"
        LevelMatchStep(program.folder, out, "cal", 1, None, figures="none").do_step(tracking=tracking)
        assert told.pop() == (out, tracking)
    monkeypatch.setattr(recording, "entry_points", lambda **_: ())
    with pytest.raises(UsageError, match=r"tracking=True: no entry point .* install levelmatch again"):
        LevelMatchStep(program.folder, tmp_path / "True", "cal", 1, None, figures="none").do_step(tracking=True)


SCRIPT = """
import sys
from levelmatch_core import LevelMatchStep
LevelMatchStep(sys.argv[1], sys.argv[2], "cal", 1, None, figures="none").do_step(tracking=sys.argv[3] == "yes")
assert sys.argv[3] == "yes" or "mlflow" not in sys.modules
"""


def runs(home):
    """Return status and name of the runs in MLflow's store of a home."""
    store = home / "mlflow" / "mlflow.db"
    with sqlite3.connect(store) as database:
        if not database.execute("select name from sqlite_master where name = 'runs'").fetchall():
            return []
        return database.execute("select status, name from runs").fetchall()


@pytest.mark.slow
def test_a_step_is_recorded_in_mlflow_now_or_later(program, tmp_path, monkeypatch):
    home = tmp_path / "home"
    monkeypatch.setenv("LEVELMATCH_HOME", str(home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def python(*command):
        done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    python("-c", SCRIPT, program.folder, tmp_path / "later", "no")
    assert runs(home) == []
    assert "MLflow: run " in python("-c", "from flows.cli import main; main()", "log", tmp_path / "later")
    assert [status for status, _ in runs(home)] == ["FINISHED"]
    python("-c", SCRIPT, program.folder, tmp_path / "now", "yes")
    assert [status for status, _ in runs(home)] == ["FINISHED", "FINISHED"]
    assert "existed already" in python("-c", "from flows.cli import main; main()", "log", tmp_path / "now")
