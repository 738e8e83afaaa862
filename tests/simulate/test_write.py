from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from reproject import reproject_interp
from scipy import ndimage

from levelmatch_core.errors import OutputFolderError, UsageError
from levelmatch_core.simulate.program import SimulatedProgram, shots
from levelmatch_core.simulate.sky import make_sky
from levelmatch_core.simulate.truth import Truth
from levelmatch_core.simulate.write import _hdus, _true_exposures, inside, simulate

SMALL = SimulatedProgram(tiles=(2, 1), dithers=2, size=96, stars=20, bad_pixel_fraction=0.01)
CLEAN = {"noise": 0.0, "level_sd": 0.0, "dither_level_sd": 0.0, "part_level_sd": 0.0, "bad_pixel_fraction": 0.0}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def changed(program: SimulatedProgram, **values: object) -> SimulatedProgram:
    return SimulatedProgram.of(**{**program.model_dump(), **values})


@pytest.mark.parametrize("instrument", ["miri", "nircam_short", "generic"])
def test_the_same_program_gives_the_same_bytes_and_another_seed_others(tmp_path: Path, instrument: str) -> None:
    program = changed(SMALL, instrument=instrument)
    simulate(tmp_path / "a", program)
    simulate(tmp_path / "b", program)
    simulate(tmp_path / "c", changed(program, seed=1))
    once, again, other = (contents(tmp_path / name) for name in "abc")
    assert once == again
    assert all(once[name] != other[name] for name in once)


def test_an_exposure_does_not_depend_on_those_made_before_it(tmp_path: Path) -> None:
    simulate(tmp_path / "all", SMALL)
    last = list(shots(SMALL))[-1]
    _hdus(SMALL, last, _true_exposures(SMALL, last), make_sky(SMALL)).writeto(tmp_path / "alone.fits")
    assert (tmp_path / "alone.fits").read_bytes() == (tmp_path / "all" / last.file).read_bytes()


@pytest.mark.parametrize(
    "options",
    [
        {"planes": False},
        {"planes": True},
        {"planes": True, "instrument": "nircam_short"},
        {"planes": True, "instrument": "generic", "columns": 70},
        {"planes": True, "lyot": True, "size": 800, "tiles": (1, 1), "dithers": 1},
    ],
)
def test_the_truth_is_what_was_added(tmp_path: Path, options: dict[str, object]) -> None:
    program = changed(SMALL, dtype="float64", bad_pixel_fraction=0.0, **options)
    truth = simulate(tmp_path / "with", program)
    without = changed(program, level_sd=0, dither_level_sd=0, part_level_sd=0, planes=False)
    simulate(tmp_path / "without", without)
    assert len({each.plane.level for each in truth.exposures}) == len(truth.exposures)
    for each in truth.exposures:
        with fits.open(tmp_path / "with" / each.file) as one, fits.open(tmp_path / "without" / each.file) as two:
            index = "SCI" if "SCI" in one else 0
            added = one[index].data - two[index].data
            good = inside(each) & (one[index].data != 0)
        rows, columns = np.indices(each.shape)
        ny, nx = each.shape
        expected = (
            each.plane.level
            + each.plane.slope_x * (columns - (nx - 1) / 2)
            + each.plane.slope_y * (rows - (ny - 1) / 2)
        )
        assert np.count_nonzero(good) > 0.9 * np.count_nonzero(inside(each))
        assert np.abs(added - expected)[good].max() < 1e-10
        assert (each.plane.slope_x != 0) == program.planes


def test_levels_have_the_spread_asked_for() -> None:
    program = SimulatedProgram(tiles=(12, 12), dithers=4, size=32, level_sd=7.0, dither_level_sd=0.5)
    levels = np.array([_true_exposures(program, shot)[0].plane.level for shot in shots(program)]).reshape(-1, 4)
    assert levels.mean(axis=1).std(ddof=1) == pytest.approx(7.0, rel=0.2)
    assert np.sqrt(levels.var(axis=1, ddof=1).mean()) == pytest.approx(0.5, rel=0.1)


def test_a_window_has_its_own_level_and_the_main_chip_the_tiles(tmp_path: Path) -> None:
    program = changed(SMALL, lyot=True, size=800, tiles=(1, 1), dithers=1)
    truth = simulate(tmp_path / "p", program)
    lyot, main = truth.exposures
    assert (lyot.name, main.name) == (lyot.file + "@lyot", main.file + "@main")
    assert lyot.window is not None
    assert main.window is not None
    assert (lyot.window.rows, lyot.window.columns, lyot.window.inside) == ((735, 800), (0, 290), True)
    assert main.window == lyot.window.model_copy(update={"inside": False})
    assert not (inside(lyot) & inside(main)).any()
    assert (inside(lyot) | inside(main)).all()
    dq = fits.getdata(tmp_path / "p" / lyot.file, "DQ")
    # The border between the two is NON_SCIENCE, four pixels to either side, and no further.
    assert [bool(dq[row, 150] & 512) for row in (730, 731, 738, 739)] == [False, True, True, False]
    assert [bool(dq[770, column] & 512) for column in (285, 286, 293, 294)] == [False, True, True, False]


@pytest.mark.parametrize("instrument", ["miri", "nircam_short", "generic"])
def test_exposures_agree_on_the_sky_where_they_overlap(tmp_path: Path, instrument: str) -> None:
    program = SimulatedProgram.of(
        instrument=instrument, tiles=(2, 1), dithers=1, size=128, stars=0, distortion=1.0, turn=0.5, **CLEAN
    )
    truth = simulate(tmp_path / "p", program)
    # The second is in the other tile; of NIRCam's, the left chip that lies on the first tile's right one.
    tiles = sorted({each.tile[:13] for each in truth.exposures})
    picks = {"miri": ("MIRIMAGE", "MIRIMAGE"), "nircam_short": ("NRCA4", "NRCA2"), "generic": ("", "")}[instrument]
    first, second = (
        next(each.file for each in truth.exposures if each.tile.startswith(tile) and each.detector == detector)
        for tile, detector in zip(tiles, picks, strict=True)
    )
    images = []
    for file in (first, second):
        with fits.open(tmp_path / "p" / file) as hdus:
            hdu = hdus["SCI"] if "SCI" in hdus else hdus[0]
            data = hdu.data.astype(float)
            if "DQ" in hdus:
                data[hdus["DQ"].data != 0] = np.nan
            images.append((data, WCS(hdu.header)))
    resampled = reproject_interp(images[1], images[0][1], shape_out=images[0][0].shape, return_footprint=False)
    both = np.isfinite(resampled + images[0][0])
    # Within a pixel of an edge reproject_interp takes the nearest pixel instead of interpolating.
    left = (resampled - images[0][0])[ndimage.binary_erosion(both, iterations=2)]
    assert left.size > 300
    assert images[0][0][np.isfinite(images[0][0])].std() > 1.0  # there is something to disagree about
    # What bilinear resampling does to the nebula: below the default noise, 0.1, everywhere, and far below it mostly.
    assert np.abs(left).max() < 0.05
    assert np.sqrt(np.mean(left**2)) < 0.005


def test_the_sky_is_positive_and_has_structure_everywhere() -> None:
    program = SimulatedProgram(tiles=(2, 2), dithers=1, size=256)
    sky = make_sky(program)
    for shot in shots(program):
        image = sky.on(shot.wcs, shot.shape)
        assert image.min() > 1.0
        assert image.std() > 1.0
    assert image.max() < 2000.0


def test_noise_is_white_and_has_the_size_asked_for(tmp_path: Path) -> None:
    program = changed(SMALL, size=256, tiles=(1, 1), dithers=2, noise=0.3, bad_pixel_fraction=0.0, dtype="float64")
    simulate(tmp_path / "noisy", program)
    truth = simulate(tmp_path / "clean", changed(program, noise=0.0))
    noises = []
    for each in truth.exposures:
        noise = fits.getdata(tmp_path / "noisy" / each.file, "SCI") - fits.getdata(
            tmp_path / "clean" / each.file, "SCI"
        )
        noises.append(noise[:, 4:-4])
    assert noises[0].std() == pytest.approx(0.3, rel=0.02)
    assert abs(np.mean(noises[0][:, 1:] * noises[0][:, :-1])) < 0.002
    assert abs(np.mean(noises[0] * noises[1])) < 0.002


def test_flags_of_jwst_files(tmp_path: Path) -> None:
    truth = simulate(tmp_path / "p", SMALL)
    with fits.open(tmp_path / "p" / truth.exposures[0].file) as hdus:
        names = [hdu.name for hdu in hdus]
        sci, err, dq = (hdus[name].data for name in ("SCI", "ERR", "DQ"))
        variance = sum(hdus[name].data for name in ("VAR_POISSON", "VAR_RNOISE", "VAR_FLAT"))
        assert hdus["SCI"].header["BUNIT"] == "MJy/sr"
        assert len(hdus["ASDF"].data["ASDF_METADATA"][0]) == 1000
        assert hdus[0].header["DETECTOR"] == "MIRIMAGE"
    assert names == ["PRIMARY", "SCI", "ERR", "DQ", "VAR_POISSON", "VAR_RNOISE", "VAR_FLAT", "ASDF"]
    assert (sci.dtype.str, err.dtype.str, dq.dtype.kind, dq.dtype.itemsize) == (">f4", ">f4", "u", 4)
    wild = ~(np.abs(sci) < 1000)  # NaN too
    assert wild.sum() > 50
    assert (dq[wild] & (1 | 512) != 0).all()
    flagged = sci[dq & 1 != 0]
    assert np.isnan(flagged).any()
    assert {1e6, -1e5} <= set(flagged[np.isfinite(flagged)].tolist())
    only_bit_nine = dq == 512
    assert np.nanmin(sci[only_bit_nine & ~np.isnan(sci)]) > 900  # whoever does not see bit 9 gets the glow
    assert np.array_equal(sci == 0, dq & (1 << 31) != 0)
    assert (dq[sci == 0] & 512 != 0).all()
    assert np.array_equal(np.isnan(err), np.isnan(sci))
    assert np.allclose(err**2, variance, rtol=1e-5, equal_nan=True)


def test_a_generic_file_is_one_plain_image(tmp_path: Path) -> None:
    truth = simulate(tmp_path / "p", changed(SMALL, instrument="generic"))
    with fits.open(tmp_path / "p" / truth.exposures[0].file) as hdus:
        assert len(hdus) == 1
        assert (hdus[0].header["BUNIT"], hdus[0].header["FILTER"]) == ("MJy/sr", "k")
        assert hdus[0].data.dtype.str == ">f4"
        assert 0 < np.isnan(hdus[0].data).mean() < 0.02
        assert np.nanmax(np.abs(hdus[0].data)) < 5000


def test_background_times_single_out_one_tile(tmp_path: Path) -> None:
    program = changed(SMALL, tiles=(4, 1), dithers=1, background_times=True)
    truth = simulate(tmp_path / "p", program)
    times = [fits.getheader(tmp_path / "p" / each.file)["DT_BGR"] for each in truth.exposures]
    assert np.argmin(np.abs(times)) == 2
    assert min(times) < 0 < max(times)
    simulate(tmp_path / "q", SMALL)
    assert "DT_BGR" not in fits.getheader(tmp_path / "q" / truth.exposures[0].file)


def test_without_errors_only_the_image_and_its_flags(tmp_path: Path) -> None:
    truth = simulate(tmp_path / "p", changed(SMALL, errors=False))
    with fits.open(tmp_path / "p" / truth.exposures[0].file) as hdus:
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "SCI", "DQ", "ASDF"]


def test_truth_comes_back_from_its_folder(tmp_path: Path) -> None:
    truth = simulate(tmp_path / "p", SMALL)
    assert Truth.load(tmp_path / "p") == truth
    assert truth.program == SMALL
    assert [each.name for each in truth.exposures] == sorted(path.name for path in (tmp_path / "p").glob("*.fits"))


def test_a_folder_without_truth_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="truth"):
        Truth.load(tmp_path)
    (tmp_path / "truth.json").write_text('{"program": {}}')
    with pytest.raises(UsageError, match="truth"):
        Truth.load(tmp_path)


def test_a_folder_that_holds_anything_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputFolderError, match=r"mine\.txt"):
        simulate(tmp_path, SMALL)
    assert contents(tmp_path) == {"mine.txt": b"mine"}
    with pytest.raises(OutputFolderError, match=r"mine\.txt"):
        simulate(tmp_path / "mine.txt", SMALL)
