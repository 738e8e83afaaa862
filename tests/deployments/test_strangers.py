"""Pages of other sites, in a real browser, against `levelmatch ui`: what got through before, and what must not."""

import http.server
import json
import threading
import urllib.parse
from dataclasses import dataclass

import pytest
from astropy.io import fits

from levelmatch_core.simulate import SimulatedProgram, simulate
from tests.browser import chromium

pytestmark = pytest.mark.slow


@pytest.fixture
def browser():
    # a name whose address its owner chooses: DNS rebinding
    with chromium("--host-resolver-rules=MAP evil.example 127.0.0.1") as opened:
        yield opened


@dataclass
class Elsewhere:
    """Another origin on this machine: its port, and what it was asked for. Whatever that is, it is an empty page."""

    port: int
    asked: list[str]


@pytest.fixture
def elsewhere():
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<html><body>hello</body></html>")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Elsewhere(server.server_address[1], asked)
    server.shutdown()
    server.server_close()


SEND = """async ([address, method, body, type]) => {
    const given = body === null ? undefined : new Blob([body], type === null ? {} : {type});
    try {
        const answer = await fetch(address, {method, body: given, mode: 'no-cors'});
        return answer.type;
    } catch (error) { return 'blocked'; }
}"""

READ = "async address => { try { return await (await fetch(address)).text(); } catch (error) { return 'blocked'; } }"

SOCKET = """address => new Promise(done => {
    const socket = new WebSocket(address);
    socket.onopen = () => done('open');
    socket.onerror = () => done('refused');
})"""


def test_no_page_of_another_origin_changes_or_reads_anything(uis, browser, elsewhere):
    flow = uis.server.ask("POST", "/flows/", {"name": "mine"})
    deployment = json.dumps(
        {"name": "evil", "flow_id": flow["id"], "entrypoint": "evil.py:evil", "work_pool_name": None}
    )
    experiment = json.dumps({"name": "evil"})
    own = urllib.parse.urlsplit(uis.prefect).port
    for origin in (f"http://evil.example:{elsewhere.port}", f"http://127.0.0.1:{elsewhere.port}"):
        page = browser.new_page()
        page.goto(origin)
        # a Blob without a type is sent without Content-Type: no browser asks first
        for kind in (None, "text/plain", "application/x-www-form-urlencoded"):
            page.evaluate(SEND, [f"{uis.prefect}/api/deployments/", "POST", deployment, kind])
            page.evaluate(SEND, [f"{uis.prefect}/api/flows/", "POST", json.dumps({"name": "evil"}), kind])
            page.evaluate(SEND, [f"{uis.mlflow}/api/2.0/mlflow/experiments/create", "POST", experiment, kind])
            page.evaluate(SEND, [f"{uis.mlflow}/ajax-api/2.0/mlflow/experiments/create", "POST", experiment, kind])
        for address in (f"{uis.prefect}/api/admin/version", f"{uis.mlflow}/version"):
            assert page.evaluate(READ, address) == "blocked"
        assert page.evaluate(SOCKET, f"ws://127.0.0.1:{own}/api/events/out") == "refused"
        page.close()
    assert uis.server.ask("POST", "/deployments/filter", {}) == []
    assert "evil" not in {each["name"] for each in uis.server.ask("POST", "/flows/filter", {})}
    search = f"{uis.mlflow}/api/2.0/mlflow/experiments/search?max_results=10"
    page = browser.new_page()
    page.goto(uis.mlflow)
    assert "evil" not in page.evaluate(READ, search)


def test_a_name_that_is_led_here_reads_nothing(uis, browser):
    for address, path in ((uis.prefect, "/api/admin/version"), (uis.mlflow, "/version")):
        port = urllib.parse.urlsplit(address).port
        page = browser.new_page()
        answer = page.goto(f"http://evil.example:{port}/")
        assert answer.status == 403
        assert page.evaluate(READ, f"http://evil.example:{port}{path}").startswith("refused: the host")
        page.close()


def test_the_own_pages_work(uis, browser):
    """And the command line, which a token of Prefect's protects from what a page may send."""
    page = browser.new_page()
    refused = []
    page.on("response", lambda answer: refused.append(answer.url) if answer.status == 403 else None)
    port = urllib.parse.urlsplit(uis.prefect).port
    for address in (uis.prefect, f"http://localhost:{port}"):
        page.goto(address)
        page.get_by_text("Dashboard").first.wait_for(timeout=60_000)
        page.wait_for_timeout(2000)
    page.goto(uis.mlflow)
    page.get_by_text("Experiments").first.wait_for(timeout=60_000)
    # but MLflow's assistant, which would run commands for whoever reaches its port
    assert [address for address in refused if "/mlflow/assistant/" not in address] == []
    done = uis.server.prefect("work-pool", "create", "made-by-command", "--type", "process")
    assert done.returncode == 0, done.stderr
    assert uis.server.prefect("work-pool", "inspect", "made-by-command").returncode == 0


def test_pages_about_hostile_data_fetch_nothing(uis, browser, elsewhere, tmp_path):
    """A unit, a program and a file whose names are images of another server, on all pages that show them."""
    image = f"![x](http://127.0.0.1:{elsewhere.port}/i)"
    folder = tmp_path / "in"
    simulate(folder, SimulatedProgram(instrument="miri", tiles=(2, 1), dithers=2, size=96))
    for path in sorted(folder.glob("*.fits")):
        with fits.open(path, mode="update") as opened:
            opened["SCI"].header["BUNIT"] = image
    (folder / f"{'<img src=x>'}_cal.fits").write_bytes(b"SIMPLE  = " + image.encode())
    words = ["run", str(folder), "--output", str(tmp_path / "out"), "--program", f"evil {image} <img src=x>"]
    done = uis.server.cli(*words, "--set", "figures=none", "--set", "min_linear_frac=0.9")
    assert done.returncode in {0, 3}, done.stderr
    log = json.loads((tmp_path / "out" / "log.json").read_text())
    made = uis.server.ask(
        "POST", "/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [log["prefect_flow_run"]]}}}
    )
    assert len(made) >= 3
    page = browser.new_page()
    run = f"{uis.prefect}/v2/runs/flow-run/{log['prefect_flow_run']}"
    for number, address in enumerate(
        (
            *(f"{uis.prefect}/v2/artifacts/artifact/{each['id']}" for each in made),
            *(f"{run}?tab={tab}" for tab in ("Logs", "Artifacts", "Details", "Parameters")),
            f"{uis.mlflow}/#/experiments",
            *(f"{uis.mlflow}/#/experiments/{each}/runs/{log['mlflow_run']}" for each in ("1", "2")),
        )
    ):
        page.goto(address)
        page.wait_for_timeout(2500)
        page.screenshot(path=tmp_path / f"{number}.png")
    assert elsewhere.asked == []
