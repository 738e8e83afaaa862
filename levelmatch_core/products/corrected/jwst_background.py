"""The background entries of JWST files (BKGLEVEL, BKGSUB, BKGMETH), in the header and in the ASDF tree.

If requested, the subtracted level is recorded there in a corrected file, as the pipeline's own skymatch does. Only
these few bytes of the ASDF extension change, and the previous content is kept in a card, so that undo can restore it.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml  # type: ignore[import-untyped]

from levelmatch_core.errors import NotFitsError
from levelmatch_core.images.fits_cards import CardValue, RawHeader
from levelmatch_core.products.corrected.editing import EditedFile

KEPT = "LVLBKGIN"
"""The card of the primary header that keeps the previous content."""

METHOD = "levelmatch"

_CARDS = {"level": "BKGLEVEL", "method": "BKGMETH", "subtracted": "BKGSUB"}
"""Name in meta.background -> card, as in the schema of the pipeline's data models."""

_COMMENTS = {"level": "Computed constant background level", "method": "Background computation method"} | {
    "subtracted": "Has background been subtracted from data?"
}
_END_OF_TREE = b"\n...\n"
_INDEX = b"#ASDF BLOCK INDEX"


def put_background(edited: EditedFile, level: float, shown: str) -> None:
    """Record that a level was subtracted, in addition to what was subtracted before.

    Parameters
    ----------
    edited
        The file to be written.
    level
        The level subtracted at the centre of the image, data unit.
    shown
        Name of the file in messages.

    Raises
    ------
    NotFitsError
        If the file has an ASDF extension that is not valid ASDF.
    """
    header = edited.header(0)
    cards = header.parsed()
    before = {name: cards[card] for name, card in _CARDS.items() if card in cards}
    if before.get("subtracted") is True:
        level += float(before.get("level", 0.0))
    values: dict[str, CardValue] = {"level": float(f"{level:.9g}"), "method": METHOD, "subtracted": True}
    for name, value in values.items():
        comment = cards.comments[_CARDS[name]] if name in before else _COMMENTS[name]
        header.set(_CARDS[name], value, comment)
    kept: dict[str, Any] = {"cards": before}
    index = _asdf_hdu(edited)
    if index is not None:
        raw = _content(edited, index)
        text, kept["asdf"] = with_background(_tree(raw, shown), values)
        _put_content(edited, index, raw, text)
    header.set(KEPT, json.dumps(kept), "levelmatch: BKG cards, meta.background as they came")
    edited.put_header(0, header)


def take_background_back(edited: EditedFile) -> None:
    """Restore the previous background entries of a file, if :func:`put_background` has changed them."""
    header = edited.header(0)
    cards = header.parsed()
    if KEPT not in cards:
        return
    kept = json.loads(cards[KEPT])
    for name, card in _CARDS.items():
        if name in kept["cards"]:
            header.set(card, kept["cards"][name], cards.comments[card])
        else:
            header.remove(card)
    header.remove(KEPT)
    edited.put_header(0, header)
    index = _asdf_hdu(edited)
    if index is not None and "asdf" in kept:
        raw = _content(edited, index)
        _put_content(edited, index, raw, with_background_as(_tree(raw, "corrected file"), kept["asdf"]))


# -- the tree, as text -------------------------------------------------------------------------------------------------
def with_background(text: str, values: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return a tree's YAML with new values in meta.background, and the previous text there, None if there was none."""
    meta, found = _meta_and_background(text)
    if meta is None:
        return text, None
    if found is None:
        return _inserted(text, meta, _flow(values)), None
    start, end = _span(text, found)
    before = text[start:end]
    pairs = {key.value: value for key, value in found.value} if isinstance(found, yaml.MappingNode) else {}
    edits = [(*_span(text, pairs[name]), _scalar(value)) for name, value in values.items() if name in pairs]
    new = {name: value for name, value in values.items() if name not in pairs}
    if not pairs:
        edits = [(start, end, _flow(values))]
    elif new:
        first = found.value[0][0].start_mark
        join = ", " if found.flow_style else "\n" + " " * first.column
        edits.append((first.index, first.index, "".join(f"{name}: {_scalar(new[name])}{join}" for name in new)))
    for first_char, last_char, put in sorted(edits, reverse=True):
        text = text[:first_char] + put + text[last_char:]
    return text, before


def with_background_as(text: str, before: str | None) -> str:
    """Return a tree's YAML with the previous text of meta.background; without the entry if that is None."""
    meta, found = _meta_and_background(text)
    if meta is None or found is None:
        return text
    if before is not None:
        start, end = _span(text, found)
        return text[:start] + before + text[end:]
    keys = [key for key, _ in meta.value]
    at = next(number for number, key in enumerate(keys) if key.value == "background")
    # it was inserted before the first entry
    return text[: keys[at].start_mark.index] + text[keys[at + 1].start_mark.index :] if at + 1 < len(keys) else text


def _meta_and_background(text: str) -> tuple[Any, Any]:
    """Return the YAML nodes of meta and meta.background; None if there is none."""
    root = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    meta = _entry(root, "meta")
    if not isinstance(meta, yaml.MappingNode) or not meta.value:
        return None, None
    return meta, _entry(meta, "background")


def _entry(node: Any, name: str) -> Any:  # noqa: ANN401 - yaml carries no types
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return next((value for key, value in pairs if key.value == name), None)


def _span(text: str, node: Any) -> tuple[int, int]:  # noqa: ANN401 - yaml carries no types
    """Return where the text of a node starts and ends, without the blanks that follow a block."""
    start, end = node.start_mark.index, node.end_mark.index
    return start, start + len(text[start:end].rstrip())


def _inserted(text: str, meta: Any, value: str) -> str:  # noqa: ANN401 - yaml carries no types
    first = meta.value[0][0].start_mark
    join = ", " if meta.flow_style else "\n" + " " * first.column
    return f"{text[: first.index]}background: {value}{join}{text[first.index :]}"


def _flow(values: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{name}: {_scalar(value)}" for name, value in values.items()) + "}"


def _scalar(value: object) -> str:
    return str(yaml.safe_dump(value)).partition("\n")[0]


# -- the extension, as bytes -------------------------------------------------------------------------------------------
def _asdf_hdu(edited: EditedFile) -> int | None:
    headers = (edited.base.header(index).parsed() for index in range(len(edited.base.spans)))
    return next((index for index, cards in enumerate(headers) if cards.get("EXTNAME") == "ASDF"), None)


def _content(edited: EditedFile, index: int) -> bytes:
    return edited.base.data(index)[: int(edited.base.header(index).parsed()["NAXIS1"])]


def _tree(raw: bytes, shown: str) -> str:
    """Return the YAML of an ASDF file, up to its end marker."""
    end = raw.find(_END_OF_TREE)
    if not raw.startswith(b"#ASDF") or end < 0:
        message = f"{shown}: its ASDF extension is damaged; leave write_background off for this file"
        raise NotFitsError(message)
    return raw[: end + 1].decode("utf-8")


def _put_content(edited: EditedFile, index: int, raw: bytes, text: str) -> None:
    """Write the tree, the blocks that follow it, and the index of their positions."""
    tree = text.encode()
    blocks = raw[raw.find(_END_OF_TREE) + 1 :]
    moved = len(tree) + len(blocks) - len(raw)
    at = blocks.rfind(_INDEX)
    if at >= 0 and moved:
        shifted = re.sub(rb"(?<=- )\d+|(?<=[\[,])\s*\d+", lambda found: _plus(found[0], moved), blocks[at:])
        blocks = blocks[:at] + shifted
    header: RawHeader = edited.header(index)
    content = tree + blocks
    header.set("NAXIS1", len(content), "length of dimension 1")
    header.set("TFORM1", f"{len(content)}B")
    edited.put_data(index, header, content)


def _plus(digits: bytes, moved: int) -> bytes:
    blank = digits[: len(digits) - len(digits.lstrip())]
    return blank + str(int(digits) + moved).encode()
