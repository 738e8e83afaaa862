"""The four chips of a NIRCam module, by hand and in the whole step."""

import numpy as np
import pytest
from astropy.table import Table

from levelmatch_core import LevelMatchStep
from levelmatch_core.simulate import SimulatedProgram, simulate


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    folder = tmp_path_factory.mktemp("module")
    options = {"instrument": "nircam_short", "tiles": (1, 1), "dithers": 4, "size": 96, "stars": 0}
    return folder, simulate(folder, SimulatedProgram.of(**options))


def test_the_chips_of_a_module_have_their_true_levels(module, tmp_path):
    folder, truth = module
    true = {one.file: one.plane.level for one in truth.exposures}
    step = LevelMatchStep(folder, tmp_path / "out", "cal", 1, "F200W", do_local_subtraction=False)
    pattern = "jw01234001001_02101_*"  # all chips of the pointing
    chips = [f"{pattern}nrca{number}" for number in range(1, 5)]
    dithers = step.match_dithers(chips)
    found = step.parallel_match_nircam_short(pattern, None, "level")
    total = np.array([dithers[name].level + found[name].level for name in true])
    assert set(found) == set(true)
    assert np.std(list(true.values())) > 0.5
    np.testing.assert_allclose(
        total - total.mean(), np.array(list(true.values())) - np.mean(list(true.values())), atol=0.04
    )
    again = step.match_nircam_short(sorted(true))
    assert {name: plane.level for name, plane in again.items()} == {name: plane.level for name, plane in found.items()}
    step.match_mosaic_tiles(chips)  # the module is one tile from then on
    step.apply()
    table = Table.read(step.out_dir / "corrections.ecsv")
    np.testing.assert_allclose(
        table["level"], [dithers[n].level + found[n].level for n in table["exposure"]], atol=1e-9
    )
