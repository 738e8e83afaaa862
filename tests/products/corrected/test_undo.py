"""Inputs given back, solutions applied again, outputs verified: on small files with all that may be in them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from levelmatch_core.errors import NoInputError, OutputFolderError, UsageError
from levelmatch_core.images.exposure import Inventory
from levelmatch_core.matching.corrections import Status
from levelmatch_core.products.corrected.known_solution import KnownSolution
from levelmatch_core.products.corrected.reapply import apply_solution
from levelmatch_core.products.corrected.undo import undo
from levelmatch_core.products.corrected.verify import verify
from levelmatch_core.products.corrected.write import products_of, write_corrected
from levelmatch_core.products.output.folder import OutputFolder
from levelmatch_core.products.runrecord import record_of
from levelmatch_core.products.tables import write_corrections, write_pairs
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.plane import Plane

SLOPED = Plane(level=3.0, slope_x=0.02, slope_y=-0.01, x0=-100.0, y0=350.0)
Finished = Callable[..., Path]


def noise(dtype: Any = "f4", seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(20, 3, (40, 60)).astype(dtype)


def raw_hdus_but(path: Path, hdu: int) -> list[bytes]:
    with fits.open(path, disable_image_compression=True) as hdus:
        infos = [one.fileinfo() for n, one in enumerate(hdus) if n != hdu]
    raw = path.read_bytes()
    return [raw[info["hdrLoc"] : info["datLoc"] + info["datSpan"]] for info in infos]


def rounding(*values: np.ndarray) -> np.ndarray:
    """Half a unit in the last place of each, as the docstring promises."""
    return sum(np.spacing(np.abs(one)).astype("f8") / 2 for one in values)


@pytest.fixture
def finished(make: Any, tmp_path: Path) -> Finished:
    """Write a finished output folder of the given corrections."""

    def write(*corrections: Any, folder: str = "out", **settings: Any) -> Path:
        out = tmp_path / folder
        match = make.match()
        exposures = tuple(correction.exposure for correction in corrections)
        field = match.field.model_copy(update={"exposures": exposures})
        match = match.model_copy(update={"field": field, "corrections": corrections, "stages": (), "cutouts": {}})
        chosen = MatchSettings.from_mapping(settings)
        with OutputFolder.open(out, chosen, [correction.exposure.path for correction in corrections]) as place:
            files = [
                place.write(
                    f"tiles/{name}", lambda path, p=parts: write_corrected(path, p, {"f770w": make.grid}, chosen)
                )
                for name, parts in products_of(corrections).items()
            ]
            # a stage is in the table with its fit type where a solution of it is there: here we set it by hand
            files.append(place.write("corrections.ecsv", lambda path: write_corrections(path, [match])))
            files.append(place.write("pairs.ecsv", lambda path: write_pairs(path, [match])))
            place.finish(record_of([match], chosen, "p", Inventory(fields=(field,)), files), {})
        return out

    return write


# -- undo --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("plane", [Plane(level=1.0 / 3), SLOPED], ids=["level", "plane"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("name", ["a.fits", "a.fits.gz"])
def test_an_input_comes_back_to_rounding(
    make: Any, image_file: Any, finished: Finished, tmp_path: Path, *, plane: Plane, dtype: str, name: str
) -> None:
    data = noise(dtype)
    data[3, 4], data[5, 6] = np.nan, np.inf
    path = image_file(data, name, checksum=True)
    out = finished(make.correction(make.exposure(path), plane, local_sky=0.1))
    given = undo(out, tmp_path / "back")
    assert given.complete
    with fits.open(tmp_path / "back" / name, checksum=True) as back, fits.open(out / "tiles" / name) as corrected:
        got, between = back[1].data, corrected[1].data
        assert got.dtype.newbyteorder("=") == np.dtype(dtype)
        seen = np.isfinite(data)
        np.testing.assert_array_equal(got[~seen], data[~seen])
        off = np.abs(got[seen].astype("f8") - data[seen])
        assert (off <= rounding(data[seen], between[seen])).all()
        assert np.abs(between[seen] - data[seen]).min() > 0.3  # there was something to give back
        before = fits.getheader(path, 1)
        kept, were = (
            [str(card) for card in header.cards if "SUM" not in card.keyword] for header in (back[1].header, before)
        )
        assert kept == were
    if not name.endswith("gz"):
        assert raw_hdus_but(tmp_path / "back" / name, 1) == raw_hdus_but(path, 1)


def halves(make: Any, path: Path, **changes: Any) -> tuple[Any, Any]:
    lyot = make.exposure(path, name=f"{path.name}@lyot", window=make.window, instrument="miri", dq=3, err=2)
    rest = make.window.model_copy(update={"inside": False})
    main = make.exposure(path, name=f"{path.name}@main", window=rest, instrument="miri", dq=3, err=2)
    return make.correction(main, SLOPED), make.correction(lyot, Plane(level=70.0, slope_x=0.3), **changes)


def test_both_halves_of_a_lyot_image_come_back(make: Any, image_file: Any, finished: Finished, tmp_path: Path) -> None:
    path = image_file(noise(), "jw01234001001_02101_00001_mirimage_cal.fits", dq=np.zeros((40, 60), "u4"))
    out = finished(*halves(make, path))
    assert verify(out).mismatches == ()
    given = undo(out, tmp_path / "back")
    assert given.complete
    got, between = fits.getdata(tmp_path / "back" / path.name, 1), fits.getdata(out / "tiles" / path.name, 1)
    assert (np.abs(got.astype("f8") - noise()) <= rounding(noise(), between)).all()
    taken = np.abs(between - noise())
    assert taken[25:, :20].min() > 2 * taken[:25].max() > 1


def test_halves_of_two_files_come_back_as_one_image(
    make: Any, image_file: Any, finished: Finished, tmp_path: Path
) -> None:
    stem = "jw01234001001_02101_00001_mirimage"
    quality = np.zeros((40, 60), "u4")
    main_file = image_file(noise(), f"{stem}s_cal.fits", dq=quality)
    lyot_file = image_file(noise(seed=2) + 100, f"{stem}l_cal.fits", dq=quality)
    shared = {"instrument": "miri", "product": f"{stem}_cal.fits", "err": 2, "dq": 3}
    outside = make.window.model_copy(update={"inside": False})
    main = make.exposure(main_file, **shared, window=outside, anchors=("recombine_lyot",))
    lyot = make.exposure(lyot_file, **shared, window=make.window)
    out = finished(make.correction(main), make.correction(lyot, Plane(level=102.0)))
    assert verify(out).mismatches == ()
    assert undo(out, tmp_path / "back").complete
    inside = np.zeros((40, 60), bool)
    inside[25:, :20] = True
    truth = np.where(inside, (noise(seed=2) + 100).astype("f4"), noise())
    got = fits.getdata(tmp_path / "back" / f"{stem}_cal.fits", 1)
    between = fits.getdata(out / "tiles" / f"{stem}_cal.fits", 1)
    assert (np.abs(got.astype("f8") - truth) <= rounding(truth, between)).all()


def test_a_masked_window_is_named(make: Any, image_file: Any, finished: Finished, tmp_path: Path) -> None:
    path = image_file(noise(), dq=np.zeros((40, 60), "u4"))
    out = finished(*halves(make, path, component=2, status=Status.UNTIED))
    given = undo(out, tmp_path / "back")
    assert not given.complete
    assert "a.fits" in given.notes[0]
    got = fits.getdata(tmp_path / "back" / "a.fits", 1)
    assert np.isnan(got[25:, :20]).all()
    np.testing.assert_allclose(got[:25], noise()[:25], rtol=1e-6)


def test_integers_come_back_as_floats(make: Any, image_file: Any, finished: Finished, tmp_path: Path) -> None:
    values = (np.arange(2400).reshape(40, 60) * 27).astype("u2")
    out = finished(make.correction(make.exposure(image_file(values))))
    assert undo(out, tmp_path / "back").complete
    np.testing.assert_allclose(fits.getdata(tmp_path / "back" / "a.fits", 1), values, rtol=2e-7, atol=2e-7)


def test_what_was_alone_comes_back_to_the_byte(make: Any, image_file: Any, finished: Finished, tmp_path: Path) -> None:
    path = image_file(np.arange(2400).reshape(40, 60).astype("i2"))
    alone = make.correction(make.exposure(path), Plane(), status=Status.ALONE, local_sky=0.0, reference="", stages={})
    out = finished(alone)
    assert undo(out, tmp_path / "back").complete
    assert (tmp_path / "back" / "a.fits").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("plane", [Plane(level=1.0 / 3), SLOPED], ids=["level", "plane"])
@pytest.mark.parametrize(
    ("dtype", "cards"),
    [
        ("i2", {}),
        ("u1", {}),
        ("i2", {"BSCALE": 0.5, "BZERO": 100.0, "BLANK": -7}),
        ("i2", {"BZERO": 32768, "BSCALE": 1}),
        ("i4", {"BLANK": -7}),
        ("i4", {"BSCALE": 1.25e-3}),
        ("f4", {"BSCALE": 2.0}),
    ],
)
def test_integers_come_back_as_they_were(
    make: Any, image_file: Any, finished: Finished, tmp_path: Path, *, plane: Plane, dtype: str, cards: dict[str, Any]
) -> None:
    most = {"u1": 255, "i2": 2**15 - 1, "i4": 2**31 - 1, "f4": 1000}[dtype]
    data = np.random.default_rng(3).integers(0, most, (40, 60), endpoint=True).astype(dtype)
    data[0, :2] = 0, most
    if "BLANK" in cards:
        data[3, 4] = -7
    path = image_file(data)
    with fits.open(path, mode="update", do_not_scale_image_data=True) as hdus:
        hdus["SCI"].header.update(cards)
    out = finished(make.correction(make.exposure(path), plane))
    found = undo(out, tmp_path / "back")
    assert found.complete, found.notes
    with (
        fits.open(tmp_path / "back" / "a.fits", do_not_scale_image_data=True) as given,
        fits.open(path, do_not_scale_image_data=True) as was,
    ):
        assert given["SCI"].data.dtype == was["SCI"].data.dtype
        rounding = 1e-7 * most if dtype == "f4" else 0
        np.testing.assert_allclose(given["SCI"].data, was["SCI"].data, rtol=0, atol=rounding)
        for name in ("BITPIX", "BSCALE", "BZERO", "BLANK"):
            assert given["SCI"].header.get(name) == was["SCI"].header.get(name), name
        assert "LVLTYPE" not in given["SCI"].header
    assert verify(out).mismatches == ()


def test_cards_of_the_inputs_own_come_back(make: Any, image_file: Any, finished: Finished, tmp_path: Path) -> None:
    path = image_file(noise())
    with fits.open(path, mode="update") as hdus:
        hdus["SCI"].header["LVLREF"] = ("somebody else's", "of another program")
        hdus["SCI"].header["LVLERR"] = 1.5
        hdus["SCI"].header["LVLTYPE"] = "x" * 150
    out = finished(make.correction(make.exposure(path)))
    assert verify(out).mismatches == ()
    assert undo(out, tmp_path / "back").complete
    with fits.open(tmp_path / "back" / "a.fits") as given, fits.open(path) as was:
        cards = {card.keyword: (card.value, card.comment) for card in given["SCI"].header.cards}
        assert cards == {card.keyword: (card.value, card.comment) for card in was["SCI"].header.cards}


def test_blank_zeros_stay(make: Any, image_file: Any, finished: Finished, tmp_path: Path) -> None:
    data = noise()
    data[:, :4] = 0
    path = image_file(data, "jw01234001001_02101_00001_mirimage_cal.fits")
    out = finished(make.correction(make.exposure(path, instrument="miri")))
    assert undo(out, tmp_path / "back").complete
    got = fits.getdata(tmp_path / "back" / path.name, 1)
    assert (got[:, :4] == 0).all()
    np.testing.assert_allclose(got, data, rtol=1e-6)


def test_a_pixel_that_equals_its_correction_does_not_become_blank(
    make: Any, image_file: Any, finished: Finished, tmp_path: Path
) -> None:
    data = noise()
    few = slice(10, 11), slice(5, 25)  # more of one value would be blank
    data[few], data[20] = 1.75, 0.0
    path = image_file(data, "jw01234001001_02101_00001_mirimage_cal.fits")
    out = finished(make.correction(make.exposure(path, instrument="miri")))
    corrected = fits.getdata(out / "tiles" / path.name, 1)
    assert (corrected[few] != 0).all()
    assert np.abs(corrected[few]).max() < 1e-37
    assert (corrected[20] == 0).all()
    assert undo(out, tmp_path / "back").complete
    back = fits.getdata(tmp_path / "back" / path.name, 1)
    np.testing.assert_array_equal(back[few], data[few])
    np.testing.assert_array_equal(back[20], data[20])


def test_a_changed_file_is_not_given_back(make: Any, image_file: Any, finished: Finished, tmp_path: Path) -> None:
    paths = [image_file(noise(seed=n), f"{n}.fits") for n in (1, 2)]
    out = finished(*(make.correction(make.exposure(path)) for path in paths))
    with (out / "tiles" / "1.fits").open("r+b") as file:
        file.seek(-5, 2)
        file.write(b"x")
    given = undo(out, tmp_path / "back")
    assert [failure.name for failure in given.failures] == ["1.fits"]
    assert "sha256" in given.failures[0].reason
    assert [path.name for path in (tmp_path / "back").iterdir()] == ["2.fits"]


def test_inputs_are_never_overwritten(make: Any, image_file: Any, finished: Finished, tmp_path: Path) -> None:
    path = image_file(noise())
    before = path.read_bytes()
    out = finished(make.correction(make.exposure(path)))
    for folder in (path.parent, _with(tmp_path / "taken", "a.fits")):
        files = {one: one.read_bytes() for one in folder.iterdir()}
        try:
            undo(out, folder)
        except OutputFolderError as error:
            assert "contains another 'a.fits'" in str(error)  # noqa: PT017 - in the input's own folder it may agree
        assert {one: one.read_bytes() for one in folder.iterdir()} == files
    with pytest.raises(OutputFolderError, match=r"another 'a\.fits'"):
        apply_solution(out / "corrections.ecsv", [path], _with(tmp_path / "other", "a.fits"))
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == ["a.fits"]


def _with(folder: Path, name: str) -> Path:
    folder.mkdir()
    (folder / name).write_bytes(b"mine")
    return folder


def test_undo_again_changes_nothing(make: Any, image_file: Any, finished: Finished, tmp_path: Path) -> None:
    out = finished(make.correction(make.exposure(image_file(noise()))))
    undo(out, tmp_path / "back")
    (tmp_path / "back" / ".levelmatch-0123456789abcdef.tmp.fits").write_bytes(b"of a killed run")
    first = (tmp_path / "back" / "a.fits").stat()
    assert undo(out, tmp_path / "back").complete
    again = (tmp_path / "back" / "a.fits").stat()
    assert (first.st_ino, first.st_mtime_ns) == (again.st_ino, again.st_mtime_ns)
    assert [one.name for one in (tmp_path / "back").iterdir()] == ["a.fits"]


@pytest.mark.parametrize("where", ["out", "out/back", "."])
def test_a_folder_that_overlaps_is_refused(
    make: Any, image_file: Any, finished: Finished, tmp_path: Path, where: str
) -> None:
    out = finished(make.correction(make.exposure(image_file(noise()))))
    with pytest.raises(OutputFolderError, match="choose another"):
        undo(out, tmp_path / where)
    assert verify(out).mismatches == ()


def test_no_finished_output_is_said(tmp_path: Path) -> None:
    for there in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(OutputFolderError, match="name the output of a run"):
            undo(there, tmp_path.parent / "back")
    (tmp_path / "unfinished.json").touch()
    with pytest.raises(OutputFolderError, match="unfinished run"):
        verify(tmp_path)


# -- apply -------------------------------------------------------------------------------------------------------------
def solved(make: Any, finished: Finished, *paths: Path) -> Path:
    return finished(*(make.correction(make.exposure(path), SLOPED, stages={}) for path in paths))


def test_another_reduction_gets_the_known_planes(
    make: Any, image_file: Any, finished: Finished, tmp_path: Path
) -> None:
    path = image_file(noise())
    out = finished(make.correction(make.exposure(path), Plane(), stages={}, local_sky=1.25))
    (tmp_path / "new").mkdir()
    other = image_file(noise() * 2, "other.fits")
    other.rename(tmp_path / "new" / "a.fits")
    given = apply_solution(out / "corrections.ecsv", [tmp_path / "new"], tmp_path / "again")
    assert given.complete
    np.testing.assert_array_equal(
        fits.getdata(tmp_path / "again" / "a.fits", 1), (noise() * 2 - np.float64(1.25)).astype("f4")
    )
    assert fits.getheader(tmp_path / "again" / "a.fits", 1)["LVLSTAT"] == "matched"


def test_what_the_table_lacks_is_named(make: Any, image_file: Any, finished: Finished, tmp_path: Path) -> None:
    path = image_file(noise(), "known.fits")
    out = solved(make, finished, path)
    image_file(noise(seed=3), "knowm.fits")
    given = apply_solution(out / "corrections.ecsv", [path.parent], tmp_path / "again")
    assert [failure.name for failure in given.failures] == ["knowm.fits"]
    assert "not in the table" in given.failures[0].reason
    assert "similar names: known.fits" in given.failures[0].reason
    assert [one.name for one in (tmp_path / "again").iterdir()] == ["known.fits"]


def test_nothing_that_fits_is_an_error(make: Any, image_file: Any, finished: Finished, tmp_path: Path) -> None:
    out = solved(make, finished, image_file(noise(), "known.fits"))
    other = image_file(noise(seed=3), "b.fits", BUNIT="DN")
    with pytest.raises(NoInputError, match=r"b\.fits: not in the table"):
        apply_solution(out / "corrections.ecsv", [other], tmp_path / "again")
    shutil.move(other, tmp_path / "known.fits")
    with pytest.raises(NoInputError, match="BUNIT is 'DN', in the table 'MJy/sr'"):
        apply_solution(out / "corrections.ecsv", [tmp_path / "known.fits"], tmp_path.parent / f"{tmp_path.name}-again")
    with pytest.raises(NoInputError, match="was matched before"):
        apply_solution(out / "corrections.ecsv", [out / "tiles" / "known.fits"], tmp_path / "again")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("damage", ["", "no table", "column", "grid", "window"])
def test_a_damaged_table_is_refused(make: Any, image_file: Any, finished: Finished, damage: str) -> None:
    path = image_file(noise())
    out = solved(make, finished, path)
    table = out / "corrections.ecsv"
    text = table.read_text()
    changed = {
        "": "",
        "no table": "no table at all",
        "column": text.replace("local_sky", "lokal_sky"),
        "grid": text.replace("f770w:", "f771w:"),
        "window": text.replace('1 "" header\n', '1 "rows" header\n'),
    }[damage]
    assert changed != text
    table.write_text(changed)
    with pytest.raises(UsageError, match=r"corrections\.ecsv|window"):
        KnownSolution.read(table)
    assert {mismatch.file for mismatch in verify(out).mismatches} >= {"corrections.ecsv"}


# -- verify ------------------------------------------------------------------------------------------------------------
def test_a_sound_output_has_no_mismatch(make: Any, image_file: Any, finished: Finished) -> None:
    out = finished(make.correction(make.exposure(image_file(noise())), SLOPED, provisional=True, partial=True))
    found = verify(out)
    assert (found.files, found.images, found.mismatches) == (3, 1, ())


def test_every_mismatch_is_named(make: Any, image_file: Any, finished: Finished) -> None:
    paths = [image_file(noise(seed=n), f"{n}.fits") for n in (1, 2, 3)]
    out = finished(*(make.correction(make.exposure(path), SLOPED) for path in paths))
    (out / "tiles" / "1.fits").unlink()
    with fits.open(out / "tiles" / "2.fits", mode="update") as hdus:
        hdus[1].header["LVLLEVEL"] *= 1 + 1e-7
    (out / "notes.txt").touch()
    run = json.loads((out / "run.json").read_bytes())
    run["counts"]["matched"] = 4
    (out / "run.json").write_text(json.dumps(run))
    found = {(mismatch.file, mismatch.what.split()[0]) for mismatch in verify(out).mismatches}
    assert found >= {
        ("tiles/1.fits", "is"),
        ("tiles/2.fits", "was"),
        ("tiles/2.fits", "LVLLEVEL"),
        ("notes.txt", "is"),
        ("corrections.ecsv", "3"),
    }
    assert not any(file == "tiles/3.fits" for file, _ in found)


def test_a_link_in_place_of_a_file_is_named(make: Any, image_file: Any, finished: Finished, tmp_path: Path) -> None:
    out = finished(make.correction(make.exposure(image_file(noise()))))
    shutil.move(out / "tiles" / "a.fits", tmp_path / "elsewhere.fits")
    (out / "tiles" / "a.fits").symlink_to(tmp_path / "elsewhere.fits")
    assert ("tiles/a.fits", "is not a regular file") in [(one.file, one.what) for one in verify(out).mismatches]
