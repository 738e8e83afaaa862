"""Levels are as efficient as means where pairs are free of sources and all agree, and robust elsewhere."""

import numpy as np
import pytest

from levelmatch_core.matching.measure.efficiency import ALONE, combined
from levelmatch_core.matching.measure.pair_fit import fit_pair
from levelmatch_core.matching.results import PairFit
from tests.benchmarks.accuracy import Mosaic, trials
from tests.matching.fakes import fit_all, make_cutout, settings_for

ADAPTIVE = settings_for(statistic="adaptive")
SIDE = 60


def fitted(difference: np.ndarray) -> PairFit:
    fit = fit_pair(make_cutout("a", np.zeros(difference.shape)), make_cutout("b", difference), "level", ADAPTIVE)
    assert fit is not None
    return fit


def noisy(count: int, seed: int = 1) -> list[PairFit]:
    rng = np.random.default_rng(seed)
    return [fitted(rng.standard_normal((SIDE, SIDE))) for _ in range(count)]


def test_many_pairs_of_noise_are_as_good_as_their_means() -> None:
    alone = noisy(600)
    together = combined(alone)
    scatter = [SIDE * np.std([fit.plane.level for fit in fits]) for fits in (alone, together)]
    # 600 draws: 2.9 % (1 sigma), the same in both
    assert scatter[1] < 1.04 < scatter[0]
    assert np.std([fit.plane.level / fit.stderr for fit in together]) == pytest.approx(1.0, abs=0.07)
    assert all(fit.efficient is None for fit in together)
    assert combined(together) == together


def test_the_scatter_of_the_median_about_the_efficient_level_is_known() -> None:
    apart = [fit.efficient[2] for fit in noisy(600, 2) if fit.efficient is not None]
    assert len(apart) > 590
    assert np.std(apart) == pytest.approx(1.0, abs=0.07)


def test_pairs_that_contradict_keep_their_robust_level() -> None:
    """Bright pixels of one sign that clipping leaves: the efficient level is off, the median hardly."""
    rng = np.random.default_rng(3)
    fits = []
    for _ in range(8):
        difference = rng.standard_normal((200, 200))
        difference[rng.random(difference.shape) < 0.02] += 2.0
        fits.append(fitted(difference))
    assert all(fit.efficient is not None and fit.efficient[2] < 0 for fit in fits)
    for before, after in zip(fits, combined(fits), strict=True):
        assert abs(after.plane.level) < 0.5 * abs(before.plane.level) + 0.5 * abs(before.efficient[0])
        assert after.stderr >= min(before.stderr, before.efficient[1])
    one = [fits[0].model_copy(update={"efficient": (1.0, fits[0].stderr, ALONE + 1)}), *noisy(5)]
    assert combined(one)[0].plane == one[0].plane


def test_crowded_pairs_and_few_pairs_are_left_as_they_are() -> None:
    rng = np.random.default_rng(4)
    crowded = rng.standard_normal((SIDE, SIDE)) + rng.exponential(0.3, (SIDE, SIDE)) ** 3
    assert fitted(crowded + np.where(rng.random(crowded.shape) < 0.1, 30, 0)).efficient is None
    two = noisy(2)
    assert combined(two) == two


@pytest.mark.slow
def test_mosaics_of_noise_are_near_the_bound_of_the_mean() -> None:
    mosaic = Mosaic(side=5, size=128)
    found = trials(mosaic, 1, 5.0, 20, statistic="adaptive")
    assert np.sqrt(np.mean([trial.modes for trial in found])) < 1.10


def test_loops_over_the_same_pixels_scatter_by_what_pairs_do_not_share() -> None:
    """Means close exactly; what each pair clips, and the largest differences, are its own."""
    options, scatter = settings_for(statistic="adaptive"), []
    for seed in range(60):
        images = np.random.default_rng(seed).standard_normal((3, 100, 100))
        _, fits = fit_all([make_cutout(f"e{i}", one) for i, one in enumerate(images)], "level", options)
        pairs = {(fit.first, fit.second): fit for fit in combined(fits)}
        level = {pair: fit.plane.level for pair, fit in pairs.items()}
        off = level["e0", "e1"] + level["e1", "e2"] - level["e0", "e2"]
        scatter.append(off / np.sqrt(sum(fit.stderr**2 * (1 - fit.shared) for fit in pairs.values())))
    found = np.sqrt(np.mean(np.square(scatter)))
    assert 0.7 < found < 1.3
