"""What lies beside images and is no image: weights, uncertainties, masks, coverage; and what these say of the images.

A file is no image by what its header calls it, by a unit that no image of the sky has, or by its name: some endings say
it by themselves (`_bunc`, `.weight`), others (`_mask`, `_err`) where an image of the same name without them, or with
another word in their place, has the same shape and the same WCS. What has all of an image's name and more, whatever
that says, and lies exactly where the image does, belongs to it, unless its header tells of another observation.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import PurePosixPath
from typing import Literal

from levelmatch_core.images.exposure import Companion
from levelmatch_core.images.fits_headers import Hdu, text_of
from levelmatch_core.text.naming import some_of

Role = Literal["weight", "flags", ""]

_NONE = r"(?!)"
_KINDS: tuple[tuple[str, Role, str, str], ...] = (
    (
        "weight map",
        "weight",
        "wht|wgt|weights?|weight_?map|wtmap|invvar|ivar|oow",
        "wt|wei|conf|confidence",
    ),
    (
        "mask",
        "flags",
        "msk|[bc]*imsk|[bc]*rmsk|mmsk|bpm|dqm|dqmask|ood|badpix|maskbits",
        "masks?|flags?|flg|dq|c1[mfh]",
    ),
    (
        "uncertainty map",
        "",
        "[bcm]*unc|sciunc|rms|rmsmap|oou",
        "sigma|sig|errs?|errors?|errmap|std|stddev|var|variance|varmap|noise|noisemap",
    ),
    (
        "coverage map",
        "weight",
        "mcov|cov|coverage|expmap|nobs|ctx",
        "exp|exposure|exptime|nexp|num|depth|nsamp|cvg|rrhr|rr",
    ),
    ("segmentation map", "", "segm?|segmap", "segmentation|objmask"),
    ("background", "", _NONE, "bkgd?|bckg?|background|skybg|skymodel|thresh(old)?"),
    ("model, or what is left of one", "", _NONE, "model|mod|resid|residuals?|chi2?|snr|psf|pb"),
    ("calibration frame", "", _NONE, "flat|dark|bias"),
    ("difference from a reference image", "", "diffimg|scimrefdiffimg", "diff|difference|subtracted"),
    ("image on another scale, or without its sky", "", "intbgsub", "cnt|bgsub|bkgsub|skysub"),
)
"""What it is, what it is good for, words that tell by themselves at the end of a name, and words that need an image."""

_TYPE_CARDS = (
    *("PRODTYPE", "FILETYPE", "OBSTYPE", "OBS-TYPE", "OBS_TYPE", "IMAGETYP", "FRAMETYP", "DATATYPE", "DATA-TYP"),
    *("PRODCATG", "ESO DPR TYPE", "ESO PRO CATG"),
)
_NO_IMAGE = re.compile(
    r"(.*[ ._])?(weight(map)?|wtmap|wht|variance|inverse variance|invvar|rms|uncertainty|errors?|sigma|"
    r"((dq|bad ?pixel) ?)?mask|dqmask|sdq|data ?quality|flags?|coverage|exp(osure)?( ?time)? ?map|bias|dark|zero|"
    r"(d|dome|sky|twi|twilight|lamp|master|super)?flat|twilight|fringe|lamp|arc|calib(ration)?|comparison|focus)"
    r"( ?frame| ?field| ?map| ?image| sky| lamp| dome| twilight)*",
    re.IGNORECASE,
)
_SEPARATORS = re.compile(r"[\s,_-]+")
_NO_IMAGE_HDU = re.compile(
    r"(wht|ctx|weight|ivar|invvar|var(iance)?|rms|err(or)?|unc(ertainty)?|sigma|std|mask|msk|bpm|dq|flags?|cov(erage)?|"
    r"expmap|nsamp|hitmap|context)",
    re.IGNORECASE,
)
_COUNTED = r"\(?(adu|dn|cts|counts?|electrons?|e-?)(/s|/sec)?\)?"
_SQUARE = r" ?(\^|\*\*)? ?\(?[+-]?2\)?"
_NO_UNIT = re.compile(
    rf"s|sec|seconds?|%|percent|s ?/ ?n|snr|sigma|bits?|bitmask|flags?|mask|bool(ean)?|"
    rf"(1 ?/ ?)?({_COUNTED}|[mknu]?jy|\([^()]+\)){_SQUARE}|[mknu]?jy{_SQUARE} ?[/.* ] ?sr{_SQUARE}",
    re.IGNORECASE,
)
_IMAGE = frozenset({"sci", "science", "image", "img", "int", "intensity", "mosaic", "sciimg"})
"""Words that say that of several files of one name and place, but for this word, it is the image."""
_MOST_MORE = 3
"""Words by which another name may be longer than that of an image, somewhere in it."""
_SHORTEST_WORD = 2
"""Letters: a shorter word, or one with a digit, tells exposures apart."""
_ENDING = re.compile(r"\.(fits?|fts)(\.(gz|fz|bz2|z))?$", re.IGNORECASE)
_WCS_CARDS = ("CRVAL1", "CRVAL2", "CRPIX1", "CRPIX2")
_ROLL_CARDS = (*(f"{matrix}{i}_{j}" for matrix in ("CD", "PC") for i in (1, 2) for j in (1, 2)), "CROTA1", "CROTA2")
_OBSERVATION_CARDS = (
    *(
        "DATE-OBS",
        "TIME-OBS",
        "UTC-OBS",
        "MJD-OBS",
        "MJD",
        "EXPTIME",
        "EXPNUM",
        "OBSID",
        "OBS_ID",
        "ROOTNAME",
        "OBJECT",
    ),
    *("FILTER", "FILTER1", "FILTER2", "BAND", "WAVELNTH", "CHNLNUM", "CRVAL3", "CRVAL4", "BUNIT", "TELESCOP"),
)
"""Cards of which one that differs between two images says that neither belongs to the other."""
_MOMENT_CARDS = ("DATE-OBS", "MJD-OBS", "OBSMJD", "EXPSTART", "OBSID", "OBS_ID", "ROOTNAME", "EXPNUM")
"""Those that are of one observation only, where they say more than a date."""
_DATE = len("2004-01-01")
_CORRECTED = "pbcor"
"""Of images of an interferometer, the one with this word in addition has the sky everywhere on one scale."""
_LONG_WORD = re.compile(
    r"(?P<image>.+?)(?P<kind>weight(map)?|wht|mask|flags?|rms|variance|invvar|error|sigma|coverage|expmap|background)"
)
"""The last word of a name in which no mark stands between that of the image and what it is."""


@dataclass(frozen=True)
class Seen:
    """A file as far as its headers tell."""

    shown: str
    hdus: tuple[Hdu, ...]

    @property
    def image(self) -> Hdu | None:
        """The first two-dimensional image."""
        return next((hdu for hdu in self.hdus if hdu.plane is not None), None)

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The words of its name, without the ending."""
        return tuple(re.split(r"[._\-]", _ENDING.sub("", PurePosixPath(self.shown).name.lower())))

    @cached_property
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


@dataclass(frozen=True)
class _Names:
    """All files by the words of their names."""

    by_words: Mapping[tuple[str, tuple[str, ...]], Seen]
    """Folder and words -> file."""
    gaps: Mapping[tuple[str, int, tuple[str, ...]], Sequence[Seen]]
    """Folder, place of a word, words without that -> files."""
    by_name: Mapping[tuple[str, ...], Sequence[Seen]]
    """Words -> files of all folders."""
    lengths: frozenset[int]
    """Numbers of words that names have."""
    images: Sequence[str]
    """The words for an image that occur."""


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
    by_name: dict[tuple[str, ...], list[Seen]] = defaultdict(list)
    for file in files:
        by_words[file.place, file.words] = file
        by_name[file.words].append(file)
        for at in range(len(file.words)):
            gaps[file.place, at, _without(file.words, at)].append(file)
    lengths = frozenset(len(file.words) for file in files)
    images = sorted(_IMAGE.intersection(word for file in files for word in file.words))
    names = _Names(by_words, gaps, by_name, lengths, images)
    found = (_aside(file, names) for file in files)
    return {aside.shown: aside for aside in found if aside is not None}


def _without(words: tuple[str, ...], at: int) -> tuple[str, ...]:
    return (*words[:at], *words[at + 1 :])


def _aside(file: Seen, names: _Names) -> Aside | None:
    """Return why a file is no exposure; None where it may be one."""
    for at, word in reversed(list(enumerate(file.words))):
        kind = _kind(word)
        if kind is None:
            continue
        rest = _without(file.words, at)
        others = [names.by_words.get((file.place, rest)), *names.gaps[file.place, at, rest]]
        beside = [
            one
            for one in others
            if one is not None and one is not file and _alike(file, one) and not _is_kind(one.words, at, rest)
        ]
        beside.sort(key=lambda one: not _IMAGE.intersection(one.words))
        what, role, strong = kind
        if beside:
            return Aside(file.shown, f"{what}, by its name, of {beside[0].shown}", role, beside[0].shown)
        if strong and at == len(file.words) - 1 and at > 0:
            return Aside(file.shown, f"{what}, by its name")
    better = names.by_words.get((file.place, (*file.words, _CORRECTED)))
    if better is not None and _is_of_one_observation(better, file):
        return Aside(file.shown, f"not corrected for the primary beam, as {better.shown} is")
    found = _in_folder(file, names) or _without_mark(file, names)
    if found is not None:
        return found
    reason = _by_header(file)
    if reason is not None:
        return Aside(file.shown, reason)
    return _of_an_image(file, names) or _other_product(file, names)


def _in_folder(file: Seen, names: _Names) -> Aside | None:
    """Return what a file is by its folder's name, where an image of the same name lies in another one."""
    kind = _folder_kind(file)
    if kind is None:
        return None
    for one in names.by_name[file.words]:
        if _folder_kind(one) is None and _alike(file, one):
            return Aside(file.shown, f"{kind[0]}, by its folder, of {one.shown}", kind[1], one.shown)
    return None


def _folder_kind(file: Seen) -> tuple[str, Role, bool] | None:
    name = PurePosixPath(file.place).name.lower()
    return _kind(name) or _kind(name.removesuffix("s"))


def _without_mark(file: Seen, names: _Names) -> Aside | None:
    """Return what a file is by the end of its name's last word, where the rest is the name of an image."""
    found = _LONG_WORD.fullmatch(file.words[-1])
    one = None if found is None else names.by_words.get((file.place, (*file.words[:-1], found["image"])))
    kind = None if found is None else _kind(found["kind"])
    if one is None or kind is None or not _alike(file, one):
        return None
    return Aside(file.shown, f"{kind[0]}, by its name, of {one.shown}", kind[1], one.shown)


def _of_an_image(file: Seen, names: _Names) -> Aside | None:
    """Return of which image a file is by its name and place alone, though nothing says what it is."""
    for one, more in _shorter(file, names):
        is_numbered = any(len(word) < _SHORTEST_WORD or re.search(r"\d", word) for word in more)
        if more == (_CORRECTED,) or is_numbered or not _is_of_one_observation(file, one):
            continue
        reason = (
            f"{one.shown} has the same place, shape and name but for {'_'.join(more)!r}, and nothing tells of "
            f"another observation; if it is one, rename it"
        )
        return Aside(file.shown, reason)
    return None


def _shorter(file: Seen, names: _Names) -> Iterator[tuple[Seen, tuple[str, ...]]]:
    """Yield the files whose names are a file's without some words, or with a word for an image in place of one."""
    words, count = file.words, len(file.words)
    for start in range(count):
        for end in range(start + 1, count + 1):
            is_near = start == 0 or end == count or end - start <= _MOST_MORE
            if is_near and count - (end - start) in names.lengths:
                one = names.by_words.get((file.place, words[:start] + words[end:]))
                if one is not None:
                    yield one, words[start:end]
    for at, word in enumerate(words):
        if word not in _IMAGE:
            for image in names.images:
                one = names.by_words.get((file.place, (*words[:at], image, *words[at + 1 :])))
                if one is not None:
                    yield one, (word,)


def _other_product(file: Seen, names: _Names) -> Aside | None:
    """Return of which image a file is another product: of one observation, by its cards, place, and name but one word.

    Of such products the one with the shortest word is taken, then the first.
    """
    for at, word in enumerate(file.words):
        if not word.isalpha():
            continue
        for one in names.gaps[file.place, at, _without(file.words, at)]:
            other = one.words[at]
            is_first = (len(other), other) < (len(word), word) and _kind(other) is None and other.isalpha()
            if is_first and len(other) >= _SHORTEST_WORD and _is_surely_one_observation(file, one):
                reason = f"of the same observation as {one.shown}, which is used; to use this one, choose by step_ext"
                return Aside(file.shown, reason)
    return None


def _is_surely_one_observation(one: Seen, other: Seen) -> bool:
    """Return whether two images lie exactly at one place, and were observed at one time by what both say."""
    if not _is_of_one_observation(one, other):
        return False
    headers = [[hdu for hdu in (seen.hdus[0], seen.image) if hdu is not None] for seen in (one, other)]
    times = [[text_of(hdu.get(card)) for hdu in each for card in _MOMENT_CARDS] for each in headers]
    return any(text and text == also and len(text) > _DATE for text, also in zip(*times, strict=True))


def _is_of_one_observation(one: Seen, other: Seen) -> bool:
    """Return whether two images lie exactly at one place, and no card says that they were observed by themselves."""
    a, b = one.image, other.image
    if a is None or b is None or not a.has("CRVAL1") or not _alike(one, other):
        return False
    pairs = [
        (x.get(card), y.get(card)) for x, y in ((a, b), (one.hdus[0], other.hdus[0])) for card in _OBSERVATION_CARDS
    ] + [(a.get(card), b.get(card)) for card in _ROLL_CARDS]
    return all(x is None or y is None or x == y for x, y in pairs)


def _is_kind(words: tuple[str, ...], at: int, rest: tuple[str, ...]) -> bool:
    """Return whether another file is a companion itself."""
    return words != rest and _kind(words[at]) is not None


@lru_cache(maxsize=4096)
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
    headers = [] if image is None else [image]
    headers += [hdu for hdu in file.hdus[:1] if hdu is not image]
    for hdu in headers:
        for card in _TYPE_CARDS:
            value = text_of(hdu.get(card))
            if _NO_IMAGE.fullmatch(_SEPARATORS.sub(" ", value).strip()):
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
        told = [f"{one.shown} ({one.reason})" for _, one in sorted(asides.items())]
        listed = some_of(told, between="; ", where="run.json")
        notes.append(f"left out, for they are no exposures: {len(asides)} files: {listed}")
    files = {one.file for one in used}
    if files:
        notes.append(
            f"pixels without weight, or flagged, are masked by {len(files)} companion files, {min(files)} the first "
            f"(companions=ignore does without)"
        )
    return notes
