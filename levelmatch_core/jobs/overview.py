"""The job that shows a whole wide field on one map."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from pydantic import Field as Described

from levelmatch_core.images.exposure import Failure
from levelmatch_core.jobs.job import JobRunner, Workspace, parted
from levelmatch_core.jobs.products import FieldImageJob, Written, level_error_name, mosaic_name
from levelmatch_core.matching.corrections import FieldMatch, place_name
from levelmatch_core.matching.results import WeakMode
from levelmatch_core.products.manifest import OutputFile
from levelmatch_core.products.overview import (
    OverviewSky,
    write_overview_error,
    write_overview_mosaic,
    write_patches,
)
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.grid import Grid

MODES = 3
"""Number of weak modes that the error map names."""


class OverviewJob(FieldImageJob):
    """Write the mosaic and the error map of a whole wide field, coarse, from those of its patches, and their table."""

    step = "overview"

    patches: dict[str, Grid]
    exposures_of: dict[str, int] = Described(description="number of exposures on each patch")
    mosaics: tuple[OutputFile, ...]
    level_errors: tuple[OutputFile, ...]
    modes: tuple[WeakMode, ...] = Described(default=(), description="the weakest, without patterns")

    @property
    def reads(self) -> tuple[str, ...]:
        """The images of the patches."""
        return tuple(file.name for file in (*self.mosaics, *self.level_errors))

    def writes(self) -> tuple[str, ...]:
        """Return the names of the images and of the table."""
        errors = (level_error_name(self.field),) if self.level_errors else ()
        return (mosaic_name(self.field), *errors, patches_name(self.field))

    def run(self, workspace: Workspace) -> Written:
        """Write the files."""
        folder = workspace.output()
        places = {place_name(self.field, patch): grid for patch, grid in self.patches.items()}

        def there(files: tuple[OutputFile, ...], name_of: Callable[[str], str]) -> dict[str, Path]:
            names = {file.name for file in files}
            return {place: folder.path / name_of(place) for place in places if name_of(place) in names}

        mosaics, errors = there(self.mosaics, mosaic_name), there(self.level_errors, level_error_name)
        sky = OverviewSky.of(self.grid, mosaics.values())
        files = [
            folder.write(
                mosaic_name(self.field), partial(write_overview_mosaic, sky=sky, mosaics=mosaics, unit=self.unit)
            )
        ]
        if errors:
            writer = partial(write_overview_error, sky=sky, maps=errors, unit=self.unit, modes=self.modes)
            files.append(folder.write(level_error_name(self.field), writer))
        rows = {
            patch: (place_name(self.field, patch), grid, self.exposures_of[patch])
            for patch, grid in self.patches.items()
        }
        table = partial(write_patches, patches=rows, mosaics=mosaics, level_errors=errors, unit=self.unit)
        files.append(folder.write(patches_name(self.field), table))
        return Written(files=tuple(files))


def overviews_of(
    match: FieldMatch, settings: MatchSettings, each: JobRunner, mosaics: list[Written], maps: list[Written]
) -> tuple[list[Written], list[Written], list[Failure]]:
    """Return the mosaic and the error map that show a whole field: of a wide one they are made from its patches'.

    Parameters
    ----------
    match, settings, each
        The field, solved; all settings; the runner of jobs.
    mosaics, maps
        What was written of its only grid, or of each patch.

    Returns
    -------
    The mosaic with further files, the error map, and what failed.
    """
    if not match.patches or not mosaics:
        return mosaics, maps, []
    job = OverviewJob.of(
        match,
        settings,
        patches={patch.name: patch.grid for patch in match.patches},
        exposures_of={patch.name: len(patch.cutouts) for patch in match.patches},
        mosaics=tuple(file for one in mosaics for file in one.files),
        level_errors=tuple(file for one in maps for file in one.files),
        modes=match.weakest_modes[:MODES],
    )
    done, failures = parted(each([job], f"{match.field.name}: overview"))
    files = {file.name: file for one in done for file in one.files}
    mosaic, error = (files.pop(name(match.field.name), None) for name in (mosaic_name, level_error_name))
    shown = [Written(files=(mosaic, *files.values()))] if mosaic is not None else []
    return shown, [Written(files=(error,))] if error is not None else [], failures


def patches_name(field: str) -> str:
    """Return the name of the table of a wide field's patches in the output folder."""
    return f"patches_{field}.ecsv"
