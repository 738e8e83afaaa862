"""The weakest modes in the page: patterns of corrections that the overlaps hardly see."""

import numpy as np
from markupsafe import Markup

from levelmatch_core.matching.corrections import StageMatch
from levelmatch_core.products.figures import style
from levelmatch_core.products.figures.modes import cells_of, patterns, told
from levelmatch_core.products.report.svg import WIDTH, Svg, colours

MOST_MEMBERS = 2000
"""A stage with more members is not drawn in the page: each is a shape of its own."""

_EDGE, _GAP, _TALLEST = 6.0, 12.0, 260.0


def modes(stage: StageMatch, unit: str) -> Markup | None:
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
    limit = max(abs(level) for pattern in found for level in pattern.levels.values()) or 1.0
    cells = cells_of(outlines)
    for number, pattern in enumerate(found):
        left = _EDGE + number * (across + _GAP) + (across - scale * wide) / 2
        shades = colours(style.DIFFERENCE, [0.5 + 0.5 * level / limit for level in pattern.levels.values()])
        for (name, level), shade in zip(pattern.levels.items(), shades, strict=True):
            points = [(left + scale * (x - low[0]), _EDGE + scale * (high[1] - y)) for x, y in cells[name].tolist()]
            tip = f"{name}\n{style.number(level)} {style.shown_unit(unit)} at 1 sigma\n{told(pattern, unit)}"
            drawing.path([*points, points[0]], fill=shade, class_="cell", stroke="#8c8c8c", stroke_width=0.4, tip=tip)
    y = drawing.height - 26
    for step, shade in enumerate(colours(style.DIFFERENCE, np.linspace(0, 1, 25).tolist())):
        drawing.add("rect", x=_EDGE + 5 * step, y=y, width=5.5, height=8, fill=shade)
    drawing.text(_EDGE + 132, y + 9, f"± {style.number(limit)} {style.shown_unit(unit)}")
    return drawing.render()


def mode_lines(stage: StageMatch, unit: str) -> tuple[str, ...]:
    """Say how far the weakest modes may be off."""
    found = patterns(stage.solutions)
    if not found:
        return ()
    weakest = told(found[0], unit).replace("\n", ", ")
    more = "; ".join(told(pattern, unit).replace("\n", ", ") for pattern in found[1:])
    return (
        f"The pattern of corrections that the overlaps see least may be off by {weakest}"
        + (f"; the next: {more}." if more else "."),
    )
