"""What a person sees, in a real browser over `levelmatch ui`: both UIs' pages, and the form of a deployment.

Screenshots lie in the test's folder, to be looked at.
"""

import json
import re
from urllib.parse import quote

import pytest

from levelmatch_core.simulate import SimulatedProgram, simulate
from tests.browser import chromium

pytestmark = pytest.mark.slow

MISSING = re.compile(r"/(favicon\.ico|failed\.svg|ajax-api/2\.0/mlflow/users/current)$")
"""What the UIs ask their servers for and do not get, of themselves."""


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture
def page(browser):
    """A page whose scripts must not fail; what a server did not give it is kept in `page.refused`."""
    opened = browser.new_page(viewport={"width": 1400, "height": 1300})
    opened.set_default_timeout(60_000)
    opened.refused, errors = [], []
    opened.on("pageerror", lambda error: errors.append(str(error)))

    def answered(response):
        if response.status >= 400 and response.url.startswith("http://127.0.0.1") and not MISSING.search(response.url):
            opened.refused.append(f"{response.status} {response.url}")

    opened.on("response", answered)
    yield opened
    opened.close()
    assert not [error for error in errors if "ResizeObserver loop" not in error]
    assert not [answer for answer in opened.refused if answer.startswith("5")]


@pytest.fixture(scope="module")
def runs(uis, tmp_path_factory):
    """Two runs of one program, one of whose files is broken, under two rejection limits: their MLflow runs."""
    folder = tmp_path_factory.mktemp("orion")
    simulate(folder / "in", SimulatedProgram(instrument="miri", tiles=(2, 2), dithers=3, size=96))
    broken = max((folder / "in").glob("*.fits"))
    broken.write_bytes(broken.read_bytes()[:5000])
    found = []
    for limit in ("1.0", "3.0"):
        words = [
            "run",
            str(folder / "in"),
            "--output",
            str(folder / limit),
            "--program",
            "Orion bar",
            "--band",
            "f770w",
        ]
        done = uis.server.cli(*words, "--preset", "pjpipe", "--set", f"rms_sig_limit={limit}")
        assert done.returncode == 3, done.stderr
        found.append(json.loads((folder / limit / "log.json").read_text())["mlflow_run"])
    return found


def see(page, address, shot, *texts):
    """Open an address, wait for all texts, take a picture, and return what can be read."""
    page.goto(address)
    for text in texts:
        page.get_by_text(text).first.wait_for()
    page.wait_for_timeout(1000)  # graphs draw themselves
    page.screenshot(path=shot)
    return page.inner_text("body")


def test_a_flow_run_with_its_log_and_artifacts(page, uis, runs, tmp_path):
    assert len(runs) == 2
    last, first = uis.server.runs()
    assert {last["name"], first["name"]} == {"Orion bar f770w"}
    where = f"{uis.prefect}/v2/runs/flow-run/{first['id']}"
    text = see(page, f"{where}?tab=Logs", tmp_path / "prefect-log.png", "Quarantined", "is left out")
    assert re.search(r"\[jw\w+_mirimage, dithers solve\] \d of \d pairs are used", text)
    assert "Finished in state Completed()" not in text
    kinds = ("summary", "rejected-pairs", "left-out", "mlflow")
    see(page, f"{where}?tab=Artifacts", tmp_path / "prefect-artifacts.png", *(f"orion-bar-{kind}" for kind in kinds))
    made = uis.server.ask("POST", "/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [first["id"]]}}})
    by_key = {each["key"]: f"{uis.prefect}/v2/artifacts/artifact/{each['id']}" for each in made}

    see(page, by_key["orion-bar-summary"], tmp_path / "prefect-summary.png", "11 of 12 exposures are matched, 1 failed")
    picture = page.get_by_role("img", name="f770w before and after")
    assert picture.evaluate("image => image.complete && image.naturalWidth > 200")
    assert (
        page.get_by_role("link", name=f"run {runs[0]}").get_attribute("href").endswith("workflowType=machine_learning")
    )
    see(page, by_key["orion-bar-rejected-pairs"], tmp_path / "prefect-rejected.png", "overlap too short", "reason")
    see(page, by_key["orion-bar-left-out"], tmp_path / "prefect-left-out.png", "truncated or damaged")


def test_mlflow_tells_the_verdict_and_compares_runs(page, uis, runs, tmp_path):
    experiment = f"{uis.mlflow}/#/experiments/1"
    pages = "workflowType=machine_learning"
    text = see(page, f"{experiment}/runs/{runs[0]}?{pages}", tmp_path / "mlflow-run.png", "Metrics (", "Description")
    assert "11 of 12 exposures are matched, 1 failed; f770w: overlaps differ by" in text
    assert "residual_rms_after" in text
    assert "levelmatch.unit" in text
    assert not re.search(r"\b(nan|inf|infinity)\b", text, re.IGNORECASE)
    see(page, f"{experiment}/runs?{pages}", tmp_path / "mlflow-runs.png", "Sky levels of overlapping exposures")
    link = page.get_by_role("link", name="Compare them").first.get_attribute("href")
    page.goto("about:blank")  # it opens in a new tab
    text = see(page, f"{uis.mlflow}/{link}", tmp_path / "mlflow-columns.png", "a shared view")
    assert re.search(r"Duration\s+grade\s+pairs_used\s+residual_in_sigmas", text)
    chosen = quote(json.dumps(runs, separators=(",", ":")))
    compare = f"{uis.mlflow}/#/compare-runs?runs={chosen}&experiments={quote(json.dumps(['1']))}&{pages}"
    text = see(page, compare, tmp_path / "mlflow-compare.png", "Comparing 2 Runs", "rms_sig_limit")
    assert "dithers.residual_rms_after" in text
    assert "NaN" not in text  # what MLflow shows for a metric that only one of them has


def test_the_form_describes_the_settings_and_refuses_a_wrong_value(page, uis, programs, tmp_path):
    done = uis.server.cli("deploy", "--programs", str(programs), DATA=str(tmp_path / "data"))
    assert done.returncode == 0, done.stderr
    deployment = uis.server.ask("GET", "/deployments/name/level_match/small")["id"]
    where = f"{uis.prefect}/v2/deployments/deployment/{deployment}/run"
    text = see(page, where, tmp_path / "form.png", "Threshold of source masks and limit of all sigma-clipping")
    assert "Files, and folders that are searched for FITS files; also s3://" in text
    assert "Weight of a pair: every pair the same" in text
    page.get_by_label("Sigma (Optional)", exact=True).fill("-1")
    page.get_by_role("button", name="Submit").click()
    page.get_by_text("Validation failed for field 'settings.sigma'").wait_for()
    page.screenshot(path=tmp_path / "form-refused.png")
    assert "less than or equal to the minimum of 0" in page.inner_text("body")
    assert not uis.server.runs(deployment_id={"any_": [deployment]})


def test_both_pages_load(page, uis, tmp_path):
    see(page, uis.prefect, tmp_path / "prefect.png", "Dashboard", "Deployments")
    see(page, uis.mlflow, tmp_path / "mlflow.png", "Experiments")
    # but MLflow's assistant, which would run commands for whoever reaches its port
    assert not [answer for answer in page.refused if "/mlflow/assistant/" not in answer]
