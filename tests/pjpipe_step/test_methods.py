"""The doors of the step that levelmatch succeeds: names, signs, and that they lead to the same numbers."""

import inspect

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from levelmatch_core import LevelMatchStep
from levelmatch_core.errors import SettingsError, UsageError
from levelmatch_core.simulate import SimulatedProgram, simulate

# the spec's constructor, word for word
SPEC = (
    "in_dir, out_dir, step_ext, procs, band, fit_type_dithers='level', fit_type_recombine_lyot='level', "
    "fit_type_combine_nircam_short='level', fit_type_mosaic_tiles='level', recombine_lyot=False, "
    "combine_nircam_short=False, do_local_subtraction=True, sigma=3, npixels=3, dilate_size=7, max_iters=20, "
    "max_points=10000, do_sigma_clip=False, weight_method='equal', min_area_percent=0.002, min_linear_frac=0.2, "
    "rms_sig_limit=2, reproject_func='interp', overwrite=False"
)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("program")
    truth = simulate(folder, SimulatedProgram.of(tiles=(2, 2), dithers=2, size=128, stars=20))
    tiles = {}
    for one in truth.exposures:
        tiles.setdefault(one.tile, []).append(folder / one.file)
    return folder, list(tiles.values()), {one.file: one.plane.level for one in truth.exposures}


@pytest.fixture
def step(program, tmp_path):
    return LevelMatchStep(program[0], tmp_path / "out", "cal", 1, None)


def of(step, **changes):
    step.settings = step.settings.model_copy(update=changes)
    return step


def test_the_constructor_is_the_specs(tmp_path):
    signature = inspect.signature(LevelMatchStep)
    shown = ", ".join(
        name if each.default is each.empty else f"{name}={each.default!r}"
        for name, each in signature.parameters.items()
        if each.kind is not each.VAR_KEYWORD  # any other setting, by name
    )
    assert shown == SPEC
    with pytest.raises(SettingsError, match="weight_method"):
        LevelMatchStep(tmp_path, tmp_path, "cal", 1, "F770W", weight_method="best")


def test_the_step_writes_what_the_pipeline_writes(step, tmp_path):
    result = of(step, figures="none").do_step()
    assert result.complete
    assert len(list((tmp_path / "out" / "tiles").glob("*_cal.fits"))) == 8


def test_dithers_are_subtracted_and_have_mean_zero(step, program):
    _, tiles, levels = program
    found = step.match_dithers(tiles)
    assert len(found) == 8
    for tile in tiles:
        true = np.array([levels[file.name] for file in tile])
        corrections = np.array([found[file.name].level for file in tile])
        np.testing.assert_allclose(corrections, true - true.mean(), atol=0.02)
        assert abs(corrections.mean()) < 1e-9
    for tile, rows in zip(tiles, step.get_per_dither_delta(tiles), strict=True):
        assert rows[:, 0].tolist() == [found[file.name].level for file in tile]


def test_tiles_are_matched_to_a_reference(step, program):
    _, tiles, levels = program
    found = step.match_mosaic_tiles(tiles)
    corrections = np.array([found[tile[0].name].level for tile in tiles])
    true = np.array([np.mean([levels[file.name] for file in tile]) for tile in tiles])
    assert np.min(np.abs(corrections)) == 0
    np.testing.assert_allclose(corrections - corrections.mean(), true - true.mean(), atol=0.02)


def test_deltas_are_row_minus_column_and_their_solution_is_subtracted(step, program):
    _, tiles, levels = program
    files = [tile[0] for tile in tiles]
    true = np.array([levels[file.name] for file in files])
    deltas = step.calculate_delta(files)
    pairs = deltas.valid_mat > 0
    assert pairs.sum() >= 8
    expected = true[:, None] - true[None, :]
    np.testing.assert_allclose(deltas.delta_mat[pairs], expected[pairs], atol=0.05)
    found = step.find_optimum_deltas(*deltas, ref_idx=2)
    assert found[2] == 0
    np.testing.assert_allclose(found, true - true[2], atol=0.05)
    centred = step.find_optimum_deltas(*deltas)
    assert abs(centred.mean()) < 1e-9
    np.testing.assert_allclose(centred, found - found.mean(), atol=1e-9)


def test_planes_come_as_a_b_c():
    step = LevelMatchStep("in", "out", None, 1, None)
    rng = np.random.default_rng(2)
    true = rng.normal(size=(5, 3))
    delta = true[:, None] - true[None, :]
    ones = np.ones((5, 5), dtype=int) - np.eye(5, dtype=int)
    found = step.find_optimum_deltas(delta, 1000 * ones, 0.1 * ones, ones, ones, "level+slope", ref_idx=0)
    np.testing.assert_allclose(found, true - true[0], atol=1e-9)
    alone = ones.copy()
    alone[4, :] = alone[:, 4] = 0
    assert step.find_optimum_deltas(delta, 1000 * ones, 0.1 * ones, ones, alone, "level+slope", ref_idx=0)[
        4
    ].tolist() == [
        0,
        0,
        0,
    ]
    with pytest.raises(UsageError, match="expected"):
        step.find_optimum_deltas(delta, ones, ones, ones, ones)


def test_a_level_match_is_second_minus_first_quoted_where_asked(step, program, tmp_path):
    folder, tiles, levels = program
    first, second = tiles[0]
    expected = levels[second.name] - levels[first.name]
    picture = tmp_path / step.get_plot_name([first], [second])
    there = step.get_level_match([first], [second], "level", plot_name=picture)
    back = step.get_level_match(second, first, "level")
    assert there.coefficients[0] == pytest.approx(expected, abs=0.02)
    assert back.coefficients[0] == pytest.approx(-there.coefficients[0], abs=1e-6)
    assert picture.read_bytes().startswith(b"\x89PNG")
    a, b, c = step.get_level_match(first, second, "level+slope").coefficients
    moved = step.get_level_match(first, second, "level+slope", ref_x=50, ref_y=20).coefficients
    np.testing.assert_allclose(moved, [a, b, c + 50 * a + 20 * b], rtol=1e-9)
    assert len(list(folder.glob("*.png"))) == 0


def test_stacks_are_means_and_can_be_read_again(step, program, tmp_path):
    _, tiles, levels = program
    paths = step.make_stacked_images(tiles, tmp_path / "stacks")
    assert len(paths) == 4
    deltas = step.calculate_delta(paths, stacked_image=True)
    direct = step.calculate_delta(tiles)
    pairs = (deltas.valid_mat > 0) & (direct.valid_mat > 0)
    assert pairs.sum() >= 8
    # unmatched dithers leave their own steps in a stack
    spread = max(np.ptp([levels[file.name] for file in tile]) for tile in tiles)
    assert np.max(np.abs(deltas.delta_mat - direct.delta_mat)[pairs]) < max(spread, 0.05)


def test_reprojecting_keeps_the_list_and_the_values(step, program):
    _, tiles, _ = program
    file = tiles[0][0]
    with fits.open(file) as hdus:
        wcs, data = WCS(hdus["SCI"].header), hdus["SCI"].data
    again = step.get_reproject(file, wcs, data.shape)
    seen = np.isfinite(again)
    assert seen.mean() > 0.8
    np.testing.assert_allclose(again[seen], data[seen], rtol=1e-4, atol=1e-4)
    both = step.get_reproject([file, tiles[0][1]], wcs, data.shape)
    assert isinstance(both, list)
    np.testing.assert_array_equal(both[0], again)


@pytest.mark.slow
def test_the_lyot_window_is_brought_to_the_main_chip(tmp_path):
    truth = simulate(tmp_path / "in", SimulatedProgram.of(tiles=(1, 1), dithers=4, size=1024, lyot=True, stars=50))
    files = sorted((tmp_path / "in").glob("*.fits"))
    found = LevelMatchStep(tmp_path / "in", tmp_path / "out", None, 1, None).match_lyot_science([files])
    assert {plane.level for name, plane in found.items() if name.endswith("@main")} == {0.0}
    lyot = [plane.level for name, plane in found.items() if name.endswith("@lyot")]
    true = {
        half: np.mean([one.plane.level for one in truth.exposures if one.name.endswith(half)])
        for half in ("@lyot", "@main")
    }
    assert np.mean(lyot) == pytest.approx(true["@lyot"] - true["@main"], abs=0.02)


@pytest.mark.slow
def test_the_chips_of_a_module_are_brought_together(tmp_path):
    simulate(
        tmp_path / "in", SimulatedProgram.of(instrument="nircam_short", tiles=(1, 1), dithers=4, size=128, stars=20)
    )
    files = sorted((tmp_path / "in").glob("*.fits"))
    found = LevelMatchStep(tmp_path / "in", tmp_path / "out", None, 1, None).match_nircam_short([files])
    assert len(found) == len(files)
    assert max(abs(plane.level) for plane in found.values()) > 0.1
