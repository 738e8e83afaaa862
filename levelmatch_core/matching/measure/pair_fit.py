"""The robust difference of two cutouts over their common pixels: a level, or a plane, and how well it is known.

Efficiency of the level: the median of n independent normal values of standard deviation s has the standard error
sqrt(pi/2) s / sqrt(n), 1.25 times that of the mean, which is the price of its robustness. Resampled pixels are not
independent: with autocorrelation rho the variance of the median is s^2 / n times the sum of arcsin(rho) over all lags
(the covariance of two normal variables' signs is (2/pi) arcsin rho), that is pi/2 from lag 0 and nearly rho from the
rest, so that s^2 (pi/2 + correlation - 1) / n is used, `correlation` being the sum of rho.

Clipping at c standard deviations cuts the wings of the noise too: what is left of a normal distribution has kappa times
its standard deviation (0.987 at 3 sigma), so that s = rms / kappa; and a clipped mean (or plane) has the variance
rms^2 / kappa^4 over the pixels left, because those near the limit go in and out with the fit (the asymptotic variance
of the skipped mean; Huber 1981, Robust Statistics, chapter 4).

A plane has no median: the setting `statistic = "median"` gives levels their median, and planes the clipped least
squares that the step describes. "adaptive" gives levels Huber's estimate where the median agrees with it, as it does in
noise, else the median, which crowds pull less; and planes Huber's.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.matching.measure import crowds, huber
from levelmatch_core.matching.measure.block_jackknife import is_gain, is_lopsided, shown_by
from levelmatch_core.matching.measure.core_level import off_core
from levelmatch_core.matching.measure.difference_kernels import (
    Box,
    Cut,
    Image,
    kept_moments,
    mask_sums,
    plane_step,
    plane_sums,
    sift_difference,
)
from levelmatch_core.matching.measure.extents import relative_extents
from levelmatch_core.matching.measure.gain import gain
from levelmatch_core.matching.measure.psf_match import psf_matched
from levelmatch_core.matching.measure.tilts import reach
from levelmatch_core.matching.results import PairFit
from levelmatch_core.settings import FitType, MatchSettings
from levelmatch_core.sky.cutouts import Cutout
from levelmatch_core.sky.kernels import as_compiled
from levelmatch_core.sky.plane import Plane
from levelmatch_core.sky.robust.clipped_noise import clipped_part, kappa_of
from levelmatch_core.sky.robust.clipping import ALL, BY_ITSELF, FEWEST, clip, cuts_of, robust_start, sample_step
from levelmatch_core.sky.robust.clipping_kernels import Cuts, Sifted, Start

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

ROUNDING = 64 * np.finfo(float).eps
"""Residuals below this fraction of the largest difference that is not wild are rounding, and are never clipped."""
SETTLED = 0.01
"""A fit has settled, too, where its last iteration moves it by less than this fraction of its standard error."""
PSF_LEFT = 0.25
"""Fraction of the change of a level by PSF matching that counts as its error: no kernel is perfect, and what it leaves
is alike in all pairs of an exposure."""
CONTRADICTS, LEAST_APART, FEWEST_LEFT, CALMER = 3.0, 0.25, 100, 0.6
"""Standard deviations of their difference from which on the level of the pixels that PSF matching changes little
contradicts that of all, and stands for it; the smallest variance of that difference, relative to that of the
former; the fewest pixels that are asked; and by what factor they must scatter less than all: a kernel that leaves much
less than it took is right about bright pixels, too."""
CLEAN, CROWDED = 0.01, 0.03
"""Fractions of the pixels that are clipped in addition to those of noise: up to the first, a pair is free of sources,
and its level may be the most efficient one; from the second on, faint sources below the clipping limit would move
that."""
CLIPPED_ALONE = 2.5
"""Part of the variance that no pair shares over the clipped part beyond `CROWDED`: each clips its own part of stars."""
_FINITE = float(np.finfo(float).max)
"""No finite residual is beyond it."""


@dataclass(frozen=True)
class Difference:
    """second - first over the box that both cutouts cover."""

    data: Array
    """(ny, nx), data unit, NaN where either is invalid."""
    valid: Mask
    """(ny, nx), where both are finite."""
    x0: int
    """Grid column of the first pixel."""
    y0: int
    """Grid row of the first pixel."""
    n_valid: int
    """Number of valid pixels."""

    def __post_init__(self) -> None:
        self.data.flags.writeable = False
        self.valid.flags.writeable = False


@dataclass(frozen=True)
class _Pair:
    """Two cutouts and the box that both cover."""

    first: Cutout
    second: Cutout
    x0: int
    """Grid column of the box's first pixel."""
    y0: int
    """Grid row of it."""
    shape: tuple[int, int]
    """Rows, columns."""
    parts: tuple[Image, Image, Box]
    """What the compiled passes take: the two images, as they are mapped from the store, and the box in them."""
    smoothing: float = 0.0
    """What smoothing adds to the sum of the autocorrelation."""

    @classmethod
    def of(cls, first: Cutout, second: Cutout) -> "_Pair | None":
        """Return the pair, None where no pixel is common to the boxes."""
        a, b = first.record, second.record
        x0, y0 = max(a.x0, b.x0), max(a.y0, b.y0)
        nx = min(a.x0 + a.shape[1], b.x0 + b.shape[1]) - x0
        ny = min(a.y0 + a.shape[0], b.y0 + b.shape[0]) - y0
        if nx <= 0 or ny <= 0:
            return None
        box = (y0 - a.y0, x0 - a.x0, y0 - b.y0, x0 - b.x0, ny, nx)
        return cls(first, second, x0, y0, (ny, nx), (as_compiled(first.data), as_compiled(second.data), box))

    @property
    def correlation(self) -> float:
        """Sum of the autocorrelation of the resampled noise."""
        first, second = self.first.record, self.second.record
        resampled = (first.noise_reach + second.noise_reach) / (first.noise_gain + second.noise_gain)
        return max(1.0, resampled) + self.smoothing

    def sample(self) -> Array:
        """Return differences, not all of them valid, evenly spread over the box."""
        first, second, (ay, ax, by, bx, ny, nx) = self.parts
        every = sample_step(ny * nx)
        across = max(1, min(nx, math.isqrt(every)))
        down = max(1, every // across)
        one = first[ay : ay + ny : down, ax : ax + nx : across]
        other = second[by : by + ny : down, bx : bx + nx : across]
        with np.errstate(invalid="ignore"):  # inf - inf
            return np.subtract(other, one, dtype=np.float64).reshape(-1)


@dataclass(frozen=True)
class _Fit:
    """A fit about the middle of the box; slopes are over half the box, so that all is in data units."""

    cut: Cut
    """Which pixels it used."""
    coefficients: Array
    rms: float
    mean_like: float
    """Part of the level's variance, in rms^2 / n, that the correlation of resampled pixels multiplies as the mean's."""
    excess: float
    """The rest of it."""
    converged: bool
    step: float
    """By how much one more iteration would move it, data unit; 0 where it settled."""
    efficient: tuple[float, float, float] | None = None
    """Level and excess of the estimate for noise alone, and by how many standard deviations the median is off it."""


def difference(first: Cutout, second: Cutout) -> Difference | None:
    """Subtract `first` from `second` where both are valid.

    Parameters
    ----------
    first, second
        Cutouts on the same grid.

    Returns
    -------
    Difference or None
        None where no pixel is common.
    """
    pair = _Pair.of(first, second)
    return None if pair is None else _difference(pair)


def _difference(pair: _Pair) -> Difference | None:
    one, other, (ay, ax, by, bx, ny, nx) = pair.parts
    with np.errstate(invalid="ignore"):  # inf - inf
        data = np.subtract(other[by : by + ny, bx : bx + nx], one[ay : ay + ny, ax : ax + nx], dtype=np.float64)
    valid = np.isfinite(data)
    if not valid.any():
        return None
    data[~valid] = np.nan
    return Difference(data, valid, pair.x0, pair.y0, int(np.count_nonzero(valid)))


def fit_pair(first: Cutout, second: Cutout, fit_type: FitType, settings: MatchSettings) -> PairFit | None:
    """Measure the robust difference second - first.

    Parameters
    ----------
    first, second
        Cutouts on the same grid; the pair is named after their records.
    fit_type
        "level": sigma-clipped median. "level+slope": iterated, clipped least squares of a plane.
    settings
        `statistic`, `match_psf`, `sigma`, `maxiters`, `plane_fit_maxiters`, `plane_fit_abs_tol` and
        `plane_fit_rel_tol` are read.

    Returns
    -------
    PairFit or None
        None where no pixel is common.
    """
    pair = _Pair.of(first, second)
    found = None if pair is None else _fitted(pair, fit_type, settings)
    moved, by_blocks = 0.0, None
    if pair is not None and found is not None and settings.match_psf:
        clipped = 1.0 - mask_sums(*pair.parts, found[0].cut)[0] / found[1]
        is_crowd = clipped - clipped_part(settings.sigma, settings.maxiters) > crowds.CROWD
        by_blocks = crowds.gain_of_blocks(*pair.parts) if is_crowd else None
        pair, found, moved = _stars_matched(pair, found, fit_type, settings, is_crowd=is_crowd)
    if pair is None or found is None:
        return None
    fit, n_valid, extent, common = found
    gains, correlation = (first.record.noise_gain, second.record.noise_gain), pair.correlation
    mean_like = correlation * fit.mean_like
    own = crowds.own_part if pair.smoothing else float
    inefficiency = mean_like + own(fit.excess)
    n_used, (x, y), moments = kept_moments(pair.parts, fit.cut)
    of_pixels, alike = gain(*pair.parts, fit.cut, n_used)
    found_gain = by_blocks if by_blocks is not None and is_gain(by_blocks.slope, by_blocks.sigma) else of_pixels
    grown = None if found_gain is None else (found_gain.slope, found_gain.sigma, found_gain.brightness)
    stderr, shared = fit.rms * math.sqrt(inefficiency / n_used), common * mean_like / inefficiency
    level, slope_x, slope_y = fit.coefficients.tolist()
    off = off_core(*pair.parts, fit.cut, (level, slope_x, slope_y))
    normal = fit.rms * math.sqrt(fit.mean_like * (correlation + huber.ADAPTIVE_VARIANCE - 1.0) / n_used)
    about, noise = (level, slope_x, slope_y), (fit.rms, normal)
    left, noise_left, alone = crowds.OF_SMOOTHED if pair.smoothing else (PSF_LEFT, 1.0, CLIPPED_ALONE)
    shown = shown_by(*pair.parts, fit.cut, about, noise, stderr, shared, grown, noise_left * min(gains))
    efficient = None
    beyond_noise = 1.0 - n_used / n_valid - clipped_part(settings.sigma, settings.maxiters)
    part = min(max((CROWDED - beyond_noise) / (CROWDED - CLEAN), 0.0), 1.0)
    if fit.efficient is not None and part > 0:
        best, excess, apart = fit.efficient
        more = excess + (1.0 - part) ** 2 * max(fit.excess - excess, 0.0)
        efficient = level + part * (best - level), fit.rms * math.sqrt((mean_like + own(more)) / n_used), apart
    off = max(off, shown.hidden)  # two ways to see the same
    centres = first.record.centre, second.record.centre
    return PairFit(
        first=first.record.name,
        second=second.record.name,
        npix=n_valid,
        n_used=n_used,
        plane=_grid_plane(fit.coefficients, pair, x, y),
        moments=moments,
        rms=fit.rms,
        stderr=stderr,
        structure=math.hypot(off, shown.structure, left * moved if abs(moved) > stderr else 0.0),
        noise_by_blocks=shown.noise,
        tilt=shown.slopes if fit_type == "level" else None,
        reach=reach((pair.x0 + x, pair.y0 + y), centres) if fit_type == "level" else (0.0, 0.0),
        correlation=correlation,
        shared=shared * max(0.0, 1.0 - alone * max(0.0, beyond_noise - CROWDED)),
        extent=extent,
        linear=relative_extents(extent, first.record, second.record),
        converged=fit.converged,
        last_step=fit.step,
        gain=grown,
        likeness=alike,
        efficient=efficient,
    )


_Found = tuple[_Fit, int, tuple[float, float], float]


def _stars_matched(
    pair: _Pair, found: _Found, fit_type: FitType, settings: MatchSettings, *, is_crowd: bool
) -> tuple[_Pair, _Found, float]:
    """Return the pair with stars as alike as they can be made, its fit, and by how much a kernel for PSFs moves it."""
    if is_crowd:
        smooth = replace(pair, parts=crowds.smoothed(*pair.parts), smoothing=crowds.AREA)
        start = _fitted(smooth, fit_type, settings)
        if start is not None:
            matched, again = _psf_matched(smooth, start, fit_type, settings)
            level, slope_x, slope_y = again[0].coefficients.tolist()
            if again[0].rms ** 2 < crowds.MOST_LEFT * found[0].rms ** 2 and not is_lopsided(
                *matched.parts, again[0].cut, (level, slope_x, slope_y), again[0].rms
            ):
                return matched, again, level - float(start[0].coefficients[0])
    matched, again = _psf_matched(pair, found, fit_type, settings)
    return matched, again, float(again[0].coefficients[0] - found[0].coefficients[0])


def _psf_matched(pair: _Pair, found: _Found, fit_type: FitType, settings: MatchSettings) -> tuple[_Pair, _Found]:
    """Return the pair with the second image as the first's PSF has it, and its fit; what was given where that is it.

    The level is that of the pixels that the kernel changes little, where that contradicts the level of all pixels.
    """
    level, slope_x, slope_y = found[0].coefficients.tolist()
    matched = psf_matched(*pair.parts, (level, slope_x, slope_y), found[0].rms)
    if matched is None:
        return pair, found
    first, second, (ay, ax, by, bx, ny, nx) = pair.parts
    other = replace(pair, parts=(first, matched.image, (ay, ax, 0, 0, ny, nx)))
    again = _fitted(other, fit_type, settings)
    if again is None:
        return pair, found
    if fit_type == "level":
        little = matched.where_little_changed(second[by : by + ny, bx : bx + nx], again[0].rms)
        fewer = replace(other, parts=(first, little, (ay, ax, 0, 0, ny, nx)))
        part = _fitted(fewer, fit_type, settings)
        if part is not None and _contradicts((fewer, part[0]), (other, again[0])):
            return fewer, part
    return other, again


def _contradicts(part: tuple[_Pair, _Fit], whole: tuple[_Pair, _Fit]) -> bool:
    """Return whether a part of the pixels scatters by far less than all, and has a level that contradicts theirs."""
    if part[1].rms > CALMER * whole[1].rms:
        return False
    variance = [_level_variance(*one) for one in (part, whole)]
    apart = float(part[1].coefficients[0] - whole[1].coefficients[0])
    return apart**2 > CONTRADICTS**2 * max(variance[0] - variance[1], LEAST_APART * variance[0])


def _level_variance(pair: _Pair, fit: _Fit) -> float:
    count = mask_sums(*pair.parts, fit.cut)[0]
    return fit.rms**2 * (pair.correlation * fit.mean_like + fit.excess) / count if count >= FEWEST_LEFT else math.inf


def _fitted(pair: _Pair, fit_type: FitType, settings: MatchSettings) -> _Found | None:
    """Return the fit, number of valid pixels, size of their area along the first's axes, part in common; or None.

    The latter is the part of the pair's pixels that another pair over the same sky has, too: each image has own holes.
    What two images lose to bad pixels and cosmic rays is twice what one of them does, where these are random; gaps that
    are larger are common to all.
    """
    angle = pair.first.record.axis_angle
    axis = math.cos(angle), math.sin(angle)
    kept = np.empty(pair.shape[0] * pair.shape[1])
    is_level = fit_type == "level"
    sampled = is_level and kept.size > FEWEST
    cuts, start = cuts_of(pair.sample(), settings.sigma, settings.maxiters) if sampled else (ALL, BY_ITSELF)
    for tried in (cuts, ALL):  # the last always does
        left, n_valid, extent, (holes, seen) = sift_difference(*pair.parts, axis, tried, kept)
        if n_valid == 0:
            return None
        fit = _fit_level(kept, left, tried, start, settings) if is_level else _fit_plane(pair, kept[:n_valid], settings)
        if fit is not None and settings.statistic in {"huber", "adaptive"}:
            fit = _huber(pair, fit, settings, slopes=not is_level)
        if fit is not None:
            return fit, n_valid, extent, math.sqrt(seen / (seen + holes)) if seen else 1.0
    return None


# -- level -----------------------------------------------------------------------------------------------------------
def _fit_level(kept: Array, left: Sifted, cuts: Cuts, start: Start, settings: MatchSettings) -> _Fit | None:
    """Clip what was sifted; None where the cuts do not do."""
    found = clip(kept, left, cuts, start, settings.sigma, settings.maxiters)
    if found is None:
        return None
    kappa = kappa_of(settings.sigma, settings.maxiters)
    level, rms = found.median, found.rms
    mean_like, excess = kappa**-2, (math.pi / 2 - 1) * kappa**-2
    if settings.statistic == "clipped_mean":
        level, rms = found.median + found.offset, found.std
        mean_like, excess = kappa**-4, 0.0
    cut = (0.0, 0.0, 0.0, found.low, found.high)
    settled = found.converged or found.step <= SETTLED * found.rms / math.sqrt(found.n)
    return _Fit(cut, np.array([level, 0.0, 0.0]), rms, mean_like, excess, settled, 0.0 if settled else found.step)


# -- plane -----------------------------------------------------------------------------------------------------------
def _fit_plane(pair: _Pair, measured: Array, settings: MatchSettings) -> _Fit:
    """Fit a plane: clip about the last plane, solve the normal equations of what is left, until the plane settles."""
    # of many pixels those of a sample say where clipping starts
    sample = np.sort(measured if measured.size <= FEWEST else measured[:: sample_step(measured.size)])
    low, high = robust_start(sample, settings.sigma)
    rounding = ROUNDING * max(abs(low), abs(high))
    coefficients = np.array([0.5 * low + 0.5 * high, 0.0, 0.0])
    limit = max(0.5 * high - 0.5 * low, settings.sigma * rounding)
    converged = False
    for turn in range(settings.plane_fit_maxiters + 1):
        level, slope_x, slope_y = coefficients.tolist()
        cut = (level, slope_x, slope_y, -limit, limit)
        sums = plane_sums(*pair.parts, cut)
        if sums[0] == 0:  # sigma so small that nothing would be left
            cut = (level, slope_x, slope_y, -_FINITE, _FINITE)
            sums = plane_sums(*pair.parts, cut)
        step, square = plane_step(sums)
        coefficients = coefficients + step
        allowed = np.maximum(settings.plane_fit_abs_tol, settings.plane_fit_rel_tol * np.abs(coefficients))
        converged = turn > 0 and bool(np.all(np.abs(step) <= allowed))
        if converged:
            break
        limit = settings.sigma * math.sqrt(square) + rounding
    moved = float(np.abs(step).sum())  # at most, in a corner of the box
    converged = converged or moved <= SETTLED * math.sqrt(square / sums[0])
    kappa = kappa_of(settings.sigma, settings.plane_fit_maxiters)
    return _Fit(cut, coefficients, math.sqrt(square), kappa**-4, 0.0, converged, 0.0 if converged else moved)


def _grid_plane(coefficients: Array, pair: _Pair, x: float, y: float) -> Plane:
    """Return the fit as a plane on the grid, about the centroid (x, y) within the box."""
    level, slope_x, slope_y = coefficients.tolist()
    ny, nx = pair.shape
    slope_x, slope_y = slope_x / (nx / 2), slope_y / (ny / 2)
    level += slope_x * (x - (nx - 1) / 2) + slope_y * (y - (ny - 1) / 2)
    return Plane(level=level, slope_x=slope_x, slope_y=slope_y, x0=pair.x0 + x, y0=pair.y0 + y)


# -- Huber ------------------------------------------------------------------------------------------------------------
def _huber(pair: _Pair, clipped: _Fit, settings: MatchSettings, *, slopes: bool) -> _Fit:
    """Return Huber's estimate from the pixels that clipping left; with "adaptive" as far as the median agrees."""
    if clipped.rms == 0.0:
        return clipped
    kappa = kappa_of(settings.sigma, settings.plane_fit_maxiters if slopes else settings.maxiters)
    sigma = clipped.rms / kappa
    adaptive = settings.statistic == "adaptive" and not slopes
    limit = (huber.ADAPTIVE_LIMIT if adaptive else huber.LIMIT) * sigma
    found = huber.huber(pair.parts, clipped.cut, clipped.coefficients, limit, slopes=slopes)
    if found is None:
        return clipped
    coefficients, part, beyond, efficient = found.coefficients, 1.0, 0.0, None
    if adaptive:
        apart = coefficients - clipped.coefficients
        count = mask_sums(*pair.parts, clipped.cut)[0]
        part = huber.trusted(float(apart[0]) * math.sqrt(count) / (huber.MEDIAN_APART * sigma))
        coefficients = clipped.coefficients + part * apart
        # where both may be right, by how much the result is off Huber's estimate is not its noise, but in addition
        beyond = part * ((1.0 - part) * float(apart[0]) / found.rms) ** 2 * count if found.rms > 0 else 0.0
        start, limit = (float(coefficients[0]), 0.0, 0.0), huber.EFFICIENT_LIMIT * sigma
        level, variance = huber.one_step(pair.parts, clipped.cut, start, limit)
        off = (float(clipped.coefficients[0]) - level) * math.sqrt(count) / (huber.EFFICIENT_APART * sigma)
        alone = kappa**-2 * (huber.EFFICIENT_VARIANCE + kappa**-2 - 2.0)
        efficient = level, max(alone, variance / found.rms**2 - kappa**-2) if found.rms > 0 else 0.0, off
    own = max(0.0, found.variance / found.rms**2 - kappa**-2) if found.rms > 0 else 0.0
    excess = part * own + (1.0 - part) * clipped.excess + beyond
    settled = clipped.converged and found.converged
    return _Fit(
        *(clipped.cut, coefficients, found.rms, kappa**-2, excess),
        *(settled, max(found.moved, clipped.step), efficient),
    )
