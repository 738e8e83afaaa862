"""The stages as data: which members each one matches, and its gauge.

To add a stage, add an entry to `STAGES`, and have instruments assign a group of that name to the exposures concerned.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from levelmatch_core.matching.results import Component, Gauge, Member, Solution
from levelmatch_core.sky.cutouts import CutoutRecord
from levelmatch_core.sky.grid import Grid
from levelmatch_core.sky.patches import on_grid
from levelmatch_core.sky.plane import Plane
from levelmatch_core.sky.stack import stack_weights


@dataclass(frozen=True)
class Stage:
    """One round of matching."""

    name: str
    """As in `Exposure.groups` and in the setting `fit_type_<name>`."""
    gauge: Gauge
    title: str
    """Title for the user."""


STAGES = (
    Stage("dithers", Gauge.MEAN, "dithers of a tile"),
    Stage("recombine_lyot", Gauge.ANCHOR, "Lyot window to main chip"),
    Stage("combine_nircam_short", Gauge.MEAN, "short-wavelength chips of a module"),
    Stage("mosaic_tiles", Gauge.REFERENCE, "tiles of the mosaic"),
)


@dataclass(frozen=True)
class Merger:
    """Members of a component, which become one member of the next stage."""

    name: str
    members: tuple[Member, ...]
    planes: tuple[Plane, ...]
    """The correction of each member in this stage."""
    noise: tuple[float, ...] = ()
    """1 sigma of the pixels of each member, for a robust stack; empty for the mean."""

    @property
    def patches(self) -> tuple[str, ...]:
        """The patches on which its members have cutouts, their home first."""
        return tuple(self.members[0].on_patches)

    def parts(self, patch: str, grids: Mapping[str, Grid]) -> tuple[tuple[CutoutRecord, Plane], ...]:
        """Return the cutout of each member on a patch, and its correction on the grid of the patch."""
        pairs = zip(self.members, self.planes, strict=True)
        if patch == self.members[0].patch:
            return tuple((member.cutout, plane) for member, plane in pairs)
        seen = [(member.on_patches[patch], grids[member.patch], plane) for member, plane in pairs]
        return tuple((cutout, on_grid(plane, home, grids[patch], cutout.centre)) for cutout, home, plane in seen)

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each exposure in the stack; empty if all are equal."""
        shares = stack_weights(self.noise).tolist() if self.noise else [1.0] * len(self.members)
        weights = {
            name: share * own
            for member, share in zip(self.members, shares, strict=True)
            for name, own in zip(member.exposures, member.weights or [1.0] * len(member.exposures), strict=True)
        }
        return weights if len(set(weights.values())) > 1 else {}

    def member(self, cutout: CutoutRecord, further: Iterable[tuple[str, CutoutRecord]] = ()) -> Member:
        """Return the member of the next stage, with the pixels of `cutout`, and those on further patches."""
        exposures = tuple(sorted(name for member in self.members for name in member.exposures))
        weights = self.weights
        times = [member.background_time for member in self.members if member.background_time is not None]
        return Member(
            name=self.name,
            exposures=exposures,
            weights=tuple(weights[name] for name in exposures) if weights else (),
            cutout=cutout.model_copy(update={"name": self.name}),
            tile="+".join(sorted({tile for member in self.members for tile in member.tile.split("+")})),
            groups={stage: group for member in self.members for stage, group in member.groups.items()},
            anchors=tuple(sorted({stage for member in self.members for stage in member.anchors})),
            background_time=min(times, key=abs, default=None),
            patch=self.members[0].patch,
            grid=self.members[0].grid,
            further=tuple((patch, one.model_copy(update={"name": self.name})) for patch, one in further),
        )


def groups_of(stage: Stage, members: Iterable[Member]) -> dict[str, list[Member]]:
    """Return the groups of the stage by name, with their members, all sorted; other members are ignored."""
    groups: dict[str, list[Member]] = {}
    for member in sorted(members, key=lambda m: m.name):
        if stage.name in member.groups:
            groups.setdefault(member.groups[stage.name], []).append(member)
    return dict(sorted(groups.items()))


def mergers(stage: Stage, members: Sequence[Member], solution: Solution) -> list[Merger]:
    """Return the mergers for the next stage, one for each component of the solution.

    The component with the anchor of the stage, else the first one, gets the name of the group; others have `~2`, `~3`.
    """
    by_name = {member.name: member for member in members}
    planes = {result.name: result.plane for result in solution.members}

    def anchored(component: Component) -> bool:
        return any(stage.name in by_name[name].anchors for name in component.members)

    ordered = sorted(solution.components, key=lambda component: not anchored(component))
    return [
        Merger(
            name=solution.group if number == 1 else f"{solution.group}~{number}",
            members=tuple(by_name[name] for name in component.members),
            planes=tuple(planes[name] for name in component.members),
        )
        for number, component in enumerate(ordered, start=1)
    ]
