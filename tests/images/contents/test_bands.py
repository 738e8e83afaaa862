"""The card that tells a band, camera by camera, and what is said where none does."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from levelmatch_core.errors import SettingsError
from levelmatch_core.images.inventory import take_inventory
from levelmatch_core.settings import MatchSettings
from tests.images.conftest import sky_header


def written(tmp_path: Path, number: int, cards: dict[str, Any], *chips: dict[str, Any]) -> None:
    """Write an image, or one with several chips that have cards of their own."""
    rng = np.random.default_rng(number)
    hdus: list[Any] = [fits.PrimaryHDU(header=fits.Header() if chips else sky_header())]
    if not chips:
        hdus[0].data = rng.normal(5, 1, (32, 32)).astype("f4")
    hdus[0].header.update(cards)
    for place, chip in enumerate(chips):
        header = sky_header(ra=10 + 1e-4 * place)
        header.update(chip)
        hdus.append(fits.ImageHDU(rng.normal(5, 1, (32, 32)).astype("f4"), header, name=f"CCD{place + 1}"))
    fits.HDUList(hdus).writeto(tmp_path / f"{number}.fits")


def bands(tmp_path: Path, **settings: Any) -> dict[str, int]:
    found = take_inventory([tmp_path], MatchSettings.from_mapping(settings))
    assert not found.failures
    return {field.band: len(field.exposures) for field in found.fields}


@pytest.mark.parametrize(
    "card",
    ["FILTER", "FILTER1", "FILTER2", "FILTNAM1", "FILTERS", "BAND", "INSFLNAM", "PUPIL", "HIERARCH ESO INS FILT1 NAME"],
)
def test_a_card_by_itself_tells_bands_apart(tmp_path: Path, card: str) -> None:
    for number, band in enumerate("JJHHKK"):
        written(tmp_path, number, {card: band})
    assert bands(tmp_path) == {"j": 2, "h": 2, "k": 2}


@pytest.mark.parametrize("card", ["CHNLNUM", "WAVELNTH", "BAND"])
def test_numbers_tell_bands_apart(tmp_path: Path, card: str) -> None:
    for number, band in enumerate((1, 1, 2)):
        written(tmp_path, number, {card: band})
    assert bands(tmp_path) == {"1": 2, "2": 1}


@pytest.mark.parametrize(
    ("cards", "band"),
    [
        ({"FILTER": "CLEAR", "FILTER2": "V"}, "v"),
        ({"FILTER1": "open1-6", "FILTER2": "i_G0302"}, "i_g0302"),
        ({"FILTER1": "F606W", "FILTER2": "POL0V"}, "f606w-pol0v"),
        ({"FILTER": "none", "BAND": "Ks"}, "ks"),
        ({"FILTER": "", "WAVELNTH": 160.0}, "160.0"),
        ({"FILTER": "OPEN"}, "open"),
        ({"FILTER": "r", "BAND": "g"}, "r"),
        ({"ORIGIN": "2MASS", "BAND": "J"}, "j"),
        ({"ORIGIN": "2MASS", "FILTER": "k", "BAND": "K"}, "k"),
        ({"TELESCOP": "HST", "FILTNAM1": "F555W", "FILTNAM2": ""}, "f555w"),
        ({"TELESCOP": "HST", "FILTER1": "CLEAR1L", "FILTER2": "F814W"}, "f814w"),
        ({"TELESCOP": "Spitzer", "CHNLNUM": 4}, "4"),
        ({"INSTRUME": "DECam", "FILTER": "Y DECam"}, "y decam"),
        ({"INSTRUME": "DECam", "BAND": "Y"}, "y"),
    ],
)
def test_values_that_tell_nothing_are_passed_over(tmp_path: Path, cards: dict[str, Any], band: str) -> None:
    written(tmp_path, 1, cards)
    assert bands(tmp_path) == {band: 1}


@pytest.mark.parametrize("axis", [3, 4])
def test_stokes_parameters_are_never_matched_with_each_other(tmp_path: Path, axis: int) -> None:
    for number, value in enumerate((1, 1, 2, 3, -1)):
        stokes = {f"CTYPE{axis}": "STOKES", f"CRVAL{axis}": float(value), f"CRPIX{axis}": 1.0}
        written(tmp_path, number, {"BAND": "L", **stokes})
    assert bands(tmp_path) == {"l": 2, "l-q": 1, "l-u": 1, "l-rr": 1}


def test_chips_may_have_bands_of_their_own(tmp_path: Path) -> None:
    """Simultaneous cameras write one extension a band."""
    for number in (1, 2):
        written(tmp_path, number, {}, {"FILTER": "g"}, {"FILTER": "r"}, {"FILTER": "i"})
    assert bands(tmp_path) == {"g": 2, "r": 2, "i": 2}
    assert bands(tmp_path, band="R") == {"r": 2}
    with pytest.raises(SettingsError, match="band 'z': no file"):
        bands(tmp_path, band="z")


def test_what_no_card_tells_is_said(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        written(tmp_path, number, {})
    found = take_inventory([tmp_path], MatchSettings())
    assert [field.band for field in found.fields] == [""]
    (note,) = found.notes
    assert note.startswith("no card tells the band (FILTER, BAND and the like) of 3 files, 1.fits the first")


def test_one_file_without_a_band_is_no_news(tmp_path: Path) -> None:
    written(tmp_path, 1, {})
    assert take_inventory([tmp_path], MatchSettings()).notes == ()


def test_bands_that_differ_by_case_alone_are_told_apart_where_both_exist(tmp_path: Path) -> None:
    """Johnson's R and Sloan's r of one camera; F770W is f770w."""
    for number, band in enumerate(("r", "R", "R", "V", "v", "f770w", "F770W")):
        written(tmp_path, number, {"FILTER": band})
    inventory = take_inventory([tmp_path], MatchSettings())
    assert sorted(len(field.exposures) for field in inventory.fields) == [1, 1, 1, 2, 2]
    assert "band R" in " ".join(inventory.notes)
    assert sum(len(field.exposures) for field in take_inventory([tmp_path], MatchSettings(band="r")).fields) == 3


def test_cards_of_one_file_that_spell_its_band_otherwise_name_one(tmp_path: Path) -> None:
    written(tmp_path, 0, {"TELESCOP": "none", "ORIGIN": "2MASS", "FILTER": "R", "BAND": "r"})
    written(tmp_path, 1, {"TELESCOP": "none", "ORIGIN": "2MASS", "FILTER": "R"})
    assert bands(tmp_path) == {"r": 2}


@pytest.mark.parametrize("card", ["CRVAL3", "RESTFRQ"])
def test_radio_images_of_two_frequencies_are_no_one_band(tmp_path: Path, card: str) -> None:
    axis = {"CTYPE3": "FREQ", "CDELT3": 1e6, "CRPIX3": 1.0} if card == "CRVAL3" else {}
    for number, frequency in enumerate((1.40e9, 1.42e9, 4.9e9, 5.0e9, 5.1e9)):
        written(tmp_path, number, {**axis, card: frequency})
        data, header = fits.getdata(tmp_path / f"{number}.fits", header=True)
        fits.PrimaryHDU(data[None] if axis else data, header).writeto(tmp_path / f"{number}.fits", overwrite=True)
    inventory = take_inventory([tmp_path], MatchSettings())
    assert [len(field.exposures) for field in inventory.fields] == [2, 3]
    assert "GHz" in " ".join(inventory.notes)


@pytest.mark.parametrize(
    ("kind", "unit", "factor"), [("LAMBDA", "", 1e-6), ("WAVE", "um", 1.0), ("LAMBDA(M)", "m", 1e-6)]
)
def test_plates_of_two_wavelengths_are_no_one_band(tmp_path: Path, kind: str, unit: str, factor: float) -> None:
    """IRAS: a third axis of one wavelength, and no filter."""
    for number, microns in enumerate((12.0, 12.0, 60.0)):
        written(tmp_path, number, {"CTYPE3": kind, "CUNIT3": unit, "CRVAL3": microns * factor, "CRPIX3": 1.0})
        data, header = fits.getdata(tmp_path / f"{number}.fits", header=True)
        fits.PrimaryHDU(data[None], header).writeto(tmp_path / f"{number}.fits", overwrite=True)
    inventory = take_inventory([tmp_path], MatchSettings())
    assert [len(field.exposures) for field in inventory.fields] == [2, 1]
    assert "taken as one band" not in " ".join(inventory.notes)


def test_plates_of_two_surveys_are_no_one_band(tmp_path: Path) -> None:
    for number, survey in enumerate(("DSS2 Blue", "DSS2 Blue", "DSS2 Red")):
        written(tmp_path, number, {"SURVEY": survey})
    assert [len(field.exposures) for field in take_inventory([tmp_path], MatchSettings()).fields] == [2, 1]
