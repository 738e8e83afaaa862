"""Sets of images of every kind that overlap: each set is matched, or refused by name; nothing else escapes.

Where the levels are known, none that is graded good is wrong.
"""

import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from levelmatch_core.errors import LevelMatchError
from levelmatch_core.matching.corrections import Status
from levelmatch_core.pipeline import Request, RunResult, run
from levelmatch_core.products.grade import Grade
from levelmatch_core.runners import PlainRunner
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.store import CutoutStore
from tests.reliability.fuzzing import fuzz

CI, FULL = 40, 1500


@dataclass(frozen=True)
class Image:
    """What an image is like."""

    seed: int
    shape: tuple[int, int]
    shift: tuple[float, float]
    """Pixels by which it lies off the first one."""
    turn: float
    dtype: str
    fill: str
    scale: float
    """What its values are multiplied with."""
    errors: str


sides = st.one_of(st.integers(24, 60), st.integers(1, 12))
images = st.builds(
    Image,
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(sides, sides),
    shift=st.tuples(st.floats(-40, 40), st.floats(-40, 40)),
    turn=st.sampled_from([0.0, 0.0, 90.0, 33.0, 180.0]),
    dtype=st.sampled_from(["f4", "f4", "f4", "f8", "i2", "u1", "i4"]),
    fill=st.sampled_from(
        ["noise"] * 5
        + [
            "steep",
            "stripes",
            "checked",
            "holes",
            "half",
            "few values",
            "constant",
            "zero",
            "one pixel",
            "inf",
            "huge",
            "wild",
        ]
    ),
    scale=st.sampled_from([1.0, 1.0, 1.0, 1e-30, 1e30, -1.0, 1e4]),
    errors=st.sampled_from(["none", "none", "ones", "zero", "nan", "negative", "huge", "some zero"]),
)
choices = st.fixed_dictionaries(
    {"preset": st.sampled_from(["best", "best", "pjpipe"])},
    optional={
        "fit_type_mosaic_tiles": st.sampled_from(["level", "level+slope", "auto"]),
        "statistic": st.sampled_from(["median", "clipped_mean", "huber", "adaptive"]),
        "weight_method": st.sampled_from(["equal", "npix", "rms", "error"]),
        "do_sigma_clip": st.booleans(),
        "match_psf": st.booleans(),
        "robust": st.booleans(),
        "solver": st.sampled_from(["least_squares", "iterative"]),
        "slope_prior": st.sampled_from(["auto", "probable", "off"]),
        "do_local_subtraction": st.booleans(),
        "min_area_percent": st.sampled_from([0.0, 0.002]),
        "reproject_func": st.sampled_from(["interp", "spline", "adaptive", "exact"]),
    },
)


def pixels_of(image: Image) -> np.ndarray:
    rng = np.random.default_rng(image.seed)
    rows, columns = np.indices(image.shape)
    values = rng.normal(100 + image.seed % 7, 5, image.shape)
    kinds = {
        "steep": values + 1e4 * columns,
        "stripes": np.where(rows % 2 == 0, values, np.nan),
        "checked": np.where((rows + columns) % 2 == 0, values, np.nan),
        "holes": np.where(rng.random(image.shape) < 0.7, np.nan, values),
        "half": np.where(columns * 2 < image.shape[1], 0.0, values),
        "few values": np.rint(values / 5),
        "constant": np.full(image.shape, 7.0),
        "zero": np.zeros(image.shape),
        "one pixel": np.where((rows == 0) & (columns == 0), values, np.nan),
        "inf": np.where(rng.random(image.shape) < 0.1, np.inf, values),
        "huge": values * 1e36,
        "wild": np.where(rng.random(image.shape) < 0.2, rng.standard_cauchy(image.shape) * 1e9, values),
    }
    values = kinds.get(image.fill, values) * image.scale
    if np.dtype(image.dtype).kind != "f":
        info = np.iinfo(image.dtype)
        values = np.rint(np.clip(np.nan_to_num(values), info.min, info.max))
    with np.errstate(over="ignore"):
        return np.asarray(values).astype(image.dtype)


def errors_of(image: Image) -> np.ndarray | None:
    rng = np.random.default_rng(image.seed + 1)
    ones = np.ones(image.shape, "f4")
    return {
        "none": None,
        "ones": ones * 5,
        "zero": ones * 0,
        "nan": ones * np.nan,
        "negative": -ones,
        "huge": ones * 1e30,
        "some zero": np.where(rng.random(image.shape) < 0.5, 0, ones).astype("f4"),
    }[image.errors]


def write(image: Image, path: Path) -> None:
    header, turn, step = fits.Header(), np.radians(image.turn), 0.5 / 3600
    header["CTYPE1"], header["CTYPE2"], header["CRVAL1"], header["CRVAL2"] = "RA---TAN", "DEC--TAN", 150.0, 2.0
    header["CRPIX1"], header["CRPIX2"] = image.shape[1] / 2 + image.shift[0], image.shape[0] / 2 + image.shift[1]
    header["CD1_1"], header["CD1_2"] = -step * np.cos(turn), step * np.sin(turn)
    header["CD2_1"], header["CD2_2"] = step * np.sin(turn), step * np.cos(turn)
    hdus: list[fits.PrimaryHDU | fits.ImageHDU] = [fits.PrimaryHDU()]
    hdus.append(fits.ImageHDU(pixels_of(image), header, name="SCI"))
    if (errors := errors_of(image)) is not None:
        hdus.append(fits.ImageHDU(errors, name="ERR"))
    fits.HDUList(hdus).writeto(path)


def written(members: list[Image], parent: Path) -> Path:
    """Write a set below a folder of its own, and return that."""
    folder = Path(tempfile.mkdtemp(dir=parent))
    (folder / "in").mkdir()
    for number, image in enumerate(members):
        write(image, folder / "in" / f"{number}.fits")
    return folder


def matched(folder: Path, chosen: dict[str, object]) -> RunResult | str:
    """Match a set, and return the result, or why it was refused."""
    asked = MatchSettings.model_validate({**chosen, "figures": "none"})
    request = Request(inputs=(folder / "in",), output=folder / "out", settings=asked)
    try:
        return run(request, CutoutStore(folder / "store"), PlainRunner)
    except LevelMatchError as error:
        return str(error)


def check_set(members: list[Image], chosen: dict[str, object], parent: Path) -> None:
    """Hold a set to what is promised."""
    folder = written(members, parent)
    before = {path: hashlib.sha256(path.read_bytes()).digest() for path in (folder / "in").iterdir()}
    result = matched(folder, chosen)
    if isinstance(result, str):
        assert any(path.name in result for path in before), result
    else:
        record = json.loads((folder / "out" / "run.json").read_text())
        assert Grade(record["grade"])
        tiles = sorted((folder / "out" / "tiles").glob("*.fits"))
        named = {failure.name for failure in result.failures}
        assert {path.name for path in before} - {path.name for path in tiles} <= named | set(record.get("asides", {}))
        for path in tiles:
            with fits.open(path) as hdus:
                given, image = pixels_of(members[int(path.stem)]), hdus["SCI"].data
                assert image.shape == given.shape
                assert not np.any(np.isfinite(given) & ~np.isfinite(image))
        for match in result.matches:
            for correction in match.corrections:
                assert np.all(np.isfinite(list(correction.plane.model_dump().values())))
    assert {path: hashlib.sha256(path.read_bytes()).digest() for path in before} == before
    shutil.rmtree(folder)


sets = st.lists(images, min_size=2, max_size=5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@fuzz(CI, HealthCheck.data_too_large)
@given(members=sets, chosen=choices)
def test_any_set_is_matched_or_refused_by_name(tmp_path: Path, members: list[Image], chosen: dict[str, object]) -> None:
    check_set(members, chosen, tmp_path)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")
@fuzz(FULL, HealthCheck.data_too_large)
@given(members=sets, chosen=choices)
def test_any_of_many_sets(tmp_path: Path, members: list[Image], chosen: dict[str, object]) -> None:
    check_set(members, chosen, tmp_path)


# -- what is known -----------------------------------------------------------------------------------------------------
MOST = 6.0
"""Stated errors by which no level is off: some 10,000 are tried."""

known_side = st.integers(24, 70)
known_images = st.builds(
    Image,
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(known_side, known_side),
    shift=st.tuples(st.floats(-40, 40), st.floats(-40, 40)),
    turn=st.sampled_from([0.0, 0.0, 90.0, 33.0]),
    dtype=st.sampled_from(["f4", "f4", "f8", "i2", "i4"]),
    fill=st.sampled_from(["noise"] * 4 + ["stripes", "checked", "holes", "inf", "wild"]),
    scale=st.just(1.0),
    errors=st.sampled_from(["none", "none", "ones", "some zero", "huge", "nan"]),
)
known_choices = st.fixed_dictionaries(
    {"preset": st.sampled_from(["best", "best", "pjpipe"])},
    optional={
        "statistic": st.sampled_from(["median", "clipped_mean", "huber", "adaptive"]),
        "weight_method": st.sampled_from(["equal", "npix", "rms", "error"]),
        "do_sigma_clip": st.booleans(),
        "match_psf": st.booleans(),
        "robust": st.booleans(),
        "min_area_percent": st.just(0.0),
        "reproject_func": st.sampled_from(["interp", "spline", "adaptive", "exact"]),
    },
)


def check_levels(members: list[Image], chosen: dict[str, object], parent: Path) -> None:
    """Hold a set of constant skies to the levels that they have, if its grade is good."""
    folder = written(members, parent)
    result = matched(folder, chosen)
    shutil.rmtree(folder)
    if isinstance(result, str) or result.record.grade is not Grade.GOOD:  # the test above asks for the refusal's words
        return
    for match in result.matches:
        references = {one.component: one for one in match.corrections if one.status is Status.REFERENCE}
        for one in match.corrections:
            if one.status is Status.MATCHED:
                wrong, zero = (
                    each.plane.level - 100 - members[int(each.exposure.name.split(".")[0])].seed % 7
                    for each in (one, references[one.component])
                )
                assert abs(wrong - zero) <= MOST * one.sigma[0], (one, wrong - zero)


known_sets = st.lists(known_images, min_size=2, max_size=6, unique_by=lambda image: image.seed)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@fuzz(CI, HealthCheck.data_too_large)
@given(members=known_sets, chosen=known_choices)
def test_no_set_is_good_and_wrong(tmp_path: Path, members: list[Image], chosen: dict[str, object]) -> None:
    check_levels(members, chosen, tmp_path)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")
@fuzz(FULL, HealthCheck.data_too_large)
@given(members=known_sets, chosen=known_choices)
def test_none_of_many_sets_is_good_and_wrong(tmp_path: Path, members: list[Image], chosen: dict[str, object]) -> None:
    check_levels(members, chosen, tmp_path)
