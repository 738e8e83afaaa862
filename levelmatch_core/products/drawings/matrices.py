"""The matrices of a stage: the pairs' differences before and after, their pixels and their scatter."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from levelmatch_core.matching.corrections import StageMatch
from levelmatch_core.matching.results import PairResult, Solution
from levelmatch_core.products.drawings import style
from levelmatch_core.products.drawings.pairs import MOST_PAIRS, groups_with_pairs, pair_tip, shown_pairs
from levelmatch_core.products.drawings.svg import WIDTH, Svg, colours

MAX_MEMBERS = 2000
"""A stage with more members has no matrix that could be drawn."""

_EDGE, _GAP, _HEAD, _BAR = 10.0, 16.0, 14.0, 30.0
"""Room at the edge, between panels, for a panel's name, and for the colour bar."""
_LETTER = 5.6
"""Width of a label's letter."""
_DIGIT = 5.0
"""Width of a digit in a cell."""
_LABELLED, _NUMBERED = 24, 8
"""Most members of a panel whose names, and whose cells' numbers, are written."""
_NARROWEST = 104.0
"""A panel is at least so wide."""


@dataclass(frozen=True)
class Quantity:
    """What a matrix shows of each pair."""

    title: str
    of: Callable[[PairResult], float]
    turned: int = 1
    """Sign of the entry [first, second] relative to that of [second, first]."""
    pixels: bool = False
    """Whether it is a number of pixels, in place of the data's unit."""

    @property
    def signed(self) -> bool:
        """Whether it has a sign, and is not shown of rejected pairs."""
        return self.turned < 0


BEFORE = Quantity("before: row \N{MINUS SIGN} column", lambda pair: pair.fit.plane.level, turned=-1)
AFTER = Quantity("after: row \N{MINUS SIGN} column", lambda pair: pair.residual, turned=-1)
PIXELS = Quantity("pixels in common", lambda pair: float(pair.fit.npix), pixels=True)
SCATTER = Quantity("scatter about the fit", lambda pair: pair.fit.rms)
QUANTITIES = (BEFORE, AFTER, PIXELS, SCATTER)


def matrix(stage: StageMatch, unit: str, quantity: Quantity) -> Svg:
    """Draw a quantity of every pair, a panel a group: row and column are its members.

    Parameters
    ----------
    stage
        With at most `MAX_MEMBERS` members.
    unit
        Of the data, '' where it has none.
    quantity
        What is shown.
    """
    groups = groups_with_pairs(stage)
    shown = {id(pair) for pair in shown_pairs(stage)}
    pairs = [pair for group in groups for pair in group.pairs if id(pair) in shown]
    floor = style.ROUNDING * max((abs(pair.fit.plane.level) for pair in pairs), default=0.0)
    counted = [pair for pair in pairs if not (quantity.signed and pair.rejected)]
    limit = max((abs(quantity.of(pair)) for pair in counted if abs(quantity.of(pair)) > floor), default=0.0)
    columns = _columns(groups)
    width = (WIDTH - 2 * _EDGE - _GAP * (columns - 1)) / columns
    tops, heights = [], []
    at = _EDGE
    titles = style.distinct([group.group for group in groups]) if len(groups) > 1 else [""]
    panels = [_Panel.of(group, width, title) for group, title in zip(groups, titles, strict=True)]
    for start in range(0, len(panels), columns):
        tops.append(at)
        heights.append(max(panel.height for panel in panels[start : start + columns]))
        at += heights[-1] + _GAP
    drawing = Svg(at + _BAR, f"{stage.stage}: {quantity.title}")
    for number, panel in enumerate(panels):
        left = _EDGE + (number % columns) * (width + _GAP)
        panel.draw(drawing, left, tops[number // columns], quantity, limit, unit, shown)
    cut = quantity.signed and any(pair.rejected for pair in pairs)
    _colour_bar(drawing, at, quantity, limit, unit, cut=cut)
    return drawing


def _columns(groups: list[Solution]) -> int:
    largest = max((len(group.members) for group in groups), default=1)
    if len(groups) == 1 or largest > _LABELLED:
        return 1
    return max(1, min(len(groups), int((WIDTH - 2 * _EDGE) // max(_NARROWEST, 14.0 * largest))))


@dataclass(frozen=True)
class _Panel:
    group: Solution
    title: str
    names: list[str]
    labels: list[str]
    margin: float
    """Room for the labels, left and above."""
    head: float
    side: float
    """Of a cell."""

    @classmethod
    def of(cls, group: Solution, width: float, title: str) -> "_Panel":
        names = [member.name for member in group.members]
        labels = [label.replace(r"\$", "$") for label in style.distinct(names)] if len(names) <= _LABELLED else []
        margin = min(0.45 * width, 6.0 + _LETTER * max(map(len, labels), default=0))
        return cls(group, title, names, labels, margin, _HEAD if title else 0.0, (width - margin) / max(len(names), 1))

    @property
    def height(self) -> float:
        return self.head + self.margin + self.side * len(self.names)

    def draw(  # noqa: PLR0917 - private
        self, drawing: Svg, left: float, top: float, quantity: Quantity, limit: float, unit: str, shown: set[int]
    ) -> None:
        size = self.side * len(self.names)
        x0, y0 = left + self.margin, top + self.head + self.margin
        if self.head:
            drawing.text(left, top + 8, self.title.replace(r"\$", "$"), class_="small")
        drawing.add("rect", x=x0, y=y0, width=size, height=size, class_="frame")
        rank = {name: at for at, name in enumerate(self.names)}
        for pair in self.group.pairs:
            if id(pair) not in shown:
                continue
            first, second = rank[pair.fit.first], rank[pair.fit.second]
            value, tip = quantity.of(pair), pair_tip(pair, unit)
            for row, column, entry in ((second, first, value), (first, second, quantity.turned * value)):
                place: dict[str, Any] = {"x": x0 + self.side * column, "y": y0 + self.side * row}
                if quantity.signed and pair.rejected is not None:
                    drawing.add("rect", class_="cell cut", tip=tip, width=self.side, height=self.side, **place)
                    continue
                part = entry / limit if limit else 0.0
                shade = _shade(quantity, part)
                drawing.add("rect", class_="cell", fill=shade, tip=tip, width=self.side, height=self.side, **place)
                if len(self.names) <= _NUMBERED and self.side >= 19:
                    middle = place["x"] + self.side / 2, place["y"] + self.side / 2 + 3
                    light = abs(part) > 0.6 if quantity.signed else part < 0.55
                    words = _fitting(entry, self.side) if limit else "0"
                    drawing.text(*middle, words, class_="cellnumber light" if light else "cellnumber")
        for at, label in enumerate(self.labels):
            along = self.side * (at + 0.5) + 3
            drawing.text(x0 - 4, y0 + along, label, text_anchor="end", class_="small")
            drawing.text(
                x0 + along, y0 - 4, label, class_="small", transform=f"rotate(-90 {x0 + along:.2f} {y0 - 4:.2f})"
            )


def _shade(quantity: Quantity, part: float) -> str:
    if quantity.signed:
        return colours(style.DIFFERENCE, [0.5 + 0.5 * part])[0]
    return colours(style.SEQUENCE, [0.95 * part])[0]


def _fitting(value: float, room: float) -> str:
    """Return a number with three digits, or two or one where a cell is too narrow for them."""
    texts = [style.number(value), *(f"{value:.{digits}g}".replace("-", "\N{MINUS SIGN}") for digits in (2, 1))]
    return next((text for text in texts if _DIGIT * len(text) < room), texts[-1])


def _colour_bar(drawing: Svg, y: float, quantity: Quantity, limit: float, unit: str, *, cut: bool) -> None:
    shown = "pixels" if quantity.pixels else style.shown_unit(unit)
    if not limit:
        drawing.text(_EDGE, y + 9, f"all 0 {shown}")
    elif quantity.signed:
        drawing.colour_bar(_EDGE, y, style.DIFFERENCE, width=125)
        drawing.text(_EDGE + 132, y + 9, f"± {style.number(limit)} {shown}" + ("; grey: rejected" if cut else ""))
    else:
        drawing.colour_bar(_EDGE, y, style.SEQUENCE, width=125, end=0.95)
        drawing.text(_EDGE + 132, y + 9, f"0 to {style.number(limit)} {shown}")


__all__ = ["AFTER", "BEFORE", "MAX_MEMBERS", "MOST_PAIRS", "QUANTITIES", "Quantity", "matrix"]
