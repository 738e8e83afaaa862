"""The output folder as a worker in another process has it: a path, and files that the run has claimed for it."""

from pathlib import Path

from levelmatch_core.products.manifest import OutputFile
from levelmatch_core.products.output.placing import Writer, put


class SharedFolder:
    """Where a worker writes. The run holds the folder and its journal, and claimed the names before it asked.

    Parameters
    ----------
    path
        The folder, absolute.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.changed = False
        """Whether a file is new."""

    def write(self, name: str, writer: Writer) -> OutputFile:
        """Let `writer` make a file, and put it in its place; as :meth:`OutputFolder.write`."""
        file, new = put(self.path, name, writer)
        self.changed |= new
        return file
