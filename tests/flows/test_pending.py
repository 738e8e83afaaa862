"""A run that finds a file still being written: completed, named, taken by the next run."""

import os
import shutil
import time

import pytest
from prefect.client.schemas.objects import StateType

from flows.level_match import level_match
from flows.orchestration.quarantine import content_of
from flows.summary import Summary
from levelmatch_core.errors import AllPendingError
from levelmatch_core.settings import MatchSettings

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("home")]


def test_a_pending_exposure_is_named_and_taken_by_the_next_run(small_program, tmp_path):
    shutil.copytree(small_program, tmp_path / "in")
    files = sorted((tmp_path / "in").glob("*.fits"))
    for path in files:
        os.utime(path, (time.time() - 86400,) * 2)
    whole = files[0].read_bytes()
    files[0].write_bytes(whole[:5000])

    def run():
        settings = MatchSettings(settle_seconds=3600, figures="none")
        state = level_match([str(tmp_path / "in")], str(tmp_path / "out"), settings=settings, return_state=True)
        return state, Summary.from_json(content_of(state))

    state, summary = run()
    assert state.is_completed()
    assert state.name == "Incomplete"
    assert "1 pending" in state.message
    assert not summary.complete
    assert [(each.name, each.status) for each in summary.problems] == [(files[0].name, "pending")]
    files[0].write_bytes(whole)
    os.utime(files[0], (time.time() - 7200,) * 2)
    state, summary = run()
    assert state.type.value == "COMPLETED"
    assert state.name == "Doubtful"  # nothing tests the one pair of two tiles
    assert summary.complete
    assert summary.executed["cutout"] == 2  # its tile's
    _, again = run()
    assert again.executed == {}
    assert not again.changed


def test_a_deployed_run_whose_files_are_all_being_written_waits_for_the_next_one(small_program, tmp_path, monkeypatch):
    settings = MatchSettings(settle_seconds=1e9, figures="none")
    words = {"inputs": [str(small_program)], "output": str(tmp_path / "out"), "settings": settings}
    with pytest.raises(AllPendingError):
        level_match(**words)
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "2d24a9a7-1d27-4f5b-8b7c-2b8f7a40a53e")
    state = level_match(**words, return_state=True)
    assert (state.type, state.name) == (StateType.COMPLETED, "Incomplete")
    assert "none of 4 files can be used" in state.message
    assert "the next run takes it" in state.message
    assert not (tmp_path / "out").exists()
