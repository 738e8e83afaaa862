"""The base of all small records: frozen, validated, and the same JSON for the same content.

Arrays never live in records. A record travels between tasks and into run.json; arrays lie in the cutout store.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, PlainSerializer, SerializationInfo

FOR_KEY = {"for": "key"}
"""Context in which a record is written to make a key of it."""


def _written(path: Path, info: SerializationInfo) -> str:
    return "" if info.context == FOR_KEY else str(path)


Place = Annotated[Path, PlainSerializer(_written, when_used="json")]
"""Where a file lies, which is no part of what it holds: a key is the same wherever it is."""

_SHARED: dict[frozenset[str], set[str]] = {}


class Record(BaseModel):
    """A frozen value object that survives a round trip through JSON unchanged."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

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
