"""Keys of records: of all that they hold, and of nothing else."""

import gc
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, get_args

import pytest
from pydantic import BaseModel, PlainSerializer, SerializerFunctionWrapHandler, model_serializer

from levelmatch_core.images.given import SkyMask
from levelmatch_core.jobs import products, science
from levelmatch_core.jobs.job import Job
from levelmatch_core.records import FOR_KEY, Record, digest_of
from levelmatch_core.settings import MatchSettings

JOBS = [kind for module in (science, products) for kind in vars(module).values() if isinstance(kind, type)]
JOBS = [kind for kind in JOBS if issubclass(kind, Job) and kind is not Job]


def paths_in_keys(kind: type[BaseModel], seen: set[type]) -> Iterator[str]:
    """Yield the fields of a record, and of those in it, that would put a file's place into a key."""
    seen.add(kind)
    for name, info in kind.model_fields.items():
        for part in flat(info.annotation):
            if part is Path and not any(isinstance(one, PlainSerializer) for one in info.metadata):
                yield f"{kind.__name__}.{name}"
            if isinstance(part, type) and issubclass(part, BaseModel) and part not in seen:
                yield from paths_in_keys(part, seen)


def flat(annotation: object) -> Iterator[object]:
    """Yield a type and all that it is made of."""
    yield annotation
    for part in get_args(annotation):
        yield from flat(part)


class Careless(Record):
    place: Path | None


@pytest.mark.parametrize("kind", JOBS)
def test_no_job_has_the_place_of_a_file_in_its_key(kind: type[Job]) -> None:
    assert not list(paths_in_keys(kind, {MatchSettings}))  # which have a key of their own


def test_a_place_in_a_key_would_be_seen() -> None:
    assert len(JOBS) > 8
    assert list(paths_in_keys(Careless, set())) == ["Careless.place"]


def test_where_a_file_lies_is_written_and_is_in_no_key() -> None:
    one, other = (SkyMask(path=Path(at), digest="a") for at in ("/here/mask.fits", "/there/mask.fits"))
    assert SkyMask.from_json(one.to_json()) == one
    assert one.model_dump_json(context=FOR_KEY) == other.model_dump_json(context=FOR_KEY)
    changed = one.model_copy(update={"digest": "b"})
    assert one.model_dump_json(context=FOR_KEY) != changed.model_dump_json(context=FOR_KEY)


class Part(Record):
    value: float
    written: ClassVar[list[float]] = []

    @model_serializer(mode="wrap")
    def _counted(self, write: SerializerFunctionWrapHandler) -> object:
        self.written.append(self.value)
        return write(self)


class Whole(Record):
    large = ("parts", "one")

    name: str
    parts: tuple[Part, ...]
    one: Part


def test_a_digest_is_of_all_that_a_record_holds() -> None:
    whole = Whole(name="a", parts=(Part(value=1), Part(value=2)), one=Part(value=3))
    assert digest_of(whole) == digest_of(Whole.from_json(whole.to_json()))
    changes: list[dict[str, object]] = [
        {"name": "b"},
        {"parts": whole.parts[:1]},
        {"parts": whole.parts[::-1]},
        {"parts": (*whole.parts, whole.one)},
        {"one": Part(value=4)},
    ]
    others = [whole.model_copy(update=change) for change in changes]
    assert len({digest_of(each) for each in (whole, *others)}) == 1 + len(others)
    assert digest_of(whole, "name") == digest_of(others[0], "name") != digest_of(whole)


def test_what_is_large_is_digested_once_while_it_lives() -> None:
    part = Part(value=1.25)
    Part.written.clear()
    first = digest_of(Whole(name="a", parts=(part,), one=part))
    assert digest_of(Whole(name="b", parts=(part, part), one=part)) != first
    assert Part.written == [1.25]
    del part
    gc.collect()
    digests = set()
    for number in range(100):  # which may lie where another lay
        digests.add(digest_of(Whole(name="a", parts=(Part(value=number),), one=Part(value=number))))
    assert len(digests) == 100


@pytest.mark.parametrize("value", [0.1, -0.0, 5e-324, 1.7976931348623157e308, 1 / 3])
def test_a_record_comes_back_from_its_text(value: float) -> None:
    back = Part.from_text(Part(value=value).to_text())
    assert struct.pack("d", back.value) == struct.pack("d", value)
