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

Huber's estimate of what clipping leaves weighs residuals beyond 1.345 standard deviations down: 95 % of the mean's
efficiency with normal noise, and little pull by faint sources that clipping does not see. A plane has no median: the
setting `statistic = "median"` gives levels their median, and planes the clipped least squares that the step describes.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.matching.gain import gain
from levelmatch_core.matching.results import PairFit
from levelmatch_core.settings import FitType, MatchSettings
from levelmatch_core.sky import kernels
from levelmatch_core.sky.clipping import clip_sorted, run_median, run_moments
from levelmatch_core.sky.cutouts import Cutout, CutoutRecord, extent_of
from levelmatch_core.sky.plane import Plane

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

MAD_TO_SIGMA = 1.482602218505602
"""Standard deviation of a normal distribution over its median absolute deviation."""
HUBER_LIMIT = 1.345
"""Residuals beyond so many standard deviations are weighed down: 95 % efficiency with normal noise (Huber 1981)."""
HUBER_SWEEPS = 50
"""Most sweeps of Huber's estimate: each shrinks the distance left about fivefold."""
HUBER_SETTLED = 1e-6
"""Huber's estimate has settled when it moves by less than this fraction of its standard error."""
ROUNDING = 64 * np.finfo(float).eps
"""Residuals below this fraction of the largest difference are rounding, and are never clipped."""


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
class _Fit:
    """A fit about the middle of the difference's box; slopes are over half the box, so that all is in data units."""

    keep: Mask
    coefficients: Array
    rms: float
    mean_like: float
    """Part of the level's variance, in rms^2 / n, that the correlation of resampled pixels multiplies as the mean's."""
    excess: float
    """The rest of it."""
    converged: bool


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
    a, b = first.record, second.record
    x0, y0 = max(a.x0, b.x0), max(a.y0, b.y0)
    x1 = min(a.x0 + a.shape[1], b.x0 + b.shape[1])
    y1 = min(a.y0 + a.shape[0], b.y0 + b.shape[0])
    if x1 <= x0 or y1 <= y0:
        return None
    data, valid = np.empty((y1 - y0, x1 - x0)), np.empty((y1 - y0, x1 - x0), dtype=bool)
    # what is not finite (inf - inf, too) is not valid
    at_first, at_second = (y0 - a.y0, x0 - a.x0), (y0 - b.y0, x0 - b.x0)
    n_valid = kernels.subtract(_plain(first.data), _plain(second.data), at_first, at_second, data, valid)
    if n_valid == 0:
        return None
    return Difference(data, valid, x0, y0, n_valid)


def _plain(image: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return it as the kernels are compiled for: as cutouts are mapped from the store."""
    view = np.ascontiguousarray(image).view()
    view.flags.writeable = False
    return view


def fit_pair(first: Cutout, second: Cutout, fit_type: FitType, settings: MatchSettings) -> PairFit | None:
    """Measure the robust difference second - first.

    Parameters
    ----------
    first, second
        Cutouts on the same grid; the pair is named after their records.
    fit_type
        "level": sigma-clipped median. "level+slope": iterated, clipped least squares of a plane.
    settings
        `statistic`, `sigma`, `maxiters`, `plane_fit_maxiters`, `plane_fit_abs_tol`, `plane_fit_rel_tol` are read.

    Returns
    -------
    PairFit or None
        None where no pixel is common.
    """
    both = difference(first, second)
    if both is None:
        return None
    correlation = max(1.0, 2.0 / (first.record.noise_gain + second.record.noise_gain))
    fit = _fit_level(both, settings) if fit_type == "level" else _fit_plane(both, settings)
    if settings.statistic == "huber":
        fit = _huber(both, fit, settings, slopes=fit_type != "level")
    mean_like = correlation * fit.mean_like
    inefficiency = mean_like + fit.excess
    extent = _extent(both, first.record.axis_angle)
    n_used, (x, y), moments = _moments(fit.keep)
    top, left = both.y0 - first.record.y0, both.x0 - first.record.x0
    ny, nx = both.data.shape
    grown = gain(first.data[top : top + ny, left : left + nx], both.data, fit.keep)
    return PairFit(
        first=first.record.name,
        second=second.record.name,
        npix=both.n_valid,
        n_used=n_used,
        plane=_grid_plane(fit.coefficients, both, x, y),
        moments=tuple(moments.ravel().tolist()),
        rms=fit.rms,
        stderr=float(fit.rms * np.sqrt(inefficiency / n_used)),
        correlation=correlation,
        shared=mean_like / inefficiency,
        extent=extent,
        linear=_fractions(extent, first.record, second.record),
        converged=fit.converged,
        gain=None if grown is None else (grown.slope, grown.sigma, grown.brightness),
    )


def _kappa(sigma: float, iterations: int) -> float:
    """Return the standard deviation of unit normal noise after `iterations` clips at `sigma` of its own deviations.

    Below sqrt(3) sigma, clipping goes on for ever, and nothing can be known of the noise: no less than 0.5 is returned.
    """
    kappa = 1.0
    for _ in range(iterations):
        limit = sigma * kappa
        inside = math.erf(limit / math.sqrt(2))
        kappa = math.sqrt(1 - limit * math.sqrt(2 / math.pi) * math.exp(-(limit**2) / 2) / inside)
        if kappa < 0.5:
            return 0.5
    return kappa


# -- level -----------------------------------------------------------------------------------------------------------
def clipped_median(values: Array, sigma: float, maxiters: int) -> tuple[float, float, float, bool]:
    """Return the sigma-clipped median (centre: median, width: standard deviation), as astropy's SigmaClip would.

    Parameters
    ----------
    values
        Finite values, any order, at least one.
    sigma
        Limit in standard deviations.
    maxiters
        Most iterations.

    Returns
    -------
    median, low, high, converged
        The median and the extremes of what is left, and whether the last clip removed nothing.
    """
    ordered = np.sort(values, axis=None)
    low, high, converged = clip_sorted(ordered, float(sigma), maxiters)
    return run_median(ordered, low, high), float(ordered[low]), float(ordered[high - 1]), converged


def _dot(a: Array, b: Array) -> float:
    """Return the scalar product without BLAS, whose threads cost much and round as their number goes."""
    return float(np.einsum("i,i->", a, b))


def _rms(values: Array) -> float:
    return math.sqrt(_dot(values, values) / values.size)


def _fit_level(both: Difference, settings: MatchSettings) -> _Fit:
    ordered = np.empty(both.n_valid)
    kernels.pack(both.data, ordered)
    ordered.sort()
    low, high, converged = clip_sorted(ordered, float(settings.sigma), settings.maxiters)
    keep = (both.data >= ordered[low]) & (both.data <= ordered[high - 1])  # NaN is never kept
    kappa = _kappa(settings.sigma, settings.maxiters)
    mean_like, excess = kappa**-2, (np.pi / 2 - 1) * kappa**-2
    level = run_median(ordered, low, high)
    offset, square = run_moments(ordered, low, high, level)
    if settings.statistic == "clipped_mean":
        level += offset
        square = max(square - offset**2, 0.0)
        mean_like, excess = kappa**-4, 0.0
    return _Fit(keep, np.array([level, 0.0, 0.0]), math.sqrt(square), mean_like, excess, converged)


# -- plane -----------------------------------------------------------------------------------------------------------
def _fit_plane(both: Difference, settings: MatchSettings) -> _Fit:
    """Fit a plane: clip about the last plane, solve the normal equations of what is left, until the plane settles."""
    ny, nx = both.data.shape
    x, y = _unit(nx), _unit(ny)
    values = np.where(both.valid, both.data, 0.0)
    measured = both.data[both.valid]
    rounding = ROUNDING * float(np.max(np.abs(measured)))
    # Robust start: about the median, width from the median absolute deviation, which wild pixels do not move.
    start = float(np.median(measured))
    width = MAD_TO_SIGMA * float(np.median(np.abs(measured - start)))
    keep = both.valid & (np.abs(values - start) <= settings.sigma * max(width, rounding))
    coefficients = _solve_plane(values, keep, x, y)
    converged = False
    for _ in range(settings.plane_fit_maxiters):
        residuals = np.abs(values - (coefficients[0] + coefficients[1] * x + coefficients[2] * y[:, None]))
        width = _rms(residuals[keep])
        keep = both.valid & (residuals <= settings.sigma * width + rounding)
        if not keep.any():  # sigma so small that nothing would be left
            keep = both.valid
        before, coefficients = coefficients, _solve_plane(values, keep, x, y)
        change = np.abs(coefficients - before)
        allowed = np.maximum(settings.plane_fit_abs_tol, settings.plane_fit_rel_tol * np.abs(coefficients))
        converged = bool(np.all(change <= allowed))
        if converged:
            break
    residuals = (values - (coefficients[0] + coefficients[1] * x + coefficients[2] * y[:, None]))[keep]
    kappa = _kappa(settings.sigma, settings.plane_fit_maxiters)
    return _Fit(keep, coefficients, _rms(residuals), kappa**-4, 0.0, converged)


def _unit(n: int) -> Array:
    """Return pixel positions about the middle, in units of half the box."""
    return (np.arange(n, dtype=np.float64) - (n - 1) / 2) / (n / 2)


def _solve_plane(values: Array, keep: Mask, x: Array, y: Array) -> Array:
    """Return the least-squares plane [level, slopes] of the kept pixels; a slope that they do not see is 0."""
    weight = keep.astype(np.float64)
    kept = values * weight
    columns, rows = kept.sum(axis=0), kept.sum(axis=1)
    right = np.array([rows.sum(), _dot(columns, x), _dot(rows, y)])
    return np.linalg.pinv(_moment_matrix(weight, x, y), rcond=1e-12, hermitian=True) @ right


def _moment_matrix(weight: Array, x: Array, y: Array) -> Array:
    """Return the sum of [1, x, y] outer itself, by sums over rows and columns."""
    columns, rows = weight.sum(axis=0), weight.sum(axis=1)
    n, sx, sy = rows.sum(), _dot(columns, x), _dot(rows, y)
    sxx, syy, sxy = _dot(columns, x * x), _dot(rows, y * y), _dot(y, np.einsum("ij,j->i", weight, x))
    return np.array([[n, sx, sy], [sx, sxx, sxy], [sy, sxy, syy]])


def _moments(keep: Mask) -> tuple[int, tuple[float, float], Array]:
    """Return the number, the centroid (within the box) and the 3x3 moments about it of the kept pixels.

    The sums are whole numbers, so that nothing is lost where the centroid is taken out.
    """
    n, sx, sy, sxx, sxy, syy = (int(each) for each in kernels.mask_sums(keep))
    xx, xy, yy = (
        (n * product - one * other) / n for product, one, other in ((sxx, sx, sx), (sxy, sx, sy), (syy, sy, sy))
    )
    return n, (sx / n, sy / n), np.array([[n, 0.0, 0.0], [0.0, xx, xy], [0.0, xy, yy]])


def _grid_plane(coefficients: Array, both: Difference, x: float, y: float) -> Plane:
    """Return the fit as a plane on the grid, about the centroid (x, y) within the box."""
    ny, nx = both.data.shape
    slope_x, slope_y = coefficients[1] / (nx / 2), coefficients[2] / (ny / 2)
    middle = Plane(
        level=float(coefficients[0]),
        slope_x=float(slope_x),
        slope_y=float(slope_y),
        x0=both.x0 + (nx - 1) / 2,
        y0=both.y0 + (ny - 1) / 2,
    )
    return middle.about(both.x0 + x, both.y0 + y)


# -- Huber ------------------------------------------------------------------------------------------------------------
def _huber(both: Difference, clipped: _Fit, settings: MatchSettings, *, slopes: bool) -> _Fit:
    """Return Huber's estimate from the pixels that clipping left (modified residuals: Huber 1981, chapter 7)."""
    if clipped.rms == 0.0:
        return clipped
    ny, nx = both.data.shape
    x, y = _unit(nx), _unit(ny)
    kappa = _kappa(settings.sigma, settings.plane_fit_maxiters if slopes else settings.maxiters)
    limit = HUBER_LIMIT * clipped.rms / kappa
    values = np.where(clipped.keep, both.data, 0.0)
    coefficients = clipped.coefficients
    settled = HUBER_SETTLED * clipped.rms / math.sqrt(np.count_nonzero(clipped.keep))
    converged = False
    for _ in range(HUBER_SWEEPS):
        residuals = values - (coefficients[0] + coefficients[1] * x + coefficients[2] * y[:, None])
        held_in = np.clip(residuals, -limit, limit)
        if slopes:
            step = _solve_plane(np.where(clipped.keep, held_in, 0.0), clipped.keep, x, y)
        else:
            step = np.array([float(np.mean(held_in[clipped.keep])), 0.0, 0.0])
        coefficients = coefficients + step
        converged = bool(np.abs(step).max() <= settled)
        if converged:
            break
    left = residuals[clipped.keep]
    rms = _rms(left)
    within = np.count_nonzero(np.abs(left) <= limit) / left.size
    variance = _rms(np.clip(left, -limit, limit)) ** 2 / within**2
    mean_like = kappa**-2
    excess = max(0.0, variance / rms**2 - mean_like)
    return _Fit(clipped.keep, coefficients, rms, mean_like, excess, clipped.converged and converged)


# -- extents -----------------------------------------------------------------------------------------------------------
def _extent(both: Difference, angle: float) -> tuple[float, float]:
    """Return the size of the valid area along an axis at `angle` and across it, as the members' own was measured."""
    ends = np.empty((both.data.shape[0], 3), dtype=np.int64)
    kernels.row_ends(both.data, ends)
    return extent_of(ends, angle)


def _fractions(extent: tuple[float, float], first: CutoutRecord, second: CutoutRecord) -> tuple[float, float]:
    """Return `extent` as the larger fraction of either member's own extent, on the first member's two axes.

    The second member's rectangle is projected onto the first's axes, as the overlap itself is measured.
    """
    turn = second.axis_angle - first.axis_angle
    cosine, sine = abs(np.cos(turn)), abs(np.sin(turn))
    along, across = second.extent
    projected = (along * cosine + across * sine, along * sine + across * cosine)
    one, other = (
        float(min(1.0, size / max(1.0, min(own, theirs))))
        for size, own, theirs in zip(extent, first.extent, projected, strict=True)
    )
    return one, other
