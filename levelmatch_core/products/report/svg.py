"""Small drawings as text: what every inline SVG of the report is made of."""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape
from matplotlib.colors import Colormap, to_hex

WIDTH = 460
"""Width of every drawing, user units: letters stay readable where a phone shows it in 360 pixels."""


class Svg:
    """A drawing, element by element, y down."""

    def __init__(self, height: float, label: str, width: float = WIDTH) -> None:
        self.width, self.height = width, height
        self._parts = [
            Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(_plain(width), _plain(height), label)
        ]

    def add(self, tag: str, text: str = "", *, tip: str = "", **attributes: Any) -> None:  # noqa: ANN401 - str or float
        """Add an element; `tip` is what hovering over it shows, and `_` in an attribute's name stands for `-`."""
        told = {"data-tip": tip} if tip else {}
        given = {name.strip("_").replace("_", "-"): value for name, value in attributes.items()}
        shown = "".join(f' {name}="{escape(_plain(value))}"' for name, value in (given | told).items())
        self._parts.append(Markup(f"<{tag}{shown}>{escape(text)}</{tag}>"))  # noqa: S704 - every value is escaped

    def text(self, x: float, y: float, words: str, **attributes: Any) -> None:  # noqa: ANN401 - as `add`
        """Write words at a point."""
        self.add("text", words, x=x, y=y, **attributes)

    def path(self, points: Sequence[tuple[float, float]], *, tip: str = "", **attributes: Any) -> None:  # noqa: ANN401 - as `add`
        """Draw a line through points."""
        steps = "L".join(f"{_plain(x)} {_plain(y)}" for x, y in points)
        self.add("path", tip=tip, d=f"M{steps}", **attributes)

    def render(self) -> Markup:
        """Return the drawing as it goes into the page."""
        return Markup("").join([*self._parts, Markup("</svg>")])


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
