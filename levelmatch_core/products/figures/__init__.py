"""Figures, drawn from tables and results: they compute nothing that they show."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from levelmatch_core.matching.corrections import FieldMatch, StageMatch
from levelmatch_core.matching.measure.pair_fit import Difference
from levelmatch_core.matching.results import PairResult, Solution
from levelmatch_core.products.drawings.files import drawings_of
from levelmatch_core.products.figures.level_error import draw_level_error
from levelmatch_core.products.figures.mosaic import draw_mosaic
from levelmatch_core.products.figures.pair import draw_pair
from levelmatch_core.products.manifest import OutputFile
from levelmatch_core.settings import MatchSettings

__all__ = ["choose_pairs", "draw_figures", "figure_file"]

Write = Callable[[str, Callable[[Path], object]], OutputFile]
"""As `OutputFolder.write`."""

MAX_PAIRS = 8
"""Most pairs of a field that get a figure of their own."""


def draw_figures(
    field_match: FieldMatch,
    pair_images: Sequence[tuple[str, PairResult, Difference]],
    settings: MatchSettings,
    write: Write,
    *,
    mosaic: Path | None = None,
    level_error: Path | None = None,
) -> list[OutputFile]:
    """Draw the figures of a field.

    Parameters
    ----------
    field_match
        The field, solved.
    pair_images
        Stage, pair and difference, before the stage's solve, of those pairs that :func:`choose_pairs` names.
    settings
        Of the run.
    write
        Puts a figure in its place, given its name below the output folder and what writes it.
    mosaic
        Its mosaic's FITS file; None leaves its figure out.
    level_error
        The map of its level's errors; None leaves its figure out.

    Returns
    -------
    The figures, in the order in which they are best looked at.
    """
    field, unit = field_match.field, field_match.field.unit
    figures: list[tuple[str, Callable[[Path], object]]] = []
    if mosaic is not None:
        figures.append(("mosaic", partial(draw_mosaic, mosaic=mosaic, title=field.name, match=field_match)))
    if level_error is not None:
        figures.append(("level_error", partial(draw_level_error, level_error=level_error, title=field.name)))
    figures += [(name, partial(Path.write_bytes, data=content)) for name, content in drawings_of(field_match)]
    for number, (stage_name, pair, image) in enumerate(pair_images, start=1):
        solution = _solution_of(field_match, stage_name, pair)
        draw = partial(draw_pair, solution=solution, pair=pair, image=image, unit=unit, max_points=settings.max_points)
        figures.append((f"pair_{number:02d}", draw))
    return [write(figure_file(field.name, name), draw) for name, draw in figures]


def figure_file(field: str, name: str) -> str:
    """Return the name of a field's figure below the output folder: images as PNG, drawings (`.svg`) as they are."""
    return f"figures/{field}_{name}" if name.endswith(".svg") else f"figures/{field}_{name}.png"


def choose_pairs(field_match: FieldMatch) -> list[tuple[StageMatch, PairResult]]:
    """Return the pairs that get a figure, with their stage: the worst of the rejected ones, and of those used."""
    pairs = [(stage, pair) for stage in field_match.stages for solution in stage.solutions for pair in solution.pairs]
    ordered = sorted(pairs, key=lambda entry: (-entry[1].residual_rms, entry[1].fit.first, entry[1].fit.second))
    rejected = [entry for entry in ordered if entry[1].rejected is not None]
    used = [entry for entry in ordered if entry[1].rejected is None]
    n_rejected = max(MAX_PAIRS // 2, MAX_PAIRS - len(used))
    return (rejected[:n_rejected] + used)[:MAX_PAIRS]


def _solution_of(field_match: FieldMatch, stage_name: str, pair: PairResult) -> Solution:
    return next(
        solution
        for stage in field_match.stages
        if stage.stage == stage_name
        for solution in stage.solutions
        if pair in solution.pairs
    )
