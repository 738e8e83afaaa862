"""Images as they lie inside the page: small indexed PNGs, the same bytes for the same pixels."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from astropy.io import fits
from matplotlib.colors import Normalize, to_rgb
from numpy.typing import NDArray
from PIL import Image

from levelmatch_core.matching.measure.pair_fit import Difference
from levelmatch_core.matching.results import PairFit
from levelmatch_core.products.blocks import block_mean
from levelmatch_core.products.drawings import style
from levelmatch_core.products.figures.mosaic import stretch
from levelmatch_core.products.level_error import IMAGE

MOSAIC_SIDE, THUMBNAIL_SIDE, ERROR_SIDE = 900, 150, 360
"""Longest sides, pixels."""

_SHADES = 255
"""Colours of an image; one more shows where there are no data."""


@dataclass(frozen=True)
class BeforeAfter:
    """A mosaic with one stretch, before and after."""

    before: str
    after: str
    """`data:` addresses."""
    width: int
    height: int
    low: float
    high: float
    """Limits of the colours, data unit, about each image's median."""


@dataclass(frozen=True)
class LevelErrorView:
    """A map of errors, colours from 0 to the largest."""

    address: str
    """`data:` address."""
    width: int
    height: int
    """As shown, pixels."""
    half: float
    high: float
    """Median and largest 1 sigma, data unit."""


def level_error(file: Path) -> LevelErrorView | None:
    """Return the image of a map of errors, None where nothing lies on it."""
    with fits.open(file, mode="readonly", memmap=False) as hdus:
        levels = hdus[IMAGE].data.astype(float)
    seen = levels[np.isfinite(levels)]
    if not seen.size:
        return None
    height, width = levels.shape
    times = max(1, ERROR_SIDE // max(levels.shape))
    half, high = (float(one) for one in np.percentile(seen, [50, 100]))
    return LevelErrorView(
        address=_address(levels / (high or 1.0), style.SEQUENCE),
        width=times * width,
        height=times * height,
        half=half,
        high=high,
    )


def before_and_after(mosaic: Path) -> BeforeAfter:
    """Return the images of a mosaic's FITS file, each minus its median, with the stretch of the one after."""
    before, after, norm = _stretched(mosaic, MOSAIC_SIDE)
    height, width = after.shape
    return BeforeAfter(
        before=_address(before, style.IMAGE),
        after=_address(after, style.IMAGE),
        width=width,
        height=height,
        low=float(norm.vmin or 0.0),
        high=float(norm.vmax or 0.0),
    )


def side_by_side(mosaic: Path, side: int) -> str:
    """Return the same two as one image, before at the left, as a `data:` address; each is `side` pixels at most.

    Of a large mosaic, only a sample of the pixels is read.
    """
    before, after, _ = _stretched(mosaic, side, sampled=3)
    gap = np.full((after.shape[0], max(1, side // 50)), np.nan)
    return _address(np.hstack([before, gap, after]), style.IMAGE)


def side_by_side_of(before: NDArray[np.floating], after: NDArray[np.floating], side: int) -> str:
    """Return images before and after as :func:`side_by_side` does those of a file."""
    step = max(1, -(-max(after.shape) // side))
    left, right, _ = _norm(block_mean(before, step), block_mean(after, step))
    gap = np.full((right.shape[0], max(1, right.shape[1] // 50)), np.nan)
    return _address(np.hstack([left, gap, right]), style.IMAGE)


def _stretched(mosaic: Path, side: int, sampled: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64], Normalize]:
    """Return a mosaic before and after, each minus its median, as colours from 0 to 1, and their stretch.

    A pixel of it is the mean of a block of pixels or, where `sampled` is given, of about so many by so many of them.
    """
    with fits.open(mosaic, mode="readonly", memmap=True) as hdus:
        step = max(1, -(-max(hdus["SCI"].shape) // side))
        every = max(1, step // sampled) if sampled else 1
        pixels = (hdus[name].data[::every, ::every] for name in ("SCI", "BEFORE"))
        after, before = (block_mean(each, -(-step // every)) for each in pixels)
    return _norm(before, after)


def _norm(
    before: NDArray[np.float64], after: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], Normalize]:
    """Return two images, each minus its median, as colours from 0 to 1, and their stretch."""
    after, before = after - np.nanmedian(after), before - np.nanmedian(before)
    norm = stretch(after)
    return np.ma.filled(norm(before), np.nan), np.ma.filled(norm(after), np.nan), norm


def thumbnail(image: Difference, fit: PairFit) -> str:
    """Return a pair's difference as a `data:` address: colours from 4 rms below its level to 4 above."""
    step = max(1, -(-max(image.data.shape) // THUMBNAIL_SIDE))
    spread = 8 * (fit.rms or 1.0)
    return _address((block_mean(image.data, step) - fit.plane.level) / spread + 0.5, style.DIFFERENCE)


def _address(values: NDArray[np.float64], colour_map: str) -> str:
    """Return values from 0 to 1 (NaN where there are none), first row at the bottom, as a PNG's address."""
    seen = np.isfinite(values)
    shades = np.clip(np.where(seen, values, 0.0) * _SHADES, 0, _SHADES - 1).astype(np.uint8)
    shades[~seen] = _SHADES
    table = mpl.colormaps[colour_map](np.linspace(0, 1, _SHADES))[:, :3]
    palette = np.round(255 * np.vstack([table, to_rgb(style.MISSING)])).astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(shades[::-1]))
    picture.putpalette(palette.tobytes())
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
