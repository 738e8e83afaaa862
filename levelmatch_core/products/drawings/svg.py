"""Small drawings as text: SVG that goes into a page as it is, and into a file of its own with its style."""

import math
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape
from matplotlib.colors import Colormap, to_hex

WIDTH = 460
"""Width of every drawing, user units: letters stay readable where a phone shows it in 360 pixels."""

ENLARGED = 2
"""Pixels a user unit of a drawing that is a file of its own."""

_TITLE, _GAP = 26.0, 14.0
"""Room for a title above a drawing in a file, and between drawings."""


class Svg:
    """A drawing, element by element, y down.

    Parameters
    ----------
    height, width
        User units.
    label
        What it is, for those who do not see it.
    """

    def __init__(self, height: float, label: str, width: float = WIDTH) -> None:
        self.width, self.height, self.label = width, height, label
        self._elements: list[tuple[str, str, str, str]] = []

    def add(self, tag: str, text: str = "", *, tip: str = "", **attributes: Any) -> None:  # noqa: ANN401 - str or float
        """Add an element; `tip` is what hovering over it shows, and `_` in an attribute's name stands for `-`."""
        given = {name.strip("_").replace("_", "-"): value for name, value in attributes.items()}
        shown = "".join(f' {name}="{escape(_plain(value))}"' for name, value in given.items())
        self._elements.append((tag, shown, str(escape(text)), str(escape(tip))))

    def text(self, x: float, y: float, words: str, **attributes: Any) -> None:  # noqa: ANN401 - as `add`
        """Write words at a point."""
        self.add("text", words, x=x, y=y, **attributes)

    def path(self, points: Sequence[tuple[float, float]], *, tip: str = "", **attributes: Any) -> None:  # noqa: ANN401 - as `add`
        """Draw a line through points."""
        steps = "L".join(f"{_plain(x)} {_plain(y)}" for x, y in points)
        self.add("path", tip=tip, d=f"M{steps}", **attributes)

    def colour_bar(self, x: float, y: float, name: str, *, width: float, end: float = 1.0) -> None:
        """Draw a colour map as a bar of 25 steps, up to its fraction `end`."""
        step = width / 25
        for number, shade in enumerate(colours(name, np.linspace(0, end, 25).tolist())):
            self.add("rect", x=x + step * number, y=y, width=step + 0.5, height=8, fill=shade)

    def in_page(self) -> Markup:
        """Return the drawing as it goes into a page, which has the style, and shows what `data-tip` holds."""
        start = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
            _plain(self.width), _plain(self.height), self.label
        )
        body = "".join(
            "<{0}{1}{2}>{3}</{0}>".format(tag, shown, f' data-tip="{tip}"' if tip else "", text)
            for tag, shown, text, tip in self._elements
        )
        return start + Markup(body) + Markup("</svg>")  # noqa: S704 - every value is escaped

    def _nested(self, y: float) -> str:
        body = "\n".join(
            f"<{tag}{shown}>{f'<title>{tip}</title>' if tip else ''}{text}</{tag}>"
            for tag, shown, text, tip in self._elements
        )
        return f'<svg y="{_plain(y)}" width="{_plain(self.width)}" height="{_plain(self.height)}">\n{body}\n</svg>'


def as_file(title: str, drawings: Sequence[tuple[str, Svg]]) -> bytes:
    """Return drawings, each with its caption, below one another as an SVG file that stands by itself.

    Parameters
    ----------
    title
        Of the whole.
    drawings
        Captions and drawings.
    """
    y, parts = _TITLE + 4, [f'<text x="10" y="18" class="title">{escape(title)}</text>']
    for caption, drawing in drawings:
        if caption:
            parts.append(f'<text x="10" y="{_plain(y + 14)}" class="caption">{escape(caption)}</text>')
            y += 22
        parts.append(drawing._nested(y))  # noqa: SLF001 - of the same module
        y += drawing.height + _GAP
    width = max((drawing.width for _, drawing in drawings), default=WIDTH)
    size = (
        f'width="{_plain(ENLARGED * width)}" height="{_plain(ENLARGED * y)}" viewBox="0 0 {_plain(width)} {_plain(y)}"'
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} class="file">\n<style>\n{style_sheet()}</style>\n'
    background = '<rect width="100%" height="100%" fill="#fff"/>\n'
    return (head + background + "\n".join(parts) + "\n</svg>\n").encode("utf-8", "replace")


@cache
def style_sheet() -> str:
    """Return the style of all drawings, as the report and each file hold it."""
    return files("levelmatch_core.products.drawings").joinpath("drawings.css").read_text(encoding="utf-8")


class LogScale:
    """Values to positions, by their logarithm, with ticks at the decades."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high = math.log10(low) - 0.1, math.log10(max(high, low * 1.0001)) + 0.1
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        """Return the position of a value; one below the scale lies at its lower end."""
        part = (math.log10(value) - self.low) / (self.high - self.low) if value > 0 else 0.0
        return self._start + min(max(part, 0.0), 1.0) * (self._end - self._start)

    @property
    def ticks(self) -> list[float]:
        """Decades within the scale, six at most."""
        decades = [10.0**power for power in range(math.ceil(self.low), math.floor(self.high) + 1)]
        return decades[:: max(1, -(-len(decades) // 6))]


def colours(name: str, parts: Sequence[float]) -> list[str]:
    """Return colours of a map at fractions 0 to 1."""
    return [to_hex(colour) for colour in _map(name)(np.clip(np.asarray(parts, dtype=float), 0, 1))]


@cache
def _map(name: str) -> Colormap:
    """Return a colour map; matplotlib gives a copy each time, whose table is made when it is first used."""
    return mpl.colormaps[name]


def _plain(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.2f}".rstrip("0").rstrip(".")
