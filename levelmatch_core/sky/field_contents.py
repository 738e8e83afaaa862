"""What the pixels of a field's exposures turned out to be, once they were read: blank ones, values of another scale."""

from collections.abc import Mapping, Sequence
from statistics import median_low

from levelmatch_core.images.exposure import Exposure, Failure, Field
from levelmatch_core.images.instruments import instrument_of
from levelmatch_core.sky.cutouts import CutoutRecord

OTHER_SCALE = 1e3
"""Images whose values differ by this factor or more are not of one scale: no level makes them alike."""


def pixel_notes(field: Field, cutouts: Mapping[str, CutoutRecord]) -> tuple[str, ...]:
    """Return what to know of the pixels that were left out, in addition to those that are masked or not finite.

    Parameters
    ----------
    field
        The exposures.
    cutouts
        Those that were read.
    """
    there = [one for one in field.exposures if one.name in cutouts]
    notes = (_on_blanks(there, cutouts), _on_cosmic_rays(there, cutouts), _on_pixels_of_no_sky(there, cutouts))
    return tuple(f"{field.title}: {note}" for note in notes if note)


def _on_blanks(there: Sequence[Exposure], cutouts: Mapping[str, CutoutRecord]) -> str:
    """Return the note on blank pixels, without the zeros of instruments that always blank with them; '' for none."""
    some = {one.name: cutouts[one.name] for one in there if not instrument_of(one).blank_zero}
    some = {name: cutout for name, cutout in some.items() if cutout.n_blank}
    if not some:
        return ""
    values = sorted({value for one in some.values() for value in one.blanks})
    what = f"pixels of exactly {', '.join(f'{value:g}' for value in values)}" if values else "pixels of huge values"
    most = max(some, key=lambda name: (some[name].n_blank, name))
    return (
        f"{what} are taken for blank in {len(some)} exposures, {some[most].n_blank} pixels in "
        f"{most} the most: they stay as they are and take part in nothing (setting blank)"
    )


def _on_cosmic_rays(there: Sequence[Exposure], cutouts: Mapping[str, CutoutRecord]) -> str:
    """Return the note on pixels that stand out alone; '' for none."""
    some = {one.name: cutouts[one.name].n_wild for one in there if cutouts[one.name].n_wild}
    if not some:
        return ""
    most = max(some, key=lambda name: (some[name], name))
    return (
        f"{sum(some.values())} pixels of {len(some)} exposures stand out alone and are left out as "
        f"cosmic rays, {some[most]} in {most} the most: corrected files keep them; measurements and mosaics do without "
        "(setting reproject_func)"
    )


def _on_pixels_of_no_sky(there: Sequence[Exposure], cutouts: Mapping[str, CutoutRecord]) -> str:
    """Return the note on pixels that hold no sky and were left out before resampling; '' for none."""
    sizes = {one.name: one.shape[0] * one.shape[1] for one in there}
    parts = {name: cutouts[name].n_lone / size for name, size in sizes.items() if cutouts[name].n_lone}
    if not parts:
        return ""
    most = max(parts, key=lambda name: (parts[name], name))
    return (
        f"{len(parts)} exposures hold pixels of no sky, beyond 1e9 times the noise or, where they "
        f"are many, far off all about them: {cutouts[most].n_lone} of {most} the most ({parts[most]:.2g} of its "
        "pixels); corrected files keep them, measurements and mosaics do without (better mask them: NaN, a mask file)"
    )


def of_another_scale(field: Field, cutouts: Mapping[str, CutoutRecord]) -> list[Failure]:
    """Return the exposures whose values differ from the others' by a factor of a thousand or more.

    The scale of an image is the median step between its neighbouring pixels, which no level changes. Of two images the
    larger is the one that is left out.

    Parameters
    ----------
    field
        The exposures.
    cutouts
        Those that were read.
    """
    scales = {one.name: cutouts[one.name].texture for one in field.exposures if one.name in cutouts}
    known = sorted(scale for scale in scales.values() if scale > 0)
    if len(known) < 2:
        return []
    middle = median_low(known)
    factors = {name: scale / middle for name, scale in scales.items() if scale > 0}
    return [
        Failure(
            name=name,
            step="cutout",
            error="DataError",
            reason=f"{name}: of another scale: its values vary {factor:.2g} times as much as those of the other "
            f"exposures of its field; bring it to their unit",
            exposures=(name,),
        )
        for name, factor in sorted(factors.items())
        if not 1 / OTHER_SCALE < factor < OTHER_SCALE
    ]
