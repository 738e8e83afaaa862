"""A difference that grows with brightness is an error of gain: its size, its error, and no false alarm."""

import numpy as np
import pytest

from levelmatch_core.matching.overlap import fit_pair
from tests.matching.fakes import make_cutout, settings_for

SHAPE = (120, 160)
Y, X = np.mgrid[: SHAPE[0], : SHAPE[1]]
NEBULA = 100 + 20 * np.sin(X / 25) * np.cos(Y / 31) + 0.1 * X


def measured(seed, gain=1.0, *, noise=(1.0, 1.0), sky=NEBULA, fit_type="level", gradient=0.0):
    rng = np.random.default_rng(seed)
    one, other = (scale * rng.standard_normal(SHAPE) for scale in noise)
    first, second = sky + one, gain * sky + 7 + gradient * X + other
    fit = fit_pair(make_cutout("a", first), make_cutout("b", second), fit_type, settings_for())
    return fit.gain


@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
def test_a_gain_is_found_with_its_error(fit_type):
    found = np.array([measured(seed, 1.02, fit_type=fit_type) for seed in range(40)])
    pulls = (found[:, 0] - 0.02 / 1.01) / found[:, 1]  # against the mean of both
    assert abs(pulls.mean()) < 0.6
    assert 0.75 < pulls.std() < 1.25
    assert (found[:, 0] / found[:, 1]).mean() > 4
    assert found[:, 2].mean() == pytest.approx(NEBULA.mean() + 3.5, rel=0.03)


@pytest.mark.parametrize("noise", [(1.0, 1.0), (0.2, 1.0), (1.0, 0.1)])
@pytest.mark.parametrize("sky", ["nebula", "empty"])
def test_levels_and_gradients_are_no_gains(noise, sky):
    """Also of unequal noise, which a plain regression takes for a gain, and where there is no brightness at all."""
    image = NEBULA if sky == "nebula" else np.full(SHAPE, 50.0)
    found = [measured(seed, noise=noise, sky=image, gradient=0.01) for seed in range(60)]
    sizes = np.array([one[0] / one[1] for one in found if one is not None])
    assert np.all(np.abs(sizes) < 4)
    if sky == "nebula":
        assert len(sizes) == 60
        assert 0.75 < sizes.std() < 1.3


def test_slivers_and_noise_free_pairs_say_nothing():
    thin = fit_pair(make_cutout("a", NEBULA[:, :5]), make_cutout("b", NEBULA[:, :5] + 1), "level", settings_for())
    assert thin.gain is None
    assert measured(0, noise=(0.0, 0.0)) is None or measured(0, noise=(0.0, 0.0))[1] < 1e-6
