"""What a flow run shows in Prefect's UI: the summary, the rejected pairs, what was left out, the link to MLflow."""

import re

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from flows.summary import Summary
from levelmatch_core.pipeline import RunResult

MOST_ROWS = 1000
"""Rows that a table shows; the whole table is in the output folder."""


def publish(result: RunResult, summary: Summary) -> None:
    """Make the artifacts of the flow run that we are in."""
    program = key_of(summary.program)
    create_markdown_artifact(markdown(summary), key=f"{program}-summary", description=summary.verdict)
    if rejected := rejected_pairs(result):
        create_table_artifact(
            rejected[:MOST_ROWS],
            key=f"{program}-rejected-pairs",
            description=f"{len(rejected)} pairs that were not used, with reasons (all are in pairs.ecsv)",
        )
    if summary.problems:
        create_table_artifact(
            [problem.to_json() for problem in summary.problems[:MOST_ROWS]],
            key=f"{program}-left-out",
            description="Exposures that were not matched, and what failed",
        )
    if summary.tracking is not None and summary.tracking.url:
        create_link_artifact(
            summary.tracking.url, link_text="MLflow run", key=f"{program}-mlflow", description=summary.tracking.store
        )


def key_of(name: str) -> str:
    """Return an artifact's key: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "levelmatch"


def rejected_pairs(result: RunResult) -> list[dict[str, str | float]]:
    """Return a row a rejected pair."""
    return [
        {
            "field": match.field.name,
            "stage": solution.stage,
            "first": pair.fit.first,
            "second": pair.fit.second,
            "reason": pair.rejected.value,
            "pixels": pair.fit.npix,
            "rms": pair.fit.rms,
            "residual": pair.residual,
        }
        for match in result.matches
        for stage in match.stages
        for solution in stage.solutions
        for pair in solution.pairs
        if pair.rejected is not None
    ]


def markdown(summary: Summary) -> str:
    """Return the summary as Markdown."""
    lines = [
        f"# {summary.program}{f' {summary.band}' if summary.band else ''}",
        "",
        f"**{summary.verdict}**",
        "",
        "| exposures | |",
        "|---|---|",
        *(f"| {status} | {count} |" for status, count in summary.counts.items() if count),
        "",
        "| field | rms before | rms after | unit | pairs used | rejected | components |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {each.field} | {each.before:.5g} | {each.after:.5g} | {each.unit} | {each.used} "
            f"| {sum(each.rejected.values())} | {each.components} |"
            for each in summary.residuals
        ),
        "",
        f"Outputs: `{summary.output}`{'' if summary.changed else ' (nothing changed)'}",
    ]
    if summary.tracking is not None:
        where = summary.tracking.lost or f"MLflow run `{summary.tracking.run_id}` in `{summary.tracking.store}`"
        lines += ["", where]
    if summary.notes:
        lines += ["", *(f"- {note}" for note in summary.notes)]
    return "\n".join(lines)
