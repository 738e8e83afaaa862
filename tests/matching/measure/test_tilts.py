"""Levels of exposures that are tilted: what their overlaps show of it, and what they do not, is in the errors."""

import numpy as np
import pytest

from levelmatch_core.matching.match import match
from levelmatch_core.matching.measure.tilts import with_tilts
from levelmatch_core.matching.results import Gauge, Solution
from tests.matching.fakes import NO_REJECTION, fit_all, grid_positions, make_cutout, settings_for

SIZE = 100


def levels_of(slopes: np.ndarray, columns: int, overlap: float, noise: float, seed: int) -> Solution:
    """Fit levels to exposures of level 0 with planes of these slopes over half their width."""
    rng = np.random.default_rng([seed, 1])
    half = (np.arange(SIZE) - (SIZE - 1) / 2) / (SIZE / 2)
    cutouts = [
        make_cutout(
            f"e{number:02d}", along * half + down * half[:, None] + noise * rng.standard_normal((SIZE, SIZE)), *place
        )
        for number, (place, (along, down)) in enumerate(
            zip(grid_positions(columns, len(slopes) // columns, SIZE, overlap), slopes, strict=True)
        )
    ]
    settings = settings_for("dithers", "level", **NO_REJECTION)
    members, fits = fit_all(cutouts, "level", settings)
    return match("dithers", "", members, fits, Gauge.REFERENCE, settings)


@pytest.mark.parametrize("columns", [12, 4])
def test_the_error_of_a_pair_of_tilted_exposures_is_that_of_its_level(columns: int) -> None:
    """Neighbours with equal slopes show nothing, and their difference is as wrong as that of others."""
    pulls, equal = [], []
    for seed in range(6):
        slopes = np.random.default_rng(seed).normal(0, 0.5, (12, 2))
        slopes[1] = slopes[0]
        fits = [pair.fit for pair in levels_of(slopes, columns, 0.12, 0.1, seed).pairs]
        pulls += [fit.plane.level / fit.structure for fit in fits]
        equal += [fit.structure for fit in fits if fit.first == "e00" and fit.second == "e01"]
    assert 0.6 < np.sqrt(np.mean(np.square(pulls))) < 1.4
    assert np.max(np.abs(pulls)) < 4
    assert np.mean(equal) == pytest.approx(0.5 * 0.88 * np.sqrt(2), rel=0.4)


def test_one_tilted_exposure_is_in_its_own_pairs_only() -> None:
    slopes = np.zeros((12, 2))
    slopes[6] = 0.5, 0.0
    solution = levels_of(slopes, 12, 0.12, 0.1, 3)
    shown = {pair.fit.first: pair.fit.structure for pair in solution.pairs}
    assert [name for name, size in shown.items() if size > 0.1] == ["e05", "e06"]
    assert shown["e05"] == pytest.approx(0.5 * 0.88, rel=0.3)


def test_noise_alone_has_no_tilt() -> None:
    solution = levels_of(np.zeros((12, 2)), 4, 0.12, 0.1, 4)
    assert np.mean([pair.fit.structure > 0 for pair in solution.pairs]) < 0.1
    assert not any(any(pair.fit.tilt or ()) for pair in solution.pairs)


def test_without_slopes_pairs_stay_as_they_are() -> None:
    assert with_tilts([]) == []
