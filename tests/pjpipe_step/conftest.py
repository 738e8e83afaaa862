"""One simulated program of four tiles, whose true levels every test of this folder knows."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from levelmatch_core import LevelMatchStep
from levelmatch_core.simulate import SimulatedProgram, Truth, simulate


@dataclass(frozen=True)
class Program:
    """Files and truth."""

    folder: Path
    truth: Truth

    @property
    def tiles(self) -> list[list[Path]]:
        """The files of each tile."""
        found: dict[str, list[Path]] = {}
        for one in self.truth.exposures:
            found.setdefault(one.tile, []).append(self.folder / one.file)
        return list(found.values())

    @property
    def levels(self) -> dict[str, float]:
        """The true level of each file."""
        return {one.file: one.plane.level for one in self.truth.exposures}

    def tile_levels(self) -> np.ndarray:
        """Return the mean true level of each tile."""
        return np.array([np.mean([self.levels[file.name] for file in tile]) for tile in self.tiles])


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """Four tiles of three dithers, levels only."""
    folder = tmp_path_factory.mktemp("program")
    return Program(folder, simulate(folder, SimulatedProgram.of(tiles=(2, 2), dithers=3, size=128, stars=20)))


@pytest.fixture(scope="session")
def planes(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """Four tiles of two dithers with planes."""
    folder = tmp_path_factory.mktemp("planes")
    options = {"tiles": (2, 2), "dithers": 2, "size": 128, "stars": 0, "planes": True, "overlap": 0.3}
    return Program(folder, simulate(folder, SimulatedProgram.of(**options)))


@pytest.fixture
def step(program: Program, tmp_path: Path) -> LevelMatchStep:
    """Return a step on the four tiles."""
    return LevelMatchStep(program.folder, tmp_path / "out", "cal", 1, None, figures="none")
