import gzip
import hashlib
import time
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from levelmatch_core.errors import DuplicateExposureError, NotFitsError, ShapeMismatchError
from levelmatch_core.images.fits_cards import open_raw
from levelmatch_core.jobs.products import WriteJob
from levelmatch_core.matching.corrections import Status
from levelmatch_core.process.small_work import CompiledWhenLarge, everything_compiled
from levelmatch_core.products.corrected import editing
from levelmatch_core.products.corrected.editing import Blank, moved_by, subtract_from_stored
from levelmatch_core.products.corrected.write import products_of, write_corrected
from levelmatch_core.sky.plane import Plane

SLOPED = Plane(level=3.0, slope_x=0.02, slope_y=-0.01, x0=-100.0, y0=350.0)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.fits"


def noise(shape: tuple[int, int] = (40, 60), dtype: Any = "f4") -> np.ndarray:
    return np.random.default_rng(1).normal(20, 3, shape).astype(dtype)


def raw_hdus(path: Path) -> list[bytes]:
    with open_raw(path, path.name) as raw:
        return [raw.header(n).to_bytes() + raw.data(n) for n in range(len(raw.spans))]


def cards(path: Path, hdu: int = 1) -> list[str]:
    with open_raw(path, path.name) as raw:
        text = raw.header(hdu).to_bytes().decode()
    return [text[at : at + 80] for at in range(0, len(text), 80) if text[at : at + 80].strip() not in {"", "END"}]


def correct(out: Path, make: Any, *parts: Any) -> tuple[str, ...]:
    made = write_corrected(out, parts, {"f770w": make.grid}, make.settings)
    assert made.sha256 == hashlib.sha256(out.read_bytes()).hexdigest()
    return made.notes


# -- what changes ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_a_level_is_taken_exactly_from_all_finite_pixels(make: Any, image_file: Any, out: Path, dtype: str) -> None:
    data = noise(dtype=dtype)
    data[3, 4], data[5, 6], data[7, 8] = np.nan, np.inf, 0.0
    path = image_file(data)
    correct(out, make, make.correction(make.exposure(path), Plane(level=1.0 / 3), local_sky=0.1))
    after = fits.getdata(out, "SCI")
    assert after.dtype == np.dtype(f">{dtype}")
    expected = (data.astype("f8") - (1.0 / 3 + 0.1)).astype(dtype)
    np.testing.assert_array_equal(after, expected)


@pytest.mark.parametrize("how", [everything_compiled, nullcontext])
@pytest.mark.parametrize("keep_zeros", [False, True])
@pytest.mark.parametrize("change", [0.1, -3e38, 0.0, 0.25, "an image"])
def test_numbers_as_they_are_stored_are_changed_as_others_are(
    change: Any, how: Any, monkeypatch: Any, *, keep_zeros: bool
) -> None:
    monkeypatch.setattr(CompiledWhenLarge, "_is_kept", lambda _: False)
    if how is nullcontext:
        monkeypatch.setattr(editing, "_subtract_swapped", editing._subtract_swapped.plain)
    words = np.random.default_rng(2).integers(0, 1 << 32, (90, 700), np.uint32, endpoint=False)
    words[0, :6] = 0x7F800001, 0xFFC00123, 0x7F800000, 0x80000000, 0x00000001, 0x7F7FFFFF  # NaN, inf, -0, least, most
    stored = words.astype(">u4").view(">f4")
    stored[1, :3] = 0.0, 0.25, -0.0
    if change == "an image":
        change = np.random.default_rng(3).normal(size=stored.shape)
    with np.errstate(all="ignore"):
        values = stored.astype(np.float64)
        blank = Blank((0.0,), values == 0, np.dtype(">f4")) if keep_zeros else Blank((), None, np.dtype(">f4"))
        expected = moved_by(values, -1, change, blank).astype(">f4")
    with how():
        subtract_from_stored(stored, change, keep_zeros=keep_zeros)
    assert stored.tobytes() == expected.tobytes()


def test_a_plane_is_taken_through_the_wcs(make: Any, image_file: Any, out: Path) -> None:
    path = image_file(noise(dtype="f8"), angle=50.0)
    correct(out, make, make.correction(make.exposure(path), SLOPED))
    y, x = np.mgrid[:40, :60]
    grid_x, grid_y = make.grid.wcs().world_to_pixel(make.wcs((40, 60), 50.0).pixel_to_world(x, y))
    np.testing.assert_allclose(
        fits.getdata(path, "SCI") - fits.getdata(out, "SCI"), SLOPED(grid_x, grid_y) + 0.5, rtol=0, atol=1e-6
    )


def test_exact_zeros_stay_where_they_are_blank(make: Any, image_file: Any, out: Path) -> None:
    data = noise()
    data[:, :4] = 0
    path = image_file(data)
    correct(out, make, make.correction(make.exposure(path, instrument="miri")))
    after = fits.getdata(out, "SCI")
    assert (after[:, :4] == 0).all()
    np.testing.assert_allclose(after[:, 4:], data[:, 4:] - 1.75, rtol=1e-6)
    exposure = make.exposure(path)
    correct(out, make, make.correction(exposure))
    assert (fits.getdata(out, "SCI")[:, :4] == 0).all()
    correct(out, make, make.correction(exposure.model_copy(update={"blank": "none"})))
    assert (fits.getdata(out, "SCI")[:, :4] == -1.75).all()


@pytest.mark.parametrize("instrument", ["generic", "miri"])
def test_what_is_known_to_be_unblank_is_not_searched_again(
    make: Any, image_file: Any, out: Path, monkeypatch: pytest.MonkeyPatch, *, instrument: str
) -> None:
    data = noise()
    if instrument == "miri":  # of which any 0 is blank
        data[3, 4:6] = 0
    correction = make.correction(make.exposure(image_file(data), instrument=instrument))
    correct(out, make, correction)
    searched = out.read_bytes()
    monkeypatch.delattr("levelmatch_core.products.corrected.write.find_blanks")
    write_corrected(out, [correction], {"f770w": make.grid}, make.settings, {correction.exposure.name})
    assert out.read_bytes() == searched


def test_the_job_knows_from_cutouts_which_exposures_are_unblank(make: Any) -> None:
    kinds = {"a": "generic", "b": "generic", "c": "generic", "d": "miri", "e": "miri"}
    parts = [make.correction(make.exposure(name=name, instrument=kind)) for name, kind in kinds.items()]
    blanks = {"a": (), "b": (0.0,), "d": (0.0,), "e": (0.0, -1.0)}
    cutouts = {name: make.cutout(name, 0, 0).model_copy(update={"blanks": found}) for name, found in blanks.items()}
    job = WriteJob.of("all.fits", parts, make.settings, {"f770w": make.grid}, cutouts)
    assert job.unblank == ("a", "d")
    assert job.key() == WriteJob.of("all.fits", parts, make.settings, {"f770w": make.grid}, {}).key()


@pytest.mark.parametrize(
    ("stored", "scaling"),
    [("i2", {"BSCALE": 0.5, "BZERO": 100.0, "BLANK": -7}), ("i4", {"BLANK": -7}), ("u1", {}), ("f4", {"BSCALE": 2.0})],
)
def test_scaled_and_integer_images_become_floating_point(
    make: Any, image_file: Any, out: Path, *, stored: str, scaling: dict[str, float]
) -> None:
    values = np.arange(2400).reshape(40, 60) % 200 if stored != "f4" else noise()
    values = values.astype(stored)
    path = image_file(values)
    plain = path.read_bytes()
    with fits.open(path, do_not_scale_image_data=True) as hdus:  # scaling cards without astropy's rescaling
        header = hdus[1].header.copy()
        header.update(scaling)
        raw = fits.ImageHDU(values, header, do_not_scale_image_data=True)
        raw.header.update(scaling)
        image = raw.header.tostring().encode() + _padded(values.astype(values.dtype.newbyteorder(">")).tobytes())
    with open_raw(path, "a") as file:
        span = file.spans[1]
    path.write_bytes(plain[: span.header] + image + plain[span.end :])

    correct(out, make, make.correction(make.exposure(path)))
    truth = values.astype("f8")
    if "BLANK" in scaling:
        truth[values == scaling["BLANK"]] = np.nan
    truth = truth * scaling.get("BSCALE", 1) + scaling.get("BZERO", 0) - 1.75
    with fits.open(out) as hdus:
        kept = "f8" if stored == "i4" else "f4"  # the type that holds every value of the input
        assert hdus[1].data.dtype == np.dtype(f">{kept}")
        np.testing.assert_array_equal(hdus[1].data, truth.astype(kept))
        assert not {"BSCALE", "BZERO", "BLANK"} & set(hdus[1].header)
        assert f"became {'float64' if stored == 'i4' else 'float32'}" in str(hdus[1].header["HISTORY"])


def _padded(data: bytes) -> bytes:
    return data.ljust(-(-len(data) // 2880) * 2880, b"\0")


def test_unsigned_integers_keep_their_value(make: Any, image_file: Any, out: Path) -> None:
    values = (np.arange(2400).reshape(40, 60) * 27).astype("u2")
    path = image_file(values)
    correct(out, make, make.correction(make.exposure(path)))
    np.testing.assert_array_equal(fits.getdata(out, "SCI"), (values - 1.75).astype("f4"))


# -- what stays --------------------------------------------------------------------------------------------------------
def test_every_other_hdu_and_card_stays_bit_for_bit(make: Any, image_file: Any, out: Path) -> None:
    path = image_file(noise(), dq=np.ones((40, 60), "u4"))
    odd = b"ODDCARD = 1.50D+03   / lower exponent and   spaces".ljust(80)
    raw = path.read_bytes().replace(b"EXTNAME = 'SCI", b"EXTNAME = 'SCI", 1)
    with open_raw(path, "a") as file:
        span = file.spans[1]
    at = raw.index(b"END".ljust(80), span.header)
    raw = raw[:at] + odd + b"END".ljust(80) + raw[at + 160 :] + b"tail of the file"
    path.write_bytes(raw)

    correct(out, make, make.correction(make.exposure(path)))
    before, after = raw_hdus(path), raw_hdus(out)
    assert [n for n, (a, b) in enumerate(zip(before, after, strict=True)) if a != b] == [1]
    ours = cards(out)
    assert [card for card in ours if not card.startswith("LVL")] == cards(path)
    assert odd.decode() in ours
    assert out.read_bytes().endswith(b"tail of the file")


def test_an_exposure_alone_is_copied_with_cards_only(make: Any, image_file: Any, out: Path) -> None:
    data = (np.arange(2400).reshape(40, 60)).astype("i2")
    path = image_file(data)
    alone = make.correction(make.exposure(path), Plane(), status=Status.ALONE, local_sky=0.0, reference="", stages={})
    correct(out, make, alone)
    before, after = fits.open(path), fits.open(out)
    assert after[1].data.dtype == before[1].data.dtype
    np.testing.assert_array_equal(after[1].data, data)
    assert after[1].header["LVLSTAT"] == "alone"
    before.close()
    after.close()


def test_the_cards_sum_it_up(make: Any, image_file: Any, out: Path) -> None:
    path = image_file(noise(), angle=50.0)
    correction = make.correction(make.exposure(path), SLOPED, provisional=True, partial=True)
    correct(out, make, correction)
    header = fits.getheader(out, 1)
    y, x = np.mgrid[:40, :60]
    grid_x, grid_y = make.grid.wcs().world_to_pixel(make.wcs((40, 60), 50.0).pixel_to_world(x, y))
    taken = SLOPED(grid_x, grid_y) + 0.5
    assert header["LVLLEVEL"] == pytest.approx(taken[19:21, 29:31].mean(), abs=1e-6)
    assert header["LVLSLPX"] == pytest.approx(np.diff(taken, axis=1).mean(), rel=1e-6)
    assert header["LVLSLPY"] == pytest.approx(np.diff(taken, axis=0).mean(), rel=1e-6)
    assert header["LVLSLPX"] != pytest.approx(header["LVLSLPY"], rel=0.1)
    assert (header["LVLSTAT"], header["LVLREF"], header["LVLPART"]) == ("matched", "t1?", True)
    assert (header["LVLSKY"], header["LVLERR"], header["LVLFIT"]) == (0.5, 0.01, "tiles:level")
    assert "MJy/sr" in header.comments["LVLLEVEL"]
    assert "MJy/sr/pixel" in header.comments["LVLSLPX"]


def test_text_that_fits_cannot_hold_is_escaped(make: Any, image_file: Any, out: Path) -> None:
    path = image_file(noise())
    correct(out, make, make.correction(make.exposure(path, unit="µJy"), reference="tüle\n" + "x" * 90))
    header = fits.getheader(out, 1)
    assert header["LVLREF"] == "t\\xfcle\\n" + "x" * 90


@pytest.mark.parametrize("kind", ["matched", "alone"])
def test_checksums_are_renewed_where_they_are(make: Any, image_file: Any, out: Path, kind: str) -> None:
    path = image_file(noise(), checksum=True)
    changes = {"status": Status.ALONE, "local_sky": 0.0} if kind == "alone" else {}
    correct(out, make, make.correction(make.exposure(path), Plane() if kind == "alone" else None, **changes))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fits.open(out, checksum=True) as hdus:
            assert all("CHECKSUM" in hdu.header for hdu in hdus)
    before, after = raw_hdus(path), raw_hdus(out)
    assert [n for n, (a, b) in enumerate(zip(before, after, strict=True)) if a != b] == [1]


def test_no_checksum_is_invented(make: Any, image_file: Any, out: Path) -> None:
    correct(out, make, make.correction(make.exposure(image_file(noise()))))
    assert "CHECKSUM" not in fits.getheader(out, 1)


# -- compressed files --------------------------------------------------------------------------------------------------
def test_gzip_has_neither_time_nor_name(make: Any, image_file: Any, tmp_path: Path) -> None:
    path = image_file(noise(), "a.fits.gz")
    first, second = tmp_path / "x.fits.gz", tmp_path / "another.fits.gz"
    for out in (first, second):
        correct(out, make, make.correction(make.exposure(path)))
    raw = first.read_bytes()
    assert raw == second.read_bytes()
    assert raw[:4] == b"\x1f\x8b\x08\x00"  # no name
    assert raw[4:8] == b"\0\0\0\0"  # no time
    np.testing.assert_allclose(fits.getdata(first, 1), noise() - 1.75, rtol=1e-6)
    before, after = (gzip.decompress(p.read_bytes()) for p in (path, first))
    with open_raw(path, "a") as a, open_raw(first, "b") as b:
        assert before[a.spans[2].header :] == after[b.spans[2].header :]


@pytest.mark.parametrize(
    ("dtype", "options"), [("f4", {"quantize_level": 16}), ("f8", {"quantize_level": 0}), ("i2", {})]
)
def test_a_compressed_image_is_compressed_without_loss(
    make: Any, out: Path, tmp_path: Path, dtype: str, options: dict[str, Any]
) -> None:
    data = (noise() * 10).astype(dtype)
    header = make.wcs(data.shape, 20.0).to_header()
    header["BUNIT"] = "DN"
    header["FOO"] = (3.0, "bar")
    method = "GZIP_2" if options.get("quantize_level") == 0 else "RICE_1"
    image = fits.CompImageHDU(data, header, name="SCI", compression_type=method, tile_shape=(10, 60), **options)
    other = fits.CompImageHDU(noise(), name="ERR", quantize_level=16)
    path = tmp_path / "a.fits.fz"
    fits.HDUList([fits.PrimaryHDU(), image, other]).writeto(path, checksum=True)
    before = fits.getdata(path, "SCI").astype("f8")

    correct(out, make, make.correction(make.exposure(path), SLOPED))
    with fits.open(out, checksum=True) as hdus:
        after = hdus["SCI"].data
        assert isinstance(hdus["SCI"], fits.CompImageHDU)
        assert after.dtype.itemsize == (8 if dtype == "f8" else 4)
        assert hdus["SCI"].header["FOO"] == 3.0
        assert hdus["SCI"].header["LVLSTAT"] == "matched"
    with fits.open(out, disable_image_compression=True) as hdus:
        assert hdus[1].header["ZCMPTYPE"] == "GZIP_2"
        assert (hdus[1].header["ZTILE1"], hdus[1].header["ZTILE2"]) == (60, 10)
        assert "ZQUANTIZ" not in hdus[1].header
    plain = tmp_path / "plain.fits"
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(before, header, name="SCI")]).writeto(plain)
    correct(tmp_path / "plain_out.fits", make, make.correction(make.exposure(plain), SLOPED))
    np.testing.assert_array_equal(after, fits.getdata(tmp_path / "plain_out.fits", 1).astype(after.dtype))
    assert raw_hdus(path)[2] == raw_hdus(out)[2]


@pytest.mark.parametrize(("dtype", "method"), [("f4", "GZIP_2"), ("f4", "RICE_1"), ("i2", "GZIP_1")])
def test_a_compressed_image_does_not_tell_the_time(make: Any, tmp_path: Path, dtype: str, method: str) -> None:
    """Its gzip streams would, each by itself: the same run has the same bytes whenever it is."""
    data = (noise() * 10).astype(dtype)
    header = make.wcs(data.shape, 20.0).to_header()
    path = tmp_path / "a.fits.fz"
    image = fits.CompImageHDU(data, header, name="SCI", compression_type=method)
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(path)
    made = []
    for name in ("one.fits", "two.fits"):
        correct(tmp_path / name, make, make.correction(make.exposure(path), SLOPED))
        made.append((tmp_path / name).read_bytes())
        time.sleep(1.1)
    assert made[0] == made[1]


# -- several parts -----------------------------------------------------------------------------------------------------
def halves(make: Any, path: Path, **changes: Any) -> tuple[Any, Any]:
    lyot = make.exposure(path, name=f"{path.name}@lyot", window=make.window, instrument="miri", dq=3, err=2)
    rest = make.window.model_copy(update={"inside": False})
    main = make.exposure(
        path, name=f"{path.name}@main", window=rest, instrument="miri", dq=3, err=2, anchors=("recombine_lyot",)
    )
    return make.correction(main, SLOPED), make.correction(lyot, Plane(level=7.0), **changes)


def test_window_and_rest_get_their_own_corrections(make: Any, image_file: Any, out: Path) -> None:
    path = image_file(noise(dtype="f8"), dq=np.zeros((40, 60), "u4"))
    main, lyot = halves(make, path)
    assert correct(out, make, main, lyot) == ()
    taken = fits.getdata(path, 1) - fits.getdata(out, 1)
    np.testing.assert_allclose(taken[25:, :20], 7.5, atol=1e-12)
    assert np.ptp(taken[:25]) > 0.1
    header = fits.getheader(out, 1)
    assert (header["LVLLEV2"], header["LVLSLX2"], header["LVLSKY2"]) == (7.5, 0.0, 0.5)
    assert raw_hdus(path)[2:] == raw_hdus(out)[2:]


@pytest.mark.parametrize("lost", ["untied", "missing"])
def test_a_window_that_nothing_ties_is_masked_and_named(make: Any, image_file: Any, out: Path, lost: str) -> None:
    quality = np.full((40, 60), 1 << 31, "u4") | np.uint32(4)
    path = image_file(noise(), dq=quality, checksum=True)
    main, lyot = halves(make, path, component=2, status=Status.UNTIED)
    notes = correct(out, make, main, *([lyot] if lost == "untied" else []))
    assert len(notes) == 1
    assert "a.fits" in notes[0]
    assert "masked" in notes[0]
    with fits.open(out, checksum=True) as hdus:
        inside = np.zeros((40, 60), bool)
        inside[25:, :20] = True
        assert np.isnan(hdus[1].data[inside]).all()
        assert np.isfinite(hdus[1].data[~inside]).all()
        np.testing.assert_array_equal(hdus[3].data, quality | inside)
        assert "masked its window" in str(hdus[1].header["HISTORY"])
        assert "LVLLEV2" not in hdus[1].header


def test_where_only_the_window_is_left_the_rest_is_masked(make: Any, image_file: Any, out: Path) -> None:
    path = image_file(noise(), dq=np.zeros((40, 60), "u4"))
    _, lyot = halves(make, path)
    (note,) = correct(out, make, lyot)
    assert "all but its window" in note
    after = fits.getdata(out, 1)
    np.testing.assert_allclose(after[25:, :20], noise()[25:, :20] - 7.5, rtol=1e-6)
    assert np.isnan(after[:25]).all()


def two_files(make: Any, image_file: Any, **changes: Any) -> tuple[Any, Any]:
    main_file = image_file(noise(), "jw_mirimages_cal.fits", dq=np.full((40, 60), 2, "u4"))
    lyot_file = image_file(noise() + 100, "jw_mirimagel_cal.fits", dq=np.full((40, 60), 4, "u4"))
    with fits.open(lyot_file, mode="update") as hdus:
        hdus["ERR"].data += 5
        hdus["VAR_POISSON"].data += 5
    shared = {"instrument": "miri", "product": "jw_mirimage_cal.fits", "err": 2, "dq": 3}
    outside = make.window.model_copy(update={"inside": False})
    main = make.exposure(main_file, **shared, window=outside, anchors=("recombine_lyot",))
    lyot = make.exposure(lyot_file, **shared, window=make.window)
    return make.correction(main), make.correction(lyot, Plane(level=102.0), **changes)


def test_two_files_become_one_with_the_windows_planes_from_its_own(make: Any, image_file: Any, out: Path) -> None:
    main, lyot = two_files(make, image_file)
    products = products_of([main, lyot])
    assert list(products) == ["jw_mirimage_cal.fits"]
    assert correct(out, make, *products["jw_mirimage_cal.fits"]) == ()
    with fits.open(out) as after, fits.open(main.exposure.path) as a, fits.open(lyot.exposure.path) as b:
        inside = np.zeros((40, 60), bool)
        inside[25:, :20] = True
        np.testing.assert_allclose(after[1].data, noise() - np.where(inside, 2.5, 1.75), rtol=2e-5)
        for hdu in (2, 3, 4):
            np.testing.assert_array_equal(after[hdu].data, np.where(inside, b[hdu].data, a[hdu].data))
            assert list(after[hdu].header.items()) == list(a[hdu].header.items())
        assert after[1].header["LVLLEV2"] == 102.5
    assert raw_hdus(out)[5] == raw_hdus(main.exposure.path)[5]


def test_two_files_whose_window_is_not_tied(make: Any, image_file: Any, out: Path) -> None:
    main, lyot = two_files(make, image_file, component=2)
    (note,) = correct(out, make, main, lyot)
    assert "jw_mirimage_cal.fits" in note
    with fits.open(out) as after:
        assert np.isnan(after[1].data[25:, :20]).all()
        assert (after[3].data[25:, :20] == 3).all()


def test_files_that_do_not_belong_together_are_refused(make: Any, image_file: Any, out: Path) -> None:
    main, lyot = two_files(make, image_file)
    other = make.correction(main.exposure.model_copy(update={"path": Path("c.fits"), "name": "c"}))
    with pytest.raises(DuplicateExposureError, match="jw_mirimage_cal"):
        correct(out, make, main, lyot, other)
    narrow = lyot.model_copy(update={"exposure": lyot.exposure.model_copy(update={"shape": (40, 50)})})
    with pytest.raises(ShapeMismatchError, match="40, 50"):
        correct(out, make, main, narrow)


def test_chips_of_one_file_each_get_their_own(make: Any, tmp_path: Path, out: Path) -> None:
    path = tmp_path / "multi.fits"
    header = make.wcs((40, 60), 20.0).to_header()
    chips = [fits.ImageHDU(noise(), header, name="SCI", ver=n) for n in (1, 2)]
    fits.HDUList([fits.PrimaryHDU(), *chips]).writeto(path)
    one = make.correction(make.exposure(path), Plane(level=1.0), local_sky=0.0)
    two = make.correction(make.exposure(path, name="multi.fits#2", sci=2), Plane(level=2.0), local_sky=0.0, field="g")
    products = products_of([two, one, make.correction(make.exposure(Path("x.fits")), status=Status.FAILED)])
    assert {name: [part.exposure.sci for part in parts] for name, parts in products.items()} == {"multi.fits": [1, 2]}
    write_corrected(out, products["multi.fits"], {"f770w": make.grid, "g": make.grid}, make.settings)
    np.testing.assert_allclose(fits.getdata(out, 1), noise() - 1, rtol=1e-6)
    np.testing.assert_allclose(fits.getdata(out, 2), noise() - 2, rtol=1e-6)


def test_a_file_damaged_since_it_was_read_is_named(make: Any, image_file: Any, out: Path) -> None:
    path = image_file(noise(), "a.fits.gz")
    exposure = make.exposure(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(NotFitsError, match=r"a\.fits\.gz"):
        correct(out, make, make.correction(exposure))
