"""Pictures of the matrices of a run, for MLflow: apart, as matplotlib takes a second to import."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from levelmatch_core.matching.corrections import FieldMatch
from levelmatch_core.matching.pairs import PairMatrices, matrices
from levelmatch_core.matching.results import Solution
from levelmatch_core.products.figures import style

_MOST_LABELS = 30
"""So many members of a matrix are named on its axes at most."""


def matrix_pictures(match: FieldMatch) -> Iterator[tuple[str, Figure]]:
    """Yield a picture of the matrices of each stage's largest group."""
    for stage in match.stages:
        solution = max(stage.solutions, key=lambda each: len(each.members), default=None)
        content = matrices(solution) if solution is not None else None
        if solution is not None and content is not None:
            yield f"{match.field.name}.{stage.stage}.png", _picture(solution, content, match.field.unit)


def _picture(solution: Solution, content: PairMatrices, unit: str) -> Figure:
    figure = style.figure(11, 9)
    figure.suptitle(f"{style.short(solution.group)}: {solution.stage}, row minus column")
    there = content.npix > 0
    unit = style.shown_unit(unit)
    panels: Mapping[str, tuple[Any, str, str]] = {
        "level difference": (content.delta[..., 0], unit, style.DIFFERENCE),
        "pixels in common": (content.npix, "pixels", style.SEQUENCE),
        "scatter about the fit": (content.rms, unit, style.SEQUENCE),
        "used": (content.valid, "1 used, 0 rejected", style.SEQUENCE),
    }
    step = max(1, -(-len(content.names) // _MOST_LABELS))
    labels = style.distinct(list(content.names))[::step]
    for axes, (title, (values, label, colours)) in zip(figure.subplots(2, 2).flat, panels.items(), strict=True):
        shown = np.where(there, values, np.nan)
        limit = float(np.nanmax(np.abs(shown), initial=0.0)) or 1.0
        low = -limit if colours == style.DIFFERENCE else 0.0
        image = axes.imshow(shown, cmap=style.colour_map(colours), vmin=low, vmax=limit, interpolation="nearest")
        figure.colorbar(image, ax=axes, label=label, shrink=0.8)
        axes.set_title(title)
        ticks = range(0, len(content.names), step)
        axes.set_xticks(ticks, labels, rotation=90, fontsize=6)
        axes.set_yticks(ticks, labels, fontsize=6)
    return figure
