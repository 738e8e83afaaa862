"""What every picture of a mosaic shows: before, after, what was changed, and the outlines of what was matched."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from matplotlib.colors import AsinhNorm
from numpy.typing import NDArray

from levelmatch_core.matching.corrections import FieldMatch
from levelmatch_core.products.blocks import block_mean
from levelmatch_core.sky.cutouts import CutoutRecord

Outline = tuple[tuple[float, float], ...]
"""(x, y) of the corners of a footprint, in order."""

MOST_OUTLINES = 400
"""Of more members, outlines would hide what they frame."""

_UNCHANGED = 1e-6
"""Changes below this fraction of the values are rounding: the mosaics are in single precision."""


@dataclass(frozen=True)
class MosaicViews:
    """A mosaic at the size at which it is shown, in the data's unit."""

    before: NDArray[np.float64]
    """(ny, nx) minus its median, NaN where there are no data."""
    after: NDArray[np.float64]
    """The same with corrections."""
    change: NDArray[np.float64]
    """What was subtracted, minus its median: before - after."""
    norm: AsinhNorm
    """The stretch of before and after."""
    limit: float
    """The colours of the change go from minus this to this; 0 where the mosaic has not changed."""
    outlines: tuple[Outline, ...] = ()
    """Of the members of the last stage, pixels of the views."""

    @property
    def shades(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Before, after and change as colours from 0 to 1."""
        before, after = (np.ma.filled(self.norm(image), np.nan) for image in (self.before, self.after))
        return before, after, 0.5 + self.change / (2 * self.limit) if self.limit else 0.5 + 0 * self.change


def views_of_file(
    mosaic: Path, side: int, match: FieldMatch | None = None, *, sampled: int = 0
) -> tuple[MosaicViews, WCS, str]:
    """Return what is shown of a mosaic's FITS file, its WCS at that size, and its unit.

    Parameters
    ----------
    mosaic
        With the images SCI and BEFORE.
    side
        Longest side of the views, pixels: larger mosaics are averaged in blocks.
    match
        The field, for the outlines; None for none.
    sampled
        If given, only about so many by so many pixels of each block are read.
    """
    with fits.open(mosaic, mode="readonly", memmap=True) as hdus:
        header = hdus["SCI"].header
        step = max(1, -(-max(hdus["SCI"].shape) // side))
        every = max(1, step // sampled) if sampled else 1
        pixels = (hdus[name].data[::every, ::every] for name in ("SCI", "BEFORE"))
        after, before = (block_mean(each, -(-step // every)) for each in pixels)
    wcs = WCS(header, naxis=2)
    outlines = () if match is None else _outlines(match, wcs, step)
    return views_of(before, after, outlines), wcs[::step, ::step], str(header.get("BUNIT", ""))


def views_of(
    before: NDArray[np.floating], after: NDArray[np.floating], outlines: Sequence[Outline] = (), step: int = 1
) -> MosaicViews:
    """Return what is shown of a mosaic in memory, averaged in blocks of `step` pixels."""
    before, after = block_mean(before, step), block_mean(after, step)
    change = before - after
    change = change - np.nanmedian(change)
    seen = np.abs(change[np.isfinite(change)])
    limit = float(np.percentile(seen, 99.5)) if seen.size else 0.0
    if limit <= _UNCHANGED * float(np.nanmax(np.abs(after))):
        limit = 0.0
    before, after = before - np.nanmedian(before), after - np.nanmedian(after)
    return MosaicViews(before, after, change, stretch(after), limit, tuple(outlines))


def _outlines(match: FieldMatch, wcs: WCS, step: int) -> tuple[Outline, ...]:
    """Return the outlines of the last stage's members, or of the exposures without one, on a mosaic's blocks.

    A wide field is shown on another map than that of its members: it gets none.
    """
    cutouts = _outlined(match)
    # the mosaic is a part of the grid
    dx, dy = wcs.wcs.crpix - match.grid.wcs().wcs.crpix
    middle = (step - 1) / 2
    return tuple(
        tuple(((x + dx - middle) / step, (y + dy - middle) / step) for x, y in cutout.outline) for cutout in cutouts
    )


def _outlined(match: FieldMatch) -> list[CutoutRecord]:
    """Return what is outlined, which is nothing where it would be more than the eye can tell apart."""
    if match.patches:
        return []
    members = match.stages[-1].members if match.stages else ()
    cutouts = [member.cutout for member in members] or list(match.cutouts.values())
    return cutouts if len(cutouts) <= MOST_OUTLINES else []


def with_outlines_only(match: FieldMatch) -> FieldMatch | None:
    """Return a field with no more than its outlines need, to be sent to another process; None if there are none."""
    if not _outlined(match):
        return None
    stages = [match.stages[-1].model_copy(update={"solutions": ()})] if match.stages else []
    lean = match.model_copy(update={"stages": tuple(stages), "corrections": (), "failures": (), "notes": ()})
    return lean.model_copy(update={"cutouts": {}}) if stages and stages[0].members else lean


def stretch(image: NDArray[np.float64]) -> AsinhNorm:
    """Return a stretch that is linear within the sky's scatter, and compresses what is bright.

    Steps of a part of the scatter are seen, and the bright is not cut off.
    """
    values = image[np.isfinite(image)]
    low, quarter, half, high = np.percentile(values, [0.5, 16, 50, 99.5])
    scatter = max(float(half - quarter), 1e-6 * float(high - low), np.finfo(float).tiny)
    return AsinhNorm(linear_width=0.5 * scatter, vmin=low, vmax=high if high > low else low + 1)
