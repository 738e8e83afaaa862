"""What pairs over the same sky share of their noise, where each image has holes of its own."""

import numpy as np
import pytest

from levelmatch_core.matching.measure.pair_fit import fit_pair
from tests.matching.fakes import make_cutout, settings_for

SIDE = 64
TRIPLES = 200


@pytest.mark.parametrize("statistic", ["huber", "adaptive", "clipped_mean"])
@pytest.mark.parametrize("holes", [0.05, 0.2])
def test_the_sum_of_a_loop_scatters_by_what_its_pairs_do_not_share(statistic: str, holes: float) -> None:
    rng = np.random.default_rng(17)
    options = settings_for("dithers", statistic=statistic)
    sums, foretold = [], []
    for _ in range(TRIPLES):
        data = rng.normal(size=(3, SIDE, SIDE))
        data[rng.random(data.shape) < holes] = np.nan
        a, b, c = (make_cutout(name, image) for name, image in zip("abc", data, strict=True))
        pairs = [fit_pair(*both, "level", options) for both in ((a, b), (b, c), (a, c))]
        there, on, direct = (pair for pair in pairs if pair is not None)
        sums.append(there.plane.level + on.plane.level - direct.plane.level)
        foretold.append(sum(pair.stderr**2 * (1 - pair.shared) for pair in (there, on, direct)))
    assert 0.7 < np.std(sums) / np.sqrt(np.mean(foretold)) < 1.3


def test_gaps_that_all_images_have_are_no_holes() -> None:
    rng = np.random.default_rng(18)
    data = rng.normal(size=(2, SIDE, SIDE))
    whole = fit_pair(*map(make_cutout, "ab", data), "level", settings_for(statistic="huber"))
    data[:, 10:30, 20:50] = np.nan
    gap = fit_pair(*map(make_cutout, "ab", data), "level", settings_for(statistic="huber"))
    assert whole is not None
    assert gap is not None
    assert gap.shared == pytest.approx(whole.shared, abs=0.02)
