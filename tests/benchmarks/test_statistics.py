"""The main findings of the table of statistics: what clipping costs in a scene, and what it is worth."""

import pytest

from tests.benchmarks.statistics import SCENES, Found, measured

PROGRAMS = 6
CLIPPED = ("median", "clipped mean", "huber")


def found(scene: str, statistic: str, programs: int = PROGRAMS) -> Found:
    return measured(SCENES[scene], statistic, programs)


@pytest.mark.parametrize("statistic", [*CLIPPED, "mean, not clipped"])
def test_white_noise_is_no_matter_of_statistics(statistic: str) -> None:
    noise = found("white noise", statistic, 25)
    assert abs(noise.bias) < 0.6
    assert 0.7 < noise.scatter < 1.4
    assert 0.7 < noise.pull < 1.35


@pytest.mark.parametrize("statistic", CLIPPED)
def test_clipping_is_what_wild_pixels_ask_for(statistic: str) -> None:
    assert abs(found("1 % wild pixels", statistic, 20).bias) < 0.7
    assert found("1 % wild pixels", "mean, not clipped").bias > 100


@pytest.mark.parametrize("statistic", CLIPPED)
def test_clipping_biases_differences_of_unequal_psfs(statistic: str) -> None:
    """Cores go, rings stay: whichever statistic is taken of what is left."""
    scene = "bright emission, PSFs of 0.8 and 1.2 pixels"
    assert found(scene, statistic).bias > 30
    assert abs(found(scene, "mean, not clipped").bias) < 10
    assert found("stars, PSFs of 0.8 and 1.2 pixels", statistic).bias > 2
    assert abs(found("stars, PSFs of 0.8 and 1.2 pixels", "mean, not clipped").bias) < 1


def test_clipping_makes_noise_of_places_on_the_pixels() -> None:
    clipped, plain = (found("bright emission, one PSF", one) for one in ("median", "mean, not clipped"))
    assert clipped.scatter > 2.5 * plain.scatter
    assert clipped.pull > 2
    assert plain.pull < 1.3
