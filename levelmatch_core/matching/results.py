"""What matching hands on: the measured pairs, the verdict on each, and the solution of one group."""

from enum import StrEnum

import numpy as np
from pydantic import Field as Described

from levelmatch_core.records import Record
from levelmatch_core.settings import FitType
from levelmatch_core.sky.cutouts import CutoutRecord
from levelmatch_core.sky.plane import Plane


class Member(Record):
    """One participant of a match: an exposure, or the stack of the exposures that earlier stages tied together."""

    name: str
    exposures: tuple[str, ...] = Described(description="names of the exposures in it, sorted")
    cutout: CutoutRecord
    tile: str = Described(description="the tile (or tiles, joined by '+') of its exposures")
    groups: dict[str, str] = Described(description="stage name -> group, as the exposures have it")
    anchors: tuple[str, ...] = Described(default=(), description="stages in which it keeps correction 0")
    locked: bool = Described(default=False, description="a survey image, whose correction is 0")
    background_time: float | None = Described(default=None, description="smallest |DT_BGR| of its exposures")


class Gauge(StrEnum):
    """What fixes the plane that differences leave free in each component."""

    MEAN = "mean"
    """The mean correction is the zero plane."""
    ANCHOR = "anchor"
    """Members whose `anchors` hold the stage have correction 0."""
    REFERENCE = "reference"
    """One member of each component, its reference, has correction 0."""


class Rejection(StrEnum):
    """The closed list of reasons for which a pair is not used."""

    TOO_FEW_PIXELS = "too few pixels"
    TOO_SHORT = "overlap too short"
    TOO_NOISY = "rms too high"
    OUTLIER = "outlier of the solve"
    FORBIDDEN = "forbidden by the user"


class PairFit(Record):
    """The robust difference of two members over their overlap: the plane of data_second - data_first."""

    first: str
    second: str
    npix: int = Described(description="pixels valid in both")
    n_used: int = Described(description="pixels left after clipping")
    plane: Plane = Described(description="about the centroid of the pixels used; slopes 0 for fit type 'level'")
    moments: tuple[float, ...] = Described(
        description="the 3x3 matrix sum of [1, x - x0, y - y0] outer itself over the pixels used, row by row"
    )
    rms: float = Described(description="scatter about the fit of the pixels used, data unit")
    stderr: float = Described(
        description="1 sigma of the level at the centroid, resampled pixels' correlation allowed for"
    )
    correlation: float = Described(description="pixels a statistically independent pixel: 1 / mean noise gain, >= 1")
    shared: float = Described(
        default=1.0,
        description="part of the variance that is the pixels' mean's, and so is shared with pairs over the same pixels",
    )
    extent: tuple[float, float] = Described(description="size along the first member's detector axes, grid pixels")
    linear: tuple[float, float] = Described(description="that, as the larger fraction of either member's own extent")
    gain: tuple[float, float, float] | None = Described(
        default=None, description="slope of the difference against brightness, its 1 sigma, and the mean brightness"
    )
    converged: bool = Described(
        description="whether clipping (and the plane fit) settled: one more iteration removes nothing, or moves the "
        "fit by less than 1 % of its standard error"
    )
    last_step: float = Described(
        default=0.0, description="by how much one more iteration would move the fit, data unit; 0 where it settled"
    )


def plane_rms(fit: PairFit, plane: Plane) -> float:
    """Return the rms of a plane about the pair's centroid over the pixels that the fit used."""
    coefficients = np.array([plane.level, plane.slope_x, plane.slope_y])
    moments = np.array(fit.moments).reshape(3, 3) / fit.n_used
    return float(np.sqrt(max(0.0, coefficients @ moments @ coefficients)))


class PairResult(Record):
    """A pair after the solve."""

    fit: PairFit
    weight: float = Described(description="weight in the solve; 0 where rejected")
    rejected: Rejection | None = None
    bridge: bool = Described(default=False, description="whether the component hangs on this pair alone")
    residual: float = Described(description="level of the difference left at the centroid, data unit")
    residual_rms: float = Described(description="rms of the plane of the difference left, over the overlap, data unit")
    sigma: float | None = Described(
        default=None, description="1 sigma expected of the residual; None where nothing tests the pair, or it is unused"
    )
    predicted: Plane | None = Described(
        default=None, description="difference that all other pairs foretell, about the fit's point; None where none do"
    )
    left_out_optimism: float = Described(
        default=0.0,
        description="mean square by which the error of what is foretold is too small, since other pairs share the "
        "pair's noise; in units of stderr squared",
    )
    redundancy: float = Described(
        default=0.0, description="part of itself that the others tell at least: 0 of a bridge, 1 where it pulls nothing"
    )
    fit_optimism: float = Described(
        default=0.0,
        description="mean square by which what is left is too small, since the solve followed the pair's own noise; in "
        "units of stderr squared",
    )


class MemberResult(Record):
    """A member's correction in one stage, relative to the gauge of its component."""

    name: str
    component: int = Described(description="index into Solution.components")
    plane: Plane = Described(description="to be subtracted; about the centre of the member's cutout")
    sigma: tuple[float, float, float] = Described(description="1 sigma of level, slope_x, slope_y")


class GaugeCondition(Record):
    """What is 0 in the solve of a component; the mean correction where nothing is named."""

    fixed: tuple[str, ...] = Described(default=(), description="members whose whole correction is known, sorted")
    level_reference: str | None = Described(
        default=None, description="the member whose level is 0, the mean slopes being 0"
    )
    plane_reference: str | None = Described(default=None, description="the member whose plane is taken out of all")
    slopes_of: str | None = Described(default=None, description="the member whose slopes are 0 where levels are given")


class Component(Record):
    """Members joined by usable pairs: their relative levels are known, and nothing relates them to others."""

    members: tuple[str, ...]
    reference: str | None = Described(default=None, description="the member held at 0, if the gauge has one")
    reference_reason: str = ""
    given: bool = Described(default=False, description="whether its zero is what the user gave")
    gauge_condition: GaugeCondition = GaugeCondition()
    slope_prior: tuple[float, float] | None = Described(
        default=None, description="width of the slopes' prior in the solve, and as a distribution; over half a member"
    )
    excess_scatter: float = Described(
        default=0.0,
        description="1 sigma by which pairs differ from the fit beside noise, data unit; 0 where it does not show",
    )


class Convergence(Record):
    """The story of an iterative solve."""

    coefficient: str = Described(description="level, plane, ...")
    steps: tuple[float, ...] = Described(description="largest change a sweep, data unit")


class WeakMode(Record):
    """A pattern of corrections that the pairs of a component hardly see, and how far it may be off."""

    component: int = Described(description="index into Solution.components")
    sigma: float = Described(description="1 sigma of its rms over the members' levels, data unit")
    share: float = Described(description="part of all members' level variance that it makes")
    pattern: tuple[float, ...] = Described(description="level of each member of the component, of rms 1")


class Loop(Record):
    """A loop of overlaps, around which the measured differences must add up to 0."""

    members: tuple[str, ...] = Described(description="in the order of the walk")
    sum: float = Described(description="of the differences along it, data unit")
    sigma: float = Described(description="1 sigma expected of the sum, data unit")


class Suspect(Record):
    """A pair whose error would close loops that fail."""

    pairs: tuple[tuple[str, str], ...] = Described(description="several where the loops cannot tell them apart")
    loops: int = Described(description="loops that fail and hold it")
    error: float = Described(description="error of its level that would close them best, data unit")


class LoopClosure(Record):
    """How well the differences close around independent loops of overlaps, before any solve."""

    tested: int = Described(description="loops")
    untested: int = Described(default=0, description="independent loops beyond those that were looked at")
    scatter: float = Described(description="robust scatter of the sums over what is expected of them")
    failed: int = Described(description="loops whose sum is beyond 4 sigma of what pixel noise makes")
    worst: tuple[Loop, ...] = Described(description="the worst first, ten at most")
    suspects: tuple[Suspect, ...] = Described(default=(), description="pairs that explain the failures, ten at most")


class Choice(Record):
    """Level or plane, chosen by what foretells left-out pairs better: the evidence."""

    chosen: FitType
    tested: int = Described(description="pairs of the stage that the others foretell with either fit type")
    bridges: int = Described(default=0, description="the other pairs, whose slopes speak for themselves")
    level_seam: float = Described(description="rms of the seams of left-out pairs that levels leave, data unit")
    plane_seam: float = Described(description="the same of planes")
    gain: float = Described(description="mean over pairs of ln(1 + chi2/3) by levels less the same by planes")
    gain_error: float = Described(description="its standard error")
    reason: str


class SolveStatus(Record):
    """How the solve ended."""

    converged: bool
    solver: str
    iterations: int
    residual_before: float = Described(description="rms of the used pairs' differences before, data unit")
    residual_after: float = Described(description="rms of the used pairs' differences after, data unit")
    rank: int
    unknowns: int
    condition: float | None = None
    nullity: int = Described(default=0, description="unknowns that no pair measures; 0 where all is as it should be")
    slope_prior: tuple[float, ...] = Described(
        default=(), description="1 sigma of slopes from middle to edge, for each component that has one; data unit"
    )
    modes: tuple[WeakMode, ...] = Described(
        default=(), description="the weakest modes of each component, weakest first"
    )
    loops: tuple[LoopClosure, ...] = Described(default=(), description="of each component that has loops")
    untestable: tuple[str, ...] = Described(
        default=(), description="members with two pairs or fewer, or on a bridge: a bad pair of theirs cannot be told"
    )
    choice: Choice | None = Described(default=None, description="where the fit type was left to be chosen")
    history: tuple[Convergence, ...] = ()
    notes: tuple[str, ...] = Described(default=(), description="what the user should know of this solve")


class Solution(Record):
    """The match of one group in one stage."""

    stage: str
    group: str
    fit_type: FitType
    members: tuple[MemberResult, ...] = Described(description="sorted by name, one for each member that came in")
    components: tuple[Component, ...] = Described(description="largest first, then by name")
    pairs: tuple[PairResult, ...] = Described(description="sorted by (first, second)")
    status: SolveStatus
