"""An observatory's day: two programs and a sweep, a schedule, a broken exposure, alerts, Retry, a killed worker."""

import json
import shutil
import signal
from contextlib import suppress

import psutil
import pytest
from mlflow import MlflowClient

from levelmatch_core.products.corrected.verify import verify
from levelmatch_core.simulate import SimulatedProgram, simulate
from tests.folders import contents

pytestmark = pytest.mark.full

HEAD = 'inputs = ["$DATA/{name}"]\noutput = "$DATA/{name}-out"\nband = "f770w"\n'
FIGURES = '[settings]\nfigures = "none"\n'
ALERT = (
    '[[alert]]\non = ["quarantined", "failed", "crashed", "late", "incomplete", "doubtful"]\nto = "webhook/loopback"\n'
)
EVENING, DAWN = ("level_match/evening", "level_match/dawn")


@pytest.fixture
def observatory_day(prefect_server, listener, tmp_path):
    """Two programs, of which one comes every minute, and a sweep; the last exposure of `evening` is still to come."""
    data, folder = tmp_path / "data", tmp_path / "deployments" / "programs"
    folder.mkdir(parents=True)
    for seed, (name, tiles, size) in enumerate((("evening", (2, 2), 96), ("dawn", (4, 3), 512)), start=18):
        simulate(data / name, SimulatedProgram(instrument="miri", tiles=tiles, dithers=3, size=size, seed=seed))
    shutil.copytree(data / "evening", data / "sweep")
    texts = {
        "evening": HEAD.format(name="evening") + FIGURES + ALERT,
        "dawn": HEAD.format(name="dawn") + FIGURES + ALERT + "[[schedule]]\ninterval = 60\n",
        "sweep": HEAD.format(name="sweep") + FIGURES + "[grid]\nrms_sig_limit = [1.5, 3.0]\n",
    }
    for name, text in texts.items():
        (folder / f"{name}.toml").write_text(text)
    last = max((data / "evening").glob("*.fits"))
    last.rename(tmp_path / last.name)
    done = prefect_server.cli("deploy", "--programs", str(folder), DATA=str(data))
    assert done.returncode == 0, done.stderr
    dawn = prefect_server.ask("GET", f"/deployments/name/{DAWN}")["id"]
    prefect_server.ask("PATCH", f"/deployments/{dawn}", {"paused": True})  # the night comes first
    return data, tmp_path / last.name, dawn, listener


def test_a_day(prefect_server, observatory_day, mortal_worker, working_in, tmp_path):
    data, last, dawn, listener = observatory_day

    # a new exposure: what was there is not done again
    first = prefect_server.ended(prefect_server.start(EVENING))
    assert first["state"]["type"] == "COMPLETED", first["state"]
    new = data / "evening" / last.name
    shutil.copy(last, new)
    second = prefect_server.ended(prefect_server.start(EVENING))
    assert "12 of 12 exposures are matched" in second["state"]["message"]
    tile = f"{last.name[:19]}_mirimage"
    names = done_again(prefect_server, second["id"], 17)
    assert {name for name in names if name.startswith("cutout")} == {f"cutout: {tile}"}

    # a broken one: two runs are quarantined, and each goes on in its own record
    new.write_bytes(last.read_bytes()[:5000])
    broken = [prefect_server.ended(prefect_server.start(EVENING)) for _ in range(2)]
    assert {run["state"]["name"] for run in broken} == {"Quarantined"}
    assert "11 of 12 exposures are matched, 1 failed" in listener.waits_for("Quarantined")["text"]
    shutil.copy(last, new)
    for run in broken:
        prefect_server.retry(run["id"])
        assert prefect_server.ended(run["id"], tries=2)["state"]["type"] == "COMPLETED"
    records = mlflow_runs(prefect_server, "evening")
    assert len(records) == 4
    assert {one.info.status for one in records} == {"FINISHED"}
    assert len({one.data.tags["prefect.flow_run_id"] for one in records}) == 4
    assert not verify(data / "evening-out").mismatches

    # a sweep
    swept = prefect_server.ended(prefect_server.start("sweep/sweep"))
    assert swept["state"]["type"] == "COMPLETED", swept["state"]
    assert len(json.loads((data / "sweep-out" / "ranking.json").read_text())["rows"]) == 2

    # a worker is killed in mid-run: the run is Crashed, and the next one that the schedule brings goes on
    prefect_server.ask("PATCH", f"/deployments/{dawn}", {"paused": False})
    killed = prefect_server.wait_for(
        lambda: next(
            (run["id"] for run in running_of(prefect_server, dawn) if len(prefect_server.tasks(run["id"])) > 2), None
        ),
        "a scheduled run",
    )
    family = [psutil.Process(mortal_worker.pid), *psutil.Process(mortal_worker.pid).children(recursive=True)]
    assert len(family) > 1
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    mortal_worker.wait(60)
    assert prefect_server.ask("GET", f"/flow_runs/{killed}")["state"]["type"] == "RUNNING"
    crashed = prefect_server.ended(killed)
    assert crashed["state"]["type"] == "CRASHED"
    assert "no heartbeat for 120 s" in crashed["state"]["message"]
    assert listener.waits_for("Crashed")["flow_run"] == killed
    assert listener.waits_for("Late")["program"] == "dawn"  # nobody worked
    with working_in(prefect_server.environ, tmp_path / "second.log"):
        completed = prefect_server.wait_for(
            lambda: prefect_server.runs(deployment_id={"any_": [dawn]}, state={"type": {"any_": ["COMPLETED"]}}),
            "the next scheduled run",
        )
        prefect_server.ask("PATCH", f"/deployments/{dawn}", {"paused": True})
    assert completed[0]["id"] != killed
    words = ["run", str(data / "dawn"), "--output", str(tmp_path / "undisturbed"), "--program", "dawn"]
    done = prefect_server.cli(*words, "--band", "f770w", "--set", "figures=none")
    assert done.returncode == 0, done.stderr
    assert contents(data / "dawn-out") == contents(tmp_path / "undisturbed")


def running_of(server, deployment):
    return server.runs(deployment_id={"any_": [deployment]}, state={"type": {"any_": ["RUNNING"]}})


def done_again(server, flow_run, at_least):
    """Return the names of a flow run's task runs that were executed, once the server shows them."""

    def shown():
        found = server.tasks(flow_run)
        return found if len(found) >= at_least and all(one["state"]["type"] == "COMPLETED" for one in found) else None

    found = server.wait_for(shown, "all task runs")
    return {one["name"] for one in found if one["state"]["name"] == "Completed"}


def mlflow_runs(server, program):
    client = MlflowClient(f"sqlite:///{server.environ['LEVELMATCH_HOME']}/mlflow/mlflow.db")
    return client.search_runs([client.get_experiment_by_name(program).experiment_id])
