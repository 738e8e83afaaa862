"""The MLflow record, read back from a store of its own; no server of Prefect is needed."""

import io
import json
import math
import re
import shutil
import threading
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from mlflow import MlflowClient

from flows import interruption
from flows.home import Home
from flows.summary import FlowFacts, Unmatched, summarize
from flows.tracking import tracker
from flows.tracking.comparison import FIRST, coverage_of, dataset, pages_of, run_name, table_of_runs
from flows.tracking.metrics import MEANINGS, glossary, measures, mlflow_name
from flows.tracking.tracker import Tracker, description, output_id
from levelmatch_core.matching.model_selection import leave_one_pair_out
from levelmatch_core.matching.pair_matrices import PairMatrices
from levelmatch_core.pipeline import Request, run
from levelmatch_core.products.tables import pairs_table
from levelmatch_core.runners import PlainRunner
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.store import CutoutStore
from tests.servers import connections


@pytest.fixture(scope="module")
def result(small_program, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tracking")
    settings = MatchSettings(solver="iterative")
    request = Request(inputs=(small_program,), output=folder / "out", settings=settings, program="a program's")
    return run(request, CutoutStore(folder / "store"), PlainRunner)


@pytest.fixture(scope="module")
def summary(result):
    return summarize(result, peak_memory=123.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store whose schema is made once: that takes seconds."""
    return Home(tmp_path_factory.mktemp("home")).make()


def facts(flow_run_id="flow-1", attempt=1):
    return FlowFacts(flow_run_id=flow_run_id, name="a program f770w", started=time.time(), attempt=attempt)


@pytest.fixture(scope="module")
def logged(store, result, summary):
    """The run of flow-1, its tracking and a client."""
    tracking = Tracker(store).log(result, summary, facts())
    assert not tracking.lost
    client = MlflowClient(tracking_uri=store.tracking_uri)
    return client.get_run(tracking.run_id), tracking, client


def meaning_of(metric):
    """Unit and meaning of a metric, whatever field, stage and attempt its name has."""
    plain = re.sub(r"\.try_\d+$", "", metric.rpartition("/")[2])
    return MEANINGS[max((name for name in MEANINGS if plain == name or plain.endswith(f".{name}")), key=len)]


def test_the_run_lies_in_the_experiment_of_its_program(logged, store):
    run_, tracking, client = logged
    assert client.get_experiment(run_.info.experiment_id).name == "a program's"
    assert run_.info.status == "FINISHED"
    assert re.fullmatch(r"a program f770w, a program's 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d", run_.info.run_name)
    assert run_.info.artifact_uri.startswith(store.artifacts.as_uri())
    assert tracking.run_id in tracking.url


def test_every_setting_is_a_parameter(logged, result):
    settings = result.request.settings.model_dump(mode="json")
    assert logged[0].data.params == {name: str(value) for name, value in settings.items()}


def test_the_columns_of_the_table_of_runs_are_those_of_a_run(logged):
    run, _, client = logged
    experiment = client.get_experiment(run.info.experiment_id)
    view = next(value for name, value in experiment.tags.items() if name.startswith("mlflow.sharedViewState."))
    recorded = {"tags": run.data.tags, "metrics": MEANINGS, "params": run.data.params}
    columns = [re.fullmatch(r"(\w+)\.`(\S+)`", column) for column in json.loads(view)["selectedColumns"]]
    assert len(columns) > 8
    assert not [column[0] for column in columns if column[2] not in recorded[column[1]]]


def test_tags_say_what_it_was(logged, result, summary):
    tags = logged[0].data.tags
    assert tags["prefect.flow_run_id"] == "flow-1"
    assert tags["levelmatch.program"] == "a program's"
    assert tags["levelmatch.output_id"] == output_id(result.request.output)
    assert tags["levelmatch.partial"] == "false"
    assert summary.verdict in tags["mlflow.note.content"]
    assert "4 of 4 exposures are matched" in summary.verdict


def test_metrics_are_those_of_the_run(logged, summary):
    metrics = logged[0].data.metrics
    residual = summary.residuals[0]
    assert metrics["residual_rms_before"] == residual.before
    assert metrics["residual_rms_after"] == residual.after
    assert residual.after < residual.before / 100
    assert metrics["pairs"] == residual.used + sum(residual.rejected.values())
    assert metrics["pairs_rejected"] == sum(
        value for name, value in metrics.items() if name.startswith("pairs_rejected.")
    )
    assert metrics["exposures"] == 4
    assert metrics["exposures_unmatched"] == 0
    assert metrics["components"] == 1
    assert metrics["peak_memory_megabytes"] == 123.0
    assert all(math.isfinite(value) for value in metrics.values())


def test_every_metric_has_a_unit_and_a_meaning(logged):
    run_, _, client = logged
    assert all(meaning_of(name)[1] for name in run_.data.metrics)
    assert meaning_of("f770w_2/dithers.residual_rms_after") == meaning_of("residual_rms_after")
    assert "rms" in meaning_of("seam_rms_left_out")[1]
    experiment = client.get_experiment(run_.info.experiment_id)
    described = experiment.tags["mlflow.note.content"]
    assert described == glossary(table_of_runs(experiment.experiment_id))
    assert len(described) < 5000
    assert run_.data.tags["levelmatch.unit"] == "MJy/sr"


def test_runs_quarantined_for_one_file_have_records_of_their_own_and_a_retry_goes_on_with_its_own(
    result, summary, store
):
    """The second changed nothing, as the first had done it; nor did the first one's retry after the second's."""
    result = replace(result, request=result.request.model_copy(update={"program": "quarantined"}))
    bad = (Unmatched(name="x.fits", status="failed", reason="truncated"),)
    broken, nothing_new = summary.model_copy(update={"problems": bad}), replace(result, changed=False)
    first = Tracker(store).log(result, broken, facts("first"))
    second = Tracker(store).log(nothing_new, broken, facts("second"))
    assert first.new
    assert second.new
    assert first.run_id != second.run_id
    client = MlflowClient(tracking_uri=store.tracking_uri)
    assert client.get_run(second.run_id).info.status == "FAILED"
    retried = [Tracker(store).log(result, summary, facts("second", 2))]
    retried += [Tracker(store).log(nothing_new, summary, facts("first", 2))]
    assert [one.run_id for one in retried] == [second.run_id, first.run_id]
    assert {client.get_run(one.run_id).info.status for one in retried} == {"FINISHED"}
    assert Tracker(store).log(nothing_new, summary, facts("third")).run_id == second.run_id  # the last of this output


@pytest.mark.parametrize("how", ["alone", "untied"])
def test_what_was_not_measured_is_no_metric(small_program, tmp_path, store, how):
    files = sorted(small_program.glob("*.fits"))
    rules = tmp_path / "pairs.csv"
    tiles = "jw01234001001_02101_mirimage,jw01234002001_02101_mirimage"
    rules.write_text(f"first,second,action\n{tiles},forbid\n")
    inputs, settings = ((files[0],), {}) if how == "alone" else ((files[0], files[-1]), {"pairs": str(rules)})
    chosen = MatchSettings.from_mapping({**settings, "figures": "none"})
    request = Request(inputs=inputs, output=tmp_path / "out", settings=chosen, program=how)
    found = run(request, CutoutStore(tmp_path / "store"), PlainRunner)
    told = summarize(found, peak_memory=1.0)
    assert told.counts[how]
    tracking = Tracker(store).log(found, told, facts(how))
    client = MlflowClient(tracking_uri=store.tracking_uri)
    metrics = client.get_run(tracking.run_id).data.metrics
    assert metrics[f"exposures_{how}"] == len(inputs)
    assert metrics["exposures"] == len(inputs)
    assert metrics["pairs_used"] == 0
    assert all(math.isfinite(value) for value in metrics.values())
    assert not [name for name in metrics if "residual_rms" in name]
    assert client.get_run(tracking.run_id).data.tags["levelmatch.numbers_left_out"] == "0"


def test_a_run_is_named_after_program_band_and_time():
    found = facts().model_copy(update={"started": 0.0})
    assert run_name("a program", "f770w", found) == "a program f770w 1970-01-01 00:00:00"
    one = found.model_copy(update={"name": "rms_sig_limit=3"})
    assert run_name("p", "f1", one) == "rms_sig_limit=3, p f1 1970-01-01 00:00:00"


def test_the_coverage_of_a_mosaic_larger_than_memory_is_counted_in_strips(result, tmp_path):
    """As 64-bit numbers at a time, that of 60 exposures of 4,096 pixels took 7 GB."""
    name = next(result.request.output.glob("mosaic_*.fits")).name
    counts = np.random.default_rng(1).integers(0, 7, (3000, 3000)).astype(np.int16)
    counts[:1500] = 0  # more of a strip than of another
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(counts, name="COVERAGE")]).writeto(tmp_path / name)
    elsewhere = replace(result, request=result.request.model_copy(update={"output": tmp_path}))
    tracemalloc.start()
    try:
        found = coverage_of(elsewhere)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    seen = counts[counts > 0]
    assert found == {"coverage_mean": pytest.approx(seen.mean()), "coverage_once": pytest.approx(np.mean(seen == 1))}
    assert peak < 8 * counts.size * 0.8


def test_every_run_has_what_a_sweep_ranks_by_and_it_comes_first(logged, result):
    run_, _, _ = logged
    seams = leave_one_pair_out(one for each in result.matches for stage in each.stages for one in stage.solutions)
    metrics = run_.data.metrics
    assert metrics["pairs_predicted"] == seams.tested
    assert ("seam_rms_left_out" in metrics) == bool(seams.tested)
    assert {"loops", "grade", "coverage_mean", "coverage_once"} <= set(metrics)
    with fits.open(next(result.request.output.glob("mosaic_*.fits"))) as hdus:
        counts = hdus["COVERAGE"].data
        assert metrics["coverage_mean"] == pytest.approx(counts[counts > 0].mean())
        assert metrics["coverage_once"] == pytest.approx(np.mean(counts[counts > 0] == 1))
    first = next(iter(metrics))  # MLflow's page of comparison opens on it
    assert first == next(name for name in FIRST if name in metrics)
    names = list(metrics)
    assert names.index("residual_rms_after") < names.index("pairs_rejected") < names.index("exposures")


def test_its_inputs_are_a_dataset(logged, result):
    run_, _, client = logged
    (found,) = client.get_run(run_.info.run_id).inputs.dataset_inputs
    assert found.dataset.name == "a program's"
    assert json.loads(found.dataset.profile) == {"files": 4, "exposures": 4}
    assert found.dataset.digest == dataset(result).dataset.digest
    other = result.record.inputs[0].model_copy(update={"sha256": "0" * 64})
    record = result.record.model_copy(update={"inputs": (other, *result.record.inputs[1:])})
    assert dataset(replace(result, record=record)).dataset.digest != found.dataset.digest


def test_tables_can_be_looked_at(logged, result):
    run_, _, client = logged
    for name, rows in (("corrections", 4), ("pairs", len(pairs_table(result.matches)))):
        path = client.download_artifacts(run_.info.run_id, f"tables/{name}.csv")
        assert len(pd.read_csv(path)) == rows


def test_links_lead_to_where_mlflow_was_started(store, logged):
    _, tracking, _ = logged
    assert tracking.url.startswith("http://127.0.0.1:5000/#/")
    try:
        store.mlflow_pages.write_text("http://127.0.0.1:5610")
        assert pages_of(store, store.tracking_uri) == "http://127.0.0.1:5610"
        for odd in ("http://example.org:5610", "http://127.0.0.1:5610/x", "", "\u00e9"):
            store.mlflow_pages.write_text(odd)
            assert pages_of(store, store.tracking_uri) == "http://127.0.0.1:5000"
    finally:
        store.mlflow_pages.unlink()


def test_links_lead_to_the_server_or_to_where_browsers_see_it(store, monkeypatch):
    assert pages_of(store, "http://me:verysecret@mlflow:5000/") == "http://mlflow:5000"
    monkeypatch.setenv("LEVELMATCH_MLFLOW_PAGES", "https://mlflow.example.org/")
    assert pages_of(store, "http://mlflow:5000") == "https://mlflow.example.org"


def test_a_table_or_mosaic_that_is_gone_costs_itself_only(result, summary, store, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(result.request.output, output)
    (output / "pairs.ecsv").write_text("no table")
    next(output.glob("mosaic_*.fits")).write_bytes(b"no mosaic")
    moved = replace(result, request=result.request.model_copy(update={"output": output, "program": "gone"}))
    tracking = Tracker(store).log(moved, summary, facts("gone"))
    assert not tracking.lost
    client = MlflowClient(tracking_uri=store.tracking_uri)
    tables = {Path(file.path).name for file in client.list_artifacts(tracking.run_id, "tables")}
    assert tables == {"pairs.json", "rejected_pairs.json", "corrections.csv"}
    assert "coverage_mean" not in client.get_run(tracking.run_id).data.metrics


def test_a_long_story_fits_into_a_description(summary):
    problems = tuple(Unmatched(name=f"{n}.fits", status="failed", reason="too long " * 60) for n in range(40))
    text = description(summary.model_copy(update={"problems": problems}))
    assert len(text) < 8000
    assert "more, in run.json" in text
    assert text.startswith("**")


def test_convergence_is_a_stepped_metric_of_its_stage(logged, result):
    run_, _, client = logged
    for stage in result.matches[0].stages:
        for solution in stage.solutions:
            group = f".{solution.group}" if len(stage.solutions) > 1 else ""
            assert solution.status.history
            for story in solution.status.history:
                name = mlflow_name(f"{stage.stage}{group}.convergence_{story.coefficient}")
                history = client.get_metric_history(run_.info.run_id, name)
                assert [(metric.step, metric.value) for metric in history] == list(enumerate(story.steps))


def test_matrices_are_arrays_and_pictures(logged, result):
    run_, _, client = logged
    match = result.matches[0]
    names = {file.path for file in client.list_artifacts(run_.info.run_id, "matrices")}
    for stage in match.stages:
        assert f"matrices/{match.field.name}.{stage.stage}.svg" in names
        path = client.download_artifacts(run_.info.run_id, f"matrices/{match.field.name}.{stage.stage}.npz")
        with np.load(path, allow_pickle=False) as arrays:
            for solution in stage.solutions:
                expected = PairMatrices.of(solution)
                assert tuple(arrays[f"{solution.group}|names"]) == expected.names
                for name in ("delta", "npix", "rms", "valid"):
                    np.testing.assert_array_equal(arrays[f"{solution.group}|{name}"], getattr(expected, name))


def test_pairs_are_tables(logged, result):
    run_, _, client = logged
    pairs = [pair for stage in result.matches[0].stages for s in stage.solutions for pair in s.pairs]
    tables = {}
    for name in ("pairs", "rejected_pairs"):
        path = Path(client.download_artifacts(run_.info.run_id, f"tables/{name}.json"))
        tables[name] = pd.read_json(io.StringIO(path.read_text()), orient="split")
    assert list(tables["pairs"]["first"]) == [pair.fit.first for pair in pairs]
    assert len(tables["rejected_pairs"]) == sum(pair.rejected is not None for pair in pairs)
    assert "reason" in tables["rejected_pairs"]


def test_files_of_the_output_are_artifacts(logged, result):
    run_, _, client = logged
    top = {file.path for file in client.list_artifacts(run_.info.run_id)}
    assert {"run.json", "pairs.ecsv", "corrections.ecsv", "report.html", "figures", "matrices", "tables"} <= top
    figures = {file.path for file in client.list_artifacts(run_.info.run_id, "figures")}
    assert figures == {file.name for file in result.record.files if file.name.startswith("figures/")}


def test_a_retried_flow_run_goes_on_in_the_same_run(logged, store, result, summary):
    run_, _, client = logged
    series = [name for name in run_.data.metrics if "convergence" in name]
    before = {name: len(client.get_metric_history(run_.info.run_id, name)) for name in series}
    tracking = Tracker(store).log(result, summary, facts(attempt=2))
    assert tracking.run_id == run_.info.run_id
    again = client.get_run(run_.info.run_id)
    assert again.info.status == "FINISHED"
    assert again.data.tags["levelmatch.tries"] == "2"
    assert {name: len(client.get_metric_history(run_.info.run_id, name)) for name in series} == before
    assert [metric.step for metric in client.get_metric_history(run_.info.run_id, "pairs")] == [0, 1]
    assert len(client.search_runs([run_.info.experiment_id])) == 1


def test_where_nothing_changed_the_last_run_is_tagged(logged, store, result, summary):
    run_, _, client = logged
    tracking = Tracker(store).log(replace(result, changed=False), summary, facts("flow-2"))
    assert tracking.run_id == run_.info.run_id
    assert not tracking.new
    assert "flow-2" in client.get_run(run_.info.run_id).data.tags["levelmatch.checked"]
    assert len(client.search_runs([run_.info.experiment_id])) == 1


def test_numbers_that_are_not_finite_are_left_out_and_counted(result, summary):
    broken = summary.model_copy(update={"peak_memory": math.inf})
    found = measures(result, broken)
    assert "peak_memory_megabytes" not in found.metrics
    assert found.left_out == 1
    assert measures(result, summary).left_out == 0


def test_a_store_out_of_reach_costs_the_record_only(store, result, summary, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")  # nothing listens at the discard port
    waited = connections(monkeypatch)
    tracking = Tracker(store).log(result, summary, facts("flow-3"))
    assert 1 <= len(waited) <= 2
    assert sum(waited) <= 20
    assert "lost" in tracking.lost
    assert not tracking.run_id
    assert "secret" not in tracking.model_dump_json()
    assert "secret" not in caplog.text
    assert "the outputs are complete" in caplog.text


def test_a_store_that_cannot_be_made_costs_the_record_only(result, summary, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/file/all.db")
    assert Tracker(Home(tmp_path / "home").make()).log(result, summary, facts("flow-4")).lost


def test_the_description_names_what_went_wrong(summary):
    problem = Unmatched(name="a.fits", status="untied", reason="every pair with it was rejected: rms too high (2)")
    text = description(summary.model_copy(update={"problems": (problem,), "complete": False}))
    assert "a.fits: untied: every pair" in text
    assert "1 untied" in text


def test_the_record_of_an_interrupted_run_is_killed_and_nothing_is_written_to_it_afterwards(store):
    client = tracker._Client(tracking_uri=store.tracking_uri)
    experiment = client.create_experiment("interrupted")
    with tracker._killed_if_interrupted(client, lambda: client.create_run(experiment)) as run:
        client.set_tag(run.info.run_id, "before", "1")
        ended = threading.Event()

        def write():
            ended.wait(10)
            client.set_tag(run.info.run_id, "after", "1")

        writing = threading.Thread(target=write, daemon=True)  # before: threads that ended give their number to others
        writing.start()
        ending = threading.Thread(target=interruption._farewells[-1])
        ending.start()
        ending.join(10)
        ended.set()
        writing.join(0.3)
        assert writing.is_alive()
    found = MlflowClient(tracking_uri=store.tracking_uri).get_run(run.info.run_id)
    assert found.info.status == "KILLED"
    assert "before" in found.data.tags
    assert "after" not in found.data.tags
