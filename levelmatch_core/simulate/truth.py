"""What was added to each simulated exposure: the truth that a match has to find."""

import json
from pathlib import Path
from typing import Self

from pydantic import Field as Described
from pydantic import ValidationError

from levelmatch_core.errors import UsageError
from levelmatch_core.images.exposure import Window
from levelmatch_core.records import Record
from levelmatch_core.simulate.program import SimulatedProgram
from levelmatch_core.sky.plane import Plane

TRUTH_FILE = "truth.json"


class TrueExposure(Record):
    """One exposure, or one half of one, and the plane that was added to its sky."""

    name: str = Described(description="the file; for the halves of a Lyot exposure with `@lyot` or `@main`")
    file: str = Described(description="name of the file in the program's folder")
    tile: str
    detector: str
    shape: tuple[int, int] = Described(description="rows, columns of the whole image")
    window: Window | None = Described(description="the part of the image that it is; None: the whole")
    plane: Plane = Described(
        description="in the image's own pixels (column and row, from 0), about the centre of the whole image"
    )


class Truth(Record):
    """A simulated program and all that was added in it."""

    program: SimulatedProgram
    exposures: tuple[TrueExposure, ...] = Described(description="sorted by name")

    def save(self, folder: Path) -> Path:
        """Write `truth.json` into `folder` and return its path: the same bytes for the same truth."""
        path = folder / TRUTH_FILE
        path.write_text(json.dumps(self.to_json(), indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the truth of a simulated folder.

        Raises
        ------
        UsageError
            If the folder holds no readable `truth.json`.
        """
        path = folder / TRUTH_FILE
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError, ValidationError) as error:
            message = f"{path}: expected the truth of a simulated program ({error}); simulate it anew"
            raise UsageError(message) from error
