"""The corrections that a step has found, written into files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from levelmatch_core.errors import DataError, OutputFolderError, UsageError
from levelmatch_core.images.exposure import Exposure, Field, Inventory
from levelmatch_core.jobs.groups import FieldWork
from levelmatch_core.jobs.job import JobRunner
from levelmatch_core.jobs.local_sky import with_local_sky
from levelmatch_core.matching.corrections import Correction, FieldMatch, Status
from levelmatch_core.pjpipe_step.kept import ORDER, Kept, plane_on_grid
from levelmatch_core.pjpipe_step.stages import cutouts_of
from levelmatch_core.process.log_context import logger_of
from levelmatch_core.products.corrected.known_solution import PRODUCTS
from levelmatch_core.products.corrected.write import products_of, write_corrected
from levelmatch_core.products.output.placing import Sha256, Writer, put
from levelmatch_core.products.tables import write_corrections
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.cutouts import CutoutRecord
from levelmatch_core.sky.grid import Grid
from levelmatch_core.sky.plane import Plane

logger = logger_of(__name__)

TABLE = "corrections.ecsv"


@dataclass(frozen=True)
class Applying:
    """Writes what is kept."""

    kept: Kept
    settings: MatchSettings
    each: JobRunner

    def write(self, inventory: Inventory, output: Path) -> list[Path]:
        """Write the corrected files of all exposures, and the table of corrections.

        Raises
        ------
        OutputFolderError
            If another file is in the way, and `overwrite` is not set.
        DataError
            If a file cannot be read or corrected.
        """
        matches = [self._match(field) for field in inventory.fields]
        grids = {match.field.name: match.grid for match in matches}
        parts_of = products_of(correction for match in matches for correction in match.corrections)
        written = [self._put(output, f"{PRODUCTS}{name}", parts, grids) for name, parts in parts_of.items()]
        self._place(output, TABLE, lambda path: write_corrections(path, matches))
        return written

    def _match(self, field: Field) -> FieldMatch:
        """Return the corrections of a field, with the local sky if it is to be subtracted."""
        grid = self.kept.grid_for(field)
        cutouts = cutouts_of(field.exposures, grid, self.settings, self.each)
        last = ORDER[-1]
        tied = any(last in self.kept.of(exposure) for exposure in field.exposures)
        zero = [one for one in field.exposures if tied and self._is_reference(one)]
        corrections = tuple(
            self._correction(one, field, grid, cutouts[one.name], zero[0].tile if zero else "")
            for one in field.exposures
        )
        work = FieldWork(field.name, self.settings, self.each)
        corrections, failures, notes = with_local_sky(corrections, [(1,)], cutouts, work)
        for failure in failures:
            raise DataError(failure.reason)
        for note in notes:
            logger.warning("%s", note)
        return FieldMatch(field=field, grid=grid, cutouts=cutouts, stages=(), corrections=corrections)

    def _is_reference(self, exposure: Exposure) -> bool:
        found = self.kept.of(exposure).get(ORDER[-1])
        return found is not None and found.plane.is_level and found.plane.level == 0

    def _correction(
        self, exposure: Exposure, field: Field, grid: Grid, cutout: CutoutRecord, reference: str
    ) -> Correction:
        found, (x0, y0) = self.kept.of(exposure), cutout.centre
        planes = {stage: plane_on_grid(one, grid, (x0, y0)) for stage, one in found.items()}
        return Correction(
            exposure=exposure,
            field=field.name,
            status=Status.REFERENCE if reference and exposure.tile == reference else Status.MATCHED,
            component=1,
            reference=reference,
            stages=planes,
            fit_types={stage: one.fit_type for stage, one in found.items()},
            plane=sum(planes.values(), start=Plane(x0=x0, y0=y0)),
        )

    def _put(self, output: Path, name: str, parts: Sequence[Correction], grids: dict[str, Grid]) -> Path:
        def write(path: Path) -> Sha256:
            made = write_corrected(path, parts, grids, self.settings)
            for note in made.notes:
                logger.warning("%s", note)
            return Sha256(made.sha256)

        return self._place(output, name, write)

    def _place(self, output: Path, name: str, writer: Writer) -> Path:
        """Put a file into the output folder; another one there is replaced only if `overwrite` is set.

        Raises
        ------
        OutputFolderError
            If there is another one.
        """

        def refuse(_digest: str) -> None:
            if (output / name).exists() and not self.settings.overwrite:
                message = f"output folder {output}: contains another {name!r}; set overwrite=True, or choose another"
                raise OutputFolderError(message)

        put(output, name, writer, before=refuse)
        return output / name


def refuse_nothing(kept: Kept) -> list[Path]:
    """Return the files that have corrections, sorted.

    Raises
    ------
    UsageError
        If none has.
    """
    files = sorted({path for path, _ in kept.stages})
    if not files:
        message = "no correction was found yet: call match_dithers and the like, or subtract, before apply"
        raise UsageError(message)
    return files
