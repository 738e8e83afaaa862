"""Standard errors that the blocks of a group's pairs correct: true ones in crowds, unchanged ones in noise."""

import itertools
import math

import numpy as np
import pytest

from levelmatch_core import MatchSettings
from levelmatch_core.matching.measure.noise_scale import noise_factor, scaled
from levelmatch_core.matching.measure.pair_fit import fit_pair
from levelmatch_core.matching.results import PairFit
from tests.matching.fakes import make_cutout

SHAPE = (96, 128)
BEST = MatchSettings.from_mapping({"preset": "best"})
AS_IT_IS = MatchSettings.from_mapping({"preset": "best", "match_psf": False})
"""No pair is smoothed."""
KERNEL = np.outer([1.0, -2.0, 1.0], [1.0, -2.0, 1.0]) / 4


def exposure(rng: np.random.Generator, stars: int) -> np.ndarray:
    """Return noise, and what sampling leaves of stars: as much above as below the level, within three pixels."""
    data = rng.standard_normal(SHAPE)
    rows, columns = rng.integers(1, SHAPE[0] - 1, stars), rng.integers(1, SHAPE[1] - 1, stars)
    for row, column, peak in zip(
        rows, columns, rng.normal(0, 1, stars) * 3 * (1 + rng.pareto(1.5, stars)), strict=True
    ):
        data[row - 1 : row + 2, column - 1 : column + 2] += peak * KERNEL
    return data


def pairs(seed: int, members: int, stars: int, settings: MatchSettings = BEST) -> list[PairFit]:
    rng = np.random.default_rng(seed)
    cutouts = [make_cutout(f"e{number}", exposure(rng, stars)) for number in range(members)]
    found = [fit_pair(one, other, "level", settings) for one, other in itertools.combinations(cutouts, 2)]
    return [fit for fit in found if fit is not None]


def pull(fits: list[PairFit]) -> float:
    return float(np.sqrt(np.mean([(fit.plane.level / fit.stderr) ** 2 for fit in fits])))


def test_errors_in_a_crowd_are_those_of_the_levels() -> None:
    groups = [pairs(seed, 4, 1500, AS_IT_IS) for seed in range(16)]
    before = pull(list(itertools.chain.from_iterable(groups)))
    after = pull(list(itertools.chain.from_iterable(map(scaled, groups))))
    assert before < 0.75
    assert 0.8 < after < 1.15


def loops_scatter(groups: list[list[PairFit]]) -> float:
    """Return the rms of the sums around triangles, over what pairs have that others over the same pixels do not."""
    sums = []
    for fits in groups:
        by = {(fit.first, fit.second): fit for fit in fits}
        for one, two, three in itertools.combinations(sorted({name for pair in by for name in pair}), 3):
            there, on, back = by[one, two], by[two, three], by[one, three]
            own = sum(fit.stderr**2 * (1 - fit.shared) for fit in (there, on, back))
            sums.append((there.plane.level + on.plane.level - back.plane.level) / math.sqrt(own))
    return float(np.sqrt(np.mean(np.square(sums))))


@pytest.mark.parametrize("settings", [AS_IT_IS, BEST], ids=["as it is", "smoothed"])
def test_loops_of_a_crowd_scatter_by_what_pairs_have_of_their_own(settings: MatchSettings) -> None:
    """What blocks show less of is the noise that pairs share: sums were stated too small by the root of that part."""
    groups = [scaled(pairs(seed, 4, 1500, settings)) for seed in range(16)]
    assert loops_scatter(groups) < 1.2


def test_what_a_pair_has_of_its_own_stays() -> None:
    fits = pairs(2, 4, 1500, AS_IT_IS)
    for fit, after in zip(fits, scaled(fits), strict=True):
        assert after.stderr < 0.95 * fit.stderr
        own = fit.stderr**2 * (1 - fit.shared)
        assert after.stderr**2 * (1 - after.shared) == pytest.approx(min(own, after.stderr**2))


def test_errors_of_noise_stay_what_they_are() -> None:
    factors = [noise_factor(pairs(seed, 4, 0)) for seed in range(30)]
    assert np.mean(factors) > 0.985
    assert min(factors) > 0.75


def test_one_pair_says_little_of_itself() -> None:
    """Its 64 blocks know its variance to 18 %: two of these are left to chance, three tenths to what blocks share."""
    fit = pairs(0, 2, 0)[0].model_copy(update={"noise_by_blocks": (0.4, 64)})
    assert noise_factor([fit]) == pytest.approx(0.3 + 0.7 * 0.4 * (1 + 2 * math.sqrt(2 / 63)))
    assert scaled([fit])[0].stderr == pytest.approx(math.sqrt(noise_factor([fit])) * fit.stderr)


def test_structure_of_single_pairs_makes_no_others_worse() -> None:
    fits = pairs(1, 4, 0)
    fits[0] = fits[0].model_copy(update={"noise_by_blocks": (40.0, 64)})
    assert noise_factor(fits) <= 1.0
    assert noise_factor([fit.model_copy(update={"noise_by_blocks": None}) for fit in fits]) == 1.0


def test_a_second_comparison_changes_nothing() -> None:
    once = scaled(pairs(2, 4, 1500, AS_IT_IS))
    assert scaled(once) == once
