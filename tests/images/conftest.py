"""Small FITS files, made as telescopes make them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

MakeFile = Callable[..., Path]


def sky_header(ra: float = 10.0, dec: float = 20.0, *, scale: float = 0.1, angle: float = 0.0, size: int = 32) -> Any:
    """Return a TAN header centred on a size x size image; scale in arcsec, angle of +y east of north in degrees."""
    step, turn = scale / 3600, np.radians(angle)
    header = fits.Header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
    header["CRVAL1"], header["CRVAL2"] = ra, dec
    header["CRPIX1"] = header["CRPIX2"] = (size + 1) / 2
    header["CD1_1"], header["CD1_2"] = -step * np.cos(turn), step * np.sin(turn)
    header["CD2_1"], header["CD2_2"] = step * np.sin(turn), step * np.cos(turn)
    header["RADESYS"] = "ICRS"
    return header


@pytest.fixture(name="sky_header", scope="session")
def _sky_header() -> Callable[..., Any]:
    return sky_header


@pytest.fixture
def make_generic(tmp_path: Path) -> MakeFile:
    """Return a writer of files with one image in the primary HDU."""

    def make(
        name: str = "one.fits", *, data: Any = None, seed: int = 0, cards: dict[str, Any] | None = None, **sky: Any
    ) -> Path:
        size = sky.get("size", 32)
        if data is None:
            data = np.random.default_rng(seed).normal(5, 1, (size, size)).astype(np.float32)
        header = sky_header(**sky)
        header.update(cards or {})
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        fits.PrimaryHDU(data, header).writeto(path)
        return path

    return make


@pytest.fixture
def make_jwst(tmp_path: Path) -> MakeFile:
    """Return a writer of files as JWST's pipeline makes them: SCI, ERR and DQ."""

    def make(
        name: str = "jw02107001001_02101_00001_mirimage_cal.fits",
        *,
        data: Any = None,
        err: Any = None,
        dq: Any = None,
        seed: int = 0,
        primary: dict[str, Any] | None = None,
        unit: str = "MJy/sr",
        **sky: Any,
    ) -> Path:
        size = sky.get("size", 32)
        if data is None:
            data = np.random.default_rng(seed).normal(5, 1, (size, size)).astype(np.float32)
        header = sky_header(**sky)
        header["BUNIT"] = unit
        first = fits.PrimaryHDU()
        camera = "MIRI" if "_miri" in name else "NIRCAM"
        first.header.update({"TELESCOP": "JWST", "INSTRUME": camera, "FILTER": "F770W"} | (primary or {}))
        hdus = fits.HDUList(
            [
                first,
                fits.ImageHDU(data, header, name="SCI"),
                fits.ImageHDU(np.full(data.shape, 0.5, np.float32) if err is None else err, name="ERR"),
                fits.ImageHDU(np.zeros(data.shape, np.uint32) if dq is None else dq, name="DQ"),
            ]
        )
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        hdus.writeto(path)
        return path

    return make
