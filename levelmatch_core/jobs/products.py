"""The jobs that write the results: corrected exposures, mosaics, maps, figures and the report."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

from pydantic import Field as Described

from levelmatch_core.images.contents.blanks import always_blank
from levelmatch_core.images.fits_headers import MATCHED_CARD
from levelmatch_core.images.instruments import instrument_of
from levelmatch_core.jobs.advice import advice_name
from levelmatch_core.jobs.job import Job, Workspace
from levelmatch_core.jobs.science import sky_name
from levelmatch_core.matching.corrections import Correction, ErrorMap, FieldMatch, StageMatch
from levelmatch_core.matching.measure.pair_fit import Difference, difference
from levelmatch_core.matching.results import PairResult, patch_of
from levelmatch_core.process.beside import process_beside
from levelmatch_core.process.malloc_trim import MANY, trim_memory
from levelmatch_core.products.corrected.write import write_corrected
from levelmatch_core.products.level_error import write_level_error
from levelmatch_core.products.manifest import OutputFile
from levelmatch_core.products.mosaic import write_mosaic
from levelmatch_core.products.output.placing import Sha256
from levelmatch_core.products.overview import on_one_map
from levelmatch_core.products.report import REPORT
from levelmatch_core.products.runrecord import RunRecord
from levelmatch_core.records import Record
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.cutouts import CutoutRecord, open_cutout
from levelmatch_core.sky.grid import Grid
from levelmatch_core.sky.plane import Plane
from levelmatch_core.sky.store import CutoutStore
from levelmatch_core.text.naming import some_of

MOST_NAMED = 5
"""Number of files that are told by name."""


class Written(Record):
    """Files that a job wrote, and notes on them for the user."""

    files: tuple[OutputFile, ...]
    notes: tuple[str, ...] = ()


class ProductJob(Job):
    """Write files of the output folder."""

    gives = Written

    def told(self, result: Written) -> str:
        """Return the names of the files."""
        return some_of([file.name for file in result.files], MOST_NAMED)


class WriteJob(ProductJob):
    """Write one corrected file."""

    step = "write"
    version = 4
    roles = ("fit", "write")
    aside = ("unblank",)

    product: str
    corrections: tuple[Correction, ...]
    grids: dict[str, Grid]
    unblank: tuple[str, ...] = Described(
        default=(), description="exposures in which, by their cutouts, nothing is blank but the instrument's 0"
    )

    @classmethod
    def of(
        cls,
        product: str,
        parts: Sequence[Correction],
        settings: MatchSettings,
        grids: Mapping[str, Grid],
        cutouts: Mapping[str, CutoutRecord],
    ) -> Self:
        """Return the job of a corrected file, given the grids and cutouts of all fields."""
        names = tuple(part.exposure.name for part in parts)
        usual = {part.exposure.name: always_blank(zero=instrument_of(part.exposure).blank_zero) for part in parts}
        return cls(
            label=product,
            exposures=names,
            settings=settings,
            product=product,
            corrections=tuple(parts),
            grids={part.place: grids[part.place] for part in parts},
            unblank=tuple(name for name in names if name in cutouts and cutouts[name].blanks == usual[name]),
        )

    @property
    def place(self) -> tuple[str, str]:
        """The tiles whose exposures are in the file."""
        return self.bundle, self.step

    @property
    def bundle(self) -> str:
        """The tiles whose exposures are in the file."""
        return ", ".join(sorted({each.exposure.tile for each in self.corrections}))

    @property
    def reads(self) -> tuple[str, ...]:
        """The exposures in the file, and the local sky of their fields."""
        return (*self.exposures, *sorted({sky_name(each.field) for each in self.corrections}))

    @property
    def makes(self) -> tuple[str, ...]:
        """The file: the corrections stay those of earlier jobs."""
        return self.writes()

    def writes(self) -> tuple[str, ...]:
        """Return the name of the single file."""
        return (f"tiles/{self.product}",)

    def run(self, workspace: Workspace) -> Written:
        """Write the file."""
        notes: list[str] = []
        hdus = 0

        def writer(path: Path) -> Sha256:
            nonlocal hdus
            made = write_corrected(path, self.corrections, self.grids, self.settings, self.unblank)
            notes.extend(made.notes)
            hdus = made.hdus
            return Sha256(made.sha256)

        file = workspace.output().write(self.writes()[0], writer)
        return Written(files=(file.model_copy(update={"hdus": hdus}),), notes=tuple(notes))


class FieldImageJob(ProductJob):
    """Write an image of a field on its grid."""

    field: str
    unit: str
    grid: Grid

    @classmethod
    def of(cls, match: FieldMatch, settings: MatchSettings, **what: Any) -> Self:  # noqa: ANN401 - checked as a record
        """Return the job of a matched field; `what` holds the further fields of the job."""
        field = match.field
        return cls(
            label=field.name,
            exposures=(),
            settings=settings,
            field=field.name,
            unit=field.unit,
            grid=match.grid,
            **what,
        )

    @property
    def makes(self) -> tuple[str, ...]:
        """The file."""
        return self.writes() or ()


class MosaicJob(FieldImageJob):
    """Write the mosaic of one field, with and without the corrections."""

    step = "mosaic"
    version = 4

    parts: tuple[tuple[CutoutRecord, Plane, float], ...]

    @property
    def reads(self) -> tuple[str, ...]:
        """The exposures and the local sky."""
        return (*(cutout.name for cutout, _, _ in self.parts), sky_name(self.field))

    def writes(self) -> tuple[str, ...]:
        """Return the name of the single file."""
        return (mosaic_name(self.field),)

    def run(self, workspace: Workspace) -> Written:
        """Write the file."""
        if len(self.parts) > MANY:
            trim_memory()

        holes: list[int] = []

        def writer(path: Path) -> None:
            cards = {MATCHED_CARD: ("mosaic", "levelmatch: made of matched exposures")}
            holes.append(write_mosaic(path, self.grid, self.parts, workspace.store, unit=self.unit, cards=cards))

        file = workspace.output().write(mosaic_name(self.field), writer)
        note = (
            f"{file.name}: {sum(holes)} pixels in small holes have no value: what covers them is masked, blank or left "
            "out as cosmic rays"
        )
        wild = any(
            cutout.n_wild or cutout.n_lone for cutout, _, _ in self.parts
        )  # masked pixels leave holes in every mosaic
        return Written(files=(file,), notes=(note,) if wild and any(holes) else ())


class LevelErrorJob(FieldImageJob):
    """Write the error map of a field's levels."""

    step = "level error"

    aside = ("measured",)

    map: ErrorMap
    measured: tuple[str, ...] = Described(default=(), description="the exposures whose errors the map shows")

    @property
    def reads(self) -> tuple[str, ...]:
        """The exposures."""
        return self.measured

    def writes(self) -> tuple[str, ...]:
        """Return the name of the single file."""
        return (level_error_name(self.field),)

    def run(self, workspace: Workspace) -> Written:
        """Write the file."""
        levels = workspace.store.open(self.map.array)
        writer = partial(write_level_error, grid=self.grid, levels=levels, at=self.map, unit=self.unit)
        return Written(files=(workspace.output().write(level_error_name(self.field), writer),))


class FiguresJob(ProductJob):
    """Draw the figures of one field."""

    step = "figures"
    version = 5
    roles = ("mask", "draw")
    large = ("match",)

    match: FieldMatch
    mosaic: OutputFile
    level_error: OutputFile | None

    @property
    def reads(self) -> tuple[str, ...]:
        """The images of the field."""
        return tuple(file.name for file in (self.mosaic, self.level_error) if file is not None)

    @property
    def makes(self) -> tuple[str, ...]:
        """The figures of the field."""
        return (figures_name(self.label),)

    def writes(self) -> None:
        """Return None: which pairs are drawn is decided later."""

    def run(self, workspace: Workspace) -> Written:
        """Draw the figures, with the difference images of the most notable pairs."""
        # imported here, since matplotlib takes a second to import, and a run without changes draws nothing
        from levelmatch_core.products.figures import draw_figures  # noqa: PLC0415

        folder = workspace.output()
        images = _images_of_pairs(self.match, workspace.store) if self.settings.figures == "all" else []
        error = folder.path / self.level_error.name if self.level_error is not None else None
        files = draw_figures(
            on_one_map(self.match),
            images,
            self.settings,
            folder.write,
            mosaic=folder.path / self.mosaic.name,
            level_error=error,
        )
        return Written(files=tuple(files))


def begin_figures(match: FieldMatch, settings: MatchSettings, store: CutoutStore) -> None:
    """Have the process beside this one, if there is one, begin with the figures of pairs; all else comes later."""
    helper = process_beside()
    if helper is not None and settings.figures == "all" and not match.patches:
        from levelmatch_core.products.figures import paints_of_pairs  # noqa: PLC0415 - as above

        for _, paint in paints_of_pairs(match, _images_of_pairs(match, store), settings):
            helper.begin(paint)


class ReportJob(ProductJob):
    """Write the report of a run."""

    step = "report"
    version = 5
    large = ("matches",)

    record: RunRecord
    matches: tuple[FieldMatch, ...]
    mosaics: dict[str, OutputFile]
    level_errors: dict[str, OutputFile]
    title: str = Described(default="", description="of the page; '' for the program's name")

    @property
    def reads(self) -> tuple[str, ...]:
        """The images, figures and advice of all fields."""
        images = (*self.mosaics.values(), *self.level_errors.values())
        fields = [match.field.name for match in self.matches]
        return (*(file.name for file in images), *map(figures_name, fields), *map(advice_name, fields))

    def writes(self) -> tuple[str, ...]:
        """Return the name of the single file."""
        return (REPORT,)

    def run(self, workspace: Workspace) -> Written:
        """Write the report, with thumbnails of the rejected pairs."""
        # imported here, as for figures
        from levelmatch_core.products.report.images import thumbnail  # noqa: PLC0415
        from levelmatch_core.products.report.page import FieldImages, choose_thumbnails, write_report  # noqa: PLC0415

        folder = workspace.output()
        thumbnails = {}
        for match_ in self.matches:
            for stage, pair in choose_thumbnails(match_):
                image = _image_of(stage, pair, workspace.store)
                if image is not None:
                    key = (match_.field.name, stage.stage, pair.fit.first, pair.fit.second)
                    thumbnails[key] = thumbnail(image, pair.fit)
        images = FieldImages(
            mosaics={field: folder.path / file.name for field, file in self.mosaics.items()},
            level_errors={field: folder.path / file.name for field, file in self.level_errors.items()},
            thumbnails=thumbnails,
        )
        shown = [on_one_map(match_) for match_ in self.matches]
        writer = partial(write_report, record=self.record, field_matches=shown, images=images, title=self.title)
        return Written(files=(folder.write(REPORT, writer),))


def _images_of_pairs(match: FieldMatch, store: CutoutStore) -> list[tuple[str, PairResult, Difference]]:
    """Return stage, pair and difference of the pairs that get a figure."""
    from levelmatch_core.products.figures import choose_pairs  # noqa: PLC0415 - as above

    found = ((stage.stage, pair, _image_of(stage, pair, store)) for stage, pair in choose_pairs(match))
    return [(stage, pair, image) for stage, pair, image in found if image is not None]


def _image_of(stage: StageMatch, pair: PairResult, store: CutoutStore) -> Difference | None:
    """Return the difference of a pair before the solve."""
    members = {member.name: member for member in stage.members}
    one, other = members[pair.fit.first], members[pair.fit.second]
    patch = patch_of(one, other)
    first, second = (open_cutout(member.on(patch).cutout, store) for member in (one, other))
    return difference(first, second)


def mosaic_name(field: str) -> str:
    """Return the name of a field's mosaic in the output folder."""
    return f"mosaic_{field}.fits"


def figures_name(field: str) -> str:
    """Return what names the figures of a field among what jobs read and make."""
    return f"figures of {field}"


def level_error_name(field: str) -> str:
    """Return the name of the error map of a field's levels in the output folder."""
    return f"level_error_{field}.fits"
