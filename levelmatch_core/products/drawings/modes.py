"""The weakest modes: patterns of corrections that the overlaps hardly see, as large as they may be at 1 sigma."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from levelmatch_core.matching.corrections import StageMatch
from levelmatch_core.matching.results import Solution, WeakMode
from levelmatch_core.products.drawings import style
from levelmatch_core.products.drawings.pairs import references_of
from levelmatch_core.products.drawings.svg import WIDTH, Svg, colours

CELL = 0.94
"""Side of a member's cell over the distance to its nearest neighbour: cells stay apart, whatever overlaps."""

MOST_MEMBERS = 2000
"""A stage with more members is not drawn: each is a shape of its own."""

_EDGE, _GAP, _TALLEST = 6.0, 12.0, 260.0


@dataclass(frozen=True)
class ModePattern:
    """The modes of one rank: each component's weakest, second weakest and so on, which have nothing in common."""

    levels: Mapping[str, float]
    """Member -> level of the mode at 1 sigma, data unit."""
    largest: WeakMode
    """That of the component with most members."""
    components: int
    """How many have a mode of this rank."""


def patterns(solutions: Sequence[Solution]) -> list[ModePattern]:
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
        found.append(ModePattern(levels=levels, largest=largest, components=len(entries)))
    return found


def modes(stage: StageMatch, unit: str) -> Svg | None:
    """Draw each of the weakest modes, members coloured by their levels at 1 sigma; None where there is none."""
    found = patterns(stage.solutions)
    if not found or len(stage.members) > MOST_MEMBERS:
        return None
    outlines = {member.name: np.array(member.cutout.outline) for member in stage.members}
    corners = np.concatenate(list(outlines.values()))
    low, high = corners.min(axis=0), corners.max(axis=0)
    wide, tall = np.maximum(high - low, 1.0)
    across = (WIDTH - 2 * _EDGE - _GAP * (len(found) - 1)) / len(found)
    scale = min(across / wide, _TALLEST / tall)
    drawing = Svg(scale * tall + 2 * _EDGE + 36, f"{stage.stage}: weakest modes")
    references = references_of(stage)
    limit = max(abs(level) for pattern in found for level in pattern.levels.values()) or 1.0
    cells = cells_of(outlines)
    for number, pattern in enumerate(found):
        left = _EDGE + number * (across + _GAP) + (across - scale * wide) / 2
        shades = colours(style.DIFFERENCE, [0.5 + 0.5 * level / limit for level in pattern.levels.values()])
        for (name, level), shade in zip(pattern.levels.items(), shades, strict=True):
            points = [(left + scale * (x - low[0]), _EDGE + scale * (high[1] - y)) for x, y in cells[name].tolist()]
            tip = f"{name}\n{style.number(level)} {style.shown_unit(unit)} at 1 sigma\n{mode_words(pattern, unit)}"
            edge = ("#000", 1.2) if name in references else ("#8c8c8c", 0.4)
            drawing.path([*points, points[0]], fill=shade, class_="cell", stroke=edge[0], stroke_width=edge[1], tip=tip)
    y = drawing.height - 26
    drawing.colour_bar(_EDGE, y, style.DIFFERENCE, width=125)
    drawing.text(_EDGE + 132, y + 9, f"± {style.number(limit)} {style.shown_unit(unit)}")
    return drawing


def mode_lines(stage: StageMatch, unit: str) -> tuple[str, ...]:
    """Say how far the weakest modes may be off."""
    found = patterns(stage.solutions)
    if not found:
        return ()
    weakest = mode_words(found[0], unit).replace("\n", ", ")
    more = "; ".join(mode_words(pattern, unit).replace("\n", ", ") for pattern in found[1:])
    return (
        f"The pattern of corrections that the overlaps see least may be off by {weakest}"
        + (f"; the next: {more}." if more else "."),
    )


def mode_words(pattern: ModePattern, unit: str) -> str:
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
