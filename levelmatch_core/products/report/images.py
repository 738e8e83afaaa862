"""Images as they lie inside the page: small indexed PNGs, the same bytes for the same pixels."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from astropy.io import fits
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from PIL import Image

from levelmatch_core.matching.corrections import FieldMatch
from levelmatch_core.matching.measure.pair_fit import Difference
from levelmatch_core.matching.results import PairFit
from levelmatch_core.products.blocks import block_mean
from levelmatch_core.products.drawings import style
from levelmatch_core.products.drawings.mosaic_views import MosaicViews, views_of, views_of_file
from levelmatch_core.products.level_error import IMAGE

MOSAIC_SIDE, THUMBNAIL_SIDE, ERROR_SIDE = 900, 150, 360
"""Longest sides, pixels."""

_SHADES = 255
"""Colours of an image; one more shows where there are no data."""


@dataclass(frozen=True)
class BeforeAfter:
    """A mosaic with one stretch, before and after, and what was changed."""

    before: str
    after: str
    """`data:` addresses."""
    change: str
    """`data:` address of before - after; '' where nothing changed."""
    width: int
    height: int
    low: float
    high: float
    """Limits of the colours, data unit, about each image's median."""
    limit: float
    """The colours of the change go from minus this to this, data unit, about its median."""
    outlines: tuple[str, ...]
    """Of the members, as the points of SVG's polygons on the image."""


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
        address=_address((levels / (high or 1.0), style.SEQUENCE)),
        width=times * width,
        height=times * height,
        half=half,
        high=high,
    )


def before_and_after(mosaic: Path, match: FieldMatch | None = None) -> BeforeAfter:
    """Return the images of a mosaic's FITS file: before and after, each minus its median, and what was changed.

    Parameters
    ----------
    mosaic
        The file.
    match
        The field, for the outlines of its members.
    """
    views, _, _ = views_of_file(mosaic, MOSAIC_SIDE, match)
    before, after, change = views.shades
    height, width = after.shape
    return BeforeAfter(
        before=_address((before, style.IMAGE)),
        after=_address((after, style.IMAGE)),
        change=_address((change, style.DIFFERENCE)) if views.limit else "",
        width=width,
        height=height,
        low=float(views.norm.vmin or 0.0),
        high=float(views.norm.vmax or 0.0),
        limit=views.limit,
        # rows are drawn from above
        outlines=tuple(
            " ".join(f"{x + 0.5:.1f},{height - 0.5 - y:.1f}" for x, y in outline) for outline in views.outlines
        ),
    )


def side_by_side(mosaic: Path, side: int) -> str:
    """Return before, after and what was changed as one image, as a `data:` address; each is `side` pixels at most.

    Of a large mosaic, only a sample of the pixels is read.
    """
    return _abreast(views_of_file(mosaic, side, sampled=3)[0])


def side_by_side_of(before: NDArray[np.floating], after: NDArray[np.floating], side: int) -> str:
    """Return images before and after as :func:`side_by_side` does those of a file."""
    return _abreast(views_of(before, after, step=max(1, -(-max(after.shape) // side))))


def _abreast(views: MosaicViews) -> str:
    before, after, change = views.shades
    gap = np.full((after.shape[0], max(1, max(after.shape) // 50)), np.nan)
    return _address(*((each, style.IMAGE) for each in (before, gap, after, gap)), (change, style.DIFFERENCE))


def thumbnail(image: Difference, fit: PairFit) -> str:
    """Return a pair's difference as a `data:` address: colours from 4 rms below its level to 4 above."""
    step = max(1, -(-max(image.data.shape) // THUMBNAIL_SIDE))
    spread = 8 * (fit.rms or 1.0)
    return _address(((block_mean(image.data, step) - fit.plane.level) / spread + 0.5, style.DIFFERENCE))


def _address(*images: tuple[NDArray[np.float64], str]) -> str:
    """Return images abreast, first row at the bottom, as a PNG's address.

    Parameters
    ----------
    *images
        Values from 0 to 1 (NaN where there are none), and the name of their colour map.
    """
    maps = list(dict.fromkeys(colour_map for _, colour_map in images))
    each = _SHADES // len(maps)
    parts = []
    for values, colour_map in images:
        seen = np.isfinite(values)
        shades = np.clip(np.where(seen, values, 0.0) * each, 0, each - 1).astype(np.uint8)
        shades += np.uint8(each * maps.index(colour_map))
        shades[~seen] = each * len(maps)
        parts.append(shades)
    tables = [mpl.colormaps[colour_map](np.linspace(0, 1, each))[:, :3] for colour_map in maps]
    palette = np.round(255 * np.vstack([*tables, to_rgb(style.MISSING)])).astype(np.uint8)
    picture = Image.fromarray(np.ascontiguousarray(np.hstack(parts)[::-1]))
    picture.putpalette(palette.tobytes())
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
