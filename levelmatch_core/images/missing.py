"""Inputs that are named one by one and cannot be had: each is a failure of its tile, and the others are matched."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field as Described

from levelmatch_core.images.associations import absent_members, is_association
from levelmatch_core.images.finding import FITS
from levelmatch_core.records import Record


class MissingInput(Record):
    """A file that was asked for and is not there."""

    path: Path = Described(description="where it would lie on this machine")
    given: str = Described(description="the path or address by which it was asked for")
    reason: str = Described(description="why it cannot be had, and what to do")
    transient: bool = Described(default=False, description="whether another attempt may succeed")


@dataclass(frozen=True)
class LocalInputs:
    """Inputs as files and folders of this machine."""

    paths: tuple[Path, ...]
    """All of them, also those of missing files."""
    missing: tuple[MissingInput, ...] = ()


def missing_files(entries: Iterable[Path]) -> tuple[MissingInput, ...]:
    """Return the FITS files that are not there, of those that are named themselves or are members of associations."""
    named = [path for entry in entries for path in (absent_members(entry) if is_association(entry) else [entry])]
    reason = "no such file; put it there, or take it off the inputs"
    return tuple(
        MissingInput(path=path, given=str(path), reason=reason)
        for path in named
        if FITS.search(path.name) and not path.exists()
    )


def as_given(inputs: LocalInputs) -> list[str]:
    """Return the paths of inputs; of the missing ones what was asked for, so that whoever gets them tries again."""
    given = {one.path: one.given for one in inputs.missing}
    return [given.get(path, str(path)) for path in inputs.paths]


def reasons_of(missing: Iterable[MissingInput]) -> Mapping[Path, str]:
    """Return why each missing file cannot be had, by its absolute path."""
    return {Path(os.path.abspath(one.path)): one.reason for one in missing}  # noqa: PTH100 - links keep their names
