"""Sweeps: the grid, the order of merit, what is shared, and that a bad combination fails alone."""

import json
import math
import os
import signal
import subprocess
import sys

import pytest
from astropy.table import Table
from mlflow import MlflowClient

from flows.commands.sweep import grid_of
from flows.orchestration.quarantine import content_of
from flows.summary import Tracking
from flows.sweep import combinations, folder_of, sweep
from flows.tracking.comparison import LOCAL_UI
from flows.tracking.ranking import Combination, Ranking, compare_address, write_ranking
from levelmatch_core.errors import SettingsError
from levelmatch_core.settings import MatchSettings
from tests.browser import chromium
from tests.servers import await_answer, free_port


def row(seam, *, limit=2.0, used=8, tested=8, left_out=0, failed="", run=""):
    tracking = Tracking(
        store="s", run_id=run, experiment_id="7", url=f"http://127.0.0.1:5000/#/experiments/7/runs/{run}"
    )
    return Combination(
        values={"rms_sig_limit": limit},
        seam=seam,
        used=used,
        tested=tested,
        left_out=left_out,
        failed=failed,
        tracking=tracking if run else None,
    )


def ranking(*rows):
    return Ranking.of("p", "abc", ["rms_sig_limit"], rows, compare_address(rows))


def test_a_choice_that_is_called_none_is_a_value():
    assert grid_of(["figures=none,all"]) == {"figures": ["none", "all"]}


def test_a_grid_is_read_from_the_command_line():
    assert grid_of(["rms_sig_limit=1.5,2", "weight_method=npix, rms", "strict=true,False", "reference=none"]) == {
        "rms_sig_limit": [1.5, 2],
        "weight_method": ["npix", "rms"],
        "strict": [True, False],
        "reference": [None],
    }


@pytest.mark.parametrize("text", ["sigma", "sigma=", "sigma=1,,2"])
def test_a_grid_that_is_none_is_refused(text):
    with pytest.raises(SettingsError, match="NAME=V1,V2"):
        grid_of([text])


def test_a_name_comes_once():
    with pytest.raises(SettingsError, match="sigma was given before"):
        grid_of(["sigma=1", "sigma=2"])


def test_every_combination_comes_once():
    found = combinations({"sigma": [2.0, 3.0], "weight_method": ["rms", "npix"]})
    assert len(found) == 4
    assert len({folder_of(values) for values in found}) == 4
    assert folder_of(found[0]) == "sigma=2.0,weight_method=rms"


@pytest.mark.parametrize("grid", [{}, {"sigma": []}, {"sigmaa": [1]}, {"seed": list(range(501))}])
def test_a_grid_without_sense_is_refused(grid):
    with pytest.raises(SettingsError):
        combinations(grid)


def test_the_best_comes_first_and_the_failed_last():
    rows = [row(0, failed="no"), row(0.0, tested=0), row(1.0), row(0.1, left_out=1), row(0.5), row(0.5, used=9)]
    assert [each.used for each in ranking(*rows).rows[:2]] == [9, 8]
    assert [each.seam for each in ranking(*rows).rows[2:4]] == [1.0, 0.1]
    assert ranking(*rows).rows[-1].failed == "no"
    assert "1 failed: no" in ranking(*rows).verdict
    assert "is 0.5" in ranking(*rows).verdict


def test_ties_are_said_to_be_ties_and_a_setting_without_effect_is_named():
    found = ranking(row(0.5), row(0.5, limit=3.0), row(0.7, limit=4.0))
    assert found.ties == (1, 1, 3)
    assert "1 other ties with it" in found.verdict
    assert "2 = 1" in found.text()
    assert found.without_effect == ()
    same = ranking(row(0.5), row(0.5, limit=3.0))
    assert same.without_effect == ("rms_sig_limit",)
    assert "rms_sig_limit changed nothing" in same.verdict
    assert [each["ties_with"] for each in same.table()] == [1, 1]
    assert ranking(row(0.5)).without_effect == ()  # one value tells nothing


def test_the_compare_address_names_every_run():
    address = compare_address([row(1, run="aa"), row(0, failed="no"), row(2, run="bb")])
    assert address == ("http://127.0.0.1:5000/#/compare-runs?runs=%5B%22aa%22%2C%22bb%22%5D&experiments=%5B%227%22%5D")
    assert not compare_address([row(0, failed="no")])


def test_the_ranking_is_written_as_table_record_and_picture(tmp_path):
    write_ranking(tmp_path, ranking(row(0.5, run="aa"), row(0, limit=1.0, failed="no")))
    table = Table.read(tmp_path / "ranking.ecsv")
    assert list(table["rank"]) == [1, 2]
    assert table["seam_rms_left_out"][0] == 0.5
    assert math.isnan(table["seam_rms_left_out"][1])
    assert json.loads((tmp_path / "ranking.json").read_text())["sweep_id"] == "abc"
    assert (tmp_path / "ranking.png").read_bytes().startswith(b"\x89PNG")


def test_a_ranking_of_failures_alone_can_be_written(tmp_path):
    found = ranking(row(0, failed="no"), row(0, failed="no"))
    write_ranking(tmp_path, found)
    assert "2 failed: no." in found.verdict


@pytest.mark.slow
def test_a_sweep_resamples_once_and_a_bad_combination_fails_alone(home, small_program, tmp_path):
    state = sweep(
        inputs=[str(small_program)],
        output=str(tmp_path / "out"),
        grid={"rms_sig_limit": [2.0, -1.0, 3.0]},
        program="swept",
        settings=MatchSettings(),
        return_state=True,
    )
    assert state.is_failed()
    assert state.name == "Quarantined"
    found = Ranking.from_json(content_of(state))
    assert [bool(each.failed) for each in found.rows] == [False, False, True]
    assert "rms_sig_limit=-1" in found.rows[-1].failed
    assert sum(each.executed.get("cutout", 0) for each in found.rows) == 4
    assert sum(each.executed.get("solve", 0) for each in found.rows) > 4
    client = MlflowClient(home.tracking_uri)
    experiment = client.get_experiment_by_name("swept")
    runs = client.search_runs([experiment.experiment_id], f"tags.sweep_id = '{found.sweep_id}'")
    assert {run.info.run_id for run in runs} == {each.run_id for each in found.rows}
    assert len(runs) == 3
    for run in runs:
        assert "mlflow.parentRunId" not in run.data.tags
        assert run.info.run_id in found.compare
    (failed,) = [run for run in runs if run.info.status == "FAILED"]
    assert failed.info.run_id == found.rows[-1].run_id
    assert failed.info.run_name.startswith("rms_sig_limit=-1.0, swept 20")  # combination, program, time
    assert "rms_sig_limit=-1" in failed.data.tags["levelmatch.failed"]
    assert r"rms\_sig\_limit=-1" in failed.data.tags["mlflow.note.content"]
    assert failed.data.params["rms_sig_limit"] == "-1.0"
    assert not failed.data.metrics
    for run in runs:
        if run is not failed:  # each pair of so few tiles is a bridge, that no other foretells
            assert run.data.metrics["pairs_predicted"] == 0
            assert run.data.metrics["residual_rms_after"] >= 0
    check_compare_page(home, found, tmp_path)


def check_compare_page(home, found, tmp_path):
    """Open the printed address in a real browser, over a real MLflow server: all runs are selected and shown."""
    port = free_port()
    words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", home.tracking_uri, "--default-artifact-root", home.artifacts.as_uri()]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # as `levelmatch ui` has it
    with (tmp_path / "mlflow.log").open("wb") as log:
        server = subprocess.Popen(words, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        await_answer(server, f"http://127.0.0.1:{port}/health")
        with chromium() as browser:
            page = browser.new_page(viewport={"width": 1500, "height": 1300})
            page.set_default_timeout(60_000)
            page.goto(found.compare.replace(LOCAL_UI, f"http://127.0.0.1:{port}"))
            page.get_by_text("Comparing 3 Runs").first.wait_for()
            for name in ("rms_sig_limit=2.0", "rms_sig_limit=-1.0", "rms_sig_limit=3.0"):
                page.get_by_text(name).first.wait_for(state="attached")
            page.screenshot(path=tmp_path / "compare.png", full_page=True)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
