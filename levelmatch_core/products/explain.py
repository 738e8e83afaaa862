"""What an output folder says, in words: why this reference, why pairs were rejected, how good it is, what to try."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from astropy.table import Row, Table

from levelmatch_core.errors import OutputFolderError
from levelmatch_core.files.ecsv import FAULTS, read_ecsv
from levelmatch_core.images.instruments import by_name
from levelmatch_core.instrument_tables import InstrumentTable
from levelmatch_core.matching.alternatives import Advice
from levelmatch_core.matching.corrections import Status
from levelmatch_core.matching.results import Rejection
from levelmatch_core.matching.stages import STAGES
from levelmatch_core.products.grade import told
from levelmatch_core.products.output.folder import JOURNAL, RUN
from levelmatch_core.products.runrecord import GAIN_LIMIT, SEAM_LIMIT, RunRecord
from levelmatch_core.products.slope_priors import slope_prior_lines
from levelmatch_core.products.strangers import words_of
from levelmatch_core.products.summaries import FieldSummary, StageSummary
from levelmatch_core.products.verdict import left_out_of, missing_of, residual_of_summary, told_changes, verdict
from levelmatch_core.text.naming import some_of

NAMED = 5
"""Most pairs of one reason that are named."""

GOOD_RATIO, POOR_RATIO = 2.0, 5.0
"""Residuals this many times their expected errors (rms over rms) are as they should be, or need a look."""

_REASONS = {
    Rejection.TOO_FEW_PIXELS: (
        "fewer pixels than min_area_percent ({min_area_percent}) of the average pair",
        "a slight overlap says little; lower min_area_percent if these pairs are all that ties an exposure",
    ),
    Rejection.TOO_SHORT: (
        "along neither detector axis does the overlap reach min_linear_frac ({min_linear_frac}) of a member's extent",
        "corners that barely touch are best left out; lower min_linear_frac if these pairs are all that ties a tile",
    ),
    Rejection.TOO_NOISY: (
        "the scatter of their pixels is more than rms_sig_limit ({rms_sig_limit}) standard deviations above the mean",
        "look at the pair's figure for what scatters there; raise rms_sig_limit if it is only nebula",
    ),
    Rejection.OUTLIER: (
        "they contradict the other pairs of their members",
        "look at the pair's figure for what differs there: an artefact, a ghost, a moving object",
    ),
    Rejection.FORBIDDEN: ("they were forbidden by name", "nothing: this was asked for"),
}


def explain(folder: Path) -> str:
    """Return the story of a finished output folder.

    Parameters
    ----------
    folder
        With its run.json and pairs.ecsv.

    Raises
    ------
    OutputFolderError
        If the folder holds no finished output, or one that this version cannot read.
    """
    record = RunRecord.load(_finished(folder))
    pairs = _pairs(folder)
    criteria = [one for field in record.fields for one in field.criteria]
    lines = [f"Grade: {told(record.grade, criteria)}."]
    lines += [verdict(record.counts, left_out_of(record), map(residual_of_summary, record.fields), record.fields)]
    if record.changed_settings:
        lines.append(f"The settings changed since the output before: {record.changed_settings}.")
    for field in record.fields:
        mine = pairs[pairs["field"] == field.name]
        lines += ["", f"Field {field.name} ({sum(field.counts.values())} exposures, {len(field.tiles)} tiles)"]
        lines += [f"  {one.grade.value}: {one.words} ({one.stage or 'field'})" for one in field.criteria]
        lines += [f"  {line}" for line in _field_lines(field, mine, record)]
        lines += [f"  {line}" for one in record.advice if one.field == field.name for line in advice_lines(one)]
    if record.failures or record.pending:
        lines += ["", f"Left out{': these products are partial' if record.partial else ''}"]
        lines += [f"  {failure.name} ({failure.step}): {failure.reason}" for failure in record.failures]
        lines += [f"  {name}: pending, still being written: the next run takes it" for name in record.pending]
    if record.stale:
        lines += ["", "Stale: corrected by an earlier run; `levelmatch prune` removes them"]
        lines += [f"  {product.name}: {product.reason}; {product.fate}" for product in record.stale]
    for note in record.notes:
        lines += ["", f"Note: {note}"]
    return "\n".join(lines)


def _finished(folder: Path) -> Path:
    run = folder / RUN
    if run.is_file():
        return run
    unfinished = (folder / JOURNAL).is_file()
    what = "an unfinished run: run it again to finish it" if unfinished else "no run.json: name an output folder"
    message = f"{folder}: {what}"
    raise OutputFolderError(message)


def _pairs(folder: Path) -> Table:
    path = folder / "pairs.ecsv"
    try:
        return read_ecsv(path)
    except FAULTS as error:
        message = f"{path}: not a pairs table of levelmatch ({error}); run again to write it anew"
        raise OutputFolderError(message) from error


def _field_lines(field: FieldSummary, pairs: Table, record: RunRecord) -> Iterator[str]:
    yield from _references(field)
    tried: list[str] = []
    for stage in field.stages:
        mine = pairs[pairs["stage"] == stage.stage]
        if len(mine):
            yield from _stage_lines(stage, mine, field.unit or "data units", record, tried)
    if field.counts.get(Status.UNTIED):
        tried.append(
            f"{field.counts[Status.UNTIED]} exposures are untied: their pairs are in pairs.ecsv with used=False; "
            f"loosen the limit that rejected them, or accept that nothing ties them"
        )
    if len(field.components) > 1 and sum(part.exposures > 1 for part in field.components) > 1:
        tried.append("the components do not overlap usably: exposures between them would tie them")
    tables = [InstrumentTable.from_json(table) for table in record.settings.get("instruments", ())]
    instrument = by_name(field.instrument, tables)
    background, next_step = instrument.background, instrument.next_step
    if background and record.settings.get("write_background"):
        tried.append(background)
    if next_step:
        tried.append(f"next, without matching again: {next_step.splitlines()[0]}")
    if tried:
        yield "What to try or do:"
        yield from (f"  - {line}" for line in tried)


def _references(field: FieldSummary) -> Iterator[str]:
    for part in field.components:
        if part.exposures == 1 and not part.reference:
            continue
        held = (
            f"its zero is that of {part.shown_reference}, chosen because: {part.reference_reason}"
            if part.reference
            else f"its zero is that of {part.reference_reason}"
            if part.reference_reason
            else "its mean correction is 0: no reference was needed"
        )
        provisional = f"; provisional: it stands in for {missing_of(part)}" if part.provisional else ""
        yield f"Component {part.number}, {part.exposures} exposures: {held}{provisional}."
        yield from (f"  {line}" for line in told_changes(part, field.unit))
        if part.local_sky:
            unit = field.unit or "data units"
            yield f"  The local sky of its first exposure, {part.local_sky:.5g} {unit}, is subtracted from all of them."
    if field.missing:
        yield f"Missing tiles: {some_of(field.missing, where='run.json')}."
    lone = sum(part.exposures == 1 for part in field.components)
    if lone:
        yield f"{lone} exposures are components of their own."


def _stage_lines(stage: StageSummary, pairs: Table, unit: str, record: RunRecord, tried: list[str]) -> Iterator[str]:
    title = next(one.title for one in STAGES if one.name == stage.stage)
    yield (
        f"{title[0].upper()}{title[1:]} ({stage.fit_type}): {stage.used} of {stage.pairs} pairs used; differences of "
        f"{stage.residual_before:.4g} {unit} rms {_became(stage)}."
    )
    if stage.choice is not None:
        yield f"  Chosen: {stage.choice.reason}."
    used = pairs[pairs["used"]]
    yield from (f"  {line}" for line in (*likeness_lines(stage), *loop_lines(stage, unit), *seam_lines(stage, unit)))
    if stage.modes:
        mode = stage.modes[0]
        yield (
            f"  The pattern of corrections that the overlaps see least may be off by {mode.sigma:.3g} {unit} rms at "
            f"1 sigma, {mode.share:.0%} of the levels' variance."
        )
    yield from (f"  {line}" for line in slope_prior_lines(stage.slope_priors, unit))
    if len(used):
        yield f"  {_quality(stage, used, unit)}"
    if not stage.converged:
        yield f"  The solve did not converge for: {', '.join(stage.unconverged[:NAMED])}."
        tried.append("solver='least_squares' needs no convergence; or raise n_iter")
    bridges = int(np.count_nonzero(used["bridge"]))
    if bridges:
        yield f"  {bridges} pairs are bridges: no other pair tests the level that they carry."
    for reason in Rejection:
        rejected = pairs[pairs["reason"] == reason.value]
        if len(rejected):
            why, hint = _REASONS[reason]
            yield f"  {len(rejected)} rejected, {reason.value}: {why.format_map(record.settings)}."
            yield from (f"    {row}" for row in _named(rejected, reason))
            if f"{reason.value}: {hint}" not in tried:
                tried.append(f"{reason.value}: {hint}")


def _became(stage: StageSummary) -> str:
    """Say what the differences became; of pairs that nothing tests, the solve leaves nothing, which says nothing."""
    if stage.used and not stage.seams_tested:
        return "were subtracted whole: nothing tests what is left"
    return f"became {stage.residual_after:.4g}"


def advice_lines(advice: Advice) -> Iterator[str]:
    """Say what was seen in a stage, what was tried if it is not good, and which of it is better and by how much."""
    title = next(one.title for one in STAGES if one.name == advice.stage)
    yield f"{title[0].upper()}{title[1:]}: what was seen{', and what was tried' if advice.trials else ''}"
    yield from (f"  - {remark}." for remark in advice.remarks)
    for trial in advice.better:
        yield f"  - better: {trial.words}{f'; --set {trial.setting}' if trial.setting else ''}."
    if advice.trials and not advice.better:
        yield "  - none of what was tried is clearly better."
    for trial in advice.trials:
        if trial not in advice.better:
            withheld = "; not advised: planes would follow what is fixed to the detector, or the gain"
            yield f"  - tried: {trial.words}{withheld if trial.is_better else ''}."


def seam_lines(stage: StageSummary, unit: str) -> Iterator[str]:
    """Say how large the seams are against noise, and whether they are levels at all."""
    if stage.seams_tested and stage.seam_scatter is not None:
        yield (
            f"{stage.seams_beyond} of {stage.seams_tested} tested seams are beyond {SEAM_LIMIT:g} sigma of what pixel "
            f"noise leaves; their rms is {stage.seam_scatter:.2g} sigma."
        )
    worst = stage.worst_seam
    if worst is not None and worst.size > SEAM_LIMIT:
        yield (
            f"  {worst.first} - {worst.second} is off by {worst.off:.3g} {unit} from what all other pairs say, "
            f"{worst.size:.2g} sigma."
        )
    if stage.gains_found:
        yield (
            f"{stage.gains_found} of {stage.gains_tested} differences grow with brightness by more than "
            f"{GAIN_LIMIT:g} sigma: an error of gain (flat field, photometric zero point) or structure that follows "
            "the nebula, which no level mends."
        )
    for one in stage.gains[:NAMED]:
        yield (
            f"  {one.first} - {one.second}: {100 * one.gain:.3g} +- {100 * one.sigma:.2g} %, which at the overlap's "
            f"brightness feigns a level of {one.false_level:.3g} {unit}."
        )


def likeness_lines(stage: StageSummary) -> Iterator[str]:
    """Say which members show another sky than their neighbours."""
    words = words_of(stage)
    if words:
        yield f"{words[0].upper()}{words[1:]}."
    for one in stage.unlike[:NAMED]:
        yield f"  {one.first} - {one.second}: what they show is correlated by {one.correlation:.2f} +- {one.sigma:.2g}."


def loop_lines(stage: StageSummary, unit: str) -> Iterator[str]:
    """Say how well the loops of overlaps close, which pairs explain those that do not, and what cannot be tested."""
    if stage.loops:
        if stage.loops_failed:
            lead = f"{stage.loops_failed} of {stage.loops} independent loops of overlaps do not close within 4 sigma"
            if stage.worst_loops:
                worst = stage.worst_loops[0]
                lead += f", the worst by {abs(worst.sum):.3g} {unit}, {abs(worst.sum) / worst.sigma:.2g} sigma"
        else:
            lead = f"All {stage.loops} independent loops of overlaps close within 4 sigma"
        scatter = f"; the scatter of their sums is {stage.loop_scatter:.2g} times that of pixel noise"
        yield lead + (scatter if stage.loop_scatter is not None else "") + "."
    for suspect in stage.suspects[:NAMED]:
        named = " or ".join(f"{first} - {second}" for first, second in suspect.pairs[:NAMED])
        yield f"An error of {suspect.error:.3g} {unit} in {named} would explain {suspect.loops} loops that are open."
    if stage.untestable:
        yield (
            f"{len(stage.untestable)} members have two pairs or fewer, or hang on a bridge; a bad pair there cannot "
            f"be told: {some_of(stage.untestable, NAMED)}."
        )


def _quality(stage: StageSummary, used: Table, unit: str) -> str:
    """Compare what is left with what the pairs' noise allows: a tree of pairs leaves nothing, and tests nothing."""
    residual = np.asarray(used["residual"], dtype=float)
    error = np.asarray(used["stderr"], dtype=float)
    expected = float(np.sqrt(np.mean(error**2)))
    left = float(np.sqrt(np.mean(residual**2)))
    worst = int(np.argmax(np.abs(residual)))
    named = f"{used['first'][worst]} - {used['second'][worst]} ({residual[worst]:.3g} {unit})"
    if stage.used <= stage.members - stage.components:
        return "Every level hangs on a single chain of pairs: nothing is left, and nothing tests it."
    if not expected:
        return f"The pairs carry no noise to compare with; the worst is {named}."
    ratio = left / expected
    if ratio <= GOOD_RATIO:
        return f"What is left is {ratio:.2g} times the pairs' own errors ({expected:.2g} {unit}), as it should be."
    verdict_ = "more than noise" if ratio <= POOR_RATIO else "far more than noise"
    return (
        f"What is left is {ratio:.2g} times the pairs' own errors ({expected:.2g} {unit}), {verdict_}; worst: {named}."
    )


def _named(rejected: Table, reason: Rejection) -> Iterator[str]:
    shown: dict[Rejection, Callable[[Row], str]] = {
        Rejection.TOO_FEW_PIXELS: lambda row: f"{row['npix']} pixels",
        Rejection.TOO_SHORT: lambda row: f"reaches {max(row['linear_x'], row['linear_y']):.4g}",
        Rejection.TOO_NOISY: lambda row: f"rms {row['rms']:.3g}",
    }
    tell = shown.get(reason, lambda row: f"left after the solve {row['residual']:.3g}")
    for row in rejected[:NAMED]:
        yield f"{row['first']} - {row['second']}: {tell(row)}"
    if len(rejected) > NAMED:
        yield f"and {len(rejected) - NAMED} more, in pairs.ecsv"
