"""The mosaic before and after, and what was changed, side by side on the sky."""

import math
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.colors import AsinhNorm, Normalize
from matplotlib.ticker import MaxNLocator

from levelmatch_core.matching.corrections import FieldMatch
from levelmatch_core.products.drawings import style
from levelmatch_core.products.drawings.mosaic_views import views_of_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_SIDE = 700
"""Longest side of the images that are drawn, pixels, about that of the panels: larger ones are averaged in blocks."""
_LEFT, _BETWEEN, _BAR, _RIGHT, _BELOW, _ABOVE = 0.95, 0.2, 0.95, 0.95, 0.55, 0.35
"""Room for labels left of, between, right of (the colour bars), below and above the panels, inches."""


@style.own_look
def draw_mosaic(path: Path | BytesIO, mosaic: Path, title: str, match: FieldMatch | None = None) -> None:
    """Draw a mosaic before and after correction with one stretch, each minus its median, and their difference.

    Parameters
    ----------
    path
        The PNG to write, or a buffer for it.
    mosaic
        A mosaic's FITS file, with the images SCI and BEFORE.
    title
        What it is.
    match
        The field, whose members are outlined on the difference; None for no outlines.
    """
    views, wcs, given = views_of_file(mosaic, MAX_SIDE, match)
    ny, nx = views.after.shape
    # panels of the image's shape, abreast; a tall one gets less width
    scale = min(4.6 / nx, 6.2 / ny)
    width, height = max(1.5, scale * nx), max(1.5, scale * ny)
    fig = style.figure(_LEFT + 3 * width + _BETWEEN + _BAR + _RIGHT, _BELOW + height + _ABOVE)
    change = Normalize(-(views.limit or 1.0), views.limit or 1.0)
    panels = (
        ("before", views.before, views.norm, style.IMAGE, 0.0),
        ("after", views.after, views.norm, style.IMAGE, width + _BETWEEN),
        ("before \N{MINUS SIGN} after", views.change, change, style.DIFFERENCE, 2 * width + _BETWEEN + _BAR),
    )
    unit = style.shown_unit(given) if given else "the files' own unit (no BUNIT)"
    for number, (name, image, norm, colours, at) in enumerate(panels):
        axes = style.axes_at(fig, _LEFT + at, _BELOW, width, height, projection=wcs)
        shown = axes.imshow(image, origin="lower", cmap=style.colour_map(colours), norm=norm, interpolation="nearest")
        axes.set_title(f"{style.short(title, 24)}: {name}" if number == 0 else name, fontsize=11)
        sky_axes(axes, labelled=number == 0)
        if number == 1:
            bar = _bar(fig, shown, (_LEFT + at + width, height), f"{unit}, minus the median", _ticks(views.norm))
            bar.ax.yaxis.set_major_formatter("{x:g}")
    _outline(axes, views.outlines)
    if views.limit:
        _bar(fig, shown, (_LEFT + at + width, height), f"{unit}, minus the median", None)
    else:
        axes.text(0.5, 0.5, "no change", transform=axes.transAxes, ha="center", fontsize=11)
    style.save(fig, path)


def _bar(fig: "Figure", shown: Any, place: tuple[float, float], label: str, ticks: list[float] | None) -> Any:  # noqa: ANN401 - matplotlib's
    """Draw a colour bar right of a panel, whose right edge and height are given."""
    beside = style.axes_at(fig, place[0] + 0.1, _BELOW, 0.13, place[1])
    bar = fig.colorbar(shown, cax=beside, extend="both", ticks=ticks)
    bar.ax.minorticks_off()
    bar.ax.tick_params(labelsize=8)
    bar.set_label(label, fontsize=9)
    return bar


def _outline(axes: "Axes", outlines: tuple[tuple[tuple[float, float], ...], ...]) -> None:
    """Draw the outlines of the members: a seam is where one ends."""
    for outline in outlines:
        x, y = zip(*outline, outline[0], strict=True)
        axes.plot(x, y, color="black", linewidth=0.6, alpha=0.7, scalex=False, scaley=False)


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
