"""The work of one stage: the pairs and solutions of its groups, and the members of the next stage."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from levelmatch_core.images.exposure import Exposure, Failure
from levelmatch_core.images.given import GivenFiles
from levelmatch_core.jobs.job import JobRunner, parted
from levelmatch_core.jobs.science import MeasureJob, PairFits, SolveJob, StackJob
from levelmatch_core.matching.graph import is_named
from levelmatch_core.matching.model_selection import choose
from levelmatch_core.matching.pairs import pairs_by_patch
from levelmatch_core.matching.results import Choice, Member, PairFit, Solution
from levelmatch_core.matching.stages import Merger, Stage, mergers
from levelmatch_core.matching.uncertainty.member_noise import member_noise
from levelmatch_core.process.log_context import log_context, logger_of
from levelmatch_core.settings import FitType, MatchSettings
from levelmatch_core.sky.cutouts import CutoutRecord
from levelmatch_core.sky.grid import Grid
from levelmatch_core.sky.patches import Layout
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
    grids: Mapping[str, Grid] = dataclasses.field(default_factory=dict)
    """The grid of each patch of a wide field."""


def single_member(exposure: Exposure, views: Mapping[str, CutoutRecord], layout: Layout | None = None) -> Member:
    """Return an exposure as a member of its first stage, with its cutouts by patch, its home first."""
    (home, cutout), *further = views.items()
    return Member(
        name=exposure.name,
        exposures=(exposure.name,),
        cutout=cutout,
        tile=exposure.tile,
        groups=exposure.groups,
        anchors=exposure.anchors,
        background_time=exposure.background_time,
        patch=home,
        grid=layout.grids[home] if layout is not None and layout.is_wide else None,
        further=tuple(further),
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
    settings = work.settings
    if settings.fit_choice(stage.name) == "auto" and settings.slope_prior == "auto":
        # there may be no slopes, and planes that are chosen by mistake must cost little
        settings = settings.model_copy(update={"slope_prior": "probable"})
    solves = [
        SolveJob(
            label=group,
            exposures=tuple(name for member in members for name in member.exposures),
            settings=settings,
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
    members = {job.group: job.members for job, _ in solved}
    choice = choose(by_type["level"], by_type["level+slope"], members)
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
    """Return the measuring jobs of one group, each with a part of the sorted pairs of one patch."""
    exposures = tuple(name for member in members for name in member.exposures)
    jobs = []
    for patch, here, pairs in pairs_by_patch(members):
        by_name = {member.name: member for member in here}
        where = f"{group} {patch}".strip()
        for start in range(0, len(pairs), PAIRS_A_JOB):
            batch = pairs[start : start + PAIRS_A_JOB]
            names = sorted({name for pair in batch for name in pair})
            jobs.append(
                MeasureJob(
                    label=where if len(pairs) <= PAIRS_A_JOB else f"{where} pairs {start + 1}-{start + len(batch)}",
                    exposures=exposures,
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
    places = [(merger, patch) for merger in ready if len(merger.members) > 1 for patch in merger.patches]
    stacks = [
        StackJob(
            label=merger.name,
            exposures=tuple(name for member in merger.members for name in member.exposures),
            settings=work.settings,
            stage=stage.name,
            name=merger.name,
            parts=merger.parts(patch, work.grids),
            noise=merger.noise,
        )
        for merger, patch in places
    ]
    results = work.each(stacks, f"{work.field}: {stage.title}, stacks")
    failures = {job.name: result for job, result in zip(stacks, results, strict=True) if isinstance(result, Failure)}
    made = {(merger.name, patch): result for (merger, patch), result in zip(places, results, strict=True)}
    members = []
    for merger in ready:
        if merger.name not in failures:
            first = merger.members[0].on_patches
            cutout, *further = (made.get((merger.name, patch), first[patch]) for patch in merger.patches)
            members.append(merger.member(cutout, zip(merger.patches[1:], further, strict=True)))
    return members, list(failures.values())


def _with_noise(merger: Merger, solution: Solution, settings: MatchSettings) -> Merger:
    """Return the merger with the noise of its members, if the stack is a robust mean."""
    if settings.stack_method == "mean" or len(merger.members) < 2:
        return merger
    return replace(merger, noise=member_noise(merger.members, [pair.fit for pair in solution.pairs]))
