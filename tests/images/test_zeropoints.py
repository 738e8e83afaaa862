"""Zero points of headers that differ within a field are told, with the false level that they make."""

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from levelmatch_core.images.inventory import take_inventory
from levelmatch_core.settings import MatchSettings
from tests.images.conftest import MakeFile


def notes_of(folder: Path) -> tuple[str, ...]:
    return take_inventory([folder], MatchSettings()).notes


@pytest.mark.parametrize("card", ["MAGZP", "MAGZPT", "MAGZERO", "PHOTZP"])
def test_what_shows_the_sky_brighter_is_named_with_the_gain(make_generic: MakeFile, tmp_path: Path, card: str) -> None:
    for name, zero_point in (("a", 25.0), ("b", 25.01), ("c", 25.005)):
        make_generic(f"{name}.fits", data=np.ones((32, 32)), cards={card: zero_point, "BUNIT": "DN", "FILTER": "r"})
    (note,) = notes_of(tmp_path)
    assert "differ by 0.01 mag (25 in a.fits, 25.01 in b.fits)" in note
    assert "0.93 % in gain, a false level of 9.3 over a sky of 1000 DN" in note  # 10^0.004 = 1.0093


def test_the_image_knows_better_than_the_file(make_jwst: MakeFile, tmp_path: Path) -> None:
    for number, zero_point in ((1, 25.0), (2, 26.0)):
        name = f"jw02107001001_02101_0000{number}_mirimage_cal.fits"
        fits.setval(make_jwst(name, seed=number, primary={"MAGZP": zero_point}), "MAGZP", value=20.0, extname="SCI")
    assert notes_of(tmp_path) == ()


@pytest.mark.parametrize("value", [25.0004, "none", float("inf")])
def test_alike_or_unknown_is_no_news(make_generic: MakeFile, tmp_path: Path, value: object) -> None:
    make_generic("a.fits", cards={"MAGZP": 25.0, "FILTER": "r"})
    make_generic("b.fits", seed=1, cards={"FILTER": "r"} | ({"MAGZP": value} if value != float("inf") else {}))
    assert notes_of(tmp_path) == ()
