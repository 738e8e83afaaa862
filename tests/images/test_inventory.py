"""From files to exposures, tiles and fields; what is bad is left out by name, and the order of inputs is nothing."""

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from levelmatch_core.errors import NoInputError, SettingsError, UsageError
from levelmatch_core.images.exposure import Inventory
from levelmatch_core.images.inventory import take_inventory
from levelmatch_core.images.missing import MissingInput
from levelmatch_core.settings import MatchSettings
from tests.images.pixels import read_pixels

MakeFile = Callable[..., Path]
POINTING = "jw02107001001_02101"


def take(*inputs: Path, **options: Any) -> Inventory:
    outer = {name: options.pop(name) for name in ("recursive", "group_by", "exclude") if name in options}
    return take_inventory(inputs, MatchSettings(**options), **outer)


def failures_of(inventory: Inventory) -> dict[str, str]:
    return {failure.name: failure.error for failure in inventory.failures}


def members(inventory: Inventory) -> dict[str, list[str]]:
    return {field.name: [exposure.name for exposure in field.exposures] for field in inventory.fields}


# -- what good files become --------------------------------------------------------------------------------------------
def test_m17(m17: Path) -> None:
    inventory = take(m17)
    assert inventory.failures == ()
    (note,) = inventory.notes
    assert "zero points in the headers differ by 0.0026 mag" in note
    assert "0.24 % in gain, a false level of 2.4 over a sky of 1000 units" in note
    (field,) = inventory.fields
    assert (field.name, field.band, field.unit, field.instrument) == ("k", "k", "", "2mass")
    assert len(field.exposures) == len({exposure.tile for exposure in field.exposures}) == 8
    for exposure in field.exposures:
        assert exposure.shape == (1024, 512)
        assert exposure.scale == pytest.approx(1.0, abs=1e-6)
        assert exposure.groups == {"dithers": exposure.name, "mosaic_tiles": "k"}
        pixels = read_pixels(exposure)
        assert pixels.data.dtype == np.float32
        assert 8_000 < np.isnan(pixels.data).sum() < 10_000


def test_m17_by_scan(m17: Path) -> None:
    (field,) = take(m17, group_by=r"s(\d{3})").fields
    tiles = [exposure.tile for exposure in field.exposures]
    assert tiles == ["135", "135", "142", "142", "143", "143", "144", "144"]
    assert [exposure.groups["dithers"] for exposure in field.exposures] == tiles


def test_a_jwst_exposure(make_jwst: MakeFile, tmp_path: Path) -> None:
    make_jwst(f"{POINTING}_00001_mirimage_cal.fits", primary={"DT_BGR": -3.5, "PUPIL": "CLEAR"})
    (field,) = take(tmp_path).fields
    (exposure,) = field.exposures
    assert (field.name, field.instrument, field.unit) == ("f770w", "miri", "MJy/sr")
    assert (exposure.sci, exposure.err, exposure.dq) == (1, 2, 3)
    assert exposure.tile == f"{POINTING}_mirimage"
    assert exposure.background_time == -3.5
    assert exposure.path == tmp_path / exposure.file
    assert Inventory.from_json(take(tmp_path).to_json()) == take(tmp_path)


@pytest.mark.parametrize(("value", "expected"), [("near", None), ("2.5", 2.5), (None, None)])
def test_background_times_that_are_no_numbers(
    make_jwst: MakeFile, tmp_path: Path, value: object, expected: float | None
) -> None:
    make_jwst(primary={"DT_BGR": value})
    assert take(tmp_path).fields[0].exposures[0].background_time == expected


def test_the_order_of_inputs_and_the_workers_change_nothing(make_jwst: MakeFile, tmp_path: Path) -> None:
    paths = [make_jwst(f"{POINTING}_0000{n}_mirimage_cal.fits", seed=n, ra=10 + n / 2000) for n in range(1, 6)]
    paths.append(tmp_path / "copy.fits")
    shutil.copy(paths[2], paths[-1])
    paths.append(tmp_path / "bad.fits")
    paths[-1].write_bytes(b"no")
    first = take(*paths)
    assert len(first.failures) == 2
    assert take(*reversed(paths)) == take(tmp_path) == take(tmp_path, procs=3) == first


def test_lyot_halves_of_a_plain_file(make_jwst: MakeFile, tmp_path: Path) -> None:
    data = np.ones((1024, 1032), np.float32)
    path = make_jwst(data=data, size=1024)
    (field,) = take(tmp_path, recombine_lyot=True).fields
    lyot, main = field.exposures
    assert [one.name for one in field.exposures] == [f"{path.name}@lyot", f"{path.name}@main"]
    assert {one.file for one in field.exposures} == {path.name}
    assert lyot.groups == {
        "dithers": f"{POINTING}_mirimagel",
        "recombine_lyot": f"{POINTING}_mirimage",
        "mosaic_tiles": "f770w",
    }
    assert main.anchors == ("recombine_lyot",)
    assert lyot.footprint != main.footprint
    (plain,) = take(tmp_path).fields[0].exposures
    assert plain.name == path.name


def test_separated_halves_make_one_product(make_jwst: MakeFile, tmp_path: Path) -> None:
    for letter in "ls":
        make_jwst(f"{POINTING}_00001_mirimage{letter}_cal.fits", seed=ord(letter))
    (field,) = take(tmp_path, recombine_lyot=True).fields
    assert {one.product for one in field.exposures} == {f"{POINTING}_00001_mirimage_cal.fits"}
    assert {one.product for one in take(tmp_path).fields[0].exposures} == {""}


def test_group_by_holds_for_jwst_and_keeps_halves_apart(make_jwst: MakeFile, tmp_path: Path) -> None:
    for n in (1, 2):
        make_jwst(f"jw02107001001_0210{n}_00001_mirimagel_cal.fits", seed=n)
        make_jwst(f"jw02107001001_0210{n}_00001_mirimages_cal.fits", seed=n + 5)
    (field,) = take(tmp_path, recombine_lyot=True, group_by=r"^jw\d+").fields
    assert {one.tile for one in field.exposures} == {"jw02107001001_mirimagel", "jw02107001001_mirimages"}
    assert {one.groups["recombine_lyot"] for one in field.exposures} == {"jw02107001001_mirimage"}


def test_group_by_a_table_with_a_gap(make_generic: MakeFile, tmp_path: Path) -> None:
    for n in range(3):
        make_generic(f"{n}.fits", seed=n)
    table = tmp_path / "groups.csv"
    table.write_text("file,tile\n0.fits,T\n1.fits,T\n")
    inventory = take(tmp_path, group_by=table)
    assert [one.tile for one in inventory.fields[0].exposures] == ["T", "T"]
    assert failures_of(inventory) == {"2.fits": "DataError"}
    assert "add a row" in inventory.failures[0].reason


def test_all_sci_extensions_of_a_multi_chip_file(tmp_path: Path, sky_header: Callable[..., Any]) -> None:
    hdus = [fits.PrimaryHDU()]
    for chip in (1, 2):
        data = np.random.default_rng(chip).normal(5, 1, (32, 32)).astype(np.float32)
        data[0, 0] = chip
        hdus.append(fits.ImageHDU(data, sky_header(ra=10 + chip / 2000), name="SCI", ver=chip))
        hdus.append(fits.ImageHDU(data * 10, name="ERR", ver=chip))
    fits.HDUList(hdus).writeto(tmp_path / "m.fits")
    (field,) = take(tmp_path).fields
    one, two = field.exposures
    assert (one.name, two.name) == ("m.fits#1", "m.fits#2")
    assert (one.sci, one.err, two.sci, two.err) == (1, 2, 3, 4)
    assert (one.tile, two.tile) == ("m.fits#1", "m.fits#2")
    pixels = read_pixels(two)
    assert pixels.variance is not None
    assert (pixels.data[0, 0], pixels.variance[0, 0]) == (2, 400)


def test_a_bad_chip_costs_that_chip(tmp_path: Path, sky_header: Callable[..., Any]) -> None:
    data = np.ones((32, 32), np.float32)
    chips = [fits.ImageHDU(data, sky_header(), name="SCI", ver=1), fits.ImageHDU(data, name="SCI", ver=2)]
    fits.HDUList([fits.PrimaryHDU(), *chips]).writeto(tmp_path / "m.fits")
    inventory = take(tmp_path)
    assert members(inventory) == {"field": ["m.fits#1"]}
    assert failures_of(inventory) == {"m.fits#2": "NoWcsError"}
    assert inventory.failures[0].exposures == ("m.fits#2",)


def test_without_sci_the_first_plane_image_is_taken(tmp_path: Path, sky_header: Callable[..., Any]) -> None:
    cube, plane = np.ones((2, 4, 4), np.float32), np.ones((32, 32), np.float32)
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(cube), fits.ImageHDU(plane, sky_header()), fits.ImageHDU(plane * 2)]
    fits.HDUList(hdus).writeto(tmp_path / "a.fits")
    assert take(tmp_path).fields[0].exposures[0].sci == 2


def test_an_i2d_like_file(tmp_path: Path, make_jwst: MakeFile) -> None:
    path = make_jwst(f"{POINTING}_00001_mirimage_i2d.fits")
    with fits.open(path, mode="update") as hdus:
        hdus[3].header["EXTNAME"] = "CON"
    inventory = take(tmp_path)
    assert inventory.fields[0].exposures[0].dq is None
    assert any("no data-quality extension" in note for note in inventory.notes)


# -- bands and fields --------------------------------------------------------------------------------------------------
def three_bands(make_jwst: MakeFile) -> None:
    for n, cards in enumerate(
        [{"FILTER": "F200W", "PUPIL": "CLEAR"}, {"FILTER": "F444W", "PUPIL": "F405N"}, {"FILTER": "F444W"}]
    ):
        make_jwst(f"jw02107001001_0{n}101_00001_nrcalong_cal.fits", seed=n, primary=cards)


@pytest.mark.parametrize(
    ("band", "expected"),
    [
        ("f200w", {"f200w"}),
        ("F200W-CLEAR", {"f200w"}),
        ("F444W-F405N", {"f444w_f405n"}),
        ("F444W", {"f444w", "f444w_f405n"}),
        (None, {"f200w", "f444w", "f444w_f405n"}),
    ],
)
def test_band(make_jwst: MakeFile, tmp_path: Path, band: str | None, expected: set[str]) -> None:
    three_bands(make_jwst)
    inventory = take(tmp_path, band=band)
    assert set(members(inventory)) == expected
    assert inventory.failures == ()
    assert any(note.startswith("left out") for note in inventory.notes) == (band is not None)


def test_a_band_that_none_has_is_refused_with_those_present(make_jwst: MakeFile, tmp_path: Path) -> None:
    three_bands(make_jwst)
    with pytest.raises(SettingsError, match=r"band 'F770W'.*f200w \(1\), f444w \(1\), f444w-f405n \(1\)"):
        take(tmp_path, band="F770W")


def test_other_units_bands_cameras_and_scales_never_meet(make_jwst: MakeFile, tmp_path: Path) -> None:
    names = iter(f"jw02107001001_0210{n}_00001_mirimage_cal.fits" for n in range(1, 9))
    make_jwst(next(names), seed=1)
    make_jwst(next(names), seed=2, unit="DN/s")
    make_jwst(next(names), seed=3, primary={"FILTER": "F1000W"})
    make_jwst(next(names), seed=4, scale=0.3)
    make_jwst(next(names), seed=5, scale=0.19)
    make_jwst("plain.fits", seed=6, primary={"TELESCOP": "HST", "INSTRUME": "WFC3"})
    make_jwst("other.fits", seed=7, primary={"TELESCOP": "HST", "INSTRUME": "ACS"})
    inventory = take(tmp_path)
    assert [(field.name, len(field.exposures)) for field in inventory.fields] == [
        ("f1000w", 1),
        ("f770w-1", 2),
        ("f770w-2", 1),
        ("f770w-3", 1),
        ("f770w-4", 1),
        ("f770w-5", 1),
    ]
    for field in inventory.fields:
        assert all(exposure.groups["mosaic_tiles"] == field.name for exposure in field.exposures)
        assert any(note.startswith(f"field {field.name}: ") for note in inventory.notes)
    assert any("DN/s" in note for note in inventory.notes)
    assert any("hst wfc3" in note for note in inventory.notes)
    scales = {exposure.file: field.name for field in inventory.fields for exposure in field.exposures}
    assert (
        scales["jw02107001001_02101_00001_mirimage_cal.fits"] == scales["jw02107001001_02105_00001_mirimage_cal.fits"]
    )


def test_fields_are_connected_sets(make_generic: MakeFile, tmp_path: Path) -> None:
    step = 25 * 0.1 / 3600
    for n, ra in enumerate([0.0, step, 2 * step, 20 * step, 21 * step, 359.9999]):
        make_generic(f"{n}.fits", seed=n, ra=ra, dec=0.0, cards={"FILTER": "R"})
    assert members(take(tmp_path)) == {
        "r-1": ["0.fits", "1.fits", "2.fits", "5.fits"],
        "r-2": ["3.fits", "4.fits"],
    }


def test_field_names_are_safe(make_generic: MakeFile, tmp_path: Path) -> None:
    make_generic("a.fits", cards={"FILTER": "../H alpha / [x]"})
    (field,) = take(tmp_path).fields
    assert (field.name, field.band) == ("h_alpha_x", "../h alpha / [x]")


def test_a_field_at_the_pole(make_generic: MakeFile, tmp_path: Path) -> None:
    for n, ra in enumerate([0.0, 120.0, 240.0]):
        make_generic(f"{n}.fits", seed=n, ra=ra, dec=90 - 10 * 0.1 / 3600)
    assert members(take(tmp_path)) == {"field": ["0.fits", "1.fits", "2.fits"]}


def test_a_single_exposure_is_a_field(make_generic: MakeFile) -> None:
    inventory = take(make_generic("with space ü 星.fits"))
    assert members(inventory) == {"field": ["with space ü 星.fits"]}
    assert (inventory.failures, inventory.notes) == ((), ())


def test_names_from_two_folders_stay_apart(make_generic: MakeFile, tmp_path: Path) -> None:
    make_generic("a/x.fits", seed=1)
    make_generic("b/x.fits", seed=2)
    assert members(take(tmp_path / "a", tmp_path / "b")) == {"field": ["a/x.fits", "b/x.fits"]}


# -- bad input ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def folder(make_generic: MakeFile, tmp_path: Path) -> Path:
    """One good file, to which tests add a bad one."""
    make_generic("good.fits")
    return tmp_path


def only_failure(folder: Path, error: str, name: str = "worse.fits", **options: Any) -> str:
    """Check that the bad file is the one failure and the good one the one exposure; return the reason."""
    inventory = take(folder, **options)
    assert failures_of(inventory) == {name: error}
    assert members(inventory) == {"field": ["good.fits"]}
    (failure,) = inventory.failures
    assert (failure.step, failure.exposures) == ("inventory", (name,))
    assert name in failure.reason
    return failure.reason


def test_not_fits(folder: Path) -> None:
    (folder / "worse.fits").write_text("a text")
    assert "not a FITS file" in only_failure(folder, "NotFitsError")


def test_missing(folder: Path, make_generic: MakeFile) -> None:
    """Also one of which an older version is still there."""
    paths = [folder / "good.fits", folder / "deep" / ".." / "gone.fits", make_generic("worse.fits", seed=5)]
    missing = [MissingInput(path=path, given=path.name, reason="no such file; put it there") for path in paths[1:]]
    inventory = take_inventory(paths, MatchSettings(), missing=missing)
    assert failures_of(inventory) == {"gone.fits": "MissingInputError", "worse.fits": "MissingInputError"}
    assert [failure.reason.partition(";")[0] for failure in inventory.failures] == [
        "gone.fits: no such file",
        "worse.fits: no such file",
    ]
    assert members(inventory) == {"field": ["good.fits"]}
    with pytest.raises(UsageError, match=r"gone\.fits: no such file or folder"):
        take_inventory(paths, MatchSettings(), missing=missing[1:])


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("zipped", [False, True])
def test_truncated(folder: Path, make_generic: MakeFile, blocks: int, zipped: bool) -> None:
    path = make_generic("worse.fits", seed=5)
    raw = path.read_bytes()[: 2880 * blocks]
    path.write_bytes(gzip.compress(raw) if zipped else raw)
    assert "truncated" in only_failure(folder, "NotFitsError")


def test_absurd_size(folder: Path) -> None:
    header = fits.Header([("SIMPLE", True), ("BITPIX", -32), ("NAXIS", 2), ("NAXIS1", 10**6), ("NAXIS2", 10**6)])
    (folder / "worse.fits").write_bytes(header.tostring().encode())
    assert "1000000 x 1000000" in only_failure(folder, "NoImageError")


def test_no_image(folder: Path) -> None:
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns([])]).writeto(folder / "worse.fits")
    assert "no two-dimensional image" in only_failure(folder, "NoImageError")


def test_no_wcs(folder: Path) -> None:
    fits.PrimaryHDU(np.ones((8, 8), np.float32)).writeto(folder / "worse.fits")
    assert "no celestial WCS" in only_failure(folder, "NoWcsError")


def test_a_damaged_card(folder: Path, make_generic: MakeFile) -> None:
    path = make_generic("worse.fits", seed=5, cards={"FILTER": "R"})
    path.write_bytes(path.read_bytes().replace(b"FILTER  = 'R       '", b"FILTER  = 'R        "))
    assert "FILTER" in only_failure(folder, "NotFitsError")


@pytest.mark.parametrize("plane", ["err", "dq"])
def test_shapes_that_differ(make_jwst: MakeFile, tmp_path: Path, plane: str) -> None:
    make_jwst("good.fits", primary={"FILTER": None})
    make_jwst("worse.fits", seed=1, **{plane: np.zeros((16, 32), np.int32)}, primary={"FILTER": None})
    assert "has shape (16, 32), expected (32, 32)" in only_failure(tmp_path, "ShapeMismatchError")


def test_a_duplicate(folder: Path) -> None:
    shutil.copy(folder / "good.fits", folder / "worse.fits")
    assert "the same bytes as good.fits, which is used" in only_failure(folder, "DuplicateExposureError")


def test_the_same_exposure_in_two_stages_of_processing(make_jwst: MakeFile, tmp_path: Path) -> None:
    for n, extension in enumerate(["cal", "crf"]):
        make_jwst(f"{POINTING}_00001_mirimage_{extension}.fits", seed=n)
    inventory = take(tmp_path)
    assert members(inventory) == {"f770w": [f"{POINTING}_00001_mirimage_cal.fits"]}
    assert failures_of(inventory) == {f"{POINTING}_00001_mirimage_crf.fits": "DuplicateExposureError"}
    assert "choose by step_ext" in inventory.failures[0].reason
    assert members(take(tmp_path, step_ext="crf")) == {"f770w": [f"{POINTING}_00001_mirimage_crf.fits"]}


def test_a_whole_chip_beside_its_separated_halves(make_jwst: MakeFile, tmp_path: Path) -> None:
    make_jwst(data=np.ones((1024, 1032), np.float32), size=1024)
    for letter in "ls":
        make_jwst(f"{POINTING}_00001_mirimage{letter}_cal.fits", seed=ord(letter))
    inventory = take(tmp_path, recombine_lyot=True)
    assert len(inventory.fields[0].exposures) == 2
    assert set(failures_of(inventory).values()) == {"DuplicateExposureError"}


def test_matched_before(folder: Path, make_generic: MakeFile) -> None:
    make_generic("worse.fits", seed=5, cards={"LVLSTAT": "matched"})
    assert "was matched before" in only_failure(folder, "AlreadyMatchedError")


def test_a_file_that_may_not_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = folder / "worse.fits"
    bad.touch()
    opened = Path.open

    def refuse(path: Path, *args: Any, **named: Any) -> Any:
        if path == bad:
            raise PermissionError(13, "Permission denied")
        return opened(path, *args, **named)

    monkeypatch.setattr(Path, "open", refuse)
    assert "cannot be read: Permission denied" in only_failure(folder, "NotFitsError")


def test_nothing_usable_names_the_reasons(tmp_path: Path) -> None:
    for n in range(12):
        (tmp_path / f"{n:02}.fits").write_bytes(b"no %d" % n)
    with pytest.raises(NoInputError, match=r"none of 12 files can be used:\n  NotFitsError: 00\.fits(.|\n)*and 2 more"):
        take(tmp_path)


def test_bad_requests_are_refused_before_anything_is_read(folder: Path) -> None:
    with pytest.raises(UsageError, match="no such file or folder"):
        take(folder / "gone.fits")
    with pytest.raises(UsageError, match="regular expression"):
        take(folder, group_by="(")


# -- the tile of what cannot be read -----------------------------------------------------------------------------------
def unreadable(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_bytes(b"SIMPLE  = no FITS")


def tiles_lost(inventory: Inventory) -> dict[str, tuple[str, ...]]:
    return {failure.name: failure.tiles for failure in inventory.failures}


def test_a_name_tells_the_tile_of_a_file_that_cannot_be_read(make_jwst: MakeFile, tmp_path: Path) -> None:
    make_jwst(f"{POINTING}_00001_mirimage_cal.fits")
    miri, nircam, other = f"{POINTING}_00002_mirimage_cal.fits", f"{POINTING}_00002_nrca3_cal.fits", "scan#2.fits"
    unreadable(tmp_path, miri, nircam, other)
    assert tiles_lost(take(tmp_path)) == {
        miri: (f"{POINTING}_mirimage",),
        nircam: (f"{POINTING}_nrca3",),
        other: (other,),
    }
    found = tiles_lost(take(tmp_path, recombine_lyot=True, combine_nircam_short=True))
    assert found[miri][0] == f"{POINTING}_mirimages"
    assert set(found[miri]) == {f"{POINTING}_mirimage{half}" for half in ("", "l", "s")}
    assert found[nircam] == (f"{POINTING}_nrca3", f"{POINTING}_nrca")


def test_the_users_grouping_tells_the_tile_of_an_unreadable_file(make_generic: MakeFile, tmp_path: Path) -> None:
    make_generic("s001_a.fits")
    unreadable(tmp_path, "s001_b.fits", "other.fits")
    found = tiles_lost(take(tmp_path, group_by=r"(s\d+)_"))
    assert found == {"other.fits": (), "s001_b.fits": ("s001",)}
