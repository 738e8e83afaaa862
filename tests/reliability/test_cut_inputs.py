"""An input that is cut exactly between two HDUs is whole FITS, of fewer HDUs: it takes no good copy away."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from levelmatch_core.errors import NoInputError, StrictError
from levelmatch_core.images.fits_headers import read_headers
from levelmatch_core.pipeline import RunResult
from levelmatch_core.plan import plan_run
from levelmatch_core.products.corrected.undo import undo
from levelmatch_core.products.corrected.verify import verify
from levelmatch_core.products.stale import prune
from tests.reliability.places import Place

Cut = Callable[[Path], None]


def hold_stale(place: Place, result: RunResult, victim: Path, tmp_path: Path) -> None:
    """Hold that a corrected file stayed, says so everywhere, and gives its input back."""
    assert not result.complete
    assert [one.name for one in result.record.stale] == [f"tiles/{victim.name}"]
    assert victim.name in result.record.stale[0].reason
    assert verify(place.out).mismatches == ()
    back = tmp_path / "back"
    shutil.rmtree(back, ignore_errors=True)
    assert victim.name in {file.name for file in undo(place.out, back).files}
    with fits.open(back / victim.name) as given, fits.open(place.originals / victim.name) as was:
        assert [hdu.name for hdu in given] == [hdu.name for hdu in was]
        for mine, theirs in zip(given, was, strict=True):
            if theirs.data is not None and theirs.data.dtype.names is None:
                np.testing.assert_allclose(mine.data, theirs.data, rtol=0, atol=4e-6, equal_nan=True)


def cut(path: Path, number: int) -> None:
    """Leave this many HDUs of a file, packed or not."""
    end = read_headers(path)[number - 1].end
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    path.write_bytes(gzip.compress(raw[:end]) if path.suffix == ".gz" else raw[:end])


@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_input_that_is_cut_between_two_hdus_loses_nothing(place: Place, tmp_path: Path, number: int) -> None:
    assert place.match().complete
    victim = place.files[1]
    cut(victim, number)
    result = place.match()
    (failure,) = result.inventory.failures
    assert f"holds {number} of the " in failure.reason
    assert "DQ 1" in failure.reason
    assert "--prune" in failure.reason
    hold_stale(place, result, victim, tmp_path)
    again = place.match()
    assert again.record.stale == result.record.stale
    assert not again.changed
    assert [one.name for one in plan_run(place.request()).failures] == [victim.name]
    with pytest.raises(StrictError):
        place.match(strict=True)
    # it comes back, to the same bytes
    shutil.copy(place.originals / victim.name, victim)
    back = place.match()
    assert back.complete
    assert back.record.stale == ()


def test_an_hdu_that_is_taken_out_of_the_middle_is_missed(place: Place, tmp_path: Path) -> None:
    assert place.match().complete
    victim = place.files[1]
    with fits.open(victim, mode="update") as hdus:
        del hdus["ERR"]
    hold_stale(place, place.match(), victim, tmp_path)


def test_pruning_takes_a_cut_file_as_it_is(place: Place) -> None:
    assert place.match().complete
    first, second, *_ = place.files
    cut(first, 2)
    assert not place.match().complete
    assert place.match(prune=True).complete
    assert len(fits.info(place.tile(first.name), output=False)) == 2
    assert place.match().complete
    cut(second, 2)
    assert not place.match().complete
    assert [one.name for one in prune(place.out)] == [f"tiles/{second.name}"]
    assert place.match().complete
    assert len(fits.info(place.tile(second.name), output=False)) == 2


def test_a_new_version_of_a_file_is_no_cut_one(place: Place) -> None:
    """Another set of HDUs, or one more: it replaces the earlier."""
    assert place.match().complete
    first, second, *_ = place.files
    with fits.open(first) as hdus:
        new = fits.HDUList([*(hdu.copy() for hdu in hdus[:3]), fits.ImageHDU(np.zeros((3, 3)), name="VAR_NEW")])
    new.writeto(first, overwrite=True)
    with fits.open(second, mode="update") as hdus:
        hdus.append(fits.ImageHDU(np.zeros((3, 3)), name="MORE"))
    result = place.match()
    assert result.complete
    assert "VAR_NEW" in {hdu[1] for hdu in fits.info(place.tile(first.name), output=False)}


def test_a_packed_file_is_missed_parts_of_too(place: Place, tmp_path: Path) -> None:
    for folder in (place.inputs, place.originals):
        for path in sorted(folder.glob("*.fits")):
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    assert place.match().complete
    victim = place.files[1]
    cut(victim, 2)
    hold_stale(place, place.match(), victim, tmp_path)


def test_an_edited_tile_of_a_cut_input_is_kept_aside(place: Place) -> None:
    assert place.match().complete
    victim = place.files[1]
    tile = place.tile(victim.name)
    mine = bytearray(tile.read_bytes())
    mine[-3000] ^= 0xFF
    tile.write_bytes(mine)
    cut(victim, 2)
    for _ in range(2):
        (stale,) = place.match().record.stale
        assert (place.out / stale.edited).read_bytes() == mine
    assert place.match(prune=True).complete
    assert (place.out / stale.edited).read_bytes() == mine


@pytest.mark.parametrize("before", [True, False])
def test_a_cut_input_is_missed_parts_of_without_its_corrected_file(place: Place, *, before: bool) -> None:
    """The record of the run says how many HDUs it had."""
    assert place.match().complete
    victim = place.files[1]
    if not before:
        cut(victim, 2)
        assert not place.match().complete
    place.tile(victim.name).unlink()
    cut(victim, 2)
    for _ in range(3):
        result = place.match()
        assert [one.name for one in result.inventory.failures] == [victim.name]
        assert [(one.name, one.gone) for one in result.record.stale] == [(f"tiles/{victim.name}", True)]
        assert verify(place.out).mismatches == ()
    prune(place.out)
    assert place.match().complete


def test_records_of_before_are_read(place: Place, tmp_path: Path) -> None:
    assert place.match().complete
    victim = place.files[1]
    record = json.loads((place.out / "run.json").read_bytes())
    assert {file["hdus"] for file in record["files"] if file["name"].startswith("tiles/")} == {8}
    for file in record["files"]:
        file.pop("hdus", None)
    (place.out / "run.json").write_text(json.dumps(record))
    cut(victim, 2)
    hold_stale(place, place.match(), victim, tmp_path)


def test_all_inputs_cut_at_once(place: Place) -> None:
    assert place.match().complete
    before = {path.name: path.read_bytes() for path in place.out.glob("tiles/*.fits")}
    for path in place.files:
        cut(path, 2)
    with pytest.raises(NoInputError, match="holds 2 of the"):
        place.match()
    assert {path.name: path.read_bytes() for path in place.out.glob("tiles/*.fits")} == before


# -- files of several images ------------------------------------------------------------------------------------------
def joined(folder: Path) -> str:
    """Make one file of two images of the first two, which are taken away; return its name."""
    one, two, *_ = sorted(folder.glob("*.fits"))
    hdus: list[object] = [fits.PrimaryHDU()]
    for version, path in enumerate((one, two), start=1):
        with fits.open(path) as source:
            hdus.append(fits.ImageHDU(source[0].data, source[0].header, name="SCI", ver=version))
            hdus.append(fits.ImageHDU(np.zeros((4, 4)), name="MORE", ver=version))
        path.unlink()
    fits.HDUList(hdus).writeto(folder / "both_chips.fits")
    return "both_chips.fits"


@pytest.fixture
def chips(tmp_path: Path) -> tuple[Place, Path]:
    place = Place(tmp_path, "generic", tiles=(2, 2), dithers=1)
    for folder in (place.inputs, place.originals):
        name = joined(folder)
    assert place.match().complete
    assert place.match().record.counts["failed"] == 0
    return place, place.inputs / name


def test_an_image_that_is_cut_off_is_missed(chips: tuple[Place, Path], tmp_path: Path) -> None:
    place, victim = chips
    hdus = read_headers(victim)
    cut(victim, 1 + (len(hdus) - 1) // 2)
    result = place.match()
    hold_stale(place, result, victim, tmp_path)
    assert "of the" in result.inventory.failures[0].reason


def emptied(path: Path) -> None:
    with fits.open(path, mode="update") as hdus:
        hdus["SCI", 2].data[:] = np.nan


def without_wcs(path: Path) -> None:
    with fits.open(path, mode="update") as hdus:
        del hdus["SCI", 2].header["CTYPE1"]


def replaced(path: Path) -> None:
    with fits.open(path) as hdus:
        table = fits.BinTableHDU.from_columns([fits.Column("A", "E", array=np.arange(3.0))])
        new = fits.HDUList([*(hdu.copy() for hdu in hdus if hdu.ver == 1), table])
    new.writeto(path, overwrite=True)


@pytest.mark.parametrize("harm", [emptied, without_wcs, replaced])
def test_an_image_that_is_lost_otherwise_is_missed(chips: tuple[Place, Path], tmp_path: Path, harm: Cut) -> None:
    place, victim = chips
    harm(victim)
    for _ in range(3):
        result = place.match()
        hold_stale(place, result, victim, tmp_path)
    assert not result.changed
    assert place.match(prune=True).record.stale == ()
    assert victim.name not in {one.name for one in place.match().record.stale}


def test_what_a_setting_leaves_out_is_not_lost(chips: tuple[Place, Path]) -> None:
    """The input is as it was: whatever a run makes of it now, another can make otherwise again."""
    place, victim = chips
    with fits.open(victim, mode="update") as hdus:
        for number in (1, 2):
            hdus["SCI", number].header["FILTER"] = f"F{number}"
    for path in place.files[1:]:
        with fits.open(path, mode="update") as hdus:
            hdus[0].header["FILTER"] = "F1"
    assert place.match().complete
    result = place.match(overwrite=True, band="F1")
    assert result.complete
    assert result.record.stale == ()


# -- images of two files -----------------------------------------------------------------------------------------------
def without(path: Path) -> None:
    path.unlink()


def without_quality(path: Path) -> None:
    cut(path, 3)


@pytest.mark.slow
@pytest.mark.parametrize("half", ["mirimagel", "mirimages"])
@pytest.mark.parametrize("harm", [without, without_quality])
def test_half_of_an_image_that_is_lost_is_missed(tmp_path: Path, half: str, harm: Cut) -> None:
    place = Place(tmp_path, tiles=(1, 1), size=800, lyot=True, errors=False)
    for path in place.files:
        for part, above in (("mirimagel", True), ("mirimages", False)):
            with fits.open(path) as hdus:
                window = np.zeros(hdus["SCI"].shape, bool)
                window[735:, :290] = True
                hdus["SCI"].data[window != above] = np.nan
                hdus.writeto(path.with_name(path.name.replace("mirimage", part)))
        path.unlink()
    assert place.match(recombine_lyot=True).complete
    victim = next(path for path in place.files if half in path.name)
    product = f"tiles/{victim.name.replace(half, 'mirimage')}"
    before = fits.getdata(place.out / product)
    harm(victim)
    for _ in range(3):
        result = place.match(recombine_lyot=True)
        assert not result.complete
        assert [one.name for one in result.record.stale] == [product]
        assert victim.name in result.record.stale[0].reason
        np.testing.assert_array_equal(fits.getdata(place.out / product), before)
        assert verify(place.out).mismatches == ()
    assert not result.changed
    back = undo(place.out, tmp_path / "back")
    assert product.removeprefix("tiles/") in {file.name for file in back.files}
    assert back.failures == ()
    result = place.match(recombine_lyot=True, prune=True)
    assert result.record.stale == ()
    assert place.match(recombine_lyot=True).record.stale == ()
