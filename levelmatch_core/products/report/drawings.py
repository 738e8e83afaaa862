"""What the report draws: a stage on the sky, its matrix, its seams, its convergence; and a field's corrections."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from levelmatch_core.matching.corrections import Correction, StageMatch, Status
from levelmatch_core.matching.results import PairResult
from levelmatch_core.products.figures import style
from levelmatch_core.products.report.svg import WIDTH, LogScale, Svg, colours
from levelmatch_core.sky.grid import Grid

MOST_PAIRS = 1500
"""Pairs in one drawing: beyond, those used that fit best are left out."""

_LEFT, _EDGE = 58.0, 10.0
"""Room for the numbers at an axis, and elsewhere."""


def pairs_of(stage: StageMatch) -> list[PairResult]:
    """Return all pairs of a stage."""
    return [pair for solution in stage.solutions for pair in solution.pairs]


def shown_pairs(stage: StageMatch) -> list[PairResult]:
    """Return the pairs that drawings show: all, or the rejected ones and those with the largest residuals."""
    worst = sorted(
        pairs_of(stage), key=lambda pair: (pair.rejected is None, -pair.residual_rms, pair.fit.first, pair.fit.second)
    )
    return worst[:MOST_PAIRS]


def pair_tip(pair: PairResult, unit: str) -> str:
    """Return a pair's numbers, as hovering shows them."""
    fit = pair.fit
    verdict = f"rejected: {pair.rejected.value}" if pair.rejected else "used, a bridge" if pair.bridge else "used"
    return (
        f"{fit.second}\n\N{MINUS SIGN} {fit.first}\n{verdict}; {fit.npix} pixels\n"
        f"before {style.number(fit.plane.level)} ± {style.number(fit.stderr)}, "
        f"after {style.number(pair.residual)} {style.shown_unit(unit)}\nrms of its pixels {style.number(fit.rms)}"
    )


# -- on the sky --------------------------------------------------------------------------------------------------------
def sky_graph(stage: StageMatch, grid: Grid, unit: str) -> Markup:
    """Draw the members' outlines and their pairs, coloured by what is left after the solve."""
    corners = np.concatenate([member.cutout.outline for member in stage.members])
    low, high = corners.min(axis=0), corners.max(axis=0)
    wide, tall = np.maximum(high - low, 1.0)
    scale = min((WIDTH - 2 * _EDGE) / wide, 520 / tall)
    width = scale * wide + 2 * _EDGE

    def place(x: float, y: float) -> tuple[float, float]:
        return (WIDTH - width) / 2 + _EDGE + scale * (x - low[0]), _EDGE + scale * (high[1] - y)

    pairs = shown_pairs(stage)
    drawing = Svg(scale * tall + 2 * _EDGE + 44, f"{stage.stage}: members and pairs on the sky")
    references = {component.reference for solution in stage.solutions for component in solution.components}
    centres = {}
    for member in stage.members:
        outline = np.array(member.cutout.outline)
        centres[member.name] = place(*outline.mean(axis=0).tolist())
        kind = "tile zero" if member.name in references else "tile"
        drawing.path([place(x, y) for x, y in (*outline, outline[0])], class_=kind)
    used = [pair for pair in pairs if pair.rejected is None]
    shades = dict(zip(map(id, used), _shades(used), strict=True))
    for pair in reversed(pairs):
        (x1, y1), (x2, y2) = centres[pair.fit.first], centres[pair.fit.second]
        ends: dict[str, Any] = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
        if pair.rejected is None:
            drawing.add("line", class_="pair", stroke=shades[id(pair)], **ends)
        else:
            drawing.add("line", class_="pair cut", **ends)
        drawing.add("line", class_="hit", tip=pair_tip(pair, unit), **ends)
    names = sorted(centres)
    for name, label in zip(names, style.distinct(names), strict=True):
        x, y = centres[name]
        held = name in references
        tip = f"{name}\nholds the zero of its component" if held else name
        drawing.add("circle", cx=x, cy=y, r=6 if held else 3.5, class_="node zero" if held else "node", tip=tip)
        if len(names) <= 20 or held:
            drawing.text(x, y - 9, label.replace(r"\$", "$"), text_anchor="middle", class_="label")
    _compass(drawing, grid, low, high)
    _legend(drawing, used, unit)
    return drawing.render()


def _limits(used: Sequence[PairResult]) -> tuple[float, float]:
    # what is left of a tree of pairs is rounding, which is not worth a colour
    floor = style.ROUNDING * max((abs(pair.fit.plane.level) for pair in used), default=0.0)
    values = [pair.residual_rms for pair in used if pair.residual_rms > floor]
    return (min(values), max(values)) if values else (0.0, 0.0)


def _shades(used: Sequence[PairResult]) -> list[str]:
    low, high = _limits(used)
    if not high > low:
        return colours(style.SEQUENCE, [0.0] * len(used))
    span = math.log(high / low)
    return colours(style.SEQUENCE, [math.log(max(pair.residual_rms, low) / low) / span * 0.92 for pair in used])


def _legend(drawing: Svg, used: Sequence[PairResult], unit: str) -> None:
    low, high = _limits(used)
    y = drawing.height - 30
    for step, shade in enumerate(colours(style.SEQUENCE, np.linspace(0, 0.92, 24).tolist())):
        drawing.add("rect", x=_EDGE + 6 * step, y=y, width=6.5, height=9, fill=shade)
    drawing.text(_EDGE, y + 24, style.number(low))
    drawing.text(_EDGE + 144, y + 24, f"{style.number(high)} {style.shown_unit(unit)}", text_anchor="middle")
    drawing.text(_EDGE + 152, y + 9, "rms of the difference left")
    drawing.add("line", class_="pair cut", x1=WIDTH - 128, x2=WIDTH - 100, y1=y + 5, y2=y + 5)
    drawing.text(WIDTH - 94, y + 9, "rejected")


def _compass(drawing: Svg, grid: Grid, low: NDArray[np.float64], high: NDArray[np.float64]) -> None:
    """Draw where north and east are, at the field's middle."""
    wcs = grid.wcs()
    x, y = (low + high) / 2
    ra, dec = (float(value) for value in wcs.wcs_pix2world(x, y, 0))
    step = grid.scale / 360
    east = step / max(math.cos(math.radians(dec)), 1e-6)
    bottom = drawing.height - 74
    for name, there in (("N", (ra, min(dec + step, 90.0))), ("E", (ra + east, dec))):
        dx, dy = np.array([float(value) for value in wcs.wcs_world2pix(*there, 0)]) - (x, y)
        length = math.hypot(dx, dy) or 1.0
        ux, uy = dx / length, -dy / length
        drawing.add("line", class_="compass", x1=WIDTH - 38, y1=bottom, x2=WIDTH - 38 + 18 * ux, y2=bottom + 18 * uy)
        drawing.text(WIDTH - 38 + 26 * ux, bottom + 4 + 26 * uy, name, text_anchor="middle")


# -- the matrix --------------------------------------------------------------------------------------------------------
def matrix(stage: StageMatch, unit: str, *, after: bool) -> Markup:
    """Draw the level of row minus column for every pair: before the solve, or what is left."""
    names = [member.name for solution in stage.solutions for member in solution.members]
    rank = {name: at for at, name in enumerate(names)}
    pairs = shown_pairs(stage)
    values = [pair.residual if after else pair.fit.plane.level for pair in pairs]
    largest = max((abs(pair.fit.plane.level) for pair in pairs), default=0.0)
    values = [value if abs(value) > style.ROUNDING * largest else 0.0 for value in values]
    limit = max((abs(v) for v, pair in zip(values, pairs, strict=True) if pair.rejected is None), default=0.0) or 1.0
    labelled = len(names) <= 24
    labels = style.distinct(names)
    margin = 8.0 + (7.4 * max(map(len, labels)) if labelled else 0.0)
    size = (WIDTH - margin - _EDGE) / max(len(names), 1)
    drawing = Svg(_EDGE + size * len(names) + 24, f"{stage.stage}: row minus column {'after' if after else 'before'}")
    drawing.add("rect", x=margin, y=_EDGE, width=size * len(names), height=size * len(names), class_="frame")
    for pair, value in zip(pairs, values, strict=True):
        first, second = rank[pair.fit.first], rank[pair.fit.second]
        for row, column, signed in ((second, first, value), (first, second, -value)):
            (shade,) = colours(style.DIFFERENCE, [0.5 + 0.5 * signed / limit])
            cell: dict[str, Any] = {"x": margin + size * column, "y": _EDGE + size * row, "width": size, "height": size}
            if pair.rejected is None:
                drawing.add("rect", fill=shade, class_="cell", tip=pair_tip(pair, unit), **cell)
            else:
                drawing.add("rect", class_="cell cut", tip=pair_tip(pair, unit), **cell)
    if labelled:
        for at, label in enumerate(labels):
            drawing.text(margin - 4, _EDGE + size * (at + 0.5) + 4, label.replace(r"\$", "$"), text_anchor="end")
    y = _EDGE + size * len(names) + 8
    for step, shade in enumerate(colours(style.DIFFERENCE, np.linspace(0, 1, 25).tolist())):
        drawing.add("rect", x=margin + 5 * step, y=y, width=5.5, height=8, fill=shade)
    drawing.text(margin + 132, y + 9, f"± {style.number(limit)} {style.shown_unit(unit)}")
    return drawing.render()


# -- seams and convergence ---------------------------------------------------------------------------------------------
def seams(stage: StageMatch, unit: str) -> Markup:
    """Draw every pair's difference before and after, and its expected error, by the difference before."""
    pairs = sorted(shown_pairs(stage), key=lambda pair: (pair.rejected is not None, -abs(pair.fit.plane.level)))
    largest = max((abs(pair.fit.plane.level) for pair in pairs), default=0.0) or 1.0
    errors = [pair.fit.stderr for pair in pairs if pair.fit.stderr > 0]
    floor = max(1e-6 * largest, min(errors, default=largest) / 100)
    drawing, scale = _logarithmic(f"{stage.stage}: differences before and after", floor, largest, unit)
    step = (WIDTH - _LEFT - 2 * _EDGE) / max(len(pairs), 1)
    radius = min(4.0, max(1.6, 0.4 * step))
    for at, pair in enumerate(pairs):
        x, tip = _LEFT + step * (at + 0.5), pair_tip(pair, unit)
        before, after = scale(abs(pair.fit.plane.level)), scale(abs(pair.residual))
        drawing.add("line", class_="stem", x1=x, x2=x, y1=before, y2=after)
        error = scale(pair.fit.stderr)
        drawing.add("line", class_="sigma", x1=x - radius, x2=x + radius, y1=error, y2=error)
        drawing.add("circle", class_="before", cx=x, cy=before, r=radius, tip=tip)
        drawing.add("circle", class_="lost" if pair.rejected else "after", cx=x, cy=after, r=radius, tip=tip)
    return drawing.render()


def convergence(stage: StageMatch, unit: str) -> Markup | None:
    """Draw the largest change of each sweep; None where the solve has no history."""
    stories = [story for solution in stage.solutions for story in solution.status.history if any(story.steps)]
    if not stories:
        return None
    steps = [value for story in stories for value in story.steps if value > 0]
    drawing, scale = _logarithmic(f"{stage.stage}: largest change of a sweep", min(steps), max(steps), unit)
    longest = math.log(max(len(story.steps) for story in stories) + 1)
    for story in stories:
        every = max(1, len(story.steps) // 300)
        points = [
            (_LEFT + (WIDTH - _LEFT - _EDGE) * math.log(sweep + 1) / longest, scale(value))
            for sweep, value in enumerate(story.steps)
            if value > 0 and sweep % every == 0
        ]
        drawing.path(points, class_="story", tip=f"{story.coefficient}: {len(story.steps)} sweeps")
    drawing.text(WIDTH - _EDGE, drawing.height - 4, "sweep (logarithmic)", text_anchor="end")
    return drawing.render()


def _logarithmic(label: str, low: float, high: float, unit: str) -> tuple[Svg, LogScale]:
    height = 230.0
    drawing = Svg(height, label)
    scale = LogScale(low, high, height - 26, 24)
    for tick in scale.ticks:
        drawing.add("line", class_="rule", x1=_LEFT, x2=WIDTH - _EDGE, y1=scale(tick), y2=scale(tick))
        drawing.text(_LEFT - 6, scale(tick) + 4, f"{tick:g}", text_anchor="end")
    drawing.text(4, 13, style.shown_unit(unit))
    return drawing, scale


# -- corrections -------------------------------------------------------------------------------------------------------
def corrections(found: Sequence[Correction], unit: str) -> Markup | None:
    """Draw every exposure's level with its error bar, and below it the error alone; None where nothing is corrected."""
    shown = [correction for correction in found if correction.status is not Status.FAILED]
    if not shown:
        return None
    levels = [correction.total.level for correction in shown]
    low, high = min(levels), max(levels)
    margin = 0.06 * (high - low) or 1.0
    low, high = low - margin, high + margin
    errors = [correction.sigma[0] for correction in shown]
    drawing = Svg(330, "corrections of the exposures")
    step = (WIDTH - _LEFT - 2 * _EDGE) / len(shown)
    radius = min(4.0, max(1.2, 0.4 * step))

    def place(value: float) -> float:
        return 190 - (value - low) / (high - low) * 166

    for tick in _even(low, high):
        drawing.add("line", class_="rule", x1=_LEFT, x2=WIDTH - _EDGE, y1=place(tick), y2=place(tick))
        drawing.text(_LEFT - 6, place(tick) + 4, f"{tick:g}", text_anchor="end")
    drawing.text(4, 13, f"level, {style.shown_unit(unit)}")
    drawing.text(4, 220, "its 1 sigma")
    largest = max(errors) or 1.0
    for tick in (0.0, largest):
        y = 312 - 80 * tick / largest
        drawing.add("line", class_="rule", x1=_LEFT, x2=WIDTH - _EDGE, y1=y, y2=y)
        drawing.text(_LEFT - 6, y + 4, f"{tick:.2g}", text_anchor="end")
    for at, (correction, level, error) in enumerate(zip(shown, levels, errors, strict=True)):
        x = _LEFT + step * (at + 0.5)
        tip = (
            f"{correction.exposure.name}\n{correction.status}, component {correction.component}\n"
            f"level {style.number(level)} ± {style.number(error)} {style.shown_unit(unit)}"
        )
        drawing.add("line", class_="bar", x1=x, x2=x, y1=place(level - error), y2=place(level + error))
        held = " zero" if correction.status is Status.REFERENCE else ""
        drawing.add("circle", class_="after" + held, cx=x, cy=place(level), r=radius, tip=tip)
        height = 80 * error / largest
        drawing.add("rect", class_="error", x=x - radius, y=312 - height, width=2 * radius, height=height, tip=tip)
    return drawing.render()


def _even(low: float, high: float) -> list[float]:
    """Return about five round numbers within limits."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]
