"""How well a match recovers the truth, measured on the files: the correction is input minus corrected image."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray
from pydantic import Field as Described

from levelmatch_core.errors import NoUsablePixelsError, UsageError
from levelmatch_core.records import Record
from levelmatch_core.simulate.truth import TrueExposure, Truth
from levelmatch_core.simulate.write import inside

Array = NDArray[np.float64]

LATTICE = 32
"""Number of samples along each axis of an image, for planes; they are spread evenly over the image."""


class Recovery(Record):
    """The errors of a match relative to the truth, after removal of the freedom of the gauge."""

    rms: float = Described(description="data unit")
    worst: float = Described(description="largest rms of a single exposure, data unit")
    worst_name: str
    exposures: int
    components: int


@dataclass(frozen=True)
class Residuals:
    """Correction minus truth at some of the pixels of an exposure."""

    values: Array
    """(n,), data unit."""
    ra: Array
    """(n,), degrees."""
    dec: Array
    """(n,), degrees."""


def score(
    truth: Truth, corrected: Path, inputs: Path, components: Mapping[str, str | int], *, planes: bool
) -> Recovery:
    """Compare the corrections that a match subtracted with the planes that were added.

    Parameters
    ----------
    truth
        The truth of the simulated program.
    corrected
        Folder of the corrected exposures, which have the names of the inputs.
    inputs
        The simulated folder.
    components
        Exposure name (as in the truth) -> label of its component. Other exposures are ignored.
    planes
        Whether to remove one free plane on the sky per component and use all pixels, or one constant per component and
        use each exposure once.

    Raises
    ------
    UsageError
        If a name is not in the truth, or if there are no names.
    NoUsablePixelsError
        If no pixel of an exposure has a corrected value.
    """
    known = {each.name: each for each in truth.exposures}
    unknown = sorted(set(components) - set(known))
    if unknown or not components:
        message = f"components: {unknown or 'none given'}, expected names such as {next(iter(known))}"
        raise UsageError(message)
    groups: dict[str | int, dict[str, Residuals]] = defaultdict(dict)
    for name in sorted(components):
        groups[components[name]][name] = residuals(known[name], corrected, inputs, lattice=LATTICE if planes else None)
    freed: dict[str, Array] = {}
    for members in groups.values():
        freed.update(without_plane(members) if planes else without_constant(members))
    each = {name: float(np.sqrt(np.mean(values**2))) for name, values in freed.items()}
    worst_name = max(each, key=lambda name: each[name])
    return Recovery(
        rms=float(np.sqrt(np.mean(np.concatenate(list(freed.values())) ** 2))),
        worst=each[worst_name],
        worst_name=worst_name,
        exposures=len(each),
        components=len(groups),
    )


def residuals(exposure: TrueExposure, corrected: Path, inputs: Path, *, lattice: int | None) -> Residuals:
    """Return correction minus truth at good pixels of an exposure: at all, or on a lattice with `lattice` per side."""
    before, good, wcs = _read(inputs / exposure.file)
    after = _read(corrected / exposure.file)[0]
    found = before - after
    good &= inside(exposure) & np.isfinite(found)
    if lattice is not None:
        good &= _lattice(exposure.shape, lattice)
    rows, columns = np.nonzero(good)
    if not len(rows):
        message = f"{corrected / exposure.file}: no pixel of {exposure.name} has a corrected value: is it unmatched?"
        raise NoUsablePixelsError(message)
    ra, dec = wcs.all_pix2world(columns, rows, 0)
    return Residuals(values=found[good] - exposure.plane(columns, rows), ra=ra, dec=dec)


def without_constant(members: Mapping[str, Residuals]) -> dict[str, Array]:
    """Return the median residual of each exposure, (1,), minus the mean of all medians."""
    levels = {name: np.median(each.values) for name, each in members.items()}
    mean = np.mean(list(levels.values()))
    return {name: np.array([level - mean]) for name, level in levels.items()}


def without_plane(members: Mapping[str, Residuals]) -> dict[str, Array]:
    """Return the residuals of each exposure minus the best-fitting plane on the sky of all residuals."""
    ra0 = np.concatenate([each.ra for each in members.values()])[0]
    ra = np.concatenate([each.ra for each in members.values()])
    dec = np.concatenate([each.dec for each in members.values()])
    x, y = _tangent(ra, dec, float(ra0), float(dec.mean()))
    values = np.concatenate([each.values for each in members.values()])
    design = np.column_stack([np.ones_like(x), x / np.abs(x).max(), y / np.abs(y).max()])
    left = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    ends = np.cumsum([len(each.values) for each in members.values()])
    return dict(zip(members, np.split(left, ends[:-1]), strict=True))


def _tangent(ra: Array, dec: Array, ra0: float, dec0: float) -> tuple[Array, Array]:
    """Project onto the tangent plane at (ra0, dec0), degrees, where planes on the grid are planes up to curvature."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra0, dec0]
    x, y = wcs.wcs_world2pix(ra, dec, 0)
    return x, y


def _lattice(shape: tuple[int, int], count: int) -> NDArray[np.bool_]:
    """Mark `count` rows and columns that are spread evenly over an image."""
    marks = np.zeros(shape, dtype=bool)
    marks[np.ix_(*(((np.arange(count) + 0.5) * side / count).astype(int) for side in shape))] = True
    return marks


def _read(path: Path) -> tuple[Array, NDArray[np.bool_], WCS]:
    """Return the image, a mask of the pixels that are neither flagged nor blank, and its WCS."""
    with fits.open(path, memmap=False) as hdus:
        sci = hdus["SCI"] if "SCI" in hdus else hdus[0]
        image = np.asarray(sci.data, dtype=float)
        good = np.isfinite(image) & (image != 0.0)
        if "DQ" in hdus:
            good &= hdus["DQ"].data == 0
        return image, good, WCS(sci.header)
