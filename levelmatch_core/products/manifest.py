"""The input and output files of a run, with their digests."""

from pathlib import Path

from pydantic import Field as Described

from levelmatch_core.images.reading import file_digest
from levelmatch_core.records import Record


class OutputFile(Record):
    """One file of the output folder."""

    name: str = Described(description="path relative to the folder, posix")
    sha256: str

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
    """A corrected file of an earlier run that stays, since its input is missing or damaged now."""

    name: str = Described(description="path relative to the folder, posix")
    inputs: tuple[str, ...] = Described(default=(), description="the input files that it was made of")
    reason: str
