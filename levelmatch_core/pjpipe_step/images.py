"""The step's images: stacks of tiles, and files resampled to any WCS."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import reproject
from astropy.wcs import WCS

from levelmatch_core.images.exposure import Exposure
from levelmatch_core.images.fits_headers import read_headers
from levelmatch_core.images.reading import read_exposure
from levelmatch_core.nddata import CARDS
from levelmatch_core.pjpipe_step.groups import Dither, File, stem
from levelmatch_core.pjpipe_step.results import Floats, ReprojectedImage
from levelmatch_core.pjpipe_step.state import StepState
from levelmatch_core.products.corrected.editing import change_of
from levelmatch_core.products.mosaic import write_mosaic


class StepImages(StepState):
    """The methods that make images."""

    def make_stacked_images(self, dithers: Sequence[Dither], stacked_dir: File, procs: int = 1) -> list[Path]:
        """Write the mean of each tile's files to `stacked_dir`; return the new files, in order.

        Files are corrected by what the step has found so far. Stacks contain SCI, ERR (if inputs have one), COVERAGE
        and BEFORE, the mean without corrections, and the cards that name instrument and band; all are on one grid.

        Parameters
        ----------
        dithers
            The files of each tile; see :meth:`LevelMatchStep.match_dithers`.
        stacked_dir
            The folder; it is created if need be.
        procs
            Workers that resample.
        """
        groups = self._finder.tiles(dithers)
        folder = Path(stacked_dir)
        folder.mkdir(parents=True, exist_ok=True)
        parts = self._parts(groups, procs, whole=True)
        paths: list[Path] = []
        for number, group in enumerate(groups):
            path = folder / f"{stem(group.files[0])}_stacked.fits"
            if path in paths:  # equal names in two folders
                path = folder / f"{stem(group.files[0])}_{number + 1}_stacked.fits"
            first = parts.exposures[number][0]
            planes = [(cutout, plane, 0.0) for cutout, plane in parts.of(number)]
            write_mosaic(path, parts.grid, planes, self._store, unit=first.unit, cards=_cards(first))
            paths.append(path)
        return paths

    def get_reproject(
        self, file: Dither, optimal_wcs: WCS, optimal_shape: tuple[int, int], stacked_image: bool = False
    ) -> ReprojectedImage | list[ReprojectedImage]:
        """Return files resampled to a WCS, NaN where there is no valid data: an array for a file, a list for a list.

        Files are corrected by what the step has found so far.

        Parameters
        ----------
        file
            One file, or several: a list or a pattern.
        optimal_wcs, optimal_shape
            The WCS, and rows and columns, of the result.
        stacked_image
            Kept for compatibility: stacks are read as all files are.

        Returns
        -------
        ReprojectedImage or list of ReprojectedImage
            Arrays (float64) with attributes `error`, `footprint` and `wcs`.
        """
        del stacked_image
        (group,) = self._finder.members([file])
        images = [self._reprojected(path, optimal_wcs, optimal_shape) for path in group.files]
        one = isinstance(file, str | Path) and len(images) == 1
        return images[0] if one else images

    def get_plot_name(self, files1: Dither, files2: Dither) -> str:
        """Return the path for the plot of the difference of two groups, from the names of their first files.

        It lies in the step's `plot_dir`, which is made when the first plot is drawn.

        Parameters
        ----------
        files1, files2
            The groups.
        """
        first, second = (stem(_first(files)) for files in (files1, files2))
        return str(self.plot_dir / f"{first}_{second}_level_match.png")

    def parallel_get_reproject(
        self, idx: int, files: Sequence[Dither], optimal_wcs: WCS, optimal_shape: tuple[int, int],
        stacked_image: bool = False,
    ) -> ReprojectedImage | list[ReprojectedImage]:  # fmt: skip
        """Return one of `files` resampled: :meth:`get_reproject` of number `idx`.

        Parameters
        ----------
        idx
            Index of the file.
        files
            All files.
        optimal_wcs, optimal_shape, stacked_image
            As for :meth:`get_reproject`.
        """
        return self.get_reproject(files[idx], optimal_wcs, optimal_shape, stacked_image)

    def parallel_make_stacked_image(self, dither: Dither, out_dir: File) -> Path:
        """Write the stack of one tile: :meth:`make_stacked_images` of one dither.

        Parameters
        ----------
        dither
            The files of the tile.
        out_dir
            The folder.
        """
        (path,) = self.make_stacked_images([dither], out_dir)
        return path

    def _reprojected(self, path: Path, wcs: WCS, shape: tuple[int, int]) -> ReprojectedImage:
        """Return a file resampled; of several chips the mean where they overlap."""
        resample = getattr(reproject, f"reproject_{self.settings.reproject_func}", None)
        if resample is None:  # a cubic spline, which reproject calls bicubic
            resample = partial(reproject.reproject_interp, order="bicubic")
        total, squares, count = np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=int)
        footprint = np.zeros(shape)
        with_errors = True
        for exposure in self._field(self._finder.members([path])).exposures:
            image_wcs, pixels = read_exposure(exposure)
            data = np.asarray(pixels.data, dtype=float) - self._correction_on(exposure, image_wcs, pixels.data.shape)
            values, seen = resample((data, image_wcs), wcs, shape_out=shape)
            valid = np.isfinite(values)
            total[valid] += values[valid]
            count += valid
            footprint = np.maximum(footprint, seen)
            with_errors = with_errors and pixels.variance is not None
            if pixels.variance is not None:
                variance = resample((np.asarray(pixels.variance, dtype=float), image_wcs), wcs, shape_out=shape)[0]
                squares[valid] += variance[valid]
        with np.errstate(invalid="ignore", divide="ignore"):
            mean, error = total / count, np.sqrt(squares) / count
        return ReprojectedImage.of(mean, error if with_errors else None, footprint, wcs)

    def _correction_on(self, exposure: Exposure, wcs: Any, shape: tuple[int, ...]) -> Floats | float:  # noqa: ANN401
        """Return the correction found so far on the pixels of an image."""
        total: Floats | float = 0.0
        for one in self._kept.of(exposure).values():
            total = total + change_of(
                one.plane, one.grid, wcs, (shape[0], shape[1]), per_area=exposure.per_area, divisor=exposure.divisor
            )
        return total


def _first(files: Dither) -> File:
    return files if isinstance(files, str | Path) else files[0]


def _cards(exposure: Exposure) -> dict[str, str | float]:
    """Return the cards by which a stack of an exposure's tile is known to be of its instrument and band."""
    primary = read_headers(exposure.path, exposure.file)[0].header
    cards = {card: primary[card] for card in CARDS if card != "ASN_ID" and card in primary}
    if exposure.band and not cards.keys() & {"FILTER", "FILTER1", "FILTER2", "PUPIL"}:
        cards["FILTER"] = exposure.band
    return {**cards, "SUBARRAY": "STACK"}  # no detector's frame, of which a window could be cut
