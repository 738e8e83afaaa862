"""Isolated pixels: bright ones far sharper than any star (cosmic rays), and dark ones (dead pixels) on an even sky."""

from functools import reduce

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.process.compilation import njit
from levelmatch_core.process.small_work import bands, compiled_when_large

Image = NDArray[np.floating]
Flags = NDArray[np.uint8]
Places = NDArray[np.int64]

ALONE = 7.0
"""A pixel is wild if it is this many standard deviations of the noise above those at a distance of two pixels ..."""
FLANK = 0.1
"""... and at least three of its four neighbours have less than this fraction of its height, apart from noise: those of
a star as narrow as the pixel itself, centred on it, have more."""
FLANK_NOISE = 2.5
"""Allowance for noise in this comparison, standard deviations."""
FLANKS = 0.25
"""The three fainter neighbours together have less than this fraction of its height, noise included: those of such a
star have 0.6."""
DEEP = 30.0
"""A dark pixel is wild (dead) if it is this many standard deviations below those about it: of gaps between the stars of
a crowd some are a third as deep."""


def _plain_wild(data: Image, noise: float, wild: Flags) -> None:
    """Do what :func:`flag_wild` does, in bands of rows."""
    inner = bands(data.shape[0] - 4, data.shape[1]) if min(data.shape) > 4 else []
    found = [_plain_isolated(data, noise, rows) for rows in inner]
    for r, c, highest in found:
        wild[r, c] = highest
    for r, c, highest in found:
        for i, k in zip(r[~highest].tolist(), c[~highest].tolist(), strict=True):
            if wild[i, k - 1] | wild[i, k + 1] | wild[i - 1, k] | wild[i + 1, k]:
                wild[i, k] = 1


def _plain_isolated(data: Image, noise: float, rows: slice) -> tuple[Places, Places, NDArray[np.bool_]]:
    """Return rows and columns of isolated pixels of some rows, and whether each is no lower than the next ones.

    The first row that has one at a distance of two is the zeroth.
    """
    start, stop, nx = rows.start + 2, rows.stop + 2, data.shape[1]
    low, high = _plain_ordered(data[start:stop, : nx - 4], data[start:stop, 4:])
    other, upper = _plain_ordered(data[start - 2 : stop - 2, 2 : nx - 2], data[start + 2 : stop + 2, 2 : nx - 2])
    sky = np.where(low <= other, _plain_ordered(other, high)[0], _plain_ordered(low, upper)[0])
    r, c = np.nonzero(np.abs(data[start:stop, 2 : nx - 2].astype(np.float64) - sky) > ALONE * noise)
    level, r, c = sky[r, c].astype(np.float64), r + start, c + 2
    value = data[r, c].astype(np.float64)
    sign = np.where(value > level, 1.0, -1.0)
    next_ones = [data[r + dr, c + dc] for dr, dc in ((0, -1), (0, 1), (-1, 0), (1, 0))]
    left, right, below, above = beside = sign * np.array(next_ones)
    bright, height = sign * level, sign * value - sign * level
    most = reduce(_plain_higher, beside)
    three = left + right + below + above - most - 3.0 * bright
    limit = bright + FLANK * height + FLANK_NOISE * noise
    alone = (np.count_nonzero(beside < limit, axis=0) >= 3) & ~(three > FLANKS * height)
    depth, ends = level - value, [data[r + dr, c + dc] for dr, dc in ((0, -2), (0, 2), (-2, 0), (2, 0))]
    about = reduce(_plain_higher, next_ones, reduce(_plain_higher, ends))
    dead = (depth > DEEP * noise) & (about - level <= FLANKS * depth + 2.0 * FLANK_NOISE * noise)
    alone &= (sign > 0.0) | dead
    return r[alone], c[alone], ~(sign * value < most)[alone]


def _plain_higher(a: Image, b: Image) -> Image:
    """Return the higher of two; the first where either is NaN."""
    return np.where(b > a, b, a)


def _plain_ordered(a: Image, b: Image) -> tuple[Image, Image]:
    """Return the lower and the higher of two; as compiled code has it, the first where either is NaN."""
    return np.where(b < a, b, a), _plain_higher(a, b)


@compiled_when_large(lambda data, *_: data.size // 20, _plain_wild)
@njit(nogil=True, cache=True)
def flag_wild(data: Image, noise: float, wild: Flags) -> None:  # pragma: no cover - compiled
    """Flag isolated pixels (see :data:`ALONE`), also those next to a wild one that stands out more.

    Dark ones likewise, where all about them is even.
    """
    ny, nx = data.shape
    limit = ALONE * noise
    for turn in range(2):
        for r in range(2, ny - 2):
            for c in range(2, nx - 2):
                sky = _second_lowest(data[r, c - 2], data[r, c + 2], data[r - 2, c], data[r + 2, c])
                if abs(np.float64(data[r, c]) - sky) > limit:  # not for NaN
                    _flag(data, r, c, sky, noise, turn, wild)


@njit(nogil=True, cache=True, no_cpython_wrapper=True)
def _flag(  # noqa: PLR0917 - a compiled function takes positions only # pragma: no cover
    data: Image, r: int, c: int, sky: float, noise: float, turn: int, wild: Flags
) -> None:
    """Flag a pixel that is off its sky in the first or the second turn, if it is isolated."""
    value = np.float64(data[r, c])
    sign = 1.0 if value > sky else -1.0
    left, right = sign * data[r, c - 1], sign * data[r, c + 1]
    below, above = sign * data[r - 1, c], sign * data[r + 1, c]
    if not _stands_out(sign * value, sign * sky, (left, right, below, above), noise):
        return
    if sign < 0.0 and not _is_dead(data, r, c, sky, noise):
        return
    if turn == 0:
        wild[r, c] = not sign * value < max(left, right, below, above)
    elif wild[r, c - 1] | wild[r, c + 1] | wild[r - 1, c] | wild[r + 1, c]:
        wild[r, c] = 1


@njit(nogil=True, cache=True, no_cpython_wrapper=True)
def _is_dead(data: Image, r: int, c: int, sky: float, noise: float) -> bool:  # pragma: no cover - compiled
    """Return whether a dark pixel is far below all others about it, which are alike: a gap between stars is not."""
    depth = sky - np.float64(data[r, c])
    most = max(data[r, c - 2], data[r, c + 2], data[r - 2, c], data[r + 2, c])
    most = max(most, data[r, c - 1], data[r, c + 1], data[r - 1, c], data[r + 1, c])
    return bool(depth > DEEP * noise and most - sky <= FLANKS * depth + 2.0 * FLANK_NOISE * noise)


@njit(nogil=True, cache=True, inline="always")
def _stands_out(  # pragma: no cover - compiled
    value: float, sky: float, beside: tuple[float, float, float, float], noise: float
) -> bool:
    """Return whether a bright pixel has at least three neighbours that are not."""
    height = value - sky
    limit = sky + FLANK * height + FLANK_NOISE * noise
    left, right, below, above = beside
    dark = int(left < limit) + int(right < limit) + int(below < limit) + int(above < limit)
    # of a faint star each neighbour alone is lost in the noise, three together less so; a hit may be of two pixels
    three = left + right + below + above - max(left, right, below, above) - 3.0 * sky
    return dark >= 3 and not three > FLANKS * height


@njit(nogil=True, cache=True, inline="always")
def _second_lowest(a: float, b: float, c: float, d: float) -> float:  # pragma: no cover - compiled
    """Return the second lowest of four values."""
    low, other = min(a, b), min(c, d)
    return min(other, max(a, b)) if low <= other else min(low, max(c, d))
