"""Files of every kind, sound and not: each is resampled or refused by name; nothing else escapes, no input changes."""

import gzip
import hashlib
import io
import shutil
import tempfile
import time
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st

from levelmatch_core.errors import DataError, LevelMatchError, NoInputError
from levelmatch_core.images.fits_headers import quiet
from levelmatch_core.images.inventory import take_inventory
from levelmatch_core.pipeline import Request, run
from levelmatch_core.runners import PlainRunner
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.cutouts import make_cutout, open_cutout
from levelmatch_core.sky.grid import choose_grid
from levelmatch_core.sky.store import CutoutStore
from tests.reliability.fuzzing import fuzz

CI, FULL = 500, 5000
SECONDS = 20.0
"""Most processor time that one small file may take; a hang is not that."""

DEFAULTS = MatchSettings(figures="none", recombine_lyot=True)


@dataclass(frozen=True)
class Case:
    """What a file is like."""

    seed: int
    dtype: str
    shape: tuple[int, ...]
    fill: str
    projection: str
    ra: float
    dec: float
    scale: float
    angle: float
    matrix: str
    sip: float
    container: str
    extras: str
    scaling: str
    cut: int | None
    """Block at which the file ends."""


special = {
    "ra": [0.0, 360.0, 1e-9, 359.9999999, 180.0, -30.0, 1e6],
    "dec": [0.0, 90.0, -90.0, 89.99999, -89.99999, 91.0, 1e5],
    "scale": [1e-9, 1e-3, 0.03, 0.11, 1.0, 60.0, 3600.0, 1e6],
}
size = st.integers(1, 40)
cases = st.builds(
    Case,
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(["f4", "f8", "i2", "i4", "i8", "u1", "u2", "u4"]),
    shape=st.one_of(
        st.tuples(size, size),
        st.tuples(size, size),
        st.tuples(size, size),
        st.sampled_from([(), (7,), (0, 5), (2, 9, 9), (1, 1, 9, 9), (1, 3000), (200, 1)]),
    ),
    fill=st.sampled_from(["noise", "noise", "noise", "nan", "some nan", "inf", "zero", "huge", "one", "checked"]),
    projection=st.sampled_from(
        [
            "TAN",
            "TAN",
            "TAN",
            "TAN-SIP",
            "SIN",
            "CAR",
            "ZEA",
            "STG",
            "AIT",
            "TPV",
            "TNX",
            "XXX",
            "GLON",
            "PIXEL",
            "none",
        ]
    ),
    ra=st.one_of(st.sampled_from(special["ra"]), st.floats(0, 360)),
    dec=st.one_of(st.sampled_from(special["dec"]), st.floats(-90, 90)),
    scale=st.one_of(st.just(0.11), st.sampled_from(special["scale"]), st.floats(0.01, 100)),
    angle=st.floats(-180, 180),
    matrix=st.sampled_from(["plain", "plain", "plain", "flipped", "skewed", "singular", "zero", "nan", "pc", "crota"]),
    sip=st.sampled_from([0.0, 1e-9, 1e-5, 1e-2, 1e3]),
    container=st.sampled_from(["primary", "sci", "sci", "compressed", "gzip", "two sci"]),
    extras=st.sampled_from(["", "", "err dq", "err dq", "err of another shape", "float dq", "lvlstat", "jwst"]),
    scaling=st.sampled_from(["", "", "", "bscale", "bscale zero", "blank"]),
    cut=st.one_of(st.none(), st.none(), st.none(), st.integers(0, 12)),
)


def pixels_of(case: Case) -> np.ndarray:
    rng = np.random.default_rng(case.seed)
    values = rng.normal(100, 5, case.shape)
    if case.fill == "some nan":
        values[rng.random(case.shape) < 0.3] = np.nan
    elif case.fill == "checked":
        values = np.where(np.indices(case.shape).sum(axis=0) % 2 == 0, values, np.nan)
    elif case.fill != "noise":
        values = np.full(case.shape, {"nan": np.nan, "inf": np.inf, "zero": 0.0, "huge": 3e38, "one": 1.0}[case.fill])
    if np.dtype(case.dtype).kind != "f":
        info = np.iinfo(case.dtype)
        values = np.clip(np.nan_to_num(values), float(info.min) / 2, float(info.max) / 2)
    return np.asarray(values).astype(case.dtype)


def header_of(case: Case) -> fits.Header:
    header = fits.Header()
    if case.projection == "none":
        return header
    names = {"GLON": ("GLON-CAR", "GLAT-CAR"), "PIXEL": ("PIXEL", "PIXEL")}
    axes = names.get(case.projection, (f"RA---{case.projection}", f"DEC--{case.projection}"))
    header["CTYPE1"], header["CTYPE2"] = axes
    header["CRVAL1"], header["CRVAL2"] = case.ra, case.dec
    header["CRPIX1"] = header["CRPIX2"] = 10.5
    header.update(matrix_of(case))
    if case.projection == "TAN-SIP":
        header["A_ORDER"] = header["B_ORDER"] = 2
        header["A_2_0"] = header["B_1_1"] = case.sip
    if case.projection == "TPV":
        header["PV1_1"] = header["PV2_1"] = 1 + case.sip
    return header


def matrix_of(case: Case) -> dict[str, float | str]:
    """Return the cards of scale and rotation."""
    step, turn = case.scale / 3600, np.radians(case.angle)
    matrix = step * np.array([[-np.cos(turn), np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    if case.matrix == "flipped":
        matrix[:, 0] *= -1
    elif case.matrix == "skewed":
        matrix[0] += 0.9 * matrix[1]
    elif case.matrix == "singular":
        matrix[1] = 2 * matrix[0]
    elif case.matrix == "zero":
        matrix[:] = 0
    if case.matrix == "nan":
        return {"CD1_1": "NaN"}
    if case.matrix in {"pc", "crota"}:
        return {"CDELT1": -step, "CDELT2": step, "CROTA2": case.angle}
    return {f"CD{row + 1}_{column + 1}": value for (row, column), value in np.ndenumerate(matrix)}


def file_of(case: Case) -> bytes:
    """Return the bytes of a file."""
    data, header = pixels_of(case), header_of(case)
    header["BUNIT"] = "DN"
    primary = fits.PrimaryHDU()
    if case.extras == "jwst":
        primary.header.update({"TELESCOP": "JWST", "INSTRUME": "MIRI", "FILTER": "F770W"})
    if case.extras == "lvlstat":
        header["LVLSTAT"] = "matched"
    if case.container in {"primary", "gzip"} or case.shape == ():
        image: fits.PrimaryHDU | fits.ImageHDU = fits.PrimaryHDU(data if data.ndim else None, header)
        hdus = [image]
    elif case.container == "compressed" and 0 not in case.shape and data.dtype.itemsize < 8:
        image = fits.CompImageHDU(data, header, name="SCI", compression_type="GZIP_1", quantize_level=0)
        hdus = [primary, image]
    else:
        image = fits.ImageHDU(data, header, name="SCI")
        hdus = [primary, image]
        if case.container == "two sci":
            hdus.append(fits.ImageHDU(data, header, name="SCI", ver=2))
    if case.extras in {"err dq", "float dq", "jwst"} and case.shape:
        hdus.append(fits.ImageHDU(np.ones(case.shape, "f4"), name="ERR"))
        hdus.append(fits.ImageHDU(np.zeros(case.shape, "f4" if case.extras == "float dq" else "i4"), name="DQ"))
    elif case.extras == "err of another shape":
        hdus.append(fits.ImageHDU(np.ones((3, 4), "f4"), name="ERR"))
    buffer = io.BytesIO()
    fits.HDUList(hdus).writeto(buffer, output_verify="silentfix")
    raw = scaled(buffer.getvalue(), case.scaling)
    if case.cut is not None:
        raw = raw[: case.cut * 2880]
    return gzip.compress(raw, 1) if case.container == "gzip" else raw


def scaled(raw: bytes, scaling: str) -> bytes:
    """Put scaling cards into the place of BUNIT, with no change of the stored values."""
    card = {
        "bscale": b"BSCALE  =                  0.5",
        "bscale zero": b"BSCALE  =                  0.0",
        "blank": b"BLANK   =                  100",
    }.get(scaling)
    return raw if card is None else raw.replace(b"BUNIT   = 'DN      '".ljust(80), card.ljust(80), 1)


def outcome(path: Path, store: CutoutStore) -> list[str]:
    """Take a file as far as its cutouts; return the reasons why parts of it are refused."""
    reasons = []
    try:
        inventory = take_inventory([path], DEFAULTS)
    except NoInputError as error:
        return [str(error)]
    reasons += [failure.reason for failure in inventory.failures]
    for field in inventory.fields:
        try:
            grid = choose_grid(field)
        except DataError as error:
            reasons.append(f"{path.name}: {error}")  # the field's exposures are named by the pipeline
            continue
        for exposure in field.exposures:
            try:
                record = make_cutout(exposure, grid, DEFAULTS, store)
            except DataError as error:
                reasons.append(str(error))
            else:
                cutout = open_cutout(record, store)
                assert record.n_valid == np.isfinite(cutout.data).sum() > 0
    return reasons


def check_case(case: Case, parent: Path) -> None:
    """Hold one case to what is promised, in a folder of its own, which a case that fails leaves behind."""
    folder = Path(tempfile.mkdtemp(dir=parent))
    with quiet(), np.errstate(all="ignore"):
        raw = file_of(case)
    path = folder / ("jw01234001001_02101_00001_mirimage_cal.fits" if case.extras == "jwst" else "fuzz.fits")
    path.write_bytes(raw)
    started = time.process_time()
    reasons = outcome(path, CutoutStore(folder / "store"))
    assert time.process_time() - started < SECONDS
    assert all(path.name in reason for reason in reasons), reasons
    assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(raw).digest()
    assert {one.name for one in folder.iterdir()} <= {path.name, "store"}
    shutil.rmtree(folder)


@pytest.mark.slow
@fuzz(CI)
@given(case=cases)
def test_any_file_is_resampled_or_refused_by_name(tmp_path: Path, case: Case) -> None:
    check_case(case, tmp_path)


@pytest.mark.full
@fuzz(FULL)
@given(case=cases)
def test_any_of_five_thousand(tmp_path: Path, case: Case) -> None:
    check_case(case, tmp_path)


# -- sizes that are claimed --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["short", "sparse", "gzip", "compressed", "table"])
def test_a_claim_of_a_million_squared_takes_no_memory(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "vast.fits"
    case = Case(1, "f4", (8, 8), "noise", "TAN", 10, 20, 0.1, 0, "plain", 0, "primary", "", "", None)
    raw = file_of(case)
    claim = raw.replace(b"NAXIS1  =                    8", b"NAXIS1  =              1000000")
    claim = claim.replace(b"NAXIS2  =                    8", b"NAXIS2  =              1000000")
    if kind in {"compressed", "table"}:
        buffer = io.BytesIO()
        image = fits.CompImageHDU(pixels_of(case), header_of(case), name="SCI", compression_type="GZIP_1")
        fits.HDUList([fits.PrimaryHDU(), image]).writeto(buffer)
        names = (b"ZNAXIS1 ", b"ZNAXIS2 ") if kind == "compressed" else (b"NAXIS1  ", b"NAXIS2  ")
        claim = b"".join(
            name + b"=              1000000".ljust(72) if (name := card[:8]) in names and at > 2880 else card
            for at in range(0, len(buffer.getvalue()), 80)
            if (card := buffer.getvalue()[at : at + 80]) is not None
        )
    assert claim != raw
    path.write_bytes(gzip.compress(claim) if kind == "gzip" else claim)
    if kind == "sparse":
        with path.open("r+b") as file:
            file.truncate(4 * 10**12 + 2880 * 100)  # as large as it claims, and nothing on the disk
    tracemalloc.start()
    try:
        (reason,) = outcome(path, CutoutStore(tmp_path / "store"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "vast.fits" in reason
    assert peak < 20e6


# -- names -------------------------------------------------------------------------------------------------------------
NAMES = [
    "with space.fits",
    'quote\'d "twice".fits',
    "new\nline.fits",
    "star*?.fits",
    "a..fits",
    "up\\..\\x.fits",
    "-option.fits",
    "ünï≈😀.fits",
    "%s{0}$HOME`id`.fits",
    "a" * 240 + ".fits",
    "#2.fits",
    "f@lyot.fits",
    "\x01\x7f.fits",
    "\udcff.fits",
]


def test_any_name_is_kept_and_stays_inside(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "sub ..").mkdir(parents=True)
    for number, name in enumerate([*NAMES, "sub ../same.fits"]):
        case = Case(number, "f4", (24, 24), "noise", "TAN", 10, 20, 0.11, 0, "plain", 0, "primary", "", "", None)
        (folder / name).write_bytes(file_of(case))
    before = {path: path.read_bytes() for path in folder.rglob("*.fits")}
    request = Request(inputs=(folder,), output=tmp_path / "out", settings=DEFAULTS, recursive=True)
    try:
        result = run(request, CutoutStore(tmp_path / "store"), PlainRunner)
    except LevelMatchError as error:  # pragma: no cover
        pytest.fail(f"the whole run ended: {error}")
    named = {failure.name for failure in result.failures}
    tiles = tmp_path / "out" / "tiles"
    for name in [*NAMES, "sub ../same.fits"]:
        assert (tiles / name).is_file() or name.encode("utf-8", "backslashreplace").decode() in named, name
    assert named == {"\\udcff.fits"}
    assert {path: path.read_bytes() for path in folder.rglob("*.fits")} == before
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out", "store"}
