"""A run of a deployment with other settings than its program's is a trial, in a folder of its own."""

from pathlib import Path

import pytest

from flows.level_match import ending
from flows.orchestration.trials import changes_of, trial_name, trial_note, trial_of
from flows.summary import Summary
from levelmatch_core.errors import SettingsError
from levelmatch_core.images.finding import find_files
from levelmatch_core.pipeline import outputs_of
from levelmatch_core.settings import MatchSettings

PROGRAM = {"inputs": ["/in"], "output": "/o", "settings": {"preset": "best", "sigma": 3.5}, "band": "f770w"}


def chosen(**more):
    return MatchSettings.from_mapping({"preset": "best", "sigma": 3.5, "band": "f770w", **more})


@pytest.mark.parametrize(
    "run",
    [
        {**PROGRAM, "settings": chosen()},
        {**PROGRAM, "settings": {"sigma": 3.5, "preset": "best"}, "recursive": False, "group_by": None},
        {**PROGRAM, "settings": chosen(procs=7, figures="none", overwrite=True)},
        {**PROGRAM, "settings": chosen(), "program": "another", "prune": True},
    ],
)
def test_what_changes_no_number_makes_no_trial(run):
    assert changes_of(PROGRAM, run) == {}


def test_what_differs_is_named_with_old_and_new():
    run = {**PROGRAM, "settings": chosen(sigma=4, fit_type_mosaic_tiles="level"), "inputs": ["/other"]}
    changes = changes_of(PROGRAM, run)
    assert changes["sigma"] == (3.5, 4.0)
    assert changes["inputs"] == (["/in"], ["/other"])
    assert changes_of(PROGRAM, {**PROGRAM, "band": "f1000w"}) == {"band": ("f770w", "f1000w")}


def test_a_trial_lies_next_to_the_output_under_what_differs():
    assert trial_of(Path("/d/out"), trial_name({"sigma": (3.0, 4.0)})) == Path("/d/out@trial-sigma=4.0")
    long = {f"setting_{number}": (0, number) for number in range(20)}
    assert len(trial_name(long)) == 12
    assert trial_name(long) != trial_name({**long, "setting_0": (0, 9)})
    by_input = trial_name({"inputs": (["/in"], ["/a/b c/../"])})
    assert trial_of(Path("/d/out"), by_input).parent == Path("/d")


def test_the_end_of_a_trial_says_that_the_output_is_as_it_was():
    """As when Retry is pressed on a run from before a change of the program's settings."""
    assert trial_note(Path("/d/out"), Path("/d/out")) == ""
    note = trial_note(Path("/d/out@trial-sigma=4.0"), Path("/d/out"))
    assert note.startswith("A trial, in /d/out@trial-sigma=4.0; /d/out is as it was")
    nothing = {"residuals": (), "fields": (), "problems": (), "notes": (), "band": None, "partial": False}
    counts = {"matched": 1, "reference": 1}
    summary = Summary(
        program="m33", output="/d", changed=True, complete=True, counts=counts, seconds=1, peak_memory=1, **nothing
    )
    assert ending(summary, note).message.startswith(note)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", "x" * 81, "a\n"])
def test_a_name_that_leaves_the_folder_is_refused(name):
    with pytest.raises(SettingsError, match="trial"):
        trial_of(Path("/d/out"), name)


def test_no_trial_is_an_input(tmp_path):
    for folder in ("out/tiles", "out@trial-sigma=4/tiles", "output", "out-in"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / f"{folder.replace('/', '_')}.fits").touch()
    for output in ("out", "out@trial-sigma=4", "out@trial-new"):
        found = find_files([tmp_path], step_ext=None, recursive=True, exclude=outputs_of(tmp_path / output))
        assert [path.parent.name for path, _ in found] == ["out-in", "output"]
