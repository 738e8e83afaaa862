"""The step's differences: of two groups, of all pairs, and the corrections that make them vanish."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.matching.match import match
from levelmatch_core.matching.measure.pair_fit import difference, fit_pair
from levelmatch_core.matching.pair_matrices import DeltaMatrices, solve_matrices
from levelmatch_core.matching.results import Gauge, Member, PairFit
from levelmatch_core.pjpipe_step.arrays import array_members
from levelmatch_core.pjpipe_step.checks import matrices_of, reference_of, solver_settings
from levelmatch_core.pjpipe_step.groups import Dither, File
from levelmatch_core.pjpipe_step.images import StepImages
from levelmatch_core.pjpipe_step.results import FieldDeltas, Floats, Frame, LevelDelta
from levelmatch_core.pjpipe_step.state import coefficients_of, fit_type_of
from levelmatch_core.settings import FitType
from levelmatch_core.sky.cutouts import open_cutout
from levelmatch_core.sky.pixelmap import Box

Images = NDArray[Any] | Sequence[NDArray[Any]]
"""An image, or several on the same pixels."""


class StepDeltas(StepImages):
    """The methods that measure differences and solve for them."""

    def calculate_delta(
        self,
        files: Sequence[Dither],
        fit_type: FitType = "level",
        stacked_image: bool = False,
        procs: int | None = None,
    ) -> FieldDeltas:
        """Measure the difference of every pair: entry [j, i] is data_j - data_i.

        Files are corrected by what the step has found so far; stacks of :meth:`make_stacked_images` were so when they
        were made. The corrections that :meth:`find_optimum_deltas` makes of the result are put to use by
        :meth:`LevelMatchStep.subtract`.

        Parameters
        ----------
        files
            Members: files, or lists of files (or patterns) that are stacked first.
        fit_type
            "level" or "level+slope"; planes are given about the centre of the field.
        stacked_image
            Kept for compatibility: stacks are read as all files are.
        procs
            Workers that resample; None for one.

        Returns
        -------
        FieldDeltas
            Unpacks as the five matrices; with the names of the members, and the pixels and the reference point of
            [a, b, c].
        """
        del stacked_image
        kind = fit_type_of(fit_type)
        parts, members = self._members(self._finder.members(files), procs or 1)
        x, y = np.mean([member.cutout.centre for member in members], axis=0).tolist()
        frame = Frame.of(parts.grid, [_box(member) for member in members])
        frame = replace(frame, ref_x=x - frame.x0, ref_y=y - frame.y0)
        shape, k = (len(members), len(members)), 3 if kind == "level+slope" else 1
        delta, npix, rms = np.zeros((*shape, k)), np.zeros(shape, dtype=np.int64), np.zeros(shape)
        linear, valid = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
        cutouts = [open_cutout(member.cutout, self._store) for member in members]
        for i in range(len(members)):
            for j in range(i + 1, len(members)):
                fit = fit_pair(cutouts[i], cutouts[j], kind, self.settings)
                if fit is None:
                    continue
                delta[j, i] = coefficients_of(fit.plane.about(x, y) if k == 3 else fit.plane, kind)
                delta[i, j] = -delta[j, i]
                for matrix, value in ((npix, fit.npix), (rms, fit.rms), (valid, 1)):
                    matrix[i, j] = matrix[j, i] = value
                linear[i, j] = linear[j, i] = max(fit.linear) >= self.settings.min_linear_frac
        matrices = DeltaMatrices(delta if k == 3 else delta[..., 0], npix, rms, linear, valid)
        return FieldDeltas(matrices, tuple(member.name for member in members), frame)

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
        *,
        solver: str | None = None,
    ) -> Floats:
        """Find the corrections that make all deltas vanish together.

        Matrices contain no overlap geometry, so that planes are solved coefficient by coefficient, as in the original
        step; `match_mosaic_tiles` and `do_step` solve for them jointly, which is better for thin overlaps.

        Parameters
        ----------
        delta_mat, npix_mat, rms_mat, lin_size_mat, valid_mat
            As returned by :meth:`calculate_delta`: arrays or lists with both triangles filled.
        fit_type
            "level" or "level+slope": whether `delta_mat` is (N, N) or (N, N, 3).
        n_draws, n_iter, convergence_abs_tol, convergence_rel_tol
            Options of the iterative solver, which is used if one of them is not the default. It draws `n_draws` points
            of a square of as many pixels as the overlap has, for planes.
        ref_idx
            The member with correction 0; None makes the mean correction 0.
        solver
            "least_squares" or "iterative"; None for the iterative one if its options are given, else for the step's.

        Returns
        -------
        ndarray
            (N,) or (N, 3), to be subtracted: c[j] - c[i] equals delta[j, i]. A member without a usable pair
            has 0.

        Raises
        ------
        UsageError
            If a matrix has the wrong shape or its triangles differ, or `ref_idx` is no member.
        SettingsError
            If an option is out of range, or the solver does not read it.
        """
        k = 3 if fit_type_of(fit_type) == "level+slope" else 1
        delta, npix, rms, linear, valid = matrices_of((delta_mat, npix_mat, rms_mat, lin_size_mat, valid_mat), k)
        options = {
            "n_draws": n_draws,
            "n_iter": n_iter,
            "convergence_abs_tol": convergence_abs_tol,
            "convergence_rel_tol": convergence_rel_tol,
        }
        settings = self._with(**solver_settings(solver, self.settings.solver, options))
        reference = reference_of(ref_idx, len(delta))
        found = solve_matrices(delta, (npix, rms, linear, valid), reference, settings)
        return found if k == 3 else found[:, 0]

    def get_level_match(  # noqa: PLR0917 - the order of the original step
        self,
        files1: Dither | Images,
        files2: Dither | Images,
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

        Files are corrected by what the step has found so far.

        Parameters
        ----------
        files1, files2
            The groups: files, or images on the same pixel grid such as :meth:`get_reproject` returns.
        fit_type
            "level" or "level+slope".
        ref_x, ref_y
            Reference point of c of a plane: grid column and row, counted from the first pixel of the common box, or of
            the images.
        plot_name
            File for a plot of the difference (PNG), whose folder is made; None for no plot.
        maxiters, plane_fit_maxiters, plane_fit_abs_tol, plane_fit_rel_tol
            Limits of the clipped fit.

        Returns
        -------
        LevelDelta or None
            Unpacks as coefficients, npix, rms, linear. None if there are no common pixels.
        """
        kind = fit_type_of(fit_type)
        settings = self._with(
            maxiters=maxiters,
            plane_fit_maxiters=plane_fit_maxiters,
            plane_fit_abs_tol=plane_fit_abs_tol,
            plane_fit_rel_tol=plane_fit_rel_tol,
        )
        unit, images = "", array_members(files1, files2, self._store)
        if images is None:
            parts, members = self._members(self._finder.members([files1, files2]))  # type: ignore[list-item]
            frame, unit = Frame.of(parts.grid, [_box(member) for member in members]), parts.exposures[0][0].unit
        else:
            frame, members = images
        first, second = members
        cutouts = [open_cutout(each.cutout, self._store) for each in members]
        fit = fit_pair(cutouts[0], cutouts[1], kind, settings)
        if fit is None:
            return None
        if plot_name is not None:
            self._draw(Path(plot_name), (first, second), fit, kind, unit)
        frame = replace(frame, ref_x=ref_x, ref_y=ref_y)
        moved = fit.plane.about(frame.x0 + ref_x, frame.y0 + ref_y) if kind == "level+slope" else fit.plane
        return LevelDelta(np.array(coefficients_of(moved, kind)), fit.npix, fit.rms, fit.linear, frame)

    def parallel_delta_matrix(  # noqa: PLR0917 - the order of the original step
        self,
        ij: Sequence[Any],
        file_reproj: Sequence[Images] | None,
        files: Sequence[Dither],
        fit_type: FitType = "level",
        ref_x: float = 0,
        ref_y: float = 0,
    ) -> Any:  # noqa: ANN401 - one or several
        """Measure some entries of a delta matrix: :meth:`get_level_match` of members i and j.

        Parameters
        ----------
        ij
            (i, j), or a list of these.
        file_reproj
            The resampled images of all members, from :meth:`get_reproject`; None to measure the files.
        files
            All members.
        fit_type, ref_x, ref_y
            As for :meth:`get_level_match`.

        Returns
        -------
        LevelDelta, None, or a list of these
            data_j - data_i of (i, j).
        """
        if len(ij) and np.ndim(ij[0]) > 0:
            return [self.parallel_delta_matrix(each, file_reproj, files, fit_type, ref_x, ref_y) for each in ij]
        members: Sequence[Any] = files if file_reproj is None else file_reproj
        i, j = ij
        return self.get_level_match(members[i], members[j], fit_type, ref_x, ref_y)

    def _draw(self, path: Path, members: tuple[Member, Member], fit: PairFit, fit_type: FitType, unit: str) -> None:
        from levelmatch_core.products.figures.pair import draw_pair  # noqa: PLC0415 - matplotlib is slow to import

        image = difference(*(open_cutout(member.cutout, self._store) for member in members))
        settings = self._with(fit_type_dithers=fit_type)
        solution = match("dithers", fit.first, members, [fit], Gauge.MEAN, settings)
        path.parent.mkdir(parents=True, exist_ok=True)
        if image is not None:
            draw_pair(path, solution, solution.pairs[0], image, unit=unit, max_points=self.settings.max_points)


def _box(member: Member) -> Box:
    return Box(member.cutout.x0, member.cutout.y0, member.cutout.shape)
