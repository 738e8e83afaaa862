"""The whole flow on a small program: what is done again, what is not, and how it ends."""

import json
import shutil

import pytest

from flows.level_match import level_match
from flows.summary import Summary
from levelmatch_core.errors import OutputFolderError
from levelmatch_core.pipeline import Request, run
from levelmatch_core.runners import PlainEach
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.store import CutoutStore

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("home")]


def run_flow(folder, output, **options):
    """Run the flow; return its state and its summary."""
    settings = MatchSettings.from_mapping(options.pop("settings", {}))
    state = level_match(inputs=[str(folder)], output=str(output), settings=settings, return_state=True, **options)
    content = state.result(raise_on_failure=False)
    if isinstance(content, BaseException):
        raise content
    summary = Summary.from_json(content)
    assert summary.tracking is not None
    assert not summary.tracking.lost
    return state, summary


def bytes_of(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "log.json"
    }


def test_the_flow_writes_the_same_bytes_as_the_library_alone(small_program, tmp_path):
    state, summary = run_flow(small_program, tmp_path / "flow", settings={"procs": 2})
    assert state.is_completed()
    assert summary.complete
    assert summary.counts["matched"] + summary.counts["reference"] == 4
    run(Request(inputs=(small_program,), output=tmp_path / "plain"), CutoutStore(tmp_path / "store"), PlainEach)
    assert bytes_of(tmp_path / "flow") == bytes_of(tmp_path / "plain")


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
def test_a_cutout_that_is_gone_or_altered_is_made_again(home, small_program, tmp_path, harm):
    run_flow(small_program, tmp_path / "out")
    before = bytes_of(tmp_path / "out")
    for path in sorted(home.cutouts.rglob("*.npy"))[:1]:
        if harm == "deleted":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-8] + b"\0\0\0\0\0\0\0\1")
    _, summary = run_flow(small_program, tmp_path / "out")
    assert sum(summary.executed.values()) == 1
    assert not summary.changed
    assert bytes_of(tmp_path / "out") == before


def test_a_broken_file_costs_itself_and_ends_the_flow_quarantined(small_program, tmp_path):
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
    assert json.loads((tmp_path / "out" / "run.json").read_text())["partial"] is True


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
