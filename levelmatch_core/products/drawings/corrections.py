"""Every exposure's level and its error."""

import math
from collections.abc import Sequence

from levelmatch_core.matching.corrections import Correction, Status
from levelmatch_core.products.drawings import style
from levelmatch_core.products.drawings.svg import WIDTH, Svg

MOST_EXPOSURES = 2000
"""Exposures in one drawing."""

_LEFT, _EDGE = 58.0, 10.0
"""Room for the numbers at an axis, and elsewhere."""


def corrections(found: Sequence[Correction], unit: str) -> Svg | None:
    """Draw every exposure's level with its error bar, and below it the error alone; None where nothing is corrected."""
    shown = shown_corrections(found)
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
        kind = "after reference" if correction.status is Status.REFERENCE else "after"
        drawing.add("circle", class_=kind, cx=x, cy=place(level), r=radius, tip=tip)
        height = 80 * error / largest
        drawing.add("rect", class_="error", x=x - radius, y=312 - height, width=2 * radius, height=height, tip=tip)
    return drawing


def shown_corrections(found: Sequence[Correction]) -> list[Correction]:
    """Return the corrections that are drawn: all, or of very many those with the largest errors, in their order."""
    known = [correction for correction in found if correction.status is not Status.FAILED]
    if len(known) <= MOST_EXPOSURES:
        return known
    worst = sorted(range(len(known)), key=lambda at: (-known[at].sigma[0], at))[:MOST_EXPOSURES]
    return [known[at] for at in sorted(worst)]


def _even(low: float, high: float) -> list[float]:
    """Return about five round numbers within limits."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]
