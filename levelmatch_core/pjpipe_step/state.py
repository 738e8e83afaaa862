"""What a step is made of: its folders, settings, store, and the corrections found so far."""

import shutil
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from levelmatch_core.errors import DataError, SettingsError, UsageError
from levelmatch_core.images.exposure import Exposure, Field, Inventory
from levelmatch_core.images.finding import find_files
from levelmatch_core.images.inventory import take_inventory
from levelmatch_core.jobs.job import Workspace
from levelmatch_core.matching.results import Member
from levelmatch_core.pjpipe_step.groups import File, FileFinder, Group
from levelmatch_core.pjpipe_step.kept import Kept
from levelmatch_core.pjpipe_step.stages import cutouts_of
from levelmatch_core.runners import PlainRunner
from levelmatch_core.settings import FitChoice, FitType, MatchSettings
from levelmatch_core.sky.cutouts import CutoutRecord
from levelmatch_core.sky.grid import Grid
from levelmatch_core.sky.plane import Plane
from levelmatch_core.sky.stack import stack
from levelmatch_core.sky.store import CutoutStore
from levelmatch_core.workers import Threads

FOLDERS = ("in_dir", "out_dir", "plot_dir")
SPELLINGS = {"level+match": "level+slope"}
"""The step's prose calls the plane 'level+match', its signature 'level+slope'."""


@dataclass(frozen=True)
class Parts:
    """The exposures of some groups of files on one grid."""

    grid: Grid
    exposures: tuple[tuple[Exposure, ...], ...]
    """Of each group."""
    cutouts: dict[str, CutoutRecord]
    """By exposure; uncorrected."""
    planes: dict[str, Plane]
    """By exposure: the corrections found so far."""

    def of(self, number: int) -> list[tuple[CutoutRecord, Plane]]:
        """Return the cutouts of a group, each with its correction."""
        return [(self.cutouts[one.name], self.planes[one.name]) for one in self.exposures[number]]


class StepState:
    """Folders, settings and corrections of a step; its settings are attributes, by the names of the constructor."""

    in_dir: Path
    """Input folder, which is only read."""
    out_dir: Path
    """Output folder."""
    plot_dir: Path
    """Folder for plots of pairs: beside the output folder, which holds only what a run writes."""
    settings: MatchSettings
    """All settings."""

    def __init__(self, in_dir: File, out_dir: File, settings: MatchSettings) -> None:
        self.in_dir, self.out_dir = Path(in_dir), Path(out_dir)
        self.plot_dir = self.out_dir.parent / f"{self.out_dir.name}_plots"
        self.settings = settings
        self._scratch = Path(tempfile.mkdtemp(prefix="levelmatch-"))
        weakref.finalize(self, shutil.rmtree, self._scratch, ignore_errors=True)
        self._store = CutoutStore(self._scratch)
        self._kept = Kept()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the setting is
        if name in MatchSettings.model_fields:
            return getattr(self.settings, name)
        message = f"{type(self).__name__} has no attribute {name!r}"
        raise AttributeError(message)

    def __setattr__(self, name: str, value: object) -> None:
        """Change a folder or a setting; another name would have no effect, and is refused.

        Raises
        ------
        SettingsError
            If there is no such setting, or the value has the wrong type or range.
        """
        if name in FOLDERS:
            value = Path(cast("File", value))
        elif name == "settings" and not isinstance(value, MatchSettings):
            message = f"settings={value!r}: expected MatchSettings; single ones are set as attributes, step.sigma = 4"
            raise SettingsError(message)
        elif name in MatchSettings.model_fields:
            name, value = "settings", self._with(**{name: value})
        elif name != "settings" and not name.startswith("_"):
            raise SettingsError(MatchSettings.no_such(name))
        object.__setattr__(self, name, value)

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *MatchSettings.model_fields})

    def _with(self, **changes: object) -> MatchSettings:
        """Return the settings with changes, which are checked."""
        return MatchSettings.from_mapping(spelled({**dict(self.settings), **changes}))

    @property
    def _finder(self) -> FileFinder:
        return FileFinder(self.in_dir, self.settings.step_ext)

    def _runner(self, procs: int | None = None) -> PlainRunner:
        return PlainRunner(Workspace(self._store), Threads(procs or self.settings.procs))

    def _inventory(self, groups: Sequence[Group], settings: MatchSettings) -> Inventory:
        """Return the exposures of groups of files, each group being a tile.

        Raises
        ------
        DataError
            If a file cannot be used.
        UsageError
            If a file holds nothing that may be matched.
        """
        files = [file for group in groups for file in group.files]
        path_of = {name: path for path, name in find_files(files, step_ext=None, recursive=False)}
        tile_of = {file: group.tile for group in groups for file in group.files}
        plain = settings.model_copy(update={"step_ext": None})
        inventory = take_inventory(files, plain, group_by=lambda shown: tile_of[path_of[shown]])
        for failure in inventory.failures:
            raise DataError(failure.reason)
        used = {exposure.path for field in inventory.fields for exposure in field.exposures}
        for file in files:
            if file not in used:
                why = f"not of band {self.settings.band!r}" if self.settings.band else "a weight map, mask or copy"
                message = f"{file}: holds no image to be matched ({why}); leave it out"
                raise UsageError(message)
        self._kept.tiles.update(tile_of)
        return inventory

    def _flags(self, files: Sequence[Path]) -> dict[str, bool]:
        """Return which of the optional stages the files take part in: by setting, or since they did already."""
        return {
            "recombine_lyot": self.settings.recombine_lyot or self._kept.has_parts(files),
            "combine_nircam_short": self.settings.combine_nircam_short
            or self._kept.has_stage(files, "combine_nircam_short"),
        }

    def _field(self, groups: Sequence[Group]) -> Field:
        """Return all exposures of groups of files as one field.

        Raises
        ------
        UsageError
            If they are not of one band and unit.
        """
        files = [file for group in groups for file in group.files]
        inventory = self._inventory(groups, self._with(**self._flags(files)))
        kinds = sorted({(field.band, field.unit) for field in inventory.fields})
        if len(kinds) > 1:
            shown = " and ".join(f"{band or 'no band'} in {unit or 'no unit'}" for band, unit in kinds)
            message = f"{groups[0].files[0].name} and others: {shown}; expected files of one band and unit"
            raise UsageError(message)
        together = sorted((one for field in inventory.fields for one in field.exposures), key=lambda one: one.name)
        return inventory.fields[0].model_copy(update={"exposures": tuple(together)})

    def _parts(self, groups: Sequence[Group], procs: int | None = None, *, whole: bool = False) -> Parts:
        """Return the exposures of groups of files on one grid, with the corrections found so far.

        If `whole`, with the pixels of sources, which are masked for measuring only.
        """
        field = self._field(groups)
        grid = self._kept.grid_for(field)
        settings = self._with(do_sigma_clip=False) if whole else self.settings
        cutouts = cutouts_of(field.exposures, grid, settings, self._runner(procs))
        planes = {one.name: self._kept.total(one, grid, cutouts[one.name].centre) for one in field.exposures}
        by_path: dict[Path, list[Exposure]] = {}
        for one in field.exposures:
            by_path.setdefault(one.path, []).append(one)
        exposures = tuple(tuple(one for file in group.files for one in by_path[file]) for group in groups)
        return Parts(grid, exposures, cutouts, planes)

    def _members(self, groups: Sequence[Group], procs: int | None = None) -> tuple[Parts, list[Member]]:
        """Return groups of files as members: corrected, and stacked if they are several exposures."""
        parts = self._parts(groups, procs)
        members: list[Member] = []
        for number, exposures in enumerate(parts.exposures):
            name = exposures[0].file
            if any(member.name == name for member in members):
                name = f"{name} ({number + 1})"
            cutout = stack(name, parts.of(number), self._store)
            names = tuple(sorted(one.name for one in exposures))
            members.append(Member(name=name, exposures=names, cutout=cutout, tile=groups[number].tile, groups={}))
        return parts, members


def spelled(settings: dict[str, object]) -> dict[str, object]:
    """Return settings with each fit type as the signature spells it."""
    return {
        name: SPELLINGS.get(str(value), value) if name.startswith("fit_type_") else value
        for name, value in settings.items()
    }


def fit_choice(fit_type: object) -> FitChoice:
    """Return the fit type of a stage.

    Raises
    ------
    SettingsError
        If there is no such one.
    """
    found = SPELLINGS.get(str(fit_type), fit_type)
    if found == "auto":
        return "auto"
    return fit_type_of(found)


def fit_type_of(fit_type: object) -> FitType:
    """Return the fit type of pairs and matrices.

    Raises
    ------
    SettingsError
        If there is no such one.
    """
    found = SPELLINGS.get(str(fit_type), fit_type)
    if found == "level":
        return "level"
    if found == "level+slope":
        return "level+slope"
    message = f"fit_type={fit_type!r}: expected 'level' or 'level+slope' (a plane; 'level+match' means the same)"
    raise SettingsError(message)


def coefficients_of(plane: Plane, fit_type: str) -> list[float]:
    """Return [c], or [a, b, c], of a plane about its own point."""
    return [plane.slope_x, plane.slope_y, plane.level] if fit_type == "level+slope" else [plane.level]


def rows_of(coefficients: object, count: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return (count, 1) levels or (count, 3) [a, b, c].

    Raises
    ------
    UsageError
        If the coefficients are neither, or not finite.
    """
    try:
        given = np.asarray(coefficients, dtype=np.float64)
    except (TypeError, ValueError):
        given = np.full(0, np.nan)
    rows = given.reshape(-1, 1) if given.ndim == 1 else given
    if rows.ndim != 2 or len(rows) != count or rows.shape[1] not in {1, 3} or not np.all(np.isfinite(rows)):
        message = f"coefficients of shape {given.shape}: expected ({count},) levels or ({count}, 3) [a, b, c], finite"
        raise UsageError(message)
    return cast("np.ndarray[tuple[int, int], np.dtype[np.float64]]", rows)
