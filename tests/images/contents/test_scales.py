"""Units in one spelling; counts of different exposure times; zero points that say what values are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from levelmatch_core.errors import NoInputError
from levelmatch_core.images.contents.pixel_values import pixel_values_of
from levelmatch_core.images.contents.scales import counts_of, unit_key
from levelmatch_core.images.inventory import take_inventory
from levelmatch_core.settings import MatchSettings

SAME = [
    ("ADU", "adu", "DN", "counts", "ct", "DN/pixel"),
    ("e-/s", "electrons s-1", "ELECTRONS/S", "electron / s", "e/s", "electron s^-1"),
    ("MJy/sr", "MJy sr-1", "MJy sr^-1"),
    ("DN/s", "adu/sec", "cps", "counts s**-1"),
]


def test_spellings_of_a_unit_are_one_and_units_are_many() -> None:
    keys = [{unit_key(unit) for unit in group} for group in SAME]
    assert [len(key) for key in keys] == [1] * len(SAME)
    others = {"mJy", "Jy", "erg/s/cm2", "mag", "electrons", "1e-17 erg/(s cm2)", ""}
    assert len(set.union(*keys, {unit_key(unit) for unit in others})) == len(SAME) + len(others)


@pytest.mark.parametrize(
    ("unit", "primary", "expected"),
    [
        ("ELECTRONS", "", True),
        ("adu", "", True),
        ("counts", "counts", True),
        ("DN/s", "", False),
        ("MJy/sr", "", False),
        ("", "", None),
        ("", "counts/s", False),
        ("ADU", "counts/s", None),
    ],
)
def test_whether_values_are_counts(unit: str, primary: str, expected: bool | None) -> None:
    assert counts_of(unit, primary) is expected


@pytest.mark.parametrize(
    ("unit", "choice", "known", "expected"),
    [
        ("ELECTRONS", "auto", None, "surface_brightness"),
        ("counts/s", "auto", None, "surface_brightness"),
        ("MJy/sr", "auto", None, "surface_brightness"),
        ("", "auto", None, "surface_brightness"),
        ("Jy/pixel", "auto", None, "flux"),
        ("nanomaggy", "auto", None, "flux"),
        ("Jy/beam", "auto", None, "surface_brightness"),
        ("ELECTRONS", "auto", "flux", "flux"),
        ("ELECTRONS", "flux", "surface_brightness", "flux"),
        ("Jy", "surface_brightness", None, "surface_brightness"),
    ],
)
def test_what_a_pixel_value_is(unit: str, choice: Any, known: Any, expected: str) -> None:
    values, why = pixel_values_of(unit, choice, known)
    assert values == expected
    assert why


def program(folder: Path, sky_header: Callable[..., Any], exposures: list[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    for number, cards in enumerate(exposures):
        header = sky_header(ra=10 + number / 5000)
        header.update(cards)
        data = np.random.default_rng(number).normal(100, 3, (32, 32)).astype(np.float32)
        fits.PrimaryHDU(data, header).writeto(folder / f"{number}.fits")
    return folder


def divisors(folder: Path, **options: Any) -> tuple[list[float], str]:
    inventory = take_inventory([folder], MatchSettings(**options))
    return [one.divisor for field in inventory.fields for one in field.exposures], "\n".join(inventory.notes)


@pytest.mark.parametrize("card", ["EXPTIME", "TEXPTIME", "EFFEXPTM", "ITIME", "EXP_TIME"])
def test_counts_of_different_times_become_rates(tmp_path: Path, sky_header: Callable[..., Any], card: str) -> None:
    program(tmp_path, sky_header, [{"BUNIT": "DN", card: 10.0}, {"BUNIT": "adu", card: 40.0}])
    found, notes = divisors(tmp_path)
    assert found == [10.0, 40.0]
    assert "divided by their exposure time (10 to 40 s)" in notes
    assert divisors(tmp_path, rates="off")[0] == [1.0, 1.0]
    (field,) = take_inventory([tmp_path], MatchSettings()).fields
    assert field.unit == "DN/s"


@pytest.mark.parametrize("card", ["COADDS", "CO_ADDS"])
def test_read_outs_that_were_added_up_count(tmp_path: Path, sky_header: Callable[..., Any], card: str) -> None:
    """ITIME is the time of one of them (Keck, IRTF), EXPTIME that of all."""
    cards = [{"BUNIT": "DN", "ITIME": 10.0, card: 1}, {"BUNIT": "DN", "ITIME": 10.0, card: 4}]
    assert divisors(program(tmp_path / "added", sky_header, cards))[0] == [10.0, 40.0]
    cards = [{"BUNIT": "DN", "EXPTIME": 40.0, card: 1}, {"BUNIT": "DN", "EXPTIME": 40.0, card: 4}]
    assert divisors(program(tmp_path / "all", sky_header, cards))[0] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("unit", "second", "doubted"),
    [("Jy/beam", 15.0, True), ("JY/BEAM", 10.1, False), ("Jy/beam", None, False), ("MJy/sr", 15.0, False)],
)
def test_values_of_beams_of_two_sizes_are_on_two_scales(
    tmp_path: Path, sky_header: Callable[..., Any], unit: str, second: float | None, *, doubted: bool
) -> None:
    beams = [{} if size is None else {"BMAJ": size / 3600, "BMIN": size / 3600} for size in (10.0, second)]
    (field,) = take_inventory(
        [program(tmp_path, sky_header, [{"BUNIT": unit, **beam} for beam in beams])], MatchSettings()
    ).fields
    assert ("beams differ (10 to 15 arcsec)" in field.scale_doubt) is doubted


@pytest.mark.parametrize(
    ("exposures", "told"),
    [
        ([{"BUNIT": "DN/s", "EXPTIME": 10.0}, {"BUNIT": "DN/s", "EXPTIME": 40.0}], False),
        ([{"BUNIT": "DN", "EXPTIME": 10.0}, {"BUNIT": "DN", "EXPTIME": 10.0}], False),
        ([{"EXPTIME": 10.0}, {"EXPTIME": 40.0}], True),
        ([{"BUNIT": "DN", "EXPTIME": 10.0, "FLXSCALE": 2.0}, {"BUNIT": "DN", "EXPTIME": 40.0}], True),
        ([{"BUNIT": "DN", "EXPTIME": t, "MAGZP": 25.0} for t in (10.0, 40.0)], False),
    ],
    ids=["rates", "one time", "no unit", "scaled", "one zero point"],
)
def test_what_may_be_on_one_scale_is_left_and_doubt_is_told(
    tmp_path: Path, sky_header: Callable[..., Any], exposures: list[dict[str, Any]], told: bool
) -> None:
    found, notes = divisors(program(tmp_path, sky_header, exposures))
    assert found == [1.0, 1.0]
    assert ("set rates=on" in notes) is told


def test_zero_points_of_counts_are_those_of_the_rates(tmp_path: Path, sky_header: Callable[..., Any]) -> None:
    """Counts in four times the seconds have a zero point 1.505 mag larger; the rates have the same one."""
    cards = [{"BUNIT": "DN", "EXPTIME": t, "MAGZP": 20 + 2.5 * np.log10(t)} for t in (10.0, 40.0)]
    found, notes = divisors(program(tmp_path, sky_header, cards))
    assert found == [10.0, 40.0]
    assert "zero points in the headers differ" not in notes


def test_asinh_values_are_refused(tmp_path: Path, sky_header: Callable[..., Any]) -> None:
    program(tmp_path, sky_header, [{"BSOFTEN": 3.0, "BOFFSET": 5.0}])
    with pytest.raises(NoInputError, match="asinh-scaled"):
        take_inventory([tmp_path], MatchSettings())


@pytest.mark.parametrize(
    ("cards", "options", "doubted"),
    [
        ([{"EXPTIME": 10.0}, {"EXPTIME": 40.0}], {}, True),  # no unit
        ([{"EXPTIME": 10.0}, {"EXPTIME": 40.0}], {"rates": "off"}, False),
        ([{"EXPTIME": 10.0}, {"EXPTIME": 40.0}], {"rates": "on"}, False),
        ([{"EXPTIME": 10.0}, {"EXPTIME": 10.0}], {}, False),
        ([{"EXPTIME": 10.0, "MAGZP": 25.0}, {"EXPTIME": 40.0, "MAGZP": 25.0}], {}, False),
        ([{"BUNIT": "DN", "EXPTIME": 10.0}, {"BUNIT": "DN", "EXPTIME": 40.0}], {}, False),
        ([{"BUNIT": "DN", "EXPTIME": 10.0}, {"BUNIT": "DN"}], {}, True),
        ([{"BUNIT": "DN", "EXPTIME": 10.0}, {"BUNIT": "DN"}], {"rates": "on"}, True),
        ([{"BUNIT": "DN"}, {"BUNIT": "DN"}], {}, False),
        ([{"BUNIT": "DN/s", "EXPTIME": 10.0}, {"BUNIT": "DN/s", "EXPTIME": 40.0}], {}, False),
        ([{"EXPTIME": 10.0}], {}, False),
    ],
)
def test_a_scale_that_is_not_known_is_a_doubt(
    tmp_path: Path, sky_header: Callable[..., Any], cards: Any, options: Any, doubted: bool
) -> None:
    inventory = take_inventory([program(tmp_path, sky_header, cards)], MatchSettings(**options))
    assert [bool(field.scale_doubt) for field in inventory.fields] == [doubted]


@pytest.mark.parametrize(
    ("unit", "is_one"),
    [("mag/arcsec2", True), ("MAG", True), ("ABmag", True), ("log10(Jy)", True), ("nanomaggies", False), ("Jy", False)],
)
def test_magnitudes_are_no_values_that_a_level_can_match(
    tmp_path: Path, sky_header: Callable[..., Any], unit: str, *, is_one: bool
) -> None:
    for number in range(2):
        header = sky_header(ra=10 + 1e-4 * number)
        header["BUNIT"] = unit
        data = np.random.default_rng(number).normal(20, 1, (32, 32)).astype(np.float32)
        fits.PrimaryHDU(data, header).writeto(tmp_path / f"{number}.fits")
    (field,) = take_inventory([tmp_path], MatchSettings()).fields
    assert ("values are magnitudes" in field.scale_doubt) == is_one
