"""Damage at random cards of a header: a file is read, or refused by name, and nothing else ever escapes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from levelmatch_core.errors import DataError, NoInputError
from levelmatch_core.images.inventory import take_inventory
from levelmatch_core.images.reading import read_wcs
from levelmatch_core.settings import MatchSettings
from tests.images.pixels import read_pixels

VALUES = (
    *("0", "-1", "1e400", "NaN", "'x'", "'open", "T", "", "9" * 20, "1.5", "3", "2000000000", "1E-320"),
    *("'RA---ZZZ'", "'GLON-CAR'", "\xff\xfe"),
)
CASES = 150


def written(folder: Path, header: Any, *, packed: bool) -> bytes:
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN-SIP", "DEC--TAN-SIP"
    header.update({"A_ORDER": 2, "B_ORDER": 2, "A_2_0": 1e-5, "B_2_0": 1e-5, "BUNIT": "DN"})
    primary = fits.PrimaryHDU()
    primary.header.update({"TELESCOP": "JWST", "INSTRUME": "MIRI", "FILTER": "F770W", "DT_BGR": 3.0})
    image = 5 + np.random.default_rng(0).random((32, 32)).astype(np.float32)
    hdus = [primary]
    for name, data, cards in (("SCI", image, header), ("ERR", image, None), ("DQ", np.zeros((32, 32), np.int32), None)):
        if packed:
            hdus.append(fits.CompImageHDU(data, cards, name=name, compression_type="GZIP_1", quantize_level=0))
        else:
            hdus.append(fits.ImageHDU(data, cards, name=name))
    fits.HDUList(hdus).writeto(folder / "whole.fits")
    return (folder / "whole.fits").read_bytes()


def damaged(whole: bytes, rng: np.random.Generator) -> bytes:
    """Return the file with one to three cards changed: another value, one wrong byte, or another keyword."""
    raw = bytearray(whole)
    cards = [at for at in range(0, len(raw), 80) if raw[at + 8 : at + 10] == b"= "]
    for at in rng.choice(cards, rng.integers(1, 4)):
        kind = rng.integers(3)
        if kind == 0:
            value = VALUES[rng.integers(len(VALUES))].encode("latin-1")
            raw[at + 10 : at + 80] = value.ljust(70)
        elif kind == 1:
            raw[at + rng.integers(80)] = rng.integers(256)
        else:
            raw[at : at + 8] = b"XXXXXXXX"
    return bytes(raw)


def outcome(path: Path) -> str:
    """Return the reason why a file is refused, '' where it is read."""
    try:
        for exposure in take_inventory([path], MatchSettings(recombine_lyot=True)).fields[0].exposures:
            read_pixels(exposure)
            read_wcs(exposure)
    except (DataError, NoInputError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("packed", [False, True])
def test_damage_is_read_or_refused_by_name(tmp_path: Path, sky_header: Callable[..., Any], packed: bool) -> None:
    whole = written(tmp_path, sky_header(), packed=packed)
    rng = np.random.default_rng(20)
    path = tmp_path / "damaged.fits"
    outcomes = []
    for _ in range(CASES):
        path.write_bytes(damaged(whole, rng))
        outcomes.append(outcome(path))
    assert all("damaged.fits" in reason for reason in outcomes if reason)
    assert CASES // 20 < outcomes.count("") < CASES - CASES // 20
