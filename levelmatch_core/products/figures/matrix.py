"""The matrices of a stage: the pairs' differences before and after, their pixels and their scatter."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from levelmatch_core.matching.corrections import StageMatch
from levelmatch_core.matching.results import PairResult
from levelmatch_core.products.figures import style

MAX_MEMBERS = 2000
"""A stage with more members has no matrix that could be drawn."""
_ANNOTATED = 8
"""Most members whose cells say their numbers."""
_RIGHT, _BELOW, _TITLE, _TOP = 1.25, 0.35, 0.3, 0.45
"""Room for a colour bar, for the label below, for a panel's title, and for the figure's; inches."""


@dataclass(frozen=True)
class _Panel:
    """One matrix and its colours."""

    title: str
    values: NDArray[np.float64]
    """NaN where there is no pair."""
    what: str
    """What the colour bar says before the unit."""
    unit: str
    signed: bool


def matrix_figure(stage: str) -> str:
    """Return what the figure of a stage's matrices is called, after its field."""
    return f"{stage}_delta"


def draw_matrix(path: Path, stage: StageMatch, unit: str, title: str) -> None:
    """Draw, for each pair of a stage, the level of row minus column before and after, its pixels and its scatter.

    Rejected pairs are hatched or dark grey where levels are shown, and do not enter the colours there.
    """
    names = [member.name for solution in stage.solutions for member in solution.members]
    pairs = [pair for solution in stage.solutions for pair in solution.pairs]
    rank = {name: at for at, name in enumerate(names)}
    used = [pair for pair in pairs if pair.rejected is None]
    before = _filled(rank, used, [pair.fit.plane.level for pair in used], turned=-1)
    after = _filled(rank, used, [pair.residual for pair in used], turned=-1)
    # what is left of a tree of pairs is rounding, which is not worth a colour
    after[np.abs(after) < style.ROUNDING * np.nanmax(np.abs(before), initial=0.0)] = 0.0
    unit, turned = style.shown_unit(unit), "row \N{MINUS SIGN} column "
    pixels, scatter = (_filled(rank, pairs, [getattr(pair.fit, of) for pair in pairs]) for of in ("npix", "rms"))
    panels = (
        _Panel("difference before", before, turned, unit, signed=True),
        _Panel("difference after", after, turned, unit, signed=True),
        _Panel("pixels in common", pixels, "", "pixels", signed=False),
        _Panel("scatter about the fit", scatter, "", unit, signed=False),
    )
    _draw(path, panels, names, [pair for pair in pairs if pair.rejected is not None], title)


def _draw(path: Path, panels: tuple[_Panel, ...], names: list[str], rejected: list[PairResult], title: str) -> None:
    step = max(1, -(-len(names) // style.MANY))
    ticks = range(0, len(names), step)
    labels = style.distinct(names)[::step]
    size = 8 if len(ticks) <= 20 else 5.5
    side = float(np.clip(0.3 * len(names), 2.2, 5.0))
    left = 0.25 + style.width_of(labels, size)
    across, up = side + _RIGHT, side + _TITLE + _BELOW
    fig = style.figure(left + 2 * across, 2 * up + _TOP)
    rank = {name: at for at, name in enumerate(names)}
    cells = [(rank[pair.fit.first], rank[pair.fit.second]) for pair in rejected]
    for number, panel in enumerate(panels):
        row, column = divmod(number, 2)
        axes = style.axes_at(fig, left + column * across, _BELOW + (1 - row) * up, side, side)
        _draw_panel(fig, axes, panel, (left + column * across + side + 0.08, _BELOW + (1 - row) * up, 0.12, side))
        if panel.signed:
            _mark_rejected(axes, cells, len(names))
        axes.set_yticks(ticks, labels if column == 0 else [], fontsize=size)
        axes.set_xticks(ticks, [])
        axes.set_xlabel("column: in the order of the rows", fontsize=8)
    fig.suptitle(style.short(title, 90), y=1 - 0.1 / fig.get_figheight(), va="top", fontsize=11)
    style.save(fig, path)


def _filled(rank: dict[str, int], pairs: list[PairResult], values: list[float], turned: int = 1) -> NDArray[np.float64]:
    """Return the matrix [second, first] of some pairs, NaN elsewhere; [first, second] is `turned` times that."""
    matrix = np.full((len(rank), len(rank)), np.nan)
    for pair, value in zip(pairs, values, strict=True):
        first, second = rank[pair.fit.first], rank[pair.fit.second]
        matrix[second, first], matrix[first, second] = value, turned * value
    return matrix


def _draw_panel(fig: Figure, axes: Axes, panel: _Panel, bar_at: tuple[float, float, float, float]) -> None:
    limit = float(np.nanmax(np.abs(panel.values), initial=0.0)) or 1.0
    factor, power = style.power_of_ten(limit)
    matrix, limit = panel.values / factor, limit / factor
    colours = style.colour_map(style.DIFFERENCE if panel.signed else style.SEQUENCE)
    image = axes.imshow(matrix, cmap=colours, vmin=-limit if panel.signed else 0.0, vmax=limit, interpolation="nearest")
    bar = fig.colorbar(image, cax=style.axes_at(fig, *bar_at))
    bar.set_label(f"{panel.what}[{power}{panel.unit}]", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    axes.set_title(panel.title, fontsize=10)
    if panel.signed and len(matrix) <= _ANNOTATED:
        for y, x in np.argwhere(np.isfinite(matrix)):
            dark = abs(matrix[y, x]) > 0.6 * limit
            axes.text(
                x, y, style.number(matrix[y, x] + 0.0), ha="center", va="center", fontsize=7, color="w" if dark else "k"
            )


def _mark_rejected(axes: Axes, rejected: list[tuple[int, int]], size: int) -> None:
    if size > style.MANY:
        cells = np.full((size, size), np.nan)
        for first, second in rejected:
            cells[first, second] = cells[second, first] = 0.0
        axes.imshow(np.ma.masked_invalid(cells), cmap=ListedColormap([style.REJECTED]), interpolation="nearest")
        return
    for first, second in rejected:
        for x, y in ((first, second), (second, first)):
            cell = Rectangle((x - 0.5, y - 0.5), 1, 1, fc=style.FAINT, ec=style.REJECTED, hatch="////", lw=0)
            axes.add_patch(cell)
