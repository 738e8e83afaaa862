from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from levelmatch_core.errors import NoUsablePixelsError, UsageError
from levelmatch_core.simulate.program import SimulatedProgram
from levelmatch_core.simulate.score import score
from levelmatch_core.simulate.truth import TrueExposure, Truth
from levelmatch_core.simulate.write import inside, simulate

Extra = Callable[[TrueExposure, WCS], object]


def correct(truth: Truth, inputs: Path, outputs: Path, extra: Extra) -> None:
    """Subtract the truth plus `extra(exposure, wcs)` from each exposure, as a match would."""
    outputs.mkdir()
    for file in sorted({each.file for each in truth.exposures}):
        with fits.open(inputs / file) as hdus:
            sci = hdus["SCI"] if "SCI" in hdus else hdus[0]
            image = sci.data.astype(float)
            blank = image == 0
            rows, columns = np.indices(image.shape)
            for each in (each for each in truth.exposures if each.file == file):
                part = inside(each)
                image[part] -= (each.plane(columns, rows) + extra(each, WCS(sci.header)))[part]
            image[blank] = 0
            sci.data = image
            hdus.writeto(outputs / file)


def program(**options: object) -> SimulatedProgram:
    return SimulatedProgram.of(**{"tiles": (2, 1), "dithers": 2, "size": 64, "dtype": "float64", **options})


LYOT = {"lyot": True, "size": 800, "tiles": (1, 1)}


@pytest.mark.parametrize("planes", [False, True])
@pytest.mark.parametrize("options", [{}, {"instrument": "nircam_short"}, {"instrument": "generic"}, LYOT])
def test_the_truth_itself_scores_zero(tmp_path: Path, options: dict[str, object], planes: bool) -> None:
    truth = simulate(tmp_path / "in", program(planes=planes, **options))
    correct(truth, tmp_path / "in", tmp_path / "out", lambda _each, _wcs: 0.0)
    found = score(truth, tmp_path / "out", tmp_path / "in", {e.name: 0 for e in truth.exposures}, planes=planes)
    assert found.rms < 1e-9
    assert (found.exposures, found.components) == (len(truth.exposures), 1)


def test_each_component_has_a_constant_of_its_own_and_only_one(tmp_path: Path) -> None:
    truth = simulate(tmp_path / "in", program())
    tiles = {each.name: each.tile for each in truth.exposures}
    first, second = sorted(set(tiles.values()))
    shift = {first: 3.0, second: -1.0}
    correct(truth, tmp_path / "in", tmp_path / "out", lambda each, _wcs: shift[each.tile])
    assert score(truth, tmp_path / "out", tmp_path / "in", tiles, planes=False).rms < 1e-9
    together = score(truth, tmp_path / "out", tmp_path / "in", dict.fromkeys(tiles, "all"), planes=False)
    assert together.rms == pytest.approx(2.0)
    assert together.worst == pytest.approx(2.0)


def test_an_error_of_one_exposure_is_counted_and_named(tmp_path: Path) -> None:
    truth = simulate(tmp_path / "in", program())
    wrong = truth.exposures[2].name
    correct(truth, tmp_path / "in", tmp_path / "out", lambda each, _wcs: 0.4 if each.name == wrong else 0.0)
    found = score(truth, tmp_path / "out", tmp_path / "in", {e.name: 0 for e in truth.exposures}, planes=False)
    # 0.4 on one of four: 0.3, and -0.1 three times, after the mean.
    assert found.rms == pytest.approx(np.sqrt((0.09 + 3 * 0.01) / 4))
    assert (found.worst, found.worst_name) == (pytest.approx(0.3), wrong)


def test_the_halves_of_a_lyot_exposure_count_apart(tmp_path: Path) -> None:
    truth = simulate(tmp_path / "in", program(**LYOT))
    correct(truth, tmp_path / "in", tmp_path / "out", lambda each, _wcs: 0.2 if each.name.endswith("@lyot") else 0.0)
    found = score(truth, tmp_path / "out", tmp_path / "in", {e.name: 0 for e in truth.exposures}, planes=False)
    assert found.rms == pytest.approx(0.1)


def sky_plane(_each: TrueExposure, wcs: WCS) -> object:
    rows, columns = np.indices(wcs.array_shape)
    ra, dec = wcs.all_pix2world(columns, rows, 0)
    return 5.0 + 300.0 * (ra - 83.82) - 200.0 * (dec + 5.39)


def test_a_plane_on_the_sky_is_free_for_planes_and_not_for_levels(tmp_path: Path) -> None:
    truth = simulate(tmp_path / "in", program(planes=True))
    correct(truth, tmp_path / "in", tmp_path / "out", sky_plane)
    names = {each.name: 0 for each in truth.exposures}
    assert score(truth, tmp_path / "out", tmp_path / "in", names, planes=True).rms < 1e-5
    assert score(truth, tmp_path / "out", tmp_path / "in", names, planes=False).rms > 0.1


def test_a_slope_of_one_exposure_is_counted(tmp_path: Path) -> None:
    truth = simulate(tmp_path / "in", program(planes=True, tiles=(1, 1), dithers=2, angle=0.0, turn=0.0))
    wrong = truth.exposures[0].name

    def ramp(each: TrueExposure, wcs: WCS) -> object:
        columns = np.indices(wcs.array_shape)[1] - (wcs.array_shape[1] - 1) / 2
        sign = 1.0 if each.name == wrong else -1.0
        return sign * 0.01 * columns

    correct(truth, tmp_path / "in", tmp_path / "out", ramp)
    found = score(truth, tmp_path / "out", tmp_path / "in", {e.name: 0 for e in truth.exposures}, planes=True)
    # Opposite ramps leave no common plane. 57 of the 65 columns are not blank: the rms of a ramp over these.
    assert found.rms == pytest.approx(0.01 * 57 / np.sqrt(12), rel=0.05)


def test_bad_pixels_and_blank_ones_do_not_count(tmp_path: Path) -> None:
    truth = simulate(tmp_path / "in", program(bad_pixel_fraction=0.3, dtype="float32"))
    correct(truth, tmp_path / "in", tmp_path / "out", lambda _each, _wcs: 0.0)
    for planes in (False, True):
        found = score(truth, tmp_path / "out", tmp_path / "in", {e.name: 0 for e in truth.exposures}, planes=planes)
        assert found.worst < 1e-5


def test_what_cannot_be_scored_is_refused(tmp_path: Path) -> None:
    truth = simulate(tmp_path / "in", program())
    names = {each.name: 0 for each in truth.exposures}
    with pytest.raises(UsageError, match="none given"):
        score(truth, tmp_path / "in", tmp_path / "in", {}, planes=False)
    with pytest.raises(UsageError, match=r"other\.fits"):
        score(truth, tmp_path / "in", tmp_path / "in", {"other.fits": 0}, planes=False)
    correct(truth, tmp_path / "in", tmp_path / "out", lambda _each, _wcs: np.nan)
    with pytest.raises(NoUsablePixelsError, match="no pixel"):
        score(truth, tmp_path / "out", tmp_path / "in", names, planes=False)
