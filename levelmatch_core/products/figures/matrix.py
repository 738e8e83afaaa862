"""The matrix of pair differences, before and after."""

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
_ANNOTATED = 12


def draw_matrix(path: Path, stage: StageMatch, unit: str, title: str) -> None:
    """Draw, for each pair of a stage, the level of row minus column before and after the solve.

    Rejected pairs are hatched or dark grey; their values do not enter the colours.
    """
    names = [member.name for solution in stage.solutions for member in solution.members]
    pairs = [pair for solution in stage.solutions for pair in solution.pairs]
    rank = {name: at for at, name in enumerate(names)}
    side = float(np.clip(0.45 * len(names), 2.4, 6.5))
    fig = style.figure(2 * side + 3.8, side + 2.2)
    left, right = fig.subplots(1, 2)
    before = _filled(rank, pairs, [pair.fit.plane.level for pair in pairs])
    after = _filled(rank, pairs, [pair.residual for pair in pairs])
    # what is left of a tree of pairs is rounding, which is not worth a colour
    after[np.abs(after) < style.ROUNDING * np.nanmax(np.abs(before), initial=0.0)] = 0.0
    for axes, matrix, what in ((left, before, "before"), (right, after, "after")):
        _panel(fig, axes, matrix, rank, pairs, what=what, unit=unit)
        _name_axes(axes, names)
    right.set_yticklabels([])
    fig.suptitle(style.short(title, 90))
    style.save(fig, path)


def _filled(rank: dict[str, int], pairs: list[PairResult], values: list[float]) -> NDArray[np.float64]:
    """Return the antisymmetric matrix [second, first] of the used pairs, NaN elsewhere."""
    matrix = np.full((len(rank), len(rank)), np.nan)
    for pair, value in zip(pairs, values, strict=True):
        if pair.rejected is None:
            first, second = rank[pair.fit.first], rank[pair.fit.second]
            matrix[second, first], matrix[first, second] = value, -value
    return matrix


def _panel(
    fig: Figure,
    axes: Axes,
    matrix: NDArray[np.float64],
    rank: dict[str, int],
    pairs: list[PairResult],
    *,
    what: str,
    unit: str,
) -> None:
    limit = float(np.nanmax(np.abs(matrix), initial=0.0)) or 1.0
    factor, power = style.power_of_ten(limit)
    matrix, limit = matrix / factor, limit / factor
    image = axes.imshow(
        matrix, cmap=style.colour_map(style.DIFFERENCE), vmin=-limit, vmax=limit, interpolation="nearest"
    )
    bar = fig.colorbar(image, ax=axes, fraction=0.046, pad=0.02)
    bar.set_label(f"{what}: row \N{MINUS SIGN} column [{power}{style.shown_unit(unit)}]")
    rejected = [(rank[pair.fit.first], rank[pair.fit.second]) for pair in pairs if pair.rejected is not None]
    _mark_rejected(axes, rejected, len(rank))
    if len(rank) <= _ANNOTATED:
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


def _name_axes(axes: Axes, names: list[str]) -> None:
    step = max(1, -(-len(names) // style.MANY))
    ticks = list(range(0, len(names), step))
    every = style.distinct(names)
    labels = [every[at] for at in ticks]
    size = 8 if len(ticks) <= 20 else 5.5
    axes.set_xticks(ticks, labels, rotation=90, fontsize=size)
    axes.set_yticks(ticks, labels, fontsize=size)
