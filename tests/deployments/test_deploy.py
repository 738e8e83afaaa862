"""Deployed to a real server, run by a real worker: by hand, by schedule; and what the server refuses."""

import json
import time
import urllib.error
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from numpy.testing import assert_array_equal

from flows.orchestration.program_changes import told_differences
from flows.orchestration.programs import load_programs
from levelmatch_core.pipeline import Request
from levelmatch_core.pipeline import run as match
from levelmatch_core.runners import PlainRunner
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.store import CutoutStore
from tests.folders import contents

pytestmark = pytest.mark.slow


def test_a_missing_variable_or_folder_ends_the_deployment(prefect_server, programs, tmp_path):
    unset = prefect_server.cli("deploy", "--programs", str(programs))
    assert unset.returncode == 2
    assert "the variable DATA is not set" in unset.stderr
    gone = prefect_server.cli("deploy", "--programs", str(programs), DATA=str(tmp_path / "nowhere"))
    assert gone.returncode == 2
    assert "there is no input" in gone.stderr
    assert prefect_server.ask("POST", "/deployments/filter", {"deployments": {"name": {"any_": ["small"]}}}) == []


def test_prefect_itself_refuses_a_missing_variable(prefect_server, programs, tmp_path):
    assert prefect_server.cli("deploy", "--programs", str(programs), "--render").returncode == 0
    words = ["--prefect-file", str(programs.parent / "prefect.yaml"), "--all"]
    done = prefect_server.prefect("deploy", *words)
    assert done.returncode != 0, done.stdout
    assert prefect_server.ask("POST", "/deployments/filter", {"deployments": {"name": {"any_": ["small"]}}}) == []
    assert not (tmp_path / "data" / "out").exists()


@pytest.mark.skipif(
    version("sqlalchemy").startswith("2.1"), reason="Prefect's scheduler needs sqlalchemy<2.1, as pyproject.toml has it"
)
def test_runs_by_hand_and_by_schedule(request, prefect_server, programs, tmp_path):
    (programs / "often.toml").write_text(
        'inputs = ["$DATA/in"]\noutput = "$DATA/often"\nprogram = "often"\n[settings]\nfigures = "none"\n'
        '[[schedule]]\ninterval = 15\ntimezone = "Europe/Berlin"\n'
    )
    done = prefect_server.cli("deploy", "--programs", str(programs), DATA=str(tmp_path / "data"))
    assert done.returncode == 0, done.stderr
    assert "level_match/small: by hand" in done.stdout
    assert "level_match/often: every 15 s Europe/Berlin" in done.stdout
    deployment = prefect_server.ask("GET", "/deployments/name/level_match/small")
    assert deployment["concurrency_limit"] == 1 or deployment["global_concurrency_limit"]["limit"] == 1
    often = prefect_server.ask("GET", "/deployments/name/level_match/often")

    with pytest.raises(urllib.error.HTTPError) as refused:
        prefect_server.start("level_match/small", settings={"sigma": -1})
    assert refused.value.code == 409
    with refused.value as answer:
        assert "sigma" in answer.read().decode()

    request.getfixturevalue("worker")
    by_hand = prefect_server.ended(prefect_server.start("level_match/small"))
    assert by_hand["state"]["type"] == "COMPLETED", by_hand["state"]
    assert by_hand["name"] == "small f770w"
    assert json.loads((tmp_path / "data" / "out" / "run.json").read_text())["program"] == "small"

    deadline = time.monotonic() + 240
    scheduled = []
    while not scheduled and time.monotonic() < deadline:
        time.sleep(1)
        scheduled = prefect_server.runs(deployment_id={"any_": [often["id"]]}, state={"type": {"any_": ["COMPLETED"]}})
    prefect_server.ask("PATCH", f"/deployments/{often['id']}", {"paused": True})
    assert scheduled
    assert scheduled[0]["auto_scheduled"]
    assert (tmp_path / "data" / "often" / "run.json").is_file()


def test_a_deployed_run_is_configured_as_a_command_is(prefect_server, programs, tmp_path, working_in):
    """By a worker that knows nothing of us but where Prefect's server is; its masks of sources are in no product."""
    program = programs / "small.toml"
    program.write_text(program.read_text() + "do_sigma_clip = true\n")  # of which no other test has stored results
    done = prefect_server.cli("deploy", str(program), DATA=str(tmp_path / "data"))  # this file alone
    assert done.returncode == 0, done.stderr
    assert not (programs.parent / "prefect.yaml").exists()
    ours = ("PREFECT_LOCAL_STORAGE_PATH", "PREFECT_HOME", "LEVELMATCH_HOME", "DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY")
    bare = {name: value for name, value in prefect_server.environ.items() if name not in ours}
    home = Path(prefect_server.environ["LEVELMATCH_HOME"])
    before = set((home / "results").rglob("*"))
    deployment = prefect_server.ask("GET", "/deployments/name/level_match/small")
    other = deployment["job_variables"]["env"] | {"LEVELMATCH_DEPLOYED_BY": "0.0.1"}
    prefect_server.ask("PATCH", f"/deployments/{deployment['id']}", {"job_variables": {"env": other}})
    with working_in({**bare, "HOME": str(tmp_path / "user")}, tmp_path / "worker.log"):
        run = prefect_server.ended(prefect_server.start("level_match/small"))
    assert run["state"]["type"] == "COMPLETED", run["state"]
    assert len(set((home / "results").rglob("*")) - before) > 3
    assert not list((tmp_path / "user").rglob("storage/*"))
    chosen = {"logs": {"flow_run_id": {"any_": [run["id"]]}}, "limit": 200}
    lines = prefect_server.wait_for(
        lambda: [each for each in prefect_server.ask("POST", "/logs/filter", chosen) if "levelmatch" in each["name"]],
        "lines of the library in the run's log",
    )
    assert any("dithers solve]" in each["message"] for each in lines)
    assert any(each["task_run_id"] for each in lines)
    assert not any("results are stored in" in each["message"] for each in lines)
    out = tmp_path / "data" / "out"
    for path in sorted((tmp_path / "data" / "in").glob("*.fits")):
        assert_array_equal(*(np.isnan(fits.getdata(one, "SCI")) for one in (path, out / "tiles" / path.name)))
    assert np.isnan(fits.getdata(out / "mosaic_f770w.fits", "SCI")).mean() < 0.1  # what no exposure saw
    logged = [each["message"] for each in prefect_server.ask("POST", "/logs/filter", chosen)]
    assert any("and 0.0.1 deployed the program: install one version everywhere" in message for message in logged)


def test_the_settings_of_a_program_are_those_of_its_file(prefect_server, programs, tmp_path, worker):
    """After an edit and a deployment the output has the new settings; a run with others writes next to it."""
    data = tmp_path / "data"
    program = programs / "small.toml"

    def deployed():
        done = prefect_server.cli("deploy", "--programs", str(programs), DATA=str(data))
        assert done.returncode == 0, done.stderr
        return done.stdout

    def differences():
        # not before what sets the environment that Prefect reads when it is imported
        from prefect.settings import PREFECT_API_URL, temporary_settings  # noqa: PLC0415

        with temporary_settings({PREFECT_API_URL: prefect_server.url}):
            home = prefect_server.environ["LEVELMATCH_HOME"]
            return told_differences(load_programs([programs]), {"DATA": str(data), "LEVELMATCH_HOME": home})

    def run(**parameters):
        flow_run = prefect_server.start("level_match/small", **parameters)
        ended = prefect_server.ended(flow_run)
        assert ended["state"]["type"] == "COMPLETED", ended["state"]
        return flow_run

    deployed()
    run()
    assert worker.poll() is None
    program.write_text(program.read_text().replace("[settings]", "[settings] # ours") + "rms_sig_limit = 3.0\n")
    said = deployed()
    assert "small: rms_sig_limit was 2.0, now 3.0" in said
    assert f"the next run brings {data / 'out'} to these settings: rms_sig_limit was 2.0, now 3.0" in said
    assert "small: nothing changes on the server" in differences()
    second = run()
    assert [line for line in differences() if line.startswith("small:")] == ["small: nothing changes on the server"]
    settings = MatchSettings.from_mapping({"preset": "best", "figures": "none", "band": "f770w", "rms_sig_limit": 3.0})
    request = Request(inputs=(data / "in",), output=tmp_path / "plain", settings=settings, program="small")
    match(request, CutoutStore(tmp_path / "store"), PlainRunner)
    after = contents(data / "out")
    record = json.loads(after.pop("run.json"))
    plain = contents(tmp_path / "plain")
    assert record.pop("settings_before") == {"rms_sig_limit": 2.0}
    expected = json.loads(plain.pop("run.json"))
    assert expected.pop("settings_before") == {}
    assert (record, after) == (expected, plain)
    prefect_server.wait_for(
        lambda: [each for each in prefect_server.tasks(second) if each["state_name"] == "Cached"], "work done before"
    )

    before = contents(data / "out")
    custom = {**prefect_server.ask("GET", "/deployments/name/level_match/small")["parameters"]["settings"], "sigma": 4}
    run(settings=custom)
    assert contents(data / "out") == before
    trial = json.loads((data / "out@trial-sigma=4.0" / "run.json").read_text())
    assert (trial["settings"]["sigma"], trial["settings"]["rms_sig_limit"]) == (4.0, 3.0)
