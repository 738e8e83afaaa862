"""The records of matching: measured pairs, their use in the solve, and the solution of one group."""

from enum import StrEnum

import numpy as np
from pydantic import Field as Described

from levelmatch_core.records import Record
from levelmatch_core.settings import FitType
from levelmatch_core.sky.cutouts import CutoutRecord
from levelmatch_core.sky.grid import Grid
from levelmatch_core.sky.patches import ONE
from levelmatch_core.sky.plane import Plane


class Member(Record):
    """A participant of a match: an exposure, or the stack of exposures that were matched in earlier stages."""

    name: str
    exposures: tuple[str, ...] = Described(description="names of the exposures in it, sorted")
    weights: tuple[float, ...] = Described(
        default=(), description="weight of each exposure in the stack; empty if all are equal"
    )
    cutout: CutoutRecord
    tile: str = Described(description="the tile (or tiles, joined by '+') of its exposures")
    groups: dict[str, str] = Described(description="stage name -> group, as in the exposures")
    anchors: tuple[str, ...] = Described(default=(), description="stages in which its correction is 0")
    locked: bool = Described(default=False, description="a survey image, whose correction is 0")
    background_time: float | None = Described(default=None, description="smallest |DT_BGR| of its exposures")
    patch: str = Described(default=ONE, description="its home in a field of several patches")
    grid: Grid | None = Described(default=None, description="the grid of its home; None: the only one of the field")
    further: tuple[tuple[str, CutoutRecord], ...] = Described(
        default=(), description="its cutouts on further patches, where it is measured with members of another home"
    )

    @property
    def on_patches(self) -> dict[str, CutoutRecord]:
        """Its cutout on each patch, its home first."""
        return {self.patch: self.cutout, **dict(self.further)}

    def on(self, patch: str) -> "Member":
        """Return the member with its cutout on one of its patches, and without the others."""
        return self.model_copy(update={"cutout": self.on_patches[patch], "further": ()}) if self.further else self


def patch_of(first: Member, second: Member) -> str:
    """Return the patch on which a pair is measured: that of the two homes which is first by name."""
    return min(first.patch, second.patch)


class Gauge(StrEnum):
    """What determines the plane that differences leave free in each component."""

    MEAN = "mean"
    """The mean correction is the zero plane."""
    ANCHOR = "anchor"
    """Members whose `anchors` contain the stage have correction 0."""
    REFERENCE = "reference"
    """One member of each component, its reference, has correction 0."""


class Rejection(StrEnum):
    """The reasons for which a pair is not used."""

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
    n_used: int = Described(description="pixels that remain after clipping")
    plane: Plane = Described(description="about the centroid of the pixels used; slopes 0 for fit type 'level'")
    moments: tuple[float, ...] = Described(
        description="the 3x3 sum of the outer product of [1, x - x0, y - y0] with itself over the pixels used, by rows"
    )
    rms: float = Described(description="scatter about the fit of the pixels used, data unit")
    stderr: float = Described(
        description="1 sigma of the level at the centroid, including the correlation of resampled pixels"
    )
    structure: float = Described(
        default=0.0,
        description="1 sigma of the level's error in addition to that of pixel noise, estimated from the scatter over "
        "blocks, a slope, two statistics, lopsided pixels and a gain, data unit; 0 if they show none",
    )
    noise_by_blocks: tuple[float, int] | None = Described(
        default=None,
        description="variance of Huber's estimate of the level by its scatter over blocks, as a fraction "
        "of that in normal noise, and their number; None if these are few, and once pairs have been compared",
    )
    tilt: tuple[float, float] | None = Described(
        default=None,
        description="slopes along x and y that show where a level was fitted, data unit per grid pixel; None if blocks "
        "are few, and once pairs have been compared",
    )
    reach: tuple[float, float] = Described(
        default=(0.0, 0.0),
        description="sums along x and y of the squared distances of both centres, grid pixels; 0 if slopes were fitted",
    )
    correlation: float = Described(description="pixels per statistically independent pixel: 1 / mean noise gain, >= 1")
    shared: float = Described(
        default=1.0,
        description="fraction of the variance that is that of the mean, and is shared with pairs over the same pixels",
    )
    extent: tuple[float, float] = Described(description="size along the first member's detector axes, grid pixels")
    linear: tuple[float, float] = Described(
        description="the same, as the larger fraction of either member's own extent"
    )
    efficient: tuple[float, float, float] | None = Described(
        default=None,
        description="with statistic 'adaptive': the level if there is nothing but noise, its 1 sigma, and by how many "
        "standard deviations the median differs from it; None for other statistics, and once pairs have been compared",
    )
    gain: tuple[float, float, float] | None = Described(
        default=None, description="slope of the difference against brightness, its 1 sigma, and the mean brightness"
    )
    likeness: tuple[float, float] | None = Described(
        default=None,
        description="correlation of what both images show, noise apart, and its 1 sigma: 1 of the same sky; None where "
        "the difference is mostly noise",
    )
    converged: bool = Described(
        description="whether clipping (and the plane fit) converged: one more iteration removes nothing, or moves the "
        "fit by less than 1 % of its standard error"
    )
    last_step: float = Described(
        default=0.0, description="change of the fit by one more iteration, data unit; 0 if it converged"
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
    spared: Rejection | None = Described(
        default=None,
        description="the rule that it fails, although it is used because nothing else connects its members",
    )
    bridge: bool = Described(default=False, description="whether the pair is a bridge of the component")
    residual: float = Described(description="level of the residual difference at the centroid, data unit")
    residual_rms: float = Described(
        description="rms of the plane of the residual difference over the overlap, data unit"
    )
    sigma: float | None = Described(
        default=None, description="expected 1 sigma of the residual; None if nothing tests the pair, or it is not used"
    )
    predicted: Plane | None = Described(
        default=None,
        description="difference predicted by all other pairs, about the reference point of the fit; None for a bridge",
    )
    left_out_optimism: float = Described(
        default=0.0,
        description="amount by which the mean square prediction error is too small, because other pairs share the "
        "noise of the pair; in units of stderr squared",
    )
    redundancy: float = Described(
        default=0.0,
        description="smallest eigenvalue of 1 - h: 0 for a bridge, 1 for a pair without effect on the solution",
    )
    fit_optimism: float = Described(
        default=0.0,
        description="amount by which the mean square residual is too small, because the solution follows the noise of "
        "the pair; in units of stderr squared",
    )


class MemberResult(Record):
    """A member's correction in one stage, relative to the gauge of its component."""

    name: str
    component: int = Described(description="index into Solution.components")
    plane: Plane = Described(description="to be subtracted; about the centre of the member's cutout")
    sigma: tuple[float, float, float] = Described(description="1 sigma of level, slope_x, slope_y")
    slope_change: tuple[float, float] | None = Described(
        default=None,
        description="slope_x and slope_y minus their values without the slope prior, data unit per grid pixel; None "
        "without a prior, and for components of more than 4,000 members",
    )


class GaugeCondition(Record):
    """The gauge condition in the solve of a component; the mean correction is 0 if no member is named."""

    fixed: tuple[str, ...] = Described(default=(), description="members whose whole correction is known, sorted")
    level_reference: str | None = Described(
        default=None, description="the member whose level is 0, while the mean slopes are 0"
    )
    plane_reference: str | None = Described(default=None, description="the member whose plane is subtracted from all")
    slopes_of: str | None = Described(default=None, description="the member whose slopes are 0 if levels are given")


class Component(Record):
    """Members connected by usable pairs: their relative levels are known, but not those relative to others."""

    members: tuple[str, ...]
    reference: str | None = Described(
        default=None, description="the member whose correction is 0, if the gauge has one"
    )
    reference_reason: str = ""
    given: bool = Described(default=False, description="whether its zero was given by the user")
    gauge_condition: GaugeCondition = GaugeCondition()
    slope_prior: tuple[float, float] | None = Described(
        default=None,
        description="slope prior: width used in the solve, and width of the distribution; over half a member",
    )
    excess_scatter: float = Described(
        default=0.0,
        description="1 sigma by which pairs differ from the fit in addition to noise, data unit; 0 if not significant",
    )


class Convergence(Record):
    """The convergence of an iterative solve."""

    coefficient: str = Described(description="level, plane, ...")
    steps: tuple[float, ...] = Described(description="largest change in each iteration, data unit")


class WeakMode(Record):
    """A pattern of corrections that the pairs of a component hardly constrain, and its uncertainty."""

    component: int = Described(description="index into Solution.components")
    sigma: float = Described(description="1 sigma of its rms over the members' levels, data unit")
    share: float = Described(description="its fraction of the total variance of the members' levels")
    pattern: tuple[float, ...] = Described(description="level of each member of the component, of rms 1")


class Loop(Record):
    """A loop of overlaps, around which the measured differences must add up to 0."""

    members: tuple[str, ...] = Described(description="in order along the loop")
    sum: float = Described(description="sum of the differences along the loop, data unit")
    sigma: float = Described(description="expected 1 sigma of the sum, data unit")


class Suspect(Record):
    """A pair whose error would close loops that fail."""

    pairs: tuple[tuple[str, str], ...] = Described(description="several if the loops cannot distinguish them")
    loops: int = Described(description="number of failed loops that contain it")
    error: float = Described(description="error of its level that would close them best, data unit")


class LoopClosure(Record):
    """Closure of the differences around independent loops of overlaps, before any solve."""

    tested: int = Described(description="number of loops")
    untested: int = Described(default=0, description="number of further independent loops")
    scatter: float = Described(description="robust scatter of the sums relative to expectation")
    failed: int = Described(description="loops whose sum is beyond 4 sigma of what pixel noise makes")
    unexplained: int = Described(
        default=0, description="of these, the loops beyond 4 sigma of noise and of what their pairs show in addition"
    )
    worst: tuple[Loop, ...] = Described(description="worst first, at most ten")
    suspects: tuple[Suspect, ...] = Described(default=(), description="pairs that explain the failures, at most ten")


class Choice(Record):
    """The choice between levels and planes by their predictions of left-out pairs, with the evidence."""

    chosen: FitType
    tested: int = Described(description="pairs of the stage that others predict with either fit type")
    bridges: int = Described(default=0, description="the other pairs, which are judged by their slopes alone")
    level_seam: float = Described(description="rms of the leave-one-out residuals with levels, data unit")
    plane_seam: float = Described(description="the same with planes")
    gain: float = Described(description="mean over pairs of ln(1 + chi2/3) with levels minus that with planes")
    gain_error: float = Described(description="its standard error")
    reason: str


class SolveStatus(Record):
    """The outcome of the solve."""

    converged: bool
    solver: str
    iterations: int
    residual_before: float = Described(
        description="rms of the differences of the used pairs before the solve, data unit"
    )
    residual_after: float = Described(description="rms of the differences of the used pairs after the solve, data unit")
    rank: int
    unknowns: int
    condition: float | None = None
    nullity: int = Described(default=0, description="number of unknowns that no pair measures; normally 0")
    slope_prior: tuple[float, ...] = Described(
        default=(), description="1 sigma of slopes from centre to edge, for each component with a prior; data unit"
    )
    modes: tuple[WeakMode, ...] = Described(
        default=(), description="the weakest modes of each component, weakest first"
    )
    loops: tuple[LoopClosure, ...] = Described(default=(), description="for each component with loops")
    untestable: tuple[str, ...] = Described(
        default=(), description="members with two pairs or fewer, or on a bridge: bad pairs cannot be detected there"
    )
    residual_freedom: float = Described(
        default=0.0,
        description="number of independent residuals of which the mean square in units of sigma^2 would scatter as "
        "that of the tested pairs does; 0 if none is tested",
    )
    residual_tail: float = Described(
        default=0.0, description="number of independent residuals of which that mean square would be as skewed"
    )
    residuals_exact: bool = Described(
        default=False,
        description="whether the sigmas of the residuals come from the covariance of all pairs; False where they are "
        "estimates, as in components of many pairs",
    )
    choice: Choice | None = Described(default=None, description="set if the fit type was chosen automatically")
    history: tuple[Convergence, ...] = ()
    notes: tuple[str, ...] = Described(default=(), description="notes for the user on this solve")


class Solution(Record):
    """The match of one group in one stage."""

    stage: str
    group: str
    fit_type: FitType
    members: tuple[MemberResult, ...] = Described(description="sorted by name, one for each member")
    components: tuple[Component, ...] = Described(description="largest first, then by name")
    pairs: tuple[PairResult, ...] = Described(description="sorted by (first, second)")
    status: SolveStatus
