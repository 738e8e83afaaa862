"""Exposures with larger pixels than the others': on the grid several pixels share the noise of one of theirs."""

import numpy as np
import pytest
from astropy.wcs import WCS

from levelmatch_core import MatchSettings, match_levels

SETTINGS = MatchSettings(figures="none")


def exposure(rng: np.random.Generator, size: int, scale: float, name: str) -> tuple[np.ndarray, object]:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = 80 + rng.uniform(-3, 3) / 3600, -5 + rng.uniform(-3, 3) / 3600
    wcs.wcs.crpix = (size + 1) / 2, (size + 1) / 2
    angle = 0.3 + scale
    turned = np.array([[-np.cos(angle), np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    wcs.wcs.cd = turned * scale / 3600
    header = wcs.to_header()
    header["FILTER"], header["BUNIT"], header["OBS_ID"] = "r", "MJy/sr", name
    return rng.normal(0, 1, (size, size)).astype(np.float32), header


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 1.6])
def test_errors_of_levels_are_those_of_pixels_of_any_size(scale: float) -> None:
    """Each pixel of 1.6 arcsec is 2.6 of the grid's, which counted as so many measurements."""
    pulls = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        images = [exposure(rng, size, one, str(n)) for n, (size, one) in enumerate(((90, 1), (90, 1), (32, scale)))]
        result = match_levels(images, settings=SETTINGS)
        table = result.corrections_table()
        fixed = next(row["exposure"] for row in table if row["status"] == "reference")
        small = max(table["exposure"], key=lambda name: result.level_error(name).value)
        off = result.level(small) - result.level(fixed)
        pulls.append(float((off / result.level_error(small)).value))
    assert 0.8 < np.sqrt(np.mean(np.square(pulls))) < 1.2
