"""What a notebook shows of a result, and its plots."""

from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from levelmatch_core.errors import UsageError
from levelmatch_core.matching.corrections import FieldMatch
from levelmatch_core.matching.results import PairResult
from levelmatch_core.products.drawings import style
from levelmatch_core.products.drawings.mosaic_views import views_of
from levelmatch_core.products.mosaic import MosaicImages
from levelmatch_core.products.report.images import side_by_side_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WORST = 5
"""Number of pairs in the table."""

SIDE = 360
"""Longest side of an image in a notebook, pixels."""


def html_of(grade: str, verdict: str, fields: Sequence[tuple[FieldMatch, MosaicImages]]) -> str:
    """Return verdict, mosaics before and after, and the worst seams as HTML."""
    parts = [f"<p><b>{escape(grade)}</b>: {escape(verdict)}</p>"]
    for match, made in fields:
        address = side_by_side_of(made.before, made.after, SIDE)
        parts.append(
            f'<figure><img src="{address}" style="image-rendering:pixelated;max-width:100%" '
            f'alt="mosaic before and after"><figcaption>{escape(match.field.name)}: before, after, '
            "before &minus; after</figcaption></figure>"
        )
        parts.append(_table(match))
    return "".join(parts)


def _table(match: FieldMatch) -> str:
    """Return the pairs of largest residuals, in sigmas where these are known."""
    worst = sorted(_used(match), key=lambda found: -found[2])[:WORST]
    if not worst:
        return ""
    unit = escape(match.field.unit or "data units")
    head = f"<tr><th>stage</th><th>first</th><th>second</th><th>residual [{unit}]</th><th>in sigmas</th></tr>"
    rows = "".join(
        f"<tr><td>{escape(stage)}</td><td>{escape(pair.fit.first)}</td><td>{escape(pair.fit.second)}</td>"
        f"<td>{pair.residual:.3g}</td><td>{f'{apart:.1f}' if pair.sigma else 'untested'}</td></tr>"
        for stage, pair, apart in worst
    )
    return f"<table><caption>Worst seams</caption>{head}{rows}</table>"


def _used(match: FieldMatch) -> list[tuple[str, PairResult, float]]:
    """Return the used pairs of all stages, and the size of each one's residual in sigmas; 0 where nothing tests it."""
    return [
        (stage.stage, pair, abs(pair.residual) / pair.sigma if pair.sigma else 0.0)
        for stage in match.stages
        for solution in stage.solutions
        for pair in solution.pairs
        if pair.rejected is None
    ]


def draw(
    match: FieldMatch, images: Callable[[], MosaicImages], kind: str, axes: "Axes | Sequence[Axes] | None"
) -> "Axes | tuple[Axes, Axes]":
    """Draw one plot of a field, on axes or in a new figure of pyplot.

    Raises
    ------
    UsageError
        If there is no such kind, or the axes are not as many as it takes.
    """
    kinds = {"mosaic": 2, "levels": 1, "residuals": 1}
    if kind not in kinds:
        message = f"plot kind {kind!r}: expected {', '.join(kinds)}"
        raise UsageError(message)
    if kind == "mosaic":
        return _draw_mosaic(images(), match, axes)
    if axes is None:
        import matplotlib.pyplot as plt  # noqa: PLC0415 - only where a figure is to be shown

        axes = plt.subplots()[1]
    if isinstance(axes, Sequence | np.ndarray):
        message = f"plot {kind!r}: expected one axes, got {len(axes)}"
        raise UsageError(message)
    return _draw_levels(axes, match) if kind == "levels" else _draw_residuals(axes, match)


def _draw_mosaic(made: MosaicImages, match: FieldMatch, axes: "Axes | Sequence[Axes] | None") -> "tuple[Axes, Axes]":
    if axes is None:
        import matplotlib.pyplot as plt  # noqa: PLC0415 - as above

        axes = plt.subplots(1, 2, figsize=(11, 5), subplot_kw={"projection": made.wcs})[1]
    panels: list[Any] = list(np.atleast_1d(cast("Any", axes)).ravel())
    if len(panels) != 2:
        message = f"plot 'mosaic': expected two axes, got {len(panels)}"
        raise UsageError(message)
    views = views_of(made.before, made.after)
    for panel, name, image in zip(panels, ("before", "after"), (views.before, views.after), strict=True):
        panel.imshow(
            image, origin="lower", cmap=style.colour_map(style.IMAGE), norm=views.norm, interpolation="nearest"
        )
        panel.set_title(f"{match.field.name}: {name}")
    return panels[0], panels[1]


def _draw_levels(axes: "Axes", match: FieldMatch) -> "Axes":
    found = match.corrections
    axes.errorbar(range(len(found)), [one.total.level for one in found], yerr=[one.sigma[0] for one in found], fmt="o")
    axes.set_xticks(range(len(found)), style.distinct([one.exposure.name for one in found]), rotation=90, fontsize=7)
    axes.set_ylabel(f"level subtracted [{style.shown_unit(match.field.unit)}]")
    return axes


def _draw_residuals(axes: "Axes", match: FieldMatch) -> "Axes":
    tested = [pair.residual / pair.sigma for _, pair, _ in _used(match) if pair.sigma]
    axes.hist(tested, bins=max(10, round(len(tested) ** 0.5)), color=style.AFTER)
    axes.set_xlabel("residual of a pair [sigma]")
    axes.set_ylabel("pairs")
    return axes
