"""What becomes of each exposure, through the whole way: tied, alone, untied, failed, and what the files then say."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from levelmatch_core.errors import NoInputError, OutputFolderError, SettingsError
from levelmatch_core.matching.corrections import Status
from levelmatch_core.products.explain import explain
from levelmatch_core.simulate import SimulatedProgram, Truth, simulate


def program(**options: object) -> SimulatedProgram:
    return SimulatedProgram.of(**{"instrument": "generic", "tiles": (3, 1), "size": 96, "stars": 5, **options})


def statuses(result) -> list[str]:
    return [correction.status for correction in result.corrections]


@pytest.fixture
def row(tmp_path) -> Path:
    """Three tiles in a row: the middle one overlaps both others."""
    simulate(tmp_path / "in", program())
    return tmp_path / "in"


def test_a_row_of_three_is_matched_to_the_middle_one(row, level_match):
    result = level_match(row)
    assert result.complete
    assert statuses(result) == [Status.MATCHED, Status.REFERENCE, Status.MATCHED]
    header = fits.getheader(result.request.output / "tiles" / "tile_002.fits")
    assert header["LVLSTAT"] == "reference"
    assert header["LVLREF"] == "tile_002.fits"


def test_a_single_exposure_is_copied_through(row, level_match):
    result = level_match(row / "tile_001.fits")
    assert statuses(result) == [Status.ALONE]
    assert result.complete
    copied = result.request.output / "tiles" / "tile_001.fits"
    np.testing.assert_array_equal(fits.getdata(copied), fits.getdata(row / "tile_001.fits"))


def test_without_overlap_each_stays_alone(row, level_match):
    result = level_match(row / "tile_001.fits", row / "tile_003.fits")
    assert statuses(result) == [Status.ALONE, Status.ALONE]
    assert len(result.matches) == 2
    assert result.complete


@pytest.fixture
def corner(tmp_path) -> list[Path]:
    """Tiles that touch at a corner only: neither axis reaches the fraction that is asked for."""
    simulate(tmp_path / "in", program(tiles=(2, 2), overlap=0.1))
    return [tmp_path / "in" / name for name in ("tile_001.fits", "tile_004.fits")]


def test_a_corner_that_is_all_there_is_joins_its_tiles(corner, level_match):
    result = level_match(*corner)
    assert sorted(statuses(result)) == [Status.MATCHED, Status.REFERENCE]
    assert result.complete
    pairs = Table.read(result.request.output / "pairs.ecsv")
    assert list(pairs["used"]) == [True]
    assert any("nothing else joins" in note for note in result.record.fields[0].stages[-1].notes)


def test_rejected_pairs_leave_their_exposures_untied(corner, tmp_path, level_match):
    rules = tmp_path / "pairs.csv"
    rules.write_text("first,second,action\ntile_001.fits,tile_004.fits,forbid\n")
    result = level_match(*corner, pairs=str(rules))
    assert statuses(result) == [Status.UNTIED, Status.UNTIED]
    assert not result.complete
    pairs = Table.read(result.request.output / "pairs.ecsv")
    assert list(pairs["reason"]) == ["forbidden by the user"]
    assert np.isfinite(pairs["level"]).all()


def test_pieces_that_touch_are_said_and_share_one_local_sky(tmp_path, level_match):
    """Two and two tiles in a row, the pair between them forbidden: no relative level, and one sky for both."""
    simulate(tmp_path / "in", program(tiles=(4, 1)))
    rules = tmp_path / "pairs.csv"
    rules.write_text("first,second,action\ntile_002.fits,tile_003.fits,forbid\n")
    result = level_match(tmp_path / "in", pairs=str(rules), do_local_subtraction=True)
    assert [one.component for one in result.corrections] == [1, 1, 2, 2]
    assert not result.complete
    assert [field.pieces for field in result.record.fields] == [2]
    levels = {one.local_sky for one in result.corrections}
    assert len(levels) == 1
    assert levels != {0.0}
    assert "has fallen into 2 pieces" in explain(result.request.output)
    apart = level_match(*sorted((tmp_path / "in").glob("*.fits")), output=tmp_path / "whole", do_local_subtraction=True)
    assert (apart.complete, [field.pieces for field in apart.record.fields]) == (True, [1])


def test_a_broken_file_costs_itself_only(row, level_match):
    broken = row / "tile_003.fits"
    broken.write_bytes(broken.read_bytes()[:9000])
    result = level_match(row)
    assert statuses(result)[:2] == [Status.MATCHED, Status.REFERENCE] or Status.REFERENCE in statuses(result)
    assert [failure.error for failure in result.failures] == ["NotFitsError"]
    assert "tile_003.fits" in result.failures[0].name
    assert not (result.request.output / "tiles" / "tile_003.fits").exists()
    assert not result.complete


@pytest.mark.parametrize("spoil", ["not fits", "all nan", "no wcs"])
def test_each_fault_is_named(row, level_match, spoil):
    victim = row / "tile_001.fits"
    expected = {"not fits": "NotFitsError", "all nan": "NoUsablePixelsError", "no wcs": "NoWcsError"}[spoil]
    if spoil == "not fits":
        victim.write_text("this is no image")
    else:
        with fits.open(victim, mode="update") as hdus:
            if spoil == "all nan":
                hdus[0].data[:] = np.nan
            else:
                for card in [name for name in hdus[0].header if re.match(r"CTYPE|CRVAL|CRPIX|CD\d|PC\d|CDELT", name)]:
                    del hdus[0].header[card]
    result = level_match(row)
    assert [failure.error for failure in result.failures] == [expected]
    assert len([status for status in statuses(result) if status in {Status.MATCHED, Status.REFERENCE}]) == 2


def test_a_matched_file_is_refused(row, level_match, tmp_path):
    result = level_match(row)
    done = result.request.output / "tiles" / "tile_001.fits"
    with pytest.raises(NoInputError, match="LVLSTAT"):
        level_match(shutil.copy(done, tmp_path / "again.fits") and tmp_path / "again.fits", output=tmp_path / "out2")


def test_a_mosaic_of_ours_is_refused(row, level_match, tmp_path):
    result = level_match(row)
    mosaic = shutil.copy(result.request.output / "mosaic_k.fits", tmp_path / "mosaic.fits")
    with pytest.raises(NoInputError, match="LVLSTAT"):
        level_match(mosaic, output=tmp_path / "out2")


def test_duplicates_are_left_out_and_named(row, level_match):
    shutil.copy(row / "tile_001.fits", row / "z_copy.fits")
    result = level_match(row)
    assert [failure.error for failure in result.failures] == ["DuplicateExposureError"]
    assert "tile_001.fits" in result.failures[0].reason


def test_an_empty_folder_is_no_input(tmp_path, level_match):
    (tmp_path / "in").mkdir()
    with pytest.raises(NoInputError):
        level_match(tmp_path / "in")
    assert not (tmp_path / "out").exists()


def test_an_unknown_reference_is_refused(row, level_match, tmp_path):
    with pytest.raises(SettingsError, match="tile_001"):
        level_match(row, reference="tile_01")
    assert not (tmp_path / "out").exists()


def test_other_settings_are_refused_and_overwritten(row, level_match):
    level_match(row)
    with pytest.raises(OutputFolderError, match="rms_sig_limit"):
        level_match(row, rms_sig_limit=3.0)
    result = level_match(row, rms_sig_limit=3.0, overwrite=True)
    assert result.record.settings["rms_sig_limit"] == 3.0


def test_the_reference_is_kept_when_the_input_grows(row, level_match, tmp_path):
    held = shutil.move(row / "tile_003.fits", tmp_path / "tile_003.fits")
    first = level_match(row)
    reference = first.corrections[0].reference
    shutil.move(held, row / "tile_003.fits")
    again = level_match(row)
    assert {correction.reference for correction in again.corrections} == {reference}
    assert reference != "tile_002"
    assert "automatic choice would be tile_002" in (again.request.output / "run.json").read_text()


def test_what_was_corrected_of_removed_exposures_stays_and_is_named(row, level_match):
    result = level_match(row)
    (row / "tile_003.fits").unlink()
    again = level_match(row)
    assert again.changed
    assert not again.complete
    assert [stale.name for stale in again.record.stale] == ["tiles/tile_003.fits"]
    assert (result.request.output / "tiles" / "tile_003.fits").exists()


@pytest.mark.slow
def test_separated_lyot_files_become_one_image(tmp_path, level_match):
    """Files as a step that separates the Lyot window writes them: each holds the whole frame, the rest blanked."""
    folder = tmp_path / "in"
    simulate(tmp_path / "whole", SimulatedProgram.of(instrument="miri", tiles=(1, 1), dithers=4, size=1024, lyot=True))
    folder.mkdir()
    for path in sorted((tmp_path / "whole").glob("*.fits")):
        for half in ("mirimagel", "mirimages"):
            with fits.open(path) as hdus:
                window = np.zeros(hdus["SCI"].shape, dtype=bool)
                window[735:, :290] = True
                hdus["SCI"].data[window if half == "mirimages" else ~window] = np.nan
                hdus["DQ"].data[window if half == "mirimages" else ~window] |= 1
                hdus.writeto(folder / path.name.replace("mirimage", half))
    separate = level_match(folder, recombine_lyot=True, do_local_subtraction=False)
    assert separate.complete
    whole = level_match(tmp_path / "whole", output=tmp_path / "out2", recombine_lyot=True, do_local_subtraction=False)
    names = sorted(path.name for path in (separate.request.output / "tiles").iterdir())
    assert names == sorted(true.file for true in Truth.load(tmp_path / "whole").exposures)[::2]
    for name in names:
        one = fits.getdata(separate.request.output / "tiles" / name, "SCI")
        other = fits.getdata(whole.request.output / "tiles" / name, "SCI")
        np.testing.assert_allclose(one, other, atol=1e-4)
