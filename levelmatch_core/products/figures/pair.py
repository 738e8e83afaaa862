"""One pair: its difference image, and what was fitted to it."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from levelmatch_core.matching.overlap import Difference
from levelmatch_core.matching.results import PairResult, Solution
from levelmatch_core.products.figures import style


def draw_pair(
    path: Path, solution: Solution, pair: PairResult, image: Difference, *, unit: str, max_points: int
) -> None:
    """Draw a pair's difference with its histogram (level), or with the plane and what the plane leaves.

    Parameters
    ----------
    path
        The PNG to write.
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
    ny, nx = difference.shape
    planes = solution.fit_type == "level+slope"
    panels = 3 if planes else 2
    height = float(np.clip(3.8 * ny / nx, 2.6, 6.0))
    fig = style.figure(4.4 * panels, height + 1.0)
    axes = fig.subplots(1, panels)
    extent = (image.x0 - 0.5, image.x0 + nx - 0.5, image.y0 - 0.5, image.y0 + ny - 0.5)
    spread = 4 * pair.fit.rms or 1.0
    if planes:
        y, x = np.mgrid[image.y0 : image.y0 + ny, image.x0 : image.x0 + nx]
        plane = np.where(np.isfinite(difference), pair.fit.plane(x, y), np.nan)
        reach = spread + float(np.nanmax(np.abs(plane - pair.fit.plane.level))) if np.isfinite(plane).any() else spread
        about = (pair.fit.plane.level - reach, pair.fit.plane.level + reach)
        _image(fig, axes[0], difference, about, extent=extent, title="second \N{MINUS SIGN} first", unit=unit)
        _image(fig, axes[1], plane, about, extent=extent, title="fitted plane", unit=unit)
        _image(fig, axes[2], difference - plane, (-spread, spread), extent=extent, title="what it leaves", unit=unit)
    else:
        about = (pair.fit.plane.level - spread, pair.fit.plane.level + spread)
        _image(fig, axes[0], difference, about, extent=extent, title="second \N{MINUS SIGN} first", unit=unit)
        _histogram(axes[1], difference, pair, unit, max_points)
    fig.suptitle(_title(solution, pair, unit), fontsize=9)
    style.save(fig, path)


def _image(
    fig: Figure,
    axes: Axes,
    values: NDArray[np.float64],
    limits: tuple[float, float],
    *,
    extent: tuple[float, float, float, float],
    title: str,
    unit: str,
) -> None:
    shown = axes.imshow(
        values,
        origin="lower",
        extent=extent,
        cmap=style.colour_map(style.DIFFERENCE),
        vmin=limits[0],
        vmax=limits[1],
        interpolation="nearest",
    )
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("grid x [pixel]")
    axes.set_ylabel("grid y [pixel]")
    axes.tick_params(labelsize=8)
    axes.locator_params(nbins=5)
    fig.colorbar(shown, ax=axes, extend="both", fraction=0.05, pad=0.02).set_label(style.shown_unit(unit))


def _histogram(axes: Axes, difference: NDArray[np.float64], pair: PairResult, unit: str, max_points: int) -> None:
    values = difference[np.isfinite(difference)]
    every = max(1, -(-values.size // max_points))
    level, spread = pair.fit.plane.level, 6 * pair.fit.rms or 1.0
    axes.hist(
        np.clip(values[::every], level - spread, level + spread),
        bins=60,
        range=(level - spread, level + spread),
        color=style.AFTER,
    )
    axes.axvline(level, color=style.BEFORE, label=f"level {style.number(level)}")
    axes.axvline(0, color="k", ls=":", lw=1)
    axes.set_xlim(level - spread, level + spread)
    axes.set_xlabel(f"second \N{MINUS SIGN} first [{style.shown_unit(unit)}]")
    axes.set_ylabel("pixels" if every == 1 else f"pixels (one in {every})")
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
