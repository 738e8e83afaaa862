"""The corrections that a step has found so far, which whatever it measures next is measured without."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from levelmatch_core.images.exposure import Exposure, Field
from levelmatch_core.matching.stages import STAGES
from levelmatch_core.settings import FitType
from levelmatch_core.sky import patches
from levelmatch_core.sky.grid import Grid, choose_grid, serves
from levelmatch_core.sky.plane import Plane

ORDER = tuple(stage.name for stage in STAGES)


@dataclass(frozen=True)
class StagePlane:
    """What one stage found for an exposure."""

    plane: Plane
    grid: Grid
    fit_type: FitType


@dataclass
class Kept:
    """Corrections by exposure and stage, and the grids that they are on."""

    grids: list[Grid] = field(default_factory=list)
    stages: dict[tuple[Path, str], dict[str, StagePlane]] = field(default_factory=dict)
    """(file, `#n`, `@lyot` or '') -> stage -> correction."""
    tiles: dict[Path, str] = field(default_factory=dict)
    """The tile of each file that was seen."""

    def grid_for(self, wanted: Field) -> Grid:
        """Return the grid on which a field's earlier corrections are, if it still serves, else a new one."""
        for grid in self.grids:
            if serves(grid, wanted):
                return grid
        self.grids.append(choose_grid(wanted))
        return self.grids[-1]

    def of(self, exposure: Exposure) -> dict[str, StagePlane]:
        """Return the corrections of an exposure by stage; those of the whole image, where it is a part of it."""
        part = _part(exposure)
        whole = part.partition("@")[0]
        return self.stages.get((exposure.path, part)) or self.stages.get((exposure.path, whole), {})

    def has_parts(self, files: Iterable[Path]) -> bool:
        """Return whether Lyot window and main chip of any of the files have corrections of their own."""
        wanted = set(files)
        return any(path in wanted and "@" in part for path, part in self.stages)

    def has_stage(self, files: Iterable[Path], stage: str) -> bool:
        """Return whether any exposure of the files was matched in a stage."""
        wanted = set(files)
        return any(path in wanted and stage in found for (path, _), found in self.stages.items())

    def put(self, exposure: Exposure, found: Mapping[str, StagePlane]) -> None:
        """Replace what is known of an exposure."""
        part = _part(exposure)
        if "@" in part:
            self.stages.pop((exposure.path, part.partition("@")[0]), None)
        self.stages[exposure.path, part] = {stage: found[stage] for stage in ORDER if stage in found}

    def total(self, exposure: Exposure, grid: Grid, centre: tuple[float, float]) -> Plane:
        """Return the sum of all stages of an exposure on a grid, about a point of it."""
        planes = [plane_on_grid(one, grid, centre) for one in self.of(exposure).values()]
        return sum(planes, start=Plane(x0=centre[0], y0=centre[1]))


def plane_on_grid(found: StagePlane, grid: Grid, centre: tuple[float, float]) -> Plane:
    """Return a correction as a plane on a grid, about a point of it: on another than its own, the tangent there."""
    return patches.on_grid(found.plane, found.grid, grid, centre)


def before(stage: str, found: Mapping[str, StagePlane]) -> dict[str, StagePlane]:
    """Return the corrections of the stages before one."""
    earlier = ORDER[: ORDER.index(stage)]
    return {name: one for name, one in found.items() if name in earlier}


def _part(exposure: Exposure) -> str:
    return exposure.name.removeprefix(exposure.file)
