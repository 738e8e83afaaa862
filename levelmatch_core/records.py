"""The base of all small records: frozen, validated, and the same JSON for the same content.

Arrays never live in records. A record travels between tasks and into run.json; arrays lie in the cutout store.
"""

import hashlib
import json
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, PlainSerializer, SerializationInfo

FOR_KEY = {"for": "key"}
"""Context in which a record is written to make a key of it."""


def _written(path: Path, info: SerializationInfo) -> str:
    return "" if info.context == FOR_KEY else str(path)


Place = Annotated[Path, PlainSerializer(_written, when_used="json")]
"""Where a file lies, which is no part of what it holds: a key is the same wherever it is."""

_SHARED: dict[frozenset[str], set[str]] = {}
_DIGESTS: dict[int, "tuple[weakref.ref[Record], str]"] = {}
"""Digests of large records that live, by their identity."""


class Record(BaseModel):
    """A frozen value object that survives a round trip through JSON unchanged."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    large: ClassVar[tuple[str, ...]] = ()
    """Fields, of one record or a tuple of them, that are in several keys: each is digested once, while it lives."""

    def model_post_init(self, _context: object, /) -> None:
        """Share the set of the fields that were given: of thousands of records, it would take half the memory.

        Nobody changes it: records are frozen, and a copy of one gets a set of its own.
        """
        given = self.__pydantic_fields_set__
        object.__setattr__(self, "__pydantic_fields_set__", _SHARED.setdefault(frozenset(given), given))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types (floats keep all their digits)."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild the record that `to_json` gave."""
        return cls.model_validate(data)

    def to_text(self) -> str:
        """Return `to_json` as a text, in a tenth of the time; every string in it must be UTF-8."""
        return self.model_dump_json()

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Rebuild the record that `to_text` gave."""
        return cls.model_validate_json(text)


def digest_of(record: Record, *but: str) -> str:
    """Return the sha256 (hex) of all that a record holds, save where files lie and the fields named in `but`."""
    text = record.model_dump_json(exclude={*but, *record.large}, context=FOR_KEY)
    digest = hashlib.sha256(text.encode())
    for name in record.large:
        held = getattr(record, name)
        parts = (held,) if isinstance(held, Record) else held
        digest.update(json.dumps([name, [_known_digest(part) for part in parts]]).encode())
    return digest.hexdigest()


def _known_digest(record: Record) -> str:
    """Return the digest of a record: of a field of thousands of exposures it is of megabytes."""
    at = id(record)
    known = _DIGESTS.get(at)
    if known is not None and known[0]() is record:
        return known[1]
    digest = digest_of(record)
    _DIGESTS[at] = weakref.ref(record, lambda _: _DIGESTS.pop(at, None)), digest
    return digest


def content_key(*parts: object) -> str:
    """Return the sha256 (hex) of the canonical JSON of `parts`: the key under which a result is cached.

    Parameters
    ----------
    *parts
        Anything JSON can hold, and records.
    """

    def plain(value: object) -> object:
        if isinstance(value, BaseModel):
            return value.model_dump(mode="json")
        message = f"cannot make a cache key from {type(value).__name__}"
        raise TypeError(message)

    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=plain, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
