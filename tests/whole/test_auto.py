"""Level or plane, chosen: through the whole way, and told in every place where a user looks."""

import json

import pytest

from levelmatch_core.products.explain import explain
from levelmatch_core.simulate import SimulatedProgram, simulate


@pytest.mark.parametrize("planes", [False, True])
def test_the_choice_is_made_and_told(planes, tmp_path, level_match):
    program = SimulatedProgram.of(
        instrument="generic", tiles=(3, 3), size=96, stars=5, noise=0.1, planes=planes, overlap=0.3, seed=4
    )
    simulate(tmp_path / "in", program)
    result = level_match(tmp_path / "in", fit_type_mosaic_tiles="auto", figures="summary", weight_method="error")
    assert result.complete
    (match,) = result.matches
    stage = match.stages[-1]
    choice = stage.solutions[0].status.choice
    assert choice is not None
    assert choice.tested > 10
    if planes:
        assert choice.chosen == "level+slope"
        assert choice.plane_seam < 0.2 * choice.level_seam
    expected = choice.chosen
    assert {solution.fit_type for solution in stage.solutions} == {expected}
    assert {correction.fit_types["mosaic_tiles"] for correction in result.corrections} == {expected}
    out = result.request.output
    summary = json.loads((out / "run.json").read_text())["fields"][0]["stages"][-1]
    assert summary["choice"]["reason"] == choice.reason
    assert summary["fit_type"] == expected
    assert summary["loops"] > 0
    assert 0 < summary["modes"][0]["sigma"] < 1
    told = explain(out)
    assert f"Chosen: {choice.reason}" in told
    assert "independent loops of overlaps close" in told
    assert "The pattern of corrections that the overlaps see least may be off by" in told
    page = (out / "report.html").read_text()
    assert "left-out pairs" in page
    assert "independent loops of overlaps close" in page
    assert "Weakest modes" in page
    assert (out / "figures" / f"{result.matches[0].field.name}_modes.svg").stat().st_size > 3000


def test_few_slopes_that_are_chosen_have_the_most_probable_prior(tmp_path, level_match):
    program = SimulatedProgram.of(
        instrument="generic", tiles=(2, 2), size=64, stars=0, noise=12.0, planes=True, overlap=0.3, seed=4
    )
    simulate(tmp_path / "in", program)
    priors = {}
    for how in ("auto, auto", "level+slope, probable", "level+slope, auto"):
        fit_type, prior = how.split(", ")
        settings = {"fit_type_mosaic_tiles": fit_type, "slope_prior": prior, "weight_method": "error"}
        result = level_match(tmp_path / "in", output=tmp_path / how.replace(", ", "_"), **settings)
        (solution,) = result.matches[0].stages[-1].solutions
        assert solution.fit_type == "level+slope"
        priors[how] = solution.components[0].slope_prior
    assert priors["auto, auto"] == priors["level+slope, probable"] < priors["level+slope, auto"]
