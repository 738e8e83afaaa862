"""Wide exposures, and those of projections that fill a part of their rectangle: known levels come back, or a reason."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from levelmatch_core.errors import NoInputError
from levelmatch_core.pipeline import Request, RunResult
from levelmatch_core.plan import plan_run
from levelmatch_core.products.corrected.verify import verify
from levelmatch_core.products.explain import explain
from levelmatch_core.simulate import SkySurvey, simulate_survey
from levelmatch_core.simulate.survey import SurveySky

Match = Callable[..., RunResult]

SKY = SurveySky(SkySurvey(exposures=48, nebula=3.0))
LEVELS = (10.0, -5.0, 3.0, 1.0)


def wcs_of(
    projection: str,
    middle: tuple[float, float],
    shape: tuple[int, int],
    scale: float = 1.0,
    at: tuple[float, float] | None = None,
) -> WCS:
    """A WCS about `middle`; `at` is the pixel there (x, y from 0), that of the middle if it is not given."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = [f"RA---{projection}", f"DEC--{projection}"]
    wcs.wcs.crval, wcs.wcs.cdelt, wcs.wcs.cunit = middle, [-scale, scale], ["deg", "deg"]
    x, y = at or ((shape[1] - 1) / 2, (shape[0] - 1) / 2)
    wcs.wcs.crpix, wcs.wcs.radesys = [x + 1, y + 1], "ICRS"
    return wcs


def write(  # noqa: PLR0917
    path: Path,
    wcs: WCS,
    shape: tuple[int, int],
    level: float,
    seed: int,
    sky: SurveySky = SKY,
    noise: float = 0.05,
) -> None:
    """Write an image of the sky with a level."""
    with np.errstate(all="ignore"):
        image = sky.on(wcs, shape) + level + noise * np.random.default_rng(seed).standard_normal(shape)
    hdu = fits.PrimaryHDU(image.astype(np.float32), wcs.to_header())
    hdu.header["BUNIT"] = "MJy/sr"
    hdu.writeto(path)


def tan(ra: float, dec: float, size: int, scale: float = 1.0) -> tuple[WCS, tuple[int, int]]:
    return wcs_of("TAN", (ra, dec), (size, size), scale), (size, size)


Images = list[tuple[WCS, tuple[int, int]]]
CASES: dict[str, Images] = {
    "60 degrees, on both sides of RA 0": [tan(338.0, 10.0, 60), tan(22.0, 5.0, 60), tan(2.0, 45.0, 60)],
    "60 degrees, poles inside": [tan(120.0, -80.0, 60), tan(300.0, -50.0, 60), tan(40.0, -45.0, 60)],
    "CAR across RA 0": [
        (wcs_of("CAR", (0.0, 0.0), (40, 50)), (40, 50)),
        tan(30.0, 5.0, 40),
        tan(330.0, -5.0, 40),
    ],
    "CAR up to the pole": [
        (wcs_of("CAR", (80.0, 0.0), (30, 60), 1.0, (29.5, -60.0)), (30, 60)),
        tan(80.0, 60.0, 30, 0.55),
        tan(110.0, 75.0, 30, 0.55),
    ],
    "AIT, a corner off the sphere": [
        (wcs_of("AIT", (0.0, 0.0), (50, 50), 1.0, (160.0, -20.0)), (50, 50)),
        tan(189.0, 45.0, 40),
        tan(150.0, 35.0, 40),
    ],
    "MOL, a corner off the sphere": [
        (wcs_of("MOL", (40.0, 0.0), (40, 60), 1.0, (160.0, -20.0)), (40, 60)),
        tan(225.0, 40.0, 40),
        tan(190.0, 30.0, 40),
    ],
    "ZEA about a pole": [
        (wcs_of("ZEA", (0.0, 90.0), (60, 60)), (60, 60)),
        tan(200.0, 70.0, 30),
        tan(20.0, 72.0, 30),
    ],
    "SIN, the limb in the image": [
        (wcs_of("SIN", (100.0, 20.0), (30, 35), 1.0, (-29.5, 15.0)), (30, 35)),
        tan(45.0, 15.0, 35, 1.25),
        tan(25.0, 25.0, 35, 1.25),
    ],
}


@pytest.mark.parametrize("case", CASES)
def test_levels_of_wide_images_come_back(tmp_path: Path, level_match: Match, case: str) -> None:
    (tmp_path / "in").mkdir()
    for number, (wcs, shape) in enumerate(CASES[case]):
        write(tmp_path / "in" / f"e{number}.fits", wcs, shape, LEVELS[number], number)
    planned = plan_run(Request(inputs=(tmp_path / "in",), output=tmp_path / "out"))
    result = level_match(tmp_path / "in")
    (match,) = result.matches
    assert match.failures == ()
    assert {one.status.value for one in match.corrections} == {"matched", "reference"}
    overlaps = {(pair.first, pair.second) for pair in planned.fields[0].stages[-1].groups[0].pairs}
    assert {(pair.fit.first, pair.fit.second) for pair in match.stages[-1].solutions[0].pairs} <= overlaps
    found = np.array([one.total.level for one in match.corrections])
    errors = found - np.array(LEVELS[: len(found)])
    assert np.ptp(errors) < 0.1  # the sky's steps from pixel to pixel are 0.1, and resampled
    assert verify(result.request.output).mismatches == ()


@pytest.mark.parametrize(("projection", "shape"), [("CAR", (90, 180)), ("AIT", (82, 164)), ("MOL", (82, 164))])
def test_a_map_of_the_whole_sky_is_no_exposure_and_says_what_it_can_be(
    tmp_path: Path, level_match: Match, projection: str, shape: tuple[int, int]
) -> None:
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "sky.fits", wcs_of(projection, (0.0, 0.0), shape, 2.0), shape, 0.0, 1)
    with pytest.raises(NoInputError, match=r"more than 50 degrees from its middle.*anchor_image"):
        level_match(tmp_path / "in")


@pytest.mark.parametrize(("projection", "shape", "exposures"), [("CAR", (180, 360), 26), ("AIT", (164, 326), 9)])
def test_a_survey_image_of_the_whole_sky_holds_the_levels_everywhere(
    tmp_path: Path, level_match: Match, projection: str, shape: tuple[int, int], exposures: int
) -> None:
    """With an anchor of pixels of a degree and a noise of 0.3 no level of 10 is wrong by 0.06, nor all by 0.02 rms."""
    survey = SkySurvey(exposures=26, first=exposures, size=40, noise=0.1)
    truth = simulate_survey(tmp_path / "in", survey)
    write(tmp_path / "survey.fits", wcs_of(projection, (0.0, 0.0), shape), shape, 0.0, 1, SurveySky(survey), 0.3)
    result = level_match(tmp_path / "in", weight_method="error", anchor_image=str(tmp_path / "survey.fits"))
    (match,) = result.matches
    assert len(match.patches) > exposures / 2
    assert {one.status.value for one in match.corrections} == {"matched"}
    assert not any("does not reach" in note for note in match.notes)
    known = {one.name: one.plane.level for one in truth.exposures}
    # not relative to their mean: the anchor says what is 0
    errors = np.array([one.total.level - known[one.exposure.name] for one in match.corrections])
    assert np.sqrt(np.mean(errors**2)) < 0.02
    assert np.abs(errors).max() < 0.06
    sigma = np.array([one.sigma[0] for one in match.corrections])
    assert 0.5 < np.sqrt(np.mean((errors / sigma) ** 2)) < 1.6
    # each is tied to the sky at its own place, and no pair between exposures is a bridge
    (solution,) = match.stages[-1].solutions
    tied = [pair for pair in solution.pairs if pair.fit.first.startswith("anchor:")]
    assert len(tied) == exposures
    assert not any(pair.bridge for pair in solution.pairs)
    text = explain(result.request.output)
    assert "the anchor image" in text
    assert not any("a bad pair there cannot be told" in line and "anchor:" in line for line in text.splitlines())


def test_a_survey_image_that_does_not_reach_all_patches_says_so(tmp_path: Path, level_match: Match) -> None:
    survey = SkySurvey(exposures=48, first=12, size=40, noise=0.1)
    truth = simulate_survey(tmp_path / "in", survey)
    wcs, shape = tan(0.0, -90.0, 50)
    write(tmp_path / "survey.fits", wcs, shape, 0.0, 1, SurveySky(survey), 0.3)
    result = level_match(tmp_path / "in", weight_method="error", anchor_image=str(tmp_path / "survey.fits"))
    (match,) = result.matches
    assert match.failures == ()
    assert any("anchor_image does not reach" in note for note in match.notes)
    known = {one.name: one.plane.level for one in truth.exposures}
    assert max(abs(one.total.level - known[one.exposure.name]) for one in match.corrections) < 0.15


@pytest.mark.parametrize("exposures", [700, 60000], ids=["a wide field", "one plane"])
def test_slopes_with_a_survey_image_are_wrong_by_what_is_stated(
    tmp_path: Path, level_match: Match, exposures: int
) -> None:
    """Some exposures have a corner of a pixel or two in common, which once decided on the levels of all."""
    survey = SkySurvey(exposures=exposures, first=16, size=32, coverage=2.5, noise=0.3, slope_sd=2.0, nebula=2.0)
    truth = simulate_survey(tmp_path / "in", survey)
    shape = (200, 200)
    wcs = wcs_of("ZEA", (0.0, -90.0), shape, survey.width / 24)
    write(tmp_path / "survey.fits", wcs, shape, 0.0, 1, SurveySky(survey), 0.3)
    result = level_match(
        tmp_path / "in",
        fit_type_mosaic_tiles="level+slope",
        weight_method="error",
        min_linear_frac=0.0,
        anchor_image=str(tmp_path / "survey.fits"),
    )
    (match,) = result.matches
    (solution,) = match.stages[-1].solutions
    assert min(pair.fit.n_used for pair in solution.pairs) <= 2
    assert solution.components[0].excess_scatter < 0.02
    y, x = np.mgrid[: survey.size, : survey.size].astype(float)
    half, middle = survey.size / 2, (survey.size - 1) / 2
    basis = np.stack([np.ones(x.size), (x.ravel() - middle) / half, (y.ravel() - middle) / half], axis=1)
    planes = {one.name: one.plane for one in truth.exposures}
    errors = []
    for one in match.corrections:
        on_sky = WCS(fits.getheader(tmp_path / "in" / one.exposure.name)).wcs_pix2world(x.ravel(), y.ravel(), 0)
        seen = one.total(*match.grids[one.place].to_pixel(*on_sky))
        errors.append(np.linalg.lstsq(basis, seen - planes[one.exposure.name](x, y).ravel(), rcond=None)[0])
    stated = np.array([one.sigma for one in match.corrections]) * [1.0, half, half]
    assert np.sqrt(np.mean(np.square(errors))) < 0.03
    pulls = np.sqrt(np.mean(np.square(errors), axis=0) / np.mean(stated**2, axis=0))
    assert ((pulls > 0.6) & (pulls < 1.6)).all(), pulls
