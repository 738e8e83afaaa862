"""What Prefect's run log holds: the library's lines, each of a job with its tile and stage; and that it can be off."""

import json
import logging
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from uuid import UUID

import pytest
from prefect import flow, get_run_logger, runtime, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

from flows.level_match import level_match
from levelmatch_core.settings import MatchSettings

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("home")]

PLACED = re.compile(r"\[(?P<tile>[^,\]]+), (?P<stage>[^\]]+)\] ")


def lines_of(flow_run, until):
    """Return the lines of a flow run's log, once `until` is among them: (logger, level, text)."""
    chosen = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[UUID(str(flow_run))]))
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with get_client(sync_client=True) as client:
            pages = [client.read_logs(chosen, limit=200, offset=200 * page) for page in range(5)]
        lines = [(log.name, log.level, log.message) for page in pages for log in page]
        if any(until in text for _, _, text in lines):
            return lines
        time.sleep(0.5)
    return pytest.fail(f"no line with {until!r} in the run's log: {lines}")


def test_each_line_of_a_job_names_its_tile_and_stage(small_program, tmp_path):
    logging.getLogger("levelmatch_core").setLevel(logging.DEBUG)
    settings = MatchSettings(figures="none", procs=2)
    state = level_match(inputs=[str(small_program)], output=str(tmp_path / "out"), settings=settings, return_state=True)
    lines = lines_of(state.state_details.flow_run_id, "mosaic: 1 done")
    job_loggers = ("levelmatch_core.jobs.", "prefect.task_runs")
    of_jobs = [text for name, _, text in lines if name.startswith(job_loggers)]
    found = [PLACED.match(text) for text in of_jobs]
    assert all(found), of_jobs
    places = {(each["tile"], each["stage"]) for each in found}
    for tile in ("jw01234001001_02101_mirimage", "jw01234002001_02101_mirimage"):
        assert {
            (tile, stage) for stage in ("cutout", "dithers measure", "dithers solve", "dithers stack", "write")
        } <= places
    assert ("f770w", "mosaic_tiles solve") in places
    assert any("pairs are used; the rms of their differences is" in text for text in of_jobs)
    at_info = [text for _, level, text in lines if level >= logging.INFO]
    assert not [text for text in at_info if "done in" in text and PLACED.match(text)]


def test_retries_name_the_task_run_and_its_end_is_no_line():
    @task(name="cutout", task_run_name="a tile", retries=1, retry_delay_seconds=0)
    def flaky(calls):
        calls.append(0)
        if len(calls) == 1:
            raise OSError(5, "Input/output error")

    @flow
    def trial():
        flaky([])
        get_run_logger().info("the end")
        return str(runtime.flow_run.id)

    texts = [text for name, _, text in lines_of(trial(), "the end") if name == "prefect.task_runs"]
    assert any(text.startswith("[a tile, cutout] Task run failed") and "Retry 1/1" in text for text in texts), texts
    assert not any("Finished in state Completed" in text for text in texts)


def test_by_setting_the_lines_stay_out_of_prefects_log(server, small_program, tmp_path):
    # nor where the session keeps results: what another test has solved is not solved again, and no line says so
    own = ("PREFECT_LOGGING", "PREFECT_LOCAL_STORAGE", "PREFECT_RESULTS")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    environ |= {"PREFECT_API_URL": server, "PREFECT_LOGGING_EXTRA_LOGGERS": ""}
    words = [str(Path(sys.executable).parent / "levelmatch"), "run", str(small_program), "--output"]
    words += [str(tmp_path / "out"), "--set", "figures=none", "--log-level", "info"]
    done = subprocess.run(words, env=environ, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "[jw01234001001_02101_mirimage, dithers solve] 1 of 1 pairs are used" in done.stderr
    flow_run = json.loads((tmp_path / "out" / "log.json").read_text())["prefect_flow_run"]
    names = {name for name, _, _ in lines_of(flow_run, "Finished in state Doubtful")}  # one pair, which nothing tests
    assert not [name for name in names if name.startswith(("levelmatch_core", "flows"))]
