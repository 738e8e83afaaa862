"""levelmatch as a library: one function, and a frozen result in terms of astropy's types.

Examples
--------
>>> from levelmatch_core import MatchSettings, match_levels
>>> result = match_levels("exposures/", settings=MatchSettings(fit_type_mosaic_tiles="level+slope"))
>>> result.level("jw01234001001_02101_00001_mirimage_cal.fits")
<Quantity 11.2 MJy / sr>
"""

import tempfile
import warnings
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.nddata import NDData, StdDevUncertainty
from astropy.table import Table
from astropy.wcs import WCS

from levelmatch_core.errors import UsageError
from levelmatch_core.images.exposure import Failure
from levelmatch_core.images.given import read_given
from levelmatch_core.images.inventory import take_inventory
from levelmatch_core.images.wcs.transforms import AnyWcs
from levelmatch_core.jobs.job import Workspace
from levelmatch_core.jobs.products import mosaic_name
from levelmatch_core.matching.corrections import Correction, FieldMatch
from levelmatch_core.nddata import write_images
from levelmatch_core.pipeline import Request, RunResult, check_reference, match_fields, run
from levelmatch_core.presets import Preset
from levelmatch_core.products.tables import corrections_table, pairs_table
from levelmatch_core.runners import PlainRunner
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.pixelmap import plane_on_image
from levelmatch_core.sky.store import CutoutStore
from levelmatch_core.workers import worker_pool


@dataclass(frozen=True)
class LevelMatch:
    """The result of :func:`match_levels`."""

    fields: tuple[FieldMatch, ...]
    """The fields with their grids, stages, pairs and corrections."""
    failures: tuple[Failure, ...]
    """Everything that was left out, with reasons."""
    output: Path | None
    """The output folder; None if nothing was written."""

    @property
    def corrections(self) -> tuple[Correction, ...]:
        """The corrections of all exposures: planes on the field's grid, which are subtracted from the data."""
        return tuple(correction for match in self.fields for correction in match.corrections)

    @property
    def complete(self) -> bool:
        """Whether every exposure is matched, reference or alone, and all overlapping exposures are connected."""
        return not self.failures and all(match.complete for match in self.fields)

    def corrections_table(self) -> Table:
        """Return the corrections as a table with units, one row per exposure, with the columns of corrections.ecsv."""
        return corrections_table(self.fields)

    def pairs_table(self) -> Table:
        """Return all measured pairs as a table with the columns of pairs.ecsv."""
        return pairs_table(self.fields)

    def correction(self, exposure: str) -> Correction:
        """Return the correction of an exposure, by name: the file, with `#n` or `@lyot` if it contains several.

        Raises
        ------
        UsageError
            If there is no such exposure.
        """
        found = next((one for one in self.corrections if one.exposure.name == exposure), None)
        if found is None:
            message = f"no exposure {exposure!r}; names are such as {self.corrections[0].exposure.name!r}"
            raise UsageError(message)
        return found

    def level(self, exposure: str) -> u.Quantity:
        """Return the level that is subtracted at the centre of an exposure, including the local sky.

        Returns
        -------
        Quantity
            Scalar, in the data's unit (dimensionless if the file has no unit that astropy knows).

        Raises
        ------
        UsageError
            If there is no such exposure.
        """
        found = self.correction(exposure)
        return found.total.level * _unit(found.exposure.unit)

    def level_error(self, exposure: str) -> u.Quantity:
        """Return 1 sigma of :meth:`level`, relative to the zero of the exposure's component, in the same unit.

        Raises
        ------
        UsageError
            If there is no such exposure.
        """
        found = self.correction(exposure)
        return found.sigma[0] * _unit(found.exposure.unit)

    def corrected(self, image: NDData, exposure: str) -> NDData:
        """Return an image minus the correction of an exposure.

        Parameters
        ----------
        image
            Data (ny, nx); with a WCS, if the correction has slopes.
        exposure
            Name of the exposure: for images given in memory their FILENAME, or `image001.fits` and so on.

        Returns
        -------
        NDData
            An image of the same class, with mask, uncertainty, WCS, unit and meta of the image.

        Raises
        ------
        UsageError
            If there is no such exposure, if it has another unit, or if a WCS is needed and there is none.
        """
        found = self.correction(exposure)
        unit = image.unit or u.dimensionless_unscaled
        if unit != _unit(found.exposure.unit):
            message = f"{exposure}: its correction is in {found.exposure.unit or 'no unit'}, the image in {unit}"
            raise UsageError(message)
        wcs: AnyWcs | None = getattr(image.wcs, "low_level_wcs", image.wcs)
        if wcs is None and not found.total.is_level:
            message = f"{exposure}: its correction has slopes: give the image its wcs"
            raise UsageError(message)
        grid = next(match.grid for match in self.fields if match.field.name == found.field)
        data = np.asarray(image.data)
        change = plane_on_image(found.total, grid, wcs, (data.shape[0], data.shape[1]))
        parts = {"mask": image.mask, "uncertainty": image.uncertainty, "wcs": image.wcs, "meta": image.meta}
        return type(image)((data - change).astype(np.result_type(data, np.float32)), unit=image.unit, **parts)

    def mosaic(self, field: str | None = None) -> NDData:
        """Return the corrected mosaic of a field.

        Parameters
        ----------
        field
            Its name; None if there is only one field.

        Returns
        -------
        NDData
            data (ny, nx) with mask, celestial WCS and unit; with uncertainty (standard deviation) if inputs have one.

        Raises
        ------
        UsageError
            If nothing was written, or there is no such field.
        """
        names = [match.field.name for match in self.fields]
        chosen = names[0] if field is None and len(names) == 1 else field
        if self.output is None or chosen not in names:
            why = "nothing was written: give an output folder" if self.output is None else f"fields: {', '.join(names)}"
            message = f"no mosaic of {field or 'the field'}: {why}"
            raise UsageError(message)
        with fits.open(self.output / mosaic_name(chosen), memmap=False) as hdus:
            data, header = hdus["SCI"].data, hdus["SCI"].header
            error = StdDevUncertainty(hdus["ERR"].data) if "ERR" in hdus else None
        return NDData(
            data, uncertainty=error, mask=~np.isfinite(data), wcs=WCS(header), unit=_unit(header.get("BUNIT", ""))
        )


def match_levels(
    inputs: str | Path | NDData | Iterable[str | Path | NDData],
    output: str | Path | None = None,
    settings: MatchSettings | None = None,
    *,
    preset: Preset | None = None,
    cache: str | Path | None = None,
    program: str = "levelmatch",
    recursive: bool = False,
    group_by: str | None = None,
) -> LevelMatch:
    """Match the sky levels of overlapping exposures.

    Parameters
    ----------
    inputs
        A FITS file or folder (or a JWST association), or an image in memory (NDData or CCDData, with a FITS WCS; see
        :func:`levelmatch_core.nddata.write_images`), or several.
    output
        The folder for corrected files, mosaics, tables, figures and report; None writes nothing.
    settings
        All else that may be chosen; None takes the preset.
    preset
        What settings are that are not given: "best" (also where both are None) or "pjpipe".
    cache
        Folder in which resampled exposures are kept for the next call; None for none.
    program
        Name of the observing program, for the records.
    recursive
        Whether to search folders within folders.
    group_by
        A regular expression or a table that defines which files form a tile.

    Raises
    ------
    UsageError
        If an input, the output folder or a setting cannot be used; nothing was written.
    NoInputError
        If no exposure is usable.
    """
    given = [inputs] if isinstance(inputs, str | Path | NDData) else list(inputs)
    given_settings = settings.model_dump(exclude_unset=True) if settings is not None else {}
    chosen = (
        settings
        if settings is not None and preset is None
        else MatchSettings.from_mapping({**given_settings, "preset": preset or "best"})
    )
    with ExitStack() as stack:
        images = [image for image in given if isinstance(image, NDData)]
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="levelmatch-")) if images else ""
        paths = tuple(Path(path).absolute() for path in given if not isinstance(path, NDData))
        paths += tuple(write_images(images, Path(scratch)))
        folder = cache if cache is not None else stack.enter_context(tempfile.TemporaryDirectory(prefix="levelmatch-"))
        store = CutoutStore(Path(folder))
        if output is None:
            stack.enter_context(store.in_use())
            return _matched(paths, chosen, store, recursive=recursive, group_by=group_by)
        request = Request(
            inputs=paths,
            output=Path(output).absolute(),
            settings=chosen,
            program=program,
            recursive=recursive,
            group_by=group_by,
        )
        result = run_request(request, store)
        return LevelMatch(result.matches, result.failures, request.output)


def run_request(request: Request, store: CutoutStore) -> RunResult:
    """Run a request without an engine, with the workers that its settings ask for.

    Parameters
    ----------
    request
        Inputs, output folder and settings.
    store
        The store of cutouts.
    """
    with worker_pool(request.settings) as pool:
        return run(request, store, lambda workspace: PlainRunner(workspace, pool))


def _matched(
    paths: tuple[Path, ...], settings: MatchSettings, store: CutoutStore, *, recursive: bool, group_by: str | None
) -> LevelMatch:
    """Solve all fields, and write only cutouts."""
    inventory = take_inventory(paths, settings, recursive=recursive, group_by=group_by)
    check_reference(settings.reference, inventory)
    given = read_given(settings, inventory)
    with worker_pool(settings) as pool:
        each = PlainRunner(Workspace(store), pool)
        fields = match_fields(inventory, settings, each, given)
    return LevelMatch(
        fields, inventory.failures + tuple(failure for match in fields for failure in match.failures), None
    )


def _unit(name: str) -> u.UnitBase:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", u.UnitsWarning)
        try:
            return u.Unit(name)
        except (ValueError, TypeError):
            return u.dimensionless_unscaled
