"""Images with known WCSs, and exposures made of them."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS, Sip
from numpy.typing import NDArray

from levelmatch_core.images.exposure import Exposure
from levelmatch_core.sky.store import CutoutStore
from tests.exposures import exposure


def image_wcs(
    shape: tuple[int, int],
    *,
    ra: float = 83.0,
    dec: float = -5.0,
    angle: float = 0.0,
    scale: float = 1.0,
    distortion: float = 0.0,
) -> WCS:
    """A TAN WCS about the middle of an image; `distortion` is the SIP term of second order, a pixel."""
    wcs = WCS(naxis=2)
    ny, nx = shape
    kind = "-SIP" if distortion else ""
    wcs.wcs.ctype = [f"RA---TAN{kind}", f"DEC--TAN{kind}"]
    wcs.wcs.radesys = "ICRS"
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [(nx + 1) / 2, (ny + 1) / 2]
    cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    wcs.wcs.cd = scale / 3600 * np.array([[-cosine, sine], [sine, cosine]])
    if distortion:
        a, b = np.zeros((4, 4)), np.zeros((4, 4))
        a[2, 0], a[1, 1], a[3, 0] = distortion, -distortion / 2, distortion * 1e-3
        b[0, 2], b[1, 1], b[1, 2] = distortion * 1.3, distortion / 3, distortion * 1e-3
        wcs.sip = Sip(a, b, None, None, wcs.wcs.crpix)
    wcs.wcs.set()
    return wcs


def write_exposure(
    path: Path, data: NDArray[Any], wcs: WCS, error: NDArray[Any] | None = None, **changes: Any
) -> Exposure:
    hdus = fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(data, wcs.to_header(relax=True), name="SCI")])
    if error is not None:
        hdus.append(fits.ImageHDU(error, name="ERR"))
    hdus.writeto(path)
    values: dict[str, Any] = {
        "err": None if error is None else 2,
        "shape": data.shape,
        "footprint": tuple(map(tuple, wcs.calc_footprint(axes=data.shape[::-1]).tolist())),
        "scale": float(np.sqrt(abs(np.linalg.det(wcs.pixel_scale_matrix))) * 3600),
    }
    return exposure(path, **(values | changes))


def bare_exposure(name: str = "a", ra: float = 10.0, dec: float = 20.0, **changes: Any) -> Exposure:
    """An exposure of 0.2 degrees without a file, for what needs its place only."""
    wcs = image_wcs((100, 100), ra=ra, dec=dec, scale=7.2, angle=changes.get("angle", 0.0))
    values: dict[str, Any] = {
        "digest": hashlib.sha256(name.encode()).hexdigest(),
        "shape": (100, 100),
        "tile": name,
        "footprint": tuple(map(tuple, wcs.calc_footprint(axes=(100, 100)).tolist())),
        "scale": 7.2,
    }
    return exposure(Path("/nowhere") / name, **(values | changes))


@pytest.fixture
def make_wcs() -> Callable[..., WCS]:
    return image_wcs


@pytest.fixture
def make_exposure() -> Callable[..., Exposure]:
    return write_exposure


@pytest.fixture
def make_bare() -> Callable[..., Exposure]:
    return bare_exposure


@pytest.fixture
def store(tmp_path: Path) -> CutoutStore:
    return CutoutStore(tmp_path / "store")
