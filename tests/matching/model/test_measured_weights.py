"""Weights by error: a pair counts by its whole error, what it shows beyond pixel noise included."""

import numpy as np
import pytest

from levelmatch_core.matching.match import match
from levelmatch_core.matching.model.problem import build
from levelmatch_core.matching.results import Gauge
from tests.matching.fakes import NO_REJECTION, fit_all, grid_positions, make_cutout, settings_for

SIZE, NOISE = 128, 0.05


def errors(glow: float, seed: int, **settings: object) -> np.ndarray:
    """The errors of the levels of 3 x 3 tiles, the middle one with a glow along the edge that three neighbours see."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 1, 9)
    cutouts = []
    for number, (x0, y0) in enumerate(grid_positions(3, 3, SIZE, 0.2)):
        data = truth[number] + NOISE * rng.standard_normal((SIZE, SIZE))
        if number == 4:
            data += glow * np.exp(-(SIZE - 1 - np.arange(SIZE)) / 10.0)
        cutouts.append(make_cutout(f"m{number}", data, x0, y0))
    options = settings_for("mosaic_tiles", weight_method="error", statistic="adaptive", **{**NO_REJECTION, **settings})
    members, fits = fit_all(cutouts, "level", options)
    solution = match("mosaic_tiles", "f", members, fits, Gauge.REFERENCE, options)
    found = np.array([one.plane.level for one in solution.members]) - truth
    return found - found.mean()


@pytest.mark.parametrize("seed", range(3))
def test_light_that_one_tile_alone_sees_hardly_moves_the_others(seed: int) -> None:
    """It is in three pairs, which show it; their own pixel noise says nothing of it (then 6 to 7 times)."""
    clean, glowing = errors(0.0, seed), errors(0.1, seed)
    assert np.std(glowing) < 2.5 * np.std(clean)


def test_a_pair_counts_by_its_whole_error() -> None:
    rng = np.random.default_rng(1)
    cutouts = [make_cutout(f"m{i}", rng.standard_normal((40, 40)), 20 * i) for i in range(4)]
    members, fits = fit_all(cutouts, "level", settings_for())
    shown = [fit.model_copy(update={"structure": 3 * fit.stderr * number}) for number, fit in enumerate(fits)]
    for method, told in (("error", True), ("equal", False), ("npix", False), ("rms", False)):
        options = settings_for(weight_method=method)
        without, with_ = (build(members, given, "level", [], options).weights for given in (fits, shown))
        ratios = [9.0 * number**2 for number in range(len(fits))]
        typical = float(np.median(ratios))
        expected = [(1 + typical) * (1 + max(one, 4 * typical)) / (1 + 4 * typical) if told else 1.0 for one in ratios]
        assert without / with_ == pytest.approx(expected)
    wrong = [fit.model_copy(update={"structure": 6 * fit.stderr * (1 + number)}) for number, fit in enumerate(fits)]
    options = settings_for(weight_method="error")
    of_noise, of_model = (build(members, given, "level", [], options).weights for given in (fits, wrong))
    assert of_model == pytest.approx(of_noise)  # all show it: it is the model that is wrong, and no pair
