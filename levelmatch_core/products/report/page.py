"""What the report says, section by section, and the template that it is said with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from levelmatch_core.images.instruments import by_name
from levelmatch_core.matching.corrections import Correction, FieldMatch, StageMatch, Status
from levelmatch_core.matching.results import PairResult, SolveStatus
from levelmatch_core.matching.stages import STAGES
from levelmatch_core.products.drawings import style
from levelmatch_core.products.drawings.corrections import MOST_EXPOSURES, corrections
from levelmatch_core.products.drawings.differences import convergence, differences
from levelmatch_core.products.drawings.matrices import AFTER, BEFORE, MAX_MEMBERS, matrix
from levelmatch_core.products.drawings.modes import mode_lines, modes
from levelmatch_core.products.drawings.pairs import MOST_PAIRS, pairs_of
from levelmatch_core.products.drawings.sky_graph import sky_graph
from levelmatch_core.products.drawings.svg import Svg, style_sheet
from levelmatch_core.products.explain import likeness_lines, loop_lines, seam_lines
from levelmatch_core.products.grade import told
from levelmatch_core.products.report.images import BeforeAfter, LevelErrorView, before_and_after, level_error
from levelmatch_core.products.runrecord import RunRecord
from levelmatch_core.products.summaries import StageSummary
from levelmatch_core.products.verdict import left_out_of, residual_of, told_changes, verdict, why_untied
from levelmatch_core.settings import MatchSettings

MAX_THUMBNAILS = 40
"""Most rejected pairs of a field that are shown as images."""

MAX_ROWS = 500
"""Most rows of a table; the tables of the output folder hold all."""

PairKey = tuple[str, str, str, str]
"""Field, stage, first, second."""


@dataclass(frozen=True)
class FieldImages:
    """What a report shows beside numbers."""

    mosaics: Mapping[str, Path]
    """Each field's mosaic file, of those that have one."""
    level_errors: Mapping[str, Path]
    """Each field's map of errors, of those that have one."""
    thumbnails: Mapping[PairKey, str]
    """The differences of rejected pairs, as `data:` addresses."""


@dataclass(frozen=True)
class StageView:
    """One stage of one field."""

    title: str
    summary: StageSummary
    statuses: tuple[SolveStatus, ...]
    sky: Markup
    before: Markup | None
    after: Markup | None
    differences: Markup
    convergence: Markup | None
    modes: Markup | None
    loops: tuple[str, ...]
    """Sentences on how the loops of overlaps close, on what cannot be tested, and on the weakest modes."""
    left_out: int
    """Pairs that the drawings do not show."""


@dataclass(frozen=True)
class RejectedView:
    """A pair that was not used."""

    stage: str
    pair: PairResult
    reason: str
    thumbnail: str
    """`data:` address of its difference, '' where there is none."""


@dataclass(frozen=True)
class FieldView:
    """One field."""

    match: FieldMatch
    summary: object
    unit: str
    mosaic: BeforeAfter | None
    level_error: LevelErrorView | None
    stages: tuple[StageView, ...]
    rejected: tuple[RejectedView, ...]
    corrections: tuple[Correction, ...]
    chart: Markup | None
    planes: bool
    untied: tuple[tuple[str, str], ...]
    background: str
    """What it means that the files say what was subtracted; '' where they say what they said before."""
    next_step: str


def choose_thumbnails(field_match: FieldMatch) -> list[tuple[StageMatch, PairResult]]:
    """Return the rejected pairs, with their stages, whose differences are shown: those that fit worst."""
    rejected = _rejected(field_match)
    return sorted(rejected, key=lambda entry: (-entry[1].residual_rms, entry[1].fit.first, entry[1].fit.second))[
        :MAX_THUMBNAILS
    ]


def write_report(
    path: Path,
    record: RunRecord,
    field_matches: Sequence[FieldMatch],
    images: FieldImages,
    title: str = "",
) -> None:
    """Write the page. The same run gives the same bytes.

    Parameters
    ----------
    path
        The file.
    record
        Of the run; its files may still be missing.
    field_matches
        All fields, solved.
    images
        Of the fields.
    title
        What it is of; the program's name if not given.
    """
    residuals = [residual_of(match) for match in field_matches]
    summaries = {field.name: field for field in record.fields}
    fields = [_field_view(match, record, images) for match in sorted(field_matches, key=lambda match: match.field.name)]
    environment = Environment(
        loader=PackageLoader("levelmatch_core.products.report", "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["number"] = style.number
    text = environment.get_template("report.html").render(
        record=record,
        title=title or record.program,
        summaries=summaries,
        verdict=verdict(record.counts, left_out_of(record), residuals, record.fields),
        trouble=any(left_out_of(record).values()),
        grade=told(record.grade, [one for field in record.fields for one in field.criteria]),
        told_changes=told_changes,
        fields=fields,
        changed=_changed_settings(record),
        max_rows=MAX_ROWS,
        most_drawn=MOST_EXPOSURES,
        drawing_style=Markup(style_sheet()),  # noqa: S704 - our own
    )
    path.write_bytes(text.encode("utf-8", "replace"))


def _field_view(match: FieldMatch, record: RunRecord, images: FieldImages) -> FieldView:
    summary = next(field for field in record.fields if field.name == match.field.name)
    summaries = {stage.stage: stage for stage in summary.stages}
    unit = style.shown_unit(match.field.unit)
    mosaic, error = images.mosaics.get(match.field.name), images.level_errors.get(match.field.name)
    own = match.field.exposures[0].table
    instrument = by_name(match.field.instrument, [own] if own else ())
    rejected = [
        RejectedView(
            stage=stage.stage,
            pair=pair,
            reason=pair.rejected.value if pair.rejected else "",
            thumbnail=images.thumbnails.get((match.field.name, stage.stage, pair.fit.first, pair.fit.second), ""),
        )
        for stage, pair in _rejected(match)
    ]
    corrected = tuple(one for one in match.corrections if one.status is not Status.FAILED)
    return FieldView(
        match=match,
        summary=summary,
        unit=unit,
        mosaic=before_and_after(mosaic, match) if mosaic is not None else None,
        level_error=level_error(error) if error is not None else None,
        # the mosaic first: what its tiles did is what a person looks for
        stages=tuple(
            _stage_view(stage, summaries[stage.stage], match) for stage in reversed(match.stages) if pairs_of(stage)
        ),
        rejected=tuple(sorted(rejected, key=lambda one: (not one.thumbnail, -one.pair.residual_rms))),
        corrections=corrected,
        chart=_in_page(corrections(corrected, unit)),
        planes=any(not one.plane.is_level for one in corrected),
        untied=tuple(
            (one.exposure.name, why_untied(one.exposure.name, match))
            for one in match.corrections
            if one.status is Status.UNTIED
        ),
        background=instrument.background if record.settings.get("write_background") else "",
        next_step=instrument.next_step,
    )


def _stage_view(stage: StageMatch, summary: StageSummary, match: FieldMatch) -> StageView:
    unit = style.shown_unit(match.field.unit)
    drawn = len(stage.members) <= MAX_MEMBERS
    return StageView(
        title=next(one.title for one in STAGES if one.name == stage.stage),
        summary=summary,
        statuses=tuple(solution.status for solution in stage.solutions),
        sky=sky_graph(stage, match.grid, unit).in_page(),
        before=_in_page(matrix(stage, unit, BEFORE) if drawn else None),
        after=_in_page(matrix(stage, unit, AFTER) if drawn else None),
        differences=differences(stage, unit).in_page(),
        convergence=_in_page(convergence(stage, unit)),
        modes=_in_page(modes(stage, unit)),
        loops=(
            *likeness_lines(summary),
            *loop_lines(summary, unit),
            *seam_lines(summary, unit),
            *mode_lines(stage, unit),
        ),
        left_out=max(0, len(pairs_of(stage)) - MOST_PAIRS),
    )


def _in_page(drawing: Svg | None) -> Markup | None:
    return None if drawing is None else drawing.in_page()


def _rejected(match: FieldMatch) -> list[tuple[StageMatch, PairResult]]:
    return [(stage, pair) for stage in match.stages for pair in pairs_of(stage) if pair.rejected is not None]


def _changed_settings(record: RunRecord) -> list[tuple[str, object, bool]]:
    """Return each setting with its value, and whether it is not the default."""
    defaults = MatchSettings().model_dump(mode="json")
    return [(name, value, value != defaults.get(name)) for name, value in sorted(record.settings.items())]
