"""Source masks are for measuring: what is made to be looked at keeps every pixel that was seen."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from levelmatch_core import LevelMatchStep, MatchSettings, match_levels
from levelmatch_core.simulate import SimulatedProgram, simulate
from levelmatch_core.sky.cutouts import open_cutout
from levelmatch_core.sky.store import CutoutStore

BLIND = (slice(40, 60), slice(30, 70))
"""Pixels that every exposure's data quality marks."""


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """Two tiles of two dithers with many stars, and a block of bad pixels in each exposure."""
    folder = tmp_path_factory.mktemp("crowd")
    simulate(folder, SimulatedProgram(tiles=(2, 1), dithers=2, size=128, stars=400, turn=0.0))
    for path in folder.glob("*.fits"):
        with fits.open(path, mode="update") as hdus:
            hdus["DQ"].data[BLIND] |= 1
    return folder


def matched(folder, output, **settings):
    chosen = MatchSettings.from_mapping({"preset": "best", "figures": "none", **settings})
    return match_levels(folder, output=output, settings=chosen, cache=output.parent / f"{output.name}.cache")


def mosaic_of(output):
    with fits.open(next(output.glob("mosaic_*.fits")), memmap=False) as hdus:
        return {name: hdus[name].data for name in ("SCI", "ERR", "COVERAGE", "BEFORE")}


def test_mosaics_and_corrected_files_keep_the_sources(crowd, tmp_path):
    masked = matched(crowd, tmp_path / "masked", do_sigma_clip=True)
    matched(crowd, tmp_path / "plain")
    store = CutoutStore(tmp_path / "masked.cache")
    cutouts = [open_cutout(one, store) for match in masked.fields for one in match.cutouts.values()]
    measured = sum(one.record.n_valid for one in cutouts)
    with_sources, without_masks = mosaic_of(tmp_path / "masked"), mosaic_of(tmp_path / "plain")
    assert measured < 0.9 * with_sources["COVERAGE"].sum()  # masks there were
    for name in ("SCI", "ERR", "BEFORE"):
        np.testing.assert_array_equal(np.isnan(with_sources[name]), np.isnan(without_masks[name]))
    np.testing.assert_array_equal(with_sources["COVERAGE"], without_masks["COVERAGE"])
    np.testing.assert_array_equal(with_sources["BEFORE"], without_masks["BEFORE"])
    for path in crowd.glob("*.fits"):
        corrected = fits.getdata(tmp_path / "masked" / "tiles" / path.name, "SCI")
        np.testing.assert_array_equal(np.isnan(corrected), np.isnan(fits.getdata(path, "SCI")))


def test_pixels_of_bad_quality_and_excluded_ones_stay_out(crowd, tmp_path):
    clean = tmp_path / "clean"
    clean.mkdir()
    for path in crowd.glob("*.fits"):
        with fits.open(path) as hdus:
            hdus["DQ"].data[BLIND] = 0
            hdus.writeto(clean / path.name)
    matched(crowd, tmp_path / "blind", do_sigma_clip=True)
    matched(clean, tmp_path / "seen", do_sigma_clip=True)
    lost = mosaic_of(tmp_path / "seen")["COVERAGE"].sum() - mosaic_of(tmp_path / "blind")["COVERAGE"].sum()
    assert lost > 0.9 * 4 * 20 * 40
    with fits.open(next((tmp_path / "seen").glob("mosaic_*.fits"))) as hdus:
        wcs = WCS(hdus["SCI"].header)
        row, column = np.unravel_index(np.argmax(hdus["COVERAGE"].data), hdus["COVERAGE"].data.shape)
    ra, dec = wcs.pixel_to_world_values(column, row)
    region = tmp_path / "ghost.reg"
    region.write_text(f"fk5\ncircle({ra},{dec},{20 * abs(wcs.wcs.cdelt[1] * wcs.wcs.get_pc()[1, 1])}d)\n")
    matched(clean, tmp_path / "excluded", do_sigma_clip=True, exclude_regions=str(region))
    left = mosaic_of(tmp_path / "excluded")["COVERAGE"].sum()
    assert left < mosaic_of(tmp_path / "seen")["COVERAGE"].sum()


def test_written_stacks_keep_the_sources(crowd, tmp_path):
    files = sorted(crowd.glob("*.fits"))[:2]
    stacks = []
    for name, masks in (("masked", True), ("plain", False)):
        step = LevelMatchStep(crowd, tmp_path / name, "cal", 1, None, do_sigma_clip=masks)
        stacks += step.make_stacked_images([files], tmp_path / name)
    first, second = (fits.getdata(path, "SCI") for path in stacks)
    np.testing.assert_array_equal(first, second)
