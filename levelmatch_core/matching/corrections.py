"""Combination of the solutions of all stages into one correction per exposure, with its status."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import hypot
from typing import Self

from pydantic import Field as Described

from levelmatch_core.images.exposure import Exposure, Failure, Field
from levelmatch_core.matching.reference_history import Zeros, lacking, names_of
from levelmatch_core.matching.results import Component, Member, MemberResult, Solution, WeakMode
from levelmatch_core.records import Record
from levelmatch_core.settings import FitType
from levelmatch_core.sky.cutouts import CutoutRecord, StoredArray
from levelmatch_core.sky.grid import Grid
from levelmatch_core.sky.patches import ONE, on_grid
from levelmatch_core.sky.plane import Plane


class Status(StrEnum):
    """The status of an exposure."""

    MATCHED = "matched"
    """Connected to other exposures of its component in some stage."""
    REFERENCE = "reference"
    """In the reference tile of its component."""
    ALONE = "alone"
    """Without overlaps: copied unchanged."""
    UNTIED = "untied"
    """With overlaps, but all pairs were rejected."""
    FAILED = "failed"
    """Without an output file, for a reason given in the failures."""


Sigma = tuple[float, float, float]
"""1 sigma of a level, data unit, and of the slopes along x and y, data unit per grid pixel."""


class StageMatch(Record):
    """One stage of one field: its members and solutions."""

    stage: str
    members: tuple[Member, ...]
    solutions: tuple[Solution, ...]


class Correction(Record):
    """The correction that is subtracted from one exposure."""

    exposure: Exposure
    field: str
    status: Status
    component: int | None = Described(default=None, description="number of the component in its field, from 1")
    reference: str = Described(default="", description="reference tile of the component, '' if there is none")
    provisional: bool = Described(default=False, description="whether the reference replaces a missing one")
    stands_for: str = Described(default="", description="the missing tile, '' if it is not known")
    given_zero: bool = Described(default=False, description="whether the zero of its component was given by the user")
    stages: dict[str, Plane] = Described(default={}, description="stage -> plane subtracted, about the cutout's centre")
    fit_types: dict[str, FitType] = Described(default={}, description="stage -> fit type")
    plane: Plane = Described(default=Plane(), description="sum of the stages, about the same point, without local_sky")
    stage_sigmas: dict[str, Sigma] = Described(default={}, description="stage -> 1 sigma of its plane alone")
    sigma: Sigma = Described(default=(0.0, 0.0, 0.0), description="1 sigma of the sum of all stages")
    local_sky: float = Described(default=0.0, description="constant that is subtracted in addition to the plane")
    partial: bool = Described(default=False, description="whether its field lacks members")
    patch: str = Described(default=ONE, description="the patch of a wide field on whose grid its planes are")

    @property
    def place(self) -> str:
        """Name of the grid of its planes: the field, and the patch of a wide one."""
        return place_name(self.field, self.patch)

    @property
    def total(self) -> Plane:
        """The total correction: the plane and the local sky."""
        return self.plane.model_copy(update={"level": self.plane.level + self.local_sky})


class ErrorMap(Record):
    """1 sigma of the level of a mosaic on a lattice of points."""

    array: StoredArray = Described(description="(ny, nx), data unit, NaN where there is no exposure")
    x0: float = Described(description="grid column of the first point")
    y0: float = Described(description="grid row of the first point")
    step: float = Described(description="grid pixels from one point to the next")


def place_name(field: str, patch: str) -> str:
    """Return the name of a grid: that of its field, and of the patch of a wide one."""
    return f"{field}_{patch}" if patch else field


class PatchMatch(Record):
    """A patch of a wide field."""

    name: str
    grid: Grid
    cutouts: dict[str, CutoutRecord] = Described(description="by exposure name, of all that are resampled to it")
    error_map: ErrorMap | None = Described(default=None, description="None where nothing was solved")


class FieldMatch(Record):
    """The solution of one field."""

    large = ("stages",)

    field: Field
    grid: Grid
    cutouts: dict[str, CutoutRecord] = Described(description="by exposure name, of those that did not fail")
    stages: tuple[StageMatch, ...]
    corrections: tuple[Correction, ...] = Described(description="sorted by exposure name, failed ones too")
    error_map: ErrorMap | None = Described(default=None, description="None where nothing was solved")
    failures: tuple[Failure, ...] = ()
    notes: tuple[str, ...] = Described(default=(), description="notes for the user on this field")
    missing: tuple[str, ...] = Described(default=(), description="tiles without any usable exposure, sorted")
    patches: tuple[PatchMatch, ...] = Described(
        default=(), description="of a field that is too wide for one tangent plane; cutouts are those of each home then"
    )

    @property
    def grids(self) -> dict[str, Grid]:
        """The grid of each place that corrections name."""
        found = {self.field.name: self.grid}
        return found | {place_name(self.field.name, patch.name): patch.grid for patch in self.patches}

    @property
    def panels(self) -> tuple["FieldMatch", ...]:
        """The parts that have a mosaic each, without their stages: the field itself, or its patches."""
        if not self.patches:
            return (self,)
        known = {one.exposure.name: one for one in self.corrections}
        exposures = {exposure.name: exposure for exposure in self.field.exposures}
        homes = {patch.name: patch.grid for patch in self.patches}
        return tuple(
            FieldMatch(
                field=self.field.model_copy(
                    update={
                        "name": place_name(self.field.name, patch.name),
                        "exposures": tuple(exposures[name] for name in sorted(patch.cutouts)),
                    }
                ),
                grid=patch.grid,
                cutouts=patch.cutouts,
                stages=(),
                corrections=tuple(
                    _seen_on(known[name], homes, patch, patch.cutouts[name]) for name in sorted(patch.cutouts)
                ),
                error_map=patch.error_map,
            )
            for patch in self.patches
        )

    @property
    def weakest_modes(self) -> tuple[WeakMode, ...]:
        """The weakest modes of the largest component of the last stage, weakest first, without their patterns."""
        modes = [mode for stage in self.stages[-1:] for one in stage.solutions for mode in one.status.modes]
        return tuple(mode.model_copy(update={"pattern": ()}) for mode in modes if mode.component == 0)

    @property
    def pieces(self) -> int:
        """Largest number of components, of two or more exposures, in a group that overlaps; at least 1."""
        sizes = Counter(one.component for one in self.corrections if one.status in {Status.MATCHED, Status.REFERENCE})
        return max((sum(part in sizes for part in group) for group in self.touching), default=1) or 1

    @property
    def complete(self) -> bool:
        """Whether every exposure is matched, reference or alone, and all overlapping exposures are connected."""
        lost = {Status.UNTIED, Status.FAILED}
        return not self.failures and self.pieces <= 1 and not any(one.status in lost for one in self.corrections)

    @property
    def touching(self) -> list[tuple[int, ...]]:
        """The numbers of the components, in groups of components with common pixels; sorted."""
        return touching(self.stages, self.corrections)

    def with_failures(self, failures: Sequence[Failure]) -> Self:
        """Return the match with further failures that concern it, and with their exposures marked as failed."""
        mine = {exposure.name for exposure in self.field.exposures}
        failures = with_tiles(
            self.field, [one for one in failures if not one.exposures or mine.intersection(one.exposures)]
        )
        if not failures:
            return self
        lost = {name for failure in failures for name in failure.exposures}
        corrections = tuple(
            correction.model_copy(update={"status": Status.FAILED}) if correction.exposure.name in lost else correction
            for correction in self.corrections
        )
        return self.model_copy(update={"corrections": corrections, "failures": (*self.failures, *failures)})


def _seen_on(correction: Correction, homes: Mapping[str, Grid], patch: PatchMatch, cutout: CutoutRecord) -> Correction:
    """Return a correction with its total plane on the grid of a patch."""
    moved = on_grid(correction.plane, homes.get(correction.patch, patch.grid), patch.grid, cutout.centre)
    return correction.model_copy(update={"plane": moved, "patch": patch.name})


def touching(stages: Iterable[StageMatch], corrections: Iterable[Correction]) -> list[tuple[int, ...]]:
    """Return the numbers of all components, in groups connected by measured pairs, used or not; sorted."""
    where = {one.exposure.name: one.component for one in corrections if one.component is not None}
    group = {number: number for number in where.values()}

    def root(number: int) -> int:
        while group[number] != number:
            number = group[number]
        return number

    for stage in stages:
        numbers = {
            member.name: next((where[name] for name in member.exposures if name in where), None)
            for member in stage.members
        }
        # those that are used connect members of one component
        for pair in (pair for solution in stage.solutions for pair in solution.pairs if pair.rejected is not None):
            first, second = numbers[pair.fit.first], numbers[pair.fit.second]
            if first is not None and second is not None:
                a, b = sorted((root(first), root(second)))
                group[b] = a
    parts: dict[int, list[int]] = {}
    for number in sorted(group):
        parts.setdefault(root(number), []).append(number)
    return [tuple(parts[number]) for number in sorted(parts)]


def with_tiles(field: Field, failures: Iterable[Failure]) -> tuple[Failure, ...]:
    """Return failures with the tiles of the exposures that they affect."""
    tiles = {exposure.name: exposure.tile for exposure in field.exposures}
    return tuple(
        failure.model_copy(
            update={"tiles": tuple(sorted({tiles[name] for name in failure.exposures if name in tiles}))}
        )
        for failure in failures
    )


def corrections_of(
    field: Field,
    cutouts: dict[str, CutoutRecord],
    stages: tuple[StageMatch, ...],
    failures: tuple[Failure, ...],
    zeros: Zeros,
    *,
    sigmas: Mapping[str, Sigma] | None = None,
) -> tuple[Correction, ...]:
    """Return the correction of every exposure of `field`: the sum of its members' planes over the stages.

    The component of an exposure is that of the last stage, since members of earlier components stay together. If the
    true reference of a component is missing, its reference is provisional; if it contains no other tile, that is its
    own tile.

    `sigmas` are the errors of the sums. If they are None, because they could not be computed, the errors of the stages
    are added in quadrature, as if they had no noise in common.
    """
    lost = {name for failure in failures for name in failure.exposures}
    partial = bool(lost or lacking(zeros.lost))
    paths = _paths((name for name in cutouts if name not in lost), stages)
    numbers = _component_numbers(paths)
    population = Counter(numbers.values())
    overlapping = _overlapping(stages)
    missing = _missing_references(field, paths, numbers, zeros)

    def correct(exposure: Exposure) -> Correction:
        name = exposure.name
        if name not in paths:
            return Correction(exposure=exposure, field=field.name, status=Status.FAILED, partial=True)
        x0, y0 = cutouts[name].centre
        planes = {step.stage: step.result.plane.about(x0, y0) for step in paths[name]}
        last = paths[name][-1] if paths[name] else None
        fixed = last.component.reference if last else None
        stands_for, own = missing[numbers[name]]
        given = last is not None and last.component.given
        if given:
            stands_for, own = None, ""
        reference = fixed or own
        return Correction(
            exposure=exposure,
            field=field.name,
            status=_status(
                shared=population[numbers[name]] > 1,
                reference=last is not None and last.member.name == fixed and len(last.component.members) > 1,
                overlapping=name in overlapping,
            ),
            component=numbers[name],
            reference=reference,
            provisional=stands_for is not None,
            stands_for=stands_for or "",
            given_zero=given,
            stages=planes,
            fit_types={step.stage: step.fit_type for step in paths[name]},
            plane=sum(planes.values(), start=Plane(x0=x0, y0=y0)),
            stage_sigmas={step.stage: _about(step.result, x0, y0) for step in paths[name]},
            sigma=_in_quadrature(paths[name], x0, y0) if sigmas is None else sigmas.get(name, (0.0, 0.0, 0.0)),
            partial=partial,
        )

    return tuple(correct(exposure) for exposure in field.exposures)


@dataclass(frozen=True)
class _Step:
    """The participation of an exposure in one stage."""

    stage: str
    group: str
    fit_type: FitType
    member: Member
    result: MemberResult
    component: Component


def _paths(names: Iterable[str], stages: tuple[StageMatch, ...]) -> dict[str, list[_Step]]:
    """Return the steps of each exposure through the stages, without stages in which it does not take part."""
    paths: dict[str, list[_Step]] = {name: [] for name in names}
    for stage in stages:
        members = {member.name: member for member in stage.members}
        for solution in stage.solutions:
            for result in solution.members:
                step = _Step(
                    stage=stage.stage,
                    group=solution.group,
                    fit_type=solution.fit_type,
                    member=members[result.name],
                    result=result,
                    component=solution.components[result.component],
                )
                for name in step.member.exposures:
                    if name in paths:
                        paths[name].append(step)
    return paths


def _missing_references(
    field: Field, paths: dict[str, list[_Step]], numbers: dict[str, int], zeros: Zeros
) -> dict[int, tuple[str | None, str]]:
    """Return for each component the missing tile that its reference replaces, if any, and its own true reference."""
    living = [exposure for exposure in field.exposures if exposure.name in paths]
    gone = names_of(exposure for exposure in field.exposures if exposure.name not in paths) - names_of(living)
    parts: dict[int, list[Exposure]] = {}
    for exposure in living:
        parts.setdefault(numbers[exposure.name], []).append(exposure)
    found: dict[int, tuple[str | None, str]] = {}
    for number, part in parts.items():
        members = {step.member.name for exposure in part for step in paths[exposure.name]}
        tiles = names_of(part) | members
        stands_for = zeros.stands_for([exposure.name for exposure in part], tiles, gone)
        whole = "+".join(sorted({exposure.tile for exposure in part}))
        found[number] = stands_for, zeros.own(tiles, gone) if stands_for is None else whole
    return found


def _component_numbers(paths: dict[str, list[_Step]]) -> dict[str, int]:
    """Return the numbers of the components of the last stage, largest first (by exposures), then by first name."""
    parts: dict[tuple[str, ...], list[str]] = {}
    for name, steps in paths.items():
        label = (steps[-1].stage, steps[-1].group, *steps[-1].component.members) if steps else ("", name)
        parts.setdefault(label, []).append(name)
    ordered = sorted(parts.values(), key=lambda names: (-len(names), min(names)))
    return {name: number for number, names in enumerate(ordered, start=1) for name in names}


def _overlapping(stages: tuple[StageMatch, ...]) -> set[str]:
    """Return the exposures of members with any measured pair, used or not."""
    names: set[str] = set()
    for stage in stages:
        exposures = {member.name: member.exposures for member in stage.members}
        for solution in stage.solutions:
            for pair in solution.pairs:
                names.update(exposures[pair.fit.first], exposures[pair.fit.second])
    return names


def _status(*, shared: bool, reference: bool, overlapping: bool) -> Status:
    if reference:
        return Status.REFERENCE
    if shared:
        return Status.MATCHED
    return Status.UNTIED if overlapping else Status.ALONE


def _about(result: MemberResult, x0: float, y0: float) -> Sigma:
    """Return the 1-sigma errors of a member with its level at (x0, y0)."""
    level, slope_x, slope_y = result.sigma
    return hypot(level, slope_x * (x0 - result.plane.x0), slope_y * (y0 - result.plane.y0)), slope_x, slope_y


def _in_quadrature(steps: list[_Step], x0: float, y0: float) -> Sigma:
    """Return the sum in quadrature of the errors of the stages."""
    level, slope_x, slope_y = zip((0.0,) * 3, *(_about(step.result, x0, y0) for step in steps), strict=True)
    return hypot(*level), hypot(*slope_x), hypot(*slope_y)
