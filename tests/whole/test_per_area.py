"""Fluxes in each pixel where pixels differ in area: matched per area, and given back so."""

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS, Sip

from levelmatch_core import MatchSettings, match_levels
from levelmatch_core.images import fields as fields_module
from levelmatch_core.images.wcs.pixel_area import areas_at
from levelmatch_core.images.wcs.transforms import sky_transforms
from levelmatch_core.products.corrected.reapply import apply_solution
from levelmatch_core.products.corrected.undo import undo
from levelmatch_core.products.corrected.verify import verify
from levelmatch_core.sky.grid import Grid
from tests.folders import contents

SIZE = 160
LEVELS = {"a.fits": 12.0, "b.fits": -7.0, "c.fits": 30.0, "d.fits": 3.5}
PLACES = {"a.fits": (0, 0), "b.fits": (70, 10), "c.fits": (-10, 75), "d.fits": (65, 80)}
SETTINGS = MatchSettings(figures="none", do_local_subtraction=False, reference="a.fits")


def wcs_of(name, scale, sip):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"] if sip else ["RA---TAN", "DEC--TAN"]
    dx, dy = PLACES[name]
    wcs.wcs.crval = [150.0 - dx / 3600 / np.cos(np.radians(2)), 2.0 + dy / 3600]
    wcs.wcs.crpix = [SIZE / 2 + 0.5, SIZE / 2 + 0.5]
    wcs.wcs.cdelt = [-scale / 3600, scale / 3600]
    if sip:
        a, b = np.zeros((4, 4)), np.zeros((4, 4))
        a[2, 0], a[3, 0], b[0, 2] = sip, sip / 100, sip / 2
        wcs.sip = Sip(a, b, None, None, wcs.wcs.crpix)
    wcs.wcs.set()
    return wcs


def program(folder: Path, *, scales, sip=0.0, unit="Jy"):
    """Write four images of one smooth sky, with levels in the same brightness as the sky; return their areas."""
    folder.mkdir()
    y, x = np.mgrid[:SIZE, :SIZE].astype(float)
    areas = {}
    for (name, level), scale in zip(LEVELS.items(), scales, strict=True):
        wcs = wcs_of(name, scale, sip)
        to_sky = sky_transforms(wcs)[0]
        ra, dec = to_sky(x, y)
        sky = 200 + 40 * np.sin((ra - 150) * 60) + 30 * np.cos((dec - 2) * 80)  # DN a square arcsecond
        areas[name] = areas_at(to_sky, x, y)
        image = (sky + level) * areas[name]
        header = wcs.to_header(relax=True)
        header["BUNIT"] = unit
        fits.PrimaryHDU(image, header).writeto(folder / name)
    return areas


def nominal_of(result) -> float:
    grid: Grid = result.fields[0].grid
    return grid.pixel_area


def worst(result, nominal):
    """Return the largest error of a level relative to that of `a`, DN a square arcsecond."""
    found = {c.exposure.name: float(c.total.level) / nominal for c in result.corrections}
    return max(abs((found[name] - found["a.fits"]) - (level - LEVELS["a.fits"])) for name, level in LEVELS.items())


@pytest.mark.parametrize(
    ("scales", "sip"),
    [((1.0,) * 4, 6e-4), ((1.0, 1.3, 0.9, 1.15), 0.0)],
    ids=["a strong distortion", "four pixel scales"],
)
def test_levels_come_back_and_the_images_agree(tmp_path, scales, sip, monkeypatch):
    areas = program(tmp_path / "in", scales=scales, sip=sip)
    before = {path.name: path.read_bytes() for path in (tmp_path / "in").iterdir()}
    result = match_levels(tmp_path / "in", tmp_path / "out", SETTINGS)
    nominal = nominal_of(result)
    spread = max(LEVELS.values()) - min(LEVELS.values())
    assert worst(result, nominal) < 1e-3 * spread
    # each corrected pixel has lost its own area's share
    for correction in result.corrections:
        name = correction.exposure.name
        with fits.open(tmp_path / "out" / "tiles" / name) as corrected, fits.open(tmp_path / "in" / name) as given:
            taken = given[0].data - corrected[0].data
            np.testing.assert_allclose(taken, correction.total.level * areas[name] / nominal, rtol=1e-6, atol=1e-6)
            centre = float(np.asarray(taken[SIZE // 2 - 1 : SIZE // 2 + 1, SIZE // 2 - 1 : SIZE // 2 + 1]).mean())
            assert corrected[0].header["LVLLEVEL"] == pytest.approx(centre, rel=1e-4, abs=1e-6)
            assert corrected[0].header["LVLAREA"] == pytest.approx(nominal)
    # as do the cards, undo and apply
    assert verify(tmp_path / "out").mismatches == ()
    assert undo(tmp_path / "out", tmp_path / "back").complete
    for name in LEVELS:
        with fits.open(tmp_path / "back" / name) as back, fits.open(tmp_path / "in" / name) as given:
            np.testing.assert_allclose(back[0].data, given[0].data, rtol=1e-12)
            assert "LVLAREA" not in back[0].header
    assert apply_solution(tmp_path / "out" / "corrections.ecsv", [tmp_path / "in"], tmp_path / "again").complete
    for name in LEVELS:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / "tiles" / name).read_bytes()
    assert {path.name: path.read_bytes() for path in (tmp_path / "in").iterdir()} == before
    # and the levels would not come back without
    monkeypatch.setattr(fields_module, "LIMIT", np.inf)
    plain = match_levels(tmp_path / "in", settings=SETTINGS)
    assert worst(plain, nominal) > 0.05 * spread


def test_a_plane_is_multiplied_too(tmp_path):
    areas = program(tmp_path / "in", scales=(1.0,) * 4, sip=6e-4)
    settings = SETTINGS.model_copy(update={"fit_type_mosaic_tiles": "level+slope"})
    result = match_levels(tmp_path / "in", tmp_path / "out", settings)
    assert any(not correction.total.is_level for correction in result.corrections)
    assert verify(tmp_path / "out").mismatches == ()
    assert undo(tmp_path / "out", tmp_path / "back").complete
    y, x = np.mgrid[:SIZE, :SIZE].astype(float)
    for name in LEVELS:
        with fits.open(tmp_path / "back" / name) as back, fits.open(tmp_path / "in" / name) as given:
            np.testing.assert_allclose(back[0].data, given[0].data, rtol=1e-12)
        total = result.correction(name).total
        ra, dec = sky_transforms(wcs_of(name, 1.0, 6e-4))[0](x, y)
        grid_x, grid_y = sky_transforms(result.fields[0].grid.wcs())[1](ra, dec)
        with fits.open(tmp_path / "out" / "tiles" / name) as corrected, fits.open(tmp_path / "in" / name) as given:
            taken = given[0].data - corrected[0].data
        expected = total(grid_x, grid_y) * areas[name] / nominal_of(result)
        np.testing.assert_allclose(taken, expected, rtol=1e-5, atol=1e-4)


def test_the_note_names_field_unit_and_amount(tmp_path):
    program(tmp_path / "in", scales=(1.0, 1.3, 0.9, 1.15))
    match_levels(tmp_path / "in", tmp_path / "out", SETTINGS)
    text = (tmp_path / "out" / "run.json").read_text()
    assert (
        "pixel areas differ by 109 %, and Jy is a flux in each pixel (the unit is a flux in each pixel): matched"
        in text
    )


@pytest.mark.parametrize(
    ("scales", "unit"), [((1.0,) * 4, "Jy"), ((1.0, 1.0001, 0.9999, 1.0), "Jy"), ((1.0, 1.3, 0.9, 1.15), "MJy/sr")]
)
def test_nothing_changes_where_areas_or_the_unit_do_not_ask_for_it(tmp_path, monkeypatch, scales, unit):
    program(tmp_path / "in", scales=scales, unit=unit)
    files = []
    for limit in (fields_module.LIMIT, np.inf):
        monkeypatch.setattr(fields_module, "LIMIT", limit)
        out = tmp_path / f"out {limit}"
        match_levels(tmp_path / "in", out, SETTINGS)
        files.append(contents(out))
    assert files[0] == files[1]
    assert "per_area" not in files[0]["corrections.ecsv"].decode()


def test_pixels_of_more_than_twice_the_size_are_a_field_of_their_own(tmp_path):
    program(tmp_path / "in", scales=(1.0, 1.0, 2.2, 2.2))
    result = match_levels(tmp_path / "in", settings=SETTINGS.model_copy(update={"reference": None}))
    assert sorted(len(field.field.exposures) for field in result.fields) == [2, 2]
