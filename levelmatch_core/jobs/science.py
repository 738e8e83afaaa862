"""The jobs of the computation: cutouts, differences, solutions, stacks, errors, and the local sky."""

from itertools import chain

import numpy as np
from pydantic import Field as Described

from levelmatch_core.images.exposure import Exposure
from levelmatch_core.images.given import Given, SkyMask
from levelmatch_core.jobs.job import Job, Workspace
from levelmatch_core.matching.corrections import Correction, ErrorMap, Sigma, StageMatch
from levelmatch_core.matching.match import NOTHING, match
from levelmatch_core.matching.measure.pair_fit import fit_pair
from levelmatch_core.matching.results import Gauge, Member, PairFit, Solution
from levelmatch_core.matching.uncertainty.field import field_errors
from levelmatch_core.process.log_context import logger_of
from levelmatch_core.process.malloc_trim import MANY, trim_memory
from levelmatch_core.process.thread_budget import parallel_map
from levelmatch_core.records import Record
from levelmatch_core.settings import FitType
from levelmatch_core.sky.cutouts import CutoutRecord, CutoutsInUse, make_cutout, open_cutout
from levelmatch_core.sky.grid import Grid
from levelmatch_core.sky.masks import local_sky
from levelmatch_core.sky.plane import Plane
from levelmatch_core.sky.stack import stack

logger = logger_of(__name__)


class CutoutJob(Job):
    """Resample one exposure to the grid of its field."""

    step = "cutout"
    version = 2
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
        """Return the cutout; from the store, if it is there already."""
        return make_cutout(self.exposure, self.grid, self.settings, workspace.store, self.exclude)


class PairFits(Record):
    """The measured pairs of a group, or of part of a group."""

    fits: tuple[PairFit, ...]


class MeasureJob(Job):
    """Fit the differences of pairs of one group."""

    step = "measure"
    version = 8
    roles = ("mask", "measure")
    gives = PairFits

    stage: str
    group: str
    fit_type: FitType
    members: tuple[Member, ...]
    pairs: tuple[tuple[str, str], ...]

    @property
    def place(self) -> tuple[str, str]:
        """The group, which is a tile in the stage dithers, and the name of the stage."""
        return self.group, f"{self.stage} {self.step}"

    def run(self, workspace: Workspace) -> PairFits:
        """Return the fits of the pairs with common pixels."""
        records = (member.cutout for member in self.members)
        cutouts = CutoutsInUse(records, chain.from_iterable(self.pairs), workspace.store)

        def fit(pair: tuple[str, str]) -> PairFit | None:
            with cutouts.use(*pair) as (first, second):
                return fit_pair(first, second, self.fit_type, self.settings)

        fits = parallel_map(fit, self.pairs)
        return PairFits(fits=tuple(fit for fit in fits if fit is not None))


class SolveJob(Job):
    """Solve for the corrections of the members of one group."""

    step = "solve"
    version = 12
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
        """The group, which is a tile in the stage dithers, and the name of the stage."""
        return self.group, f"{self.stage} {self.step}"

    def run(self, workspace: Workspace) -> Solution:  # noqa: ARG002 - all jobs have the same call
        """Return the solution, with every component solved separately."""
        settings = self.settings.model_copy(update={f"fit_type_{self.stage}": self.fit_type})
        solution = match(
            self.stage, self.group, self.members, self.fits, self.gauge, settings, self.preferred, self.given
        )
        if len(self.members) > MANY:
            trim_memory()
        status, used = solution.status, sum(pair.rejected is None for pair in solution.pairs)
        tested = any(pair.sigma for pair in solution.pairs)
        logger.info(
            "%d of %d pairs are used%s",
            *(used, len(solution.pairs)),
            f"; the rms of their differences is {status.residual_before:.4g} before and "
            + (f"{status.residual_after:.4g} after" if tested else "nothing tests what is left after")
            if used
            else "",
        )
        return solution


class StackJob(Job):
    """Average the corrected members of a component into one member of the next stage."""

    step = "stack"
    gives = CutoutRecord

    name: str
    parts: tuple[tuple[CutoutRecord, Plane], ...]
    noise: tuple[float, ...] = ()
    """1 sigma of the pixels of each part, for a robust stack."""

    def run(self, workspace: Workspace) -> CutoutRecord:
        """Return the stack's cutout."""
        return stack(self.name, self.parts, workspace.store, self.noise)


class FieldErrors(Record):
    """1-sigma errors of the total corrections of a field."""

    sigmas: dict[str, Sigma] = Described(description="for each exposure that took part in a solve")
    map: ErrorMap | None = None


class ErrorsJob(Job):
    """Propagate the noise of all exposures of a field through all stages."""

    step = "errors"
    roles = ("solve",)
    gives = FieldErrors
    large = ("stages",)

    stages: tuple[StageMatch, ...]
    cutouts: dict[str, CutoutRecord]
    given: Given = NOTHING

    def run(self, workspace: Workspace) -> FieldErrors:
        """Return the 1-sigma errors of all corrections, and store the error map of the mosaic's level."""
        found = field_errors(self.stages, self.cutouts, self.settings, self.given)
        if len(self.cutouts) > MANY:
            trim_memory()
        if found is None:
            return FieldErrors(sigmas={})
        at = found.lattice
        array = workspace.store.put(self.key(), found.levels)
        return FieldErrors(sigmas=dict(found.sigmas), map=ErrorMap(array=array, x0=at.x0, y0=at.y0, step=at.step))


class SkyLevel(Record):
    """The constant that sets the zero of a component to the local sky of its reference."""

    level: float


class SkyJob(Job):
    """Measure the local sky of the exposure that represents a component."""

    step = "local sky"
    version = 3
    roles = ("mask",)
    gives = SkyLevel

    correction: Correction
    cutout: CutoutRecord

    def run(self, workspace: Workspace) -> SkyLevel:
        """Return the source-masked, sigma-clipped median of the corrected exposure on the grid."""
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
