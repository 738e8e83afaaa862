"""The result of :func:`levelmatch_core.match_levels`, in terms of numpy, astropy and matplotlib."""

import shutil
import tempfile
import warnings
import weakref
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import numpy as np
from astropy import units as u
from astropy.io import fits
from astropy.nddata import NDData, StdDevUncertainty
from astropy.table import Table
from astropy.wcs import WCS
from numpy.typing import NDArray

from levelmatch_core.errors import LevelMatchError, UsageError
from levelmatch_core.images.exposure import Failure
from levelmatch_core.images.given import Given
from levelmatch_core.images.reading import read_wcs
from levelmatch_core.images.wcs.transforms import AnyWcs
from levelmatch_core.jobs.products import mosaic_name
from levelmatch_core.matching.corrections import Correction, FieldMatch, Status
from levelmatch_core.matching.uncertainty.field import level_covariance
from levelmatch_core.products.corrected.editing import change_of
from levelmatch_core.products.grade import Grade, worst_of
from levelmatch_core.products.mosaic import MosaicImages
from levelmatch_core.products.runrecord import field_summary
from levelmatch_core.products.summaries import FieldSummary
from levelmatch_core.products.tables import corrections_table, pairs_table
from levelmatch_core.products.verdict import residual_of, verdict
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.plane import Plane
from levelmatch_core.sky.stack import box_of, mosaic_bands
from levelmatch_core.sky.store import CutoutStore

if TYPE_CHECKING:
    from matplotlib.axes import Axes


Image = TypeVar("Image")
"""An array, or an NDData, CCDData and the like."""


class Scratch:
    """The store of a run's resampled exposures; a temporary folder goes when nothing refers to it any more."""

    def __init__(self, cache: str | Path | None = None) -> None:
        root = Path(cache) if cache is not None else Path(tempfile.mkdtemp(prefix="levelmatch-"))
        self.store = CutoutStore(root)
        if cache is None:
            weakref.finalize(self, shutil.rmtree, root, ignore_errors=True)


@dataclass(frozen=True, repr=False)
class LevelMatch:
    """The result of :func:`match_levels`; a notebook shows its verdict, the mosaic and the worst seams."""

    fields: tuple[FieldMatch, ...]
    """The fields with their grids, stages, pairs and corrections."""
    failures: tuple[Failure, ...]
    """Everything that was left out, with reasons."""
    output: Path | None
    """The output folder; None if nothing was written."""
    settings: MatchSettings = field(default_factory=MatchSettings)
    """The settings of the run."""
    given: Given = field(default_factory=Given)
    """What the user gave beside images and settings."""
    pixels: Scratch | None = field(default=None, compare=False)
    """Where the resampled exposures are; they go with the result if they are in no cache."""

    def __repr__(self) -> str:
        return f"<LevelMatch {self.grade.value}: {self.verdict}>"

    def _repr_html_(self) -> str:
        from levelmatch_core.notebook import html_of  # noqa: PLC0415 - matplotlib is slow to import

        drawn = []
        for match in self.fields:
            with suppress(UsageError, OSError):  # the output has gone, or the result came without its pixels
                drawn.append((match, self.images(match.field.name)))
        return html_of(self.grade.value, self.verdict, drawn)

    @property
    def summaries(self) -> tuple[FieldSummary, ...]:
        """The fields in numbers, as in run.json."""
        return tuple(field_summary(match) for match in self.fields)

    @property
    def grade(self) -> Grade:
        """How far it may be trusted: good, fair, doubtful or failed."""
        return worst_of(one for summary in self.summaries for one in summary.criteria)

    @property
    def verdict(self) -> str:
        """Whether it worked, in one sentence, as the command tells it."""
        counts = Counter(str(one.status) for one in self.corrections)
        left_out: dict[str, int] = {Status.UNTIED: counts[Status.UNTIED], Status.FAILED: len(self.failures)}
        return verdict(counts, left_out, map(residual_of, self.fields), self.summaries)

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

    def summary_table(self) -> Table:
        """Return the corrections as a table to look at, one row per exposure.

        Returns
        -------
        Table
            exposure, tile, status, level and sigma (data unit, with the local sky) and, where any exposure has slopes,
            slope_x and slope_y per grid pixel. :meth:`corrections_table` has all columns.
        """
        table = self.corrections_table()
        sloped = any(not one.total.is_level for one in self.corrections)
        names = ["exposure", "tile", "status", "level", "sigma_level", *(["slope_x", "slope_y"] if sloped else [])]
        chosen = table[names]
        chosen.rename_column("sigma_level", "sigma")
        chosen.meta = {}
        return chosen

    def covariance(self, field: str | None = None) -> tuple[tuple[str, ...], u.Quantity]:
        """Return the covariance of the levels of a field's exposures, by the noise of all pixels and all stages.

        Levels are relative to the zero of their component: a reference has none, and two components share none. The
        roots of the diagonal are :meth:`level_error`.

        Parameters
        ----------
        field
            Its name; None if there is only one field.

        Returns
        -------
        tuple of str, Quantity
            The exposures, and (E, E) in the data's unit squared.

        Raises
        ------
        UsageError
            If there is no such field.
        """
        match = self._field(field)
        names, covariance = level_covariance(match.stages, match.cutouts, self.settings, self.given)
        return names, covariance * _unit(match.field.unit) ** 2

    def corrected(self, image: Image, exposure: str) -> Image:
        """Return an image minus the correction of an exposure.

        Parameters
        ----------
        image
            Data (ny, nx). An array is taken to be the exposure's whole image, in its unit; an NDData may be a part of
            it, and needs a WCS if the correction has slopes.
        exposure
            Name of the exposure: for images given in memory their FILENAME, or `image001.fits` and so on.

        Returns
        -------
        NDData or ndarray
            An image of the same class, with mask, uncertainty, WCS, unit and meta of the image.

        Raises
        ------
        UsageError
            If there is no such exposure, if the image has another unit or shape, or if a WCS is needed and there is
            none.
        """
        found = self.correction(exposure)
        if isinstance(image, NDData):
            unit = image.unit or u.dimensionless_unscaled
            if unit != _unit(found.exposure.unit):
                message = f"{exposure}: its correction is in {found.exposure.unit or 'no unit'}, the image in {unit}"
                raise UsageError(message)
        data: NDArray[Any] = np.asarray(image.data if isinstance(image, NDData) else image)
        if not isinstance(image, NDData) and data.shape != found.exposure.shape:
            message = f"{exposure}: an image of shape {data.shape}; expected {found.exposure.shape}"
            raise UsageError(message)
        needed = not found.total.is_level or found.exposure.per_area
        wcs = self._wcs(image, found) if needed else None
        match = self._field(found.field)
        change = change_of(
            found.total,
            match.grids[found.place],
            wcs,
            (data.shape[0], data.shape[1]),
            per_area=found.exposure.per_area,
            divisor=found.exposure.divisor,
        )
        flat = (data - change).astype(np.result_type(data, np.float32))
        if not isinstance(image, NDData):
            return cast("Image", flat)
        parts = {"mask": image.mask, "uncertainty": image.uncertainty, "wcs": image.wcs, "meta": image.meta}
        return cast("Image", type(image)(flat, unit=image.unit, **parts))

    def mosaic(self, field: str | None = None) -> NDData:
        """Return the corrected mosaic of a field: as it was written, or in memory where nothing was.

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
            If there is no such field.
        """
        made = self.images(field)
        error = None if made.error is None else StdDevUncertainty(made.error)
        return NDData(made.after, uncertainty=error, mask=~np.isfinite(made.after), wcs=made.wcs, unit=_unit(made.unit))

    def images(self, field: str | None = None) -> MosaicImages:
        """Return the mosaic of a field before and after as arrays.

        Parameters
        ----------
        field
            Its name; None if there is only one field.

        Raises
        ------
        UsageError
            If there is no such field.
        """
        match = self._field(field)
        if self.output is not None:
            with fits.open(self.output / mosaic_name(match.field.name), memmap=False) as hdus:
                after, before = hdus["SCI"].data, hdus["BEFORE"].data
                error = hdus["ERR"].data if "ERR" in hdus else None
                return MosaicImages(after, before, error, WCS(hdus["SCI"].header), match.field.unit)
        if self.pixels is None:
            message = f"no mosaic of {match.field.name}: the result holds no pixels; take that of match_levels itself"
            raise UsageError(message)
        if match.patches:
            message = f"no mosaic of {match.field.name} in memory: it has {len(match.patches)} patches; give an output"
            raise UsageError(message)
        alive = [one for one in match.corrections if one.status is not Status.FAILED]
        parts = [(match.cutouts[one.exposure.name], one.plane + Plane(level=one.local_sky)) for one in alive]
        box = box_of([record for record, _ in parts])
        bands = list(mosaic_bands(parts, self.pixels.store, box, before=True))
        after, before = np.concatenate([band.mean for band in bands]), np.concatenate([band.before for band in bands])
        variances = [band.variance for band in bands if band.variance is not None]
        return MosaicImages(
            after.astype(np.float32),
            before.astype(np.float32),
            np.sqrt(np.concatenate(variances)).astype(np.float32) if len(variances) == len(bands) else None,
            match.grid.wcs(box.x0, box.y0),
            match.field.unit,
        )

    def plot(
        self,
        kind: Literal["mosaic", "levels", "residuals"] = "mosaic",
        *,
        field: str | None = None,
        axes: "Axes | Sequence[Axes] | None" = None,
    ) -> "Axes | tuple[Axes, Axes]":
        """Draw the mosaic before and after, the levels with their errors, or the residuals of all pairs in sigmas.

        Parameters
        ----------
        kind
            "mosaic" (two axes), "levels" or "residuals".
        field
            The field's name; None if there is only one.
        axes
            The axes to draw on; None for a new figure of pyplot.

        Returns
        -------
        Axes, or two of them
            What was drawn on.

        Raises
        ------
        UsageError
            If there is no such field or kind.
        """
        from levelmatch_core.notebook import draw  # noqa: PLC0415 - matplotlib is slow to import

        match = self._field(field)
        return draw(match, lambda: self.images(match.field.name), kind, axes)

    def _field(self, name: str | None) -> FieldMatch:
        """Return a field.

        Raises
        ------
        UsageError
            If there is no such one, or several and no name.
        """
        chosen = [match for match in self.fields if name is None or match.field.name == name]
        if len(chosen) != 1:
            names = ", ".join(match.field.name for match in self.fields)
            message = f"field {name!r}: expected the name of one field; fields: {names}"
            raise UsageError(message)
        return chosen[0]

    def _wcs(self, image: object, found: Correction) -> AnyWcs:
        """Return the WCS of an image, or that of the exposure's file.

        Raises
        ------
        UsageError
            If there is none.
        """
        if isinstance(image, NDData):
            wcs: AnyWcs | None = getattr(image.wcs, "low_level_wcs", image.wcs)
            if wcs is not None:
                return wcs
            message = f"{found.exposure.name}: its correction has slopes: give the image its wcs"
            raise UsageError(message)
        try:
            return read_wcs(found.exposure)
        except (OSError, LevelMatchError) as error:
            message = (
                f"{found.exposure.name}: its correction has slopes, and its file is not there any more ({error}); give "
                f"an NDData with a wcs"
            )
            raise UsageError(message) from error


def _unit(name: str) -> u.UnitBase:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", u.UnitsWarning)
        try:
            return u.Unit(name)
        except (ValueError, TypeError):
            return u.dimensionless_unscaled
