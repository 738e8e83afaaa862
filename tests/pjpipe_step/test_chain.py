"""The chain that the spec describes, by hand: it gives what `do_step` gives, and the truth."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from levelmatch_core import LevelMatchStep
from levelmatch_core.errors import OutputFolderError, UsageError


def level_errors(program, table):
    """Return found minus true levels, without their mean, which no overlap tells."""
    found = np.array(
        [level - program.levels[name] for level, name in zip(table["level"], table["exposure"], strict=True)]
    )
    return found - found.mean()


@pytest.fixture(scope="module")
def by_hand(program, tmp_path_factory):
    """The chain of the spec, up to the files that it writes."""
    folder = tmp_path_factory.mktemp("hand")
    step = LevelMatchStep(program.folder, folder / "out", "cal", 1, "F770W")
    step.match_dithers(program.tiles)
    stacks = step.make_stacked_images(program.tiles, folder / "stacks")
    deltas = step.calculate_delta(stacks, stacked_image=True)
    found = step.find_optimum_deltas(*deltas, ref_idx=0)
    step.subtract(program.tiles, found)
    return step, stacks, deltas, found, step.apply()


@pytest.fixture(scope="module")
def by_step(program, tmp_path_factory):
    """What `do_step` writes, with the same reference."""
    folder = tmp_path_factory.mktemp("step") / "out"
    reference = "jw01234001001_02101_mirimage"
    assert (
        LevelMatchStep(program.folder, folder, "cal", 1, "F770W", figures="none", reference=reference)
        .do_step()
        .complete
    )
    return folder


def test_the_chain_by_hand_gives_the_truth_and_what_do_step_gives(program, by_hand, by_step):
    table, other = (Table.read(out / "corrections.ecsv") for out in (by_hand[0].out_dir, by_step))
    assert np.max(np.abs(level_errors(program, table))) < 0.01
    np.testing.assert_allclose(table["level"], other["level"], atol=2e-3)
    np.testing.assert_allclose(table["dithers_level"], other["dithers_level"], atol=1e-9)
    assert table["exposure"].tolist() == other["exposure"].tolist()


def test_the_files_of_the_chain_are_those_of_do_step(by_hand, by_step):
    written = by_hand[4]
    assert sorted(path.name for path in written) == sorted(path.name for path in (by_step / "tiles").iterdir())
    for path in written:
        with fits.open(path) as mine, fits.open(by_step / "tiles" / path.name) as other:
            np.testing.assert_allclose(mine["SCI"].data, other["SCI"].data, atol=5e-3)
            np.testing.assert_array_equal(mine["DQ"].data, other["DQ"].data)
            assert mine["SCI"].header["LVLSTAT"] == other["SCI"].header["LVLSTAT"]


def test_stacks_are_of_corrected_files_and_know_their_band(program, by_hand):
    _, stacks, deltas, _, _ = by_hand
    with fits.open(stacks[0]) as hdus:
        assert hdus[0].header["FILTER"] == "F770W"
        assert "ERR" in hdus
    pairs = deltas.valid_mat > 0
    assert all(matrix is again for matrix, again in zip(deltas, (deltas[n] for n in range(len(deltas))), strict=True))
    beside = deltas.npix_mat[pairs] > deltas.npix_mat.max() / 2  # and not only at a corner
    np.testing.assert_array_equal(deltas.lin_size_mat[pairs], beside)
    true = program.tile_levels()
    expected = true[:, None] - true[None, :]
    np.testing.assert_allclose(
        deltas.delta_mat[pairs], expected[pairs], atol=0.01
    )  # 0.35 where dithers were not matched


def test_optimum_deltas_are_the_tiles_levels(program, by_hand):
    true = program.tile_levels()
    np.testing.assert_allclose(by_hand[3], true - true[0], atol=0.01)


def test_matched_tiles_continue_from_matched_dithers(program, tmp_path):
    step = LevelMatchStep(program.folder, tmp_path / "a", "cal", 1, None)
    dithers = step.match_dithers(program.tiles)
    after = step.match_mosaic_tiles(program.tiles)
    alone = LevelMatchStep(program.folder, tmp_path / "b", "cal", 1, None).match_mosaic_tiles(program.tiles)
    assert {name: plane.level for name, plane in after.items()} == {name: plane.level for name, plane in alone.items()}
    total = np.array([dithers[name].level + after[name].level - program.levels[name] for name in dithers])
    assert np.ptp(total) < 0.02
    # and all is measured on corrected pixels from then on
    left = step.calculate_delta([tile[0] for tile in program.tiles])
    assert np.max(np.abs(left.delta_mat)) < 0.03
    step.forget()
    assert np.max(np.abs(step.calculate_delta([tile[0] for tile in program.tiles]).delta_mat)) > 1


def test_a_stage_called_again_replaces_what_it_found(step, program):
    first = step.match_dithers(program.tiles)
    step.match_mosaic_tiles(program.tiles)
    assert {name: one.level for name, one in step.match_dithers(program.tiles).items()} == {
        name: one.level for name, one in first.items()
    }
    delta = step.get_level_match(program.tiles[0][0], program.tiles[1][0], "level")
    true = program.tile_levels()
    assert delta.coefficients[0] == pytest.approx(true[1] - true[0], abs=0.05)  # the tiles' match went with it


def test_apply_needs_something_to_write_and_replaces_only_where_told(step, program):
    with pytest.raises(UsageError, match="no correction was found yet"):
        step.apply()
    step.do_local_subtraction = False
    step.match_dithers(program.tiles)
    first = {path: path.read_bytes() for path in step.apply()}
    assert {path: path.read_bytes() for path in step.apply()} == first
    step.match_mosaic_tiles(program.tiles)
    with pytest.raises(OutputFolderError, match="overwrite=True"):
        step.apply()
    step.overwrite = True
    assert {path: path.read_bytes() for path in step.apply()} != first


def test_planes_by_hand_come_with_the_pixels_and_the_point_they_are_about(planes, tmp_path):
    step = LevelMatchStep(planes.folder, tmp_path / "out", "cal", 1, None, do_local_subtraction=False)
    step.match_dithers(planes.tiles, "level+match")
    deltas = step.calculate_delta(planes.tiles, "level+slope")
    frame = deltas.frame
    assert frame.wcs.pixel_n_dim == 2
    assert frame.shape[0] > 128
    assert frame.shape[1] > 128
    found = step.find_optimum_deltas(*deltas, "level+slope", ref_idx=0)
    # the planes of the truth, at the reference point: those of the detectors, turned to the frame's pixels
    step.subtract(planes.tiles, found, frame)
    left = step.calculate_delta(planes.tiles, "level")
    pairs = left.valid_mat > 0
    raw = LevelMatchStep(planes.folder, tmp_path / "raw", "cal", 1, None).calculate_delta(planes.tiles)
    assert np.std(raw.delta_mat[pairs]) > 1
    assert np.max(np.abs(left.delta_mat[pairs])) < 0.05
    written = {path.name: path for path in step.apply()}
    table = Table.read(step.out_dir / "corrections.ecsv")
    assert set(table["exposure"]) == set(written)
    assert np.count_nonzero(table["slope_x"]) >= 6


def test_by_hand_the_corrections_of_one_tile_can_be_subtracted_as_they_come(step, program):
    tile = program.tiles[0]
    (found,) = step.get_per_dither_delta([tile], "level+slope")
    assert found.frame.wcs is not None
    assert found.names == tuple(file.name for file in tile)
    step.subtract(tile, found, stage="dithers")
    left = step.calculate_delta(tile)
    assert np.max(np.abs(left.delta_mat)) < 0.02
    with pytest.raises(UsageError, match=r"expected \(3,\) levels or \(3, 3\)"):
        step.subtract(tile, [1.0, 2.0])
    with pytest.raises(UsageError, match="frame of calculate_delta"):
        step.subtract(tile, np.ones((3, 3)))
