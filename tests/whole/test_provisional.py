"""A reference or bridge that is missing: what stands in for it is named, and the zero goes back after the mend."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from levelmatch_core.errors import SettingsError
from levelmatch_core.pipeline import Request
from levelmatch_core.plan import describe, plan_run
from levelmatch_core.products.corrected.verify import verify
from levelmatch_core.products.explain import explain
from levelmatch_core.settings import MatchSettings
from levelmatch_core.simulate import SimulatedProgram, simulate
from tests.folders import age, contents

TOLD = {"run.json", "report.html"}
"""The files that state a change of zero: all others are those of an undisturbed run."""


@pytest.fixture
def inputs(tmp_path) -> Path:
    """Six generic tiles, three by two; the zero is that of tile_002, which has the most pairs."""
    simulate(tmp_path / "in", SimulatedProgram.of(instrument="generic", tiles=(3, 2), size=96, stars=5))
    return tmp_path / "in"


def reference_of(result) -> str:
    (component,) = result.record.fields[0].components
    return component.reference


def damage(path: Path):
    """Cut a file short, and return what mends it."""
    whole = path.read_bytes()
    path.write_bytes(whole[:5000])
    return lambda: path.write_bytes(whole)


def without_changes(folder: Path) -> dict:
    """Return run.json without the stated changes of zeros, and without the digest of the report that states them."""
    record = json.loads((folder / "run.json").read_text())
    for field in record["fields"]:
        for part in field["components"]:
            del part["zero_changes"]
    record["files"] = [file for file in record["files"] if file["name"] != "report.html"]
    return record


def differing(one: Path, other: Path) -> set[str]:
    first, second = contents(one), contents(other)
    return {name for name in first.keys() | second.keys() if first.get(name) != second.get(name)}


def sound(folder: Path) -> bool:
    return not verify(folder).mismatches


@pytest.mark.slow
@pytest.mark.parametrize("finished_before", [True, False])
def test_the_zero_goes_back_after_the_mend(inputs, tmp_path, level_match, finished_before):
    out, undisturbed = tmp_path / "out", tmp_path / "undisturbed"
    true = reference_of(level_match(inputs, output=undisturbed, figures="summary"))
    if finished_before:
        level_match(inputs, output=out, figures="summary")
    mend = damage(inputs / true)
    broken = level_match(inputs, output=out, figures="summary")
    stood_in = reference_of(broken)
    assert stood_in != true
    assert broken.record.partial
    assert sound(out)
    table = Table.read(out / "corrections.ecsv")
    assert all(table["provisional"])
    assert set(table["reference"]) == {stood_in}
    other = next(name for name in table["exposure"] if name != stood_in)
    header = fits.getheader(out / "tiles" / other)
    assert (header["LVLREF"], header["LVLPART"]) == (f"{stood_in}?", True)
    (component,) = broken.record.fields[0].components
    assert component.provisional
    assert component.stands_for == (true if finished_before else "")
    assert broken.record.fields[0].missing == (true,)
    told = true if finished_before else "a tile that is missing"
    for text in (explain(out), (out / "report.html").read_text()):
        assert f"{stood_in}?" in text
        assert f"the zero is provisional, {stood_in}? stands in for {told}" in text
        assert true in text
    assert not level_match(inputs, output=out, figures="summary").changed

    before = fits.getdata(out / "tiles" / other)
    mend()
    mended = level_match(inputs, output=out, figures="summary")
    (component,) = mended.record.fields[0].components
    assert (component.reference, component.provisional) == (true, False)
    assert not mended.record.partial
    assert sound(out)
    (change,) = component.zero_changes
    assert (change.reference, change.provisional, change.exposures) == (stood_in, True, 5)
    # the statement is held against the pixels: the pairs with the mended tile move the levels by the noise alone
    moved = before - fits.getdata(out / "tiles" / other)
    assert np.nanmedian(moved) == pytest.approx(change.level, abs=0.02)
    assert abs(change.level) > 0.1
    unit = mended.record.fields[0].unit or "data units"
    said = f"from that of {stood_in}? (provisional) to that of {true}: {abs(change.level):.5g} {unit}"
    assert said in explain(out)
    assert said in (out / "report.html").read_text()

    assert differing(out, undisturbed) == TOLD
    assert without_changes(out) == without_changes(undisturbed)
    assert not level_match(inputs, output=out, figures="summary").changed  # what was said is said until the next change


def test_parts_that_lost_their_bridge_stand_as_components(tmp_path, level_match):
    simulate(tmp_path / "in", SimulatedProgram.of(instrument="generic", tiles=(3, 1), size=96, stars=5))
    finished = level_match(tmp_path / "in", reference="tile_001.fits")
    assert reference_of(finished) == "tile_001.fits"
    mend = damage(tmp_path / "in" / "tile_002.fits")
    broken = level_match(tmp_path / "in", reference="tile_001.fits")
    out = broken.request.output
    cards = [fits.getheader(out / "tiles" / name)["LVLREF"] for name in ("tile_001.fits", "tile_003.fits")]
    assert cards == ["tile_001.fits", "tile_003.fits?"]
    parts = [part for field in broken.record.fields for part in field.components]
    assert [(part.shown_reference, part.stands_for) for part in parts] == [
        ("tile_001.fits", ""),
        ("tile_003.fits?", "tile_001.fits"),
    ]
    assert "tile_003.fits? stands in for tile_001.fits, which is missing or cut off" in explain(out)
    assert sound(out)
    mend()
    mended = level_match(tmp_path / "in", reference="tile_001.fits")
    (component,) = mended.record.fields[0].components
    assert component.shown_reference == "tile_001.fits"
    assert [change.reference for change in component.zero_changes] == ["tile_003.fits"]
    assert sound(out)
    undisturbed = level_match(tmp_path / "in", output=tmp_path / "undisturbed", reference="tile_001.fits")
    assert differing(out, undisturbed.request.output) == {"run.json"}


def test_a_bridge_that_is_the_reference_leaves_two_provisional_parts(tmp_path, level_match):
    simulate(tmp_path / "in", SimulatedProgram.of(instrument="generic", tiles=(5, 1), size=96, stars=5))
    level_match(tmp_path / "in", reference="tile_003.fits")
    damage(tmp_path / "in" / "tile_003.fits")
    broken = level_match(tmp_path / "in", reference="tile_003.fits")
    parts = [part for field in broken.record.fields for part in field.components]
    assert [part.exposures for part in parts] == [2, 2]
    assert {part.stands_for for part in parts} == {"tile_003.fits"}
    assert all(part.shown_reference.endswith("?") for part in parts)


@pytest.mark.parametrize("how", ["broken", "pending"])
def test_a_named_reference_that_is_missing_is_stood_in_for(inputs, level_match, how):
    path = inputs / "tile_005.fits"
    if how == "broken":
        damage(path)
        settings = {"reference": path.name}
    else:
        settings = {"reference": path.name, "settle_seconds": 3600.0}
        for each in inputs.glob("*.fits"):
            age(each, 7200)
        age(path, 0)
    result = level_match(inputs, **settings)
    (component,) = result.record.fields[0].components
    assert component.provisional
    assert component.stands_for == path.name
    assert component.reference != path.name
    assert result.record.partial
    assert result.record.pending == ((path.name,) if how == "pending" else ())
    assert all(correction.partial for correction in result.corrections)
    request = Request(inputs=(inputs,), output=result.request.output, settings=MatchSettings(**settings))
    expected = re.compile(rf"expected reference tile_00\d\.fits\?: provisional, {path.name} is missing; ")
    assert expected.search(describe(plan_run(request)))


def test_a_named_reference_that_is_no_tile_is_refused_still(inputs, level_match):
    damage(inputs / "tile_005.fits")
    with pytest.raises(SettingsError, match=r"tile_05.*is no tile.*tile_005\.fits"):
        level_match(inputs, reference="tile_05.fits")


def test_a_missing_tile_that_holds_no_zero_leaves_the_reference_as_it_was(inputs, level_match):
    true = reference_of(level_match(inputs))
    other = next(path for path in sorted(inputs.glob("*.fits")) if path.name != true)
    damage(other)
    broken = level_match(inputs)
    (component,) = broken.record.fields[0].components
    assert (component.reference, component.provisional) == (true, False)
    assert all(correction.partial for correction in broken.corrections)  # and yet it lacks a tile


def test_a_copy_that_is_left_out_is_nothing_that_the_products_lack(inputs, level_match):
    shutil.copy(inputs / "tile_001.fits", inputs / "copy_of_001.fits")
    result = level_match(inputs)
    assert [failure.error for failure in result.failures] == ["DuplicateExposureError"]
    assert not result.record.partial
    assert not any(correction.partial or correction.provisional for correction in result.corrections)


def test_a_reference_that_is_left_alone_is_not_forgotten(tmp_path, level_match):
    """Pairs of two: each is the other's only neighbour; the automatic choice of two equals falls to the first name."""
    simulate(tmp_path / "in", SimulatedProgram.of(instrument="generic", tiles=(2, 1), size=96, stars=5))
    first, second = (tmp_path / "in" / name for name in ("tile_001.fits", "tile_002.fits"))
    hidden = first.rename(tmp_path / "later")
    level_match(tmp_path / "in")
    shutil.copy(hidden, first)
    true = reference_of(level_match(tmp_path / "in"))
    other = first if true == second.name else second
    for _ in range(2):  # and not the second time either
        mend = damage(other)
        alone = level_match(tmp_path / "in")
        mend()
        (component,) = alone.record.fields[0].components
        assert component.shown_reference == true
        assert sound(alone.request.output)
    assert reference_of(level_match(tmp_path / "in")) == true
