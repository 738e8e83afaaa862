"""Pixels that hold no sky, where so many are scattered over an image that no statistic would survive them.

Resampling spreads a wild pixel over its neighbours. A few per cent cost a difference little, but where a fifth of the
pixels of both images are wild, five sixths of their differences are no differences of the sky. They must be found on
the image's own grid, and before it is resampled.

A pixel is taken as wild if it stands off the 24 pixels about it by far more than the noise, and at least two of
the four next to it do not go along: those of a star as narrow as a pixel have a tenth of its height. Single pixels of
this kind (cosmic rays, bad pixels) are in every image, and are left as they are: clipping takes care of them. Only
where they are more than in any image of the sky, they are left out: the densest crowds have 0.1 %.

What no detector can see beside its own noise is left out wherever it is: one such value reaches far in a spline.
"""

import math

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.images.contents.blanks import is_scattered
from levelmatch_core.process.compilation import njit
from levelmatch_core.process.small_work import AT_A_TIME, compiled_when_large
from levelmatch_core.sky.robust.clipping import MAD_TO_SIGMA, pixel_noise

Floats = NDArray[np.float64]
Image = NDArray[np.floating]
Flags = NDArray[np.uint8]
Places = NDArray[np.int64]

FAR = 5.0
"""A pixel is far off those about it beyond this many standard deviations of the noise, and of their own scatter."""
ALONG = 0.05
"""Those next to it go along if they are off by this fraction of it on the same side."""
MOST = 0.03
"""Largest fraction of an image's pixels that may be so without being left out."""

IMPOSSIBLE = 1e9
"""So many standard deviations of the noise are between no two pixels of the sky: detectors count to 1e6 at most."""

_SHARP, _SLOPE = 1e-6, 1e-3
"""A pixel that is impossible also falls off by the first factor within two pixels, as no star does, and is next to
nothing that is brighter by the second one, as the wings of a star are in a simulation without noise."""
_NEXT = tuple((down * far, across * far) for down, across in ((-1, 0), (1, 0), (0, -1), (0, 1)) for far in (1, 2))

_SAMPLES = ((1024, 0.5 * MOST), (16384, MOST))
"""Numbers of pixels that are looked at first, and the fraction of wild ones up to which the image is one of the sky."""
_TURNS = 4
"""Most turns: without the wild ones that were found, more are found."""
_FAR_THEN, _NOISE_THEN = 4.0, 1.5
"""In an image that is full of them, what is this far off is one, and its neighbours go along beyond the noise only."""
_REACH = 2
_HERE, _BESIDE = np.array([(0, 0)]), np.array([(-1, 0), (1, 0), (0, -1), (0, 1)])
_AROUND = np.array([(down, across) for down in range(-2, 3) for across in range(-2, 3) if down or across])
_LEAST = 6
"""Smallest number of valid pixels about one that can tell."""


def rough_noise(data: Image) -> float:
    """Return 1 sigma of an image's pixel noise from few pixels; 0 where most of them equal the next."""
    return pixel_noise(data, _SAMPLES[0][0])


def is_of_few_values(data: Image, noise: float) -> bool:
    """Return whether most pixels hold one value, wherever they lie, as where photons are few: no median sees its level.

    Parameters
    ----------
    data
        (ny, nx), NaN where invalid.
    noise
        As :func:`rough_noise` has it.
    """
    if noise > 0.0 or not np.isfinite(data).any():
        return False
    return is_scattered(data, float(np.nanmedian(data)))


def lone_pixels(data: Image, noise: float) -> Flags | None:
    """Return the pixels of an image that hold no sky; None where all may.

    Parameters
    ----------
    data
        (ny, nx), NaN where invalid.
    noise
        As :func:`rough_noise` has it.

    Returns
    -------
    (ny, nx), 1 where a pixel is impossible or, if more than :data:`MOST` of them are, stands alone; None for no such
    pixel.
    """
    wild = _impossible(data, noise)
    alone = _alone(data, noise, np.zeros(data.shape, np.uint8) if wild is None else wild)
    return wild if alone is None else alone


def _impossible(data: Image, noise: float) -> Flags | None:
    """Return which pixels are impossible, None for none."""
    ends = float(np.fmin.reduce(data, axis=None)), float(np.fmax.reduce(data, axis=None))
    if not ends[1] - ends[0] > IMPOSSIBLE * noise:
        return None
    if noise == 0.0:  # most pixels equal the next: the scale is that of the others
        every = max(1, data.size // _SAMPLES[1][0])
        steps = np.abs(np.diff(np.sort(data.ravel()[::every].astype(np.float64))))
        steps = steps[steps > 0]  # not for NaN
        noise = float(np.median(steps)) if steps.size else math.inf
    with np.errstate(over="ignore", invalid="ignore"):
        off = np.abs(data.astype(np.float64) - float(np.nanmedian(data)))
        found = np.zeros(data.shape, np.uint8)
        for _ in range(_TURNS):
            rows, columns = np.nonzero(off > IMPOSSIBLE * noise)
            here, sharp, top = off[rows, columns], np.zeros(len(rows), np.bool_), np.ones(len(rows), np.bool_)
            for down, across in _NEXT:
                places = np.clip(rows + down, 0, data.shape[0] - 1), np.clip(columns + across, 0, data.shape[1] - 1)
                sharp |= off[places] < _SHARP * here
                top &= ~(off[places] * _SLOPE > here)
            if not (sharp & top).any():
                break
            found[rows[sharp & top], columns[sharp & top]] = 1
            off[found > 0] = np.nan
    return found if found.any() else None


def _alone(data: Image, noise: float, wild: Flags) -> Flags | None:
    """Return which pixels stand alone, with those that are known, None for an image of the sky."""
    if not 0.0 < noise < math.inf:  # most pixels equal the next: counts of few photons
        return None
    for sample, most in _SAMPLES:
        step = max(1, math.isqrt(data.size // sample))
        examined, found = flag_lone(data, wild, (noise, FAR, 0.0), step, np.zeros_like(wild))
        if found <= most * examined:
            return None
        noise = pixel_noise(data)
    for _ in range(_TURNS):
        more = np.zeros_like(wild)
        _, found = flag_lone(data, wild, (noise, _FAR_THEN, _NOISE_THEN), 1, more)
        if not found:
            break
        wild |= more
        noise = pixel_noise(np.where(wild, np.nan, data))
    return wild


def _plain_lone(
    data: Image, wild: Flags, limits: tuple[float, float, float], step: int, found: Flags
) -> tuple[int, int]:
    """Do what :func:`flag_lone` does."""
    padded = np.full((data.shape[0] + 2 * _REACH, data.shape[1] + 2 * _REACH), np.nan, data.dtype)
    inner = padded[_REACH:-_REACH, _REACH:-_REACH]
    inner[...] = np.where(np.isfinite(data) & (wild == 0), data, np.nan)
    first = step // 2
    rows, columns = np.nonzero(~np.isnan(inner[first::step, first::step]))
    rows, columns, count = first + step * rows, first + step * columns, 0
    for start in range(0, len(rows), AT_A_TIME):
        at = slice(start, start + AT_A_TIME)
        r, c = _plain_those_alone(padded, rows[at], columns[at], limits)
        found[r, c] = 1
        count += len(r)
    return len(rows), count


def _plain_those_alone(
    padded: Image, rows: Places, columns: Places, limits: tuple[float, float, float]
) -> tuple[Places, Places]:
    """Return which of some pixels :func:`_is_lone`."""
    noise, far, chance = limits
    beside, n = _plain_medians(_about(padded, rows, columns, _BESIDE))
    value = _about(padded, rows, columns, _HERE)[:, 0]
    off = np.abs(value - beside)
    looked = ~((n > 0) & (off <= ((1.0 - ALONG) * far - chance) * noise))
    rows, columns, value, beside = rows[looked], columns[looked], value[looked], beside[looked]
    around = _about(padded, rows, columns, _AROUND)
    middle, n = _plain_medians(around)
    scatter = MAD_TO_SIGMA * _plain_medians(np.abs(around - middle[:, None]))[0]
    height = np.abs(value - middle)
    along = np.where(value > middle, beside - middle, middle - beside)
    lone = (n >= _LEAST) & (height > far * np.maximum(noise, scatter)) & ~(along >= ALONG * height + chance * noise)
    return rows[lone], columns[lone]


def _about(padded: Image, rows: Places, columns: Places, steps: Places) -> Floats:
    """Return (n, k) what is so many steps (k, 2) from pixels of an image with margins."""
    found = padded[rows[:, None] + _REACH + steps[:, 0], columns[:, None] + _REACH + steps[:, 1]]
    return np.asarray(found, np.float64)


def _plain_medians(values: Floats) -> tuple[Floats, Places]:
    """Return (n,) the medians of (n, k) values without NaN, and how many these are."""
    ordered, each = np.sort(values, axis=1), np.arange(len(values))
    n = np.count_nonzero(~np.isnan(ordered), axis=1)
    lower, upper = ordered[each, np.maximum(n - 1, 0) // 2], ordered[each, n // 2]
    return np.where(n % 2 == 1, upper, 0.5 * (lower + upper)), n


@compiled_when_large(lambda data, _, __, step, ___: data.size // min(100, 2 * step * step), _plain_lone)
@njit(nogil=True, cache=True)
def flag_lone(
    data: Image, wild: Flags, limits: tuple[float, float, float], step: int, found: Flags
) -> tuple[int, int]:  # pragma: no cover - compiled
    """Flag pixels that are far off those about them.

    Parameters
    ----------
    data
        (ny, nx), NaN where invalid.
    wild
        (ny, nx), 1 where a pixel is known to be wild.
    limits
        1 sigma of the noise; how many of these are far; how many those next to a pixel may be off by chance.
    step
        Of rows and columns, only every so many are looked at.
    found
        (ny, nx), set to 1 where a pixel is wild that was not known to be.

    Returns
    -------
    Number of valid pixels that were looked at, and of those found.
    """
    ny, nx = data.shape
    near, around = np.empty(4), np.empty((2 * _REACH + 1) ** 2)
    examined = count = 0
    for r in range(step // 2, ny, step):
        for c in range(step // 2, nx, step):
            if not np.isfinite(data[r, c]) or wild[r, c]:
                continue
            examined += 1
            if _is_lone(data, wild, (r, c), limits, near, around):
                found[r, c] = 1
                count += 1
    return examined, count


@njit(nogil=True, cache=True, no_cpython_wrapper=True)
def _is_lone(  # noqa: PLR0917 - a compiled function takes positions only # pragma: no cover
    data: Image,
    wild: Flags,
    at: tuple[int, int],
    limits: tuple[float, float, float],
    near: Floats,
    around: Floats,
) -> bool:
    """Return whether a pixel is far off those about it; `near` and `around` are work space."""
    noise, far, chance = limits
    value = np.float64(data[at])
    n = np.int64(0)  # for a plain 0 the median would be compiled once more
    for down, across in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        n += _take(data, wild, at[0] + down, at[1] + across, near[n:])
    beside = _median(near, n) if n else np.nan
    if n and abs(value - beside) <= ((1.0 - ALONG) * far - chance) * noise:  # most pixels of most images
        return False
    n = np.int64(0)
    for down in range(-_REACH, _REACH + 1):
        for across in range(-_REACH, _REACH + 1):
            if down or across:
                n += _take(data, wild, at[0] + down, at[1] + across, around[n:])
    if n < _LEAST:
        return False
    middle = _median(around, n)
    for k in range(n):
        around[k] = abs(around[k] - middle)
    scatter = MAD_TO_SIGMA * _median(around, n)
    height = abs(value - middle)
    along = beside - middle if value > middle else middle - beside
    return height > far * max(noise, scatter) and not along >= ALONG * height + chance * noise


@njit(nogil=True, cache=True, inline="always")
def _take(data: Image, wild: Flags, r: int, c: int, out: Floats) -> int:  # pragma: no cover - compiled
    """Put a pixel, where it is a valid one, into the first place; return whether it is."""
    ny, nx = data.shape
    if not (0 <= r < ny and 0 <= c < nx) or wild[r, c] or not np.isfinite(data[r, c]):
        return 0
    out[0] = data[r, c]
    return 1


@njit(nogil=True, cache=True, no_cpython_wrapper=True)
def _median(values: Floats, n: int) -> float:  # pragma: no cover - compiled
    """Return the median of the first n values, which are sorted in place."""
    for k in range(1, n):
        value, j = values[k], k
        while j > 0 and values[j - 1] > value:
            values[j] = values[j - 1]
            j -= 1
        values[j] = value
    return values[n // 2] if n % 2 else 0.5 * (values[n // 2 - 1] + values[n // 2])
