"""Kill a sweep, the sending of a record, or the pruning of the store, and give the command again."""

import json
import shutil
import signal
import subprocess
import time

import pytest
from mlflow import MlflowClient

from flows.combinations import folder_of
from levelmatch_core import MatchSettings, match_levels

GRID = (2.0, 3.0)
KILLED = """
import os, signal, sys
from pathlib import Path
count, unlink = int(sys.argv.pop(1)), Path.unlink
def then_die(path, **options):
    global count
    if not count:
        os.kill(os.getpid(), signal.SIGKILL)
    count -= 1
    unlink(path, **options)
Path.unlink = then_die
from flows.cli import main
main()
"""
"""The command, killed before it removes one more file than it is told."""

KILLED_SENDING = """
import os, signal, sys
count = int(sys.argv.pop(1))
def then_die(event, details):
    global count
    if event == "open" and "/mlflow/artifacts/" in str(details[0]) and details[2] & os.O_CREAT:
        if not count:
            os.kill(os.getpid(), signal.SIGKILL)
        count -= 1
sys.addaudithook(then_die)
from flows.cli import main
main()
"""
"""The command, killed before it makes one more file of a record than it is told."""


def start(reliability, world, *words, log=None):
    environment = reliability.bare() | {"LEVELMATCH_HOME": str(world.home)} | world.environment
    with (log or world.root / "said").open("w") as output:
        return subprocess.Popen(
            [*reliability.command, *map(str, words)],
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def end(reliability, world, *words):
    code = start(reliability, world, *words).wait(300)
    return code, (world.root / "said").read_text()


@pytest.mark.slow
def test_a_sweep_that_was_killed_goes_on(reliability, undisturbed, world, tmp_path):
    grid = f"rms_sig_limit={','.join(map(str, GRID))}"
    words = ("sweep", world.inputs, "--output", world.out, "--program", "p", "--grid", grid, "--preset", "pjpipe")
    process = start(reliability, world, *words)
    while process.poll() is None and world.events() < undisturbed.events * 1.2:  # during the second combination
        time.sleep(0.002)
    assert process.poll() is None
    reliability.kill_tree(process)
    code, said = end(reliability, world, *words)
    assert code == 0, said
    assert world.left_over() == []
    for limit in GRID:
        expected = tmp_path / f"expected-{limit}"
        settings = MatchSettings(preset="pjpipe", figures="none", rms_sig_limit=limit)
        match_levels(world.inputs, expected, settings, program="p")
        assert reliability.digests(world.out / folder_of({"rms_sig_limit": limit})) == reliability.digests(expected)


@pytest.fixture(scope="module")
def emptied(undisturbed, tmp_path_factory):
    """The home of the undisturbed run, whose record MLflow has not."""
    home = tmp_path_factory.mktemp("emptied") / "home"
    shutil.copytree(undisturbed.world.home, home, ignore=shutil.ignore_patterns("mlflow"))
    return home


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_sending_a_record_that_was_killed_is_completed(reliability, undisturbed, emptied, tmp_path, share):
    """Killed where a share of its files are there: there is one record afterwards, and it is whole."""
    out = undisturbed.world.out
    whole = artifacts_of(undisturbed.world.home, json.loads((out / "log.json").read_text())["mlflow_run"])
    world = type(undisturbed.world)(tmp_path, undisturbed.world.inputs)
    shutil.copytree(emptied, world.home)
    log = (out / "log.json").read_bytes()
    count = round(share * len(whole))
    done = subprocess.run(
        [reliability.command[0], "-c", KILLED_SENDING, str(count), "log", str(out)],
        env=reliability.bare() | {"LEVELMATCH_HOME": str(world.home)},
        capture_output=True,
        text=True,
        check=False,
    )
    (out / "log.json").write_bytes(log)
    assert done.returncode == -9, done.stderr
    assert 0 < len(artifacts_of(world.home)) <= count
    code, said = end(reliability, world, "log", out)
    (out / "log.json").write_bytes(log)
    assert code == 0, said
    client = MlflowClient(f"sqlite:///{world.home}/mlflow/mlflow.db")
    runs = [run for each in client.search_experiments() for run in client.search_runs([each.experiment_id])]
    assert [run.info.status for run in runs] == ["FINISHED"]
    assert artifacts_of(world.home) == whole


def artifacts_of(home, run_id="*"):
    """Return the names of a run's artifacts, without what MLflow was writing when it was killed, which it lists not."""
    folders = list((home / "mlflow" / "artifacts").glob(f"*/{run_id}"))
    return sorted(
        path.relative_to(folder).as_posix()
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".artifact.uploading.")
    )


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 7, 20, 45])
def test_a_pruning_that_was_killed_costs_time_only(reliability, undisturbed, server, tmp_path, count):
    world = type(undisturbed.world)(tmp_path, undisturbed.world.inputs, undisturbed.world.options, dict(server))
    shutil.copytree(undisturbed.world.home, world.home)
    before = world.events()
    done = subprocess.run(
        [reliability.command[0], "-c", KILLED, str(count), "cache", "--shrink-to", "0"],
        env=reliability.bare() | {"LEVELMATCH_HOME": str(world.home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -9, done.stderr
    assert world.events() == before - count
    assert world.run() == 0, world.said
    assert reliability.digests(world.out) == undisturbed.files
    assert world.left_over() == []


@pytest.mark.slow
def test_nothing_is_pruned_under_a_run(reliability, undisturbed, world):
    process = world.start()
    while process.poll() is None and world.events() < undisturbed.events // 3:
        time.sleep(0.002)
    process.send_signal(signal.SIGSTOP)  # so that it surely has not ended before it is asked
    stored = world.events()
    done = start(reliability, world, "cache", "--shrink-to", "0")
    waiting = start(reliability, world, "cache", "--shrink-to", "0", "--wait", log=world.root / "waiting")
    assert done.wait(300) == 1
    assert "a run in progress uses the store; use --wait to wait for its end" in (world.root / "said").read_text()
    assert world.events() >= stored
    process.send_signal(signal.SIGCONT)
    assert process.wait(300) == 0, world.said
    assert reliability.digests(world.out) == undisturbed.files
    assert waiting.wait(300) == 0
    assert "stored:  0 files" in (world.root / "waiting").read_text()
    assert world.run() == 0, world.said
    assert reliability.digests(world.out) == undisturbed.files
