"""The residuals of two different PSFs, or of a small misregistration, in a pair's difference: fitted and subtracted.

If second = (delta + k) * first, where * is convolution and k a small kernel whose sum is zero, then the difference of
the images is level + k * mean to second order. The mean of both images replaces either one, so that its noise is not
correlated with that of the difference (compare Alard & Lupton 1998, ApJ 503, 325, whose kernel acts on one image and
does not sum to zero). The difference is regressed on even and odd combinations of the shifted mean minus the mean
itself. The sum of each is zero, so that flux is conserved and the level is not affected.

The kernel is only fitted where both images have the same structure: the products of their gradients, whose noise is
independent, are summed over a small window, and must be most of the summed squares. Cosmic rays, latent images and
satellites are in one image only. Pixels are weighted by their noise and by a fraction of the gradient, since no kernel
is perfect, and outliers are downweighted (Huber). If the kernel explains little of the difference, or no more than it
may by chance, nothing is subtracted: the median of the unchanged difference is better then. (A kernel that was fitted
to noise shifts one of the images along the sky's gradient, which moves the level of that pair alone.) Nor is it if the
kernel shifts an image further than it reaches. Only something soft that moved is fitted so, by its gradient (a comet,
stray light); the sky did not move with it, and a level would be off by the sky's gradient times that shift.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.matching.measure.difference_kernels import Box, Image
from levelmatch_core.matching.measure.psf_kernels import (
    REACH,
    FitPlane,
    Floats,
    Places,
    common_structure,
    mean_image,
    normal_equations,
    regressors,
    take_out,
)
from levelmatch_core.sky.robust.clipping import MAD_TO_SIGMA

NEAR = np.array([(0, 1), (1, -1), (1, 0), (1, 1)])
"""(4, 2) shifts in y and x, up to a sign, which show whether a kernel is worth fitting."""
SHIFTS = np.array([(0, 1), (0, 2), (1, -2), (1, -1), (1, 0), (1, 1), (1, 2), (2, -2), (2, -1), (2, 0), (2, 1), (2, 2)])
"""(12, 2) shifts of the full kernel of 5 x 5 pixels."""
SAMPLES = 1500
"""Approximate largest number of pixels with structure in the fit; twice as many are examined."""
MOST_SAMPLES = 6000
"""The same for the kernel that is taken out: its error is that of the levels, in all pairs of an exposure."""
FINER = 2
"""Factor by which more pixels are examined if few of them have structure."""
FEWEST_EACH = 10
"""Smallest number of pixels per coefficient."""
STRIP = 12
"""Rows of a strip: longer than the kernel and the window."""
IMPERFECT = 0.1
"""Error of the kernel as a fraction of the gradient."""
EXPLAINED = 0.15
"""Smallest fraction of the variance of the difference, where there is structure, that the kernel must predict in pixels
to which it was not fitted."""
SURELY, WINSORISED = 4.0, 3.0
"""Standard errors by which these pixels must scatter less for it than without it, on average over squares; and beyond
how many standard deviations a difference counts no more. The scatter of a hundred pixels is known to a tenth only: in
plain skies one in 350 pairs had a kernel that explained 0.15 to 0.33 of noise, by -2 to 4.6 such errors, and real ones
are beyond 5."""
CHANGED = 4.0
"""Standard deviations of its own noise from which on the change of a pixel by the kernel is one."""
SWEEPS = 4
"""Number of iterations of the reweighted fit."""
HUBER_LIMIT = 1.345
FAR = 6.0
"""Residuals beyond this many standard deviations are ignored."""
RIDGE = 1e-6
"""Regularisation relative to the diagonal of the normal equations: shifted copies of a smooth image are similar."""


@dataclass(frozen=True)
class Kernel:
    """A fitted kernel."""

    coefficients: Floats
    """(24,) odd and even part of each of `SHIFTS`."""
    explained: float
    """Fraction of the variance of the difference that it explains, where there is structure."""

    def moves(self, shifts: Places) -> float:
        """Return by how many pixels it shifts an image: an odd part is the image ahead minus that behind."""
        return float(np.hypot(*(2.0 * self.coefficients[::2] @ shifts)))

    @property
    def noise(self) -> float:
        """Standard deviation of the convolution of the kernel with unit noise that is not correlated."""
        odd, even = self.coefficients[::2], self.coefficients[1::2]
        return math.sqrt(2.0 * float(np.sum(odd**2 + even**2)) + 4.0 * float(even.sum()) ** 2)


@dataclass(frozen=True)
class Matched:
    """The second image of a pair as it would be with the PSF of the first."""

    image: Image
    """(ny, nx) of the second's type, NaN where one is invalid or the kernel reaches beyond both."""
    noise: float
    """`Kernel.noise`."""

    def where_little_changed(self, second: Image, rms: float) -> Image:
        """Return the image without the pixels that the kernel changes by more than noise: NaN there.

        What is wrong with a kernel is a part of what it changes: of an undersampled star no kernel of whole pixels
        makes what another PSF does. That averages out over all pixels, but not for clipped means and medians. Of faint
        light only noise decides which pixels are changed little: a limit within that noise would choose those whose
        noise hides their light.

        Parameters
        ----------
        second
            (ny, nx) the image as it was, over the box.
        rms
            Standard deviation of the difference after matching; the noise of the mean of both images is half of it.
        """
        with np.errstate(invalid="ignore"):  # inf - inf
            little = np.abs(self.image - second) <= CHANGED * self.noise * 0.5 * rms
        image = np.where(little, self.image, np.array(np.nan, self.image.dtype))
        image.flags.writeable = False
        return image


def psf_matched(first: Image, second: Image, box: Box, plane: FitPlane, noise: float) -> Matched | None:
    """Return the second image over the box as it would be with the PSF of the first.

    Parameters
    ----------
    first, second, box
        A pair, as in :mod:`levelmatch_core.matching.measure.difference_kernels`.
    plane, noise
        The plane fitted to the unchanged difference, and the standard deviation about it.

    Returns
    -------
    Matched or None
        None if there is nothing to match.
    """
    if not noise > 0 or min(box[4:]) <= 2 * REACH:
        return None
    places, strength = places_with_structure(first, second, box, noise)
    if len(places) < FEWEST_EACH * 2 * len(NEAR):
        return None
    mean = np.empty((box[4] + 2 * REACH, box[5] + 2 * REACH))
    mean_image(first, second, box, plane, mean)
    weight = 1.0 / (noise**2 + IMPERFECT**2 * strength)
    where = mean, places, weight
    rows = regression(first, second, box, plane, where, NEAR)
    if rows is None or not predicts(rows):
        return None
    if len(places) < MOST_SAMPLES:
        places, strength = places_with_structure(first, second, box, noise, MOST_SAMPLES)
        where = mean, places, 1.0 / (noise**2 + IMPERFECT**2 * strength)
        rows = regression(first, second, box, plane, where, NEAR)
    found, shifts = None if rows is None else fit_kernel(rows), NEAR
    if len(places) >= FEWEST_EACH * 2 * len(SHIFTS):
        rows = regression(first, second, box, plane, where, SHIFTS)
        finer = None if rows is None else fit_kernel(rows)
        if finer is not None and (found is None or finer.explained > found.explained):
            found, shifts = finer, SHIFTS
    if found is None or found.moves(shifts) > REACH:
        return None
    out = np.empty(box[4:], dtype=second.dtype)
    take_out(second, box, mean, shifts, found.coefficients, out)
    out.flags.writeable = False
    return Matched(out, found.noise)


def places_with_structure(
    first: Image, second: Image, box: Box, noise: float, samples: int = SAMPLES
) -> tuple[Places, Floats]:
    """Find evenly spread pixels where both images have the same structure, about `samples` of them.

    If few pixels of the first lattice have structure, a finer one is examined.

    Returns
    -------
    (n, 2) rows and columns, and (n,) the mean product of the two gradients there.
    """
    ny, nx = box[4:]
    step = max(1, math.isqrt(ny * nx // (2 * samples)))
    room = 6 * FINER * samples
    places, strength = np.empty((room, 2), np.int64), np.empty(room)
    n = common_structure(first, second, box, step, noise, places, strength)
    if step > 1 and FEWEST_EACH <= n < samples // 4:
        step = max(1, math.isqrt(ny * nx // (2 * FINER * samples)))
        n = common_structure(first, second, box, step, noise, places, strength)
    return places[:n], strength[:n]


@dataclass(frozen=True)
class Regression:
    """The pixels to which a kernel is fitted."""

    rows: Floats
    """(n, 1 + 2 K) the regressors: 1, then the odd and even parts of the shifts."""
    values: Floats
    """(n,) the difference."""
    weight: Floats
    """(n,) inverse variances."""
    half: NDArray[np.bool_]
    """(n,) whether a pixel is in an odd strip of rows."""

    def part(self, of: NDArray[np.bool_]) -> "Regression":
        """Return those of the pixels for which `of` (n,) is true."""
        return Regression(self.rows[of], self.values[of], self.weight[of], self.half[of])


def regression(  # noqa: PLR0917 - a pair, and where and what to fit
    first: Image, second: Image, box: Box, plane: FitPlane, where: tuple[Floats, Places, Floats], shifts: Places
) -> Regression | None:
    """Return the regression of a difference on some shifts.

    Parameters
    ----------
    first, second, box, plane
        As above.
    where
        The mean image, with margins; (n, 2) rows and columns; (n,) weights.
    shifts
        (K, 2) in y and x.

    Returns
    -------
    Regression or None
        None if too few pixels have all neighbours.
    """
    mean, places, weight = where
    columns = 1 + 2 * len(shifts)
    rows, values = np.empty((len(places), columns)), np.empty(len(places))
    good = np.empty(len(places), np.bool_)
    regressors(first, second, box, plane, mean, shifts, places, rows, values, good)
    if np.count_nonzero(good) < FEWEST_EACH * (columns - 1):
        return None
    return Regression(rows[good], values[good], weight[good], places[good, 0] // STRIP % 2 == 1)


def fit_kernel(asked: Regression) -> Kernel | None:
    """Fit a kernel robustly; None if the normal equations are singular."""
    root = np.sqrt(asked.weight)
    used, scatter = asked.weight, 0.0
    for _ in range(SWEEPS):
        matrix, right = normal_equations(asked.rows, asked.values, used)
        matrix[np.diag_indices(len(matrix))] *= 1.0 + RIDGE
        try:
            solved = np.linalg.solve(matrix, right)
        except np.linalg.LinAlgError:
            return None
        left = np.abs(asked.values - np.einsum("nk,k->n", asked.rows, solved)) * root
        scatter = MAD_TO_SIGMA * float(np.median(left))
        if scatter == 0:
            break
        left /= scatter
        used = asked.weight * np.where(left < FAR, np.minimum(1.0, HUBER_LIMIT / np.maximum(left, HUBER_LIMIT)), 0.0)
    before = scatter_of(asked)
    return Kernel(solved[1:], 1.0 - (scatter / before) ** 2 if before > 0 else 0.0)


def predicts(asked: Regression) -> bool:
    """Return whether kernels explain enough of pixels to which they were not fitted, and more than chance makes of it.

    The halves are alternate strips of rows; each has the kernel of the other. A kernel that is fitted to a few pixels
    explains part of their difference by chance, the more so where cosmic rays are in the mean image; it explains
    nothing of other pixels. What it seems to explain of these is compared with its own standard error, pixel by pixel.
    """
    limit = WINSORISED * scatter_of(asked)
    before = after = 0.0
    gains = []
    for one in (asked.half, ~asked.half):
        other = asked.part(~one)
        found = fit_kernel(other) if len(other.values) > other.rows.shape[1] else None
        mine = asked.part(one)
        if found is None or not len(mine.values):
            return False
        left = mine.values - np.einsum("nk,k->n", mine.rows[:, 1:], found.coefficients)
        kept = Regression(mine.rows, left, mine.weight, mine.half)
        share = len(mine.values)
        before += share * scatter_of(mine) ** 2
        after += share * scatter_of(kept) ** 2
        without, with_it = (np.minimum(np.abs(_standardised(part)), limit) ** 2 for part in (mine, kept))
        gains.append(without - with_it)
    gain = np.concatenate(gains)
    surely = float(gain.mean()) * math.sqrt(len(gain)) >= SURELY * float(gain.std())
    return surely and before > 0 and 1.0 - after / before >= EXPLAINED


def scatter_of(asked: Regression) -> float:
    """Return the robust scatter of the values, in units of their errors."""
    return MAD_TO_SIGMA * float(np.median(np.abs(_standardised(asked))))


def _standardised(asked: Regression) -> Floats:
    """Return (n,) the values about their median, in units of their errors."""
    return np.asarray((asked.values - np.median(asked.values)) * np.sqrt(asked.weight))
