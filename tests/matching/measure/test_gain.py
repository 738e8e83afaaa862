"""A difference that grows with brightness is an error of gain: its size, its error, and no false alarm."""

import numpy as np
import pytest

from levelmatch_core.matching.measure.pair_fit import fit_pair
from levelmatch_core.products.runrecord import GAIN_LIMIT
from tests.benchmarks.statistics import SCENES, pair_of
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


@pytest.mark.parametrize(("gain", "sign"), [(1.0026, 1), (1 / 1.0026, -1)])
def test_a_quarter_of_a_per_cent_is_flagged_in_a_bright_nebula(gain, sign):
    """0.0028 mag: what the zero points of two scans of 2MASS differ by; and none is flagged where there is none."""
    found = np.array([measured(seed, gain, sky=10 * NEBULA) for seed in range(20)])
    assert np.all(sign * found[:, 0] > GAIN_LIMIT * found[:, 1])
    pulls = (found[:, 0] - sign * 0.0026) / found[:, 1]
    assert abs(pulls.mean()) < 0.6
    assert 0.6 < pulls.std() < 1.3
    none = np.array([measured(seed, 1.0, sky=10 * NEBULA) for seed in range(20)])
    assert np.all(np.abs(none[:, 0]) < 3.5 * none[:, 1])


@pytest.mark.parametrize("scene", ["bright emission, one PSF", "stars, one PSF"])
def test_what_sampling_leaves_of_a_scene_is_no_gain(scene):
    """Pixels one by one would be 2.3 times too sure of it, and call every twentieth pair an error of gain."""
    sizes = []
    for seed in range(25):
        fit = fit_pair(*pair_of(SCENES[scene], np.random.default_rng(seed)), "level", settings_for())
        sizes.append(fit.gain[0] / fit.gain[1])
    assert np.all(np.abs(sizes) < GAIN_LIMIT)
    assert np.std(sizes) < 2.1


def test_slivers_and_noise_free_pairs_say_nothing():
    thin = fit_pair(make_cutout("a", NEBULA[:, :5]), make_cutout("b", NEBULA[:, :5] + 1), "level", settings_for())
    assert thin.gain is None
    assert measured(0, noise=(0.0, 0.0)) is None or measured(0, noise=(0.0, 0.0))[1] < 1e-6


@pytest.mark.fast
@pytest.mark.parametrize("noisy", [0, 1])
def test_what_resampling_leaves_of_the_noise_of_one_exposure_is_no_gain(noisy):
    """Noise of 100 times the other's, correlated by 6 % at three pixels, was a gain of 1.9 of eight sigma."""
    found = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        images = [NEBULA / 20 + 0.05 * rng.standard_normal(SHAPE), NEBULA / 20 + 0.05 * rng.standard_normal(SHAPE)]
        noise = 5 * rng.standard_normal((SHAPE[0], SHAPE[1] + 3))
        images[noisy] += noise[:, 3:] + 0.06 * noise[:, :-3]
        fit = fit_pair(make_cutout("a", images[0]), make_cutout("b", images[1]), "level", settings_for())
        found.append(fit.gain)
    assert all(one is None or abs(one[0]) < 3.5 * one[1] for one in found)


@pytest.mark.fast
def test_a_gain_of_a_noisy_exposure_is_found():
    found = np.array([measured(seed, 1.5, noise=(0.5, 5.0)) for seed in range(10)])
    pulls = (found[:, 0] - 0.5 / 1.25) / found[:, 1]
    assert np.all(found[:, 0] > GAIN_LIMIT * found[:, 1])
    assert np.all(np.abs(pulls) < 4)
