"""Old records go, but never the last good one of a program."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import UUID

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType
from prefect.client.schemas.objects import FlowRun, StateType

from flows.retention import flow_runs, sweeps

NOW = datetime(2026, 11, 29, tzinfo=UTC)
BEFORE = (NOW - timedelta(days=30)).timestamp()


def ended(days, name="Completed", *, program="m33", output="/out/m33", flow=1):
    """Return a flow run that ended some days ago."""
    kind = StateType.COMPLETED if name in {"Completed", "Doubtful", "Incomplete"} else StateType.FAILED
    return FlowRun(
        flow_id=UUID(int=flow),
        name=f"{days} {name}",
        state_type=kind,
        state_name=name,
        end_time=NOW - timedelta(days=days),
        parameters={"program": program, "output": output},
    )


def names(runs):
    return [run.name for run in runs]


@pytest.mark.parametrize(
    ("runs", "old", "kept"),
    [
        ([ended(1), ended(40)], ["40 Completed"], []),
        ([ended(40), ended(50)], ["50 Completed"], ["40 Completed"]),
        ([ended(40, "Quarantined"), ended(50), ended(60)], ["40 Quarantined", "60 Completed"], ["50 Completed"]),
        # what is doubtful is kept as the last, and the last that is not, too
        ([ended(1, "Doubtful"), ended(40), ended(50)], ["50 Completed"], ["40 Completed"]),
        ([ended(40, "Doubtful"), ended(50), ended(60)], ["60 Completed"], ["40 Doubtful", "50 Completed"]),
        ([ended(1, "Crashed"), ended(40)], [], ["40 Completed"]),
        # each output of a program, each program and each flow is one of its own
        ([ended(1), ended(40, output="/out/m33@trial-a")], [], ["40 Completed"]),
        ([ended(1), ended(40, program="m31")], [], ["40 Completed"]),
        ([ended(1), ended(40, flow=2)], [], ["40 Completed"]),
        ([], [], []),
    ],
)
def test_the_last_good_run_of_a_program_stays(runs, old, kept):
    for order in (runs, runs[::-1]):
        found = flow_runs.old_flow_runs(order, BEFORE)
        assert (names(found.old), names(found.kept)) == (old, kept)


def record(days, status="FINISHED"):
    """Return an MLflow run that ended some days ago; None for one that goes on."""
    end = None if days is None else (NOW - timedelta(days=days)).timestamp() * 1000
    return SimpleNamespace(info=SimpleNamespace(run_id=f"{days} {status}", status=status, end_time=end))


@pytest.mark.parametrize(
    ("of", "old", "kept"),
    [
        ({("1", "a"): [record(40), record(41)], ("1", "b"): [record(1)]}, ["40 FINISHED", "41 FINISHED"], ()),
        ({("1", "a"): [record(40)], ("1", "b"): [record(50)]}, ["50 FINISHED"], ("a",)),
        # of which nothing came is not the last good one
        ({("1", "a"): [record(40, "FAILED")], ("1", "b"): [record(50)]}, ["40 FAILED"], ("b",)),
        ({("1", "a"): [record(1)], ("2", "b"): [record(50)]}, [], ("b",)),
        ({("1", "a"): [record(40), record(None, "RUNNING")], ("1", "b"): [record(50)]}, ["50 FINISHED"], ()),
        ({("1", "a"): [record(40), record(20)]}, [], ()),
    ],
)
def test_the_last_sweep_of_a_program_that_has_a_result_stays(of, old, kept):
    found = sweeps.outdated(of, BEFORE)
    assert [run.info.run_id for run in found.runs] == old
    assert found.kept == kept


@pytest.mark.slow
def test_sweeps_that_go_leave_neither_rows_nor_files(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(uri)
    experiment = client.create_experiment("m33", artifact_location=(tmp_path / "artifacts").as_uri())
    ids = {}
    for name, days, tags in (("old", 50, {"sweep_id": "a"}), ("new", 40, {"sweep_id": "b"}), ("program", 60, {})):
        run = client.create_run(experiment, tags=tags)
        ids[name] = run.info.run_id
        client.log_text(run.info.run_id, name, "note.txt")
        end = (NOW - timedelta(days=days)).timestamp() * 1000
        client.set_terminated(run.info.run_id, end_time=int(end))
    found = sweeps.old_sweeps(uri, BEFORE)
    assert [run.info.run_id for run in found.runs] == [ids["old"]]
    assert sweeps.delete_runs(uri, found.runs) == ""
    left = client.search_runs([experiment], run_view_type=ViewType.ALL)
    assert {run.info.run_id for run in left} == {ids["new"], ids["program"]}
    assert {path.read_text() for path in (tmp_path / "artifacts").rglob("note.txt")} == {"new", "program"}
