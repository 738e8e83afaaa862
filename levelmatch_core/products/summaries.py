"""What run.json says of a field: its components, its stages, and what the grade rests on."""

from pydantic import Field as Described

from levelmatch_core.matching.results import Choice, Loop, Suspect, WeakMode
from levelmatch_core.products.grade import Criterion
from levelmatch_core.products.slope_priors import SlopePriorSummary
from levelmatch_core.records import Record
from levelmatch_core.sky.grid import Grid


class GaugeChange(Record):
    """The last change of the zero of a component's exposures."""

    reference: str = Described(description="previous reference tile")
    provisional: bool = Described(description="whether that tile replaced a missing one")
    level: float = Described(
        description="increase of the correction, data unit: the median over the exposures of both runs"
    )
    exposures: int = Described(description="their number")


class ComponentSummary(Record):
    """One component of a field: exposures whose relative levels are known."""

    number: int = Described(description="counted from 1, the largest component first")
    exposures: int
    reference: str = Described(description="reference tile, which defines the zero; '' if there is none")
    reference_reason: str
    provisional: bool = Described(description="whether the reference replaces a missing one")
    local_sky: float = Described(description="constant subtracted from all its exposures, data unit")
    stands_for: str = Described(default="", description="the missing reference, '' if it is not known")
    zero_changes: tuple[GaugeChange, ...] = Described(default=(), description="relative to the previous output")
    levels: dict[str, float] = Described(
        default={}, description="exposure -> total correction at its centre, data unit, for comparison in the next run"
    )

    @property
    def true_reference(self) -> str:
        """The reference tile when nothing is missing; '' if it is not known."""
        return self.stands_for if self.provisional else self.reference

    @property
    def shown_reference(self) -> str:
        """The reference as in LVLREF: with a question mark if it is provisional."""
        return f"{self.reference}?" if self.provisional else self.reference


class WorstSeam(Record):
    """The pair whose residual is the largest in units of its sigma: the one that the others contradict most."""

    first: str
    second: str
    size: float = Described(description="its residual in units of sigma")
    off: float = Described(description="its difference minus what all other pairs predict for it, data unit")
    among: int = Described(description="number of residuals of which it is the largest: those whose sigma is exact")


class GainError(Record):
    """A pair whose difference grows with brightness, which no level can correct."""

    first: str
    second: str
    gain: float = Described(description="change of second - first per unit of brightness")
    sigma: float = Described(description="1 sigma of it")
    false_level: float = Described(description="the spurious level at the mean brightness of the overlap, data unit")


class Unlike(Record):
    """A pair of which both members show different skies."""

    first: str
    second: str
    correlation: float = Described(description="of what both show, noise apart: 1 of the same sky, 0 of two")
    sigma: float = Described(description="1 sigma of it")


class StageSummary(Record):
    """One stage of a field, with all its groups."""

    stage: str
    fit_type: str
    groups: int
    members: int
    components: int
    solver: str
    converged: bool = Described(description="whether the solves of all groups converged")
    unconverged: tuple[str, ...] = Described(description="groups whose solve did not converge")
    iterations: int = Described(description="largest number of any group")
    residual_before: float = Described(
        description="rms of the differences of the used pairs before the solve, data unit"
    )
    residual_after: float = Described(description="the same after the solve")
    pairs: int
    used: int
    rejected: dict[str, int] = Described(description="pairs by reason")
    untestable: tuple[str, ...] = Described(
        default=(), description="members with two pairs or fewer, or on a bridge: bad pairs cannot be detected there"
    )
    loops: int = Described(default=0, description="independent loops of overlaps whose differences were summed")
    loops_failed: int = Described(default=0, description="loops that do not close")
    loops_unexplained: int = Described(
        default=0, description="of these, the loops that do not close by what their pairs show in addition to noise"
    )
    loop_scatter: float | None = Described(
        default=None, description="robust scatter of the sums over loops, relative to expectation; of all groups"
    )
    worst_loops: tuple[Loop, ...] = Described(default=(), description="the worst first, ten at most")
    suspects: tuple[Suspect, ...] = Described(default=(), description="pairs that explain the failures, at most ten")
    seams_tested: int = Described(default=0, description="used pairs whose residuals can be tested")
    seams_beyond: int = Described(default=0, description="those with residuals beyond 4 sigma of pixel noise")
    worst_seam: WorstSeam | None = Described(
        default=None, description="the pair that the others contradict most; None if none is tested exactly"
    )
    structure: float = Described(
        default=0.0,
        description="median over used pairs of the error that a pair shows in addition to noise, relative to that",
    )
    seam_scatter: float | None = Described(
        default=None, description="rms of the tested residuals in units of their sigma"
    )
    residual_freedom: float = Described(
        default=0.0,
        description="number of independent residuals of which that rms would scatter as much in pixel noise; 0 if none "
        "is tested",
    )
    residual_tail: float = Described(
        default=0.0,
        description="number of independent residuals of which the mean square would be as skewed: large ones are more "
        "frequent the smaller it is; 0 in records of earlier versions",
    )
    gains_tested: int = Described(default=0, description="used pairs that are bright enough to measure a gain")
    gains: tuple[GainError, ...] = Described(
        default=(), description="used pairs whose difference grows with brightness by more than 5 sigma, at most ten"
    )
    gains_found: int = Described(default=0, description="number of such pairs")
    unlike: tuple[Unlike, ...] = Described(
        default=(), description="used pairs of which both members show different skies, at most ten"
    )
    unlike_found: int = Described(default=0, description="number of such pairs")
    strangers: tuple[str, ...] = Described(
        default=(), description="members that do so in more than half of their pairs, the worst first"
    )
    choice: Choice | None = Described(
        default=None, description="why levels or planes were fitted, if this was to be chosen"
    )
    modes: tuple[WeakMode, ...] = Described(
        default=(), description="the weakest of each component, largest sigma first, at most ten, without patterns"
    )
    slope_priors: tuple[SlopePriorSummary, ...] = Described(
        default=(), description="of each component whose slopes have a prior, and what it did to each slope"
    )
    notes: tuple[str, ...]


class FieldSummary(Record):
    """One field."""

    name: str
    instrument: str
    band: str
    unit: str
    grid: Grid
    tiles: tuple[str, ...]
    components: tuple[ComponentSummary, ...]
    stages: tuple[StageSummary, ...]
    counts: dict[str, int] = Described(description="exposures by status")
    missing: tuple[str, ...] = Described(default=(), description="tiles of which nothing could be used")
    pieces: int = Described(
        default=1, description="components of two exposures or more into which footprints that touch have fallen"
    )
    scale_doubt: str = Described(default="", description="why its values may not be on one scale")
    few_values: int = Described(
        default=0, description="exposures of which most pixels hold one value, wherever they lie: few photons"
    )
    criteria: tuple[Criterion, ...] = Described(default=(), description="what the grade rests on, the worst first")
    patches: int = Described(
        default=0, exclude_if=lambda count: count == 0, description="tangent planes of a field that is too wide for one"
    )

    @property
    def weakest(self) -> WeakMode | None:
        """The weakest mode of the last stage that has any: the largest scales, of which overlaps see least."""
        return next((stage.modes[0] for stage in reversed(self.stages) if stage.modes), None)
