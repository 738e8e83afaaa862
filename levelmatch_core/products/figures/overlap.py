"""Members and their overlaps on the sky."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm, Normalize
from numpy.typing import NDArray

from levelmatch_core.matching.corrections import StageMatch
from levelmatch_core.matching.results import PairResult
from levelmatch_core.products.figures import style
from levelmatch_core.products.figures.mosaic import sky_axes
from levelmatch_core.sky.grid import Grid


def draw_overlaps(path: Path, stage: StageMatch, grid: Grid, unit: str, title: str) -> None:
    """Draw the members' outlines, and a line for each pair: coloured by what is left after the solve, or rejected."""
    corners = np.concatenate([member.cutout.outline for member in stage.members])
    # counted from a near pixel: axes that are far from their origin spoil the layout
    origin = np.floor(corners.min(axis=0)).astype(int)
    outlines = [np.array([*member.cutout.outline, member.cutout.outline[0]]) - origin for member in stage.members]
    corners = corners - origin
    low, high = corners.min(axis=0), corners.max(axis=0)
    margin = 0.03 * (high - low).max() + 1
    wide, tall = high - low + 2 * margin
    scale = min(5.8 / wide, 8.0 / tall)
    width, height = max(1.5, float(scale * wide)), max(1.5, float(scale * tall))
    fig = style.figure(0.95 + width + 1.2, 0.55 + height + 0.6)
    axes = style.axes_at(fig, 0.95, 0.55, width, height, projection=grid.wcs(int(origin[0]), int(origin[1])))
    axes.set_xlim(low[0] - margin, high[0] + margin)
    axes.set_ylim(low[1] - margin, high[1] + margin)
    axes.set_aspect("equal")
    axes.add_collection(LineCollection(outlines, colors=style.REJECTED, linewidths=0.7))
    centres = {member.name: _centre(outline) for member, outline in zip(stage.members, outlines, strict=True)}
    pairs = [pair for solution in stage.solutions for pair in solution.pairs]
    used = [pair for pair in pairs if pair.rejected is None]
    lines = LineCollection(
        _segments(used, centres), cmap=style.colour_map(style.SEQUENCE), norm=_norm(used), linewidths=2.5
    )
    lines.set_array(np.array([pair.residual_rms for pair in used]))
    axes.add_collection(lines)
    rejected = _segments([pair for pair in pairs if pair.rejected is not None], centres)
    axes.add_collection(LineCollection(rejected, colors=style.BEFORE, linewidths=1.0, linestyles="dashed"))
    _mark_members(axes, stage, centres)
    sky_axes(axes, labelled=True)
    if used:
        bar = fig.colorbar(lines, cax=style.axes_at(fig, 0.95 + width + 0.12, 0.55, 0.15, height))
        bar.set_label(f"rms of the difference left [{style.shown_unit(unit)}]")
    note = f"pairs: {len(used)} used, {len(rejected)} rejected (dashed)"
    axes.set_title(f"{style.short(title, 60)}\n{note}", fontsize=10)
    style.save(fig, path)


def _centre(outline: NDArray[np.float64]) -> tuple[float, float]:
    """Return the middle of a closed outline's corners."""
    x, y = np.mean(outline[:-1], axis=0)
    return float(x), float(y)


def _segments(
    pairs: list[PairResult], centres: dict[str, tuple[float, float]]
) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    return [(centres[pair.fit.first], centres[pair.fit.second]) for pair in pairs]


def _norm(used: list[PairResult]) -> Normalize:
    # what is left of a tree of pairs is rounding, which is not worth a colour
    floor = style.ROUNDING * max((abs(pair.fit.plane.level) for pair in used), default=0.0)
    values = [pair.residual_rms for pair in used if pair.residual_rms > floor]
    if not values:
        return Normalize(0, floor or 1)
    low, high = min(values), max(values)
    return LogNorm(max(low, 1e-4 * high), high) if high > 10 * low else Normalize(0, high)


def _mark_members(axes: Axes, stage: StageMatch, centres: dict[str, tuple[float, float]]) -> None:
    references = {component.reference for solution in stage.solutions for component in solution.components}
    names = sorted(centres)
    labels = dict(zip(names, style.distinct(names), strict=True))
    size = 7 if len(names) <= 20 else 5
    others = [centres[name] for name in names if name not in references]
    held = [centres[name] for name in names if name in references]
    for points, marker, marker_size in ((others, "o", 4 if len(names) <= style.MANY else 2), (held, "*", 12)):
        if points:
            axes.plot(*zip(*points, strict=True), marker=marker, ms=marker_size, color="k", ls="")
    for name in names:
        if len(names) <= style.MANY or name in references:
            axes.annotate(labels[name], centres[name], (0, 5), textcoords="offset points", ha="center", fontsize=size)
