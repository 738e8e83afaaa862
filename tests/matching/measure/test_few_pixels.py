"""Pairs of a handful of pixels are as uncertain as they are, and decide on nothing."""

import numpy as np
import pytest

from levelmatch_core.matching.match import match
from levelmatch_core.matching.measure.few_pixels import FEW, with_typical_noise
from levelmatch_core.matching.results import Gauge
from tests.matching.fakes import NO_REJECTION, fit_all, made_up_fit, make_cutout, member, plane_at, scene, settings_for

SIZE, STEP, COLUMNS = 40, 30, 5


def sheared(across: int, up: int) -> list[tuple[int, int]]:
    """Places of tiles of which diagonal neighbours on one side have 10 - `across` by 10 - `up` pixels in common."""
    return [(STEP * i + across * j, STEP * j + up * i) for j in range(COLUMNS) for i in range(COLUMNS)]


@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
@pytest.mark.parametrize(("across", "up"), [(9, 9), (9, 8), (8, 8), (7, 8)])
def test_corners_of_few_pixels_change_no_error(fit_type: str, across: int, up: int) -> None:
    """1, 2, 4 and 6 pixels: errors are what is stated, next to those without the corners, and no pair contradicts."""
    settings = settings_for("mosaic_tiles", fit_type, statistic="adaptive", weight_method="error", **NO_REJECTION)
    places = sheared(across, up)
    squares, without, excess, pulls = [], [], [], []
    for seed in range(6):
        random = np.random.default_rng(seed)
        truth = np.concatenate([10 * random.standard_normal((len(places), 1)), random.standard_normal((25, 2)) / 40], 1)
        truth[:, 1:] *= fit_type == "level+slope"
        cutouts = scene(places, (SIZE, SIZE), truth, 1.0, random)
        members, fits = fit_all(cutouts, fit_type, settings)
        corner = (10 - across) * (10 - up)
        assert sum(fit.npix == corner for fit in fits) == (COLUMNS - 1) ** 2
        for used, errors in ((fits, squares), ([fit for fit in fits if fit.npix > corner], without)):
            found = match("mosaic_tiles", "a", members, used, Gauge.REFERENCE, settings)
            planes = [plane_at(cutout.record, row) for cutout, row in zip(cutouts, truth, strict=True)]
            wrong = [one.plane.level - true.level for one, true in zip(found.members, planes, strict=True)]
            errors.append(np.mean((np.array(wrong) - np.mean(wrong)) ** 2))
            excess.append(found.components[0].excess_scatter)
            pulls += [pair.residual / pair.sigma for pair in found.pairs if pair.sigma and pair.fit.npix == corner]
    # by chance there is some in one of a few programs; of planes there was 0.09 in all
    assert np.mean(excess[::2]) < np.mean(excess[1::2]) + 0.02
    assert np.mean(squares) < 1.1 * np.mean(without)
    assert 0.6 < np.std(pulls) < 1.4


def test_pairs_of_enough_pixels_are_left_as_they_are() -> None:
    a, b = member(make_cutout("a", np.zeros((9, 9)))), member(make_cutout("b", np.zeros((9, 9))))
    many = [made_up_fit(a, b, plane_at(a.cutout, (1.0,)), (0, 0, 6, 6), rms=rms, npix=FEW) for rms in (0.0, 1.0, 2.0)]
    assert with_typical_noise(many, "level") == many
    few = made_up_fit(a, b, plane_at(a.cutout, (1.0,)), (0, 0, 2, 1), rms=0.0, npix=2)
    *same, changed = with_typical_noise([*many, few], "level+slope")
    assert same == many
    assert changed.rms == pytest.approx(1.0)
    assert changed.stderr == pytest.approx(1.0 / np.sqrt(2))


def test_where_all_have_few_pixels_they_show_together_what_is_typical() -> None:
    a, b = member(make_cutout("a", np.zeros((9, 9)))), member(make_cutout("b", np.zeros((9, 9))))
    ten = made_up_fit(a, b, plane_at(a.cutout, (5.0,)), (0, 0, 5, 2), rms=3.0, npix=10)
    one = made_up_fit(a, b, plane_at(a.cutout, (5.0,)), (0, 0, 1, 1), rms=0.0, npix=1)
    own, without = with_typical_noise([ten, one], "level")
    assert own.rms == pytest.approx(3.0 * np.sqrt(10 / 9))
    assert without.rms == pytest.approx(own.rms)
    assert without.stderr == pytest.approx(without.rms)
    (unknown,) = with_typical_noise([one], "level")  # the whole difference may be noise
    assert unknown.stderr == pytest.approx(5.0)


def test_a_single_pixel_in_common_is_as_uncertain_as_its_difference_is_large() -> None:
    """The error of a level that hung on one pixel was 1e-13, since one pixel does not scatter."""
    settings = settings_for("mosaic_tiles", "level", statistic="adaptive", weight_method="error", **NO_REJECTION)
    cutouts = scene([(0, 0), (8, 8)], (9, 9), np.array([[0.0, 0, 0], [7.0, 0, 0]]), 1.0, np.random.default_rng(1))
    members, fits = fit_all(cutouts, "level", settings)
    assert [fit.npix for fit in fits] == [1]
    found = match("mosaic_tiles", "a", members, fits, Gauge.REFERENCE, settings)
    level, sigma = max((abs(one.plane.level), one.sigma[0]) for one in found.members)
    assert sigma == pytest.approx(level)


def test_the_scatter_of_a_few_pixels_counts_for_as_much_as_it_says() -> None:
    """Of pairs of 4 and 20 pixels with a noise of their own, the variance is nearer to the truth than either alone."""
    random = np.random.default_rng(1)
    a, b = member(make_cutout("a", np.zeros((9, 9)))), member(make_cutout("b", np.zeros((9, 9))))
    plane = plane_at(a.cutout, (1.0,))
    others = [made_up_fit(a, b, plane, (0, 0, 9, 9), rms=1.0)] * 3
    for count in (4, 20):
        own, typical, combined = [], [], []
        for _ in range(300):
            noise = np.exp(0.35 * random.standard_normal())
            pixels = noise * random.standard_normal(count)
            few = made_up_fit(a, b, plane, (0, 0, 2, 2), rms=float(np.std(pixels)), npix=count)
            *_, changed = with_typical_noise([*others, few], "level")
            for errors, rms in ((own, np.std(pixels, ddof=1)), (typical, 1.0), (combined, changed.rms)):
                errors.append(np.log(rms / noise) ** 2)
        assert np.mean(combined) < min(np.mean(own), np.mean(typical))
