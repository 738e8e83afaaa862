"""Blank pixels: values that stand for "nothing was seen", found by how they lie.

Resampled images hold a constant, mostly 0, where no input reached; others flag bad pixels by a huge number, or by one
such as -32768. A constant is blank where it runs along an image's edge or fills more than 1 % of it, and is no value
that the data take by themselves. Whole numbers do that: next to a count of 0 there are counts of 1. So does 0 in rates
of few photons, though other values are many: it lies scattered, next below the others. Of such a value only what fills
a solid block is blank.

Values are found by a sample of the pixels and by the edges, and the pixels by one comparison.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from levelmatch_core.process.compilation import njit
from levelmatch_core.process.small_work import compiled_when_large

Image = NDArray[np.generic]
Mask = NDArray[np.bool_]

HUGE = 9.9e29
"""Values of this size and beyond are blank: float32 rounds 1e30."""
SENTINELS = (-999999.0, -99999.0, -9999.0, -32768.0, -32767.0, -2147483648.0)
"""Values that stand for bad pixels, if they lie far below all others."""

_SAMPLE = 1 << 14
_SPREAD, _TO_BINS = np.uint64(0x9E3779B97F4A7C15), np.uint64(52)
"""A multiplicative hash into 4,096 bins (Knuth, The Art of Computer Programming, vol. 3, 6.4)."""
_RUN = 8
"""Equal pixels in a row at an image's edge that make a value suspect."""
_SHORTEST = 3
"""Pixels of an edge of a narrow image that make a value suspect if all are equal: one always is equal to itself."""
_PART = 0.01
"""Part of an image that a constant fills to be blank wherever it lies."""
_NATURAL = 0.005
"""A value is one of many where one of the next ones occurs more often than this part of it."""
_NEIGHBOURS = 3
_GAP = 20
"""A value more than so many times the usual step away from the next ones is none of many."""
_ABOVE = 0.02
"""A value at an edge that fewer others than this part exceed may be saturation."""
_FAR = 100.0
_FEW_PHOTONS, _FEW_PHOTONS_GAP = 0.1, 10.0
"""Part of the pixels without a photon beyond which these are few, and how far below all others their value may then
lie, in units of the distance from the others' first percentile to their median."""
_SEVERAL, _TWO = 0.19, 0.3
"""Least part of Poisson's numbers that are more than 1.5 times their median, and how much less of it is believed."""
_CLUSTERED = 0.3
"""Excess of equal neighbours, relative to what chance leaves, beyond which a value lies in areas."""
_BLOCK = 16
"""Side of a block, pixels, that no whole numbers fill by chance."""
_BY_CHANCE = 0.1
"""So many blocks without a photon are no area that was not seen."""
_OPENING = 7
"""What is blank in whole numbers is made of squares of this side."""


@dataclass(frozen=True)
class Blanks:
    """The values of an image that are blank."""

    values: tuple[float, ...] = ()
    """Wherever they occur."""
    solid: tuple[float, ...] = ()
    """In solid areas only."""

    @property
    def all_values(self) -> tuple[float, ...]:
        """All of them: pixels of these values in a corrected file are blank."""
        return (*self.values, *self.solid)

    def mask_of(self, image: Image) -> Mask | None:
        """Return where an image is blank, None for nowhere; huge values are not looked for."""
        mask = None
        for value in self.all_values:
            equal = np.asarray(image == value)
            if value in self.solid:
                equal = _opened(equal)
            mask = equal if mask is None else mask | equal
        return mask


def find_blanks(image: Image, rule: str | float, *, zero: bool = False) -> Blanks:
    """Return the values of an image that are blank.

    Parameters
    ----------
    image
        (rows, columns), the data's unit.
    rule
        The setting `blank`: "auto", "none" or the value.
    zero
        Whether the instrument's 0 is blank, whatever lies where.
    """
    always = always_blank(zero=zero)
    if rule == "none":
        return Blanks(always)
    if not isinstance(rule, str):
        return Blanks((*always, float(image.dtype.type(rule)) if image.dtype.kind == "f" else rule))
    with np.errstate(invalid="ignore"):
        return _found(image, always)


def always_blank(*, zero: bool) -> tuple[float, ...]:
    """Return the values that are blank whatever lies where: the instrument's 0, if that is."""
    return (0.0,) if zero else ()


def _plain_out(image: NDArray[np.floating], masked: Mask, largest: float) -> tuple[int, int]:
    """Do what :func:`blank_out` does."""
    bad = ~(np.abs(image) < largest)  # or NaN
    huge = int(np.count_nonzero(bad & ~np.isnan(image)))
    if masked.size == image.size:
        bad |= masked
    image[bad] = np.nan
    return image.size - int(np.count_nonzero(bad)), huge


@compiled_when_large(lambda image, *_: image.size // 100, _plain_out)
@njit(nogil=True, cache=True)
def blank_out(  # pragma: no cover - compiled
    image: NDArray[np.floating], masked: Mask, largest: float
) -> tuple[int, int]:
    """Make NaN of the pixels that are masked, or not below `largest`, in place.

    Parameters
    ----------
    image
        (rows, columns).
    masked
        The same shape; of one pixel where none is masked.
    largest
        Of the image's type.

    Returns
    -------
    The number of pixels that are left, and of those that are too large.
    """
    left = huge = 0
    some = masked.size == image.size
    for r in range(image.shape[0]):
        for k in range(image.shape[1]):
            value = image[r, k]
            too_large = not abs(value) < largest  # or NaN
            huge += int(too_large and not np.isnan(value))
            bad = too_large | (masked[r, k] if some else False)
            left += int(not bad)
            image[r, k] = np.nan if bad else value
    return left, huge


def nothing_left(shown: str, blanks: Blanks, n_blank: int, size: int) -> str:
    """Return what to say of an image of which no pixel can be used."""
    if n_blank == size and len(blanks.all_values) == 1:
        return f"{shown}: no usable pixel: all are {blanks.all_values[0]:g}, as of a dead chip; leave it out"
    return f"{shown}: no usable pixel: all are masked, blank or not finite"


def _found(image: Image, always: tuple[float, ...]) -> Blanks:
    step = max(1, math.isqrt(image.size // _SAMPLE)) | 1
    sample = image[step // 2 :: step, step // 2 :: step].astype(np.float64).ravel()
    sample = sample[np.abs(sample) < HUGE]
    suspects = _along_edges(image)
    values, counts = np.zeros(0), np.zeros(0, np.int64)
    if suspects or _may_repeat(sample):
        values, counts = np.unique(sample, return_counts=True)
        if len(values) > 1:
            suspects |= set(values[counts > _many(sample)].tolist())
        elif sample.size > 1:  # nearly all of it
            suspects.add(float(values[0]))
    found, solid = [], []
    long_runs: set[float] | None = None
    for value in sorted(suspects.difference(always)):
        if _is_natural(value, values, counts) or _is_of_no_photon(image, value, sample):
            if long_runs is None:  # every block crosses one of these rows
                long_runs = _runs(image[_BLOCK - 1 :: _BLOCK].ravel(), _BLOCK)
            if value in long_runs and _has_blocks(image, value):
                solid.append(value)
        elif _is_blank(value, values, counts, sample.size):
            found.append(value)
    lowest = _sentinel(image, sample)
    found += [value for value in lowest if value not in (*found, *always)]
    return Blanks((*always, *found), tuple(solid))


def _many(sample: NDArray[np.float64]) -> float:
    """Return the number of equal values in a sample beyond which they are suspect."""
    return max(_PART * sample.size, _RUN)


def _may_repeat(sample: NDArray[np.float64]) -> bool:
    """Return False where no value is suspect, which is seen sooner than by sorting: equal values share a bin."""
    if sample.size <= _RUN:
        return True
    words = (sample + 0.0).view(np.uint64)  # -0 becomes 0
    bins = np.bincount((words * _SPREAD >> _TO_BINS).view(np.int64))
    return bool(bins.max() > _many(sample))


def _along_edges(image: Image) -> set[float]:
    """Return the values that run along an edge of an image."""
    found: set[float] = set()
    for edge in (image[0], image[-1], image[:, 0], image[:, -1]):
        line = edge.astype(np.float64)
        if len(line) >= _SHORTEST and (line[1:] == line[:-1]).any():
            found |= _runs(line, min(_RUN, len(line)))
    return found


def _runs(line: NDArray[np.generic], length: int) -> set[float]:
    """Return the values that occur so often in a row."""
    ends = np.concatenate([[-1], np.flatnonzero(line[1:] != line[:-1]), [len(line) - 1]])
    runs = np.flatnonzero(np.diff(ends) >= length)
    return {value for value in map(float, line[ends[runs + 1]]) if abs(value) < HUGE}


def _is_natural(value: float, values: NDArray[np.float64], counts: NDArray[np.int64]) -> bool:
    """Return whether data take a value by themselves: one of the next values is not much rarer."""
    at = int(np.searchsorted(values, value))
    here = int(counts[at]) if at < len(values) and values[at] == value else 0
    after = at + 1 if here else at
    near = _GAP * float(np.median(np.diff(values))) if len(values) > 1 else 0.0
    places = [*range(max(0, at - _NEIGHBOURS), at), *range(after, min(after + _NEIGHBOURS, len(values)))]
    beside = [counts[place] for place in places if abs(values[place] - value) <= near]
    return bool(beside) and max(beside) >= max(3, _NATURAL * here)


def _is_of_no_photon(image: Image, value: float, sample: NDArray[np.float64]) -> bool:
    """Return whether a value is that of pixels which no photon hit: the least one, near the next, and scattered."""
    others = sample[sample != value]
    part = 1 - others.size / sample.size
    if part <= _PART or others.size == 0 or others.min() < value:
        return False
    low, middle = np.percentile(others, [1, 50]) - value
    near = _FEW_PHOTONS_GAP if part > _FEW_PHOTONS else 1.0
    several = min(
        _SEVERAL, -math.log(part) / 2
    )  # Poisson: where a part of exp(-m) has none, m / 2 of few others have two
    if low > near * (middle - low) or np.mean(others - value > 1.5 * middle) < _TWO * several:
        return False
    return is_scattered(image, value)


def is_scattered(image: Image, value: float) -> bool:
    """Return whether pixels have a value whatever the one before has, in most blocks that it does not fill.

    What lies in areas follows itself; every other column, row or pixel (of one colour of a camera) never does.
    """
    rows, columns = (size // _BLOCK for size in image.shape)
    if min(rows, columns) < 1:
        return False
    equal = np.asarray(image[: rows * _BLOCK, : columns * _BLOCK] == value).reshape(rows, _BLOCK, columns, _BLOCK)
    part = equal.mean(axis=(1, 3))
    for before, after in ((equal[..., :-1], equal[..., 1:]), (equal[:, :-1], equal[:, 1:])):
        number, both = before.sum(axis=(1, 3)), (before & after).sum(axis=(1, 3))
        mixed = (part < 1) & (number > 0)
        if not mixed.any():
            return False
        if abs(np.median((both[mixed] / number[mixed] - part[mixed]) / (1 - part[mixed]))) >= _CLUSTERED:
            return False
    return True


def _is_blank(value: float, values: NDArray[np.float64], counts: NDArray[np.int64], size: int) -> bool:
    """Return whether a value that is none of many is blank: it is frequent, or not above all others (saturation)."""
    at = int(np.searchsorted(values, value))
    here = int(counts[at]) if at < len(values) and values[at] == value else 0
    if here == size or here > max(_PART * size, _RUN):
        return True
    above = int(counts[at:].sum()) - here
    return above > _ABOVE * (size - here)


def _has_blocks(image: Image, value: float) -> bool:
    """Return whether a value fills solid blocks: 1 % of an image, or one at its edge."""
    rows, columns = (size // _BLOCK for size in image.shape)
    if min(rows, columns) < 1:
        return False
    equal = np.asarray(image[: rows * _BLOCK, : columns * _BLOCK] == value)
    part = equal.reshape(rows, _BLOCK, columns, _BLOCK).mean(axis=(1, 3))
    solid, mixed = part == 1, part[part < 1]
    if mixed.size and solid.size * float(np.median(mixed)) ** _BLOCK**2 > _BY_CHANCE:
        return False
    at_edge = solid[0].any() or solid[-1].any() or solid[:, 0].any() or solid[:, -1].any()
    return bool(at_edge or solid.mean() > _PART)


def _opened(equal: Mask) -> Mask:
    """Return what of a mask is made of whole squares; beyond the edge all is taken to be in it."""
    inside = ndimage.minimum_filter(equal, size=_OPENING, mode="constant", cval=1)
    return np.asarray(ndimage.maximum_filter(inside, size=_OPENING, mode="constant", cval=0)) & equal


def _sentinel(image: Image, sample: NDArray[np.float64]) -> tuple[float, ...]:
    """Return the least value where it is a known sentinel far below all others."""
    if sample.size == 0:
        return ()
    lowest = float(np.fmin.reduce(image, axis=None))
    if lowest not in SENTINELS:
        return ()
    centre = float(np.median(sample))
    scatter = float(np.median(np.abs(sample - centre)))
    others = sample[sample != lowest]
    low = float(others.min()) if others.size else centre
    return (lowest,) if low - lowest > _FAR * scatter and centre - lowest > _FAR * scatter else ()
