"""Members and their overlaps on the sky."""

from pathlib import Path

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm, Normalize

from levelmatch_core.matching.corrections import StageMatch
from levelmatch_core.matching.results import Member, PairResult
from levelmatch_core.products.figures import style
from levelmatch_core.products.figures.mosaic import sky_axes
from levelmatch_core.sky.grid import Grid


def draw_overlaps(path: Path, stage: StageMatch, grid: Grid, unit: str, title: str) -> None:
    """Draw the members' outlines, and a line for each pair: coloured by what is left after the solve, or rejected."""
    outlines = [np.array([*member.cutout.outline, member.cutout.outline[0]]) for member in stage.members]
    corners = np.concatenate(outlines)
    low, high = corners.min(axis=0), corners.max(axis=0)
    margin = 0.03 * (high - low).max() + 1
    wide, tall = high - low + 2 * margin
    height = float(np.clip(6.5 * tall / wide, 3.5, 8.0))
    fig = style.figure(8.0, height + 0.8)
    axes = fig.add_subplot(projection=grid.wcs())
    axes.set_xlim(low[0] - margin, high[0] + margin)
    axes.set_ylim(low[1] - margin, high[1] + margin)
    axes.set_aspect("equal")
    axes.add_collection(LineCollection(outlines, colors=style.REJECTED, linewidths=0.7))
    centres = {member.name: _centre(member) for member in stage.members}
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
        bar = fig.colorbar(lines, ax=axes, fraction=0.04, pad=0.02)
        bar.set_label(f"rms of the difference left [{style.shown_unit(unit)}]")
    note = f"{len(used)} pairs used, {len(rejected)} rejected (dashed)"
    axes.set_title(f"{style.short(title, 80)}\n{note}", fontsize=10)
    style.save(fig, path)


def _centre(member: Member) -> tuple[float, float]:
    x, y = np.mean(member.cutout.outline, axis=0)
    return float(x), float(y)


def _segments(
    pairs: list[PairResult], centres: dict[str, tuple[float, float]]
) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    return [(centres[pair.fit.first], centres[pair.fit.second]) for pair in pairs]


def _norm(used: list[PairResult]) -> Normalize:
    values = [pair.residual_rms for pair in used if pair.residual_rms > 0]
    if not values:
        return Normalize(0, 1)
    low, high = min(values), max(values)
    return LogNorm(max(low, 1e-4 * high), high) if high > 10 * low else Normalize(0, high)


def _mark_members(axes: object, stage: StageMatch, centres: dict[str, tuple[float, float]]) -> None:
    references = {component.reference for solution in stage.solutions for component in solution.components}
    names = sorted(centres)
    labels = dict(zip(names, style.distinct(names), strict=True))
    size = 7 if len(names) <= 20 else 5
    for name in names:
        x, y = centres[name]
        reference = name in references
        axes.plot(x, y, marker="*" if reference else "o", ms=12 if reference else 4, color="k", ls="")  # type: ignore[attr-defined]
        if len(names) <= style.MANY or reference:
            axes.annotate(  # type: ignore[attr-defined]
                labels[name], (x, y), (0, 5), textcoords="offset points", ha="center", fontsize=size
            )
