"""The MLflow record of a run as plain values: parameters, metrics, series, tables and matrices."""

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flows.summary import Summary
from levelmatch_core.matching.corrections import FieldMatch, StageMatch, Status
from levelmatch_core.matching.model_selection import leave_one_pair_out
from levelmatch_core.matching.pair_matrices import PairMatrices
from levelmatch_core.matching.results import Rejection
from levelmatch_core.pipeline import RunResult
from levelmatch_core.products.slope_priors import SHOWN
from levelmatch_core.products.summaries import StageSummary
from levelmatch_core.products.tables import pairs_table
from levelmatch_core.products.verdict import Residual, pooled, residual_of
from levelmatch_core.settings import MatchSettings

UNIT = "unit of the data"
"""Placeholder for the unit of the images in :data:`MEANINGS`; the actual unit is in the tag `levelmatch.unit`."""

MEANINGS: Mapping[str, tuple[str, str]] = {
    "exposures": ("", "input images, one per detector and exposure"),
    "exposures_matched": ("", "of these, connected to a reference and corrected"),
    "exposures_reference": ("", "in a reference tile, whose correction is 0 between tiles"),
    "exposures_alone": ("", "without overlaps, left unchanged"),
    "exposures_untied": ("", "overlap, but every pair was rejected"),
    "exposures_failed": ("", "could not be processed"),
    "exposures_unmatched": ("", "untied and failed together: 0 in a good run"),
    "grade": ("", "how far the result may be trusted: 3 good, 2 fair, 1 doubtful, 0 failed"),
    "loops_open": ("", "loops of overlaps that do not close within 4 sigma of pixel noise: 0 in a good run"),
    "gains_found": ("", "differences that grow with brightness, an error of gain: 0 in a good run"),
    "strangers": ("", "exposures or tiles that show another sky than what overlaps: 0 in a good run"),
    "residual_in_sigmas": (
        "",
        "rms of the tested residuals over what pixel noise leaves, the worst stage: about 1 in a good run",
    ),
    "failures": ("", "files, exposures and products that failed: 0 in a good run"),
    "fields": ("", "parts of the sky with separate mosaics"),
    "components": ("", "groups of exposures without a common zero: as many as fields in a good run"),
    "pairs": ("", "overlapping pairs that were measured, in all stages"),
    "pairs_used": ("", "pairs used in the solution"),
    "pairs_rejected": ("", "pairs that were not used, for any reason"),
    **{f"pairs_rejected.{re.sub(r'[^0-9A-Za-z]', '_', reason)}": ("", f"of these: {reason}") for reason in Rejection},
    "residual_rms_before": (UNIT, "rms difference of the used pairs before the correction"),
    "residual_rms_after": (UNIT, "the same after the correction: the remaining seams"),
    "seam_rms_left_out": (UNIT, "rms seam of pairs that were left out of the solution: the criterion of a sweep"),
    "pairs_predicted": ("", "number of pairs in seam_rms_left_out"),
    "pull_largest": ("sigma", "largest tested residual over what pixel noise leaves: below about 4 in a good run"),
    "gain_in_sigmas": ("sigma", "largest growth of a difference with brightness, over its error"),
    "loops": ("", "independent loops of overlaps whose differences were summed"),
    "loop_scatter": ("sigma", "scatter of the sums over loops relative to noise, the worst stage: about 1"),
    "coverage_mean": ("", "exposures per pixel of the mosaics, of pixels that were seen"),
    "coverage_once": ("", "share of these pixels that only one exposure saw"),
    "iterations": ("", "iterations of the solver, the largest number of all groups"),
    "groups_unconverged": ("", "groups whose solve did not converge: 0 in a good run"),
    "slope_prior_width": (
        UNIT,
        "width of the slope prior, from centre to edge of a member; the largest of all groups",
    ),
    "slopes_changed_by_prior": ("", f"members whose slopes the prior changed by more than {SHOWN:g} sigma"),
    "slope_prior_change": ("sigma", "largest change of a slope by the prior, in units of its 1 sigma"),
    "convergence_level": (UNIT, "largest change of a level in each iteration"),
    "convergence_plane": (UNIT, "largest change of a coefficient of the planes in each iteration"),
    "duration_seconds": ("s", "duration of the run"),
    "peak_memory_megabytes": ("MB", "largest memory use"),
}
"""Metric, without the prefix of field and stage -> its unit and meaning."""

_FORBIDDEN = re.compile(r"[^0-9A-Za-z_\-. /]")


@dataclass(frozen=True)
class Measures:
    """The finite numbers of a run."""

    metrics: dict[str, float] = field(default_factory=dict)
    series: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Metrics with steps: the largest change in each iteration of the iterative solver."""
    left_out: int = 0
    """Number of values that were not finite."""


def parameters(settings: MatchSettings) -> dict[str, str]:
    """Return every setting as text."""
    return {name: str(value) for name, value in settings.model_dump(mode="json").items()}


def measures(result: RunResult, summary: Summary) -> Measures:
    """Return the metrics and series of a run.

    Metrics of the whole run have the same names in every run, so that runs can be compared; those of a field and its
    stages have the name of the field as a prefix if there are several fields. Quantities that were not measured are
    omitted, and never set to 0: a run without used pairs has no residual, and one whose fields have different units has
    no overall residual.
    """
    found: dict[str, float] = {
        "exposures": sum(summary.counts.values()),
        **{f"exposures_{status}": count for status, count in summary.counts.items()},
        "exposures_unmatched": sum(summary.counts.get(status, 0) for status in (Status.UNTIED, Status.FAILED)),
        "failures": len(result.failures),
        "grade": result.record.grade.rank,
        "loops_open": sum(stage.loops_failed for each in result.record.fields for stage in each.stages),
        "gains_found": sum(stage.gains_found for each in result.record.fields for stage in each.stages),
        "strangers": sum(len(stage.strangers) for each in result.record.fields for stage in each.stages),
        "fields": len(result.matches),
        "components": sum(each.components for each in summary.residuals),
        "pairs": sum(each.used + sum(each.rejected.values()) for each in summary.residuals),
        "pairs_used": sum(each.used for each in summary.residuals),
        "pairs_rejected": sum(sum(each.rejected.values()) for each in summary.residuals),
    }
    for reason in Rejection:
        found[f"pairs_rejected.{mlflow_name(reason)}"] = sum(each.rejected.get(reason, 0) for each in summary.residuals)
    scatters = [stage.seam_scatter for each in result.record.fields for stage in each.stages]
    if tested := [one for one in scatters if one is not None]:
        found["residual_in_sigmas"] = max(tested)
    found |= _tests(result)
    if len(units_of(summary)) == 1:
        found |= _residuals(summary.residuals) | _predictions(result)
    series: dict[str, tuple[float, ...]] = {}
    stages = {each.name: each.stages for each in result.record.fields}
    several = len(result.matches) > 1
    for match in result.matches:
        prefix = f"{match.field.name}/" if several else ""
        if several:
            found |= {f"{prefix}{name}": value for name, value in _residuals([residual_of(match)]).items()}
        for stage in stages[match.field.name]:
            found |= {f"{prefix}{stage.stage}.{name}": value for name, value in _of_stage(stage)}
        for stage_match in match.stages:
            series |= {f"{prefix}{name}": steps for name, steps in _convergence(stage_match)}
    found |= {"duration_seconds": result.seconds, "peak_memory_megabytes": summary.peak_memory}
    finite = {mlflow_name(name): value for name, value in found.items() if math.isfinite(value)}
    kept = {mlflow_name(name): tuple(step for step in steps if math.isfinite(step)) for name, steps in series.items()}
    left_out = len(found) - len(finite) + sum(len(series[name]) - len(kept[mlflow_name(name)]) for name in series)
    return Measures(finite, {name: steps for name, steps in kept.items() if steps}, left_out)


def mlflow_name(text: str) -> str:
    """Return a name that MLflow accepts, with forbidden characters replaced by underscores."""
    return _FORBIDDEN.sub("_", text).replace(" ", "_")


def glossary(table: str) -> str:
    """Return the meaning of all metrics as Markdown, the description of every experiment.

    `table` is the address of the table of its runs with columns that tell them apart.
    """
    rows = [f"| `{name}` | {unit} | {what} |" for name, (unit, what) in MEANINGS.items()]
    head = (
        "Sky levels of overlapping exposures, matched by levelmatch: one run for each run of the flow that changed its "
        f"output. [Compare them]({table}) by what tells them apart. The metrics are:"
    )
    foot = (
        f"The {UNIT} is that of the images, given by the tag `levelmatch.unit`. Metrics of a stage start with its name "
        "(`dithers.`, `mosaic_tiles.`, ...), those of one of several fields with the name of the field (`f770w_2/`)."
    )
    return "\n".join([head, "", "| metric | unit | what it is |", "|---|---|---|", *rows, "", foot])


def units_of(summary: Summary) -> set[str]:
    """Return the units of the fields with used pairs, as shown to the user."""
    return {each.unit or "data unit" for each in summary.residuals if each.used}


def _residuals(parts: Sequence[Residual]) -> dict[str, float]:
    """Return the residuals of fields, pooled over their used pairs; empty if there are none."""
    counts = [each.used for each in parts]
    if not sum(counts):
        return {}
    return {
        "residual_rms_before": pooled(counts, (each.before for each in parts)),
        "residual_rms_after": pooled(counts, (each.after for each in parts)),
    }


def _predictions(result: RunResult) -> dict[str, float]:
    """Return how well pairs are predicted that were left out, and the widest slope prior that was learned."""
    seams = leave_one_pair_out(
        solution for match in result.matches for stage in match.stages for solution in stage.solutions
    )
    widths = [prior.width for each in result.record.fields for stage in each.stages for prior in stage.slope_priors]
    return {
        "pairs_predicted": seams.tested,
        **({"seam_rms_left_out": seams.rms} if seams.tested else {}),
        **({"slope_prior_width": max(widths)} if widths else {}),
    }


def _tests(result: RunResult) -> dict[str, float]:
    """Return the largest pull and gain of used pairs, and how loops of overlaps close."""
    stages = [stage for each in result.record.fields for stage in each.stages]
    used = [
        pair
        for match in result.matches
        for stage in match.stages
        for solution in stage.solutions
        for pair in solution.pairs
        if pair.rejected is None
    ]
    pulls = [abs(pair.residual / pair.sigma) for pair in used if pair.sigma]
    gains = [abs(pair.fit.gain[0]) / pair.fit.gain[1] for pair in used if pair.fit.gain and pair.fit.gain[1]]
    scatters = [stage.loop_scatter for stage in stages if stage.loop_scatter is not None]
    return {
        "loops": sum(stage.loops for stage in stages),
        **({"pull_largest": max(pulls)} if pulls else {}),
        **({"gain_in_sigmas": max(gains)} if gains else {}),
        **({"loop_scatter": max(scatters)} if scatters else {}),
    }


def _of_stage(stage: StageSummary) -> Iterator[tuple[str, float]]:
    if stage.used:
        yield "residual_rms_before", stage.residual_before
        yield "residual_rms_after", stage.residual_after
    yield "pairs_used", stage.used
    yield "iterations", stage.iterations
    yield "groups_unconverged", len(stage.unconverged)
    if stage.slope_priors:
        yield "slope_prior_width", max(one.width for one in stage.slope_priors)
        changes = [change.size for one in stage.slope_priors for change in one.slopes]
        yield "slopes_changed_by_prior", sum(size > SHOWN for size in changes)
        yield "slope_prior_change", max(changes, default=0.0)


def _convergence(stage: StageMatch) -> Iterator[tuple[str, tuple[float, ...]]]:
    """Yield the convergence of the groups of a stage, with the name of the group if there are several."""
    for solution in stage.solutions:
        group = f".{solution.group}" if len(stage.solutions) > 1 else ""
        for story in solution.status.history:
            yield f"{stage.stage}{group}.convergence_{story.coefficient}", story.steps


# -- tables and matrices -----------------------------------------------------------------------------------------------
def pair_columns(result: RunResult) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """Return all pairs, and the rejected pairs, as columns of plain values."""
    table = pairs_table(result.matches)
    columns = {name: table[name].tolist() for name in table.colnames}
    rejected = [place for place, used in enumerate(columns["used"]) if not used]
    return columns, {name: [values[place] for place in rejected] for name, values in columns.items()}


def matrix_files(match: FieldMatch) -> Iterator[tuple[str, bytes]]:
    """Yield the pairs of a field as one .npz per stage: `<group>|delta`, npix, rms, linear, valid and names, N x N.

    For groups of more than 2,000 members these are columns, with the indices of the members in `first` and `second`.
    """
    for stage in match.stages:
        arrays: dict[str, Any] = {}
        for solution in stage.solutions:
            content = PairMatrices.of(solution)
            arrays[f"{solution.group}|names"] = np.array(content.names, dtype=str)
            arrays |= {f"{solution.group}|{name}": value for name, value in content.arrays().items()}
        if arrays:
            file = io.BytesIO()
            np.savez_compressed(file, allow_pickle=False, **arrays)
            yield f"{match.field.name}.{stage.stage}.npz", file.getvalue()
