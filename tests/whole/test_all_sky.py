"""Fields without a limit: a survey of the whole sky on patches, from files to levels and back."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from levelmatch_core.files.ecsv import read_ecsv
from levelmatch_core.images.wcs.directions import unit_vectors
from levelmatch_core.matching.match import match as solve
from levelmatch_core.matching.results import Gauge
from levelmatch_core.pipeline import RunResult
from levelmatch_core.products.corrected.undo import undo
from levelmatch_core.products.corrected.verify import verify
from levelmatch_core.products.tables import read_corrections, read_pairs
from levelmatch_core.products.verdict import residual_of, verdict
from levelmatch_core.simulate import SkySurvey, Truth, simulate_survey

Match = Callable[..., RunResult]

SURVEY = SkySurvey(exposures=48, size=40, noise=0.1)
"""Exposures of 36 degrees: every patch has pairs with others."""


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    folder = tmp_path_factory.mktemp("sky") / "in"
    return folder, simulate_survey(folder, SURVEY)


def errors_of(result: RunResult, truth: Truth) -> np.ndarray:
    """The levels minus the true ones, without their mean."""
    known = {one.name: one.plane.level for one in truth.exposures}
    errors = np.array([one.total.level - known[one.exposure.name] for one in result.corrections])
    return errors - errors.mean()


def test_levels_of_the_whole_sky_are_those_that_were_added(sky: tuple[Path, Truth], level_match: Match) -> None:
    folder, truth = sky
    result = level_match(folder, weight_method="error")
    (match,) = result.matches
    assert {one.status.value for one in match.corrections} == {"matched", "reference"}
    assert len(match.patches) > 40
    errors = errors_of(result, truth)
    assert errors.std() < 0.02  # the levels scatter by 10
    assert np.abs(errors).max() < 0.06
    # every pair is measured once, on one patch, and many across homes
    homes = {one.exposure.name: one.patch for one in match.corrections}
    table = read_pairs(result.request.output / "pairs.ecsv")
    keys = list(zip(table["first"], table["second"], strict=True))
    assert len(set(keys)) == len(keys)
    assert all(row["patch"] == min(homes[row["first"]], homes[row["second"]]) for row in table)
    assert sum(homes[first] != homes[second] for first, second in keys) > len(keys) / 2


def test_products_of_the_whole_sky(sky: tuple[Path, Truth], level_match: Match, tmp_path: Path) -> None:
    folder, _ = sky
    result = level_match(folder)
    output = result.request.output
    with fits.open(output / "mosaic_k.fits") as hdus:
        shape, wcs = hdus["SCI"].shape, WCS(hdus["SCI"].header)
        seen = np.isfinite(hdus["SCI"].data)
        after, before = hdus["SCI"].data[seen], hdus["BEFORE"].data[seen]
        assert hdus["COVERAGE"].data[seen].min() >= 1
        assert not hdus["COVERAGE"].data[~seen].any()
    assert wcs.wcs.ctype[0] == "RA---MOL"
    assert seen.mean() > 0.95 * np.pi / 4  # of the ellipse in its rectangle
    assert 640 < shape[0] < 655
    assert np.std(after) < np.std(before)
    table = read_ecsv(output / "patches_k.ecsv")
    assert len(table) == len(result.matches[0].patches)
    for row in table[:3]:
        with fits.open(output / row["mosaic"]) as hdus:
            assert hdus["SCI"].header["CRVAL2"] == row["dec"]
            assert hdus["COVERAGE"].data.max() <= row["exposures"]
        assert (output / row["level_error"]).is_file()
    assert verify(output).mismatches == ()
    undo(output, tmp_path / "back")
    for name in ("sky_00001.fits", "sky_00030.fits"):
        came, back = fits.getdata(folder / name), fits.getdata(tmp_path / "back" / name)
        np.testing.assert_allclose(back, came, rtol=3e-7, atol=3e-6)


def test_a_table_of_levels_holds_the_largest_scales(tmp_path: Path, level_match: Match) -> None:
    survey = SkySurvey(exposures=48, size=32, noise=3.0, nebula=1.0)
    truth = simulate_survey(tmp_path / "in", survey)
    free = level_match(tmp_path / "in", output=tmp_path / "free")
    summary = free.record.fields[0]
    assert summary.weakest is not None
    assert f"uncertain by {summary.weakest.sigma:.2g} MJy/sr rms" in verdict(
        free.record.counts, {}, map(residual_of, free.matches), free.record.fields
    )
    with fits.open(tmp_path / "free" / "level_error_k.fits") as hdus:
        assert hdus["LEVELERR"].header["LVLMODE1"] == pytest.approx(summary.weakest.sigma)
    error = 0.05
    random = np.random.default_rng(1)
    rows = [f"{one.name},{one.plane.level + error * random.standard_normal()},{error}" for one in truth.exposures[::3]]
    table = tmp_path / "levels.csv"
    table.write_text("tile,level,error\n" + "\n".join(rows) + "\n")
    held = level_match(tmp_path / "in", output=tmp_path / "held", levels=str(table))
    known = {one.name: one.plane.level for one in truth.exposures}
    errors = np.array([one.total.level - known[one.exposure.name] for one in held.corrections])
    sigma, before = (np.array([one.sigma[0] for one in result.corrections]) for result in (held, free))
    assert np.median(sigma) < 0.6 * np.median(before)
    assert 0.6 < np.sqrt(np.mean((errors / sigma) ** 2)) < 1.5
    weakest = held.record.fields[0].weakest
    assert weakest is not None
    assert weakest.sigma < 0.5 * summary.weakest.sigma


@pytest.mark.slow
def test_order_does_not_matter_and_only_new_exposures_are_resampled(
    sky: tuple[Path, Truth], level_match: Match, tmp_path: Path
) -> None:
    folder, _ = sky
    files = sorted(folder.glob("*.fits"))
    some = level_match(*files[:36], output=tmp_path / "grown")
    known = {
        (exposure, patch.name): cutout.array
        for patch in some.matches[0].patches
        for exposure, cutout in patch.cutouts.items()
    }
    grown = level_match(*reversed(files), output=tmp_path / "grown")
    for patch in grown.matches[0].patches:
        for exposure, cutout in patch.cutouts.items():
            assert known.get((exposure, patch.name), cutout.array) == cutout.array
    fresh = level_match(*files, output=tmp_path / "fresh", reference=grown.corrections[0].reference)
    levels = {one.exposure.name: one.total.level for one in fresh.corrections}
    assert levels == {one.exposure.name: one.total.level for one in grown.corrections}
    table = read_corrections(tmp_path / "grown" / "corrections.ecsv")
    assert set(table["patch"]) <= {patch.name for patch in grown.matches[0].patches}


CAP = SkySurvey(exposures=700, first=16, size=32, coverage=2.5, noise=0.3, slope_sd=2.0, nebula=2.0)
"""Exposures of 12 degrees about the south pole, most of which have a home of their own."""


def slopes_of(result: RunResult, truth: Truth, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3) errors of level and slopes (from the middle to the edge) of each exposure, on its own pixels.

    They follow twice: as they are, and without the gradient over all exposures that fits them best (a level that goes
    with the cosine of the distance from some point of the sky), of which overlaps see nothing.
    """
    grids, (match,) = result.matches[0].grids, result.matches
    y, x = np.mgrid[: CAP.size, : CAP.size].astype(float)
    half, middle = CAP.size / 2, (CAP.size - 1) / 2
    basis = np.stack([np.ones(x.size), (x.ravel() - middle) / half, (y.ravel() - middle) / half], axis=1)
    planes = {one.name: one.plane for one in truth.exposures}
    errors, common = [], []
    for one in match.corrections:
        wcs = WCS(fits.getheader(folder / one.exposure.name))
        seen = one.total(*grids[one.place].to_pixel(*wcs.wcs_pix2world(x.ravel(), y.ravel(), 0)))
        errors.append(np.linalg.lstsq(basis, seen - planes[one.exposure.name](x, y).ravel(), rcond=None)[0])
        vectors = unit_vectors(np.stack(wcs.wcs_pix2world(x.ravel(), y.ravel(), 0), axis=1))
        common.append(np.linalg.lstsq(basis, np.column_stack([np.ones(x.size), vectors]), rcond=None)[0])
    flat = np.array(common).reshape(-1, 4)
    amplitudes = np.linalg.lstsq(flat, np.ravel(errors), rcond=None)[0]
    return np.array(errors), (np.ravel(errors) - flat @ amplitudes).reshape(-1, 3)


def test_slopes_about_a_pole_are_those_that_were_added(tmp_path: Path, level_match: Match) -> None:
    truth = simulate_survey(tmp_path / "in", CAP)
    result = level_match(tmp_path / "in", fit_type_mosaic_tiles="auto", weight_method="error")
    (match,) = result.matches
    (solution,) = match.stages[-1].solutions
    assert solution.fit_type == "level+slope"
    assert {one.status.value for one in match.corrections} == {"matched", "reference"}
    homes = {one.exposure.name: one.patch for one in match.corrections}
    used = [pair for pair in solution.pairs if pair.rejected is None]
    assert sum(homes[pair.fit.first] != homes[pair.fit.second] for pair in used) > len(used) / 2
    errors, apart = slopes_of(result, truth, tmp_path / "in")
    stated = np.array([one.sigma for one in match.corrections]) * [1.0, CAP.size / 2, CAP.size / 2]
    assert np.sqrt(np.mean(apart**2)) < 0.03 * CAP.slope_sd
    # the mean slope is the prior's: its error is that of the mean of 16 true ones, 2 / 4
    assert 0.5 < np.sqrt(np.mean((errors[:, 1:] / stated[:, 1:]) ** 2)) < 1.8
    levels = errors[:, 0] - errors[:, 0].mean()
    assert np.sqrt(np.mean(levels**2)) < 2 * np.sqrt(np.mean(stated[:, 0] ** 2))
    pulls = [pair.residual / pair.sigma for pair in used if pair.sigma]
    assert 0.6 < np.std(pulls) < 1.3
    assert verify(result.request.output).mismatches == ()
    undo(result.request.output, tmp_path / "back")
    name = match.corrections[0].exposure.name
    came, back = fits.getdata(tmp_path / "in" / name), fits.getdata(tmp_path / "back" / name)
    np.testing.assert_allclose(back, came, rtol=3e-7, atol=3e-6)


@pytest.mark.parametrize("slope_sd", [2.0, 20.0])
def test_loops_across_patches_with_slopes_close_and_a_bad_pair_is_named(
    tmp_path: Path, level_match: Match, slope_sd: float
) -> None:
    """Slopes of 20 are 400 times the error of a level: what is left of them around a loop must be known."""
    survey = CAP.model_copy(update={"slope_sd": slope_sd, "first": 10})
    simulate_survey(tmp_path / "in", survey)
    result = level_match(
        tmp_path / "in", fit_type_mosaic_tiles="level+slope", weight_method="error", min_linear_frac=0.0
    )
    (match,) = result.matches
    (solution,) = match.stages[-1].solutions
    (loops,) = solution.status.loops
    used = [pair.fit for pair in solution.pairs if pair.rejected is None]
    assert loops.untested == 0
    assert loops.tested == len(used) - 10 + 1
    homes = {one.exposure.name: one.patch for one in match.corrections}
    assert sum(len({homes[name] for name in loop.members}) > 1 for loop in loops.worst) > 5
    assert (loops.failed, loops.suspects) == (0, ())
    assert 0.5 < loops.scatter < 1.5
    # sums are known well enough for a bad pair to be seen
    bad = max((fit for fit in used if homes[fit.first] != homes[fit.second]), key=lambda fit: fit.n_used)
    error = 25 * bad.stderr
    wrong = bad.model_copy(update={"plane": bad.plane.model_copy(update={"level": bad.plane.level + error})})
    members = match.stages[-1].members
    spoilt = [wrong if fit is bad else fit for fit in used]
    again = solve("mosaic_tiles", "k", members, spoilt, Gauge.REFERENCE, result.request.settings)
    (found,) = again.status.loops
    assert found.failed >= 1
    assert (bad.first, bad.second) in found.suspects[0].pairs
    assert found.suspects[0].error == pytest.approx(error, rel=0.3)


def test_what_would_be_better_is_tried_on_the_patch_of_each_pair(tmp_path: Path, level_match: Match) -> None:
    simulate_survey(tmp_path / "in", CAP)
    result = level_match(tmp_path / "in", fit_type_mosaic_tiles="level", weight_method="error")
    (advice,) = result.record.advice
    (planes,) = [trial for trial in advice.trials if trial.name == "planes"]
    assert planes in advice.better
    assert planes.setting == "fit_type_mosaic_tiles=level+slope"
