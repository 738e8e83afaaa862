from pathlib import Path
from typing import Any

import pytest

from levelmatch_core.errors import OutputFolderError
from levelmatch_core.images.exposure import Failure
from levelmatch_core.matching.corrections import Status
from levelmatch_core.process.versions import LIBRARIES
from levelmatch_core.products.manifest import OutputFile
from levelmatch_core.products.runrecord import RunRecord, record_of
from levelmatch_core.settings import MatchSettings


def record(make: Any, **changes: Any) -> RunRecord:
    match = make.match(**changes)
    files = [OutputFile(name="b", sha256="1"), OutputFile(name="a", sha256="2")]
    return record_of([match], MatchSettings(procs=3), "m42", make.inventory(match), files)


def test_it_tells_of_input_settings_versions_stages_and_components(make: Any) -> None:
    run = record(make)
    assert run.counts == {"matched": 5, "reference": 1, "alone": 0, "untied": 0, "failed": 0}
    assert "procs" not in run.settings
    assert run.settings["max_points"] == 10_000
    assert set(run.libraries) == set(LIBRARIES)
    assert [entry.file for entry in run.inputs] == sorted(entry.file for entry in run.inputs)
    assert len(run.inputs) == 6
    (field,) = run.fields
    assert field.grid == make.grid
    (component,) = field.components
    assert (component.number, component.exposures, component.local_sky) == (1, 6, 0.5)
    assert component.reference_reason == "most usable pairs"
    dithers, mosaic = field.stages
    assert (dithers.stage, dithers.pairs) == ("dithers", 0)
    assert (mosaic.pairs, mosaic.used, mosaic.rejected) == (7, 6, {"rms too high": 1})
    assert (mosaic.residual_before, mosaic.residual_after) == pytest.approx((12.0, 0.003))
    assert run.notes == ("a note",)
    assert not run.partial
    assert [file.name for file in run.files] == ["a", "b"]


def test_the_bytes_are_the_same_and_come_back(make: Any, tmp_path: Path) -> None:
    first, second = record(make).to_bytes(), record(make).to_bytes()
    assert first == second
    assert first.endswith(b"}\n")
    path = tmp_path / "run.json"
    path.write_bytes(first)
    assert RunRecord.load(path) == record(make)
    assert str(Path.cwd()).encode() not in first


def test_what_was_left_out_makes_it_partial_and_is_named_once(make: Any) -> None:
    match = make.match()
    failure = Failure(
        name="x.fits", step="cutout", error="NoWcsError", reason="none", exposures=(match.corrections[0].exposure.name,)
    )
    match = match.with_failures([failure])
    inventory = make.inventory(match).model_copy(update={"failures": (failure,)})
    run = record_of([match], MatchSettings(), "m42", inventory, [])
    assert run.partial
    (named,) = run.failures
    assert (named.name, named.tile) == ("x.fits", match.corrections[0].exposure.tile)
    assert run.counts[Status.FAILED] == 1


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema_version": 99, "levelmatch": "9"}', '{"schema_version": 1}'])
def test_what_is_not_a_run_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(OutputFolderError, match=r"run\.json"):
        RunRecord.load(path)
