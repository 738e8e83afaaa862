"""The base class of all records: frozen, validated, and with the same JSON for the same content.

Records never contain arrays. They are passed between tasks and written to run.json; arrays are in the cutout store.
"""

import hashlib
import json
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, PlainSerializer, SerializationInfo

FOR_KEY = {"for": "key"}
"""Context for writing a record as part of a key."""


def _written(path: Path, info: SerializationInfo) -> str:
    return "" if info.context == FOR_KEY else str(path)


Place = Annotated[Path, PlainSerializer(_written, when_used="json")]
"""Path of a file, which is not part of its content: keys do not depend on it."""

_SHARED: dict[frozenset[str], set[str]] = {}
_DIGESTS: dict[int, "tuple[weakref.ref[Record], str]"] = {}
"""Digests of existing large records, by their identity."""


class Record(BaseModel):
    """A frozen value object that is unchanged by a round trip through JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    large: ClassVar[tuple[str, ...]] = ()
    """Fields with a record or a tuple of records that are in several keys; each record is digested only once."""

    def model_post_init(self, _context: object, /) -> None:
        """Share the set of given fields between records, which would otherwise take half of their memory.

        It is never changed: records are frozen, and copies get their own set.
        """
        given = self.__pydantic_fields_set__
        object.__setattr__(self, "__pydantic_fields_set__", _SHARED.setdefault(frozenset(given), given))

    def __copy__(self) -> Self:
        """Return what pydantic does, sooner: thousands of pairs are copied with other fields several times."""
        made = type(self).__new__(type(self))
        object.__setattr__(made, "__dict__", self.__dict__.copy())
        object.__setattr__(made, "__pydantic_extra__", None)
        object.__setattr__(made, "__pydantic_fields_set__", self.__pydantic_fields_set__.copy())
        object.__setattr__(made, "__pydantic_private__", None)
        return made

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types (floats keep all their digits)."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the record from the result of `to_json`."""
        return cls.model_validate(data)

    def to_text(self) -> str:
        """Return `to_json` as text, ten times faster; all strings in it must be valid UTF-8."""
        return self.model_dump_json()

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Return the record from the result of `to_text`."""
        return cls.model_validate_json(text)


def digest_of(record: Record, *but: str) -> str:
    """Return the sha256 (hex) of the content of a record, without paths of files and the fields named in `but`."""
    text = record.model_dump_json(exclude={*but, *record.large}, context=FOR_KEY)
    digest = hashlib.sha256(text.encode())
    for name in record.large:
        held = getattr(record, name)
        parts = (held,) if isinstance(held, Record) else held
        digest.update(json.dumps([name, [_known_digest(part) for part in parts]]).encode())
    return digest.hexdigest()


def _known_digest(record: Record) -> str:
    """Return the cached digest of a record, which may have megabytes for a field of thousands of exposures."""
    at = id(record)
    known = _DIGESTS.get(at)
    if known is not None and known[0]() is record:
        return known[1]
    digest = digest_of(record)
    _DIGESTS[at] = weakref.ref(record, lambda _: _DIGESTS.pop(at, None)), digest
    return digest


def content_key(*parts: object) -> str:
    """Return the sha256 (hex) of the canonical JSON of `parts`, the key of a cached result.

    Parameters
    ----------
    *parts
        JSON types and records.
    """

    def plain(value: object) -> object:
        if isinstance(value, BaseModel):
            return value.model_dump(mode="json")
        message = f"cannot make a cache key from {type(value).__name__}"
        raise TypeError(message)

    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=plain, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
