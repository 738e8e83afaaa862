"""Prefect and MLflow on PostgreSQL: two programs and a sweep at once, and nothing is lost or left running."""

import json
import re
import urllib.error
import urllib.request

import pytest
from mlflow import MlflowClient

pytestmark = pytest.mark.slow

TROUBLE = re.compile(
    r"deadlock|database is locked|lock timeout|could not (obtain lock|serialize)|too many clients|QueuePool limit"
    r"|remaining connection slots|Traceback",
    re.IGNORECASE,
)
PROGRAM = 'inputs = ["$DATA/in"]\noutput = "$DATA/{name}"\nband = "f770w"\n{more}[settings]\nfigures = "none"\n'


@pytest.fixture
def deployed(observatory, exposures, tmp_path):  # noqa: ARG001 - the programs read them
    """The observatory, with the programs `one` and `two` and the sweep `many`."""
    folder = tmp_path / "deployments" / "programs"
    folder.mkdir(parents=True)
    for name in ("one", "two"):
        (folder / f"{name}.toml").write_text(PROGRAM.format(name=name, more=""))
    grid = "\n[grid]\nrms_sig_limit = [1.5, 2.0]\nweight_method = ['equal', 'npix']\n"
    (folder / "many.toml").write_text(PROGRAM.format(name="many", more="") + grid)
    done = observatory.server.cli("deploy", "--programs", str(folder), DATA=str(tmp_path / "data"))
    assert done.returncode == 0, done.stderr
    return observatory


def test_two_programs_and_a_sweep_at_once(deployed, tmp_path):
    server = deployed.server
    started = [server.start(name) for name in ("level_match/one", "level_match/two", "sweep/many")]
    with deployed.worker():
        ends = [server.ended(flow_run)["state"] for flow_run in started]
        assert [state["type"] for state in ends] == ["COMPLETED"] * 3, ends
        # seven flow runs: two programs, the sweep and its four combinations; the server tells of task runs with a delay
        runs = server.runs()
        assert [run["state"]["type"] for run in runs] == ["COMPLETED"] * 7
        server.wait_for(lambda: all_done(server, runs), "the end of all task runs")

    for name in ("one", "two"):
        assert (tmp_path / "data" / name / "run.json").is_file()
    ranking = json.loads((tmp_path / "data" / "many" / "ranking.json").read_text())
    assert len(ranking["rows"]) == 4

    client = MlflowClient(deployed.tracking)
    found = {
        name: client.search_runs([client.get_experiment_by_name(name).experiment_id]) for name in ("one", "two", "many")
    }
    assert {name: len(each) for name, each in found.items()} == {"one": 1, "two": 1, "many": 4}
    recorded = [run for each in found.values() for run in each]
    assert {run.info.status for run in recorded} == {"FINISHED"}
    assert len({run.data.tags["prefect.flow_run_id"] for run in recorded}) == 6
    assert all(run.data.metrics["exposures_unmatched"] == 0 for run in recorded)
    everything = client.search_runs([each.experiment_id for each in client.search_experiments()])
    assert len(everything) == 6

    asked = f"{deployed.tracking}/ajax-api/3.0/mlflow/assistant/message"
    assert refusal_of(urllib.request.Request(asked, b"{}")) == 403  # noqa: S310 - http on loopback
    for foreign in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        asked = urllib.request.Request(f"{server.url}/flow_runs/filter", b"{}", foreign)  # noqa: S310 - as above
        assert refusal_of(asked) == 403

    logs = {file.name: file.read_text(errors="replace") for file in deployed.logs.iterdir()}
    assert set(logs) == {"postgres.log", "prefect.log", "mlflow.log", "worker.log"}
    trouble = [f"{name}: {line}" for name, text in logs.items() for line in text.splitlines() if TROUBLE.search(line)]
    assert not trouble
    lines = server.ask("POST", "/logs/filter", {"logs": {"level": {"ge_": 40}}})
    assert not [line["message"] for line in lines]


def refusal_of(asked):
    """Return the status with which a server refuses a request."""
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(asked, timeout=30)  # noqa: S310 - http on loopback
    refused.value.close()
    return refused.value.code


def all_done(server, runs):
    tasks = [task for run in runs for task in server.tasks(run["id"])]
    # a program has 4 cutouts, 3 measures, 3 solves, 2 stacks, 1 sky, 4 files and 1 mosaic at least
    return len(tasks) >= 6 * 18 and {task["state"]["type"] for task in tasks} == {"COMPLETED"}
