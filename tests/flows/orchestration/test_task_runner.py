"""Jobs as task runs: what is cached, what is done again, what is retried, what is quarantined."""

import errno
import json
import logging
import os
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import ClassVar
from uuid import UUID

import pytest
from prefect import flow, runtime, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, LogFilter, LogFilterFlowRunId
from prefect.exceptions import SignatureMismatchError
from prefect.task_runners import ThreadPoolTaskRunner

from flows.orchestration.task_runner import BATCHES, MOST_TILES, PrefectEach, _task_of, works_of
from levelmatch_core.errors import NoRoomError, NoUsablePixelsError
from levelmatch_core.images.exposure import Failure
from levelmatch_core.jobs.job import Job, Workspace
from levelmatch_core.process.log_context import logger_of
from levelmatch_core.products.manifest import OutputFile
from levelmatch_core.products.output.folder import OutputFolder
from levelmatch_core.records import Record
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.store import CutoutStore, StoredArray
from levelmatch_core.workers import Threads, shared_out

LOGGER = logger_of("levelmatch_core.jobs.trial")


class Made(Record):
    number: int
    file: OutputFile | None = None
    array: StoredArray | None = None


class MakeJob(Job):
    """Gives a number; some misbehave."""

    step = "make"
    gives = Made
    roles = ("solve",)
    calls: ClassVar[Counter[str]] = Counter()
    guard: ClassVar[threading.Lock] = threading.Lock()

    number: int
    how: str = "well"

    def run(self, workspace: Workspace) -> Made:
        with self.guard:
            self.calls[self.label] += 1
        if self.how == "bad data":
            message = f"{self.label}: every pixel is masked"
            raise NoUsablePixelsError(message)
        if self.how == "bug":
            message = "division by zero"
            raise ZeroDivisionError(message)
        if self.how == "missing":
            raise FileNotFoundError(2, "No such file", self.label)
        if self.how == "talks":
            LOGGER.info("%d is made", self.number)
        if self.how == "flaky" and self.calls[self.label] < 3:
            raise OSError(5, "Input/output error")
        if self.how == "writes":
            return Made(number=self.number, file=workspace.output().write(f"{self.label}.txt", self._write))
        return Made(number=self.number)

    def _write(self, path: Path) -> None:
        path.write_text(self.label)


def job(number: int, how: str = "well", **settings: object) -> MakeJob:
    chosen = MatchSettings.from_mapping(settings)
    return MakeJob(label=f"tile {number}", exposures=(f"e{number}",), settings=chosen, number=number, how=how)


@pytest.fixture
def workspace(home, tmp_path):
    MakeJob.calls.clear()
    with OutputFolder.open(tmp_path / "out", MatchSettings(), ()) as folder:
        yield Workspace(CutoutStore(home.cutouts), folder)


def in_flow(workspace, jobs):
    """Do jobs in a flow run of their own; return results, the runner and the flow run's id."""
    found = []

    @flow(name="trial")
    def trial() -> None:
        with ThreadPoolTaskRunner(max_workers=2) as task_runner:
            each = PrefectEach(workspace, task_runner, retry_delays=(0.01, 0.02))
            found.extend((each(jobs, "trial"), each, runtime.flow_run.id))

    trial()
    return found


def task_states(flow_run_id, expected):
    """Return the states of a flow run's task runs by name, once the server shows so many (it shows them late)."""
    deadline = time.monotonic() + 30
    with get_client(sync_client=True) as client:
        while True:
            runs = client.read_task_runs(flow_run_filter=FlowRunFilter(id={"any_": [UUID(flow_run_id)]}))
            if len(runs) >= expected and all(run.state and run.state.is_final() for run in runs):
                return {run.name: run.state.name for run in runs}
            assert time.monotonic() < deadline, [(run.name, run.state_name) for run in runs]
            time.sleep(0.2)


def test_results_come_in_the_order_of_the_jobs(workspace):
    results, each, _ = in_flow(workspace, [job(number) for number in (3, 1, 2)])
    assert [result.number for result in results] == [3, 1, 2]
    assert each.executed == {"make": 3}
    assert not each.cached


def test_every_step_is_a_task_of_its_own_by_name_and_key():
    products = ("write", "mosaic", "level error", "figures", "report")
    steps = ("cutout", "local sky", "measure", "solve", "stack", "errors", *products)
    tasks = [_task_of(step, (), refresh=False) for step in steps]
    assert [each.name for each in tasks] == list(steps)
    assert [each.task_key.rpartition("-")[0] for each in tasks] == [step.replace(" ", "_") for step in steps]


def test_nothing_to_do_needs_no_task(workspace):
    results, each, _ = in_flow(workspace, [])
    assert results == []
    assert not each.executed


def test_a_second_run_does_nothing_again(workspace):
    jobs = [job(1), job(2)]
    first = in_flow(workspace, jobs)[0]
    results, each, flow_run = in_flow(workspace, jobs)
    assert results == first
    assert each.cached == {"make": 2}
    assert not each.executed
    assert MakeJob.calls == {"tile 1": 1, "tile 2": 1}
    assert task_states(flow_run, 2) == {"tile 1": "Cached", "tile 2": "Cached"}


def test_what_a_job_does_not_read_does_not_matter(workspace):
    in_flow(workspace, [job(1)])
    assert in_flow(workspace, [job(1, max_points=99)])[1].cached == {"make": 1}
    assert in_flow(workspace, [job(1, rms_sig_limit=3.0)])[1].executed == {"make": 1}
    assert in_flow(workspace, [job(1)])[1].cached == {"make": 1}  # changed back


@pytest.mark.parametrize("harm", ["deleted", "altered"])
def test_a_stored_result_without_its_file_is_not_believed(workspace, harm):
    jobs = [job(1, "writes"), job(2, "writes")]
    first = in_flow(workspace, jobs)[0]
    path = workspace.folder.path / "tile 1.txt"
    if harm == "deleted":
        path.unlink()
    else:
        path.write_text("something else")
    results, each, _ = in_flow(workspace, jobs)
    assert results == first
    assert path.read_text() == "tile 1"
    assert each.executed == {"make": 1}
    assert each.cached == {"make": 1}


@pytest.mark.parametrize("content", ["", '{"metadata": {"stor', "not json", '{"metadata": {}, "result": "[{}]"}'])
def test_a_stored_result_that_was_cut_off_is_made_anew(workspace, home, content):
    only = job(1)
    in_flow(workspace, [only])
    stored = home.results / only.key()
    assert stored.exists()
    stored.write_text(content)
    results, each, _ = in_flow(workspace, [only])
    assert results == [Made(number=1)]
    assert each.executed == {"make": 1}
    assert in_flow(workspace, [only])[1].cached == {"make": 1}


def test_a_failed_job_stops_no_other(workspace, caplog):
    jobs = [job(1), job(2, "bad data"), job(3, "bug"), job(4)]
    results, each, flow_run = in_flow(workspace, jobs)
    assert [type(result) for result in results] == [Made, Failure, Failure, Made]
    assert results[1] == Failure(
        name="tile 2",
        step="make",
        error="NoUsablePixelsError",
        reason="tile 2: every pixel is masked",
        exposures=("e2",),
    )
    assert results[2].error == "ZeroDivisionError"
    assert each.failed == {"make": 2}
    assert MakeJob.calls == {f"tile {number}": 1 for number in (1, 2, 3, 4)}  # bad data are not tried again
    unexpected = [
        record for record in caplog.records if record.name == "flows.orchestration.task_runner" and record.exc_info
    ]
    assert len(unexpected) == 1
    assert unexpected[0].exc_info[0] is ZeroDivisionError
    states = task_states(flow_run, 4)
    assert states == {"tile 1": "Completed", "tile 2": "Failed", "tile 3": "Failed", "tile 4": "Completed"}


def test_a_failed_job_is_tried_in_the_next_run(workspace):
    jobs = [job(1), job(2, "bad data")]
    in_flow(workspace, jobs)
    _, each, _ = in_flow(workspace, jobs)
    assert each.cached == {"make": 1}
    assert each.failed == {"make": 1}
    assert MakeJob.calls["tile 2"] == 2


def test_an_input_output_error_is_tried_again(workspace):
    results, each, _ = in_flow(workspace, [job(1, "flaky")])
    assert results == [Made(number=1)]
    assert MakeJob.calls == {"tile 1": 3}
    assert each.executed == {"make": 1}


def test_a_missing_file_is_not_waited_for(workspace):
    (result,), _, _ = in_flow(workspace, [job(1, "missing")])
    assert result.error == "FileNotFoundError"
    assert MakeJob.calls == {"tile 1": 1}


def test_results_are_json_and_no_pickle(workspace, home):
    in_flow(workspace, [job(1), job(2, "bad data"), job(3, "bug")])
    files = [path for path in home.results.rglob("*") if path.is_file()]
    assert len(files) >= 3
    for path in files:
        content = json.loads(path.read_text())
        if "metadata" in content:
            assert content["metadata"]["serializer"]["type"] == "json"
            json.loads(content["result"])


# -- tiles -------------------------------------------------------------------------------------------------------------
class ShotJob(MakeJob):
    """One of several exposures of a tile."""

    tile: str
    active: ClassVar[list[int]] = []
    most: ClassVar[list[int]] = []

    @property
    def bundle(self) -> str:
        return self.tile

    def run(self, workspace: Workspace) -> Made:
        with self.guard:
            self.active.append(self.number)
            self.most.append(len(self.active))
        time.sleep(0.05)
        try:
            return super().run(workspace)
        finally:
            self.active.remove(self.number)


def shot(number: int, tile: str, how: str = "well") -> ShotJob:
    return ShotJob(
        label=f"shot {number}", exposures=(f"e{number}",), settings=MatchSettings(), number=number, how=how, tile=tile
    )


def test_the_exposures_of_a_tile_are_one_task_run(workspace):
    jobs = [shot(1, "north"), shot(2, "south"), shot(3, "north"), shot(4, "east")]
    results, each, flow_run = in_flow(workspace, jobs)
    assert [result.number for result in results] == [1, 2, 3, 4]
    assert each.executed == {"make": 4}
    assert task_states(flow_run, 3) == dict.fromkeys(("north", "shot 2", "shot 4"), "Completed")


def test_a_bad_exposure_costs_itself_and_not_its_tile(workspace):
    jobs = [shot(1, "north"), shot(2, "north", "bad data"), shot(3, "north")]
    results, each, flow_run = in_flow(workspace, jobs)
    assert [results[0].number, results[1].exposures, results[2].number] == [1, ("e2",), 3]
    assert each.failed == {"make": 1}
    states = task_states(flow_run, 4)
    assert states == {"north": "Failed", "shot 1": "Completed", "shot 2": "Failed", "shot 3": "Completed"}


def test_workers_share_a_tile_and_are_no_more_than_they_should_be(workspace):
    ShotJob.most.clear()
    pool = Threads(2)
    done = shared_out(pool, [shot(number, "north") for number in range(6)], workspace)
    assert [each.number for each in done] == list(range(6))
    with ThreadPoolExecutor(3) as callers:
        list(callers.map(lambda tile: shared_out(pool, [shot(n, tile) for n in range(4)], workspace), "abc"))
    assert max(ShotJob.most) == 2
    with pytest.raises(NoUsablePixelsError):
        shared_out(pool, [shot(1, "north"), shot(2, "north", "bad data")], workspace)


# -- batches -----------------------------------------------------------------------------------------------------------
def test_a_new_job_moves_no_other_to_another_batch():
    jobs = [job(number) for number in range(MOST_TILES + 50)]
    before = {done.label: work.label.split(":")[0] for work in works_of(jobs) for done in work.jobs}
    more = [job(9999), *jobs, job(10_000)]
    after = {done.label: work.label.split(":")[0] for work in works_of(more) for done in work.jobs}
    assert before.items() <= after.items()
    assert len(set(after.values())) <= BATCHES


def test_up_to_two_hundred_tiles_are_a_task_each():
    assert [len(work.jobs) for work in works_of([job(number) for number in range(MOST_TILES)])] == [1] * MOST_TILES


def test_a_batch_is_known_by_the_keys_of_its_jobs():
    jobs = [job(number) for number in range(MOST_TILES + 1)]
    works = {work.label: work for work in works_of(jobs)}
    changed = {work.label: work for work in works_of([*jobs[:-1], job(MOST_TILES, rms_sig_limit=3.0)])}
    moved = [label for label in works if works[label].key() != changed[label].key()]
    assert len(moved) == 1
    assert jobs[-1].label in {done.label for done in works[moved[0]].jobs}
    assert len({work.key() for work in works.values()}) == len(works)


@pytest.mark.slow
def test_many_jobs_are_done_in_batches_and_a_bad_one_costs_itself_only(workspace):
    jobs = [job(number) for number in range(MOST_TILES + 20)]
    jobs[7] = job(7, "bad data")
    results, each, _ = in_flow(workspace, jobs)
    assert [result.number for number, result in enumerate(results) if number != 7] == [
        number for number in range(len(jobs)) if number != 7
    ]
    assert results[7].error == "NoUsablePixelsError"
    assert each.failed == {"make": 1}
    again, each, _ = in_flow(workspace, jobs)
    assert again == results
    mates = sum(_bucket(done.label) == _bucket("tile 7") for done in jobs)
    # the batch of the bad one is done again up to it, its other members are looked up one by one
    assert each.cached == {"make": len(jobs) - 1}
    assert max(MakeJob.calls.values()) <= 4
    assert sum(count > 1 for count in MakeJob.calls.values()) <= mates


@pytest.mark.slow
def test_a_batch_is_one_entry_of_prefects_log(workspace):
    logging.getLogger("levelmatch_core").setLevel(logging.INFO)
    jobs = [job(number, "talks") for number in range(MOST_TILES + 1)]
    _, _, flow_run = in_flow(workspace, jobs)
    chosen = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[UUID(flow_run)]))
    deadline = time.monotonic() + 30
    lines = []
    while len(lines) < len(jobs):
        assert time.monotonic() < deadline, lines
        time.sleep(0.2)
        with get_client(sync_client=True) as client:
            entries = [log.message for log in client.read_logs(chosen, limit=200) if log.name == LOGGER.name]
        lines = [line for entry in entries for line in entry.splitlines()]
    assert len(entries) == BATCHES
    assert sorted(lines) == sorted(f"[{each.label}, make] {each.number} is made" for each in jobs)


def _bucket(label):
    return int.from_bytes(sha256(label.encode()).digest()[:4], "big") % BATCHES


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_result_that_cannot_be_stored_is_told_and_a_full_disk_ends_the_run(workspace, monkeypatch, caplog, number):
    def refused(*_, **__):
        raise OSError(number, os.strerror(number), "results")

    monkeypatch.setattr("prefect.results.ResultStore.persist_result_record", refused)
    if number == errno.ENOSPC:
        with pytest.raises(NoRoomError, match="No space left on device; make room and run again"):
            in_flow(workspace, [job(1)])
        return
    results, *_ = in_flow(workspace, [job(1)])
    assert results[0].number == 1
    assert "1 results could not be stored (OSError: [Errno 5] Input/output error: 'results')" in caplog.text


@pytest.mark.parametrize("together", [1, 3])
def test_a_task_run_that_cannot_begin_ends_the_run(workspace, monkeypatch, together):
    """A bug of ours, such as parameters under other names than the task's, would fail as often as it were tried."""
    tried = []

    def misnamed(step, _retry_delays, *, refresh):
        tried.append(refresh)
        assert len(tried) < 10, "it is tried for ever"
        return task(name=step, persist_result=True)(lambda labour: labour)  # no parameter is called so

    monkeypatch.setattr("flows.orchestration.task_runner._task_of", misnamed)
    with pytest.raises(SignatureMismatchError, match="expects parameters"):
        in_flow(workspace, [shot(number, "one tile") for number in range(together)])
    assert tried == [False, True]
