"""Which files a dither means: patterns, bare names, lists flat or not; equal names, and files with two parts."""

import shutil

import numpy as np
import pytest
from astropy.io import fits

from levelmatch_core import LevelMatchStep
from levelmatch_core.errors import UsageError
from levelmatch_core.simulate import SimulatedProgram, simulate


def levels(found):
    return {name: plane.level for name, plane in found.items()}


@pytest.fixture(scope="module")
def expected(program, tmp_path_factory):
    step = LevelMatchStep(program.folder, tmp_path_factory.mktemp("expected"), "cal", 1, None)
    return levels(step.match_dithers(program.tiles))


def test_patterns_names_and_lists_mean_the_same(program, expected, step, monkeypatch, tmp_path):
    tiles = program.tiles
    patterns = [f"{tile[0].name.split('_00001')[0]}_*_mirimage" for tile in tiles]
    forms = [
        patterns,  # as pjpipe makes them
        [f"{pattern}_cal.fits" for pattern in patterns],
        [str(program.folder / pattern) for pattern in patterns],
        [pattern.split("_*")[0] for pattern in patterns],
        [[file.name for file in tile] for tile in tiles],
        [str(file) for tile in tiles for file in tile],  # flat: divided by the files' names
        [file.name for tile in reversed(tiles) for file in tile],
    ]
    monkeypatch.chdir(tmp_path)  # bare names are found in in_dir
    for form in forms:
        assert levels(step.match_dithers(form)) == expected
    one = step.match_dithers([file.name for file in tiles[2]])
    assert levels(one) == {file.name: expected[file.name] for file in tiles[2]}


def test_a_flat_list_of_files_of_other_names_is_one_tile(program, tmp_path):
    files = []
    for number, file in enumerate(program.tiles[0]):
        files.append(tmp_path / "in" / f"shot{number}.fits")
        files[-1].parent.mkdir(exist_ok=True)
        shutil.copy(file, files[-1])
    step = LevelMatchStep(tmp_path / "in", tmp_path / "out", None, 1, None)
    found = step.match_dithers([file.name for file in files])
    true = np.array([program.levels[file.name] for file in program.tiles[0]])
    np.testing.assert_allclose([found[file.name].level for file in files], true - true.mean(), atol=0.02)
    tiles = step.match_mosaic_tiles([file.name for file in files])  # each is a tile of its own
    assert sum(plane.level == 0 for plane in tiles.values()) == 1
    assert len(step.make_stacked_images([file.name for file in files], tmp_path / "stacks")) == 1


def test_what_leads_to_no_file_is_refused_with_names_that_are_there(step, program):
    first = program.tiles[0][0].name
    for wrong in (f"x{first}", "nothing_*", "nothing"):
        with pytest.raises(UsageError, match=f"{program.folder}.*there are jw01234"):
            step.match_dithers([wrong])
    with pytest.raises(UsageError, match="in 2 dithers"):
        step.match_dithers([program.tiles[0], [first]])
    with pytest.raises(UsageError, match="list of these that is not empty"):
        step.match_dithers([[]])


def test_equal_names_in_two_folders(program, tmp_path):
    folders = []
    for number, tile in enumerate(program.tiles[:2]):
        folder = tmp_path / "in" / f"visit{number}"
        folder.mkdir(parents=True)
        folders.append(folder)
        for dither, file in enumerate(tile):
            shutil.copy(file, folder / f"shot{dither}.fits")
    step = LevelMatchStep(tmp_path / "in", tmp_path / "out", None, 1, None)
    groups = [sorted(folder.glob("*.fits")) for folder in folders]
    rows = step.get_per_dither_delta(groups)
    for found, tile in zip(rows, program.tiles, strict=False):
        true = np.array([program.levels[file.name] for file in tile])
        np.testing.assert_allclose(found[:, 0], true - true.mean(), atol=0.02)
    planes = step.match_dithers(groups)
    assert min(planes) == "visit0/shot0.fits"
    assert [rows[0][0, 0], rows[1][0, 0]] == [planes["visit0/shot0.fits"].level, planes["visit1/shot0.fits"].level]
    assert len({path.name for path in step.make_stacked_images(groups, tmp_path / "stacks")}) == 2
    delta = step.get_level_match(groups[0][0], groups[1][0], "level")
    true = np.array([np.mean([program.levels[file.name] for file in tile]) for tile in program.tiles[:2]])
    assert delta.coefficients[0] == pytest.approx(true[1] - true[0], abs=0.05)


def test_files_of_two_bands_are_refused(program, step, tmp_path):
    other = tmp_path / program.tiles[1][0].name
    with fits.open(program.tiles[1][0]) as hdus:
        hdus[0].header["FILTER"] = "F1000W"
        hdus.writeto(other)
    with pytest.raises(UsageError, match="expected files of one band and unit"):
        step.get_level_match(program.tiles[0][0], other, "level")
    step.band = "F770W"
    with pytest.raises(UsageError, match="not of band 'F770W'"):
        step.get_level_match(program.tiles[0][0], other, "level")


@pytest.fixture(scope="module")
def lyot(tmp_path_factory):
    """Two dithers of a full frame with the Lyot window, each in one file."""
    folder = tmp_path_factory.mktemp("lyot")
    program = SimulatedProgram.of(tiles=(1, 1), dithers=2, size=1024, lyot=True, stars=0, part_level_sd=5.0)
    return folder, simulate(folder, program)


def test_lyot_window_and_main_chip_of_one_file(lyot, tmp_path):
    folder, truth = lyot
    step = LevelMatchStep(folder, tmp_path / "out", "cal", 1, None, recombine_lyot=True, do_local_subtraction=False)
    files = sorted(path.name for path in folder.glob("*.fits"))
    (found,) = step.get_per_dither_delta([files])
    true = {one.name: one.plane.level for one in truth.exposures}
    assert found.names == tuple(f"{file}{half}" for file in files for half in ("@lyot", "@main"))
    for half in ("@lyot", "@main"):
        chosen = [number for number, name in enumerate(found.names) if name.endswith(half)]
        expected = np.array([true[found.names[number]] for number in chosen])
        np.testing.assert_allclose(found[chosen, 0], expected - expected.mean(), atol=0.02)
    step.match_dithers([files])
    window = step.match_lyot_science([files])
    assert {plane.level for name, plane in window.items() if name.endswith("@main")} == {0.0}
    (first, *_) = step.apply()
    with fits.open(first) as hdus, fits.open(folder / first.name) as before:
        change = before["SCI"].data - hdus["SCI"].data
    levels = [np.nanmedian(change[740:, :280]), np.nanmedian(change[:700, 300:])]
    expected = true[f"{first.name}@lyot"] - true[f"{first.name}@main"]
    assert levels[0] - levels[1] == pytest.approx(expected, abs=0.02)
