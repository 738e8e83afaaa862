"""The mosaic before and after, side by side on the sky."""

import math
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from matplotlib.colors import AsinhNorm
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from levelmatch_core.products.blocks import block_mean
from levelmatch_core.products.drawings import style

MAX_SIDE = 700
"""Longest side of the images that are drawn, pixels, about that of the panels: larger ones are averaged in blocks."""
_LEFT, _BETWEEN, _RIGHT, _BELOW, _ABOVE = 0.95, 0.35, 1.0, 0.55, 0.35
"""Room for labels left of, between, right of (the colour bar), below and above the panels, inches."""


def draw_mosaic(path: Path, mosaic: Path, title: str) -> None:
    """Draw a mosaic before and after correction with one stretch, each minus its median.

    Parameters
    ----------
    path
        The PNG to write.
    mosaic
        A mosaic's FITS file, with the images SCI and BEFORE.
    title
        What it is.
    """
    with fits.open(mosaic, mode="readonly", memmap=True) as hdus:
        header = hdus["SCI"].header
        step = max(1, -(-max(hdus["SCI"].shape) // MAX_SIDE))
        after, before = (block_mean(hdus[name].data, step) for name in ("SCI", "BEFORE"))
    wcs = WCS(header, naxis=2)[::step, ::step]
    images = {"before": before - np.nanmedian(before), "after": after - np.nanmedian(after)}
    norm = stretch(images["after"])
    # panels of the image's shape, abreast; a tall one gets less width
    scale = min(5.6 / after.shape[1], 7.0 / after.shape[0])
    width, height = max(1.5, scale * after.shape[1]), max(1.5, scale * after.shape[0])
    fig = style.figure(_LEFT + 2 * width + _BETWEEN + _RIGHT, _BELOW + height + _ABOVE)
    for number, (name, image) in enumerate(images.items()):
        left = _LEFT + number * (width + _BETWEEN)
        axes = style.axes_at(fig, left, _BELOW, width, height, projection=wcs)
        shown = axes.imshow(
            image, origin="lower", cmap=style.colour_map(style.IMAGE), norm=norm, interpolation="nearest"
        )
        axes.set_title(f"{style.short(title)}: {name}", fontsize=11)
        sky_axes(axes, labelled=number == 0)
    beside = style.axes_at(fig, left + width + 0.12, _BELOW, 0.15, height)
    bar = fig.colorbar(shown, cax=beside, extend="both", ticks=_ticks(norm))
    bar.ax.minorticks_off()
    bar.ax.yaxis.set_major_formatter("{x:g}")
    bar.set_label(f"{style.shown_unit(header.get('BUNIT', ''))}, minus the median")
    style.save(fig, path)


def stretch(image: NDArray[np.float64]) -> AsinhNorm:
    """Return a stretch that is linear about the sky and compresses what is bright."""
    values = image[np.isfinite(image)]
    low, quarter, half, high = np.percentile(values, [0.5, 16, 50, 99.5])
    width = max(float(half - quarter), 1e-6 * float(high - low), np.finfo(float).tiny)
    return AsinhNorm(linear_width=3 * width, vmin=low, vmax=high if high > low else low + 1)


def _ticks(norm: AsinhNorm) -> list[float]:
    """Return 0 and the decades on both sides that a stretch keeps apart, or even steps where those are too few."""
    low, high = float(norm.vmin or 0), float(norm.vmax or 0)
    first = math.ceil(math.log10(norm.linear_width))
    last = math.floor(math.log10(max(abs(low), abs(high), norm.linear_width)))
    decades = [10.0**power for power in range(first, last + 1)]
    ticks = [tick for tick in [0.0, *decades, *(-decade for decade in decades)] if low <= tick <= high]
    even = MaxNLocator(6).tick_values(low, high)
    return ticks if len(ticks) >= 4 else [float(tick) for tick in even if low <= tick <= high]


def sky_axes(axes: object, *, labelled: bool) -> None:
    """Label the axes of a panel on the sky; the declination of an unlabelled one is read from its neighbour."""
    ra, dec = axes.coords  # type: ignore[attr-defined]
    for coordinate, label in ((ra, "RA (ICRS)"), (dec, "Dec (ICRS)")):
        coordinate.set_axislabel(label)
        coordinate.set_ticks(number=5)
        coordinate.set_ticklabel(size=8, exclude_overlapping=True)
    if not labelled:
        dec.set_axislabel("")
        dec.set_ticklabel_visible(False)
