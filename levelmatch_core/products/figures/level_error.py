"""How sure the mosaic's levels are, on the sky."""

from io import BytesIO
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from levelmatch_core.products.drawings import style
from levelmatch_core.products.figures.mosaic import sky_axes
from levelmatch_core.products.level_error import IMAGE

_LEFT, _RIGHT, _BELOW, _ABOVE = 0.95, 1.15, 0.55, 0.35
"""Room for labels left of, right of (the colour bar), below and above the panel, inches."""


@style.own_look
def draw_level_error(path: Path | BytesIO, level_error: Path, title: str) -> None:
    """Draw the map of errors.

    Parameters
    ----------
    path
        The PNG to write, or a buffer for it.
    level_error
        The FITS file that :func:`levelmatch_core.products.level_error.write_level_error` wrote.
    title
        What it is of.
    """
    with fits.open(level_error, mode="readonly", memmap=False) as hdus:
        header, levels = hdus[IMAGE].header, hdus[IMAGE].data
    scale = min(5.6 / levels.shape[1], 7.0 / levels.shape[0])
    width, height = max(1.5, scale * levels.shape[1]), max(1.5, scale * levels.shape[0])
    fig = style.figure(_LEFT + width + _RIGHT, _BELOW + height + _ABOVE)
    axes = style.axes_at(fig, _LEFT, _BELOW, width, height, projection=WCS(header, naxis=2))
    factor, power = style.power_of_ten(float(np.nanmax(levels, initial=0.0)) or 1.0)
    shown = axes.imshow(
        levels / factor,
        origin="lower",
        cmap=style.colour_map(style.SEQUENCE),
        vmin=0,
        interpolation="nearest",
    )
    axes.set_title(f"{style.short(title)}: 1 sigma of the level", fontsize=11)
    sky_axes(axes, labelled=True)
    bar = fig.colorbar(shown, cax=style.axes_at(fig, _LEFT + width + 0.12, _BELOW, 0.15, height))
    bar.ax.yaxis.set_major_formatter("{x:g}")
    bar.set_label(f"1 sigma, relative to the zero ({power}{style.shown_unit(header.get('BUNIT', ''))})")
    style.save(fig, path)
