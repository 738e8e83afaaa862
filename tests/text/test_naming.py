"""Lists of names in messages: a thousand files do not make a line of a thousand names."""

from pathlib import Path

import pytest

from levelmatch_core.errors import LostInputError
from levelmatch_core.images.contents.companions import Aside, aside_notes
from levelmatch_core.images.exposure import Failure
from levelmatch_core.jobs.inputs import LostInputsJob
from levelmatch_core.jobs.job import Workspace
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.store import CutoutStore
from levelmatch_core.text.naming import MOST, some_of

NAMES = [f"image_{number:04}_weight.fits" for number in range(1000)]


def test_few_names_are_all_shown() -> None:
    assert some_of([]) == ""
    assert some_of(["a"]) == "a"
    assert some_of(NAMES[:MOST], where="run.json") == ", ".join(NAMES[:MOST])


def test_of_many_the_first_ten_are_shown_and_the_others_counted() -> None:
    assert some_of(NAMES) == ", ".join(NAMES[:10]) + " and 990 more"
    assert some_of(NAMES, 2, between="; ", where="run.json") == f"{NAMES[0]}; {NAMES[1]} and 998 more, in run.json"


def test_a_thousand_weight_maps_are_a_short_note() -> None:
    (note,) = aside_notes({name: Aside(name, "a weight map") for name in NAMES}, ())
    assert note.startswith("left out, for they are no exposures: 1000 files: ")
    assert note.endswith("(a weight map) and 990 more, in run.json")
    assert note.count("_weight.fits") == 10


def test_a_thousand_lost_files_are_a_short_reason(tmp_path: Path) -> None:
    lost = tuple(Failure(name=name, step="inventory", error="NotFitsError", reason=f"{name}: cut") for name in NAMES)
    job = LostInputsJob(label="many", exposures=tuple(NAMES), settings=MatchSettings(), failures=lost)
    with pytest.raises(LostInputError) as told:
        job.run(Workspace(CutoutStore(tmp_path)))
    assert str(told.value).count(".fits is left out: cut") == 10
    assert str(told.value).endswith(" and 990 more, in run.json")
