"""The output folder for workers in other processes: a path, and files that the run has claimed beforehand."""

from functools import partial
from pathlib import Path

from levelmatch_core.products.manifest import OutputFile
from levelmatch_core.products.output.placing import Writer, note_written, put


class SharedFolder:
    """The output folder of a worker. The run holds the lock and the journal, and has claimed the names beforehand.

    Parameters
    ----------
    path
        Absolute path of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.changed = False
        """Whether a new file was written."""

    def write(self, name: str, writer: Writer) -> OutputFile:
        """Have `writer` create a file, and move it to its place; as :meth:`OutputFolder.write`."""
        note = partial(note_written, self.path, name)
        file, new = put(self.path, name, writer, before=note, after=note)
        self.changed |= new
        return file
