"""A broken file, mended, and Retry of the same flow run: through the API, and by clicking in a real browser."""

import json
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium")


@pytest.fixture
def broken(prefect_server, programs, exposures, tmp_path, worker):
    """A flow run that ended Quarantined; what mends its file."""
    file = min(exposures.glob("*.fits"))
    whole = file.read_bytes()
    file.write_bytes(whole[:5000])
    done = prefect_server.cli("deploy", "--programs", str(programs), DATA=str(tmp_path / "data"))
    assert done.returncode == 0, done.stderr
    flow_run = prefect_server.start("level_match/small", program=tmp_path.name)
    run = prefect_server.ended(flow_run)
    assert worker.poll() is None
    assert run["state"]["type"] == "FAILED"
    assert run["state"]["name"] == "Quarantined"
    assert file.name in run["state"]["message"]
    assert (
        "truncated" in run["state"]["message"]
        or "NotFits" in run["state"]["message"]
        or "bytes" in run["state"]["message"]
    )
    return flow_run, lambda: file.write_bytes(whole), file.name


def record(tmp_path):
    return json.loads((tmp_path / "data" / "out" / "run.json").read_text())


def mlflow_runs(server, program):
    client = MlflowClient(f"sqlite:///{server.environ['LEVELMATCH_HOME']}/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name(program)
    return client, client.search_runs([experiment.experiment_id])


def check_whole(server, flow_run, tmp_path, name):
    """Hold what a retry of a mended run must have done."""
    assert record(tmp_path)["partial"] is False
    assert (tmp_path / "data" / "out" / "tiles" / name).is_file()
    run = server.ask("GET", f"/flow_runs/{flow_run}")
    assert run["state"]["type"] == "COMPLETED", run["state"]
    assert run["run_count"] == 2
    client, runs = mlflow_runs(server, tmp_path.name)
    assert len(runs) == 1
    assert runs[0].info.status == "FINISHED"
    assert runs[0].data.tags["levelmatch.partial"] == "false"
    for metric in runs[0].data.metrics:
        steps = [each.step for each in client.get_metric_history(runs[0].info.run_id, metric)]
        assert len(steps) == len(set(steps)), metric


def second_try(server, flow_run):
    """Return the task runs of the second try, once the server shows them: (name, whether it was executed)."""

    def shown():
        found = [task for task in server.tasks(flow_run) if task["flow_run_run_count"] == 2]
        # 4 cutouts, 3 measures, 3 solves, 2 stacks, 1 sky, 4 files, 1 mosaic at least
        return found if len(found) >= 18 and all(task["state"]["type"] == "COMPLETED" for task in found) else None

    found = server.wait_for(shown, "the second try's task runs")
    return [(task["name"], task["state"]["name"] == "Completed") for task in found]


def test_a_mended_file_and_retry_through_the_api(prefect_server, broken, tmp_path):
    flow_run, mend, name = broken
    assert record(tmp_path)["partial"] is True
    found = prefect_server.ask("POST", "/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [flow_run]}}})
    tables = [each for each in found if each["type"] == "table" and each["key"].endswith("left-out")]
    assert len(tables) == 1
    row = json.loads(tables[0]["data"])[0]
    assert row["name"] == name
    assert row["reason"]
    mend()
    prefect_server.retry(flow_run)
    prefect_server.ended(flow_run, tries=2)
    check_whole(prefect_server, flow_run, tmp_path, name)
    tasks = second_try(prefect_server, flow_run)
    tile = name[:19]  # jw01234001001_02101
    others = [executed for task, executed in tasks if task.startswith("jw") and not task.startswith(tile)]
    assert len(others) >= 8
    assert not any(others)
    assert [executed for task, executed in tasks if task == name] == [True, True]  # its cutout and its file
    assert any(not executed for task, executed in tasks if task.startswith(tile) and task != name)  # its twin's cutout


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: install Debian's package")
def test_a_mended_file_and_retry_clicked_in_the_ui(prefect_server, broken, tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    flow_run, mend, name = broken
    mend()
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync"
    shots = Path(tmp_path, "shots")
    shots.mkdir()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags.split())
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(90_000)
        page.goto(f"{prefect_server.url.removesuffix('/api')}/v2/runs/flow-run/{flow_run}")
        page.get_by_text("Quarantined").first.wait_for()
        page.screenshot(path=shots / "quarantined.png")
        page.get_by_role("button", name="Open menu").first.click()
        page.get_by_role("menuitem", name="Retry").click()
        page.get_by_role("alertdialog").get_by_role("button", name="Retry").click()
        mended = prefect_server.ended(flow_run, tries=2)
        assert mended["state"]["type"] == "COMPLETED"
        page.get_by_text("Completed").first.wait_for()
        page.screenshot(path=shots / "mended.png")
        browser.close()
    check_whole(prefect_server, flow_run, tmp_path, name)
