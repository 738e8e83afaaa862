"""MLflow's server down, slow, or dying in mid-run, and stores that are damaged: the science ends well all the same."""

import os
import re
import shutil
import signal
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from flows.cli import main
from flows.home import Home
from flows.summary import FlowFacts, summarize
from flows.tracking.tracker import Tracker
from levelmatch_core.pipeline import Request, run
from levelmatch_core.runners import PlainRunner
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.store import CutoutStore
from tests.folders import contents
from tests.servers import connections


@pytest.fixture(scope="module")
def mlflow(reliability, tmp_path_factory):
    made = reliability.mlflow(tmp_path_factory.mktemp("mlflow"))
    yield made
    made.signal(signal.SIGCONT)
    reliability.kill_tree(made.process)


@pytest.fixture(scope="module")
def blank(tmp_path_factory):
    """A store with its schema, and nothing in it: making that takes seconds."""
    home = Home(tmp_path_factory.mktemp("blank")).make()
    Tracker(home)._client()
    return home


def home_at(root, blank):
    made = Home(root).make()
    shutil.copytree(blank.root / "mlflow", root / "mlflow", dirs_exist_ok=True)
    return made


@pytest.fixture
def home(tmp_path, monkeypatch, blank):
    """A home, and a client of little patience."""
    monkeypatch.setenv("LEVELMATCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    return home_at(tmp_path / "home", blank)


@pytest.fixture
def ended(program, tmp_path):
    """A run that ended, and what is known of it."""
    settings = MatchSettings(figures="none", solver="iterative", n_iter=200)
    request = Request(inputs=(program,), output=tmp_path / "out", settings=settings, program="p")
    result = run(request, CutoutStore(tmp_path / "store"), PlainRunner)
    facts = FlowFacts(flow_run_id=f"flow-{tmp_path}", name="p", started=time.time())
    return result, summarize(result, peak_memory=100.0), facts


def log(*words):
    return CliRunner().invoke(main, ["log", *map(str, words)])


def run_id_in(done):
    return re.search(r"^MLflow: run (\w{32}) in", done.output, re.MULTILINE)[1]


def content(client, run_id):
    """Return what a run's record holds, but for what tells one run from another."""
    found = client.get_run(run_id)
    history = {name: client.get_metric_history(run_id, name) for name in found.data.metrics}
    return {
        "status": found.info.status,
        "params": found.data.params,
        "tags": {name: value for name, value in found.data.tags.items() if not name.startswith("mlflow.user")},
        "metrics": {name: [(m.step, m.value, m.timestamp) for m in values] for name, values in history.items()},
        "artifacts": sorted(artifacts(client, run_id)),
        "pairs": Path(client.download_artifacts(run_id, "tables/pairs.json")).read_text(),
    }


def artifacts(client, run_id, folder=None):
    for file in client.list_artifacts(run_id, folder):
        if file.is_dir:
            yield from artifacts(client, run_id, file.path)
        else:
            yield file.path, file.file_size


def live(ended, home, monkeypatch):
    """Return the record that the same run leaves in a store that is well."""
    with monkeypatch.context() as patched:
        patched.delenv("MLFLOW_TRACKING_URI", raising=False)
        other = home_at(home.root.parent / "other home", home)
        tracking = Tracker(other).log(*ended)
        assert not tracking.lost
        return content(MlflowClient(tracking_uri=other.tracking_uri), tracking.run_id)


@pytest.mark.slow
def test_down_and_sent_later(mlflow, home, ended, monkeypatch):
    output = ended[0].request.output
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    tracking = Tracker(home).log(*ended)
    assert "is lost" in tracking.lost
    assert f"`levelmatch log {output}` sends it later" in tracking.lost
    still_down = log(output)
    assert still_down.exit_code == 1
    assert "is lost" in still_down.output
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow.url)
    before = contents(output)
    done = log(output)
    assert done.exit_code == 0, done.output
    client = MlflowClient(tracking_uri=mlflow.url)
    run_id = run_id_in(done)
    sent = content(client, run_id)
    assert sent == live(ended, home, monkeypatch)
    assert sent["status"] == "FINISHED"
    assert sent["metrics"]
    again = log(output)
    assert again.exit_code == 0
    assert run_id_in(again) == run_id
    assert "existed already" in again.output
    assert content(client, run_id) == sent
    assert contents(output) == before


@pytest.mark.slow
def test_dying_in_mid_run_and_made_whole_later(mlflow, home, ended, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow.url)
    told = threading.Event()
    write_files = Tracker._write_files

    def dying(self, *arguments):
        mlflow.signal(signal.SIGKILL)  # parameters and numbers are there, the files are not
        told.set()
        write_files(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Tracker, "_write_files", dying)
        tracking = Tracker(home).log(*ended)
    assert told.is_set()
    assert ", in part, is lost" in tracking.lost
    mlflow.process.wait(30)
    mlflow.start()
    client = MlflowClient(tracking_uri=mlflow.url)
    (half,) = client.search_runs([client.get_experiment_by_name("p").experiment_id], "status = 'RUNNING'")
    done = log(ended[0].request.output)
    assert done.exit_code == 0, done.output
    assert run_id_in(done) == half.info.run_id
    assert content(client, half.info.run_id) == live(ended, home, monkeypatch)


@pytest.mark.slow
def test_a_server_that_does_not_answer_costs_seconds(mlflow, home, ended, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow.url)
    mlflow.signal(signal.SIGSTOP)
    waited = connections(monkeypatch)
    try:
        tracking = Tracker(home).log(*ended)
    finally:
        mlflow.signal(signal.SIGCONT)
    assert "is lost" in tracking.lost
    # mostly two; one may be on a connection that was left open
    assert set(waited) == {3.0}
    assert sum(waited) < 30


def test_a_server_that_answers_late_each_time_is_given_up(home, ended, monkeypatch):
    monkeypatch.setattr("flows.tracking.tracker._PATIENCE", 0.0)
    tracking = Tracker(home).log(*ended)
    assert "the store is too slow: not done in 0 s" in tracking.lost


def test_log_of_what_is_not_known(home, ended, tmp_path):  # noqa: ARG001 - the home is empty
    output = ended[0].request.output
    nothing = log(tmp_path / "nowhere")
    assert nothing.exit_code == 2
    assert "no such folder" in nothing.output
    unknown = log(output)
    assert unknown.exit_code == 2
    assert "contains no record of the run that made" in unknown.output
    assert "run it again with the same settings" in unknown.output


@pytest.mark.parametrize("damage", ["no database", "a page in the middle", "of a later version"])
def test_a_damaged_store(home, ended, damage):
    database = home.root / "mlflow" / "mlflow.db"
    if damage == "no database":
        database.write_bytes(b"this is no database" * 1000)
    elif damage == "of a later version":
        database.unlink()
        with closing(sqlite3.connect(database)) as store, store:
            store.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
            store.execute("INSERT INTO alembic_version VALUES ('ffffffffffff')")
        Tracker(home).make_store()
    else:
        assert not Tracker(home).log(*ended).lost
        raw = bytearray(database.read_bytes())
        raw[4096 : len(raw) - 4096] = os.urandom(len(raw) - 8192)
        database.write_bytes(raw)
    tracking = Tracker(home).log(ended[0], ended[1], FlowFacts(flow_run_id="other", name="p", started=time.time()))
    assert "is lost" in tracking.lost
    assert str(database) in tracking.lost
