"""Advice that was tried: through the whole way, into run.json and `explain`."""

import json

import pytest

from levelmatch_core.products.explain import explain
from levelmatch_core.simulate import SimulatedProgram, simulate


@pytest.mark.slow
@pytest.mark.parametrize("planes", [True, False])
def test_planes_are_advised_where_they_were_injected_and_only_there(planes, tmp_path, level_match):
    program = SimulatedProgram.of(
        instrument="generic", tiles=(3, 3), size=96, stars=0, noise=0.1, planes=planes, overlap=0.3, seed=4
    )
    simulate(tmp_path / "in", program)
    result = level_match(tmp_path / "in", weight_method="error")
    stored = json.loads((result.request.output / "run.json").read_text())
    told = explain(result.request.output)
    assert ("better: planes" in told) is planes
    assert ("--set fit_type_mosaic_tiles=level+slope" in told) is planes
    if planes:
        assert stored["grade"] == "doubtful"
        (advice,) = stored["advice"]
        names = {trial["name"] for trial in advice["trials"]}
        assert {"planes", "equal weights", "source masks"} <= names
        assert any(name.startswith("without ") for name in names)
        (trial,) = (trial for trial in advice["trials"] if trial["name"] == "planes")
        assert 0 < trial["error"] < -trial["change"]
        assert any("pairs show slopes of" in remark for remark in advice["remarks"])
        better = level_match(tmp_path / "in", output=tmp_path / "p", fit_type_mosaic_tiles="level+slope")
        assert better.record.grade.rank > result.record.grade.rank
    else:
        assert stored["grade"] == "good"
        assert stored["advice"] == []


def test_the_advice_is_the_same_for_any_number_of_workers(tmp_path, level_match):
    program = SimulatedProgram.of(instrument="generic", tiles=(3, 2), size=64, stars=0, noise=0.1, planes=True, seed=1)
    simulate(tmp_path / "in", program)
    one, two = (level_match(tmp_path / "in", output=tmp_path / str(n), procs=n).record.advice for n in (1, 2))
    assert one == two
    assert one
