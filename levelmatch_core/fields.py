"""The solution of one field, stage by stage."""

from levelmatch_core.images.exposure import Exposure, Failure, Field
from levelmatch_core.images.given import GivenFiles
from levelmatch_core.jobs.groups import NO_FILES, FieldWork, match_groups, merge, single_member
from levelmatch_core.jobs.job import JobRunner
from levelmatch_core.jobs.local_sky import with_local_sky
from levelmatch_core.jobs.science import CutoutJob, ErrorsJob, FieldErrors
from levelmatch_core.jobs.survey_image import survey_member, survey_members
from levelmatch_core.matching.corrections import (
    FieldMatch,
    PatchMatch,
    StageMatch,
    Status,
    corrections_of,
    touching,
    with_tiles,
)
from levelmatch_core.matching.reference_history import Zeros
from levelmatch_core.matching.stages import STAGES, groups_of
from levelmatch_core.process.log_context import log_context, logger_of
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.cutouts import CutoutRecord
from levelmatch_core.sky.field_contents import of_another_scale, pixel_notes
from levelmatch_core.sky.patches import ONE, Layout

logger = logger_of(__name__)

Views = dict[str, dict[str, CutoutRecord]]
"""Exposure -> patch -> its cutout there, its home first."""


def match_field(
    field: Field,
    layout: Layout,
    settings: MatchSettings,
    each: JobRunner,
    *,
    zeros: Zeros | None = None,
    files: GivenFiles = NO_FILES,
) -> FieldMatch:
    """Solve one field, stage by stage.

    Parameters
    ----------
    field, layout
        The exposures, and the grids to which they are resampled.
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
    anchor = files.anchor if files.anchor is not None and files.anchor.unit == field.unit else None
    layout_notes = _layout_notes(field, layout)
    work = FieldWork(field.name, settings, each, zeros.preferred, files, layout.grids)
    views, failures = _views(field, layout, None if layout.is_wide else anchor, work)
    cutouts = {name: next(iter(found.values())) for name, found in views.items()}
    for other in of_another_scale(field, cutouts):
        with log_context(field.name, "cutout"):
            logger.error("%s", other.reason)
        failures.append(other)
        del cutouts[other.name]
    left_out = pixel_notes(field, cutouts)
    members = [
        single_member(exposure, views[exposure.name], layout)
        for exposure in field.exposures
        if exposure.name in cutouts
    ]
    stages = []
    for stage in STAGES:
        if stage is STAGES[-1] and anchor is not None and anchor.name in cutouts:
            members.append(survey_member(anchor, stage.name, field.name, views[anchor.name], layout))
            del cutouts[anchor.name]
        elif stage is STAGES[-1] and anchor is not None and layout.is_wide:
            surveyed, lost, unreached = survey_members(anchor, stage.name, layout, cutouts, work)
            members += surveyed
            failures += lost
            layout_notes += unreached
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
    on_patches = _by_patch(layout, {name: views[name] for name in cutouts})
    errors = _errors(tuple(stages), cutouts, on_patches, work)
    maps = {} if isinstance(errors, Failure) else errors.maps
    sigmas = None if isinstance(errors, Failure) else errors.sigmas
    corrections = corrections_of(field, cutouts, tuple(stages), tuple(failures), zeros, sigmas=sigmas)
    corrections = tuple(one.model_copy(update={"patch": layout.home(one.exposure.name)}) for one in corrections)
    if isinstance(errors, Failure):
        failures.append(errors)
    corrections, lost, on_local_sky = with_local_sky(corrections, touching(stages, corrections), cutouts, work)
    notes = (*layout_notes, *left_out, *on_local_sky)
    living = {one.exposure.tile for one in corrections if one.status is not Status.FAILED}
    for note in notes:
        with log_context(field.name, "notes"):
            logger.warning("%s", note)
    return FieldMatch(
        field=field,
        grid=layout.grid,
        cutouts=cutouts,
        stages=tuple(stages),
        corrections=corrections,
        error_map=maps.get(ONE),
        failures=with_tiles(field, [*failures, *lost]),
        notes=notes,
        missing=tuple(sorted(zeros.missing | {exposure.tile for exposure in field.exposures} - living)),
        patches=tuple(
            PatchMatch(name=name, grid=layout.grids[name], cutouts=found, error_map=maps.get(name))
            for name, found in on_patches.items()
        ),
    )


def _layout_notes(field: Field, layout: Layout) -> tuple[str, ...]:
    """Return the note on the patches of a wide field."""
    if not layout.is_wide:
        return ()
    return (f"{field.title}: {len(field.exposures)} exposures on {len(layout.grids)} tangent planes",)


def _views(field: Field, layout: Layout, anchor: Exposure | None, work: FieldWork) -> tuple[Views, list[Failure]]:
    """Return the cutouts of every exposure on its patches; one that fails on any of them is lost."""
    jobs = [
        CutoutJob(
            label=exposure.name,
            exposures=(exposure.name,),
            settings=work.settings,
            exposure=exposure,
            grid=layout.grids[patch],
            exclude=work.files.exclude,
        )
        for exposure in (*field.exposures, *filter(None, (anchor,)))
        for patch in layout.patches.get(exposure.name, (ONE,))
    ]
    patch_of = {grid: patch for patch, grid in layout.grids.items()}
    results = work.each(jobs, f"{field.name}: cutouts")
    failed = {
        job.exposure.name: result for job, result in zip(jobs, results, strict=True) if isinstance(result, Failure)
    }
    views: Views = {}
    for job, result in zip(jobs, results, strict=True):
        if job.exposure.name not in failed:
            views.setdefault(job.exposure.name, {})[patch_of[job.grid]] = result
    return views, list(failed.values())


def _by_patch(layout: Layout, views: Views) -> dict[str, dict[str, CutoutRecord]]:
    """Return the cutouts on each patch of a wide field; nothing if it has only one grid."""
    if not layout.is_wide:
        return {}
    found: dict[str, dict[str, CutoutRecord]] = {patch: {} for patch in layout.grids}
    for name, on_patches in views.items():
        for patch, cutout in on_patches.items():
            found[patch][name] = cutout
    return {patch: cutouts for patch, cutouts in found.items() if cutouts}


def _errors(
    stages: tuple[StageMatch, ...], cutouts: dict[str, CutoutRecord], on_patches: Views, work: FieldWork
) -> FieldErrors | Failure:
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
        patches=on_patches,
    )
    result: FieldErrors | Failure = work.each([job], f"{work.field}: errors")[0]
    return result
