"""One pair: its difference image, and what was fitted to it."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from levelmatch_core.matching.measure.pair_fit import Difference
from levelmatch_core.matching.results import PairResult, Solution
from levelmatch_core.products.drawings import style


@style.own_look
def draw_pair(
    path: Path | BytesIO, solution: Solution, pair: PairResult, image: Difference, *, unit: str, max_points: int
) -> None:
    """Draw a pair's difference with its histogram (level), or with the plane and what the plane leaves.

    Parameters
    ----------
    path
        The PNG to write, or a buffer for it.
    solution
        What the pair is of.
    pair
        Its fit and verdict.
    image
        Its difference, as it was before the stage's solve.
    unit
        Of the data.
    max_points
        Most pixels in a histogram.
    """
    difference = np.asarray(image.data, dtype=float)
    fit, spread = pair.fit, 4 * (pair.fit.rms or 1.0)
    level = fit.plane.level
    first = "second \N{MINUS SIGN} first"
    if solution.fit_type == "level+slope":
        ny, nx = difference.shape
        y, x = np.mgrid[image.y0 : image.y0 + ny, image.x0 : image.x0 + nx]
        plane = np.where(np.isfinite(difference), fit.plane(x, y), np.nan)
        reach = spread + float(np.nanmax(np.abs(plane - level), initial=0.0))
        images = [
            _Image(first, difference, level - reach, level + reach),
            _Image("fitted plane", plane, level - reach, level + reach),
            _Image("what it leaves", difference - plane, -spread, spread),
        ]
    else:
        images = [_Image(first, difference, level - spread, level + spread)]
    histogram = len(images) == 1
    fig, slots = _arranged(difference.shape, len(images), histogram=histogram)
    for panel, slot in zip(images, slots, strict=False):
        _draw_image(fig, slot, panel, image, unit)
    if histogram:
        _histogram(style.axes_at(fig, *slots[-1]), difference, pair, unit, max_points)
    fig.suptitle(_title(solution, pair, unit), fontsize=9, y=1 - 0.08 / fig.get_figheight(), va="top")
    style.save(fig, path)


@dataclass(frozen=True)
class _Image:
    """An image and its colours' limits."""

    title: str
    values: NDArray[np.float64]
    low: float
    high: float


_Slot = tuple[float, float, float, float]
"""Left, bottom, width, height, inches."""

_LEFT, _RIGHT, _BOTTOM, _GAP, _TOP = 0.75, 1.15, 0.5, 0.3, 0.85
"""Room for labels at the left, the colour bar at the right, labels below, a panel's title, and the figure's."""


def _arranged(shape: tuple[int, ...], images: int, *, histogram: bool) -> tuple[Figure, list[_Slot]]:
    """Return a figure with room for panels of about the image's shape: below each other if it is wide, else abreast."""
    ny, nx = shape
    if nx > 1.5 * ny:
        width = 6.0
        heights = [float(np.clip(width * ny / nx, 1.0, 3.5))] * images + [2.4] * histogram
        fig = style.figure(_LEFT + width + _RIGHT, sum(heights) + (_BOTTOM + _GAP) * len(heights) + _TOP)
        ends = np.cumsum([height + _BOTTOM + _GAP for height in heights])
        top = fig.get_figheight() - _TOP
        return fig, [
            (_LEFT, float(top - end + _BOTTOM), width, height) for end, height in zip(ends, heights, strict=True)
        ]
    height = 4.5
    widths = [float(np.clip(height * nx / ny, 1.0, 4.5))] * images + [3.6] * histogram
    fig = style.figure(sum(widths) + (_LEFT + _RIGHT) * len(widths), height + _BOTTOM + _GAP + _TOP)
    starts = np.cumsum([_LEFT, *(width + _LEFT + _RIGHT for width in widths[:-1])])
    return fig, [(float(start), _BOTTOM, width, height) for start, width in zip(starts, widths, strict=True)]


def _draw_image(fig: Figure, slot: _Slot, panel: _Image, image: Difference, unit: str) -> None:
    axes = style.axes_at(fig, *slot)
    ny, nx = panel.values.shape
    shown = axes.imshow(
        panel.values,
        origin="lower",
        extent=(image.x0 - 0.5, image.x0 + nx - 0.5, image.y0 - 0.5, image.y0 + ny - 0.5),
        aspect="auto",
        cmap=style.colour_map(style.DIFFERENCE),
        vmin=panel.low,
        vmax=panel.high,
        interpolation="nearest",
    )
    axes.set_title(panel.title, fontsize=10)
    axes.set_xlabel("grid x [pixel]", fontsize=9)
    axes.set_ylabel("grid y [pixel]", fontsize=9)
    axes.tick_params(labelsize=8)
    left, bottom, width, height = slot
    axes.locator_params(axis="x", nbins=6 if width > 3 else 2)
    axes.locator_params(axis="y", nbins=6 if height > 2 else 3)
    bar = fig.colorbar(shown, cax=style.axes_at(fig, left + width + 0.1, bottom, 0.14, height), extend="both")
    bar.set_label(style.shown_unit(unit), fontsize=9)
    bar.locator = MaxNLocator(6 if height > 2 else 3)
    bar.ax.tick_params(labelsize=8)


def _histogram(axes: Axes, difference: NDArray[np.float64], pair: PairResult, unit: str, max_points: int) -> None:
    values = difference[np.isfinite(difference)]
    every = max(1, -(-values.size // max_points))
    level, spread = pair.fit.plane.level, 6 * (pair.fit.rms or 1.0)
    # one outline, and not sixty bars, each of which matplotlib would lay out by itself
    counts, edges = np.histogram(values[::every], bins=60, range=(level - spread, level + spread))
    axes.stairs(counts, edges, fill=True, color=style.AFTER)
    outside = np.count_nonzero(np.abs(values - level) > spread) / max(values.size, 1)
    axes.axvline(level, color=style.BEFORE, label=f"level {style.number(level)}\n{100 * outside:.2g} % lie outside")
    axes.set_xlim(level - spread, level + spread)
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel(f"second \N{MINUS SIGN} first [{style.shown_unit(unit)}]")
    axes.set_ylabel("pixels" if every == 1 else f"pixels (one in {every})")
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=8)
    style.grid_lines(axes)


def _title(solution: Solution, pair: PairResult, unit: str) -> str:
    fit = pair.fit
    verdict = f"rejected: {pair.rejected.value}" if pair.rejected else f"used, residual {style.number(pair.residual)}"
    numbers = (
        f"{fit.npix} pixels, level {style.number(fit.plane.level)} ± {style.number(fit.stderr)}, "
        f"rms {style.number(fit.rms)} {style.shown_unit(unit)}"
    )
    return (
        f"{solution.stage.replace('_', ' ')}, {style.short(solution.group, 60)}: {verdict}\n"
        f"first {style.short(fit.first, 60)}\nsecond {style.short(fit.second, 60)}\n{numbers}"
    )
