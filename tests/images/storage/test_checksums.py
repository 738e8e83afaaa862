"""DATASUM and CHECKSUM against astropy's, and what becomes of files that do not hold to theirs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from levelmatch_core.errors import NoInputError
from levelmatch_core.images.exposure import Inventory
from levelmatch_core.images.fits_headers import read_headers
from levelmatch_core.images.inventory import take_inventory
from levelmatch_core.settings import MatchSettings
from tests.images.conftest import sky_header


def summed(path: Path, seed: int = 0, *, extension: bool = False, **sky: Any) -> Path:
    """Write an image with the sums that astropy makes."""
    data = np.random.default_rng(seed).normal(5, 1, (32, 32)).astype("f4")
    header = sky_header(**sky)
    header["FILTER"] = "r"
    hdus: list[Any] = [fits.PrimaryHDU(data, header)]
    if extension:
        hdus.append(fits.ImageHDU(np.arange(100.0), name="SPECTRUM"))
    fits.HDUList(hdus).writeto(path, checksum=True)
    return path


def inventory(tmp_path: Path, **chosen: Any) -> Inventory:
    return take_inventory([tmp_path], MatchSettings.from_mapping(chosen))


def names(found: Inventory) -> list[str]:
    return sorted(one.name for field in found.fields for one in field.exposures)


def change(path: Path, at: int, to: bytes) -> None:
    raw = bytearray(path.read_bytes())
    raw[at : at + len(to)] = to
    path.write_bytes(raw)


@settings(max_examples=40, deadline=None)
@given(data=st.binary(min_size=1, max_size=9000), at=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_sums_by_astropy_hold_until_a_bit_turns(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, at: int, bit: int
) -> None:
    path = tmp_path_factory.mktemp("sums") / "a.fits"
    fits.PrimaryHDU(np.frombuffer(data, np.uint8)).writeto(path, checksum=True)
    (hdu,) = read_headers(path, checksums=True)
    assert hdu.complaint == ""
    place = hdu.data + at % len(data)
    change(path, place, bytes([path.read_bytes()[place] ^ 1 << bit]))
    assert "DATASUM" in read_headers(path, checksums=True)[0].complaint
    assert read_headers(path)[0].complaint == ""


def test_a_changed_pixel_costs_its_exposure(tmp_path: Path) -> None:
    for number in (1, 2):
        summed(tmp_path / f"{number}.fits", number)
    change(tmp_path / "2.fits", 2880 + 2000, b"\x7f")
    found = inventory(tmp_path)
    assert names(found) == ["1.fits"]
    (failure,) = found.failures
    assert (failure.name, failure.error) == ("2.fits", "ChecksumError")
    assert "DATASUM" in failure.reason
    assert "checksums = 'ignore'" in failure.reason
    assert names(inventory(tmp_path, checksums="ignore")) == ["1.fits", "2.fits"]


def test_a_changed_header_costs_its_exposure(tmp_path: Path) -> None:
    summed(tmp_path / "1.fits", 1)
    path = summed(tmp_path / "2.fits", 2)
    at = path.read_bytes().index(b"CRVAL1  =")
    change(path, at + 10, b"                10.5")
    found = inventory(tmp_path)
    assert names(found) == ["1.fits"]
    assert "its data are sound, its header was changed" in found.failures[0].reason


@pytest.mark.parametrize("ending", ["", ".gz", ".bz2"])
def test_packed_files_are_held_to_their_sums_too(tmp_path: Path, ending: str) -> None:
    summed(tmp_path / "1.fits", 1)
    path = summed(tmp_path / f"2.fits{ending}", 2)
    with fits.open(path) as hdus:
        hdus[0].data[3, 4] += 1
        stale = dict(hdus[0].header)
        hdus.writeto(path, overwrite=True)
        assert stale["DATASUM"] == fits.getheader(path)["DATASUM"]
    assert names(inventory(tmp_path)) == ["1.fits"]


def test_one_chip_of_a_file_is_lost_alone(tmp_path: Path) -> None:
    chips = [
        fits.ImageHDU(np.random.default_rng(n).normal(5, 1, (32, 32)).astype("f4"), sky_header(ra=10 + 0.01 * n))
        for n in range(3)
    ]
    path = tmp_path / "a.fits"
    fits.HDUList([fits.PrimaryHDU(), *chips]).writeto(path, checksum=True)
    change(path, read_headers(path)[2].data + 8, b"\x41")
    found = inventory(tmp_path)
    assert names(found) == ["a.fits#1", "a.fits#3"]
    assert [one.name for one in found.failures] == ["a.fits#2"]


def test_what_no_exposure_needs_is_told_only(tmp_path: Path) -> None:
    path = summed(tmp_path / "a.fits", extension=True)
    change(path, read_headers(path)[1].data + 8, b"\x41")
    found = inventory(tmp_path)
    assert names(found) == ["a.fits"]
    assert any(note.startswith("sums do not hold in 1 HDUs, a.fits HDU 1 (SPECTRUM)") for note in found.notes)


def test_sums_that_were_copied_from_elsewhere_are_not_believed(tmp_path: Path) -> None:
    """A program that does not know the cards takes them along: files with different headers cannot share them."""
    first = fits.getheader(summed(tmp_path / "kept", 9))
    for number in (1, 2):
        data = np.random.default_rng(number).normal(5, 1, (32, 32)).astype("f4")
        header = first.copy()
        header["CRVAL1"] += 1e-4 * number
        fits.PrimaryHDU(data, header).writeto(tmp_path / f"{number}.fits")
    (tmp_path / "kept").unlink()
    found = inventory(tmp_path)
    assert names(found) == ["1.fits", "2.fits"]
    assert any("do not hold in 2 files, 1.fits the first, and were copied" in note for note in found.notes)
    (tmp_path / "2.fits").unlink()  # one file alone: nothing tells a copy from damage
    with pytest.raises(NoInputError, match="ChecksumError"):
        inventory(tmp_path)


@pytest.mark.parametrize("value", ["", "0" * 16, "        "])
def test_empty_sums_claim_nothing(tmp_path: Path, value: str) -> None:
    path = summed(tmp_path / "a.fits")
    with fits.open(path) as hdus:
        hdus[0].header["CHECKSUM"] = value
        hdus[0].header["DATASUM"] = ""
        hdus.writeto(path, overwrite=True)
    assert names(inventory(tmp_path)) == ["a.fits"]
