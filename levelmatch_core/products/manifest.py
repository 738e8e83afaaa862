"""The input and output files of a run, with their digests."""

from pathlib import Path
from typing import Any

from pydantic import Field as Described
from pydantic import SerializerFunctionWrapHandler, model_serializer

from levelmatch_core.images.reading import file_digest
from levelmatch_core.records import Record


class OutputFile(Record):
    """One file of the output folder."""

    name: str = Described(description="path relative to the folder, posix")
    sha256: str
    hdus: int = Described(default=0, description="number of HDUs of a corrected file; 0 and not written of others")

    @model_serializer(mode="wrap")
    def _without_none(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        if not self.hdus:
            del written["hdus"]
        return written

    @classmethod
    def of(cls, path: Path, name: str) -> "OutputFile":
        """Return the record of the file at `path` under this name.

        Raises
        ------
        OSError
            If it cannot be read.
        """
        return cls(name=name, sha256=file_digest(path))


class InputFile(Record):
    """One input file."""

    file: str = Described(description="name as in the tables")
    sha256: str


class StaleProduct(Record):
    """A corrected file of an earlier run that no later one can make, since its input is missing or damaged now."""

    name: str = Described(description="path relative to the folder, posix")
    inputs: tuple[str, ...] = Described(default=(), description="the input files that it was made of")
    reason: str
    edited: str = Described(default="", description="where it lies now, relative to the folder, if somebody edited it")
    gone: bool = Described(default=False, description="whether somebody took it away")
    hdus: int = Described(default=0, description="number of HDUs that it had; 0 if that is not known")

    @property
    def kept(self) -> bool:
        """Whether it lies at its name, as a run wrote it: `undo` gives its input back."""
        return not self.edited and not self.gone

    @property
    def fate(self) -> str:
        """What became of it, and how it goes off the record, in words."""
        if self.kept:
            return "the corrected file of an earlier run stays; levelmatch prune removes it"
        what = f"was edited and lies as {self.edited} now" if self.edited else "is gone, too"
        return (
            f"it is not kept: the corrected file of an earlier run {what}, so that undo cannot give its input back; "
            f"levelmatch prune takes it off the record"
        )
