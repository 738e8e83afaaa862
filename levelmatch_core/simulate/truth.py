"""The planes that were added to the simulated exposures: the truth that a match has to recover."""

import json
from pathlib import Path
from typing import Self

from pydantic import Field as Described
from pydantic import ValidationError

from levelmatch_core.errors import UsageError
from levelmatch_core.images.exposure import Window
from levelmatch_core.records import Record
from levelmatch_core.simulate.program import SimulatedProgram
from levelmatch_core.simulate.survey import SkySurvey
from levelmatch_core.sky.plane import Plane

TRUTH_FILE = "truth.json"


class TrueExposure(Record):
    """An exposure, or one part of it, and the plane that was added to its sky."""

    name: str = Described(description="the file; with `@lyot` or `@main` for the parts of a Lyot exposure")
    file: str = Described(description="name of the file in the program's folder")
    tile: str
    detector: str
    shape: tuple[int, int] = Described(description="rows, columns of the whole image")
    window: Window | None = Described(description="the part of the image; None: the whole image")
    plane: Plane = Described(
        description="in the image's own pixels (column and row, from 0), about the centre of the whole image"
    )


class Truth(Record):
    """A simulated program and the planes that were added."""

    program: SimulatedProgram | SkySurvey
    exposures: tuple[TrueExposure, ...] = Described(description="sorted by name")

    def save(self, folder: Path) -> Path:
        """Write `truth.json` into `folder`, with the same bytes for the same truth, and return its path."""
        path = folder / TRUTH_FILE
        path.write_text(json.dumps(self.to_json(), indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the truth of a simulated folder.

        Raises
        ------
        UsageError
            If the folder contains no readable `truth.json`.
        """
        path = folder / TRUTH_FILE
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError, ValidationError) as error:
            message = f"{path}: expected the truth of a simulated program ({error}); simulate it again"
            raise UsageError(message) from error
