"""The weakest modes: patterns of corrections that the overlaps hardly see, drawn as far as they may be off."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import CenteredNorm, Normalize
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from levelmatch_core.matching.corrections import StageMatch
from levelmatch_core.matching.results import Solution, WeakMode
from levelmatch_core.products.figures import style
from levelmatch_core.products.figures.mosaic import sky_axes
from levelmatch_core.sky.grid import Grid

CELL = 0.94
"""Side of a member's cell over the distance to its nearest neighbour: cells stay apart, whatever overlaps."""


_LEFT, _BETWEEN, _RIGHT, _BELOW, _ABOVE, _TITLE = 0.95, 0.3, 1.1, 0.6, 0.45, 0.35
"""Room left of, between, right of (the colour bar), below and above the panels, and for the figure's title; inches."""
NUMBERED = 36
"""Most members whose cells say their numbers, too."""


@dataclass(frozen=True)
class Pattern:
    """The modes of one rank: each component's weakest, second weakest and so on, which have nothing in common."""

    levels: Mapping[str, float]
    """Member -> level of the mode at 1 sigma, data unit."""
    largest: WeakMode
    """That of the component with most members."""
    components: int
    """How many have a mode of this rank."""


def patterns(solutions: Sequence[Solution]) -> list[Pattern]:
    """Return the modes of a stage, weakest first.

    Parameters
    ----------
    solutions
        Of the stage's groups.
    """
    ranked: list[list[tuple[WeakMode, tuple[str, ...]]]] = []
    for solution in solutions:
        seen = [0] * len(solution.components)
        for mode in solution.status.modes:
            rank = seen[mode.component]
            seen[mode.component] += 1
            if rank == len(ranked):
                ranked.append([])
            ranked[rank].append((mode, solution.components[mode.component].members))
    found = []
    for entries in ranked:
        levels = {
            name: mode.sigma * value for mode, names in entries for name, value in zip(names, mode.pattern, strict=True)
        }
        largest = max(entries, key=lambda entry: len(entry[1]))[0]
        found.append(Pattern(levels=levels, largest=largest, components=len(entries)))
    return found


def draw_modes(path: Path, stage: StageMatch, grid: Grid, unit: str, title: str) -> None:
    """Draw each of the weakest modes over the stage's members: colours are their levels at 1 sigma.

    Members that hold a zero have a black edge.

    Parameters
    ----------
    path
        The PNG to write.
    stage
        A stage of which a solution has modes.
    grid
        Of the field.
    unit
        Of the data.
    title
        What it is.
    """
    found = patterns(stage.solutions)
    outlines = {member.name: np.array(member.cutout.outline) for member in stage.members}
    corners = np.concatenate(list(outlines.values()))
    origin = np.floor(corners.min(axis=0)).astype(int)
    outlines = {name: outline - origin for name, outline in outlines.items()}
    low, high = corners.min(axis=0) - origin, corners.max(axis=0) - origin
    margin = 0.03 * (high - low).max() + 1
    wide, tall = high - low + 2 * margin
    limit = max(abs(level) for pattern in found for level in pattern.levels.values())
    unit_size, power = style.power_of_ten(limit)
    norm = CenteredNorm(0, limit / unit_size or 1.0)
    abreast = tall > 0.5 * wide  # strips are below each other
    scale = min((3.6 if abreast else 8.0) / wide, 6.0 / tall)
    width, height = max(1.5, float(scale * wide)), max(0.6, float(scale * tall))
    across, down = (len(found), 1) if abreast else (1, len(found))
    step_x, step_y = width + _BETWEEN, height + _ABOVE + 0.1
    fig = style.figure(
        _LEFT + across * step_x - _BETWEEN + _RIGHT, _BELOW + (down - 1) * step_y + height + _ABOVE + _TITLE
    )
    cells = cells_of(outlines)
    held = {component.reference for solution in stage.solutions for component in solution.components}
    wcs = grid.wcs(int(origin[0]), int(origin[1]))
    for number, pattern in enumerate(found):
        column, row = (number, 0) if abreast else (0, len(found) - 1 - number)
        axes = style.axes_at(fig, _LEFT + column * step_x, _BELOW + row * step_y, width, height, projection=wcs)
        axes.set_xlim(low[0] - margin, high[0] + margin)
        axes.set_ylim(low[1] - margin, high[1] + margin)
        axes.set_aspect("equal")
        _fill(axes, outlines, cells, {name: level / unit_size for name, level in pattern.levels.items()}, norm)
        zero = [cells[name] for name in pattern.levels if name in held]
        axes.add_collection(PolyCollection(zero, facecolors="none", edgecolors="k", linewidths=1.4))
        sky_axes(axes, labelled=column == 0)
        _keep_to_edges(axes, below=row == 0)
        axes.set_title(f"{_ordinal(number + 1)}: {told(pattern, unit)}", fontsize=9)
    beside = style.axes_at(fig, _LEFT + across * step_x - _BETWEEN + 0.12, _BELOW, 0.15, max(height, 1.5))
    bar = fig.colorbar(ScalarMappable(norm, style.colour_map(style.DIFFERENCE)), cax=beside)
    bar.set_label(f"level at 1 sigma [{power}{style.shown_unit(unit)}]", fontsize=9)
    fig.suptitle(
        f"{style.short(title, 60)}: what the overlaps hardly see",
        y=1 - 0.1 / fig.get_figheight(),
        va="top",
        fontsize=11,
    )
    style.save(fig, path)


def told(pattern: Pattern, unit: str) -> str:
    """Return a mode's numbers in words, those of the component with most members where there are several."""
    others = f", of the largest of {pattern.components} components" if pattern.components > 1 else ""
    mode = pattern.largest
    shown = f"{style.number(mode.sigma)} {style.shown_unit(unit)}"
    return f"{shown} rms at 1 sigma\n{mode.share:.0%} of the levels' variance{others}"


def cells_of(outlines: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """Return the outlines shrunk about their middles, so that hardly one hides another."""
    boxes = np.array([(outline.min(axis=0), outline.max(axis=0)) for outline in outlines.values()])
    centres = boxes.mean(axis=1)
    part = CELL
    if len(centres) > 1:
        sides = np.median(boxes[:, 1] - boxes[:, 0], axis=0)
        # boxes are apart where they are apart along either axis: the largest of the two distances counts
        nearest = cKDTree(centres / sides).query(centres / sides, k=2, p=np.inf)[0][:, 1]
        part = CELL * float(np.clip(np.median(nearest), 0.05, 1.0))
    return {
        name: centre + part * (outline - centre)
        for (name, outline), centre in zip(outlines.items(), centres, strict=True)
    }


def _fill(
    axes: Axes,
    outlines: Mapping[str, NDArray[np.float64]],
    cells: Mapping[str, NDArray[np.float64]],
    levels: Mapping[str, float],
    norm: Normalize,
) -> None:
    edges = list(outlines.values())
    axes.add_collection(PolyCollection(edges, facecolors="none", edgecolors=style.FAINT, linewidths=0.5))
    names = list(levels)
    filled = PolyCollection(
        [cells[name] for name in names],
        cmap=style.colour_map(style.DIFFERENCE),
        norm=norm,
        edgecolors=style.REJECTED,
        linewidths=0.3,
    )
    filled.set_array(np.array([levels[name] for name in names]))
    axes.add_collection(filled)
    if len(names) <= NUMBERED:
        for name in names:
            shade = "w" if abs(levels[name]) > 0.6 * float(norm.vmax or 1.0) else "k"
            words = style.number(round(levels[name], 3) or 0.0)
            axes.annotate(words, cells[name].mean(axis=0), color=shade, fontsize=7, ha="center", va="center")


def _keep_to_edges(axes: Axes, *, below: bool) -> None:
    """Let right ascensions stand below the lowest panel alone, and declinations at the left: titles are above."""
    for coordinate, edge in zip(axes.coords, "bl", strict=True):  # type: ignore[attr-defined]
        coordinate.set_ticks_position(edge)
        coordinate.set_ticklabel_position(edge)
        coordinate.set_axislabel_position(edge)
    if not below:
        axes.coords[0].set_ticklabel_visible(False)  # type: ignore[attr-defined]
        axes.coords[0].set_axislabel("")  # type: ignore[attr-defined]


def _ordinal(number: int) -> str:
    return {1: "weakest", 2: "second", 3: "third"}.get(number, f"{number}th")
