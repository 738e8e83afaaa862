"""Jobs as task runs: what is cached, what is done again, what is retried, what is quarantined."""

import errno
import json
import logging
import os
import re
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
from levelmatch_core.jobs.inputs import lost_inputs
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
    """Return the states of a flow run's task runs by name, once the server shows so many."""
    return {run.name: run.state.name for run in task_runs(flow_run_id, expected)}


def task_runs(flow_run_id, expected):
    """Return a flow run's task runs, once the server shows so many that have ended (it shows them late)."""
    deadline = time.monotonic() + 30
    with get_client(sync_client=True) as client:
        while True:
            runs = client.read_task_runs(flow_run_filter=FlowRunFilter(id={"any_": [UUID(flow_run_id)]}))
            if len(runs) >= expected and all(run.state and run.state.is_final() for run in runs):
                return runs
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
    assert task_states(flow_run, 2) == {"make: tile 1": "Cached", "make: tile 2": "Cached"}


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
    ends = dict(zip(range(1, 5), ("Completed", "Failed", "Failed", "Completed"), strict=True))
    assert states == {f"make: tile {number}": end for number, end in ends.items()}


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


# -- what Prefect's pages show -----------------------------------------------------------------------------------------
class LinkJob(MakeJob):
    """Reads what others made."""

    place_: tuple[str, str]
    reads_: tuple[str, ...] = ()

    @property
    def place(self) -> tuple[str, str]:
        return self.place_

    @property
    def reads(self) -> tuple[str, ...]:
        return self.reads_

    def told(self, result: Made) -> str:
        return f"{result.number} is made\nof {len(self.reads_)}"


def link(number: int, makes: tuple[str, ...], reads: tuple[str, ...] = (), stage: str = "") -> LinkJob:
    place = (f"tile {number}", f"{stage} make".strip())
    label, settings = f"tile {number}", MatchSettings()
    return LinkJob(label=label, exposures=makes, settings=settings, number=number, place_=place, reads_=reads)


def test_a_task_run_is_named_by_stage_and_tile_waits_for_what_it_reads_and_says_what_it_did(workspace, caplog):
    calls = [
        [link(1, ("a",)), link(2, ("b", "c"))],
        [link(3, ("a", "b"), ("a", "b"), "dithers"), link(4, ("b",), ("b",), "dithers")],
        [link(5, (), ("b", "elsewhere"), "mosaic_tiles"), link(6, (), ("c",))],
    ]
    found = []

    @flow(name="trial")
    def trial() -> None:
        with ThreadPoolTaskRunner(max_workers=2) as task_runner:
            each = PrefectEach(workspace, task_runner, retry_delays=(0.01,))
            for jobs in calls:
                each(jobs, "trial")
            found.append(runtime.flow_run.id)

    trial()
    runs = {run.name: run for run in task_runs(found[0], 6)}
    names = {run.id: name.rpartition(" ")[2] for name, run in runs.items()}
    inputs = {
        name: {names[one.id] for given in run.task_inputs.values() for one in given} for name, run in runs.items()
    }
    assert inputs == {
        "make: tile 1": set(),
        "make: tile 2": set(),
        "dithers, make: tile 3": {"1", "2"},
        "dithers, make: tile 4": {"2"},  # and not of the call that it is in
        "mosaic_tiles, make: tile 5": {"3", "4"},
        "make: tile 6": {"2"},
    }
    assert re.fullmatch(r"3 is made\\nof 2 \(\S+ s\)", runs["dithers, make: tile 3"].state.message)
    lines = [record.getMessage() for record in caplog.records if record.name == "prefect.task_runs"]
    assert any(line.startswith("[tile 3, dithers make] 3 is made\\nof 2 (") for line in lines), lines


def test_files_that_cannot_be_read_are_failed_task_runs_of_their_tiles_without_traceback(workspace, caplog):
    failures = [
        Failure(
            name=f"{name}.fits", step="inventory", error="NotFitsError", reason=f"{name}.fits: truncated", tiles=(tile,)
        )
        for name, tile in (("a", "north"), ("b", "south"), ("c", "north"))
    ]
    results, _, flow_run = in_flow(workspace, lost_inputs(failures, MatchSettings()))
    assert [result.error for result in results] == ["LostInputError"] * 2
    runs = {run.name: run.state for run in task_runs(flow_run, 2)}
    assert {name: state.name for name, state in runs.items()} == {
        "inventory: north": "Failed",
        "inventory: south": "Failed",
    }
    assert runs["inventory: north"].message.endswith("a.fits is left out: truncated; c.fits is left out: truncated")
    assert not [record for record in caplog.records if record.exc_info]
    many = [Failure(name=f"{n}.fits", step="inventory", error="NotFitsError", reason="bad") for n in range(300)]
    shared = lost_inputs(many, MatchSettings())
    assert len(shared) == 101
    assert sum(len(each.failures) for each in shared) == 300


@pytest.mark.parametrize("retry_delays", [(), (0.01,)])
def test_an_error_of_a_disk_has_no_traceback_in_the_log(workspace, caplog, retry_delays):
    @flow(name="trial")
    def trial() -> None:
        with ThreadPoolTaskRunner(max_workers=2) as task_runner:
            PrefectEach(workspace, task_runner, retry_delays=retry_delays)([job(1, "flaky"), job(2, "bad data")], "t")

    trial()
    assert "Input/output error" in caplog.text
    assert "Traceback" not in caplog.text


def test_what_a_run_with_other_inputs_replaced_is_made_again_without_a_word(home, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    only, out, told = job(1, "writes"), tmp_path / "out", []
    for content in (None, "of another run", "of nobody"):
        with OutputFolder.open(out, MatchSettings(), ()) as folder:
            if content == "of another run":
                folder.write("tile 1.txt", lambda path: path.write_text("of another run"))
        if content == "of nobody":
            (out / "tile 1.txt").write_text(content)
        caplog.clear()
        with OutputFolder.open(out, MatchSettings(), ()) as folder:
            _, each, _ = in_flow(Workspace(CutoutStore(home.cutouts), folder), [only])
        assert each.executed == {"make": 1}
        assert (out / "tile 1.txt").read_text() == "tile 1"
        told.append("missing or was altered" in caplog.text)
    assert told == [False, False, True]


# -- tiles -------------------------------------------------------------------------------------------------------------
class ShotJob(MakeJob):
    """One of several exposures of a tile."""

    tile: str
    active: ClassVar[list[int]] = []
    most: ClassVar[list[int]] = []
    pair: ClassVar[list[threading.Barrier]] = []

    @property
    def bundle(self) -> str:
        return self.tile

    def run(self, workspace: Workspace) -> Made:
        with self.guard:
            self.active.append(self.number)
            self.most.append(len(self.active))
        for barrier in self.pair:
            barrier.wait(60)
        time.sleep(0.01)
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
    assert task_states(flow_run, 3) == dict.fromkeys(("make: north", "make: south", "make: east"), "Completed")


def test_a_bad_exposure_costs_itself_and_not_its_tile(workspace):
    jobs = [shot(1, "north"), shot(2, "north", "bad data"), shot(3, "north")]
    results, each, flow_run = in_flow(workspace, jobs)
    assert [results[0].number, results[1].exposures, results[2].number] == [1, ("e2",), 3]
    assert each.failed == {"make": 1}
    states = task_states(flow_run, 4)
    ends = {"north": "Failed", "shot 1": "Completed", "shot 2": "Failed", "shot 3": "Completed"}
    assert states == {f"make: {name}": end for name, end in ends.items()}


def test_workers_share_a_tile_and_are_no_more_than_they_should_be(workspace, monkeypatch):
    ShotJob.most.clear()
    pool = Threads(2)
    with monkeypatch.context() as patched:
        patched.setattr(ShotJob, "pair", [threading.Barrier(2)])  # each waits for another one
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
