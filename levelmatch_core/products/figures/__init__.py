"""Figures, drawn from tables and results: they compute nothing that they show."""

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

from levelmatch_core.matching.corrections import FieldMatch, StageMatch
from levelmatch_core.matching.measure.pair_fit import Difference
from levelmatch_core.matching.results import PairResult, Solution
from levelmatch_core.process.beside import process_beside
from levelmatch_core.products.drawings.files import drawings_of
from levelmatch_core.products.drawings.mosaic_views import with_outlines_only
from levelmatch_core.products.manifest import OutputFile
from levelmatch_core.settings import MatchSettings

__all__ = ["choose_pairs", "draw_figures", "figure_file"]

Write = Callable[[str, Callable[[Path], object]], OutputFile]
"""As `OutputFolder.write`."""

Paint = Callable[[], bytes]
"""Returns a file's content."""

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
    field = field_match.field
    images: list[tuple[str, Paint]] = []
    if mosaic is not None:
        outlined = with_outlines_only(field_match)
        of_mosaic = partial(painted, "mosaic", mosaic=mosaic, title=field.name, match=outlined)
        images.append(("mosaic", of_mosaic))
    if level_error is not None:
        images.append(("level_error", partial(painted, "level_error", level_error=level_error, title=field.name)))
    drawn = len(images)
    images += paints_of_pairs(field_match, pair_images, settings)
    paints = _begun([paint for _, paint in images])
    of_images = [(name, paint) for (name, _), paint in zip(images, paints, strict=True)]
    drawings = [(name, partial(bytes, content)) for name, content in drawings_of(field_match)]
    contents: list[tuple[str, Paint]] = [*of_images[:drawn], *drawings, *of_images[drawn:]]
    return [write(figure_file(field.name, name), partial(_put, content_of=content_of)) for name, content_of in contents]


def paints_of_pairs(
    field_match: FieldMatch, pair_images: Sequence[tuple[str, PairResult, Difference]], settings: MatchSettings
) -> list[tuple[str, Paint]]:
    """Return the names of the images of pairs, and what paints each of them; see :func:`draw_figures`."""
    paints: list[tuple[str, Paint]] = []
    for number, (stage_name, pair, image) in enumerate(pair_images, start=1):
        # without all the others, which may be many, and are not shown
        others = {"pairs": (), "members": (), "components": ()}
        solution = _solution_of(field_match, stage_name, pair).model_copy(update=others)
        what = {"solution": solution, "pair": pair, "image": image, "max_points": settings.max_points}
        paints.append((f"pair_{number:02d}", partial(painted, "pair", unit=field_match.field.unit, **what)))
    return paints


def painted(kind: str, **what: Any) -> bytes:  # noqa: ANN401 - what the painter takes
    """Return the PNG that one of the modules of this package draws, which is imported by who draws."""
    made = BytesIO()
    getattr(import_module(f"{__name__}.{kind}"), f"draw_{kind}")(made, **what)
    return made.getvalue()


def ready_to_paint() -> None:
    """Import what draws."""
    for kind in ("pair", "mosaic", "level_error"):
        import_module(f"{__name__}.{kind}")
    import_module("astropy.visualization.wcsaxes")


def _begun(paints: list[Paint]) -> list[Paint]:
    """Have the process beside this one paint, if there is one, and return what returns each of the images."""
    helper = process_beside()
    return paints if helper is None else [helper.ask(paint).result for paint in paints]


def _put(path: Path, content_of: Paint) -> None:
    path.write_bytes(content_of())


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
