"""The jobs of the computation: cutouts, differences, solutions, stacks, errors, and the local sky."""

from collections import Counter
from itertools import chain

import numpy as np
from pydantic import Field as Described

from levelmatch_core.errors import NoUsablePixelsError, PixelMapError
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
from levelmatch_core.records import Record, content_key
from levelmatch_core.settings import FitType
from levelmatch_core.sky.cutouts import CutoutRecord, CutoutsInUse, make_cutout, open_cutout
from levelmatch_core.sky.grid import Grid
from levelmatch_core.sky.masks import local_sky
from levelmatch_core.sky.pixelmap import Box
from levelmatch_core.sky.plane import Plane
from levelmatch_core.sky.stack import stack

logger = logger_of(__name__)


class CutoutJob(Job):
    """Resample one exposure to the grid of its field."""

    step = "cutout"
    version = 7
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

    def told(self, result: CutoutRecord) -> str:
        """Return the number of pixels with data."""
        ny, nx = result.shape
        return f"{result.name}: {result.n_valid} of {ny * nx} pixels of the grid have data"


class SurveyView(Record):
    """What a survey image shows of one patch of a wide field."""

    cutout: CutoutRecord | None = Described(description="None where it does not reach")


class SurveyJob(Job):
    """Resample the part of a survey image that lies on one patch of a wide field."""

    step = "survey"
    roles = ("mask", "resample")
    gives = SurveyView

    exposure: Exposure
    grid: Grid
    within: tuple[int, int, int, int] = Described(description="x0, y0, rows, columns of the part that is wanted")
    exclude: SkyMask | None = None

    def run(self, workspace: Workspace) -> SurveyView:
        """Return the cutout; from the store, if it is there already."""
        box = Box(*self.within[:2], self.within[2:])
        try:
            cutout = make_cutout(self.exposure, self.grid, self.settings, workspace.store, self.exclude, box)
        except (NoUsablePixelsError, PixelMapError):
            return SurveyView(cutout=None)
        return SurveyView(cutout=cutout)


class PairFits(Record):
    """The measured pairs of a group, or of part of a group."""

    fits: tuple[PairFit, ...]


class MeasureJob(Job):
    """Fit the differences of pairs of one group."""

    step = "measure"
    version = 23
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

    @property
    def reads(self) -> tuple[str, ...]:
        """The exposures in its own pairs, which may be few of the group's."""
        return tuple(name for member in self.members for name in member.exposures)

    @property
    def makes(self) -> tuple[str, ...]:
        """The same."""
        return self.reads

    def told(self, result: PairFits) -> str:
        """Return the number of pairs with common pixels, and the scatter of their differences."""
        scatters = [fit.rms for fit in result.fits]
        scatter = f"; scatter of their differences {min(scatters):.4g} to {max(scatters):.4g}" if scatters else ""
        return f"{len(scatters)} of {len(self.pairs)} pairs have common pixels{scatter}"


class SolveJob(Job):
    """Solve for the corrections of the members of one group."""

    step = "solve"
    version = 27
    roles = ("solve",)
    logs_told = True
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
        logger.info("%s", self.told(solution))
        return solution

    def told(self, result: Solution) -> str:
        """Return the pairs used and rejected, and their residuals before and after."""
        reasons = Counter(pair.rejected.value for pair in result.pairs if pair.rejected is not None)
        rejected = ", ".join(f"{reason} ({count})" for reason, count in sorted(reasons.items()))
        pieces = f"; {len(result.components)} components" if len(result.components) > 1 else ""
        used, status = len(result.pairs) - sum(reasons.values()), result.status
        tested = any(pair.sigma for pair in result.pairs)
        after = f"{status.residual_after:.4g} after" if tested else "nothing tests what is left after"
        rms = f"; the rms of their differences is {status.residual_before:.4g} before and {after}" if used else ""
        return (
            f"{used} of {len(result.pairs)} pairs are used{rms}{pieces}{f'; rejected: {rejected}' if rejected else ''}"
        )


class StackJob(Job):
    """Average the corrected members of a component into one member of the next stage."""

    step = "stack"
    version = 2
    gives = CutoutRecord
    aside = ("stage",)

    stage: str = Described(default="", description="the stage whose components are averaged")
    name: str
    parts: tuple[tuple[CutoutRecord, Plane], ...]
    noise: tuple[float, ...] = ()
    """1 sigma of the pixels of each part, for a robust stack."""

    @property
    def place(self) -> tuple[str, str]:
        """The component, which is a tile in the stage dithers, and the name of the stage."""
        return self.label, f"{self.stage} {self.step}".strip()

    def run(self, workspace: Workspace) -> CutoutRecord:
        """Return the stack's cutout."""
        return stack(self.name, self.parts, workspace.store, self.noise)

    def told(self, result: CutoutRecord) -> str:
        """Return the number of members and of pixels with data."""
        return f"{len(self.parts)} members, {result.n_valid} pixels with data"


class FieldErrors(Record):
    """1-sigma errors of the total corrections of a field."""

    sigmas: dict[str, Sigma] = Described(description="for each exposure that took part in a solve")
    maps: dict[str, ErrorMap] = Described(default={}, description="of the only grid, or of each patch")


class ErrorsJob(Job):
    """Propagate the noise of all exposures of a field through all stages."""

    step = "errors"
    version = 5
    roles = ("solve",)
    gives = FieldErrors
    large = ("stages",)

    stages: tuple[StageMatch, ...]
    cutouts: dict[str, CutoutRecord]
    given: Given = NOTHING
    patches: dict[str, dict[str, CutoutRecord]] = Described(
        default={}, description="those on each patch of a wide field"
    )

    @property
    def reads(self) -> tuple[str, ...]:
        """All exposures."""
        return tuple(self.cutouts)

    @property
    def makes(self) -> tuple[str, ...]:
        """All exposures: a correction is complete with its error."""
        return self.reads

    def run(self, workspace: Workspace) -> FieldErrors:
        """Return the 1-sigma errors of all corrections, and store the error map of the mosaic's level."""
        found = field_errors(self.stages, self.cutouts, self.settings, self.given, self.patches or None)
        if len(self.cutouts) > MANY:
            trim_memory()
        if found is None:
            return FieldErrors(sigmas={})
        key = self.key()
        maps = {}
        for patch, (at, levels) in found.maps.items():
            array = workspace.store.put(content_key(key, patch) if patch else key, levels)
            maps[patch] = ErrorMap(array=array, x0=at.x0, y0=at.y0, step=at.step)
        return FieldErrors(sigmas=dict(found.sigmas), maps=maps)

    def told(self, result: FieldErrors) -> str:
        """Return the range of the errors of the levels."""
        levels = [sigma[0] for sigma in result.sigmas.values()]
        return f"1 sigma of {len(levels)} levels: {min(levels):.4g} to {max(levels):.4g}" if levels else ""


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

    @property
    def reads(self) -> tuple[str, ...]:
        """The exposure."""
        return (self.correction.exposure.name,)

    @property
    def makes(self) -> tuple[str, ...]:
        """The local sky of the field."""
        return (sky_name(self.correction.field),)

    def told(self, result: SkyLevel) -> str:
        """Return the level."""
        return f"the local sky is {result.level:.6g}"

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


def sky_name(field: str) -> str:
    """Return what names the local sky of a field among what jobs read and make."""
    return f"local sky of {field}"
