"""One stage of matching at a time, on what the stages before it have left."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from levelmatch_core.errors import DataError, UsageError
from levelmatch_core.images.exposure import Exposure, Failure, Field
from levelmatch_core.jobs.groups import FieldWork, match_groups, merge, single_member
from levelmatch_core.jobs.job import JobRunner, parted
from levelmatch_core.jobs.science import CutoutJob, StackJob
from levelmatch_core.matching.results import Member, Solution
from levelmatch_core.matching.stages import STAGES, Merger, Stage, groups_of
from levelmatch_core.pjpipe_step.kept import Kept, StagePlane, before, plane_on_grid
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.cutouts import CutoutRecord
from levelmatch_core.sky.field_contents import of_another_scale
from levelmatch_core.sky.grid import Grid
from levelmatch_core.sky.patches import ONE
from levelmatch_core.sky.plane import Plane


@dataclass(frozen=True)
class StageResult:
    """A field after a stage."""

    field: Field
    grid: Grid
    cutouts: Mapping[str, CutoutRecord]
    """By exposure; uncorrected."""
    found: Mapping[str, Mapping[str, StagePlane]]
    """Exposure -> stage -> correction, of this stage and of all before it."""

    def plane(self, exposure: Exposure, stage: str) -> Plane:
        """Return the correction of one stage, about the centre of the exposure's box; 0 where nothing matched it."""
        x0, y0 = self.cutouts[exposure.name].centre
        found = self.found[exposure.name].get(stage)
        return found.plane if found else Plane(x0=x0, y0=y0)


def match_stage(target: str, field: Field, settings: MatchSettings, each: JobRunner, kept: Kept) -> StageResult:
    """Match the members of one stage.

    What the stages before it found is taken from `kept`; what these have not seen yet is matched in them on the way.

    Parameters
    ----------
    target
        Name of the stage.
    field
        The exposures, with their groups.
    settings
        All settings.
    each
        Runner of jobs.
    kept
        The corrections so far, which are only read, and the grids.

    Raises
    ------
    DataError
        If an exposure, or a group, cannot be matched.
    UsageError
        If earlier corrections were found for other groups.
    """
    grid = kept.grid_for(field)
    work = FieldWork(field.name, settings, each)
    cutouts = cutouts_of(field.exposures, grid, settings, each)
    for other in of_another_scale(field, cutouts):
        raise DataError(other.reason)
    by_name = {exposure.name: exposure for exposure in field.exposures}
    found = {name: before(target, kept.of(exposure)) for name, exposure in by_name.items()}
    members = [single_member(exposure, {ONE: cutouts[exposure.name]}) for exposure in field.exposures]
    for stage in STAGES:
        groups = groups_of(stage, members)
        known = {
            group: taking_part
            for group, taking_part in groups.items()
            if stage.name != target
            and len(taking_part) > 1
            and all(stage.name in found[name] for member in taking_part for name in member.exposures)
        }
        fresh = {group: taking_part for group, taking_part in groups.items() if group not in known}
        solutions, lost = match_groups(stage, fresh, work)
        _refuse(lost)
        for name, plane in _planes_of(members, solutions, cutouts, grid).items():
            found[name][stage.name] = plane
        if stage.name == target:
            break
        merged, lost = merge(stage, fresh, solutions, work)
        _refuse(lost)
        planes = {
            member.name: _plane(member, stage.name, found, grid)
            for taking_part in known.values()
            for member in taking_part
        }
        again = _merge_known(stage, known, work, planes)
        passed_over = [member for member in members if stage.name not in member.groups]
        members = sorted([*passed_over, *merged, *again], key=lambda member: member.name)
    return StageResult(field, grid, cutouts, found)


def cutouts_of(
    exposures: Iterable[Exposure], grid: Grid, settings: MatchSettings, each: JobRunner
) -> dict[str, CutoutRecord]:
    """Return the cutouts of exposures by name.

    Raises
    ------
    DataError
        If one cannot be resampled.
    """
    jobs = [
        CutoutJob(label=one.name, exposures=(one.name,), settings=settings, exposure=one, grid=grid)
        for one in exposures
    ]
    done, failures = parted(each(jobs, "cutouts"))
    _refuse(failures)
    return {cutout.name: cutout for cutout in done}


def _planes_of(
    members: Iterable[Member], solutions: Iterable[Solution], cutouts: Mapping[str, CutoutRecord], grid: Grid
) -> dict[str, StagePlane]:
    """Return what solutions say of each exposure."""
    exposures = {member.name: member.exposures for member in members}
    return {
        name: StagePlane(result.plane.about(*cutouts[name].centre), grid, solution.fit_type)
        for solution in solutions
        for result in solution.members
        for name in exposures[result.name]
    }


def _plane(member: Member, stage: str, found: Mapping[str, Mapping[str, StagePlane]], grid: Grid) -> Plane:
    """Return the correction of a member in an earlier stage: that of each of its exposures.

    Raises
    ------
    UsageError
        If they differ: they were found for other groups.
    """
    centre = member.cutout.centre
    planes = [plane_on_grid(found[name][stage], grid, centre) for name in member.exposures]
    first = planes[0]
    close = 1e-9 * (1.0 + abs(first.level))
    size = max(member.cutout.shape)
    for name, plane in zip(member.exposures, planes, strict=True):
        apart = abs(plane.slope_x - first.slope_x) + abs(plane.slope_y - first.slope_y)
        if abs(plane.level - first.level) > close or apart * size > close:
            message = (
                f"{name}: its correction in the stage {stage} was found in other groups than {member.exposures[0]}'s, "
                f"and here both are in {member.name}; call the method of that stage again for these dithers"
            )
            raise UsageError(message)
    return first


def _merge_known(
    stage: Stage, groups: Mapping[str, Sequence[Member]], work: FieldWork, planes: Mapping[str, Plane]
) -> list[Member]:
    """Return the members of the next stage of groups whose corrections are known: each is one member."""
    ready = [
        Merger(name=group, members=tuple(members), planes=tuple(planes[one.name] for one in members))
        for group, members in groups.items()
    ]
    jobs = [
        StackJob(
            label=merger.name,
            exposures=tuple(name for member in merger.members for name in member.exposures),
            settings=work.settings,
            name=merger.name,
            parts=tuple((member.cutout, plane) for member, plane in zip(merger.members, merger.planes, strict=True)),
        )
        for merger in ready
    ]
    stacks, failures = parted(work.each(jobs, f"{work.field}: {stage.title}, stacks"))
    _refuse(failures)
    return [merger.member(cutout) for merger, cutout in zip(ready, stacks, strict=True)]


def _refuse(failures: Iterable[Failure]) -> None:
    """Stop at the first failure.

    Raises
    ------
    DataError
        If there is one.
    """
    for failure in failures:
        raise DataError(failure.reason)
