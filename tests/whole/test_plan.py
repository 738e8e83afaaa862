"""The plan of a run against what the run then does, and what an output's story says."""

import pytest
from astropy.table import Table

from levelmatch_core.errors import NoInputError, OutputFolderError, SettingsError
from levelmatch_core.pipeline import Request
from levelmatch_core.plan import describe, plan_run
from levelmatch_core.products.explain import explain
from levelmatch_core.settings import MatchSettings
from levelmatch_core.simulate import SimulatedProgram, simulate


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("program")
    simulate(folder, SimulatedProgram.of(tiles=(2, 2), dithers=2, size=128, stars=20))
    return folder


def plan(folder, tmp_path, **settings):
    return plan_run(Request(inputs=(folder,), output=tmp_path / "out", settings=MatchSettings(**settings)))


def test_the_plan_is_what_the_run_does_and_writes_nothing(program, tmp_path, level_match):
    planned = plan(program, tmp_path)
    assert not (tmp_path / "out").exists()
    result = level_match(program, output=tmp_path / "out")
    (field,), (match,) = planned.fields, result.matches
    assert field.grid == match.grid
    assert set(field.tiles) == {exposure.tile for exposure in match.field.exposures}
    for stage, done in zip(field.stages, match.stages, strict=True):
        promised = {(pair.first, pair.second) for group in stage.groups for pair in group.pairs}
        found = {(p.fit.first, p.fit.second) for solution in done.solutions for p in solution.pairs}
        assert stage.stage == done.stage
        assert found <= promised
        assert len(promised) <= len(found) + 1
    (expected,) = field.stages[-1].groups[0].references
    assert expected[0] in field.tiles
    assert planned.cost.cpu_seconds > 0


def test_the_plan_names_every_tile_pair_and_the_reference(program, tmp_path):
    planned = plan(program, tmp_path, reference="jw01234002001_02101_mirimage")
    text = describe(planned)
    (field,) = planned.fields
    for tile in field.tiles:
        assert f"tile {tile}: " in text
    for stage in field.stages:
        for pair in (pair for group in stage.groups for pair in group.pairs):
            assert f"{pair.first} - {pair.second}: {pair.overlap:.0f} pixels" in text
    assert "expected reference jw01234002001_02101_mirimage: named by the user" in text
    assert "cost: about" in text


def test_the_plan_keeps_the_reference_of_the_output(program, tmp_path, level_match):
    level_match(program, output=tmp_path / "out", reference="jw01234004001_02101_mirimage")
    with pytest.raises(OutputFolderError, match="reference was 'jw01234004001_02101_mirimage', now None"):
        plan(program, tmp_path)  # as a run would
    (field,) = plan(program, tmp_path, overwrite=True).fields
    ((name, reason),) = field.stages[-1].groups[0].references
    assert name == "jw01234004001_02101_mirimage"
    assert "kept from the earlier run" in reason


def test_the_plan_says_what_will_not_be_tied(tmp_path):
    folder = tmp_path / "in"
    simulate(folder, SimulatedProgram.of(tiles=(3, 1), dithers=1, size=128, stars=5))
    # without the tile in the middle the two ends do not meet: they are fields of their own
    sorted(folder.glob("*.fits"))[1].unlink()
    planned = plan(folder, tmp_path)
    assert len(planned.fields) == 2
    assert describe(planned).count("nothing to match") >= 2


def test_a_plan_refuses_what_a_run_would_refuse(program, tmp_path):
    with pytest.raises(SettingsError, match="is no tile of the input"):
        plan(program, tmp_path, reference="nowhere")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.fits").write_bytes(b"no fits")
    with pytest.raises(NoInputError):
        plan(tmp_path / "empty", tmp_path)


def test_the_story_names_reference_rejections_and_quality(program, tmp_path, level_match):
    result = level_match(program, output=tmp_path / "out", min_linear_frac=0.5)
    text = explain(tmp_path / "out")
    (field,) = result.record.fields
    assert "8 of 8 exposures are matched" in text
    assert f"its zero is that of {field.components[0].reference}, chosen because: " in text
    pairs = Table.read(tmp_path / "out" / "pairs.ecsv", format="ascii.ecsv")
    rejected = pairs[pairs["reason"] == "overlap too short"]
    assert len(rejected)
    assert f"{rejected['first'][0]} - {rejected['second'][0]}: reaches" in text
    assert "min_linear_frac (0.5)" in text
    assert "lower min_linear_frac" in text
    assert "the pairs' own errors" in text
    assert "--steps.skymatch.skip=true" in text


def test_the_story_tells_a_chain_from_a_net(tmp_path, level_match):
    folder = tmp_path / "in"
    simulate(folder, SimulatedProgram.of(tiles=(3, 1), dithers=1, size=128, stars=5))
    level_match(folder, output=tmp_path / "out", min_linear_frac=0.0)
    text = explain(tmp_path / "out")
    assert "Every level hangs on a single chain of pairs" in text
    assert "2 pairs are bridges" in text


def test_a_folder_without_output_has_no_story(tmp_path):
    with pytest.raises(OutputFolderError, match=r"no run\.json"):
        explain(tmp_path)
    (tmp_path / "run.json").write_text("{}", encoding="utf-8")
    with pytest.raises(OutputFolderError, match="not a run"):
        explain(tmp_path)
