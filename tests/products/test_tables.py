import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from levelmatch_core.errors import UsageError
from levelmatch_core.matching.corrections import Status
from levelmatch_core.products.corrected.write import write_corrected
from levelmatch_core.products.tables import read_corrections, write_corrections, write_pairs
from levelmatch_core.sky.grid import Grid
from levelmatch_core.sky.plane import Plane


@pytest.mark.parametrize("planes", [False, True])
def test_every_number_comes_back_to_the_last_digit(make: Any, tmp_path: Path, planes: bool) -> None:
    match = make.match(planes=planes)
    path = tmp_path / "corrections.ecsv"
    write_corrections(path, [match])
    table = read_corrections(path)
    assert len(table) == 6
    for row, correction in zip(table, match.corrections, strict=True):
        total, stage = correction.total, correction.stages["mosaic_tiles"]
        assert (row["level"], row["slope_x"], row["slope_y"]) == (total.level, total.slope_x, total.slope_y)
        assert (row["x0"], row["y0"]) == (total.x0, total.y0)
        assert row["mosaic_tiles_level"] == stage.level
        assert row["mosaic_tiles_fit"] == ("level+slope" if planes else "level")
        assert (row["dithers_level"], row["dithers_fit"]) == (0.0, "")
        assert tuple(row[f"sigma_{t}"] for t in ("level", "slope_x", "slope_y")) == correction.sigma
        assert row["local_sky"] == 0.5
        assert row["product"] == f"tiles/{correction.exposure.file}"
    assert str(table["level"].unit) == "MJy / sr"
    assert str(table["slope_x"].unit) == "MJy / (pix sr)"
    grid = table.meta["grids"]["f770w"]
    assert Grid.from_header_cards(grid["wcs"]) == Grid.from_json(grid["record"]) == match.grid
    assert "subtracted" in table.meta["convention"]


def test_stages_are_quoted_about_the_point_of_the_row(make: Any, tmp_path: Path) -> None:
    match = make.match(planes=True)
    correction = match.corrections[1]
    stage = correction.stages["mosaic_tiles"]
    elsewhere = correction.model_copy(update={"stages": {"mosaic_tiles": stage.about(stage.x0 + 100, stage.y0 - 50)}})
    match = match.model_copy(update={"corrections": (elsewhere,)})
    write_corrections(tmp_path / "c.ecsv", [match])
    assert read_corrections(tmp_path / "c.ecsv")["mosaic_tiles_level"][0] == pytest.approx(stage.level, rel=1e-13)


def test_a_failed_exposure_has_no_numbers(make: Any, tmp_path: Path) -> None:
    match = make.match()
    failed = match.corrections[0].model_copy(update={"status": Status.FAILED, "component": None})
    match = match.model_copy(update={"corrections": (failed, *match.corrections[1:])})
    write_corrections(tmp_path / "c.ecsv", [match])
    table = read_corrections(tmp_path / "c.ecsv")
    assert math.isnan(table["level"][0])
    assert table["component"].mask.tolist() == [True] + 5 * [False]
    assert table["product"][0] == ""


def test_pairs_hold_fit_verdict_and_residual(make: Any, tmp_path: Path) -> None:
    match = make.match(planes=True)
    write_pairs(tmp_path / "p.ecsv", [match])
    table = Table.read(tmp_path / "p.ecsv", format="ascii.ecsv")
    pairs = match.stages[1].solutions[0].pairs
    assert len(table) == len(pairs) == 7
    for row, pair in zip(table, pairs, strict=True):
        assert (row["first"], row["second"]) == (pair.fit.first, pair.fit.second)
        assert (row["level"], row["slope_x"]) == (pair.fit.plane.level, pair.fit.plane.slope_x)
        assert (row["residual"], row["weight"]) == (pair.residual, pair.weight)
        assert row["npix"] == pair.fit.npix
        assert bool(row["used"]) is (pair.rejected is None)
    assert table["reason"][0] == "rms too high"


def test_the_same_matches_give_the_same_bytes_in_any_order(make: Any, tmp_path: Path) -> None:
    one = make.match()
    two = one.model_copy(update={"field": one.field.model_copy(update={"name": "f1000w", "unit": "odd unit"})})
    for write in (write_corrections, write_pairs):
        write(tmp_path / "a", [one, two])
        write(tmp_path / "b", iter([two, one]))
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("unit", ["", "odd unit", "DN", "MJy/sr", "counts/s"])
def test_any_unit_can_be_written_and_read(make: Any, tmp_path: Path, unit: str) -> None:
    match = make.match()
    match = match.model_copy(update={"field": match.field.model_copy(update={"unit": unit})})
    write_corrections(tmp_path / "c.ecsv", [match])
    assert len(read_corrections(tmp_path / "c.ecsv")) == 6


def test_no_pairs_at_all_make_an_empty_table(make: Any, tmp_path: Path) -> None:
    match = make.match().model_copy(update={"stages": ()})
    write_pairs(tmp_path / "p.ecsv", [match])
    assert len(Table.read(tmp_path / "p.ecsv", format="ascii.ecsv")) == 0


def test_other_tables_are_refused(make: Any, tmp_path: Path) -> None:
    write_pairs(tmp_path / "p.ecsv", [make.match()])
    (tmp_path / "x").write_text("no table")
    for name in ("p.ecsv", "x", "missing"):
        with pytest.raises(UsageError, match=name):
            read_corrections(tmp_path / name)


def test_a_slope_in_x_alone_on_a_turned_image_that_is_not_square(make: Any, tmp_path: Path, image_file: Any) -> None:
    """What the table says, put on the sky by the table's own WCS, is what was taken from the file."""
    rng = np.random.default_rng(2)
    path = image_file(rng.normal(5, 1, (40, 60)), angle=73.0)
    exposure = make.exposure(path)
    plane = Plane(level=3.0, slope_x=0.02, slope_y=0.0, x0=-100.0, y0=350.0)
    correction = make.correction(exposure, plane)
    match = make.match().model_copy(update={"corrections": (correction,)})
    write_corrections(tmp_path / "c.ecsv", [match])
    write_corrected(tmp_path / "out.fits", [correction], {"f770w": make.grid}, make.settings)

    row = read_corrections(tmp_path / "c.ecsv")[0]
    cards = read_corrections(tmp_path / "c.ecsv").meta["grids"]["f770w"]["wcs"]
    grid = WCS(fits.Header(cards))
    before, after = fits.getdata(path, "SCI"), fits.getdata(tmp_path / "out.fits", "SCI")
    y, x = np.mgrid[:40, :60]
    gx, gy = grid.world_to_pixel(WCS(fits.getheader(path, "SCI")).pixel_to_world(x, y))
    expected = row["level"] + row["slope_x"] * (gx - row["x0"]) + row["slope_y"] * (gy - row["y0"])
    assert expected.std() > 0.2
    np.testing.assert_allclose(before - after, expected, rtol=0, atol=2e-5)
