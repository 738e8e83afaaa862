"""run.json: the record of a run, which depends only on inputs, settings and versions."""

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field as Described
from pydantic import ValidationError

from levelmatch_core.errors import OutputFolderError
from levelmatch_core.files.regular import refuse_irregular
from levelmatch_core.images.exposure import Failure, Inventory
from levelmatch_core.matching.alternatives import Advice
from levelmatch_core.matching.corrections import Correction, FieldMatch, StageMatch, Status
from levelmatch_core.matching.reference_history import lacking
from levelmatch_core.matching.results import (
    Component,
    LoopClosure,
    PairResult,
    Solution,
    WeakMode,
)
from levelmatch_core.matching.uncertainty.leave_one_out import pooled_freedom, pooled_tail
from levelmatch_core.process.versions import levelmatch_version, versions_of_libraries
from levelmatch_core.products.grade import Grade, worst_of
from levelmatch_core.products.grading import criteria_of
from levelmatch_core.products.manifest import InputFile, OutputFile, StaleProduct
from levelmatch_core.products.output.settings_changes import settings_before, told_settings
from levelmatch_core.products.slope_priors import slope_priors_of
from levelmatch_core.products.strangers import strangers, unlike_pairs
from levelmatch_core.products.summaries import (
    ComponentSummary,
    FieldSummary,
    GainError,
    GaugeChange,
    StageSummary,
    WorstSeam,
)
from levelmatch_core.records import Record
from levelmatch_core.settings import MatchSettings, roles_by_name

SCHEMA = 1
"""Version of the layout of run.json."""

NAMED = 10
"""Largest number of loops, suspects and modes per stage."""

SEAM_LIMIT = 4.0
"""A residual beyond this many sigma is more than noise."""
GAIN_LIMIT = 5.0
"""A slope against brightness beyond this many sigma is a gain error."""


class RunRecord(Record):
    """The record of a run."""

    schema_version: int = SCHEMA
    levelmatch: str = Described(description="version")
    libraries: dict[str, str] = Described(description="versions")
    program: str
    band: str | None
    preset: str = Described(default="pjpipe", description="the preset of the settings that were not given")
    settings: dict[str, Any] = Described(description="all except those that only affect how the run is executed")
    settings_before: dict[str, Any] = Described(
        default={}, description="what the settings were that changed last in this folder and affect the results"
    )
    inputs: tuple[InputFile, ...] = Described(description="sorted")
    given: dict[str, str] = Described(
        default={}, description="sha256 of the user's files other than images, by setting"
    )
    fields: tuple[FieldSummary, ...] = Described(description="sorted by name")
    grade: Grade = Described(default=Grade.GOOD, description="how far to trust the result: the worst of all fields")
    counts: dict[str, int] = Described(description="exposures by status; without files that are not exposures")
    advice: tuple[Advice, ...] = Described(
        default=(), description="of stages: what was seen and, where not good, tried"
    )
    failures: tuple[Failure, ...]
    notes: tuple[str, ...]
    pending: tuple[str, ...] = Described(
        default=(), description="files that were still being written, for the next run"
    )
    asides: dict[str, str] = Described(
        default={}, description="files that are no exposures of the sky, and why; notes name the first of them"
    )
    partial: bool = Described(
        description="whether inputs are missing in the products, because they failed or are pending"
    )
    stale: tuple[StaleProduct, ...] = Described(
        default=(), description="corrected files of earlier runs whose input is missing or damaged now; they stay"
    )
    files: tuple[OutputFile, ...] = Described(
        description="the manifest: all files except run.json and log.json; sorted"
    )

    @property
    def changed_settings(self) -> str:
        """How the settings differ from those of the output before, in words; '' if they never changed."""
        now = MatchSettings().model_dump(mode="json") | self.settings
        return told_settings({name: (old, now.get(name)) for name, old in self.settings_before.items()})

    def to_bytes(self) -> bytes:
        """Return the bytes of run.json, which are the same for the same record."""
        return json_bytes(self.to_json())

    @classmethod
    def load(cls, path: Path) -> "RunRecord":
        """Read a run.json.

        Raises
        ------
        OutputFolderError
            If the file is not a run.json that this version can read.
        """
        refuse_irregular(path, OutputFolderError)
        try:
            data = json.loads(path.read_bytes())
            found = data["schema_version"]
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            message = f"{path}: not a run.json of levelmatch ({type(error).__name__}: {error}); choose another folder"
            raise OutputFolderError(message) from error
        if found != SCHEMA:
            message = (
                f"{path}: schema version {found}, this levelmatch reads {SCHEMA}; choose another folder, or use the "
                f"version of levelmatch that made it ({data.get('levelmatch', 'unknown')})"
            )
            raise OutputFolderError(message)
        try:
            return cls.from_json(data)
        except ValidationError as error:
            message = f"{path}: not a run.json of levelmatch: {error}; choose another folder"
            raise OutputFolderError(message) from error


def json_bytes(data: object) -> bytes:
    """Return JSON with sorted keys, an indentation of one, and a newline at the end."""
    text = json.dumps(data, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    # file names that are not valid Unicode contain lone surrogates, which utf-8 cannot encode
    return (text + "\n").encode("utf-8", "backslashreplace")


def record_of(
    field_matches: Iterable[FieldMatch],
    settings: MatchSettings,
    program: str,
    inventory: Inventory,
    files: Iterable[OutputFile],
    *,
    previous: RunRecord | None = None,
    given: Mapping[str, str] | None = None,
    stale: Iterable[StaleProduct] = (),
) -> RunRecord:
    """Return the record of a run.

    Parameters
    ----------
    field_matches
        All fields, solved; in any order.
    settings
        The settings of the run.
    program
        The program's name.
    inventory
        The inputs.
    files
        The output files, without run.json and log.json.
    previous
        The finished run whose output this run updates.
    given
        Digests of the user's files other than images, by setting.
    stale
        Corrected files of earlier runs that stay.
    """
    matches = sorted(field_matches, key=lambda match: match.field.name)
    corrections = [correction for match in matches for correction in match.corrections]
    everything = (*inventory.failures, *(failure for match in matches for failure in match.failures))
    failures = {(failure.name, failure.step, failure.reason): failure for failure in everything}
    inputs = {(e.file, e.digest) for field in inventory.fields for e in field.exposures}
    roles = roles_by_name()
    fields = tuple(field_summary(match, previous) for match in matches)
    chosen = {name: value for name, value in settings.model_dump(mode="json").items() if roles[name] != "run"}
    return RunRecord(
        levelmatch=levelmatch_version(),
        libraries=versions_of_libraries(),
        program=program,
        band=settings.band,
        preset=settings.preset,
        settings=chosen,
        settings_before=(
            settings_before(previous.settings, previous.settings_before, chosen) if previous is not None else {}
        ),
        inputs=tuple(InputFile(file=file, sha256=digest) for file, digest in sorted(inputs)),
        given=dict(given or {}),
        fields=fields,
        grade=worst_of(one for field in fields for one in field.criteria),
        counts=_counts(corrections),
        failures=tuple(failure for _, failure in sorted(failures.items(), key=lambda item: item[0])),
        notes=tuple(dict.fromkeys([*inventory.notes, *(note for match in matches for note in match.notes)])),
        pending=tuple(sorted(waiting.name for waiting in inventory.pending)),
        asides=inventory.asides,
        partial=bool(lacking((*failures.values(), *inventory.pending))),
        stale=tuple(stale),
        files=tuple(sorted(files, key=lambda file: file.name)),
    )


def _counts(corrections: Iterable[Correction]) -> dict[str, int]:
    found = Counter(correction.status for correction in corrections)
    return {status.value: found[status] for status in Status}


def field_summary(match: FieldMatch, previous: RunRecord | None = None) -> FieldSummary:
    """Return a field in numbers; `previous` is the run whose output this one updates."""
    kind = (match.field.instrument, match.field.band, match.field.unit)
    before = [
        part
        for field in (previous.fields if previous else ())
        if (field.instrument, field.band, field.unit) == kind
        for part in field.components
    ]
    summary = FieldSummary(
        name=match.field.name,
        instrument=match.field.instrument,
        band=match.field.band,
        unit=match.field.unit,
        grid=match.grid,
        tiles=tuple(sorted({exposure.tile for exposure in match.field.exposures})),
        components=_components(match, before),
        stages=tuple(_stage(stage) for stage in match.stages),
        counts=_counts(match.corrections),
        missing=match.missing,
        pieces=match.pieces,
        scale_doubt=match.field.scale_doubt,
        few_values=sum(cutout.few_values for cutout in match.cutouts.values()),
        patches=len(match.patches),
    )
    return summary.model_copy(update={"criteria": criteria_of(summary)})


def _components(match: FieldMatch, before: Sequence[ComponentSummary]) -> tuple[ComponentSummary, ...]:
    parts: dict[int, list[Correction]] = {}
    for correction in match.corrections:
        if correction.component is not None:
            parts.setdefault(correction.component, []).append(correction)
    summaries = (
        ComponentSummary(
            number=number,
            exposures=len(part),
            reference=part[0].reference,
            reference_reason=_reason(match, part[0]),
            provisional=part[0].provisional,
            stands_for=part[0].stands_for,
            local_sky=part[0].local_sky,
            levels={one.exposure.name: one.total.level for one in part if one.status is not Status.FAILED},
        )
        for number, part in sorted(parts.items())
    )
    return tuple(part.model_copy(update={"zero_changes": _zero_changes(part, before)}) for part in summaries)


def _zero_changes(part: ComponentSummary, before: Iterable[ComponentSummary]) -> tuple[GaugeChange, ...]:
    """Return how the zero of a component changed; if it did not, the previously recorded change."""
    shared = [one for one in before if one.reference and not one.levels.keys().isdisjoint(part.levels)]
    changes = []
    for one in shared:
        if one.reference != part.reference:
            more = [level - one.levels[name] for name, level in part.levels.items() if name in one.levels]
            changes.append(
                GaugeChange(
                    reference=one.reference,
                    provisional=one.provisional,
                    level=statistics.median(more),
                    exposures=len(more),
                )
            )
    return tuple(changes or dict.fromkeys(change for one in shared for change in one.zero_changes))


def _reason(match: FieldMatch, correction: Correction) -> str:
    """Return why the reference was chosen, from the last stage in which the exposure took part."""
    for stage in reversed(match.stages):
        component = component_of(stage, correction.exposure.name)
        if component is not None and (component.reference or component.given):
            return component.reference_reason
    return "no other tile is in its component" if correction.reference else ""


def component_of(stage: StageMatch, exposure: str) -> Component | None:
    """Return the component of a stage that contains an exposure; None if it does not take part."""
    member = next((member.name for member in stage.members if exposure in member.exposures), None)
    components = (component for solution in stage.solutions for component in solution.components)
    return next((component for component in components if member in component.members), None)


def _stage(stage: StageMatch) -> StageSummary:
    solutions = stage.solutions
    pairs = [pair for solution in solutions for pair in solution.pairs]
    rejected = Counter(pair.rejected.value for pair in pairs if pair.rejected is not None)
    seams = [pair.residual / pair.sigma for pair in pairs if pair.sigma]
    shown = [pair.fit.structure / pair.fit.stderr for pair in pairs if pair.rejected is None and pair.fit.stderr > 0]
    unlike = unlike_pairs(pairs)
    gains = sorted(map(_gain, filter(_has_gain, pairs)), key=lambda one: (-abs(one.gain / one.sigma), one.first))
    loops = [one for solution in solutions for one in solution.status.loops]
    worst = sorted((loop for one in loops for loop in one.worst), key=lambda loop: -abs(loop.sum) / loop.sigma)
    suspects = sorted((suspect for one in loops for suspect in one.suspects), key=lambda one: (-one.loops, one.pairs))
    modes = sorted((one for solution in solutions for one in _weakest(solution)), key=lambda one: -one.sigma)
    return StageSummary(
        stage=stage.stage,
        fit_type="/".join(sorted({solution.fit_type for solution in solutions})),
        groups=len(solutions),
        members=sum(len(solution.members) for solution in solutions),
        components=sum(len(solution.components) for solution in solutions),
        solver="/".join(sorted({solution.status.solver for solution in solutions})),
        converged=all(solution.status.converged for solution in solutions),
        unconverged=tuple(solution.group for solution in solutions if not solution.status.converged),
        iterations=max((solution.status.iterations for solution in solutions), default=0),
        residual_before=_pooled((s, s.status.residual_before) for s in solutions),
        residual_after=_pooled((s, s.status.residual_after) for s in solutions),
        pairs=len(pairs),
        used=len(pairs) - rejected.total(),
        rejected=dict(sorted(rejected.items())),
        untestable=tuple(name for solution in solutions for name in solution.status.untestable),
        loops=sum(one.tested for one in loops),
        loops_failed=sum(one.failed for one in loops),
        loops_unexplained=sum(one.unexplained for one in loops),
        loop_scatter=_loop_scatter(loops),
        worst_loops=tuple(worst[:NAMED]),
        suspects=tuple(suspects[:NAMED]),
        structure=statistics.median(shown) if shown else 0.0,
        seams_tested=len(seams),
        seams_beyond=sum(abs(size) > SEAM_LIMIT for size in seams),
        worst_seam=_worst_seam(solutions),
        seam_scatter=math.sqrt(sum(size**2 for size in seams) / len(seams)) if seams else None,
        residual_freedom=pooled_freedom(
            (_tested(solution), solution.status.residual_freedom) for solution in solutions
        ),
        residual_tail=pooled_tail(
            (_tested(solution), solution.status.residual_freedom, solution.status.residual_tail)
            for solution in solutions
            if solution.status.residual_tail
        ),
        gains_tested=sum(pair.fit.gain is not None for pair in pairs if pair.rejected is None),
        gains=tuple(gains[:NAMED]),
        gains_found=len(gains),
        unlike=tuple(unlike[:NAMED]),
        unlike_found=len(unlike),
        strangers=tuple(strangers(pairs, unlike)),
        choice=next((solution.status.choice for solution in solutions), None),
        modes=tuple(modes[:NAMED]),
        slope_priors=slope_priors_of(solutions),
        notes=tuple(f"{solution.group}: {note}" for solution in solutions for note in solution.status.notes),
    )


def _tested(solution: Solution) -> int:
    return sum(bool(pair.sigma) for pair in solution.pairs)


def _worst_seam(solutions: Sequence[Solution]) -> WorstSeam | None:
    """Return the pair that the others contradict most, of the groups whose residuals have exact sigmas."""
    sizes = [
        (abs(pair.residual) / pair.sigma, pair)
        for solution in solutions
        if solution.status.residuals_exact
        for pair in solution.pairs
        if pair.sigma
    ]
    if not sizes:
        return None
    size, pair = max(sizes, key=lambda one: one[0])
    predicted, fit = pair.predicted, pair.fit
    off = pair.residual if predicted is None else fit.plane.level - predicted.about(fit.plane.x0, fit.plane.y0).level
    return WorstSeam(first=fit.first, second=fit.second, size=size, off=off, among=len(sizes))


def _loop_scatter(loops: Sequence[LoopClosure]) -> float | None:
    """Return the scatter of all groups' loops, each group by its number of loops; None where there are none."""
    tested = sum(one.tested for one in loops)
    return math.sqrt(sum(one.tested * one.scatter**2 for one in loops) / tested) if tested else None


def _weakest(solution: Solution) -> list[WeakMode]:
    """Return the weakest mode of each component that has any, without its pattern."""
    first = {mode.component: mode for mode in reversed(solution.status.modes)}
    return [mode.model_copy(update={"pattern": ()}) for _, mode in sorted(first.items())]


def _has_gain(pair: PairResult) -> bool:
    found = pair.fit.gain
    return pair.rejected is None and found is not None and abs(found[0]) > GAIN_LIMIT * found[1]


def _gain(pair: PairResult) -> GainError:
    slope, sigma, brightness = pair.fit.gain or (0.0, 0.0, 0.0)
    fit = pair.fit
    return GainError(first=fit.first, second=fit.second, gain=slope, sigma=sigma, false_level=slope * brightness)


def _pooled(rms_of: Iterable[tuple[Solution, float]]) -> float:
    """Return the rms over the used pairs of all groups, from each group's rms."""
    squares, count = 0.0, 0
    for solution, rms in rms_of:
        used = sum(pair.rejected is None for pair in solution.pairs)
        squares += used * rms**2
        count += used
    return math.sqrt(squares / count) if count else 0.0
