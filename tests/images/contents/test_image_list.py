"""Which images of a file become exposures, and what is said of the others."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from levelmatch_core.errors import NoInputError
from levelmatch_core.images.exposure import Exposure, Inventory
from levelmatch_core.images.inventory import take_inventory
from levelmatch_core.settings import MatchSettings
from tests.images.conftest import sky_header

SIZE = 32


def image(
    name: str = "", *, seed: int = 0, shape: tuple[int, ...] = (SIZE, SIZE), place: bool = True, **sky: Any
) -> Any:
    """Return an image extension, with a WCS of its own or none."""
    header = sky_header(**sky) if place else fits.Header()
    data = np.random.default_rng(seed).normal(5, 1, shape).astype(np.float32)
    return fits.ImageHDU(data, header, name=name or None)


def taken(tmp_path: Path, *hdus: Any, primary: dict[str, Any] | None = None, **settings: Any) -> Inventory:
    first = fits.PrimaryHDU()
    first.header.update({"FILTER": "r"} | (primary or {}))
    fits.HDUList([first, *hdus]).writeto(tmp_path / "one.fits")
    return take_inventory([tmp_path / "one.fits"], MatchSettings.from_mapping(settings))


def exposures(found: Inventory) -> list[Exposure]:
    return sorted((one for field in found.fields for one in field.exposures), key=lambda one: one.name)


def test_each_image_with_a_wcs_of_an_unknown_camera_is_an_exposure(tmp_path: Path) -> None:
    chips = [image(f"CCD{number}", seed=number, ra=10 + 0.01 * number) for number in range(1, 5)]
    found = taken(tmp_path, *chips, primary={"INSTRUME": "WFCAM"})
    assert [(one.name, one.sci) for one in exposures(found)] == [(f"one.fits#{n}", n) for n in range(1, 5)]
    assert len({one.tile for one in exposures(found)}) == 4  # each has a level of its own
    assert found.failures == ()


def test_what_is_no_exposure_is_passed_over_by_name(tmp_path: Path) -> None:
    found = taken(
        tmp_path,
        image("CCD1", ra=10.0),
        image("CCD1_WHT", seed=1, ra=10.0),
        image("", seed=2, ra=10.0),
        image("PREVIEW", seed=3, place=False),
        image("STACK", seed=4, shape=(3, SIZE, SIZE), ra=10.0),
        image("CCD2", seed=5, ra=10.01),
    )
    assert [one.sci for one in exposures(found)] == [1, 6]
    notes = "\n".join(found.notes)
    for name, why in (
        ("CCD1_WHT", "named as what goes with an image"),
        ("HDU 3", "exactly where another one is"),
        ("PREVIEW", "no celestial WCS of its own"),
        ("STACK", "a cube"),
    ):
        assert f"({why}): {name} (1) in 1 files, one.fits the first" in notes


@pytest.mark.parametrize("name", ["MASK", "VARIANCE", "chip3.RMS", "DQ2", "1-1.A.FLG", "weight_map"])
def test_companions_are_known_by_their_names(tmp_path: Path, name: str) -> None:
    found = taken(tmp_path, image("CCD1"), image(name, seed=1, ra=10.01))
    assert [one.sci for one in exposures(found)] == [1]


@pytest.mark.parametrize("name", ["SKYMAPPER", "EXPOSURE2", "TIMESTEP", "MASKED", "Q1", "im13"])
def test_names_that_look_alike_are_none(tmp_path: Path, name: str) -> None:
    found = taken(tmp_path, image("CCD1"), image(name, seed=1, ra=10.01))
    assert [one.sci for one in exposures(found)] == [1, 2]


def test_only_sci_is_the_image_where_there_is_one(tmp_path: Path) -> None:
    found = taken(tmp_path, image("SCI"), image("WHT", seed=1), image("REFERENCE", seed=2, ra=10.01))
    assert [one.sci for one in exposures(found)] == [1]
    assert any("(only SCI is the image): REFERENCE (1)" in note for note in found.notes)


def test_one_image_has_no_number(tmp_path: Path) -> None:
    found = taken(tmp_path, image("CCD1"), image("THUMBNAIL", seed=1, place=False))
    assert [one.name for one in exposures(found)] == ["one.fits"]


def test_errors_of_chips_that_share_a_version_follow_their_image(tmp_path: Path) -> None:
    """All are of EXTVER 1; the second and the last chip have no errors, and take those of no other."""
    names = ("CCD1", "ERR", "CCD2", "CCD3", "ERR", "CCD4")
    found = taken(tmp_path, *(image(name, seed=n, ra=10 + 0.01 * n) for n, name in enumerate(names)))
    assert [(one.sci, one.err) for one in exposures(found)] == [(1, 2), (3, None), (4, 5), (6, None)]


@pytest.mark.parametrize("shape", [(1, SIZE, SIZE), (1, 1, SIZE, SIZE), (SIZE, 1, SIZE)])
def test_axes_of_length_one_are_dropped(tmp_path: Path, shape: tuple[int, ...]) -> None:
    hdu = image("", shape=shape)
    if shape[1] == 1 and len(shape) == 3:
        for name in ("CTYPE", "CRVAL", "CRPIX"):
            hdu.header[f"{name}3"] = hdu.header[f"{name}2"]
        hdu.header.update({"CTYPE2": "FREQ", "CRVAL2": 1e9, "CRPIX2": 1.0, "CD3_3": hdu.header["CD2_2"], "CD2_2": 1e6})
    found = taken(tmp_path, hdu)
    assert [one.shape for one in exposures(found)] == [(SIZE, SIZE)]


@pytest.mark.parametrize("name", ["", "SCI"])
def test_a_cube_is_refused_with_what_to_do(tmp_path: Path, name: str) -> None:
    with pytest.raises(NoInputError, match=r"cube of 32 x 32 x 3 pixels, expected one image; name a plane"):
        taken(tmp_path, image(name, shape=(3, SIZE, SIZE)))


def test_a_bad_chip_costs_that_chip(tmp_path: Path) -> None:
    bad = image("CCD2", seed=1, ra=10.01)
    bad.header["CTYPE2"] = "DEC--SIN"  # at odds with RA---TAN
    found = taken(tmp_path, image("CCD1"), bad, image("CCD3", seed=2, ra=10.02))
    assert [one.name for one in exposures(found)] == ["one.fits#1", "one.fits#3"]
    assert [one.name for one in found.failures] == ["one.fits#2"]
