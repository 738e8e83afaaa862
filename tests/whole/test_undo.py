"""Undo, apply and verify on whole runs of simulated programs."""

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from levelmatch_core.products.corrected.reapply import apply_solution
from levelmatch_core.products.corrected.undo import undo
from levelmatch_core.products.corrected.verify import verify
from levelmatch_core.simulate import SimulatedProgram, simulate

PLANES = {f"fit_type_{stage}": "level+slope" for stage in ("dithers", "recombine_lyot", "mosaic_tiles")}


@pytest.mark.slow
@pytest.mark.parametrize("planes", [False, True], ids=["levels", "planes"])
def test_a_lyot_program_there_and_back(tmp_path: Path, level_match, planes):
    simulate(tmp_path / "in", SimulatedProgram(instrument="miri", tiles=(2, 1), dithers=2, size=1024, lyot=True))
    settings = PLANES if planes else {"do_local_subtraction": True}
    result = level_match(tmp_path / "in", recombine_lyot=True, **settings)
    assert result.complete
    out = tmp_path / "out"
    assert verify(out).mismatches == ()
    assert verify(out).images == 4

    given = undo(out, tmp_path / "back")
    assert given.complete
    worst = 0.0
    for path in sorted((tmp_path / "in").glob("*.fits")):
        before, between, after = (
            fits.getdata(folder / path.name, "SCI") for folder in (tmp_path / "in", out / "tiles", tmp_path / "back")
        )
        seen = np.isfinite(before)
        np.testing.assert_array_equal(np.isfinite(after), seen)
        off = np.abs(after[seen].astype("f8") - before[seen])
        bound = (np.spacing(np.abs(before[seen])).astype("f8") + np.spacing(np.abs(between[seen]))) / 2
        assert (off <= bound).all()
        worst = max(worst, float((off / bound).max()))
        assert np.nanmax(np.abs(between - before)[740:, :280]) > 0.1  # the window's own level was taken
    assert worst > 0.01

    # the table alone makes the same files again, from the inputs and nearly so from what was given back
    again = apply_solution(out / "corrections.ecsv", [tmp_path / "in"], tmp_path / "again")
    assert again.complete
    for path in sorted((out / "tiles").iterdir()):
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    third = apply_solution(out / "corrections.ecsv", [tmp_path / "back"], tmp_path / "third")
    assert third.complete
