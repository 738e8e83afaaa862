"""Images that cannot be exposures of the sky by what their pixels hold: masks, weights, labels without a telling name.

The sky has noise: of its values those next to the most frequent one are frequent, too, and a pixel rarely has the value
of the next one. Masks hold 0 and powers of two, whatever lies between; weights, coverage and labels hold few values,
each over a whole area. Counts of few photons hold few values as well, but scattered, and the rarer the larger.

Some pairs of rows tell nearly always; an image that they put in doubt is looked at as a whole.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from levelmatch_core.images.contents.blanks import HUGE, SENTINELS
from levelmatch_core.images.fits_headers import FAULTS, Hdu, quiet
from levelmatch_core.images.planes import image_in
from levelmatch_core.images.storage.packing import PACKING_FAULTS, unpacked
from levelmatch_core.images.storage.stored_arrays import read_rows

Values = NDArray[np.float64]

FEW = 8
"""Most values of an image of areas, none of which is told from the next by noise."""
MOST_FLAGS = 256
"""Most values of a mask: the bits, and how they go together."""
_MANY = 64
"""A mask of more values, those of six bits, is told by its other bits than the first."""
LEAST_PIXELS = 256
"""An image of fewer is too small to tell."""

_SAMPLED = 16
"""Pairs of rows that are looked at first."""
_NOISY = 64
"""A row of more values that are not whole is of no mask."""
_RICH = 4096
"""A sample of more values is of no mask."""
_ALONE = 0.5
"""Part of a mask's pixels, without those of its most frequent value, that have no flag or one."""
_AREAS, _LABELS = 0.6, 0.8
"""Part of the pixels, without those of the most frequent value, that a next one equals: in areas, in labels."""
_BACKGROUND = 0.3
"""Part of an image of labels that is none."""
_CUT = 3
"""Noise that was cut off has more values than so many."""
_CERTAIN = 5.0
"""Counts are apart by more than chance beyond so many standard deviations."""
_TAIL, _SOLID, _DENSE = 0.05, 0.9, 5
"""Part of the pixels beyond each end of what must be solid; part of the values there that must occur, and more than so
many of them."""
_SHOWN = 4


@dataclass(frozen=True)
class _Histogram:
    """The values of an image, without those that stand for nothing."""

    values: Values
    """Ascending."""
    counts: NDArray[np.int64]

    @property
    def mode(self) -> int:
        """Index of the most frequent value."""
        return int(self.counts.argmax())

    @property
    def steps(self) -> Values:
        """The values in units of their least distance, from the most frequent one on."""
        return np.rint((self.values - self.values[self.mode]) / np.diff(self.values).min())

    def falls_off(self) -> bool:
        """Return whether none is more frequent than those between it and the most frequent one, as with noise.

        Of many values the largest may be that of saturated pixels, and single ones may be missing, as where whole
        numbers were multiplied.
        """
        steps, many = self.steps, len(self.values) > FEW
        end = -1 if many else None
        for side in (slice(self.mode, end), slice(self.mode, None, -1)):
            counts, at = self.counts[side], np.abs(steps[side])
            gaps = np.concatenate([[False], np.diff(at) > (2 if many else 1)])
            least = np.minimum.accumulate(np.where(gaps, 0, counts))[:-1]
            later = counts[1:]
            if np.any(later - np.where(gaps[1:], 0, least) > _CERTAIN * np.sqrt(later + least + 1)):
                return False
        return True

    def is_cut(self) -> bool:
        """Return whether the rest is noise without the least value, at which it was cut off."""
        rest = _Histogram(self.values[1:], self.counts[1:])
        return len(rest.values) > _CUT and rest.falls_off()

    def is_solid(self) -> bool:
        """Return whether nearly all pixels have values without gaps between them, and these are many."""
        counts = np.where(np.arange(len(self.values)) == self.mode, 0, self.counts)
        part = np.cumsum(counts) / counts.sum()
        first, last = np.searchsorted(part, [_TAIL, 1 - _TAIL])
        steps = self.steps[first : last + 1]
        return len(steps) > _DENSE and len(steps) > _SOLID * (steps[-1] - steps[0] + 1)


def no_sky(path: Path, hdu: Hdu) -> str:
    """Return why an image of a file can be no exposure of the sky; '' where it may be one, or cannot be read.

    Parameters
    ----------
    path
        The file, plain or packed.
    hdu
        The image in it.
    """
    try:
        with path.open("rb") as file, quiet():
            if _has_noise(file, hdu):
                return ""
            image = _whole(file, hdu)
    except (*FAULTS, *PACKING_FAULTS, OSError):  # reading it to be matched says what is wrong, by name
        return ""
    return "" if image is None else reason_of(image)


def reason_of(image: NDArray[np.generic]) -> str:
    """Return why an image (rows, columns) can be no exposure of the sky by what its pixels hold; '' where it may be."""
    if image.size < LEAST_PIXELS:  # none at all, too
        return ""
    image = _unsigned(image)
    if image.dtype.kind not in "fu":
        return ""
    valid = np.isfinite(image) & (np.abs(image) < HUGE) & ~np.isin(image, SENTINELS)
    values, counts = np.unique(image[valid], return_counts=True)
    if not 2 <= len(values) <= _RICH:  # of a constant image reading says so
        return ""
    found = _Histogram(values.astype(np.float64), counts)
    shown = ", ".join(f"{value:g}" for value in found.values[:_SHOWN]) + (", ..." if len(values) > _SHOWN else "")
    if len(values) == 2:
        return f"its pixels hold nothing but {shown}, as those of a mask or of weights"
    kind = _kind(found, _alike(image, valid, found))
    return f"its pixels hold {len(values)} values ({shown}), {kind}" if kind else ""


def _kind(found: _Histogram, alike: float) -> str:
    """Return what three values and more show that are not those of the sky, '' for nothing."""
    whole = bool(np.all(found.values == np.rint(found.values)))
    if whole and _are_bits(found) and (alike > _AREAS or not found.is_solid()):
        return "mostly 0 and powers of two, as those of a mask"
    if len(found.values) <= FEW and alike > _AREAS:
        return "each over whole areas, as those of weights or a mask"
    is_background = found.counts[found.mode] > _BACKGROUND * found.counts.sum()
    if whole and is_background and alike > _LABELS and not found.falls_off():
        return "each over an area, as labels of sources do"
    return ""


def _unsigned(image: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return an image of integers, of which some are negative and none but those of the highest bit, without sign."""
    if image.dtype.kind != "i":
        return image
    least = int(image.min())
    if least >= 0 or least == -(1 << (8 * image.itemsize - 1)):
        return image.view(f"u{image.dtype.itemsize}")
    return image.astype(np.float64)


def _are_bits(found: _Histogram) -> bool:
    """Return whether whole numbers are 0 and powers of two most of all, and not as noise would have it."""
    if len(found.values) > MOST_FLAGS or found.values[0] < 0:
        return False
    single = (found.values == 0) | (np.exp2(np.rint(np.log2(np.maximum(found.values, 1)))) == found.values)
    others = np.arange(len(found.values)) != found.mode
    if len(found.values) > _MANY:  # of bright stars on next to no sky most pixels that are not 0 are 1
        others &= found.values > 1
    part = found.counts[single & others].sum() / found.counts[others].sum()
    return bool(single[found.mode]) and part > _ALONE and not (found.falls_off() or found.is_cut())


def _alike(image: NDArray[np.generic], valid: NDArray[np.bool_], found: _Histogram) -> float:
    """Return the part of the pixels, without those of the most frequent value, that a next one equals."""
    used = valid & (image != image.dtype.type(found.values[found.mode]))
    parts = []
    for axis in (0, 1):
        before = tuple(slice(None, -1) if one == axis else slice(None) for one in (0, 1))
        after = tuple(slice(1, None) if one == axis else slice(None) for one in (0, 1))
        pairs = used[before] & valid[after]
        same = pairs & (image[before] == image[after])
        parts.append(float(np.count_nonzero(same)) / max(int(np.count_nonzero(pairs)), 1))
    return max(parts)


# -- reading -----------------------------------------------------------------------------------------------------------
def _has_noise(file: BinaryIO, hdu: Hdu) -> bool:
    """Return whether some rows of an image, where it is stored plainly, are those of the sky."""
    if hdu.plane is None:
        return False
    middle = read_rows(file, hdu, [hdu.plane[0] // 2])
    if middle is None:
        return False
    if middle.dtype.kind == "f":
        fractions = middle[np.isfinite(middle) & (middle != np.rint(middle))]
        if np.unique(fractions).size > _NOISY:
            return True
    step = max(2, hdu.plane[0] // _SAMPLED)
    pairs = [row + one for row in range(step // 2 - 1, hdu.plane[0] - 1, step) for one in (0, 1)]
    rows = read_rows(file, hdu, pairs)
    if rows is None:
        return False
    values = np.unique(rows[np.isfinite(rows)])
    return len(values) > FEW and (len(values) > _RICH or not reason_of(rows))


def _whole(file: BinaryIO, hdu: Hdu) -> NDArray[np.generic] | None:
    file.seek(0)
    with fits.open(unpacked(file)[0], mode="readonly", memmap=False) as hdus:
        values = np.asarray(hdus[hdu.index].data)
    image = image_in(values, hdu.cube_plane)
    if image.ndim != 2:
        return None
    return image.astype(image.dtype.newbyteorder("="), copy=False)
