"""The solution of one field, stage by stage."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from levelmatch_core.images.exposure import Exposure, Failure, Field
from levelmatch_core.images.given import GivenFiles, SkyMask
from levelmatch_core.jobs.job import JobRunner, parted
from levelmatch_core.jobs.science import (
    CutoutJob,
    ErrorsJob,
    FieldErrors,
    MeasureJob,
    PairFits,
    SkyJob,
    SolveJob,
    StackJob,
)
from levelmatch_core.matching.corrections import (
    Correction,
    FieldMatch,
    StageMatch,
    Status,
    corrections_of,
    touching,
    with_tiles,
)
from levelmatch_core.matching.graph import is_named
from levelmatch_core.matching.model_selection import choose
from levelmatch_core.matching.pairs import candidate_pairs
from levelmatch_core.matching.reference_history import Zeros
from levelmatch_core.matching.results import Choice, Member, PairFit, Solution
from levelmatch_core.matching.stages import STAGES, Merger, Stage, groups_of, mergers
from levelmatch_core.matching.uncertainty.member_noise import member_noise
from levelmatch_core.process.log_context import log_context, logger_of
from levelmatch_core.settings import FitType, MatchSettings
from levelmatch_core.sky.cutouts import CutoutRecord
from levelmatch_core.sky.field_contents import blank_notes, of_another_scale, wild_notes
from levelmatch_core.sky.grid import Grid
from levelmatch_core.sky.plane import Plane

logger = logger_of(__name__)

NO_FILES = GivenFiles()
"""The user's files if there are only images."""

PAIRS_A_JOB = 200
"""Number of pairs per measuring job: large enough to be worth a task, small enough to be distributed."""


@dataclass(frozen=True)
class FieldWork:
    """What all steps of one field have in common."""

    field: str
    settings: MatchSettings
    each: JobRunner
    preferred: tuple[str, ...] = ()
    files: GivenFiles = NO_FILES


def match_field(
    field: Field,
    grid: Grid,
    settings: MatchSettings,
    each: JobRunner,
    *,
    zeros: Zeros | None = None,
    files: GivenFiles = NO_FILES,
) -> FieldMatch:
    """Solve one field, stage by stage.

    Parameters
    ----------
    field, grid
        The exposures, and their common grid.
    settings
        All settings.
    each
        Runner of jobs.
    zeros
        The references of an earlier run, which are kept if they still exist, and the missing tiles; None for neither.
    files
        The user's files other than images.

    Raises
    ------
    NoInputError
        If no exposure of the field could be resampled.
    """
    zeros = zeros or Zeros(named=settings.reference)
    work = FieldWork(field.name, settings, each, zeros.preferred, files)
    anchor = files.anchor if files.anchor is not None and files.anchor.unit == field.unit else None
    jobs = [
        CutoutJob(
            label=exposure.name,
            exposures=(exposure.name,),
            settings=settings,
            exposure=exposure,
            grid=grid,
            exclude=files.exclude,
        )
        for exposure in (*field.exposures, *filter(None, (anchor,)))
    ]
    done, failures = parted(each(jobs, f"{field.name}: cutouts"))
    cutouts: dict[str, CutoutRecord] = {cutout.name: cutout for cutout in done}
    for other in of_another_scale(field, cutouts):
        with log_context(field.name, "cutout"):
            logger.error("%s", other.reason)
        failures.append(other)
        del cutouts[other.name]
    left_out_pixels = (*blank_notes(field, cutouts), *wild_notes(field, cutouts))
    members = [
        single_member(exposure, cutouts[exposure.name]) for exposure in field.exposures if exposure.name in cutouts
    ]
    stages = []
    for stage in STAGES:
        if stage is STAGES[-1] and anchor is not None and anchor.name in cutouts:
            surveyed = anchor.model_copy(update={"groups": {stage.name: field.name}})
            members.append(single_member(surveyed, cutouts.pop(anchor.name)).model_copy(update={"locked": True}))
        groups = groups_of(stage, members)
        if not groups:
            continue
        solutions, lost = match_groups(stage, groups, work)
        failures += lost
        taking_part = [member for group in groups.values() for member in group]
        stages.append(StageMatch(stage=stage.name, members=tuple(taking_part), solutions=tuple(solutions)))
        if stage is STAGES[-1]:
            break
        passed_over = [member for member in members if stage.name not in member.groups]
        merged, lost = merge(stage, groups, solutions, work)
        failures += lost
        members = sorted(passed_over + merged, key=lambda member: member.name)
    errors = _errors(tuple(stages), cutouts, work)
    sigmas = None if isinstance(errors, Failure) else errors.sigmas
    corrections = corrections_of(field, cutouts, tuple(stages), tuple(failures), zeros, sigmas=sigmas)
    if isinstance(errors, Failure):
        failures.append(errors)
    corrections, lost, notes = with_local_sky(corrections, touching(stages, corrections), cutouts, work)
    notes = (*left_out_pixels, *notes)
    living = {one.exposure.tile for one in corrections if one.status is not Status.FAILED}
    for note in notes:
        with log_context(field.name, "notes"):
            logger.warning("%s", note)
    return FieldMatch(
        field=field,
        grid=grid,
        cutouts=cutouts,
        stages=tuple(stages),
        corrections=corrections,
        error_map=None if isinstance(errors, Failure) else errors.map,
        failures=with_tiles(field, [*failures, *lost]),
        notes=notes,
        missing=tuple(sorted(zeros.missing | {exposure.tile for exposure in field.exposures} - living)),
    )


def whole_cutouts(
    match: FieldMatch, settings: MatchSettings, each: JobRunner, exclude: SkyMask | None = None
) -> tuple[dict[str, CutoutRecord], list[Failure]]:
    """Return the cutouts of a solved field with the pixels of sources, which are masked for measuring only.

    `exclude` stays out: what lies there is not of the sky.

    Returns
    -------
    The cutouts by exposure, of those that did not fail, and what failed now.
    """
    if not settings.do_sigma_clip:
        return match.cutouts, []
    unmasked = settings.model_copy(update={"do_sigma_clip": False})
    jobs = [
        # a failure costs a place in the mosaic, and no correction
        CutoutJob(
            label=exposure.name, exposures=(), settings=unmasked, exposure=exposure, grid=match.grid, exclude=exclude
        )
        for exposure in match.field.exposures
        if exposure.name in match.cutouts
    ]
    done, failures = parted(each(jobs, f"{match.field.name}: cutouts with sources"))
    return {cutout.name: cutout for cutout in done}, failures


def single_member(exposure: Exposure, cutout: CutoutRecord) -> Member:
    """Return an exposure as a member of its first stage."""
    return Member(
        name=exposure.name,
        exposures=(exposure.name,),
        cutout=cutout,
        tile=exposure.tile,
        groups=exposure.groups,
        anchors=exposure.anchors,
        background_time=exposure.background_time,
    )


def match_groups(
    stage: Stage, groups: dict[str, list[Member]], work: FieldWork
) -> tuple[list[Solution], list[Failure]]:
    """Measure and solve every group with more than one member."""
    matched = {group: members for group, members in groups.items() if len(members) > 1}
    measures = [
        job
        for fit_type in work.settings.fit_types(stage.name)
        for group, members in matched.items()
        for job in _measures(stage, group, members, fit_type, work.settings)
    ]
    measured = work.each(measures, f"{work.field}: {stage.title}, pairs")
    failures: list[Failure] = []
    fits: dict[tuple[FitType, str], list[PairFit]] = {}
    broken: set[str] = set()
    for job, result in zip(measures, measured, strict=True):
        if isinstance(result, Failure):
            failures.append(result)
            broken.add(job.group)
        else:
            found: PairFits = result
            fits.setdefault((job.fit_type, job.group), []).extend(found.fits)
    solves = [
        SolveJob(
            label=group,
            exposures=tuple(name for member in members for name in member.exposures),
            settings=work.settings,
            stage=stage.name,
            group=group,
            fit_type=fit_type,
            members=tuple(members),
            fits=tuple(sorted(fits.get((fit_type, group), []), key=lambda fit: (fit.first, fit.second))),
            gauge=stage.gauge,
            given=work.files.given,
        )
        for fit_type in work.settings.fit_types(stage.name)
        for group, members in matched.items()
        if group not in broken
    ]
    title = f"{work.field}: {stage.title}, solve"
    solved = list(zip(solves, work.each(solves, title), strict=True))
    choice = _choice(stage, solved, work)
    if choice is not None:
        solved = [(job, result) for job, result in solved if job.fit_type == choice.chosen]
    solutions, lost = parted([result for _, result in solved])
    # the automatic choice comes first, so that a second run finds it in the cache; few groups need another reference
    moved = {solution.group for solution in solutions if _loses_zero(solution, groups[solution.group], work.preferred)}
    again = [job.model_copy(update={"preferred": work.preferred}) for job, _ in solved if job.group in moved]
    resolved, more = parted(work.each(again, title))
    solutions = [solution for solution in solutions if solution.group not in moved] + resolved
    if choice is not None:
        solutions = [
            solution.model_copy(update={"status": solution.status.model_copy(update={"choice": choice})})
            for solution in solutions
        ]
    solutions.sort(key=lambda solution: solution.group)
    lost += more
    for solution in solutions:
        for note in solution.status.notes:
            with log_context(solution.group, stage.name):
                logger.warning("%s", note)
    return solutions, failures + lost


def _choice(stage: Stage, solved: Sequence[tuple[SolveJob, Any]], work: FieldWork) -> Choice | None:
    """Return which fit type predicts left-out pairs of the stage better; None if the settings determine it."""
    if len(work.settings.fit_types(stage.name)) == 1:
        return None
    by_type: dict[FitType, list[Solution]] = {"level": [], "level+slope": []}
    for job, result in solved:
        if isinstance(result, Failure):
            logger.info("%s, %s %s, %s: %s", work.field, stage.title, job.group, job.fit_type, result.reason)
        else:
            by_type[job.fit_type].append(result)
    choice = choose(by_type["level"], by_type["level+slope"])
    logger.info("%s, %s: %s", work.field, stage.title, choice.reason)
    return choice


def _loses_zero(solution: Solution, members: Sequence[Member], preferred: tuple[str, ...]) -> bool:
    """Return whether a component contains the reference tile of an earlier run, but now has another reference."""
    by_name = {member.name: member for member in members}
    return any(
        component.reference is not None
        and not is_named(by_name[component.reference], preferred)
        and any(is_named(by_name[name], preferred) for name in component.members)
        for component in solution.components
    )


def _measures(
    stage: Stage, group: str, members: list[Member], fit_type: FitType, settings: MatchSettings
) -> list[MeasureJob]:
    """Return the measuring jobs of one group, each with a part of its sorted pairs."""
    pairs = sorted(candidate_pairs(members))
    by_name = {member.name: member for member in members}
    jobs = []
    for start in range(0, len(pairs), PAIRS_A_JOB):
        batch = pairs[start : start + PAIRS_A_JOB]
        names = sorted({name for pair in batch for name in pair})
        label = group if len(pairs) <= PAIRS_A_JOB else f"{group} pairs {start + 1}-{start + len(batch)}"
        jobs.append(
            MeasureJob(
                label=label,
                exposures=tuple(name for member in members for name in member.exposures),
                settings=settings,
                stage=stage.name,
                group=group,
                fit_type=fit_type,
                members=tuple(by_name[name] for name in names),
                pairs=tuple(batch),
            )
        )
    return jobs


def merge(
    stage: Stage, groups: dict[str, list[Member]], solutions: Sequence[Solution], work: FieldWork
) -> tuple[list[Member], list[Failure]]:
    """Return the members of the next stage: each component becomes one member."""
    ready = [
        _with_noise(merger, solution, work.settings)
        for solution in solutions
        for merger in mergers(stage, groups[solution.group], solution)
    ]
    ready += [
        Merger(name=group, members=tuple(members), planes=(Plane(),))
        for group, members in groups.items()
        if len(members) == 1
    ]
    stacks = [
        StackJob(
            label=merger.name,
            exposures=tuple(name for member in merger.members for name in member.exposures),
            settings=work.settings,
            stage=stage.name,
            name=merger.name,
            parts=tuple((member.cutout, plane) for member, plane in zip(merger.members, merger.planes, strict=True)),
            noise=merger.noise,
        )
        for merger in ready
        if len(merger.members) > 1
    ]
    results = work.each(stacks, f"{work.field}: {stage.title}, stacks")
    cutouts = {job.name: result for job, result in zip(stacks, results, strict=True)}
    failures = [result for result in results if isinstance(result, Failure)]
    members = []
    for merger in ready:
        cutout = cutouts.get(merger.name, merger.members[0].cutout)
        if not isinstance(cutout, Failure):
            members.append(merger.member(cutout))
    return members, failures


def _with_noise(merger: Merger, solution: Solution, settings: MatchSettings) -> Merger:
    """Return the merger with the noise of its members, if the stack is a robust mean."""
    if settings.stack_method == "mean" or len(merger.members) < 2:
        return merger
    return replace(merger, noise=member_noise(merger.members, [pair.fit for pair in solution.pairs]))


def _errors(stages: tuple[StageMatch, ...], cutouts: dict[str, CutoutRecord], work: FieldWork) -> FieldErrors | Failure:
    """Return the errors of the sums of all stages; a failure affects no exposure, since the levels are known."""
    if not any(len(component.members) > 1 for s in stages for one in s.solutions for component in one.components):
        return FieldErrors(sigmas={})
    job = ErrorsJob(
        label=work.field,
        exposures=(),
        settings=work.settings,
        stages=stages,
        cutouts=cutouts,
        given=work.files.given,
    )
    result: FieldErrors | Failure = work.each([job], f"{work.field}: errors")[0]
    return result


def with_local_sky(
    corrections: tuple[Correction, ...],
    groups: Sequence[tuple[int, ...]],
    cutouts: dict[str, CutoutRecord],
    work: FieldWork,
) -> tuple[tuple[Correction, ...], list[Failure], tuple[str, ...]]:
    """Subtract one constant per component: the local sky of its reference tile's first exposure (main chip only).

    Overlapping components (`groups`) are parts of the same sky, whose brightness differs from part to part: the
    constant of the first one, which is the largest, is subtracted from all of them.
    """
    if not work.settings.do_local_subtraction:
        return corrections, [], ()
    if any(correction.fit_types.get("dithers") == "level+slope" for correction in corrections):
        return corrections, [], ("local subtraction is off: the dithers are matched by planes",)
    components: dict[int, list[Correction]] = {}
    for correction in corrections:
        given = correction.given_zero
        if correction.component is not None and correction.status is not Status.ALONE and not given:
            components.setdefault(correction.component, []).append(correction)
    notes = []
    if any(correction.given_zero for correction in corrections):
        notes.append("local subtraction is not applied to components whose zero the user gave")
    held_together = [[number for number in group if number in components] for group in groups]
    first = {number: group[0] for group in held_together for number in group}
    apart = set(first.values())
    if len(apart) > 1:
        notes.append(f"local subtraction gives each of the {len(apart)} separate parts its own zero")
    if len(components) > len(apart):
        notes.append(
            f"{len(components)} components overlap but are not connected: local subtraction uses the sky of the "
            "largest for all that overlap, since their own would follow the nebula"
        )
    if any(correction.exposure.background_time is not None for correction in corrections) and components:
        notes.append(
            "local subtraction replaces the zero of the dedicated backgrounds (DT_BGR): consider turning it off"
        )
    standing = {number: _stands_for(components[number]) for number in sorted(apart)}
    jobs = [
        SkyJob(
            label=chosen.exposure.name,
            exposures=(),
            settings=work.settings,
            correction=chosen,
            cutout=cutouts[chosen.exposure.name],
        )
        for chosen in standing.values()
    ]
    results = work.each(jobs, f"{work.field}: local sky")
    failures = [result for result in results if isinstance(result, Failure)]
    found = {
        number: result.level
        for number, result in zip(standing, results, strict=True)
        if not isinstance(result, Failure)
    }
    levels = {number: found[one] for number, one in first.items() if one in found}
    corrected = tuple(
        correction.model_copy(update={"local_sky": levels[correction.component]})
        if correction.component in levels and correction.status is not Status.ALONE
        else correction
        for correction in corrections
    )
    return corrected, failures, tuple(notes)


def _stands_for(parts: Sequence[Correction]) -> Correction:
    """Return the first exposure by name of the component's reference (else of all); main chip before Lyot window."""
    chosen = [part for part in parts if part.status is Status.REFERENCE] or list(parts)
    anchored = [part for part in chosen if part.exposure.anchors] or chosen
    return min(anchored, key=lambda part: part.exposure.name)
