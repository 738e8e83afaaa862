"""The error map of the mosaic's level, as a small FITS image with a WCS."""

from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from levelmatch_core.images.fits_headers import MATCHED_CARD
from levelmatch_core.matching.corrections import ErrorMap
from levelmatch_core.sky.grid import Grid

IMAGE = "LEVELERR"
"""Name of the HDU."""


def write_level_error(path: Path, grid: Grid, levels: NDArray[np.floating], at: ErrorMap, unit: str) -> None:
    """Write an error map. The same map gives the same bytes.

    HDUs: primary (no data); LEVELERR, float32, 1 sigma of the mosaic's level relative to the zero of its component (NaN
    where there is no exposure), with the celestial WCS of its coarse pixels.

    Parameters
    ----------
    path
        The file; its folder must exist.
    grid
        The grid of the mosaic.
    levels
        (ny, nx) 1 sigma, data unit.
    at
        Their positions on the grid.
    unit
        Unit of the data (BUNIT); '' for none.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    primary = fits.PrimaryHDU()
    primary.header[MATCHED_CARD] = ("level error", "levelmatch: 1 sigma of a mosaic's level")
    image = fits.ImageHDU(np.asarray(levels, dtype=np.float32), name=IMAGE)
    if unit:
        image.header["BUNIT"] = unit
    cards = grid.header_cards()
    for axis, first in ((1, at.x0), (2, at.y0)):
        # the reference pixel is the grid's (0, 0), counted from 1 in coarse pixels
        cards[f"CRPIX{axis}"] = 1.0 - first / at.step
        cards[f"CDELT{axis}"] *= at.step
    image.header.update({name: value for name, value in cards.items() if not name.startswith("LVL")})
    image.header["LVLSTEP"] = (at.step, "grid pixels from one point to the next")
    fits.HDUList([primary, image]).writeto(path)
