"""The drawings of a field as files: what lies among its figures, and what MLflow is given."""

from collections.abc import Iterator

from levelmatch_core.matching.corrections import FieldMatch, StageMatch
from levelmatch_core.products.drawings.differences import convergence, differences
from levelmatch_core.products.drawings.matrices import MAX_MEMBERS, QUANTITIES, matrix
from levelmatch_core.products.drawings.modes import modes
from levelmatch_core.products.drawings.pairs import pairs_of
from levelmatch_core.products.drawings.sky_graph import sky_graph
from levelmatch_core.products.drawings.svg import Svg, as_file


def drawings_of(match: FieldMatch) -> Iterator[tuple[str, bytes]]:
    """Yield the names and contents of a field's drawings, in the order in which they are best looked at.

    Parameters
    ----------
    match
        The field, solved.
    """
    name, unit = match.field.name, match.field.unit
    stages = [stage for stage in match.stages if pairs_of(stage)]
    if not stages:
        return
    last = stages[-1]
    yield "overlaps.svg", as_file(f"{name}: {_words(last)}", [("", sky_graph(last, match.grid, unit))])
    shown = [(_words(stage), differences(stage, unit)) for stage in stages]
    yield "residuals.svg", as_file(f"{name}: pair differences before (open) and after (full)", shown)
    weakest = modes(last, unit)
    if weakest is not None:
        yield "modes.svg", as_file(f"{name}, {_words(last)}: what the overlaps hardly see", [("", weakest)])
    for stage in stages:
        content = matrices_file(match, stage)
        if content is not None:
            yield matrices_name(stage.stage), content
    told: list[tuple[str, Svg]] = []
    for stage in stages:
        drawing = convergence(stage, unit)
        if drawing is not None:
            told.append((f"{_words(stage)}: {_converged(stage)}", drawing))
    if told:
        yield "convergence.svg", as_file(f"{name}: largest change of each sweep", told)


def matrices_name(stage: str) -> str:
    """Return what the drawing of a stage's matrices is called, after its field."""
    return f"{stage}_delta.svg"


def matrices_file(match: FieldMatch, stage: StageMatch) -> bytes | None:
    """Return the drawing of a stage's matrices; None where it has too many members, or no pair."""
    if not pairs_of(stage) or len(stage.members) > MAX_MEMBERS:
        return None
    drawings = [(quantity.title, matrix(stage, match.field.unit, quantity)) for quantity in QUANTITIES]
    return as_file(f"{match.field.name}: {_words(stage)}", drawings)


def _words(stage: StageMatch) -> str:
    return stage.stage.replace("_", " ")


def _converged(stage: StageMatch) -> str:
    failed = sum(not solution.status.converged for solution in stage.solutions)
    return f"{failed} of {len(stage.solutions)} not converged" if failed else "converged"
