"""The problem of one component as arrays, which is the input of every solver.

Symbols and equations are in sections 2 to 4 of matching/MODEL.md. Inside the solvers a slope is the change over `scale`
grid pixels (half a member), so that every coefficient is in data units, and the coefficients of each member refer to
its own centre. The normal matrix is then as well conditioned as the overlaps allow, wherever the mosaic lies on its
grid.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from levelmatch_core.matching.model.common_pixels import kept_weights
from levelmatch_core.matching.model.design import Geometry, pair_residuals
from levelmatch_core.matching.model.facing import NOT_FACING, Facing, facing
from levelmatch_core.matching.model.frames import ONE_FRAME, Frames, Views, frames_of
from levelmatch_core.matching.model.pair_arrays import PairArrays
from levelmatch_core.matching.pairs import outlines, rounding_floor
from levelmatch_core.matching.results import Member, PairFit
from levelmatch_core.settings import FitType, MatchSettings

Array = NDArray[np.float64]
Index = NDArray[np.int64]

RMS_FLOOR = 1e-3
"""Lower limit of a pair's rms in its weight, as a fraction of the median rms; rounding is a lower limit, too (if both
are 0, the rms is taken as 1). A noise-free pair among noisy ones then has a million times their weight, not infinite
weight."""

TYPICAL = 5.0
"""Error that the typical pair shows beyond pixel noise, relative to it, above which it is the model's rather than the
pairs' (gains, flat fields, levels that are fitted to slopes), and does not say which pair is better."""
ALONE, FAR = 3.0, 4.0
"""Smallest error beyond pixel noise, relative to it, and smallest multiple of the typical variance of it, for which a
pair has less weight."""
MOST = 3.0
"""Largest weight of a pair, relative to the median, where pairs differ from the fit by more than their noise."""
SLOPE_WEIGHT = 0.2
"""Weight of the pairs' slopes, relative to that of their levels, where planes do not describe what pairs show. Steps at
the seams are 0.5 to 0.8 times as large then, and planes about as good; if the excess were noise, they would be worse by
1 % (mosaics) to 8 % (dithers)."""


@dataclass(frozen=True)
class Problem:
    """One component with N members, K used pairs and k coefficients per member (1: levels, 3: planes)."""

    names: tuple[str, ...]
    """Names of the members, sorted."""
    centres: Array
    """(N, 2) x, y of the point to which each member's coefficients refer, pixels of its grid."""
    outlines: tuple[object, ...]
    """N polygons (shapely), pixels of each member's grid."""
    scale: float
    """Number of grid pixels over which a slope is counted, l in matching/MODEL.md."""
    fixed: NDArray[np.bool_]
    """(N,) members whose correction is 0. Where none is fixed, the mean correction is the zero plane."""
    first: Index
    """(K,) index of the first member."""
    second: Index
    """(K,) index of the second member."""
    centroids: Array
    """(K, 2) x, y of the point to which each pair's difference refers, grid pixels."""
    delta: Array
    """(K, k) measured differences d, second - first, data unit."""
    moments: Array
    """(K, k, k) M: mean over the pixels used of the outer product of [1, x, y] with itself, about the centroid, in
    units of `scale`; its slopes' block times `slope_weight`."""
    weights: Array
    """(K,) weight w of each pair's level; the pair's block of W is weight times moments. By the weight method `error`
    it is the inverse of `variance` and `structure`, less where pixels are in other pairs, too (section 3 of
    matching/MODEL.md); otherwise the mean weight equals the mean inverse variance, so that a prior in data units keeps
    its meaning."""
    n_used: Array
    """(K,) pixels used."""
    rms: Array
    """(K,) scatter about the fit, data unit, not below its lower limit."""
    variance: Array
    """(K,) variance v of each pair's level; the covariance of its plane is this times the inverse of `moments`."""
    shared: Array
    """(K,) fraction of the variance that comes from the mean of the members' pixel noise, and so is shared with other
    pairs over the same pixels."""

    structure: Array = field(default_factory=lambda: np.zeros(0))
    """(K,) variance of each pair's level in addition to pixel noise, as estimated from the pair itself; empty for
    none."""
    apart: Array = field(default_factory=lambda: np.zeros(0))
    """(K,) the weight that each pair would have if none of its pixels were in another one; empty where it has that."""
    facing: Facing = NOT_FACING
    """The outlines of members as those on other grids see them."""
    slope_weight: float = 1.0
    """Weight of the pairs' slopes relative to that of their levels; 1 where planes describe what pairs show."""
    frames: Frames = ONE_FRAME
    """The planes of members as pairs on other grids see them."""
    level_reference: int | None = None
    """Where no member is fixed: the member whose level is 0 at its centre, instead of the mean level being 0."""
    plane_reference: int | None = None
    """Where no member is fixed: the member whose plane is subtracted from all after the solve, so that its own is 0."""

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, np.ndarray):
                value.flags.writeable = False

    @property
    def k(self) -> int:
        """Number of coefficients per member."""
        return int(self.delta.shape[1])

    @property
    def mean_gauge(self) -> bool:
        """Whether the mean correction is the zero plane, because no member is fixed."""
        return not bool(self.fixed.any())

    @property
    def unknowns(self) -> int:
        """Number of coefficients that the differences should determine: all but those of the gauge."""
        if self.mean_gauge and self.frames:
            return len(self.names) * self.k - 1
        return (len(self.names) - max(1, int(self.fixed.sum()))) * self.k

    @property
    def on_map(self) -> Array:
        """(N, 2) where the members lie: their centres or, where they are on several grids, positions on a map."""
        return self.frames.on_map if self.frames else self.centres

    @property
    def tied_ends(self) -> tuple[Index, Index]:
        """(K,) the members of each pair, with all fixed members as one: their corrections are known."""
        if self.fixed.sum() < 2:
            return self.first, self.second
        node = np.arange(len(self.names))
        node[self.fixed] = np.flatnonzero(self.fixed)[0]
        ends = node[self.first], node[self.second]
        for end in ends:
            end.flags.writeable = False  # like the members, so that functions are compiled only once
        return ends

    def part(self, members: Index) -> "Problem":
        """Return the problem of a subset of the members (sorted indices) and of the pairs among them."""
        place = np.full(len(self.names), -1)
        place[members] = np.arange(len(members))
        inside = (place[self.first] >= 0) & (place[self.second] >= 0)
        structure, apart = (one[inside] if len(one) else one for one in (self.structure, self.apart))
        by_pair = {
            name: getattr(self, name)[inside]
            for name in ("centroids", "delta", "moments", "weights", "n_used", "rms", "variance", "shared")
        }
        return replace(
            self,
            names=tuple(self.names[i] for i in members.tolist()),
            outlines=tuple(self.outlines[i] for i in members.tolist()),
            centres=self.centres[members],
            fixed=self.fixed[members],
            first=place[self.first[inside]],
            second=place[self.second[inside]],
            level_reference=None,
            plane_reference=None,
            structure=structure,
            apart=apart,
            frames=self.frames.part(members, inside),
            **by_pair,
        )

    def largest_component(self) -> Index:
        """Return the members of the largest connected component, sorted."""
        n = len(self.names)
        joined = coo_array((np.ones(len(self.first)), (self.first, self.second)), shape=(n, n))
        _, label = connected_components(joined, directed=False)
        return np.flatnonzero(label == np.argmax(np.bincount(label)))

    @property
    def structure_variance(self) -> Array:
        """(K,) `structure`, or 0 if it is empty."""
        return self.structure if len(self.structure) else np.zeros(len(self.rms))

    def evened(self, excess_scatter: float = 0.0) -> "Problem":
        """Return the problem with no pair's weight above `MOST` times the median.

        Where pairs disagree by more than their noise, a pair whose pixels hardly scatter (two images cut from one scan)
        is no better than the others. If they are planes, the differences are no planes: levels, which are means over
        whole overlaps, then count more than slopes (`SLOPE_WEIGHT`). By how much pairs disagree (1 sigma) is the
        error of each of them alone, whoever else sees its pixels.
        """
        measured = np.isfinite(self.rms)
        if not measured.any():
            return self
        weights = self.weights
        if len(self.apart):
            weights = self.apart - (self.apart - weights) / (1 + self.apart * excess_scatter**2)
        most = MOST * float(np.median(weights[measured]))
        part = SLOPE_WEIGHT if self.k > 1 else 1.0
        lighter = np.sqrt(np.array([1.0, part, part])[: self.k])
        return replace(
            self,
            weights=np.where(measured, np.minimum(weights, most), weights),
            apart=np.zeros(0),
            moments=self.moments * lighter[:, None] * lighter,
            slope_weight=self.slope_weight * part,
        )

    @property
    def slope_scales(self) -> Array:
        """(k,) root of the weight of each coefficient, relative to that of the level."""
        root = self.slope_weight**0.5
        return np.array([1.0, root, root])[: self.k]

    @property
    def pixel_moments(self) -> Array:
        """(K, k, k) `moments` as the pixels have them."""
        return self.moments / (self.slope_scales[:, None] * self.slope_scales)

    @property
    def geometry(self) -> Geometry:
        """The geometry of the pairs in the form that the compiled functions take."""
        places, turns = self.frames.places, self.frames.turns
        return self.first, self.second, self.centres, self.centroids, places, turns, self.scale

    @property
    def views(self) -> Views:
        """How either member of each pair sees the pair's centroid, and steps from there."""
        return self.frames.views(self.centroids)

    def shifts(self, side: int) -> Array:
        """Return (K, k, k) the matrices T that move the coefficients of either member to each pair's centroid."""
        centres = self.centres[self.second if side else self.first]
        if not self.frames:
            return shift(centres, self.centroids, self.scale, self.k)
        matrices = shift(centres, self.frames.places[:, side], self.scale, self.k)
        if self.k == 3:
            matrices[:, 1:, 1:] = self.frames.turns[:, side]
        return matrices

    def moved(self, start: Array, end: Array) -> Array:
        """Return (N, k, k) matrices that refer a plane that all members have in common to other points.

        Members on several grids have only a level in common: no plane goes round the sky.
        """
        if not self.frames:
            return shift(start, end, self.scale, self.k)
        return np.broadcast_to(np.diag(np.arange(self.k) == 0).astype(float), (len(start), self.k, self.k))

    def residuals(self, corrections: Array) -> Array:
        """Return (K, k) the residuals d - B c for `corrections` c (N, k)."""
        return pair_residuals(self.geometry, self.delta, np.ascontiguousarray(corrections))

    def mean_plane(self, corrections: Array) -> Array:
        """Return (N, k) the mean of all members' planes, referred to each member's centre."""
        common = np.broadcast_to(self.centres.mean(axis=0), self.centres.shape)
        mean = np.einsum("nab,nb->a", self.moved(self.centres, common), corrections) / len(self.names)
        return np.einsum("nab,b->na", self.moved(common, self.centres), mean)

    def plane_of(self, member: int, corrections: Array) -> Array:
        """Return (N, k) the plane of one member, referred to each member's centre."""
        its = np.broadcast_to(self.centres[member], self.centres.shape)
        return np.einsum("nab,b->na", self.moved(its, self.centres), corrections[member])

    def to_gauge(self, corrections: Array) -> Array:
        """Return the corrections in the gauge: minus their mean plane, or unchanged where members are fixed."""
        if not self.mean_gauge:
            return corrections
        if self.plane_reference is not None:
            return corrections - self.plane_of(self.plane_reference, corrections)
        centred = corrections - self.mean_plane(corrections)
        if self.level_reference is not None:
            centred[:, 0] -= centred[self.level_reference, 0]
        return centred


@dataclass(frozen=True)
class SlopePrior:
    """Normal distribution of the slopes about 0, those of fixed members excepted (section 6 of matching/MODEL.md)."""

    sd: float
    """Width used in the solve, a^-1/2: relative to the scatter that the weights imply. Data unit over `Problem.scale`
    pixels."""
    width: float
    """Width tau of the distribution; larger than `sd` where pairs disagree by more than their noise. Data unit over
    `Problem.scale` pixels."""


def shift(start: Array, end: Array, scale: float, k: int) -> Array:
    """Return (M, k, k) matrices that convert coefficients about `start` (M, 2) into coefficients about `end`."""
    matrices = np.broadcast_to(np.eye(k), (len(start), k, k)).copy()
    if k == 3:
        matrices[:, 0, 1:] = (end - start) / scale
    return matrices


def member_scale(members: Sequence[Member]) -> float:
    """Return the length over which slopes are counted: half the median size of the members' boxes, grid pixels."""
    return float(np.median([max(member.cutout.shape) for member in members])) / 2


def build(  # noqa: PLR0917 - the parts of the problem in their natural order
    members: Sequence[Member],
    fits: Sequence[PairFit],
    fit_type: FitType,
    fixed: Collection[str],
    settings: MatchSettings,
    level_reference: str | None = None,
    arrays: PairArrays | None = None,
    plane_reference: str | None = None,
) -> Problem:
    """Build the problem of one component.

    Parameters
    ----------
    members
        The members of one component, sorted by name.
    fits
        Its used pairs, sorted.
    fit_type
        "level" or "level+slope".
    fixed
        Names of members whose correction is 0; empty if the mean is to be 0.
    settings
        `weight_method` is read.
    level_reference
        Name of the member whose level is 0 where none is fixed, instead of the mean level being 0.
    arrays
        The pairs as arrays, if they have been built already.
    plane_reference
        Name of the member whose whole plane is 0 where none is fixed.
    """
    k = 1 if fit_type == "level" else 3
    index: Mapping[str, int] = {member.name: i for i, member in enumerate(members)}
    scale = member_scale(members)
    arrays = PairArrays.of(fits) if arrays is None else arrays
    lengths = np.array([1.0, 1 / scale, 1 / scale])
    moments = (arrays.moments * lengths[:, None] * lengths)[:, :k, :k]
    delta = arrays.planes * np.array([1.0, scale, scale])
    rms = _floored(arrays.rms, rounding_floor(fits))
    # stderr / rms includes the efficiency of the statistic and the correlation of the pixels, also for a raised rms
    noisy = arrays.rms > 0
    first = np.array([index[fit.first] for fit in fits], dtype=np.int64)
    second = np.array([index[fit.second] for fit in fits], dtype=np.int64)
    polygons, grids = tuple(outlines([member.cutout for member in members])), [member.grid for member in members]
    relative = np.divide(arrays.stderr, arrays.rms, out=np.sqrt(arrays.correlation / arrays.n_used), where=noisy)
    variance, structure = (rms * relative) ** 2, arrays.structure**2
    weights = apart = _weights(settings.weight_method, arrays.n_used, rms, variance, structure)
    seen_by_others, frames = (
        facing(polygons, grids, first, second),
        frames_of(members, arrays.centroids, arrays.moments, first, second),
    )
    if settings.weight_method == "error" and len(fits):  # a component may be connected by ties alone
        # that a pair's pixels hardly scatter makes it no better than the others that see them
        bulk = arrays.n_used * np.minimum(weights / arrays.n_used, np.median(weights / arrays.n_used))
        kept = kept_weights(polygons, seen_by_others, first, second, frames.views(arrays.centroids)[0], bulk)
        whole = np.maximum(1 / (apart * variance), 1 + np.median(structure / variance))  # only pixel noise is in others
        weights = apart * (1.0 - arrays.shared / whole * (1.0 - kept))
    return Problem(
        names=tuple(index),
        centres=np.array([member.cutout.centre for member in members]),
        outlines=polygons,
        facing=seen_by_others,
        frames=frames,
        scale=scale,
        fixed=np.array([member.name in fixed for member in members]),
        first=first,
        second=second,
        centroids=arrays.centroids,
        delta=np.ascontiguousarray(delta[:, :k]),
        moments=np.ascontiguousarray(moments),
        weights=weights,
        apart=apart if settings.weight_method == "error" else np.zeros(0),
        n_used=arrays.n_used,
        rms=rms,
        variance=variance,
        shared=arrays.shared,
        structure=structure,
        level_reference=None if level_reference is None else index[level_reference],
        plane_reference=None if plane_reference is None else index[plane_reference],
    )


def _floored(rms: Array, rounding: float) -> Array:
    if not len(rms):  # a component may be connected by ties alone
        return rms
    floor = max(rounding, RMS_FLOOR * float(np.median(rms)))
    return np.maximum(rms, floor) if floor > 0 else np.where(rms > 0, rms, 1.0)


def _weights(method: str, n_used: Array, rms: Array, variance: Array, structure: Array) -> Array:
    """Return the weight of each pair: the inverse of its whole variance, or scaled to the mean inverse variance."""
    if not len(rms):
        return rms
    if method == "error":
        shown = structure / variance
        typical = float(np.median(shown))
        if typical > TYPICAL**2:
            return np.asarray(1 / variance)
        # that a pair shows less than another may be chance, and does not make it better
        least = max(ALONE**2, FAR * typical)
        return np.asarray((1 + least) / (variance * (1 + typical) * (1 + np.maximum(shown, least))))
    weights = {"equal": np.ones_like(rms), "npix": n_used, "rms": rms**-2.0}[method]
    return np.asarray(weights * ((1 / variance).mean() / weights.mean()))
