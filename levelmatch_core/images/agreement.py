"""Whether a JWST file's header and its gwcs say the same: one of them may have been mended without the other."""

from collections.abc import Mapping, Sequence

import numpy as np

from levelmatch_core.errors import DataError
from levelmatch_core.images.exposure import Exposure
from levelmatch_core.images.fits_headers import Hdu, quiet
from levelmatch_core.images.reading import wcs_of
from levelmatch_core.images.wcs.gwcs import extra_installed, gwcs_of
from levelmatch_core.images.wcs.transforms import AnyWcs, sky_transforms
from levelmatch_core.settings import MatchSettings

MAX_DISAGREEMENT = 0.1
"""Pixels: where header and gwcs differ by more, the user is told."""

_POINTS = 11
"""A side, at which header and gwcs are compared."""


def wcs_notes(exposures: Sequence[Exposure], trees: Mapping[str, Sequence[Hdu]], settings: MatchSettings) -> list[str]:
    """Return what to know of gwcs: which exposures have none, and by how much headers differ.

    Compared is the first exposure of each tile, where the extra is installed: reading a gwcs takes some 0.1 s.

    Parameters
    ----------
    exposures
        All that came in.
    trees
        The HDUs of files, as these are shown, that have an ASDF extension.
    settings
        Of which `wcs_source` matters.
    """
    notes = []
    without = [one.name for one in exposures if one.wcs_source != settings.wcs_source]
    if without:
        notes.append(f"no gwcs, so that the header's WCS is used, in {len(without)} exposures, {without[0]} the first")
    if not extra_installed():
        return notes
    first: dict[str, Exposure] = {}
    for one in sorted((one for one in exposures if one.file in trees), key=lambda exposure: exposure.name):
        first.setdefault(one.tile, one)
    apart: dict[str, float] = {}
    for one in first.values():
        try:
            pixels = _compared(one, trees[one.file])
        except DataError as error:
            notes.append(f"header and gwcs cannot be compared: {error}")
        else:
            if pixels is not None:
                apart[one.name] = pixels
    wide = [name for name, pixels in apart.items() if not pixels <= MAX_DISAGREEMENT]
    if wide:
        worst = max(wide, key=lambda name: apart[name])
        notes.append(
            f"header and gwcs put pixels up to {apart[worst]:.2f} pixel apart ({worst}; more than "
            f"{MAX_DISAGREEMENT} in {len(wide)} of {len(apart)} exposures, one looked at a tile): used is the "
            f"{settings.wcs_source} (wcs_source); find out which of them was mended last"
        )
    return notes


def _compared(exposure: Exposure, hdus: Sequence[Hdu]) -> float | None:
    """Return by how many pixels header and gwcs differ; None where the file has no gwcs of this image."""
    sci = hdus[exposure.sci]
    found = gwcs_of(hdus, exposure.path, exposure.name)
    if found is None or sum(hdu.name == sci.name for hdu in hdus) > 1:
        return None
    return disagreement(wcs_of(sci, exposure.path, exposure.name), found, exposure.shape)


def disagreement(header: AnyWcs, gwcs: AnyWcs, shape: tuple[int, int]) -> float:
    """Return the largest distance, pixels, between where two WCSs put the same positions of an image.

    Both take a lattice over the image to the sky, and the first brings both back.

    Parameters
    ----------
    header, gwcs
        The two.
    shape
        Rows, columns.
    """
    x, y = np.meshgrid(*(np.linspace(-0.5, size - 0.5, _POINTS) for size in shape[::-1]))
    to_sky, to_pixel = sky_transforms(header)
    there = sky_transforms(gwcs)[0](x, y)
    with quiet(), np.errstate(all="ignore"):
        apart = to_pixel(*there) - to_pixel(*to_sky(x, y))
    return float(np.hypot(*apart).max())
