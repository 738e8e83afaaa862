"""What would be better, and what no setting mends: known truth, and the jackknife done by hand."""

import math

import numpy as np
import pytest

from levelmatch_core.matching.alternatives import (
    Advice,
    Trial,
    compare,
    detector_pattern,
    noise_remarks,
    predictions_of,
    slope_remarks,
    worst_pair,
)
from levelmatch_core.matching.match import match
from levelmatch_core.matching.results import Gauge
from levelmatch_core.sky.plane import Plane

from .fakes import NO_REJECTION, fit_all, grid_positions, make_cutout, scene, settings_for

SIZE = 40


def solved(cutouts, fit_type, **values):
    settings = settings_for(fit_type=fit_type, slope_prior="off", **NO_REJECTION, **values)
    members, fits = fit_all(cutouts, fit_type, settings)
    return {one.name: one for one in members}, fits, match("dithers", "t", members, fits, Gauge.MEAN, settings)


def tiles(rng, tilt=0.0, noise=0.1):
    truth = rng.normal(0, 1, (9, 3)) * [1.0, tilt, tilt]
    return scene(grid_positions(3, 3, SIZE, 0.4), (SIZE, SIZE), truth, noise, rng)


@pytest.mark.parametrize(("tilt", "better"), [(0.05, True), (0.0, False)])
def test_planes_are_advised_where_exposures_are_tilted_and_only_there(tilt, better):
    cutouts = tiles(np.random.default_rng(4), tilt)
    now, then = (predictions_of([solved(cutouts, kind)[2]]) for kind in ("level", "level+slope"))
    trial = compare("planes", "fit_type_dithers=level+slope", now, then)
    assert trial.is_better is better
    assert trial.change == pytest.approx(math.log(trial.then / trial.now))


def test_the_error_is_the_jackknife_over_members_done_by_hand():
    cutouts = tiles(np.random.default_rng(1))
    now = predictions_of([solved(cutouts, "level")[2]])
    then = predictions_of([solved(cutouts, "level", weight_method="error")[2]])
    names = sorted({name for key in now for name in key[1:]})
    left = []
    for name in names:
        sums = [
            sum((fit.plane.level - plane.level) ** 2 for key, (fit, plane) in side.items() if name not in key)
            for side in (now, then)
        ]
        left.append(0.5 * math.log(sums[1] / sums[0]))
    expected = math.sqrt((len(left) - 1) * np.var(left))
    assert compare("weights", "", now, then).error == pytest.approx(expected, rel=1e-9)


@pytest.mark.slow
def test_the_error_covers_what_chance_does_to_alternatives_that_are_equally_good():
    pulls = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        one, other = tiles(rng), tiles(rng)  # two skies of equal noise: neither is better
        sides = [predictions_of([solved(cutouts, "level")[2]]) for cutouts in (one, other)]
        trial = compare("another sky", "", *sides)
        pulls.append(trial.change / trial.error)
    assert 0.5 < np.std(pulls) < 1.3
    assert np.mean(np.array(pulls) < -2) < 0.08


def test_too_few_pairs_say_nothing():
    cutouts = tiles(np.random.default_rng(2))[:3]
    now = predictions_of([solved(cutouts, "level")[2]])
    assert compare("the same", "", now, now) is None


def patterned(rng, angle, *, fixed):
    """Exposures turned by `angle`, with one bowl in detector coordinates, or each with a tilt."""
    cutouts = []
    axes = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    for number, (x0, y0) in enumerate(grid_positions(3, 3, SIZE, 0.5)):
        y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
        u, v = np.tensordot(axes, np.stack([x, y]), axes=1)
        extra = 0.002 * u**2 - 0.001 * u * v if fixed else 0.03 * (rng.normal() * x + rng.normal() * y)
        data = rng.normal() + extra + 0.1 * rng.standard_normal((SIZE, SIZE))
        cutouts.append(make_cutout(f"m{number}", data, x0, y0, axis_angle=angle))
    return cutouts


@pytest.mark.parametrize("angle", [0.0, 0.6])
@pytest.mark.parametrize("fixed", [True, False])
def test_a_pattern_of_the_detector_is_told_from_tilts(angle, fixed):
    cutouts = patterned(np.random.default_rng(7), angle, fixed=fixed)
    members, fits, solution = solved(cutouts, "level+slope")
    pattern = detector_pattern(fits, members)
    assert pattern.shows is fixed
    assert pattern.one_roll
    assert bool(slope_remarks([solution], members, "MJy/sr")) is True


def test_tilts_alone_are_no_pattern_however_large():
    for seed in range(12):
        cutouts = patterned(np.random.default_rng(seed), 0.3, fixed=False)
        members, fits, _ = solved(cutouts, "level+slope")
        assert detector_pattern(fits, members).chance > 1e-3


def test_noise_alone_is_no_pattern():
    chances = []
    for seed in range(12):
        cutouts = tiles(np.random.default_rng(seed))
        members, fits, _ = solved(cutouts, "level+slope")
        chances.append(detector_pattern(fits, members).chance)
    assert min(chances) > 1e-4
    assert 0.2 < np.median(chances) < 0.98


def test_what_stands_out_is_named():
    rng = np.random.default_rng(3)
    cutouts = tiles(rng)
    noisy = make_cutout("m0004", cutouts[4].data + 3 * rng.standard_normal((SIZE, SIZE)), *cutouts_place(cutouts[4]))
    off = make_cutout("m0008", cutouts[8].data + 200, *cutouts_place(cutouts[8]))
    changed = [*cutouts[:4], noisy, *cutouts[5:8], off]
    assert noise_remarks([solved(cutouts, "level")[2]], "K") == []
    remarks = noise_remarks([solved(changed, "level")[2]], "K")
    assert [remark.split(" is ")[0] for remark in remarks] == ["m0004", "the level of m0008"]
    assert "times as noisy" in remarks[0]


def cutouts_place(cutout):
    return cutout.record.x0, cutout.record.y0


def test_the_worst_pair_is_the_one_that_was_spoilt():
    cutouts = tiles(np.random.default_rng(5))
    members, fits, _ = solved(cutouts, "level")
    spoilt = [
        fit.model_copy(update={"plane": fit.plane + Plane(level=2.0)})
        if (fit.first, fit.second) == ("m0000", "m0001")
        else fit
        for fit in fits
    ]
    settings = settings_for(**NO_REJECTION)
    solution = match("dithers", "t", list(members.values()), spoilt, Gauge.MEAN, settings)
    assert worst_pair([solution]) == ("t", "m0000", "m0001")


def test_planes_are_never_advised_where_the_detector_makes_the_slopes():
    trial = Trial(
        name="planes",
        setting="fit_type_dithers=level+slope",
        pairs=9,
        now=2.0,
        then=1.0,
        change=math.log(0.5),
        error=0.1,
    )
    assert Advice(field="f", stage="dithers", trials=(trial,)).better == (trial,)
    assert Advice(field="f", stage="dithers", trials=(trial,), detector=True).better == ()
