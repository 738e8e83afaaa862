"""Which images of a file are exposures of the sky, and which error, data-quality and other planes go with each."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from levelmatch_core.errors import NoImageError
from levelmatch_core.images.fits_headers import Hdu, cards_of, number_of
from levelmatch_core.images.instruments import Instrument
from levelmatch_core.images.planes import is_cube
from levelmatch_core.images.wcs.fits_wcs import WCS_CARD
from levelmatch_core.instrument_tables import ALL

# fmt: off
COMPANIONS = frozenset(
    {
        "area", "background", "badpix", "badpixel", "bck", "bkg", "bkgd", "bpm", "chi", "con", "conf", "confidence",
        "context", "cov", "coverage", "ctx", "dq", "dqf", "dqm", "err", "error", "errors", "expmap", "exptime",
        "flag", "flags", "flg", "hits", "invvar", "ivar", "mask", "model", "msk", "nexp", "noise", "npix", "nsamp",
        "pam", "preview", "psf", "qual", "quality", "quicklook", "resid", "residual", "residuals", "rms", "samp",
        "segm", "segmentation", "sig", "sigma", "skybg", "snr", "std",
        "stddev", "stdev", "thumb", "thumbnail", "time", "unc", "uncert", "uncertainty", "var",
        "variance", "weight", "weights", "wgt", "wht", "wtmap",
    }
)
# fmt: on
"""Words in an EXTNAME of what goes along with an image and is none of the sky; also at its end, as in `CCD1_WHT`."""

_SKY = re.compile(r"(RA--|DEC-|[A-Z]LON|[A-Z]LAT|[A-Z][A-Z]LN|[A-Z][A-Z]LT)-|(RA|DEC|[A-Z]LON|[A-Z]LAT)$")
_WORDS = re.compile(r"[^a-z0-9]+")
_NOT_PLACE = (b"NAXIS", b"DATE", b"MJD", b"WCSNAME")
_SHOWN = 8


@dataclass(frozen=True)
class ImageList:
    """The images of a file."""

    images: tuple[Hdu, ...]
    """Those that are exposures, one or more."""
    passed_over: tuple[tuple[Hdu, str], ...]
    """The others that a user may take for exposures, each with why it is none."""


def list_images(hdus: Sequence[Hdu], instrument: Instrument, shown: str) -> ImageList:
    """Return the images of a file that are exposures.

    Those are the extensions that the instrument names. Where the file has none of that name, each image of two axes
    with a celestial WCS of its own is one, unless its EXTNAME names a companion (:data:`COMPANIONS`), or it lies where
    an earlier one does, to the last digit.

    Parameters
    ----------
    hdus
        The file's.
    instrument
        What took it.
    shown
        What to call the file in messages.

    Raises
    ------
    NoImageError
        If there is no image of two axes longer than 1.
    """
    planes = {instrument.err, instrument.dq, *instrument.variances}
    others = [hdu for hdu in hdus if hdu.shape is not None and hdu.name not in planes]
    science = [] if instrument.sci == ALL else [hdu for hdu in hdus if hdu.name == instrument.sci]
    if science:
        strangers = [hdu for hdu in others if hdu not in science and has_place(hdu) and not is_companion(hdu)]
        why = f"only {instrument.sci} is the image"
        return ImageList(tuple(science), tuple((hdu, why) for hdu in strangers))
    known = instrument.sci == ALL
    found: list[Hdu] = []
    passed: list[tuple[Hdu, str]] = []
    for hdu in others:
        why = _why_none(hdu, found, known=known)
        if why:
            passed.append((hdu, why))
        else:
            found.append(hdu)
    if found:
        return ImageList(tuple(found), tuple(passed))
    flat = [hdu for hdu in hdus if hdu.plane is not None]
    if not flat:
        raise NoImageError(_no_image(hdus, shown))
    return ImageList((flat[0],), tuple(one for one in passed if one[0] is not flat[0]))


def _why_none(hdu: Hdu, found: Iterable[Hdu], *, known: bool) -> str:
    """Return why an image is no exposure, '' if it is one; of a known camera no two need to be told apart."""
    if hdu.plane is None:
        return "an empty image" if 0 in (hdu.shape or ()) else "a cube"
    if not has_place(hdu):
        return "no celestial WCS of its own"
    if is_companion(hdu):
        return "named as what goes with an image"
    if not known and any(one.plane == hdu.plane and _place(one) == _place(hdu) for one in found):
        return "exactly where another one is"
    return ""


def has_place(hdu: Hdu) -> bool:
    """Return whether an image has a celestial WCS of its own, by its CTYPE cards, or a plate solution."""
    kinds = [str(hdu.get(f"CTYPE{axis}", "")).strip().upper() for axis in hdu.plane_axes]
    return all(_SKY.match(kind) for kind in kinds) or (hdu.has("PLTRAH") and hdu.has("AMDX1"))


def is_companion(hdu: Hdu) -> bool:
    """Return whether an HDU's name is that of weights, errors, masks and the like."""
    return any(word.rstrip("0123456789") in COMPANIONS for word in _WORDS.split(hdu.name.lower()))


def _place(hdu: Hdu) -> list[bytes]:
    """Return the cards that say where an image lies, without their comments."""
    cards = [card for card in cards_of(hdu.raw) if WCS_CARD.match(card) and not card.startswith(_NOT_PLACE)]
    return sorted(card.partition(b"/")[0].rstrip() for card in cards)


def with_plane(hdus: Iterable[Hdu], plane: int | None) -> tuple[Hdu, ...]:
    """Return HDUs of whose cubes a plane, from 1, is chosen."""
    return tuple(
        replace(hdu, chosen=plane) if plane is not None and hdu.shape is not None and is_cube(hdu.shape) else hdu
        for hdu in hdus
    )


def cube_message(hdu: Hdu, shown: str) -> str:
    """Return what to say of an image that is not one of two axes."""
    shape = hdu.shape or ()
    if len(shape) < 3 or 0 in shape:
        return f"{shown}: HDU {hdu.index} ({hdu.name}) has shape {hdu.shape}, expected a two-dimensional image"
    sizes = " x ".join(map(str, shape[::-1]))
    if hdu.chosen is not None:
        return f"{shown}: HDU {hdu.index} is a cube of {sizes} pixels, which has no plane {hdu.chosen}; count from 1"
    return (
        f"{shown}: HDU {hdu.index} is a cube of {sizes} pixels, expected one image; name a plane: --set "
        f"plane=N takes the one of that number, counted from 1"
    )


def refuse_whole_numbers(hdu: Hdu, shown: str) -> None:
    """Raise if a plane of a cube cannot be corrected without changing how the others are stored.

    Raises
    ------
    NoImageError
        If the cube does not hold plain floating-point numbers.
    """
    if hdu.cube_plane is None:
        return
    bitpix = int(hdu.get("ZBITPIX", 0)) if hdu.compressed else hdu.bitpix
    if bitpix > 0 or number_of(hdu.get("BSCALE", 1)) != 1 or number_of(hdu.get("BZERO", 0)) != 0:
        message = (
            f"{shown}: HDU {hdu.index} is a cube of integers or scaled numbers, expected plain floating point: one "
            f"corrected plane would change how the others are stored; convert it first"
        )
        raise NoImageError(message)


def _no_image(hdus: Sequence[Hdu], shown: str) -> str:
    cubes = [hdu for hdu in hdus if hdu.shape is not None and len(hdu.shape) > 2 and 0 not in hdu.shape]
    if cubes:
        return cube_message(cubes[0], shown)
    shapes = [hdu.shape for hdu in hdus if hdu.shape is not None]
    return f"{shown}: no two-dimensional image in {len(hdus)} HDUs (images of shape {shapes})"


def planes_of(image: Hdu, images: Sequence[Hdu], hdus: Sequence[Hdu], names: Iterable[str]) -> Iterator[Hdu | None]:
    """Yield the plane of each name that goes with an image, such as its error; None where there is none.

    It has the image's EXTVER. Where several images share that, as chips do that are called by their names, it is the
    one that follows the image before the next one comes.
    """
    shared = sum(one.version == image.version for one in images) > 1
    later = [one.index for one in images if one.index > image.index]
    end = min(later, default=len(hdus)) if shared else len(hdus)
    start = image.index if shared else 0
    for name in names:
        fitting = (hdu for hdu in hdus[start:end] if hdu.name == name and hdu.version == image.version)
        yield next(fitting, None)


def passed_over_notes(files: Iterable[tuple[str, ImageList]]) -> list[str]:
    """Return what was passed over, by reason, each with the names that it has in most files."""
    names: dict[str, Counter[str]] = {}
    first: dict[str, tuple[str, set[str]]] = {}
    for shown, listed in files:
        for hdu, why in listed.passed_over:
            names.setdefault(why, Counter())[hdu.name or f"HDU {hdu.index}"] += 1
            first.setdefault(why, (shown, set()))[1].add(shown)
    notes = []
    for why, count in sorted(names.items()):
        shown, holders = first[why]
        most = [f"{name} ({times})" for name, times in count.most_common(_SHOWN)]
        more = f" and {len(count) - _SHOWN} more" if len(count) > _SHOWN else ""
        notes.append(
            f"images that are passed over and stay as they are ({why}): {', '.join(most)}{more} in "
            f"{len(holders)} files, {shown} the first"
        )
    return notes
