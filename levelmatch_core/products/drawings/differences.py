"""Every pair's difference before and after the solve, and how an iterative solve got there."""

import math

from levelmatch_core.matching.corrections import StageMatch
from levelmatch_core.products.drawings import style
from levelmatch_core.products.drawings.pairs import pair_tip, shown_pairs
from levelmatch_core.products.drawings.svg import WIDTH, LogScale, Svg

MOST_NAMED = 40
"""Most pairs whose names stand below the axis; of more, hovering tells."""

_LEFT, _EDGE = 58.0, 10.0
"""Room for the numbers at an axis, and elsewhere."""


def differences(stage: StageMatch, unit: str) -> Svg:
    """Draw every pair's difference before and after, and its expected error, by the difference before."""
    pairs = sorted(shown_pairs(stage), key=lambda pair: (pair.rejected is not None, -abs(pair.fit.plane.level)))
    largest = max((abs(pair.fit.plane.level) for pair in pairs), default=0.0) or 1.0
    errors = [pair.fit.stderr for pair in pairs if pair.fit.stderr > 0]
    floor = max(1e-6 * largest, min(errors, default=largest) / 100)
    named = len(pairs) <= MOST_NAMED
    names = sorted({name for pair in pairs for name in (pair.fit.first, pair.fit.second)})
    short = dict(zip(names, style.distinct(names), strict=True))
    labels = [f"{short[pair.fit.second]} \N{MINUS SIGN} {short[pair.fit.first]}" for pair in pairs] if named else []
    below = 5.8 * max(map(len, labels), default=0)
    drawing, scale = _logarithmic(f"{stage.stage}: differences before and after", floor, largest, unit, below)
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
    for at, label in enumerate(labels):
        x, y = _LEFT + step * (at + 0.5) + 3, drawing.height - below - 8
        drawing.text(x, y, label.replace(r"\$", "$"), class_="small", transform=f"rotate(90 {x:.2f} {y:.2f})")
    return drawing


def convergence(stage: StageMatch, unit: str) -> Svg | None:
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
    return drawing


def _logarithmic(label: str, low: float, high: float, unit: str, below: float = 0.0) -> tuple[Svg, LogScale]:
    height = 230.0
    drawing = Svg(height + below, label)
    scale = LogScale(low, high, height - 26, 24)
    for tick in scale.ticks:
        drawing.add("line", class_="rule", x1=_LEFT, x2=WIDTH - _EDGE, y1=scale(tick), y2=scale(tick))
        drawing.text(_LEFT - 6, scale(tick) + 4, f"{tick:g}", text_anchor="end")
    drawing.text(4, 13, style.shown_unit(unit))
    return drawing, scale
