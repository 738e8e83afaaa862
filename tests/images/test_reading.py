"""Pixels as they are used: scaled, masked at the full width of their bits, in the right precision, and read-only."""

import gzip
import hashlib
import threading
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from levelmatch_core.errors import (
    AlreadyMatchedError,
    DataError,
    NoImageError,
    NotFitsError,
    NoUsablePixelsError,
    NoWcsError,
    ShapeMismatchError,
)
from levelmatch_core.images.exposure import Exposure, Window
from levelmatch_core.images.fits_headers import BLOCK, quiet
from levelmatch_core.images.inventory import take_inventory
from levelmatch_core.images.reading import Pixels, file_digest, read_wcs
from levelmatch_core.settings import MatchSettings
from tests.exposures import exposure
from tests.images.pixels import read_pixels

MakeFile = Callable[..., Path]


def exposure_of(path: Path, **settings: Any) -> Exposure:
    return take_inventory([path], MatchSettings(**settings)).fields[0].exposures[0]


def exposure_at(path: Path, **changes: Any) -> Exposure:
    """Return the record of a file that no inventory would let in."""
    return exposure(path, **({"sci": 0} | changes))


def jwst_at(path: Path) -> Exposure:
    return exposure_at(path, instrument="miri", sci=1, err=2, dq=3)


def test_digest(make_generic: MakeFile) -> None:
    path = make_generic(size=900)
    assert file_digest(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_bits_0_and_9_mask_and_no_others(make_jwst: MakeFile) -> None:
    dq = np.zeros((32, 32), np.uint32)
    for bit in range(32):
        dq[3, bit] = 1 << bit
    dq[4, 0] = (1 << 9) | (1 << 30)
    pixels = read_pixels(exposure_of(make_jwst(dq=dq)))
    masked = set(zip(*np.nonzero(np.isnan(pixels.data)), strict=True))
    assert masked == {(3, 0), (3, 9), (4, 0)}


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "u4", "i8"])
def test_bits_at_every_width(make_jwst: MakeFile, dtype: str) -> None:
    dq = np.zeros((32, 32), dtype)
    dq[0, 0] = 1
    dq[1, 1] = 1 << 7 if dtype == "u1" else 1 << 9
    if dtype[0] == "i":
        dq[2, 2] = -(1 << (8 * int(dtype[1]) - 1))  # the sign bit is not ours
    masked = np.isnan(read_pixels(exposure_of(make_jwst(dq=dq))).data)
    assert masked[0, 0]
    assert masked[1, 1] == (dtype != "u1")
    assert masked.sum() == (1 if dtype == "u1" else 2)


def test_flags_that_are_no_integers_are_refused(make_jwst: MakeFile) -> None:
    with pytest.raises(DataError, match="float32, expected integers"):
        read_pixels(exposure_of(make_jwst(dq=np.zeros((32, 32), np.float32))))


def test_jwst_zeros_are_blank_and_others_zeros_are_values(make_jwst: MakeFile, make_generic: MakeFile) -> None:
    data = np.random.default_rng(0).normal(5, 1, (32, 32)).astype(np.float32)
    data[5, 6], data[7, 8], data[9, 9] = 0, np.nan, np.inf
    jwst = read_pixels(exposure_of(make_jwst(data=data))).data
    generic = read_pixels(exposure_of(make_generic(data=data))).data
    assert set(zip(*np.nonzero(np.isnan(jwst)), strict=True)) == {(5, 6), (7, 8), (9, 9)}
    assert set(zip(*np.nonzero(np.isnan(generic)), strict=True)) == {(7, 8), (9, 9)}
    assert generic[5, 6] == 0


def test_generic_flags_mask_nothing(tmp_path: Path, sky_header: Callable[..., Any]) -> None:
    data = np.random.default_rng(0).normal(5, 1, (32, 32)).astype(np.float32)
    hdus = [
        fits.PrimaryHDU(),
        fits.ImageHDU(data, sky_header(), name="SCI"),
        fits.ImageHDU(np.ones_like(data, dtype=int), name="DQ"),
    ]
    fits.HDUList(hdus).writeto(tmp_path / "a.fits")
    assert np.isfinite(read_pixels(exposure_of(tmp_path / "a.fits")).data).all()


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ("f4", "f4"),
        ("f8", "f8"),
        ("i1", "f4"),
        ("u1", "f4"),
        ("i2", "f4"),
        ("u2", "f4"),
        ("i4", "f8"),
        ("u4", "f8"),
        ("i8", "f8"),
    ],
)
def test_precision_follows_the_stored_type(make_generic: MakeFile, stored: str, expected: str) -> None:
    data = np.arange(32 * 32).reshape(32, 32) % 100
    data[0, 0] = 100
    if stored in {"i4", "u4", "i8"}:
        data[1, 1] = 2**24 + 1  # the first integer that float32 does not hold
    if stored == "u2":
        data[1, 1] = 65535
    pixels = read_pixels(exposure_of(make_generic(data=data.astype(stored)))).data
    assert pixels.dtype == np.dtype(expected)
    assert pixels.dtype.isnative
    np.testing.assert_array_equal(pixels, data)


@pytest.mark.parametrize(("stored", "expected"), [("i2", "f4"), ("i4", "f8")])
def test_scale_zero_and_blank(make_generic: MakeFile, stored: str, expected: str) -> None:
    raw = np.arange(1024, dtype=stored).reshape(32, 32)
    path = make_generic(data=raw, cards={"BLANK": 7})
    with fits.open(path, mode="update", do_not_scale_image_data=True) as hdus:
        hdus[0].header["BSCALE"], hdus[0].header["BZERO"] = 0.25, 100.0
    pixels = read_pixels(exposure_of(path)).data
    assert pixels.dtype == np.dtype(expected)
    wanted = raw * 0.25 + 100
    wanted[0, 7] = np.nan
    np.testing.assert_array_equal(pixels, wanted)


def test_blank_alone(make_generic: MakeFile) -> None:
    data = np.arange(1024, dtype=np.int16).reshape(32, 32)
    pixels = read_pixels(exposure_of(make_generic(data=data, cards={"BLANK": 9}))).data
    assert np.isnan(pixels[0, 9])
    assert np.isnan(pixels).sum() == 1


def test_blank_on_floats_is_passed_over_in_silence(make_generic: MakeFile) -> None:
    path = make_generic()
    with fits.open(path, mode="update") as hdus:
        hdus[0].header["BUNIT"] = "DN"
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"BUNIT   = 'DN      '", b"BLANK   =          5"))
    assert np.isfinite(read_pixels(exposure_of(path)).data).all()


def test_variance_is_the_square_of_good_errors(make_jwst: MakeFile) -> None:
    err = np.full((32, 32), 0.5, np.float32)
    err[0, 0], err[0, 1], err[0, 2], err[0, 3], err[0, 4] = -1, np.nan, np.inf, 0, 1e30
    pixels = read_pixels(exposure_of(make_jwst(err=err)))
    assert pixels.variance is not None
    assert pixels.variance.dtype == pixels.data.dtype == np.float32
    assert np.isnan(pixels.variance[0, [0, 1, 2, 4]]).all()
    assert pixels.variance[0, 3] == 0
    assert (pixels.variance[1:] == 0.25).all()


def test_no_errors_no_variance(make_generic: MakeFile) -> None:
    assert read_pixels(exposure_of(make_generic())).variance is None


def test_arrays_are_read_only(make_jwst: MakeFile) -> None:
    pixels = read_pixels(exposure_of(make_jwst()))
    assert isinstance(pixels, Pixels)
    for array in (pixels.data, pixels.variance):
        assert array is not None
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1


def test_the_halves_of_a_window_share_every_pixel_once(make_jwst: MakeFile) -> None:
    data = np.random.default_rng(3).normal(9, 1, (1024, 1032)).astype(np.float32)
    path = make_jwst(data=data, size=1024)
    (field,) = take_inventory([path], MatchSettings(recombine_lyot=True)).fields
    lyot, main = field.exposures
    assert (lyot.name, main.name) == (f"{path.name}@lyot", f"{path.name}@main")
    assert isinstance(lyot.window, Window)
    inside, outside = (np.isfinite(read_pixels(one).data) for one in (lyot, main))
    assert inside[735:, :290].all()
    assert inside.sum() == (1024 - 735) * 290
    assert (inside ^ outside).all()


@pytest.mark.parametrize("suffix", [".fits.gz", ".fits.fz"])
def test_packed_files_give_the_same_pixels_and_wcs(make_jwst: MakeFile, tmp_path: Path, suffix: str) -> None:
    dq = np.zeros((32, 32), np.uint32)
    dq[2, 3], dq[4, 4] = 1 << 9, 1 << 20
    plain = make_jwst(dq=dq)
    packed = tmp_path / "packed" / plain.name.replace(".fits", suffix)
    packed.parent.mkdir()
    if suffix == ".fits.gz":
        packed.write_bytes(gzip.compress(plain.read_bytes()))
    else:
        with fits.open(plain) as hdus:
            packers = [
                fits.CompImageHDU(hdu.data, hdu.header, compression_type="GZIP_2", quantize_level=0) for hdu in hdus[1:]
            ]
            fits.HDUList([hdus[0], *packers]).writeto(packed)
    one, two = exposure_of(plain), exposure_of(packed)
    same = {"path", "file", "name", "digest", "checksum"}
    assert one.model_dump(exclude=same) == two.model_dump(exclude=same)
    a, b = read_pixels(one), read_pixels(two)
    np.testing.assert_array_equal(a.data, b.data)
    np.testing.assert_array_equal(a.variance, b.variance)
    assert np.isnan(b.data).sum() == 1
    assert b.data.dtype == np.float32
    assert read_wcs(one).wcs.compare(read_wcs(two).wcs)
    assert read_wcs(two).array_shape == (32, 32)


def test_quantised_integers_in_a_compressed_file(tmp_path: Path, sky_header: Callable[..., Any]) -> None:
    data = np.arange(1024, dtype=np.int16).reshape(32, 32)
    path = tmp_path / "a.fits.fz"
    packed = fits.CompImageHDU(data, sky_header(), compression_type="RICE_1")
    fits.HDUList([fits.PrimaryHDU(), packed]).writeto(path)
    pixels = read_pixels(exposure_of(path)).data
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, data)


def test_inputs_are_left_as_they_are(make_jwst: MakeFile) -> None:
    path = make_jwst()
    path.chmod(0o444)
    before, stat = path.read_bytes(), path.stat()
    exposure = exposure_of(path)
    read_pixels(exposure)
    read_wcs(exposure)
    assert path.read_bytes() == before
    assert path.stat().st_mtime_ns == stat.st_mtime_ns


# -- WCS ---------------------------------------------------------------------------------------------------------------
def add_sip(header: Any) -> None:
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN-SIP", "DEC--TAN-SIP"
    header.update({"A_ORDER": 2, "B_ORDER": 2, "AP_ORDER": 2, "BP_ORDER": 2})
    header.update({"A_2_0": 1e-4, "A_0_2": 2e-4, "B_2_0": -1e-4, "B_1_1": 3e-5, "AP_2_0": -1e-4, "BP_2_0": 1e-4})


def test_the_wcs_is_that_of_the_whole_header(make_generic: MakeFile) -> None:
    path = make_generic(ra=120.0, dec=-45.0, angle=33.0)
    with fits.open(path, mode="update") as hdus:
        add_sip(hdus[0].header)
        hdus[0].header.update({"LONPOLE": 170.0, "PV1_1": 0.0, "EQUINOX": 2000.0, "MJD-OBS": 59000.5})
        hdus[0].header.update({f"OTHER{number}": number for number in range(50)})
        whole = WCS(hdus[0].header.copy(), naxis=2)
    ours = read_wcs(exposure_of(path))
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-5, 40, (2, 50))
    np.testing.assert_array_equal(ours.all_pix2world(x, y, 0), whole.all_pix2world(x, y, 0))
    assert ours.sip is not None
    assert ours.wcs.radesys == whole.wcs.radesys
    assert ours.wcs.lonpole == 170.0
    plain = ours.wcs_pix2world(x, y, 0)
    assert np.abs(np.array(plain) - ours.all_pix2world(x, y, 0)).max() > 1e-7


@pytest.mark.parametrize(
    "cards",
    [
        {"PC1_1": 0.6, "PC1_2": -0.8, "PC2_1": 0.8, "PC2_2": 0.6, "CDELT1": -1e-4, "CDELT2": 1e-4},
        {"CROTA2": 35.0, "CDELT1": -1e-4, "CDELT2": 1e-4},
        {"CD001001": -1e-4, "CD001002": 0.0, "CD002001": 0.0, "CD002002": 1e-4},
        {"PC001001": 0.6, "PC001002": -0.8, "PC002001": 0.8, "PC002002": 0.6, "CDELT1": -1e-4, "CDELT2": 1e-4},
    ],
)
def test_every_way_to_write_the_matrix(make_generic: MakeFile, cards: dict[str, float]) -> None:
    path = make_generic()
    with fits.open(path, mode="update") as hdus:
        for name in ("CD1_1", "CD1_2", "CD2_1", "CD2_2"):
            del hdus[0].header[name]
        hdus[0].header.update(cards)
        with quiet():  # wcslib calls PC001001 deprecated
            whole = WCS(hdus[0].header.copy(), naxis=2)
    ours = read_wcs(exposure_of(path))
    x = np.array([0.0, 31.0, 5.0])
    np.testing.assert_array_equal(ours.all_pix2world(x, x[::-1], 0), whole.all_pix2world(x, x[::-1], 0))


def test_tables_of_distortions_are_read_from_the_file(make_generic: MakeFile) -> None:
    path = make_generic(size=64)
    with fits.open(path, mode="update") as hdus:
        for axis in (1, 2):
            hdus[0].header[f"CPDIS{axis}"] = "LOOKUP"
            hdus[0].header[f"DP{axis}"] = f"EXTVER: {axis}"
            hdus[0].header[f"DP{axis}"] = "NAXES: 2"
            hdus[0].header[f"DP{axis}.EXTVER"] = axis
            hdus[0].header[f"DP{axis}.NAXES"] = 2
            hdus[0].header[f"DP{axis}.AXIS.1"] = 1
            hdus[0].header[f"DP{axis}.AXIS.2"] = 2
            table = fits.ImageHDU(np.full((8, 8), 1.5, np.float32), name="WCSDVARR", ver=axis)
            table.header.update({"CRPIX1": 1.0, "CRPIX2": 1.0, "CRVAL1": 1.0, "CRVAL2": 1.0})
            table.header.update({"CDELT1": 9.0, "CDELT2": 9.0})
            hdus.append(table)
    wcs = read_wcs(exposure_of(path))
    assert wcs.cpdis1 is not None
    moved = np.array(wcs.all_pix2world(10, 10, 0)) - wcs.wcs_pix2world(11.5, 11.5, 0)
    assert np.abs(moved).max() < 1e-9


def test_no_wcs_is_named(make_generic: MakeFile) -> None:
    path = make_generic()
    with fits.open(path, mode="update") as hdus:
        for name in ("CTYPE1", "CTYPE2"):
            del hdus[0].header[name]
    with pytest.raises(NoWcsError, match=r"one\.fits: no celestial WCS in HDU 0"):
        read_wcs(exposure_at(path))


@pytest.mark.parametrize(
    "cards", [{"CD1_1": 0.0, "CD1_2": 0.0}, {"A_ORDER": 2}, {"CTYPE2": "DEC--SIN"}, {"CRVAL2": 95.0, "LATPOLE": 999.0}]
)
def test_a_faulty_wcs_is_named(make_generic: MakeFile, cards: dict[str, float]) -> None:
    path = make_generic()
    with fits.open(path, mode="update") as hdus:
        hdus[0].header.update(cards)
    with pytest.raises(NoWcsError, match=r"one\.fits: "):
        read_wcs(exposure_at(path))


def test_many_threads_read_in_silence(make_generic: MakeFile) -> None:
    """MJD-OBS without DATE-OBS makes astropy warn of a fix, and warnings are errors here."""
    exposures = [exposure_of(make_generic(f"{n}.fits", seed=n, cards={"MJD-OBS": 59000.5})) for n in range(4)]
    start = threading.Barrier(4)

    def read(exposure: Exposure) -> float:
        start.wait()
        for _ in range(10):
            read_wcs(exposure)
        return float(np.nanmean(read_pixels(exposure).data))

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(read, exposures))) == 4


# -- bad input ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_truncated_file_is_noticed_when_read(make_jwst: MakeFile, suffix: str) -> None:
    path = make_jwst("a.fits")
    whole = path.read_bytes()
    for cut in (BLOCK * 2, BLOCK * 3 + 17, len(whole) - BLOCK, len(whole) - 1):
        path.write_bytes(gzip.compress(whole[:cut]) if suffix else whole[:cut])
        with pytest.raises(NotFitsError, match=r"a\.fits"):
            read_pixels(jwst_at(path))
    if suffix:
        zipped = gzip.compress(whole)
        path.write_bytes(zipped[: len(zipped) // 2])
        with pytest.raises(NotFitsError, match=r"a\.fits"):
            read_pixels(jwst_at(path))


def test_bytes_that_do_not_unpack_are_named(tmp_path: Path, sky_header: Callable[..., Any]) -> None:
    path = tmp_path / "bad.fits.fz"
    data = np.random.default_rng(0).integers(0, 1000, (32, 32), dtype=np.int32)
    packed = fits.CompImageHDU(data, sky_header(), compression_type="GZIP_1")
    fits.HDUList([fits.PrimaryHDU(), packed]).writeto(path)
    raw = bytearray(path.read_bytes())
    first = raw.index(b"\x1f\x8b")
    raw[first : first + 200] = bytes(200)
    path.write_bytes(raw)
    with pytest.raises(NotFitsError, match=r"bad\.fits\.fz: damaged"):
        read_pixels(exposure_at(path, sci=1))


def test_a_missing_file_is_the_disks_fault(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_pixels(exposure_at(tmp_path / "gone.fits"))


def test_an_hdu_that_went_away(make_generic: MakeFile) -> None:
    with pytest.raises(NoImageError, match="HDU 4 is missing"):
        read_pixels(exposure_at(make_generic(), sci=4))


@pytest.mark.parametrize("shape", [(3, 8, 8), (64,)])
def test_images_of_other_dimensions(make_generic: MakeFile, shape: tuple[int, ...]) -> None:
    path = make_generic(data=np.ones(shape, np.float32))
    with pytest.raises(NoImageError, match="expected a two-dimensional image"):
        read_pixels(exposure_at(path))


def test_nothing_usable(make_jwst: MakeFile) -> None:
    for data in (np.full((32, 32), np.nan, np.float32), np.zeros((32, 32), np.float32)):
        path = make_jwst("a.fits", data=data)
        with pytest.raises(NoUsablePixelsError, match=r"a\.fits: no usable pixel"):
            read_pixels(jwst_at(path))
        path.unlink()
    path = make_jwst("a.fits", dq=np.full((32, 32), 512, np.uint32))
    with pytest.raises(NoUsablePixelsError):
        read_pixels(jwst_at(path))


@pytest.mark.parametrize("plane", ["err", "dq"])
def test_planes_of_another_shape(make_jwst: MakeFile, plane: str) -> None:
    path = make_jwst("a.fits", **{plane: np.zeros((32, 31), np.uint32 if plane == "dq" else np.float32)})
    with pytest.raises(
        ShapeMismatchError, match=rf"a\.fits: {plane.upper()} has shape \(32, 31\), expected \(32, 32\)"
    ):
        read_pixels(jwst_at(path))


@pytest.mark.parametrize("hdu", [0, 1])
def test_matched_before(make_jwst: MakeFile, hdu: int) -> None:
    path = make_jwst("a.fits")
    fits.setval(path, "LVLSTAT", value="matched", ext=hdu)
    with pytest.raises(AlreadyMatchedError, match=rf"LVLSTAT = 'matched' in HDU {hdu}"):
        read_pixels(jwst_at(path))


def test_memory_is_a_few_times_the_image(make_jwst: MakeFile) -> None:
    data = np.random.default_rng(0).normal(5, 1, (512, 512)).astype(np.float32)
    exposure = exposure_of(make_jwst(data=data, size=512))
    read_pixels(exposure)
    tracemalloc.start()
    read_pixels(exposure)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * data.nbytes
