"""The whole flow on a small program: what is done again, what is not, and how it ends."""

import json
import shutil
import time
import urllib.request

import pytest
from astropy.io import fits
from mlflow import MlflowClient

from flows.level_match import level_match
from flows.orchestration.quarantine import content_of
from flows.summary import Summary
from levelmatch_core.errors import NoUsablePixelsError, OutputFolderError, StrictError
from levelmatch_core.jobs.science import CutoutJob
from levelmatch_core.pipeline import Request, run
from levelmatch_core.runners import PlainRunner
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky import cutouts
from levelmatch_core.sky.store import CutoutStore
from tests.folders import contents

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("home")]


def run_flow(folder, output, **options):
    """Run the flow; return its state and its summary."""
    settings = MatchSettings.from_mapping(options.pop("settings", {}))
    state = level_match(inputs=[str(folder)], output=str(output), settings=settings, return_state=True, **options)
    content = content_of(state)
    if isinstance(content, BaseException):
        raise content
    summary = Summary.from_json(content)
    assert summary.tracking is not None
    assert not summary.tracking.lost
    return state, summary


def test_the_flow_writes_the_same_bytes_as_the_library_alone(small_program, tmp_path):
    state, summary = run_flow(small_program, tmp_path / "flow", settings={"procs": 2})
    assert state.is_completed()
    assert summary.complete
    assert summary.counts["matched"] + summary.counts["reference"] == 4
    run(Request(inputs=(small_program,), output=tmp_path / "plain"), CutoutStore(tmp_path / "store"), PlainRunner)
    assert contents(tmp_path / "flow") == contents(tmp_path / "plain")


def test_a_second_run_is_all_cached_and_touches_nothing(small_program, tmp_path):
    _, first = run_flow(small_program, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    _, second = run_flow(small_program, tmp_path / "out")
    assert second.executed == {}
    assert second.cached == first.executed
    assert not second.changed
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_another_rejection_limit_solves_again_and_resamples_nothing(small_program, tmp_path):
    _, first = run_flow(small_program, tmp_path / "out")
    _, second = run_flow(small_program, tmp_path / "out2", settings={"rms_sig_limit": 3.0})
    assert "cutout" not in second.executed
    assert "measure" not in second.executed
    assert second.cached["cutout"] == 4
    assert second.executed["solve"] == first.executed["solve"]


@pytest.mark.parametrize("harm", ["deleted", "altered"])
def test_a_cutout_that_is_gone_or_altered_is_made_again(home, small_program, tmp_path, monkeypatch, harm):
    run_flow(small_program, tmp_path / "out")
    before = contents(tmp_path / "out")
    # of an exposure, and not of a stack
    records = [path.read_text() for path in sorted(home.cutouts.rglob("*.json"))]
    of_exposures = [text for text in records if '_cal.fits"' in text]
    for path in [one for one in sorted(home.cutouts.rglob("*.npy")) if any(one.name in text for text in of_exposures)][
        :1
    ]:
        if harm == "deleted":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-8] + b"\0\0\0\0\0\0\0\1")
    read = []

    def spy(exposure, real=cutouts.read_exposure):
        read.append(exposure.name)
        return real(exposure)

    monkeypatch.setattr(cutouts, "read_exposure", spy)
    _, summary = run_flow(small_program, tmp_path / "out")
    assert summary.executed == {"cutout": 2}  # a task is a tile; what is still there is not made again
    assert len(read) == 1
    assert not summary.changed
    assert contents(tmp_path / "out") == before


def test_a_broken_file_costs_itself_and_ends_the_flow_quarantined(home, small_program, tmp_path):
    folder = tmp_path / "in"
    shutil.copytree(small_program, folder)
    broken = min(folder.glob("*.fits"))
    broken.write_bytes(broken.read_bytes()[:5000])
    state, summary = run_flow(folder, tmp_path / "out")
    assert state.is_failed()
    assert state.name == "Quarantined"
    assert broken.name in state.message
    assert [problem.name for problem in summary.quarantined] == [broken.name]
    assert summary.quarantined[0].reason
    assert summary.counts["matched"] + summary.counts["reference"] == 3
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["partial"] is True
    tile = f"{broken.name[:19]}_mirimage"  # the name tells it, the file does not
    assert summary.quarantined[0].tile == tile
    assert f"tile {tile}: {broken.name}: " in state.message
    assert summary.partial
    tags = MlflowClient(home.tracking_uri).get_run(summary.tracking.run_id).data.tags
    assert tags["levelmatch.partial"] == "true"
    assert {fits.getheader(path, "SCI")["LVLPART"] for path in (tmp_path / "out" / "tiles").iterdir()} == {True}


def test_a_named_file_that_is_not_there_costs_itself_until_it_comes(small_program, tmp_path):
    """Of a program: the command refuses it before anything is done."""
    files = sorted(small_program.glob("*.fits"))
    late = tmp_path / "late" / files[0].name
    asked = {"output": str(tmp_path / "out"), "inputs": [str(late), *map(str, files[1:])], "return_state": True}
    asked["settings"] = MatchSettings(figures="none")
    state = level_match(**asked)
    assert (state.type, state.name) == ("FAILED", "Quarantined")
    assert f"tile {late.name[:19]}_mirimage: {late.name}: no such file" in state.message
    assert Summary.from_json(content_of(state)).counts["failed"] == 1
    late.parent.mkdir()
    shutil.copy(files[0], late)
    state = level_match(**asked)
    assert state.is_completed(), state
    assert Summary.from_json(content_of(state)).complete
    state = level_match(**{**asked, "inputs": [str(tmp_path / "none" / "a.fits")]})
    assert "no such file or folder" in state.message  # where nothing is there it is a typing error


def test_other_settings_are_refused_and_the_error_keeps_its_kind(small_program, tmp_path):
    run_flow(small_program, tmp_path / "out")
    with pytest.raises(OutputFolderError, match="rms_sig_limit"):
        run_flow(small_program, tmp_path / "out", settings={"rms_sig_limit": 3.0})


def test_nothing_that_is_stored_is_a_pickle(home, small_program, tmp_path):
    run_flow(small_program, tmp_path / "out")
    stored = [path for path in home.results.rglob("*") if path.is_file()]
    assert stored
    for path in stored:
        content = json.loads(path.read_text())
        assert "metadata" not in content or content["metadata"]["serializer"]["type"] == "json"
    for path in home.cutouts.rglob("*"):
        assert path.is_dir() or path.suffix in {".npy", ".json"}


def test_state_is_private(home):
    folders = [home.root, *(path for path in home.root.rglob("*") if path.is_dir())]
    assert {folder.stat().st_mode & 0o777 for folder in folders} == {0o700}


def test_one_new_exposure_costs_its_tile_and_what_follows_from_it(server, small_program, tmp_path):
    folder = tmp_path / "in"
    shutil.copytree(small_program, folder)
    files = sorted(folder.glob("*.fits"))
    new = files[-1]
    (tmp_path / "later").mkdir()
    shutil.move(new, tmp_path / "later" / new.name)
    run_flow(folder, tmp_path / "out", settings={"figures": "none"})
    shutil.move(tmp_path / "later" / new.name, new)
    state, summary = run_flow(folder, tmp_path / "out", settings={"figures": "none"})
    assert summary.executed["cutout"] == 2  # a task is a tile
    # of two tiles: 2 cutouts, 3 measures, 3 solves, 2 stacks, 2 times files; errors, sky, mosaic and map of errors
    tasks = task_states(server, str(state.state_details.flow_run_id), 16)
    done = {
        step: {name for (key, name), how in tasks.items() if key == step and how == "Completed"} for step, _ in tasks
    }
    tile = f"{new.name[:19]}_mirimage"
    assert done["cutout"] == {f"cutout: {tile}"}
    assert done["stack"] == {f"dithers, stack: {tile}"}
    assert done["measure"] == {f"dithers, measure: {tile}", "mosaic_tiles, measure: f770w"}
    assert done["solve"] == {f"dithers, solve: {tile}", "mosaic_tiles, solve: f770w"}
    assert done["mosaic"] == {"mosaic: f770w"}
    cached = {(key, name) for (key, name), how in tasks.items() if how == "Cached"}
    other = f"{files[0].name[:19]}_mirimage"
    assert {
        ("cutout", f"cutout: {other}"),
        *((step, f"dithers, {step}: {other}") for step in ("measure", "solve", "stack")),
    } <= cached


def task_states(server, flow_run, expected):
    """Return how each task run ended, by step and name, once the server shows so many."""
    body = json.dumps({"flow_runs": {"id": {"any_": [flow_run]}}, "limit": 200}).encode()
    asked = urllib.request.Request(  # noqa: S310 - http on loopback
        f"{server}/task_runs/filter", data=body, headers={"Content-Type": "application/json"}
    )
    deadline = time.monotonic() + 60
    while True:
        with urllib.request.urlopen(asked, timeout=30) as answer:  # noqa: S310 - as above
            runs = json.loads(answer.read())
        if len(runs) >= expected and all(run["state"]["type"] == "COMPLETED" for run in runs):
            return {(run["task_key"].rpartition("-")[0], run["name"]): run["state"]["name"] for run in runs}
        assert time.monotonic() < deadline, [(run["name"], run["state"]["name"]) for run in runs]
        time.sleep(0.3)


@pytest.mark.parametrize("harm", ["a file", "a job"])
def test_strict_fails_at_the_first_bad_tile(small_program, tmp_path, monkeypatch, harm):
    folder = tmp_path / "in"
    shutil.copytree(small_program, folder)
    bad = min(folder.glob("*.fits"))
    if harm == "a file":
        bad.write_bytes(bad.read_bytes()[:5000])
    else:

        def refused(job, workspace, do=CutoutJob.run):
            if job.label == bad.name:
                message = f"{job.label}: every pixel is masked"
                raise NoUsablePixelsError(message)
            return do(job, workspace)

        monkeypatch.setattr(CutoutJob, "run", refused)
    settings = MatchSettings(strict=True, figures="none")
    state = level_match([str(folder)], str(tmp_path / "out"), settings=settings, return_state=True)
    assert state.is_failed()
    assert state.name == "Failed"
    error = state.result(raise_on_failure=False)
    assert isinstance(error, StrictError)
    assert bad.name in str(error)
    assert not (tmp_path / "out" / "run.json").exists()
