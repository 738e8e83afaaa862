"""Whole runs on what archives deliver: right levels, files given back as they were, what is no exposure told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS, Sip
from scipy.ndimage import gaussian_filter

from levelmatch_core import MatchSettings, match_levels
from levelmatch_core.products.corrected.reapply import apply_solution
from levelmatch_core.products.corrected.undo import undo
from levelmatch_core.products.corrected.verify import verify
from levelmatch_core.products.grade import Grade
from levelmatch_core.products.runrecord import RunRecord
from levelmatch_core.settings import MatchSettings as Settings

N = 140
PLACES = {"a": (0, 0), "b": (60, 12), "c": (-8, 62), "d": (55, 70)}
LEVELS = {"a": 4.0, "b": -9.0, "c": 15.0, "d": 1.5}
Y, X = np.mgrid[:N, :N].astype(float)
NOISE = 0.5


def wcs_of(name: str, sip: float = 0.0) -> WCS:
    dx, dy = PLACES[name]
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"] if sip else ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150 - dx / 3600, dy / 3600]
    wcs.wcs.crpix = [N / 2 + 0.5, N / 2 + 0.5]
    wcs.wcs.cdelt = [-1 / 3600, 1 / 3600]
    if sip:
        a, b = np.zeros((3, 3)), np.zeros((3, 3))
        a[2, 0], b[0, 2] = sip, sip / 3
        wcs.sip = Sip(a, b, None, None, wcs.wcs.crpix)
    wcs.wcs.set()
    return wcs


def sky_of(wcs: WCS) -> np.ndarray:
    ra, dec = wcs.all_pix2world(X, Y, 0)
    return np.asarray(100 + 12 * np.sin((ra - 150) * 90) * np.cos(dec * 110))


Change = Callable[[str, np.ndarray], np.ndarray]


def program(folder: Path, change: Change | None = None, sip: float = 0.0, **cards: Any) -> dict[str, np.ndarray]:
    """Write four images of one sky with levels, changed as asked; return the skies."""
    folder.mkdir(exist_ok=True)
    skies = {}
    for number, (name, level) in enumerate(LEVELS.items()):
        wcs = wcs_of(name, sip)
        skies[name] = sky_of(wcs)
        data = skies[name] + level + np.random.default_rng(number).normal(0, NOISE, (N, N))
        header = wcs.to_header(relax=True)
        header.update(cards)
        fits.PrimaryHDU((data if change is None else change(name, data)).astype(np.float32), header).writeto(
            folder / f"{name}.fits"
        )
    return skies


def run(tmp_path: Path, **options: Any) -> tuple[Any, str]:
    result = match_levels(tmp_path / "in", tmp_path / "out", Settings(figures="none", **options))
    return result, (tmp_path / "out" / "run.json").read_text()


def errors_of(result: Any, factors: dict[str, float] | None = None) -> float:
    """Return the largest error of a level, one constant being free."""
    found = {one.exposure.name[0]: one.total.level for one in result.corrections if one.status.value != "failed"}
    off = [found[name] - LEVELS[name] * (factors or {}).get(name, 1.0) for name in found]
    return float(np.ptp(off))


def corrected(tmp_path: Path, name: str, folder: str = "out/tiles") -> np.ndarray:
    return np.array(fits.getdata(tmp_path / folder / f"{name}.fits"), dtype=float)


def undone_and_applied_again(tmp_path: Path, *, rtol: float, atol: float) -> None:
    """Hold that undo gives the inputs back, and that the table makes the same files of them again."""
    assert undo(tmp_path / "out", tmp_path / "back").complete
    assert apply_solution(tmp_path / "out" / "corrections.ecsv", [tmp_path / "in"], tmp_path / "again").complete
    for name in LEVELS:
        before, after = corrected(tmp_path, name, "in"), corrected(tmp_path, name, "back")
        np.testing.assert_allclose(after, before, rtol=rtol, atol=atol)
        assert (tmp_path / "again" / f"{name}.fits").read_bytes() == (
            tmp_path / "out" / "tiles" / f"{name}.fits"
        ).read_bytes()


def test_flat_fielded_counts_keep_no_pattern_of_their_pixels_areas(tmp_path: Path) -> None:
    """Areas differ by 8 %: divided by them, a sky of 100 would leave a ramp of 8 in each image."""
    skies = program(tmp_path / "in", sip=3e-4, BUNIT="ELECTRONS")
    result, record = run(tmp_path)
    assert errors_of(result) < 0.05
    for name, sky in skies.items():
        left = corrected(tmp_path, name) - sky
        assert abs(np.median(left[:, -30:]) - np.median(left[:, :30])) < 0.1
    assert "ELECTRONS is taken for a surface brightness" in record


ROTATED = (np.abs((X - 70) + (Y - 70)) > 85) | (np.abs((X - 70) - (Y - 70)) > 85)


@pytest.mark.parametrize("fill", [0.0, -1.5, 1e30, 3.4e38, -32768.0])
@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
def test_a_fill_takes_part_in_nothing_and_stays(tmp_path: Path, fill: float, fit_type: str) -> None:
    program(tmp_path / "in", lambda _, data: np.where(ROTATED, fill, data))
    result, record = run(tmp_path, fit_type_mosaic_tiles=fit_type, plane_gauge="mean")
    assert errors_of(result) < (0.05 if fit_type == "level" else 0.2)
    assert "taken for blank in 4 exposures" in record
    for name in LEVELS:
        np.testing.assert_array_equal(corrected(tmp_path, name)[ROTATED], np.float32(fill))
        assert not np.any(corrected(tmp_path, name)[~ROTATED] == np.float32(fill))
    assert verify(tmp_path / "out").mismatches == ()
    undone_and_applied_again(tmp_path, rtol=1e-5, atol=1e-5)
    for name in LEVELS:
        before, after = corrected(tmp_path, name, "in"), corrected(tmp_path, name, "back")
        np.testing.assert_array_equal(after[ROTATED], before[ROTATED])
    mosaic = np.array(fits.getdata(next((tmp_path / "out").glob("mosaic_*.fits")), "SCI"), dtype=float)
    assert np.nanmax(np.abs(mosaic)) < 40  # the sky less its level: no fill is in it


def test_zeros_are_values_where_the_user_says_so(tmp_path: Path) -> None:
    program(tmp_path / "in", lambda _, data: np.where(ROTATED, 0.0, data))
    run(tmp_path, blank="none")
    assert (corrected(tmp_path, "b")[ROTATED] != 0).all()
    undone_and_applied_again(tmp_path, rtol=1e-7, atol=1e-4)


def test_one_wild_pixel_an_image_changes_nothing(tmp_path: Path) -> None:
    def wild(_: str, data: np.ndarray) -> np.ndarray:
        data[31, 60] = 1.7e38
        data[77, 20] = -3e12
        return data

    program(tmp_path / "in", wild)
    for fit_type in ("level", "level+slope"):
        result = match_levels(
            tmp_path / "in", settings=MatchSettings(fit_type_mosaic_tiles=fit_type, plane_gauge="mean")
        )
        assert errors_of(result) < 0.15


@pytest.mark.parametrize("preset", ["best", "pjpipe"])
@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
def test_a_fifth_of_all_pixels_may_hold_anything(tmp_path: Path, preset: str, fit_type: str) -> None:
    """Scattered over every image: resampled, they would leave a sixth of the differences as they are."""
    wild = {name: np.random.default_rng(number).random((N, N)) < 0.2 for number, name in enumerate(LEVELS)}

    def spoilt(name: str, data: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng(ord(name))
        sizes = 10 ** rng.uniform(1, 29, (N, N)) * rng.choice([-1, 1], (N, N))
        return np.where(wild[name], data + sizes, data)

    program(tmp_path / "in", spoilt)
    result, record = run(tmp_path, preset=preset, fit_type_mosaic_tiles=fit_type, plane_gauge="mean")
    assert sorted(one.status.value for one in result.corrections) == ["matched"] * 3 + ["reference"]
    assert errors_of(result) < 5 * max(one.sigma[0] for one in result.corrections) < 0.12
    assert "4 exposures hold pixels of no sky" in record
    for name in LEVELS:
        before, after = corrected(tmp_path, name, "in"), corrected(tmp_path, name)
        huge = wild[name] & (np.abs(before) > 1e12)
        np.testing.assert_array_equal(after[huge], before[huge])


@pytest.mark.parametrize("preset", ["best", "pjpipe"])
@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
@pytest.mark.parametrize("side", [(1, 1), (N, 1)])
def test_wrong_pixels_that_hide_in_the_noise_make_no_good_result(
    tmp_path: Path, preset: str, fit_type: str, side: tuple[int, int]
) -> None:
    """A fifth of one image's pixels, scattered or in columns, is four times the noise too high: all its pairs agree."""

    def spoilt(name: str, data: np.ndarray) -> np.ndarray:
        bad = np.random.default_rng(9).random((N // side[0], N // side[1])) < 0.2
        return data + 4 * NOISE * (name == "b") * np.repeat(np.repeat(bad, side[0], axis=0), side[1], axis=1)

    program(tmp_path / "in", spoilt)
    result, _ = run(tmp_path, preset=preset, fit_type_mosaic_tiles=fit_type, plane_gauge="mean")
    assert 0.2 < errors_of(result) < 3 * max(one.sigma[0] for one in result.corrections)
    assert result.grade is not Grade.GOOD


def test_counts_of_different_times_are_matched_as_rates_and_given_back(tmp_path: Path) -> None:
    """Levels are a second's; what is taken from each file is that times its own seconds."""
    times = {"a": 10.0, "b": 40.0, "c": 10.0, "d": 40.0}
    program(tmp_path / "in", lambda name, data: data * times[name], BUNIT="DN")
    for name, time in times.items():
        fits.setval(tmp_path / "in" / f"{name}.fits", "EXPTIME", value=time)
    result, record = run(tmp_path)
    assert errors_of(result) < 0.05
    assert "divided by their exposure time (10 to 40 s)" in record
    for one in result.corrections:
        name = one.exposure.name[0]
        taken = corrected(tmp_path, name, "in") - corrected(tmp_path, name)
        np.testing.assert_allclose(taken, one.total.level * times[name], rtol=1e-4)
        header = fits.getheader(tmp_path / "out" / "tiles" / f"{name}.fits")
        assert header["LVLLEVEL"] == pytest.approx(one.total.level * times[name], rel=1e-6)
    assert verify(tmp_path / "out").mismatches == ()
    undone_and_applied_again(tmp_path, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("photons", [0.01, 0.08, 0.25])
@pytest.mark.parametrize("preset", ["best", "pjpipe"])
def test_of_few_photons_a_level_is_in_doubt(tmp_path: Path, photons: float, preset: str) -> None:
    """The median of mostly zeros is 0, whatever the rate: by a fifth of it images differ, and nothing shows."""
    rates = dict(zip(LEVELS, photons * np.array([1.0, 1.2, 0.9, 1.1]), strict=True))
    program(tmp_path / "in", lambda name, _: np.random.default_rng(ord(name)).poisson(rates[name], (N, N)) / 1500.0)
    result, record = run(tmp_path, preset=preset)
    assert RunRecord.load(tmp_path / "out" / "run.json").grade is Grade.DOUBTFUL
    assert "hold one value, wherever they lie (few photons" in result.verdict
    assert "few photons" in record


@pytest.mark.parametrize(
    ("spoilt", "why"),
    [
        *((lambda data, factor=factor: data * factor, "of another scale") for factor in (1e5, 1e-5)),
        # a dead chip
        *((lambda data, value=value: np.full_like(data, value), "no usable pixel") for value in (0.0, 7.0, np.nan)),
    ],
)
def test_an_exposure_that_fits_no_other_is_left_out_by_name(
    tmp_path: Path, spoilt: Callable[[np.ndarray], np.ndarray], why: str
) -> None:
    program(tmp_path / "in", lambda name, data: spoilt(data) if name == "b" else data)
    result, record = run(tmp_path)
    assert {one.exposure.name: one.status.value for one in result.corrections}["b.fits"] == "failed"
    assert errors_of(result) < 0.05
    assert f"b.fits: {why}" in record


def test_weights_and_masks_beside_images_are_named_and_mask(tmp_path: Path) -> None:
    """A corner that the mask flags is 500 too bright: used, it would spoil the overlaps."""
    bad = (X > 60) & (Y > 30)

    def spoilt(_: str, data: np.ndarray) -> np.ndarray:
        return np.where(bad, data + 500 + 3 * X, data)

    program(tmp_path / "in", spoilt, BUNIT="adu")
    for name, level in LEVELS.items():
        header = fits.getheader(tmp_path / "in" / f"{name}.fits")
        fits.PrimaryHDU(bad.astype(np.int16), header).writeto(tmp_path / "in" / f"{name}_mask.fits")
        weight = np.ones((N, N), np.float32) * (20 + level)
        fits.PrimaryHDU(weight, header).writeto(tmp_path / "in" / f"{name}.weight.fits")
    result, record = run(tmp_path)
    assert sorted(one.exposure.name for one in result.corrections) == [f"{name}.fits" for name in LEVELS]
    assert result.complete
    assert "left out, for they are no exposures: 8 files" in record
    assert errors_of(result) < 0.2


def test_of_many_companions_the_note_names_ten_and_the_record_all(tmp_path: Path) -> None:
    program(tmp_path / "in")
    names = [f"{name}{suffix}.fits" for name in LEVELS for suffix in (".weight", "_mask", "_rms")]
    for name in names:
        header = fits.getheader(tmp_path / "in" / f"{name[0]}.fits")
        fits.PrimaryHDU(np.ones((N, N), np.float32) * (1 + X % 7), header).writeto(tmp_path / "in" / name)
    result, _ = run(tmp_path)
    assert result.complete
    record = RunRecord.load(tmp_path / "out" / "run.json")
    assert sorted(record.asides) == sorted(names)
    assert all(record.asides.values())
    (note,) = (one for one in record.notes if "no exposures" in one)
    assert note.startswith(f"left out, for they are no exposures: {len(names)} files: ")
    assert note.endswith(f" and {len(names) - 10} more, in run.json")


def test_an_unknown_scale_is_in_the_headline(tmp_path: Path) -> None:
    """Without a unit nothing tells whether four times the seconds are four times the counts."""
    times = {"a": 10.0, "b": 40.0, "c": 10.0, "d": 40.0}
    program(tmp_path / "in")
    for name, time in times.items():
        fits.setval(tmp_path / "in" / f"{name}.fits", "EXPTIME", value=time)
    result = match_levels(tmp_path / "in", tmp_path / "out", Settings(figures="summary"))
    assert errors_of(result) < 0.05
    record = RunRecord.load(tmp_path / "out" / "run.json")
    assert record.grade is Grade.DOUBTFUL
    page = (tmp_path / "out" / "report.html").read_text()
    head = page[page.index('id="grade"') : page.index("</header>")]
    assert head.count("exposure times differ (10 to 40 s)") >= 2
    known, _ = run(tmp_path, rates="off", overwrite=True)
    assert errors_of(known) < 0.05
    assert RunRecord.load(tmp_path / "out" / "run.json").grade is Grade.GOOD


@pytest.mark.parametrize("seed", [2, 3, 4])
def test_levels_beside_filled_corners_are_those_of_the_pixels_that_were_seen(tmp_path: Path, seed: int) -> None:
    """The sky and whole shifts are known: the mean of all pixels that were seen, paired by hand, is the oracle."""
    size, places = 160, [(0, 0), (55, 55), (55, -55), (110, 0)]
    levels, rng = np.array([40.0, 70.0, 55.0, 90.0]), np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size].astype(float)
    seen = np.abs(x - size / 2) + np.abs(y - size / 2) < size / 2
    (tmp_path / "in").mkdir()
    canvas = np.full((4, 2 * size, 2 * size), np.nan)
    for number, (dx, dy) in enumerate(places):
        wcs = WCS(naxis=2)
        wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
        wcs.wcs.crval, wcs.wcs.cdelt = [150.0, 2.0], [-1 / 3600, 1 / 3600]
        wcs.wcs.crpix = [1.0 - dx, 81.0 - dy]
        noise = rng.normal(0, 1, (size, size))
        sky = 20 + 10 * np.sin((x + dx) / 40) * np.cos((y + dy) / 55)
        data = np.where(seen, sky + levels[number] + noise, 0).astype(np.float32)
        fits.PrimaryHDU(data, wcs.to_header()).writeto(tmp_path / "in" / f"r{number}.fits")
        canvas[number, 80 + dy : 80 + dy + size, dx : dx + size] = np.where(seen, noise, np.nan)
    rows, right = [], []
    for one in range(4):
        for other in range(one + 1, 4):
            apart = canvas[other] - canvas[one]
            root = np.sqrt(np.isfinite(apart).sum())
            rows.append(root * (np.eye(4)[other] - np.eye(4)[one]))
            right.append(root * np.nanmean(apart))
    best = np.linalg.lstsq(np.array(rows), np.array(right), rcond=None)[0]
    result = match_levels(tmp_path / "in", settings=Settings.load())
    found = np.array([one.total.level for one in result.corrections]) - levels
    np.testing.assert_allclose(found - found.mean(), best - best.mean(), atol=0.02)


@pytest.mark.parametrize("seed", [1, 2])
def test_levels_of_tilted_exposures_say_how_wrong_they_are(tmp_path: Path, seed: int) -> None:
    """A strip of exposures with a plane each, of which levels are fitted: overlaps show no more than differences."""
    size = 100
    rng = np.random.default_rng(seed)
    half = np.linspace(-1, 1, size)
    slopes, levels = np.repeat(rng.normal(0, 0.5, (6, 2)), 2, axis=0), rng.normal(0, 1, 12)
    tmp_path.joinpath("in").mkdir()
    for number, ((along, down), level) in enumerate(zip(slopes, levels, strict=True)):
        header = WCS(naxis=2)
        header.wcs.ctype, header.wcs.cdelt, header.wcs.crval = ["RA---TAN", "DEC--TAN"], [-1e-4, 1e-4], [30.0, 5.0]
        header.wcs.crpix = size / 2 - number * 0.88 * size, size / 2
        data = level + along * half + down * half[:, None] + 0.1 * rng.standard_normal((size, size))
        fits.writeto(tmp_path / f"in/e{number:02d}.fits", data.astype(np.float32), header.to_header())
    result = match_levels(tmp_path / "in", preset="best")
    assert result.grade is Grade.DOUBTFUL
    table = result.corrections_table()
    error = np.asarray(table["level"], float) - levels[[int(name[1:3]) for name in table["exposure"]]]
    reference = table["status"] == "reference"
    pulls = (error - error[reference])[~reference] / np.asarray(table["sigma_level"], float)[~reference]
    assert 0.2 < np.sqrt(np.mean(pulls**2)) < 3


def fine(seed: int) -> np.ndarray:
    """Return structure of some pixels, of which each seed has its own."""
    found = gaussian_filter(np.random.default_rng([7, seed]).standard_normal((3 * N, 3 * N)), 5)
    return np.asarray(40 * found / found.std())


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("inverted", lambda image: 200 - image),
        ("mirrored", lambda image: image[:, ::-1]),
        (
            "of another place",
            lambda image: image + fine(1)[:N, :N] - fine(0)[N + 12 : 2 * N + 12, N + 60 : 2 * N + 60],
        ),
        ("as it should be", None),
    ],
)
def test_an_exposure_that_shows_another_sky_is_named(tmp_path: Path, what: str, change: Any) -> None:
    """Its differences are only broad, and what overlaps it agrees with that: this was graded good."""

    def changed(name: str, data: np.ndarray) -> np.ndarray:
        dx, dy = PLACES[name]
        image = data + fine(0)[N + dy : 2 * N + dy, N + dx : 2 * N + dx]
        return image if change is None or name != "b" else np.asarray(change(image))

    program(tmp_path / "in", changed, BUNIT="adu")
    result = match_levels(tmp_path / "in", preset="best")
    told = "b.fits shows another sky than what overlaps"
    if change is None:
        assert result.grade is Grade.GOOD
        assert told not in result.verdict
    else:
        assert result.grade is Grade.DOUBTFUL, what
        assert told in result.verdict
