"""A stage on the sky: members, overlaps, and how well each pair agrees with the solution."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.matching.corrections import StageMatch
from levelmatch_core.matching.results import PairResult
from levelmatch_core.products.drawings import style
from levelmatch_core.products.drawings.pairs import in_sigmas, pair_tip, references_of, shown_pairs
from levelmatch_core.products.drawings.svg import WIDTH, Svg, colours
from levelmatch_core.sky.grid import Grid

MOST_SIGMAS = 5.0
"""Residual, in its expected sigmas, at the end of the colours: the same for all drawings."""

_EDGE = 10.0

MOST_MEMBERS = 2000
"""With more members, only those of the pairs that are drawn."""


def sky_graph(stage: StageMatch, grid: Grid, unit: str) -> Svg:
    """Draw the members' outlines and their pairs, coloured by their residuals in sigmas."""
    pairs = shown_pairs(stage)
    references = references_of(stage)
    in_pairs = {name for pair in pairs for name in (pair.fit.first, pair.fit.second)} | references
    few = len(stage.members) <= MOST_MEMBERS
    members = [member for member in stage.members if few or member.name in in_pairs]
    corners = np.concatenate([member.cutout.outline for member in stage.members])
    low, high = corners.min(axis=0), corners.max(axis=0)
    wide, tall = np.maximum(high - low, 1.0)
    scale = min((WIDTH - 2 * _EDGE) / wide, 520 / tall)
    width = scale * wide + 2 * _EDGE

    def place(x: float, y: float) -> tuple[float, float]:
        return (WIDTH - width) / 2 + _EDGE + scale * (x - low[0]), _EDGE + scale * (high[1] - y)

    drawing = Svg(scale * tall + 2 * _EDGE + 44, f"{stage.stage}: members and pairs on the sky")
    centres = {}
    for member in members:
        outline = np.array(member.cutout.outline)
        centres[member.name] = place(*outline.mean(axis=0).tolist())
        kind = "tile reference" if member.name in references else "tile"
        drawing.path([place(x, y) for x, y in (*outline, outline[0])], class_=kind)
    used = [pair for pair in pairs if pair.rejected is None]
    for pair in reversed(pairs):
        (x1, y1), (x2, y2) = centres[pair.fit.first], centres[pair.fit.second]
        ends: dict[str, Any] = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
        sigmas = in_sigmas(pair)
        if sigmas is not None:
            drawing.add("line", class_="pair", stroke=_shade(sigmas), **ends)
        else:
            drawing.add("line", class_="pair untested" if pair.rejected is None else "pair cut", **ends)
        drawing.add("line", class_="hit", tip=pair_tip(pair, unit), **ends)
    names = sorted(centres)
    for name, label in zip(names, style.distinct(names), strict=True):
        x, y = centres[name]
        is_reference = name in references
        tip = f"{name}\nreference of its component" if is_reference else name
        kind, radius = ("node reference", 6.0) if is_reference else ("node", 3.5)
        drawing.add("circle", cx=x, cy=y, r=radius, class_=kind, tip=tip)
        if len(names) <= 20 or is_reference:
            drawing.text(x, y - 9, label.replace(r"\$", "$"), text_anchor="middle", class_="label")
    _compass(drawing, grid, low, high)
    _legend(drawing, used)
    return drawing


def _shade(sigmas: float) -> str:
    return colours(style.SEQUENCE, [0.92 * min(sigmas / MOST_SIGMAS, 1.0)])[0]


def _legend(drawing: Svg, used: Sequence[PairResult]) -> None:
    y = drawing.height - 30
    drawing.colour_bar(_EDGE, y, style.SEQUENCE, width=144, end=0.92)
    drawing.text(_EDGE, y + 24, "0")
    drawing.text(_EDGE + 144, y + 24, f"{MOST_SIGMAS:g} sigma or more", text_anchor="middle")
    drawing.text(_EDGE + 152, y + 9, "residual")
    if any(in_sigmas(pair) is None for pair in used):
        drawing.add("line", class_="pair untested", x1=WIDTH - 244, x2=WIDTH - 216, y1=y + 5, y2=y + 5)
        drawing.text(WIDTH - 210, y + 9, "not tested")
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
