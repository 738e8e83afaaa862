"""Resampled images: they keep errors and footprint, and pairs are measured on them as on files."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from levelmatch_core.errors import UsageError


@pytest.fixture
def images(step, program):
    """One dither of each tile on the pixels of the whole field."""
    deltas = step.calculate_delta([tile[0] for tile in program.tiles])
    return step.get_reproject([tile[0] for tile in program.tiles], deltas.frame.wcs, deltas.frame.shape)


def test_a_resampled_image_brings_errors_and_footprint(program, step):
    file = program.tiles[0][0]
    with fits.open(file) as hdus:
        wcs, data, error = WCS(hdus["SCI"].header), hdus["SCI"].data, hdus["ERR"].data
    image = step.get_reproject(file.name, wcs, data.shape)
    seen = np.isfinite(image)
    np.testing.assert_allclose(image[seen], data[seen], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(image.error[seen], error[seen], rtol=1e-3)
    np.testing.assert_array_equal(image.footprint > 0, seen)
    assert image.wcs is wcs
    assert image[3:9].error is None
    wide = step.get_reproject(file.name, wcs, (2 * data.shape[0], data.shape[1]))
    assert wide.footprint[-20:].max() == 0


def test_images_are_corrected_by_what_was_found(step, program):
    file = program.tiles[0][0]
    with fits.open(file) as hdus:
        wcs, shape = WCS(hdus["SCI"].header), hdus["SCI"].data.shape
    before = step.get_reproject(file, wcs, shape)
    plane = step.match_dithers(program.tiles)[file.name]
    after = step.get_reproject(file, wcs, shape)
    assert np.nanmedian(before - after) == pytest.approx(plane.level, abs=1e-6)


def test_pairs_of_images_have_the_true_difference(step, program, images):
    true = program.levels
    names = [tile[0].name for tile in program.tiles]
    for first, second in ((0, 1), (0, 2), (1, 3)):
        expected = true[names[second]] - true[names[first]]
        found = step.get_level_match(images[first], images[second], "level")
        direct = step.get_level_match(program.tiles[first][0], program.tiles[second][0], "level")
        assert found.coefficients[0] == pytest.approx(expected, abs=0.03)
        assert found.coefficients[0] == pytest.approx(direct.coefficients[0], abs=0.02)
        assert found.npix == pytest.approx(direct.npix, rel=0.1)
        assert found.frame.wcs is images[first].wcs
    listed = step.get_level_match([images[0]], [images[1]], "level")
    plain = step.get_level_match(np.array(images[0]), np.array(images[1]), "level")
    assert listed.coefficients[0] == plain.coefficients[0]
    coefficients, npix, rms, linear = listed
    assert (coefficients[0], npix, rms, linear) == (listed.coefficients[0], listed.npix, listed.rms, listed.linear)
    a, b, c = step.get_level_match(images[0], images[1], "level+slope").coefficients
    moved = step.get_level_match(images[0], images[1], "level+slope", ref_x=50, ref_y=20).coefficients
    np.testing.assert_allclose(moved, [a, b, c + 50 * a + 20 * b], rtol=1e-9)


def test_groups_of_images_are_stacked(step, program):
    deltas = step.calculate_delta(program.tiles)
    one, two = (step.get_reproject(tile, deltas.frame.wcs, deltas.frame.shape) for tile in program.tiles[:2])
    step.match_dithers(program.tiles)
    assert step.get_level_match(one, two, "level").coefficients[0] == pytest.approx(deltas.delta_mat[1, 0], abs=0.3)
    one, two = (step.get_reproject(tile, deltas.frame.wcs, deltas.frame.shape) for tile in program.tiles[:2])
    true = program.tile_levels()
    assert step.get_level_match(one, two, "level").coefficients[0] == pytest.approx(true[1] - true[0], abs=0.02)


def test_images_of_other_shapes_or_with_files_are_refused(step, program, images):
    with pytest.raises(UsageError, match="both groups as files, or both as images of one shape"):
        step.get_level_match(images[0], images[1][1:], "level")
    with pytest.raises(UsageError, match="both groups as files"):
        step.get_level_match(images[0], program.tiles[0][0], "level")
    with pytest.raises(UsageError, match="no finite pixel"):
        step.get_level_match(images[0], np.full(images[0].shape, np.nan), "level")


def test_entries_of_a_matrix_in_parallel(step, program, images):
    files = [tile[0] for tile in program.tiles]
    true = np.array([program.levels[file.name] for file in files])
    one = step.parallel_delta_matrix((0, 1), images, files)
    several = step.parallel_delta_matrix([(0, 1), (1, 3)], images, files)
    assert one.coefficients[0] == several[0].coefficients[0] == pytest.approx(true[1] - true[0], abs=0.03)
    assert several[1].coefficients[0] == pytest.approx(true[3] - true[1], abs=0.03)
    assert step.parallel_delta_matrix((0, 1), None, files).coefficients[0] == pytest.approx(true[1] - true[0], abs=0.03)


def test_other_work_in_parallel(step, program, tmp_path):
    tile = program.tiles[0]
    with fits.open(tile[1]) as hdus:
        wcs, data = WCS(hdus["SCI"].header), hdus["SCI"].data
    image = step.parallel_get_reproject(1, tile, wcs, data.shape)
    np.testing.assert_allclose(image[np.isfinite(image)], data[np.isfinite(image)], rtol=1e-4, atol=1e-4)
    found = step.parallel_per_dither_delta(tile, "level")
    true = np.array([program.levels[file.name] for file in tile])
    np.testing.assert_allclose(found[:, 0], true - true.mean(), atol=0.02)
    path = step.parallel_make_stacked_image(tile, tmp_path)
    with fits.open(path) as hdus:
        assert int(hdus["COVERAGE"].data.max()) == 3
