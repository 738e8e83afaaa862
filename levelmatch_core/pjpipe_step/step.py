"""The step itself: its constructor, its stages, and what puts corrections to use."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from levelmatch_core.images.exposure import Exposure
from levelmatch_core.library import LevelMatch, result_of, run_request
from levelmatch_core.pipeline import Request
from levelmatch_core.pjpipe_step.applying import Applying, refuse_nothing
from levelmatch_core.pjpipe_step.deltas import StepDeltas
from levelmatch_core.pjpipe_step.groups import Dither, File, Group
from levelmatch_core.pjpipe_step.kept import ORDER, StagePlane, plane_on_grid
from levelmatch_core.pjpipe_step.recording import record_run
from levelmatch_core.pjpipe_step.results import Corrections, DitherDeltas, Frame
from levelmatch_core.pjpipe_step.stages import StageResult, match_stage
from levelmatch_core.pjpipe_step.state import coefficients_of, fit_choice, fit_type_of, rows_of, spelled
from levelmatch_core.products.corrected.undo import refuse_overlap
from levelmatch_core.settings import FitChoice, FitType, MatchSettings
from levelmatch_core.sky.pixelmap import Box
from levelmatch_core.sky.plane import Plane


class LevelMatchStep(StepDeltas):
    """Match the levels of the exposures of one band.

    The arguments are those of the original step, and are described in
    :class:`~levelmatch_core.settings.MatchSettings`; any other setting may be given by name (`solver`, `slope_prior`,
    `figures`, ...). All of them are attributes, which may be set. `in_dir` is only read.

    The corrections that a stage finds are kept in the step: what is called after it works on corrected pixels, and
    :meth:`apply` writes them. A stage that is called again replaces what it and the stages after it found for its
    files.

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
        **further: object,
    ) -> None:
        given = {name: value for name, value in locals().items() if name in MatchSettings.model_fields}
        super().__init__(in_dir, out_dir, MatchSettings.from_mapping(spelled({**given, **further})))

    def do_step(self, *, tracking: bool = False) -> LevelMatch:
        """Match `in_dir` and write the output folder, with corrected files in its subfolder `tiles`.

        Parameters
        ----------
        tracking
            Whether to record the run in MLflow, as the command does. If not, or if MLflow is out of reach,
            `levelmatch log OUT` sends the record later: it is kept in LEVELMATCH_HOME.
        """
        request = Request(inputs=(self.in_dir.absolute(),), output=self.out_dir.absolute(), settings=self.settings)
        result = run_request(request, self._store)
        record_run(result, send=tracking)
        return result_of(result)

    # -- stages --------------------------------------------------------------------------------------------------------
    def match_dithers(self, dithers: Sequence[Dither], fit_type: FitChoice = "level") -> Corrections:
        """Return the corrections that make the dithers of each tile agree (mean 0 per tile).

        Parameters
        ----------
        dithers
            The files of each tile: lists of files, or patterns such as "jw01234001001_02101_*", found in `in_dir`. A
            flat list of files is divided into tiles by the names of JWST's files, and is one tile where they do not
            follow that convention.
        fit_type
            "level" or "level+slope".

        Returns
        -------
        Corrections
            Name of the exposure (the file) -> plane on the field's grid, to be subtracted; with the grids.
        """
        return self._stage("dithers", self._finder.tiles(dithers), fit_type)

    def match_lyot_science(self, dithers: Sequence[Dither], fit_type: FitChoice = "level") -> Corrections:
        """Return the corrections that make Lyot window and main chip agree; 0 for the main chip.

        As :meth:`match_dithers`; names end in `@lyot` and `@main` if one file contains both.

        Parameters
        ----------
        dithers, fit_type
            As for :meth:`match_dithers`.
        """
        return self._stage("recombine_lyot", self._finder.tiles(dithers), fit_type, recombine_lyot=True)

    def match_nircam_short(self, dithers: Sequence[Dither], fit_type: FitChoice = "level") -> Corrections:
        """Return the corrections that make the four chips of a module agree (mean 0 per module).

        As :meth:`match_dithers`.

        Parameters
        ----------
        dithers, fit_type
            As for :meth:`match_dithers`.
        """
        return self._stage("combine_nircam_short", self._finder.tiles(dithers), fit_type, combine_nircam_short=True)

    def match_mosaic_tiles(self, dithers: Sequence[Dither], fit_type: FitChoice = "level") -> Corrections:
        """Return the further corrections that make the tiles agree, after earlier stages; 0 for the reference tile.

        As :meth:`match_dithers`; of a flat list of files that are not named as JWST's each is a tile. What earlier
        stages were not called for is matched in them on the way, with the step's settings.

        Parameters
        ----------
        dithers, fit_type
            As for :meth:`match_dithers`.
        """
        return self._stage("mosaic_tiles", self._finder.tiles(dithers, apart=True), fit_type)

    def get_per_dither_delta(
        self, dithers: Sequence[Dither], fit_type: FitType = "level", procs: int = 1
    ) -> list[DitherDeltas]:
        """Return the corrections of the files of each tile, in their order, without keeping them.

        Parameters
        ----------
        dithers, fit_type
            As for :meth:`match_dithers`.
        procs
            Workers.

        Returns
        -------
        list of DitherDeltas
            For each tile an array (n, 1) or, for planes, (n, 3) [a, b, c] about the centre of each exposure's box; to
            be subtracted. With the names of the exposures, pixels and reference points.
        """
        kind, groups = fit_type_of(fit_type), self._finder.tiles(dithers)
        results = self._matched("dithers", groups, kind, procs)
        return [_rows(group, results, kind) for group in groups]

    # -- corrections put to use ----------------------------------------------------------------------------------------
    def subtract(
        self, files: Sequence[Dither], coefficients: object, frame: Frame | None = None, stage: str = "mosaic_tiles"
    ) -> None:
        """Keep corrections that were found by hand, in addition to those found so far.

        Parameters
        ----------
        files
            The files of each correction: a list (or pattern) for each, such as the dithers of each stack, or a file.
        coefficients
            (N,) levels or (N, 3) [a, b, c], as from :meth:`find_optimum_deltas`.
        frame
            Pixels and reference point of [a, b, c]: that of :meth:`calculate_delta`'s result. Levels need none.
        stage
            The stage that they belong to, as in the settings `fit_type_<stage>`.

        Raises
        ------
        UsageError
            If the coefficients are not of the files, or have slopes and no frame.
        """
        groups = self._finder.members(files)
        rows = rows_of(coefficients, len(groups))
        where = frame or getattr(coefficients, "frame", None) or Frame(shape=(1, 1))
        planes = [where.plane(row, number) for number, row in enumerate(rows)]
        fit_choice_of_stage = "level+slope" if rows.shape[1] == 3 else "level"
        self._with(**{f"fit_type_{stage}": fit_choice_of_stage})  # refuses what is no stage
        parts = self._parts(groups)
        for exposures, plane in zip(parts.exposures, planes, strict=True):
            for one in exposures:
                new = StagePlane(plane, where.grid or parts.grid, fit_type_of(fit_choice_of_stage))
                known = self._kept.of(one)
                if stage in known:
                    centre = parts.cutouts[one.name].centre
                    total = plane_on_grid(new, parts.grid, centre) + plane_on_grid(known[stage], parts.grid, centre)
                    new = replace(new, plane=total, grid=parts.grid)
                self._kept.put(one, {**known, stage: new})

    def apply(self) -> list[Path]:
        """Write the files corrected by all that the step has found, into `tiles` of `out_dir`, and corrections.ecsv.

        As `do_step` does, with the local sky taken out of all if `do_local_subtraction` is set: that of the reference
        tile's first exposure. Other files that are in the way are replaced only if `overwrite` is set.

        Returns
        -------
        list of Path
            The corrected files.

        Raises
        ------
        UsageError
            If nothing was found yet, or the output folder cannot be used.
        """
        files = refuse_nothing(self._kept)
        refuse_overlap(self.out_dir, *{file.parent for file in files})
        inventory = self._inventory(self._tiles_of(files), self._with(**self._flags(files)))
        return Applying(self._kept, self.settings, self._runner()).write(inventory, self.out_dir)

    def forget(self) -> None:
        """Forget all corrections that were found, so that files are taken as they are."""
        self._kept.stages.clear()

    # -- names that only spread work over processes --------------------------------------------------------------------
    def parallel_per_dither_delta(self, dither: Dither, fit_type: FitType = "level") -> DitherDeltas:
        """Return the corrections of one tile: :meth:`get_per_dither_delta` of one dither.

        Parameters
        ----------
        dither
            The files of the tile.
        fit_type
            "level" or "level+slope".
        """
        (found,) = self.get_per_dither_delta([dither], fit_type)
        return found

    def parallel_match_lyot_science(self, dither: Dither, stacked_dir: File, fit_type: FitChoice) -> Corrections:
        """Match Lyot window and main chip of one tile: :meth:`match_lyot_science` of one dither.

        Parameters
        ----------
        dither
            The files of the tile.
        stacked_dir
            Kept for compatibility: the files themselves are stacked.
        fit_type
            "level" or "level+slope".
        """
        del stacked_dir
        return self.match_lyot_science([dither], fit_type)

    def parallel_match_nircam_short(self, dither: Dither, stacked_dir: File, fit_type: FitChoice) -> Corrections:
        """Match the four chips of one module: :meth:`match_nircam_short` of one dither.

        Parameters
        ----------
        dither, stacked_dir, fit_type
            As for :meth:`parallel_match_lyot_science`.
        """
        del stacked_dir
        return self.match_nircam_short([dither], fit_type)

    # -- helper methods ------------------------------------------------------------------------------------------------
    def _stage(self, stage: str, groups: Sequence[Group], fit_type: object, **flags: bool) -> Corrections:
        """Match a stage, and keep what it found in place of what it and later ones found before."""
        planes, grids = {}, {}
        for result in self._matched(stage, groups, fit_type, **flags):
            for one in result.field.exposures:
                found = dict(result.found[one.name])
                planes[one.name], grids[one.name] = result.plane(one, stage), result.grid
                if stage not in found:  # nothing to be matched with
                    found[stage] = StagePlane(planes[one.name], result.grid, "level")
                self._kept.put(one, found)
        return Corrections(planes, grids)

    def _matched(
        self, stage: str, groups: Sequence[Group], fit_type: object, procs: int | None = None, **flags: bool
    ) -> list[StageResult]:
        """Match a stage of all fields of some tiles."""
        files = [file for group in groups for file in group.files]
        settings = self._with(**{**self._flags(files), **flags, f"fit_type_{stage}": fit_choice(fit_type)})
        inventory = self._inventory(groups, settings)
        each = self._runner(procs)
        return [match_stage(stage, field, settings, each, self._kept) for field in inventory.fields]

    def _tiles_of(self, files: Sequence[Path]) -> list[Group]:
        """Return files in the tiles that they were matched in."""
        tiles: dict[str, list[Path]] = {}
        for file in files:
            tiles.setdefault(self._kept.tiles[file], []).append(file)
        return [Group(tile, tuple(found)) for tile, found in tiles.items()]


def _rows(group: Group, results: Sequence[StageResult], fit_type: FitType) -> DitherDeltas:
    """Return the corrections of the exposures of one tile, on one grid."""
    held: list[tuple[Exposure, StageResult]] = [
        (one, result)
        for file in group.files
        for result in results
        for one in result.field.exposures
        if one.path == file
    ]
    grid = held[0][1].grid
    rows, centres, boxes = [], [], []
    for one, result in held:
        cutout = result.cutouts[one.name]
        plane: Plane = plane_on_grid(
            StagePlane(result.plane(one, ORDER[0]), result.grid, fit_type), grid, cutout.centre
        )
        rows.append(coefficients_of(plane, fit_type))
        centres.append(cutout.centre)
        boxes.append(Box(cutout.x0, cutout.y0, cutout.shape))
    frame = Frame.of(grid, boxes)
    x, y = np.array(centres).T
    frame = replace(frame, ref_x=x - frame.x0, ref_y=y - frame.y0)
    return DitherDeltas(np.array(rows), tuple(one.name for one, _ in held), frame)
