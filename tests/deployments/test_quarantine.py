"""A broken file, mended, and Retry of the same flow run: through the API, and by clicking in a real browser."""

import json
import threading
import zlib
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from mlflow import MlflowClient

from levelmatch_core.products.corrected.verify import verify
from tests.browser import chromium

pytestmark = pytest.mark.slow


REFERENCE = "jw01234001001_02101_mirimage"
"""The tile that the program file names as its zero."""


@dataclass(frozen=True)
class Broken:
    """A flow run that ended Quarantined, and the files that it lacks."""

    flow_run: str
    whole: dict[Path, bytes]
    reason: str

    def mend(self):
        for path, content in self.whole.items():
            path.write_bytes(content)

    @property
    def names(self):
        return {path.name for path in self.whole}


@pytest.fixture
def archive(tmp_path):
    """A web server with the exposures; the address of its folder."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "data" / "in"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(params=["reference"])
def broken(request, prefect_server, programs, tmp_path, worker):
    """One dither of the reference tile not in the archive that the program lists, or all of them broken."""
    small = programs / "small.toml"
    small.write_text(small.read_text() + f'reference = "{REFERENCE}"\n')
    tile = sorted((tmp_path / "data" / "in").glob(f"{REFERENCE[:19]}_*.fits"))
    assert len(tile) == 2
    for file in tile:  # the tests share a store: each has pixels of its own, or it finds another's work done
        with fits.open(file, mode="update") as hdus:
            hdus["SCI"].data += np.float32(zlib.crc32(request.node.name.encode()) % 1000 / 1000)
    files = tile if request.param == "reference" else tile[:1]
    found = {file: file.read_bytes() for file in files}
    if request.param == "reference":
        reason = "truncated"
        for file, whole in found.items():
            file.write_bytes(whole[:5000])
    else:
        pytest.importorskip("aiohttp", reason="no aiohttp: pip install 'levelmatch[remote]'")
        reason = "could not be fetched: it is not there"
        archive = request.getfixturevalue("archive")
        listed = [f"{archive}/{file.name}" for file in sorted((tmp_path / "data" / "in").glob("*.fits"))]
        small.write_text(small.read_text().replace('["$DATA/in"]', json.dumps(listed)))
        files[0].unlink()
    done = prefect_server.cli("deploy", "--programs", str(programs), DATA=str(tmp_path / "data"))
    assert done.returncode == 0, done.stderr
    flow_run = prefect_server.start("level_match/small", program=tmp_path.name)
    run = prefect_server.ended(flow_run)
    assert worker.poll() is None
    assert (run["state"]["type"], run["state"]["name"]) == ("FAILED", "Quarantined")
    assert f"Failed: tile {REFERENCE}: {files[0].name}: {reason}" in run["state"]["message"]
    assert f"{4 - len(files)} of 4 exposures are matched, {len(files)} failed" in run["state"]["message"]
    assert "press Retry" in run["state"]["message"]
    (component,) = record(tmp_path)["fields"][0]["components"]
    if request.param == "reference":
        assert component["provisional"]
        assert component["stands_for"] == REFERENCE
        assert f"{component['reference']}? stands in for {REFERENCE}" in run["state"]["message"]
        headers = [fits.getheader(path, "SCI") for path in (tmp_path / "data" / "out" / "tiles").iterdir()]
        assert {header["LVLREF"] for header in headers} == {f"{component['reference']}?"}
        tags = mlflow_runs(prefect_server, tmp_path.name)[1][0].data.tags
        assert tags["levelmatch.reference"] == f"{component['reference']}?"
        assert tags["levelmatch.partial"] == "true"
        assert "provisional" in tags["mlflow.note.content"]
    else:
        assert (component["reference"], component["provisional"]) == (REFERENCE, False)
    return Broken(flow_run, found, reason)


def record(tmp_path):
    return json.loads((tmp_path / "data" / "out" / "run.json").read_text())


def mlflow_runs(server, program):
    client = MlflowClient(f"sqlite:///{server.environ['LEVELMATCH_HOME']}/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name(program)
    return client, client.search_runs([experiment.experiment_id])


def check_whole(server, broken, tmp_path):
    """Hold what a retry of a mended run must have done."""
    found = record(tmp_path)
    assert found["partial"] is False
    out = tmp_path / "data" / "out"
    (component,) = found["fields"][0]["components"]
    assert (component["reference"], component["provisional"]) == (REFERENCE, False)
    assert [change["provisional"] for change in component["zero_changes"]] == ([True] if len(broken.whole) == 2 else [])
    assert len(list((out / "tiles").iterdir())) == 4
    assert {fits.getheader(path, "SCI")["LVLREF"] for path in (out / "tiles").iterdir()} == {REFERENCE}
    assert not verify(out).mismatches
    run = server.ask("GET", f"/flow_runs/{broken.flow_run}")
    assert run["state"]["type"] == "COMPLETED", run["state"]
    assert run["run_count"] == 2
    client, runs = mlflow_runs(server, tmp_path.name)
    assert len(runs) == 1
    assert runs[0].info.status == "FINISHED"
    assert runs[0].data.tags["levelmatch.partial"] == "false"
    assert runs[0].data.tags["levelmatch.reference"] == REFERENCE
    for metric in runs[0].data.metrics:
        steps = [each.step for each in client.get_metric_history(runs[0].info.run_id, metric)]
        assert len(steps) == len(set(steps)), metric


def check_red(server, broken):
    """Hold that the tile is a failed task run, which says why."""

    def shown():
        return [task for task in server.tasks(broken.flow_run) if task["state"]["type"] == "FAILED"]

    (task,) = server.wait_for(shown, "the failed task run")
    assert task["name"] == f"inventory: {REFERENCE}"
    assert all(f"{name} is left out: {broken.reason}" in task["state"]["message"] for name in broken.names)


def check_log(server, flow_run):
    """Hold that the log blames the file alone: no traceback, no error of Prefect's own, nothing lost."""
    chosen = {"logs": {"flow_run_id": {"any_": [flow_run]}}, "limit": 200}
    server.wait_for(
        lambda: any("Finished in state" in each["message"] for each in server.ask("POST", "/logs/filter", chosen)),
        "the end of the log",
    )
    lines = server.ask("POST", "/logs/filter", chosen)
    text = "\n".join(each["message"] for each in lines)
    for wrong in ("Traceback", "cannot be resolved", "exited with", "missing or was altered"):
        assert wrong not in text
    errors = [each["message"] for each in lines if each["level"] >= 40]
    assert errors
    assert all(f"[{REFERENCE}, inventory]" in message for message in errors), errors


def second_try(server, flow_run):
    """Return the task runs of the second try, once the server shows them: (step, name) -> whether it was executed."""

    def shown():
        found = [task for task in server.tasks(flow_run) if task["flow_run_run_count"] == 2]
        # of two tiles: 2 cutouts, 3 measures, 3 solves, 2 stacks, 2 times files; errors, sky, mosaic, map of errors
        return found if len(found) >= 16 and all(task["state"]["type"] == "COMPLETED" for task in found) else None

    found = server.wait_for(shown, "the second try's task runs")
    return {
        (task["task_key"].rpartition("-")[0], task["name"].partition(": ")[2]): task["state"]["name"] == "Completed"
        for task in found
    }


@pytest.mark.parametrize("broken", ["a dither of an archive", "reference"], indirect=True)
def test_mended_files_and_retry_through_the_api(prefect_server, broken, tmp_path):
    flow_run = broken.flow_run
    assert record(tmp_path)["partial"] is True
    check_red(prefect_server, broken)
    check_log(prefect_server, flow_run)
    found = prefect_server.ask("POST", "/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [flow_run]}}})
    tables = [each for each in found if each["type"] == "table" and each["key"].endswith("left-out")]
    assert len(tables) == 1
    rows = json.loads(tables[0]["data"])
    assert {row["name"] for row in rows} == broken.names
    assert {row["tile"] for row in rows} == {REFERENCE}
    assert all(row["reason"] for row in rows)
    broken.mend()
    prefect_server.retry(flow_run)
    prefect_server.ended(flow_run, tries=2)
    check_whole(prefect_server, broken, tmp_path)
    check_log(prefect_server, flow_run)
    tasks = second_try(prefect_server, flow_run)
    done = {place for place, executed in tasks.items() if executed}
    assert {name for step, name in done if step == "cutout"} == {REFERENCE}
    assert {name for step, name in done if step == "stack"} == {REFERENCE}
    assert {name for step, name in done if step == "measure"} == {REFERENCE, "f770w"}
    # the cards of the other files said that the field is partial, and now say that it is whole
    assert {name for step, name in done if step == "write"} == {name for step, name in tasks if step == "write"}
    others = {(step, name) for step, name in tasks if not name.startswith((REFERENCE[:19], "f770w"))}
    lasting = {(step, name) for step, name in others if step in {"cutout", "measure", "solve", "stack"}}
    assert len(lasting) == 4
    assert not done & lasting


def test_mended_files_and_retry_clicked_in_the_ui(prefect_server, broken, tmp_path):
    shots = Path(tmp_path, "shots")
    shots.mkdir()
    with chromium() as browser:
        broken.mend()
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(90_000)
        page.goto(f"{prefect_server.url.removesuffix('/api')}/v2/runs/flow-run/{broken.flow_run}")
        page.get_by_text("Quarantined").first.wait_for()
        page.screenshot(path=shots / "quarantined.png")
        page.get_by_role("button", name="Open menu").first.click()
        page.get_by_role("menuitem", name="Retry").click()
        page.get_by_role("alertdialog").get_by_role("button", name="Retry").click()
        mended = prefect_server.ended(broken.flow_run, tries=2)
        assert mended["state"]["type"] == "COMPLETED"
        page.get_by_text("Completed").first.wait_for()
        page.screenshot(path=shots / "mended.png")
    check_whole(prefect_server, broken, tmp_path)
