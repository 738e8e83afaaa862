"""What lies beside images and is none: weights, uncertainties, masks, coverage; and what these say of the images.

A file is none by what its header calls it, by a unit that no image of the sky has, or by its name: some endings say it
by themselves (`_bunc`, `.weight`), others (`_mask`, `_err`) where an image of the same name without them, or with
another word in their place, has the same shape and the same WCS.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from levelmatch_core.images.exposure import Companion
from levelmatch_core.images.fits_headers import Hdu, text_of

Role = Literal["weight", "flags", ""]

_KINDS: tuple[tuple[str, Role, str, str], ...] = (
    (
        "weight map",
        "weight",
        "wht|weights?|weight_?map|wtmap|invvar|ivar|oow",
        "wt",
    ),
    (
        "mask",
        "flags",
        "msk|[bc]*imsk|[bc]*rmsk|mmsk|bpm|dqm|dqmask|ood|badpix|maskbits",
        "masks?|flags?|flg|dq",
    ),
    ("uncertainty map", "", "[bcm]*unc|rms|rmsmap|oou", "sigma|sig|errs?|errors?|std|var|variance|noise"),
    ("coverage map", "weight", "mcov|cov|coverage|expmap|nobs|ctx", "exp|exposure|exptime|num|depth|nsamp|cvg"),
    ("segmentation map", "", "segm?|segmap", "segmentation"),
)
"""What it is, what it is good for, words that tell by themselves at the end of a name, and words that need an image."""

_TYPE_CARDS = ("PRODTYPE", "FILETYPE", "OBSTYPE", "IMAGETYP", "DATATYPE", "PRODCATG")
_NO_IMAGE = re.compile(
    r"(.*[ ._])?(weight(map)?|wtmap|wht|variance|inverse variance|invvar|rms|uncertainty|errors?|sigma|"
    r"((dq|bad ?pixel) ?)?mask|dqmask|data ?quality|flags?|coverage|exp(osure)?( ?time)? ?map|bias|dark|zero|"
    r"((dome|sky|twilight) )?flat|arc|comparison|focus)( ?frame| ?field| ?map| ?image)?",
    re.IGNORECASE,
)
_NO_IMAGE_HDU = re.compile(
    r"(wht|ctx|weight|ivar|invvar|var(iance)?|rms|err(or)?|unc(ertainty)?|sigma|std|mask|msk|bpm|dq|flags?|cov(erage)?|"
    r"expmap|nsamp|hitmap|context)",
    re.IGNORECASE,
)
_COUNTED = r"\(?(adu|dn|cts|counts?|electrons?|e-?)(/s|/sec)?\)?"
_NO_UNIT = re.compile(
    rf"s|sec|seconds?|bits?|bitmask|flags?|mask|bool(ean)?|(1 ?/ ?)?{_COUNTED} ?(\^|\*\*)? ?\(?-?2\)?", re.IGNORECASE
)
_ENDING = re.compile(r"\.(fits?|fts)(\.(gz|fz|bz2|z))?$", re.IGNORECASE)
_WCS_CARDS = ("CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2")


@dataclass(frozen=True)
class Seen:
    """A file as far as its headers tell."""

    shown: str
    hdus: tuple[Hdu, ...]

    @property
    def image(self) -> Hdu | None:
        """The first two-dimensional image."""
        return next((hdu for hdu in self.hdus if hdu.plane is not None), None)

    @property
    def words(self) -> tuple[str, ...]:
        """The words of its name, without the ending."""
        return tuple(re.split(r"[._\-]", _ENDING.sub("", PurePosixPath(self.shown).name.lower())))

    @property
    def place(self) -> str:
        """Its folder."""
        return str(PurePosixPath(self.shown).parent)


@dataclass(frozen=True)
class Aside:
    """A file that is no exposure."""

    shown: str
    reason: str
    role: Role = ""
    image: str = ""
    """The image that it belongs to, if any."""


def asides_of(files: Iterable[Seen]) -> dict[str, Aside]:
    """Return the files that are no exposures, by how they are shown.

    Parameters
    ----------
    files
        All that can be read.
    """
    files = tuple(files)
    by_words: dict[tuple[str, tuple[str, ...]], Seen] = {}
    gaps: dict[tuple[str, int, tuple[str, ...]], list[Seen]] = defaultdict(list)
    for file in files:
        by_words[file.place, file.words] = file
        for at in range(len(file.words)):
            gaps[file.place, at, _without(file.words, at)].append(file)
    found = (_aside(file, by_words, gaps) for file in files)
    return {aside.shown: aside for aside in found if aside is not None}


def _without(words: tuple[str, ...], at: int) -> tuple[str, ...]:
    return (*words[:at], *words[at + 1 :])


def _aside(
    file: Seen,
    by_words: Mapping[tuple[str, tuple[str, ...]], Seen],
    gaps: Mapping[tuple[str, int, tuple[str, ...]], Sequence[Seen]],
) -> Aside | None:
    """Return why a file is no exposure; None where it may be one."""
    for at, word in reversed(list(enumerate(file.words))):
        kind = _kind(word)
        if kind is None:
            continue
        rest = _without(file.words, at)
        others = [by_words.get((file.place, rest)), *gaps[file.place, at, rest]]
        beside = [
            one
            for one in others
            if one is not None and one is not file and _alike(file, one) and not _is_kind(one.words, at, rest)
        ]
        what, role, strong = kind
        if beside:
            return Aside(file.shown, f"{what}, by its name, of {beside[0].shown}", role, beside[0].shown)
        if strong and at == len(file.words) - 1 and at > 0:
            return Aside(file.shown, f"{what}, by its name")
    reason = _by_header(file)
    return None if reason is None else Aside(file.shown, reason)


def _is_kind(words: tuple[str, ...], at: int, rest: tuple[str, ...]) -> bool:
    """Return whether another file is a companion itself."""
    return words != rest and _kind(words[at]) is not None


def _kind(word: str) -> tuple[str, Role, bool] | None:
    for what, role, strong, weak in _KINDS:
        if re.fullmatch(strong, word):
            return what, role, True
        if re.fullmatch(weak, word):
            return what, role, False
    return None


def _alike(one: Seen, other: Seen) -> bool:
    """Return whether two files hold images of one shape and one WCS (or a companion that has none)."""
    a, b = one.image, other.image
    if a is None or b is None or a.plane != b.plane:
        return False
    return not a.has("CRVAL1") or all(a.get(card) == b.get(card) for card in _WCS_CARDS)


def _by_header(file: Seen) -> str | None:
    """Return what the headers call a file that is no image of the sky."""
    image = file.image
    headers = [hdu for hdu in (image, file.hdus[0] if file.hdus else None) if hdu is not None]
    for hdu in headers:
        for card in _TYPE_CARDS:
            value = text_of(hdu.get(card))
            if _NO_IMAGE.fullmatch(value):
                return f"{card} = {value!r}"
    if image is not None and sum(hdu.plane is not None for hdu in file.hdus) == 1:
        return hdu_reason(image)
    return None


def hdu_reason(hdu: Hdu) -> str | None:
    """Return why an image of a file is none of the sky, by its EXTNAME or its unit; None where it may be one."""
    if _NO_IMAGE_HDU.fullmatch(hdu.name):
        return f"EXTNAME = {hdu.name!r}"
    unit = text_of(hdu.get("BUNIT"))
    if _NO_UNIT.fullmatch(unit):
        return f"BUNIT = {unit!r}"
    return None


def companion_hdu(hdus: Sequence[Hdu], image: int, shape: tuple[int, int]) -> int | None:
    """Return the HDU of a companion file that belongs to an image: at the same place, or the only one of its shape.

    Parameters
    ----------
    hdus
        The companion's.
    image
        Index of the image in its own file.
    shape
        Rows, columns of the image.
    """
    alike = [hdu.index for hdu in hdus if hdu.plane == shape]
    if image in alike:
        return image
    return alike[0] if len(alike) == 1 else None


def aside_notes(asides: Mapping[str, Aside], used: Iterable[Companion]) -> list[str]:
    """Return what to know of files that are no exposures.

    Parameters
    ----------
    asides
        Those files.
    used
        Companions that mask pixels.
    """
    notes = []
    if asides:
        listed = "; ".join(f"{one.shown} ({one.reason})" for _, one in sorted(asides.items()))
        notes.append(f"left out, for they are no exposures: {len(asides)} files: {listed}")
    files = {one.file for one in used}
    if files:
        notes.append(
            f"pixels without weight, or flagged, are masked by {len(files)} companion files, {min(files)} the first "
            f"(companions=ignore does without)"
        )
    return notes
