"""A program that is matched again and again into the same folder, while its inputs and outputs meet with accidents."""

import shutil
from pathlib import Path

from levelmatch_core.pipeline import Request, RunResult, run
from levelmatch_core.runners import PlainRunner
from levelmatch_core.settings import MatchSettings
from levelmatch_core.simulate import SimulatedProgram, simulate
from levelmatch_core.sky.store import CutoutStore


class Place:
    """A program, an output folder and a store."""

    def __init__(self, root: Path, instrument: str = "miri", **program: object) -> None:
        self.inputs, self.out, self._store, self.originals = root / "in", root / "out", root / "store", root / "was"
        shape = {"tiles": (2, 1), "dithers": 2, "size": 64, **program}
        simulate(self.inputs, SimulatedProgram.of(instrument=instrument, **shape))
        shutil.copytree(self.inputs, self.originals)

    @property
    def files(self) -> list[Path]:
        return sorted(path for path in self.inputs.iterdir() if ".fits" in path.name)

    def request(self, *, prune: bool = False, **settings: object) -> Request:
        chosen = MatchSettings.from_mapping({"figures": "none", **settings})
        return Request(inputs=(self.inputs,), output=self.out, settings=chosen, prune=prune)

    def match(self, *, prune: bool = False, **settings: object) -> RunResult:
        return run(self.request(prune=prune, **settings), CutoutStore(self._store), PlainRunner)

    def tile(self, name: str) -> Path:
        return self.out / "tiles" / name
