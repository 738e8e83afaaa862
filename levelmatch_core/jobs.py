"""The pieces of work that the pipeline is made of: a job is a record that can be done, cached and done again.

Each job carries all that its result depends on; `key()` is that content's digest, so that a runner may look a result
up instead of doing the job. Results are records; arrays go to the cutout store, files to the output folder.
"""

import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from levelmatch_core.disk import refuse_without_room
from levelmatch_core.images.exposure import Exposure, Failure
from levelmatch_core.images.given import Given, SkyMask
from levelmatch_core.images.headers import MATCHED_CARD
from levelmatch_core.loglines import logger_of, placed
from levelmatch_core.matching.corrections import Correction, FieldMatch, StageMatch
from levelmatch_core.matching.match import NOTHING, Gauge, match
from levelmatch_core.matching.overlap import Difference, difference, fit_pair
from levelmatch_core.matching.results import Member, PairFit, PairResult, Solution
from levelmatch_core.memory import give_back
from levelmatch_core.products.apply import write_corrected
from levelmatch_core.products.folder import OutputFile, OutputFolder
from levelmatch_core.products.mosaic import write_mosaic
from levelmatch_core.products.placing import Sha256
from levelmatch_core.products.report import REPORT
from levelmatch_core.products.runrecord import RunRecord
from levelmatch_core.products.sharing import SharedFolder
from levelmatch_core.records import Record, content_key
from levelmatch_core.settings import FitType, MatchSettings, Role
from levelmatch_core.sky.cutouts import CutoutRecord, CutoutsInUse, StoredArray, make_cutout, open_cutout
from levelmatch_core.sky.grid import Grid
from levelmatch_core.sky.masks import local_sky
from levelmatch_core.sky.plane import Plane
from levelmatch_core.sky.stack import stack
from levelmatch_core.sky.store import CutoutStore
from levelmatch_core.spare import side_by_side

logger = logger_of(__name__)

MANY = 200
"""A solve of more members than this takes so much memory for a while that it is worth giving it back."""


@dataclass(frozen=True)
class Workspace:
    """Where jobs may touch the disk."""

    store: CutoutStore
    folder: OutputFolder | SharedFolder | None = None

    def output(self) -> OutputFolder | SharedFolder:
        """Return the output folder of a run that has one."""
        if self.folder is None:
            message = "this workspace has no output folder"
            raise RuntimeError(message)
        return self.folder

    def held(self) -> OutputFolder:
        """Return the output folder in the hands of the run."""
        if not isinstance(self.folder, OutputFolder):
            message = "this workspace does not hold its output folder"
            raise TypeError(message)
        return self.folder

    def shared(self) -> "Workspace":
        """Return what a worker in another process may use: the same places, without what only the run may do."""
        return Workspace(CutoutStore(self.store.root), None if self.folder is None else SharedFolder(self.folder.path))

    def intact(self, result: object) -> bool:
        """Return whether every array and file that a result names is there, with the bytes that were written."""
        if isinstance(result, StoredArray):
            return self.store.check(result)
        if isinstance(result, OutputFile):
            return self.held().check(result)
        if isinstance(result, Record):
            return all(self.intact(getattr(result, name)) for name in type(result).model_fields)
        if isinstance(result, Mapping):
            return all(self.intact(value) for value in result.values())
        if isinstance(result, list | tuple):
            return all(self.intact(value) for value in result)
        return True


class Job(Record):
    """One piece of work."""

    step: ClassVar[str]
    """What it does, in a word: the task's name."""
    version: ClassVar[int] = 1
    """Raised whenever the same content gives another result: old cached results are then passed over."""
    roles: ClassVar[tuple[Role, ...]] = ()
    """Roles of the settings that it reads."""
    gives: ClassVar[type[Record]]
    """The type of its result."""

    label: str
    """On what it works, as a person reads it: an exposure, a tile, a field."""
    exposures: tuple[str, ...]
    """Names of the exposures that are lost if it fails."""
    settings: MatchSettings

    def key(self) -> str:
        """Return the digest of all that the result depends on."""
        content = _without_paths(self.model_dump(mode="json", exclude={"settings", "label", "exposures"}))
        return content_key(self.step, self.version, content, self.settings.of_role(*self.roles))

    @property
    def place(self) -> tuple[str, str]:
        """The tile (or field) and the stage that its log lines name."""
        return self.label, self.step

    @property
    def bundle(self) -> str:
        """What is done in one go with it: jobs of one step and one bundle, such as a tile's exposures."""
        return self.label

    def do(self, workspace: Workspace) -> Record:
        """Do the work, with log lines that say where."""
        with placed(*self.place):
            started = time.monotonic()
            result = self.run(workspace)
            logger.debug("%s: done in %.2f s", self.label, time.monotonic() - started)
            return result

    def writes(self) -> tuple[str, ...] | None:
        """Return the names of the output files that it will write; None where only doing it tells."""
        return ()

    @abstractmethod
    def run(self, workspace: Workspace) -> Record:
        """Do the work itself."""


class Each(Protocol):
    """A runner: does jobs, in any order and on any worker, and gives results in the order of the jobs.

    A job that fails becomes a :class:`Failure`; it never stops the others.
    """

    def __call__(self, jobs: Sequence[Job], title: str) -> list[Any]:
        """Do all jobs; `title` names them for a person."""
        ...


class CutoutJob(Job):
    """Resample one exposure to its field's grid."""

    step = "cutout"
    roles = ("mask", "resample")
    gives = CutoutRecord

    exposure: Exposure
    grid: Grid
    exclude: SkyMask | None = None

    @property
    def place(self) -> tuple[str, str]:
        """The exposure's tile."""
        return self.exposure.tile, self.step

    @property
    def bundle(self) -> str:
        """The exposure's tile."""
        return self.exposure.tile

    def run(self, workspace: Workspace) -> CutoutRecord:
        """Return the cutout, from the store where it lies there already."""
        return make_cutout(self.exposure, self.grid, self.settings, workspace.store, self.exclude)


class PairFits(Record):
    """The measured pairs of a group, or of a part of one."""

    fits: tuple[PairFit, ...]


class MeasureJob(Job):
    """Fit the differences of some pairs of one group."""

    step = "measure"
    version = 5
    roles = ("mask", "measure")
    gives = PairFits

    stage: str
    group: str
    fit_type: FitType
    members: tuple[Member, ...]
    pairs: tuple[tuple[str, str], ...]

    @property
    def place(self) -> tuple[str, str]:
        """The group, which is a tile where dithers are matched, and the stage by its name."""
        return self.group, f"{self.stage} {self.step}"

    def run(self, workspace: Workspace) -> PairFits:
        """Return the fits of those pairs that have a pixel in common."""
        records = (member.cutout for member in self.members)
        cutouts = CutoutsInUse(records, chain.from_iterable(self.pairs), workspace.store)

        def fit(pair: tuple[str, str]) -> PairFit | None:
            with cutouts.use(*pair) as (first, second):
                return fit_pair(first, second, self.fit_type, self.settings)

        fits = side_by_side(fit, self.pairs)
        return PairFits(fits=tuple(fit for fit in fits if fit is not None))


class SolveJob(Job):
    """Solve one group for its members' corrections."""

    step = "solve"
    version = 8
    roles = ("solve",)
    gives = Solution

    stage: str
    group: str
    fit_type: FitType
    members: tuple[Member, ...]
    fits: tuple[PairFit, ...]
    gauge: Gauge
    preferred: tuple[str, ...] = ()
    given: Given = NOTHING

    @property
    def place(self) -> tuple[str, str]:
        """The group, which is a tile where dithers are matched, and the stage by its name."""
        return self.group, f"{self.stage} {self.step}"

    def run(self, workspace: Workspace) -> Solution:  # noqa: ARG002 - all jobs have the same call
        """Return the solution, every component by itself."""
        settings = self.settings.model_copy(update={f"fit_type_{self.stage}": self.fit_type})
        solution = match(
            self.stage, self.group, self.members, self.fits, self.gauge, settings, self.preferred, self.given
        )
        if len(self.members) > MANY:
            give_back()
        status, used = solution.status, sum(pair.rejected is None for pair in solution.pairs)
        logger.info(
            "%d of %d pairs are used; their differences are %.4g rms before and %.4g after",
            *(used, len(solution.pairs), status.residual_before, status.residual_after),
        )
        return solution


class StackJob(Job):
    """Average the members that a stage tied together, corrected, into one."""

    step = "stack"
    gives = CutoutRecord

    name: str
    parts: tuple[tuple[CutoutRecord, Plane], ...]

    def run(self, workspace: Workspace) -> CutoutRecord:
        """Return the stack's cutout."""
        return stack(self.name, self.parts, workspace.store)


class ErrorMap(Record):
    """1 sigma of a mosaic's level at evenly spread points."""

    array: StoredArray = Described(description="(ny, nx), data unit, NaN where nothing lies")
    x0: float = Described(description="grid column of the first point")
    y0: float = Described(description="grid row of the first point")
    step: float = Described(description="grid pixels from one point to the next")


class FieldErrors(Record):
    """How sure the whole corrections of a field are."""

    sigmas: dict[str, Sigma] = Described(description="of each exposure that a solve concerned")
    map: ErrorMap | None = None


class ErrorsJob(Job):
    """Propagate the noise of all exposures of a field through all stages."""

    step = "errors"
    roles = ("solve",)
    gives = FieldErrors

    field: str
    stages: tuple[StageMatch, ...]
    cutouts: dict[str, CutoutRecord]
    given: Given = NOTHING

    def run(self, workspace: Workspace) -> FieldErrors:
        """Return 1 sigma of every correction, and store the map of the mosaic's."""
        found = field_errors(self.stages, self.cutouts, self.settings, self.given)
        if found is None:
            return FieldErrors(sigmas={})
        at = found.lattice
        array = workspace.store.put(self.key(), found.levels)
        return FieldErrors(sigmas=dict(found.sigmas), map=ErrorMap(array=array, x0=at.x0, y0=at.y0, step=at.step))


class SkyLevel(Record):
    """The constant that makes a component's zero its reference's local sky."""

    level: float


class SkyJob(Job):
    """Measure the local sky of the exposure that stands for a component."""

    step = "local sky"
    version = 3
    roles = ("mask",)
    gives = SkyLevel

    correction: Correction
    cutout: CutoutRecord

    def run(self, workspace: Workspace) -> SkyLevel:
        """Return the source-masked, clipped median of the corrected exposure, on the grid."""
        cutout = open_cutout(self.cutout, workspace.store)
        settings = self.settings
        ny, nx = cutout.data.shape
        rows, columns = np.ogrid[:ny, :nx]
        level = local_sky(
            cutout.data - self.correction.plane(columns + self.cutout.x0, rows + self.cutout.y0),
            sigma=settings.sigma,
            npixels=settings.npixels,
            dilate_size=settings.dilate_size,
            max_iters=settings.max_iters,
        )
        return SkyLevel(level=level)


class Written(Record):
    """Files that a job wrote, and what the user should know of them."""

    files: tuple[OutputFile, ...]
    notes: tuple[str, ...] = ()


class WriteJob(Job):
    """Write one corrected file."""

    step = "write"
    roles = ("fit", "write")
    gives = Written

    product: str
    corrections: tuple[Correction, ...]
    grids: dict[str, Grid]

    @property
    def place(self) -> tuple[str, str]:
        """The tiles that the file has exposures of."""
        return self.bundle, self.step

    @property
    def bundle(self) -> str:
        """The tiles that the file has exposures of."""
        return ", ".join(sorted({each.exposure.tile for each in self.corrections}))

    def writes(self) -> tuple[str, ...]:
        """Return the one name."""
        return (f"tiles/{self.product}",)

    def run(self, workspace: Workspace) -> Written:
        """Write it whole."""
        notes: list[str] = []

        def writer(path: Path) -> Sha256:
            made = write_corrected(path, self.corrections, self.grids, self.settings)
            notes.extend(made.notes)
            return Sha256(made.sha256)

        return Written(files=(workspace.output().write(self.writes()[0], writer),), notes=tuple(notes))


class MosaicJob(Job):
    """Write the mosaic of one field, with and without the corrections."""

    step = "mosaic"
    version = 3
    gives = Written

    field: str
    unit: str
    grid: Grid
    parts: tuple[tuple[CutoutRecord, Plane, float], ...]

    def writes(self) -> tuple[str, ...]:
        """Return the one name."""
        return (mosaic_name(self.field),)

    def run(self, workspace: Workspace) -> Written:
        """Write it whole."""

        def writer(path: Path) -> None:
            cards = {MATCHED_CARD: ("mosaic", "levelmatch: made of matched exposures")}
            write_mosaic(path, self.grid, self.parts, workspace.store, unit=self.unit, cards=cards)

        return Written(files=(workspace.output().write(mosaic_name(self.field), writer),))


class FiguresJob(Job):
    """Draw the figures of one field."""

    step = "figures"
    version = 2
    roles = ("mask", "draw")
    gives = Written

    match: FieldMatch
    mosaic: OutputFile

    def writes(self) -> None:
        """Return None: which pairs are drawn is seen on the way."""

    def run(self, workspace: Workspace) -> Written:
        """Draw them, with the difference images of the pairs that deserve a look."""
        # here and no earlier: matplotlib takes a second to import, and a run that changes nothing draws nothing
        from levelmatch_core.products.figures import choose_pairs, draw_figures  # noqa: PLC0415

        folder = workspace.output()
        images = []
        for stage, pair in choose_pairs(self.match) if self.settings.figures == "all" else ():
            image = _image_of(stage, pair, workspace.store)
            if image is not None:
                images.append((stage.stage, pair, image))
        files = draw_figures(self.match, folder.path / self.mosaic.name, images, self.settings, folder.write)
        return Written(files=tuple(files))


class ReportJob(Job):
    """Write the page that tells all of a run."""

    step = "report"
    version = 2
    gives = Written

    record: RunRecord
    matches: tuple[FieldMatch, ...]
    mosaics: dict[str, OutputFile]

    def writes(self) -> tuple[str, ...]:
        """Return the one name."""
        return (REPORT,)

    def run(self, workspace: Workspace) -> Written:
        """Write it, with thumbnails of the rejected pairs."""
        # here and no earlier: as for figures
        from levelmatch_core.products.report.images import thumbnail  # noqa: PLC0415
        from levelmatch_core.products.report.page import choose_thumbnails, write_report  # noqa: PLC0415

        folder = workspace.output()
        thumbnails = {}
        for match_ in self.matches:
            for stage, pair in choose_thumbnails(match_):
                image = _image_of(stage, pair, workspace.store)
                if image is not None:
                    key = (match_.field.name, stage.stage, pair.fit.first, pair.fit.second)
                    thumbnails[key] = thumbnail(image, pair.fit)
        mosaics = {field: folder.path / file.name for field, file in self.mosaics.items()}
        writer = partial(
            write_report, record=self.record, field_matches=self.matches, mosaics=mosaics, thumbnails=thumbnails
        )
        return Written(files=(folder.write(REPORT, writer),))


def _image_of(stage: StageMatch, pair: PairResult, store: CutoutStore) -> Difference | None:
    """Return the difference of a pair as it was before the solve."""
    members = {member.name: member for member in stage.members}
    first, second = (open_cutout(members[name].cutout, store) for name in (pair.fit.first, pair.fit.second))
    return difference(first, second)


def mosaic_name(field: str) -> str:
    """Return the name of a field's mosaic in the output folder."""
    return f"mosaic_{field}.fits"


def failure_of(job: Job, error: BaseException) -> Failure:
    """Return the record of a job that failed, and log it, once.

    Raises
    ------
    NoRoomError
        If it failed since a disk is full: that is no fault of an exposure, and would spoil the solution for all others.
    """
    refuse_without_room(error)
    with placed(*job.place):
        logger.error("%s: %s: %s", job.label, type(error).__name__, error)
    return Failure(
        name=job.label,
        step=job.step,
        error=type(error).__name__,
        reason=str(error) or type(error).__name__,
        exposures=job.exposures,
    )


def parted(results: Sequence[Any]) -> tuple[list[Any], list[Failure]]:
    """Part what was done from what failed."""
    failures = [result for result in results if isinstance(result, Failure)]
    return [result for result in results if not isinstance(result, Failure)], failures


def _without_paths(value: Any) -> Any:  # noqa: ANN401 - walks JSON
    """Drop every `path`: where a file lies is no part of what it holds."""
    if isinstance(value, dict):
        return {name: _without_paths(item) for name, item in value.items() if name != "path"}
    if isinstance(value, list):
        return [_without_paths(item) for item in value]
    return value
