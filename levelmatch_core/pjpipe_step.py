"""The interface of the step that levelmatch succeeds: thin wrappers of the core for scripts that call it.

Signs are the same everywhere: a correction is subtracted (corrected = data - correction), and a delta of (first,
second) describes second - first. Coefficients of planes are in the order of the original step, [a, b, c] of a x + b y +
c.
"""

import shutil
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import reproject
from astropy.wcs import WCS
from numpy.typing import NDArray

from levelmatch_core.errors import DataError, UsageError
from levelmatch_core.fields import match_field
from levelmatch_core.images.exposure import Exposure
from levelmatch_core.images.inventory import take_inventory
from levelmatch_core.images.reading import read_pixels, read_wcs
from levelmatch_core.jobs.job import Workspace
from levelmatch_core.library import LevelMatch, match_levels
from levelmatch_core.matching.match import match
from levelmatch_core.matching.measure.pair_fit import difference, fit_pair
from levelmatch_core.matching.pair_matrices import DeltaMatrices, solve_matrices
from levelmatch_core.matching.results import Gauge, Member, PairFit
from levelmatch_core.products.mosaic import write_mosaic
from levelmatch_core.runners import PlainRunner
from levelmatch_core.settings import FitChoice, FitType, MatchSettings
from levelmatch_core.sky.cutouts import make_cutout, open_cutout
from levelmatch_core.sky.grid import Grid, choose_grid
from levelmatch_core.sky.plane import Plane
from levelmatch_core.sky.stack import stack
from levelmatch_core.sky.store import CutoutStore
from levelmatch_core.workers import Threads

File = str | Path
Dither = File | Sequence[File]
"""The files of one tile, or a single one."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LevelDelta:
    """The robust difference second - first of two groups of files."""

    coefficients: Floats
    """[c], or [a, b, c] of a (x - ref_x) + b (y - ref_y) + c; data unit, slopes per grid pixel."""
    npix: int
    rms: float
    linear: tuple[float, float]
    """Overlap as a fraction of either member's extent, along both detector axes."""


class LevelMatchStep:
    """Match the levels of the exposures of one band.

    The arguments are those of the original step, and are described in
    :class:`~levelmatch_core.settings.MatchSettings`. `in_dir` is only read.

    Raises
    ------
    SettingsError
        If an argument has the wrong type or range.
    """

    def __init__(  # noqa: PLR0917 - the order of the original step
        self,
        in_dir: File,
        out_dir: File,
        step_ext: str | None,
        procs: int,
        band: str | None,
        fit_type_dithers: FitChoice = "level",
        fit_type_recombine_lyot: FitChoice = "level",
        fit_type_combine_nircam_short: FitChoice = "level",
        fit_type_mosaic_tiles: FitChoice = "level",
        recombine_lyot: bool = False,
        combine_nircam_short: bool = False,
        do_local_subtraction: bool = True,
        sigma: float = 3,
        npixels: int = 3,
        dilate_size: int = 7,
        max_iters: int = 20,
        max_points: int = 10000,
        do_sigma_clip: bool = False,
        weight_method: str = "equal",
        min_area_percent: float = 0.002,
        min_linear_frac: float = 0.2,
        rms_sig_limit: float = 2,
        reproject_func: str = "interp",
        overwrite: bool = False,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in {"self", "in_dir", "out_dir"}}
        self.in_dir, self.out_dir = Path(in_dir), Path(out_dir)
        self.settings = MatchSettings.from_mapping(given)
        self._scratch = Path(tempfile.mkdtemp(prefix="levelmatch-"))
        weakref.finalize(self, shutil.rmtree, self._scratch, ignore_errors=True)
        self._store = CutoutStore(self._scratch)

    def do_step(self) -> LevelMatch:
        """Match `in_dir` and write the output folder, with corrected files in its subfolder `tiles`."""
        return match_levels(self.in_dir, self.out_dir, self.settings, cache=self._scratch)

    # -- stages --------------------------------------------------------------------------------------------------------
    def match_dithers(self, dithers: Sequence[Dither], fit_type: FitType = "level") -> dict[str, Plane]:
        """Return the corrections that make the dithers of each tile agree (mean 0 per tile).

        Parameters
        ----------
        dithers
            The files of each tile.
        fit_type
            "level" or "level+slope".

        Returns
        -------
        Name of the exposure (the file) -> plane on the field's grid, to be subtracted.
        """
        return self._stage("dithers", dithers, fit_type_dithers=fit_type)

    def match_lyot_science(self, dithers: Sequence[Dither], fit_type: FitType = "level") -> dict[str, Plane]:
        """Return the corrections that make Lyot window and main chip agree; 0 for the main chip.

        As :meth:`match_dithers`; names end in `@lyot` and `@main` if one file contains both.
        """
        return self._stage("recombine_lyot", dithers, fit_type_recombine_lyot=fit_type, recombine_lyot=True)

    def match_nircam_short(self, dithers: Sequence[Dither], fit_type: FitType = "level") -> dict[str, Plane]:
        """Return the corrections that make the four chips of a module agree (mean 0 per module).

        As :meth:`match_dithers`.
        """
        return self._stage(
            "combine_nircam_short", dithers, fit_type_combine_nircam_short=fit_type, combine_nircam_short=True
        )

    def match_mosaic_tiles(self, dithers: Sequence[Dither], fit_type: FitType = "level") -> dict[str, Plane]:
        """Return the further corrections that make the tiles agree, after earlier stages; 0 for the reference tile.

        As :meth:`match_dithers`.
        """
        return self._stage("mosaic_tiles", dithers, fit_type_mosaic_tiles=fit_type)

    def get_per_dither_delta(
        self, dithers: Sequence[Dither], fit_type: FitType = "level", procs: int = 1
    ) -> list[Floats]:
        """Return the corrections of the files of each tile, in their order.

        Returns
        -------
        list of ndarray
            For each tile (n, 1) or, for planes, (n, 3) [a, b, c] about the centre of each exposure's box; to be
            subtracted.
        """
        found = self._stage("dithers", dithers, procs=procs, fit_type_dithers=fit_type)
        return [np.array([_abc(found[Path(file).name], fit_type) for file in _files(dither)]) for dither in dithers]

    # -- pairs ---------------------------------------------------------------------------------------------------------
    def calculate_delta(
        self,
        files: Sequence[Dither],
        fit_type: FitType = "level",
        stacked_image: bool = False,
        procs: int | None = None,
    ) -> DeltaMatrices:
        """Measure the difference of every pair: entry [j, i] is data_j - data_i.

        Parameters
        ----------
        files
            Members: files, or lists of files that are stacked first.
        fit_type
            "level" or "level+slope"; planes are given about the centre of the field.
        stacked_image
            Ignored; kept for compatibility. Stacks of :meth:`make_stacked_images` are read like any other file.
        procs
            Workers that resample; None for one.
        """
        del stacked_image
        _, members = self._members(files, procs=procs or 1)
        x0, y0 = np.mean([member.cutout.centre for member in members], axis=0).tolist()
        shape, k = (len(members), len(members)), 3 if fit_type == "level+slope" else 1
        delta, npix, rms = np.zeros((*shape, k)), np.zeros(shape, dtype=np.int64), np.zeros(shape)
        linear, valid = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        cutouts = [open_cutout(member.cutout, self._store) for member in members]
        for i in range(len(members)):
            for j in range(i + 1, len(members)):
                fit = fit_pair(cutouts[i], cutouts[j], fit_type, self.settings)
                if fit is None:
                    continue
                delta[j, i] = _abc(fit.plane.about(x0, y0), fit_type)
                delta[i, j] = -delta[j, i]
                for matrix, value in ((npix, fit.npix), (rms, fit.rms), (valid, 1)):
                    matrix[i, j] = matrix[j, i] = value
                linear[i, j] = linear[j, i] = max(fit.linear) >= self.settings.min_linear_frac
        return DeltaMatrices(delta if k == 3 else delta[..., 0], npix, rms, linear, valid)

    def find_optimum_deltas(  # noqa: PLR0917 - the order of the original step
        self,
        delta_mat: Floats,
        npix_mat: NDArray[np.integer],
        rms_mat: Floats,
        lin_size_mat: NDArray[np.integer],
        valid_mat: NDArray[np.integer],
        fit_type: FitType = "level",
        n_draws: int = 25,
        n_iter: int = 10_000,
        convergence_abs_tol: float = 1e-8,
        convergence_rel_tol: float = 1e-5,
        ref_idx: int | None = None,
    ) -> Floats:
        """Find the corrections that make all deltas vanish together.

        Matrices contain no overlap geometry, so that planes are solved coefficient by coefficient, as in the original
        step; `do_step` solves for them jointly, which is better for thin overlaps.

        Parameters
        ----------
        delta_mat, npix_mat, rms_mat, lin_size_mat, valid_mat
            As returned by :meth:`calculate_delta`.
        fit_type
            "level" or "level+slope": whether `delta_mat` is (N, N) or (N, N, 3).
        n_draws, n_iter, convergence_abs_tol, convergence_rel_tol
            Parameters of the iterative solver; the default solver, least squares, needs none.
        ref_idx
            The member with correction 0; None makes the mean correction 0.

        Returns
        -------
        ndarray
            (N,) or (N, 3), to be subtracted: c[j] - c[i] equals delta[j, i]. A member without a usable pair
            has 0.

        Raises
        ------
        UsageError
            If a matrix has the wrong shape.
        """
        k = 3 if fit_type == "level+slope" else 1
        n = len(valid_mat)
        planes = np.asarray(delta_mat, dtype=float).reshape(n, n, -1)
        wrong = [np.shape(each) for each in (npix_mat, rms_mat, lin_size_mat, valid_mat) if np.shape(each) != (n, n)]
        if planes.shape[2] != k or wrong:
            message = f"matrices of shapes {planes.shape}, {wrong}: expected ({n}, {n}, {k}) and ({n}, {n})"
            raise UsageError(message)
        settings = self.settings.model_copy(
            update={
                "n_draws": n_draws,
                "n_iter": n_iter,
                "convergence_abs_tol": convergence_abs_tol,
                "convergence_rel_tol": convergence_rel_tol,
            }
        )
        found = solve_matrices(planes, (npix_mat, rms_mat, lin_size_mat, valid_mat), ref_idx, settings)
        return found if k == 3 else found[:, 0]

    def get_level_match(  # noqa: PLR0917 - the order of the original step
        self,
        files1: Dither,
        files2: Dither,
        fit_type: FitType,
        ref_x: float = 0,
        ref_y: float = 0,
        plot_name: File | None = None,
        maxiters: int = 10,
        plane_fit_maxiters: int = 20,
        plane_fit_abs_tol: float = 1e-8,
        plane_fit_rel_tol: float = 1e-5,
    ) -> LevelDelta | None:
        """Measure the robust difference files2 - files1, each group being stacked if it has several files.

        Parameters
        ----------
        files1, files2
            The groups.
        fit_type
            "level" or "level+slope".
        ref_x, ref_y
            Reference point of c of a plane: grid column and row, counted from the first pixel of the common box.
        plot_name
            File for a plot of the difference (PNG); None for no plot.
        maxiters, plane_fit_maxiters, plane_fit_abs_tol, plane_fit_rel_tol
            Limits of the clipped fit.

        Returns
        -------
        LevelDelta or None
            None if there are no common pixels.
        """
        settings = self.settings.model_copy(
            update={
                "maxiters": maxiters,
                "plane_fit_maxiters": plane_fit_maxiters,
                "plane_fit_abs_tol": plane_fit_abs_tol,
                "plane_fit_rel_tol": plane_fit_rel_tol,
            }
        )
        _, (first, second) = self._members([files1, files2])
        cutouts = open_cutout(first.cutout, self._store), open_cutout(second.cutout, self._store)
        fit = fit_pair(*cutouts, fit_type, settings)
        if fit is None:
            return None
        if plot_name is not None:
            self._draw(Path(plot_name), (first, second), fit, fit_type)
        x0, y0 = (min(getattr(member.cutout, name) for member in (first, second)) for name in ("x0", "y0"))
        moved = fit.plane.about(x0 + ref_x, y0 + ref_y) if fit_type == "level+slope" else fit.plane
        return LevelDelta(np.array(_abc(moved, fit_type)), fit.npix, fit.rms, fit.linear)

    # -- images --------------------------------------------------------------------------------------------------------
    def make_stacked_images(self, dithers: Sequence[Dither], stacked_dir: File, procs: int = 1) -> list[Path]:
        """Write the mean of each tile's uncorrected files to `stacked_dir`; return the new files, in order.

        They contain SCI, ERR (if inputs have one), COVERAGE and BEFORE, which equals SCI here.
        """
        folder = Path(stacked_dir)
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for dither in dithers:
            grid, members = self._members(_files(dither), procs=procs, whole=True)
            paths.append(folder / f"{_stem(_files(dither)[0])}_stacked.fits")
            unit = self._exposures(_files(dither))[0].unit
            write_mosaic(paths[-1], grid, [(each.cutout, Plane(), 0.0) for each in members], self._store, unit=unit)
        return paths

    def get_reproject(
        self, file: Dither, optimal_wcs: WCS, optimal_shape: tuple[int, int], stacked_image: bool = False
    ) -> Floats | list[Floats]:
        """Return files resampled to a WCS, NaN where there is no valid data: an array for a file, a list for a list.

        Parameters
        ----------
        file
            One file, or several.
        optimal_wcs, optimal_shape
            The WCS, and rows and columns, of the result.
        stacked_image
            Ignored; kept for compatibility. All files are read in the same way.
        """
        if not isinstance(file, str | Path):
            return [cast("Floats", self.get_reproject(each, optimal_wcs, optimal_shape)) for each in file]
        (exposure,) = self._exposures([file])
        resample = getattr(reproject, f"reproject_{self.settings.reproject_func}", None)
        if resample is None:  # a cubic spline, which reproject calls bicubic
            resample = partial(reproject.reproject_interp, order="bicubic")
        image = (np.asarray(read_pixels(exposure).data, dtype=float), read_wcs(exposure))
        del stacked_image
        return cast("Floats", resample(image, optimal_wcs, shape_out=optimal_shape)[0])

    def get_plot_name(self, files1: Dither, files2: Dither) -> str:
        """Return a name for the plot of the difference of two groups, from the names of their first files."""
        return f"{_stem(_files(files1)[0])}_{_stem(_files(files2)[0])}_level_match.png"

    # -- helper methods ------------------------------------------------------------------------------------------------
    def _stage(
        self, stage: str, dithers: Sequence[Dither], procs: int | None = None, **changes: object
    ) -> dict[str, Plane]:
        """Solve the fields of the files, and return the planes of one stage by exposure."""
        settings = self.settings.model_copy(
            update={"do_local_subtraction": False, "procs": procs or self.settings.procs}
        )
        settings = settings.model_copy(update=changes)
        files = [Path(file) for dither in dithers for file in _files(dither)]
        with tempfile.TemporaryDirectory(prefix="levelmatch-") as folder:
            table = Path(folder) / "tiles.csv"
            group_by = None
            if not (settings.recombine_lyot or settings.combine_nircam_short):  # their tiles follow from file names
                rows = [f"{Path(file).name},{_stem(_files(d)[0])}" for d in dithers for file in _files(d)]
                table.write_text("\n".join(["file,tile", *rows]) + "\n", encoding="utf-8")
                group_by = table
            inventory = take_inventory(files, settings, group_by=group_by)
        if inventory.failures:
            raise DataError(inventory.failures[0].reason)
        each = PlainRunner(Workspace(self._store), Threads(settings.procs))
        matches = [match_field(field, choose_grid(field), settings, each) for field in inventory.fields]
        return {
            one.exposure.name: one.stages.get(stage, Plane(x0=one.plane.x0, y0=one.plane.y0))
            for found in matches
            for one in found.corrections
        }

    def _exposures(self, files: Sequence[File]) -> list[Exposure]:
        """Return the exposures of files, in their order; each is a whole image."""
        plain = self.settings.model_copy(update={"recombine_lyot": False, "step_ext": None})
        inventory = take_inventory([Path(file) for file in files], plain)
        if inventory.failures:
            raise DataError(inventory.failures[0].reason)
        by_path = {exposure.path: exposure for field in inventory.fields for exposure in field.exposures}
        return [by_path[Path(file).absolute()] for file in files]

    def _members(self, groups: Sequence[Dither], procs: int = 1, *, whole: bool = False) -> tuple[Grid, list[Member]]:
        """Return the groups as members on one grid, stacked if they have several files; `whole` with their sources."""
        settings = self.settings.model_copy(update={"do_sigma_clip": False}) if whole else self.settings
        exposures = self._exposures([file for group in groups for file in _files(group)])
        by_path = {exposure.path: exposure for exposure in exposures}
        inventory = take_inventory(list(by_path), self.settings.model_copy(update={"step_ext": None, "procs": procs}))
        field = inventory.fields[0].model_copy(update={"exposures": tuple(exposures)})
        grid = choose_grid(field)
        members = []
        for group in groups:
            cutouts = [
                make_cutout(by_path[Path(file).absolute()], grid, settings, self._store) for file in _files(group)
            ]
            name = cutouts[0].name
            mean = cutouts[0] if len(cutouts) == 1 else stack(name, [(one, Plane()) for one in cutouts], self._store)
            members.append(
                Member(
                    name=name, exposures=tuple(sorted(one.name for one in cutouts)), cutout=mean, tile=name, groups={}
                )
            )
        return grid, members

    def _draw(self, path: Path, members: tuple[Member, Member], fit: PairFit, fit_type: FitType) -> None:
        from levelmatch_core.products.figures.pair import draw_pair  # noqa: PLC0415 - matplotlib is slow to import

        image = difference(*(open_cutout(member.cutout, self._store) for member in members))
        settings = self.settings.model_copy(update={"fit_type_dithers": fit_type})
        solution = match("dithers", fit.first, members, [fit], Gauge.MEAN, settings)
        if image is not None:
            draw_pair(path, solution, solution.pairs[0], image, unit="", max_points=self.settings.max_points)


# -- helpers -----------------------------------------------------------------------------------------------------------
def _files(dither: Dither) -> list[File]:
    return [dither] if isinstance(dither, str | Path) else list(dither)


def _stem(file: File) -> str:
    return Path(file).name.partition(".fits")[0]


def _abc(plane: Plane, fit_type: FitType) -> list[float]:
    return [plane.slope_x, plane.slope_y, plane.level] if fit_type == "level+slope" else [plane.level]
