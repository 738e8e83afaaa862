"""The artifacts of a flow run in Prefect's UI: progress, summary, rejected pairs, unmatched exposures, and a link."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from httpx import HTTPError
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.exceptions import PrefectException

from flows.progress import Advance, Reporter
from flows.summary import Summary
from flows.tracking.markdown import code, escaped
from levelmatch_core.jobs.products import mosaic_name
from levelmatch_core.pipeline import RunResult
from levelmatch_core.process.log_context import logger_of
from levelmatch_core.products.report.images import side_by_side
from levelmatch_core.text.plain_text import one_line

logger = logger_of(__name__)

MOST_ROWS = 1000
"""Largest number of rows in a table; the complete table is in the output folder."""

MOST_PICTURES, SIDE = 3, 420
"""Largest number of fields with an image in the summary, and the longest side of each of its two images, pixels."""

PERIOD = 5.0
"""Seconds between updates of the progress; shorter steps are not reported."""


class ProgressArtifact:
    """Shows long steps as a progress artifact of the flow run, in addition to another reporter.

    Parameters
    ----------
    shown
        The other reporter.
    program
        The program that is running.
    period
        Seconds between updates.
    """

    def __init__(self, shown: Reporter, program: str, period: float = PERIOD) -> None:
        self._shown = shown
        self._key = f"{key_of(program)}-progress"
        self._period = period
        self._artifact: UUID | None = None
        self._lost = False

    @contextmanager
    def step(self, title: str, total: int) -> Iterator[Advance]:
        """Show the progress of a step of `total` jobs during the context."""
        done, told, last = 0, False, time.monotonic()

        def advanced(count: int) -> None:
            nonlocal done, told, last
            advance(count)
            done += count
            if time.monotonic() - last >= self._period:
                self._tell(title, done, total)
                told, last = True, time.monotonic()

        with self._shown.step(title, total) as advance:
            yield advanced
        if told:
            self._tell(title, total, total)

    def _tell(self, title: str, done: int, total: int) -> None:
        if self._lost:
            return
        percent, words = round(100.0 * done / total, 1), escaped(f"{title}: {done} of {total}")
        try:
            if self._artifact is None:
                made = create_progress_artifact(progress=percent, key=self._key, description=words)
                self._artifact = made if isinstance(made, UUID) else None
            else:
                update_progress_artifact(self._artifact, progress=percent, description=words)
        except (PrefectException, HTTPError, OSError) as error:
            self._lost = True  # a run must not fail because its progress cannot be shown
            logger.warning("Prefect does not accept the progress of the run; no more progress is reported: %s", error)


def publish(result: RunResult, summary: Summary) -> None:
    """Create the artifacts of the current flow run."""
    program = key_of(summary.program)
    create_markdown_artifact(
        markdown(summary, pictures(result)), key=f"{program}-summary", description=escaped(summary.verdict)
    )
    if rejected := rejected_pairs(result):
        create_table_artifact(
            [_plain(row) for row in rejected[:MOST_ROWS]],
            key=f"{program}-rejected-pairs",
            description=f"{len(rejected)} pairs that were not used, with reasons (all pairs are in pairs.ecsv)",
        )
    if summary.problems:
        create_table_artifact(
            [_plain(problem.to_json()) for problem in summary.problems[:MOST_ROWS]],
            key=f"{program}-left-out",
            description="Exposures that were not matched, and failures",
        )
    if summary.tracking is not None and summary.tracking.url:
        create_link_artifact(
            summary.tracking.url,
            link_text="MLflow run",
            key=f"{program}-mlflow",
            description=escaped(summary.tracking.store),
        )


def key_of(name: str) -> str:
    """Return the key of an artifact: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "levelmatch"


def rejected_pairs(result: RunResult) -> list[dict[str, str | float]]:
    """Return one row per rejected pair."""
    return [
        {
            "stage": solution.stage,
            "reason": pair.rejected.value,
            "first": pair.fit.first,
            "second": pair.fit.second,
            "pixels": pair.fit.npix,
            "difference": _short(pair.fit.plane.level),
            "scatter": _short(pair.fit.rms),
            "left after": _short(pair.residual),
            "unit": match.field.unit,
            "field": match.field.name,
        }
        for match in result.matches
        for stage in match.stages
        for solution in stage.solutions
        for pair in solution.pairs
        if pair.rejected is not None
    ]


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of a table whose texts are shown as they are."""
    return {name: one_line(value) if isinstance(value, str) else value for name, value in row.items()}


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def pictures(result: RunResult) -> dict[str, str]:
    """Return the mosaics of the first few fields before and after, and the difference, abreast, as `data:` URLs."""
    made = {file.name for file in result.record.files}
    names = {match.field.name: mosaic_name(match.field.name) for match in result.matches}
    found = {field: result.request.output / name for field, name in names.items() if name in made}
    return {field: side_by_side(found[field], SIDE) for field in list(found)[:MOST_PICTURES]}


def markdown(summary: Summary, shown: dict[str, str] | None = None) -> str:
    """Return the summary as Markdown, with an image per field."""
    lines = [
        f"# {escaped(' '.join(filter(None, (summary.program, summary.band))))}",
        "",
        f"**{escaped(summary.verdict)}**",
        "",
    ]
    for field, address in (shown or {}).items():
        name = escaped(field)
        lines += [
            f"Mosaic {name}: before, after, and before \N{MINUS SIGN} after:",
            "",
            f"![{name} before and after]({address})",
            "",
        ]
    lines += [
        "| field | rms before | rms after | unit | pairs used | rejected | components |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {escaped(each.field)} | {each.before:.5g} | {each.after:.5g} | {escaped(each.unit or 'data unit')} "
            f"| {each.used} "
            f"| {sum(each.rejected.values())} | {each.components} |"
            for each in summary.residuals
        ),
        "",
        "| exposures | |",
        "|---|---|",
        *(f"| {status} | {count} |" for status, count in summary.counts.items() if count),
        "",
        f"Outputs: {code(summary.output)}{'' if summary.changed else ' (nothing changed)'}",
    ]
    if summary.tracking is not None:
        where = escaped(summary.tracking.lost) or (
            f"MLflow: [run {summary.tracking.run_id}]({summary.tracking.url}) in {code(summary.tracking.store)}"
        )
        lines += ["", where]
    if summary.notes:
        lines += ["", *(f"- {escaped(note)}" for note in summary.notes)]
    return "\n".join(lines)
