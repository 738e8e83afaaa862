"""How near to the truth, beside the others: the same tiles in the same run, one table, and where we lose.

    python -m tests.benchmarks.beside [--seeds 3] [--quick] [--scene NAME ...]

Every scene is tiles of white noise with known levels or planes, beside the bound of their pixels (see
:mod:`tests.benchmarks.accuracy`). All lie on one grid, so that nobody resamples. Peers (the extra `peers`; see
:mod:`tests.benchmarks.others`) see the same pixels, and in the rows "our fits" their solvers are given the differences
that we measured. The error is the rms over all tiles (levels) or pixels (planes), a free constant or plane removed,
over all seeds; the last lines say, scene by scene, who is nearer than we are. In the strip, solvers alone are compared.
"""

import argparse
import logging
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.matching.match import match
from levelmatch_core.matching.results import Gauge, PairFit
from levelmatch_core.settings import MatchSettings
from levelmatch_core.simulate.sky import _nebula
from levelmatch_core.sky.cutouts import Cutout
from tests.benchmarks import others
from tests.benchmarks.accuracy import Mosaic, drawn, errors
from tests.matching.fakes import fit_all, settings_for

Array = NDArray[np.float64]

EQUAL = 1.02
"""Errors within 2 % are the same: seeds decide."""
SWEEPS = (100, 1000, 10_000, 100_000)
"""Sweeps after which the step's own solver is looked at."""


@dataclass(frozen=True)
class Scene:
    """A mosaic and what is in it."""

    mosaic: Mosaic
    k: int
    """1: levels, 3: planes."""
    amplitude: float
    """Standard deviation of the true coefficients, noise being 1."""
    nebula: float = 0.0
    """Range of the nebula's brightness; it brings stars."""
    drift: float = 0.0
    """Change of the true level from tile to tile."""
    from_pixels: bool = True
    """Whether peers measure the pixels by themselves, too."""

    def truth(self, rng: np.random.Generator) -> Array:
        """Return (N, 3) true coefficients."""
        truth = drawn(self.mosaic, self.k, self.amplitude, rng)
        truth[:, 0] += self.drift * np.arange(len(truth))
        return truth

    def sky(self, rng: np.random.Generator) -> NDArray[np.float32] | None:
        """Return what all tiles see, (ny, nx)."""
        if not self.nebula:
            return None
        shape = self.mosaic.shape
        sky = self.nebula * _nebula(shape, rng).astype(np.float32)
        y, x = np.mgrid[-12:13, -12:13]
        star = np.exp(-(x**2 + y**2) / 4).astype(np.float32)
        for row, column, peak in zip(
            rng.integers(12, shape[0] - 12, 1000),
            rng.integers(12, shape[1] - 12, 1000),
            rng.pareto(1.2, 1000) * 10,
            strict=True,
        ):
            sky[row - 12 : row + 13, column - 12 : column + 13] += np.float32(min(peak, 1e4)) * star
        return sky


def scenes(*, quick: bool = False) -> dict[str, Scene]:
    """Return the scenes; quick ones have tiles of 64 pixels, and shorter strips."""
    size = 64 if quick else 512
    small, large = Mosaic(side=5, size=size), Mosaic(side=6 if quick else 10, size=size)
    strip = Mosaic(side=60 if quick else 400, rows=1, size=32 if quick else 128)
    return {
        "levels 5x5, bright nebula": Scene(small, 1, 10, nebula=300),
        "levels 10x10": Scene(large, 1, 10),
        "planes 5x5, bright nebula": Scene(small, 3, 5, nebula=300),
        "planes 10x10": Scene(large, 3, 5),
        "strip 400x1 with drift": Scene(strip, 1, 1, drift=0.5, from_pixels=False),
    }


@dataclass
class Row:
    """Who, and what came of it."""

    ours: bool
    squares: list[float] = field(default_factory=list)
    cpu: float = 0.0

    @property
    def rms(self) -> float:
        """Over all seeds."""
        return float(np.sqrt(np.mean(self.squares)))


OURS = {
    "levelmatch, as it comes": {},
    "levelmatch, error weights, mean": {"weight_method": "error", "statistic": "clipped_mean"},
    "levelmatch, iterative": {"solver": "iterative"},
}


class Table:
    """The errors of one scene."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.rows: dict[str, Row] = {}
        self.values = scene.mosaic.values(scene.k)
        self.bound = scene.mosaic.bound(scene.k)

    def add(self, seed: int) -> None:
        """Solve one program by everybody."""
        rng = np.random.default_rng(seed)
        truth = self.scene.truth(rng)
        tiles = self.scene.mosaic.tiles(truth, rng, self.scene.sky(np.random.default_rng(1000 + seed)))
        pairs: list[PairFit] = []
        for who, settings in OURS.items():
            self._ask(who, lambda s=settings: self._ours(tiles, pairs, s), truth, ours=True)
        for who, work in peers(tiles, self.scene, pairs).items():
            self._ask(who, work, truth)

    def _ask(self, who: str, work: Callable[[], Array], truth: Array, *, ours: bool = False) -> None:
        row = self.rows.setdefault(who, Row(ours))
        start = time.process_time()
        found = work()
        row.cpu += time.process_time() - start
        left = found - truth
        columns = left[:, : self.scene.k].ravel()
        row.squares.append(float(np.mean((self.values @ columns) ** 2)))

    def _ours(self, tiles: Sequence[Cutout], pairs: list[PairFit], settings: dict[str, object]) -> Array:
        """Return what we subtract; `pairs` becomes what we measured with the last settings that are not the step's."""
        options = our_settings(self.scene, settings)
        members, fits = fit_all(tiles, fit_type_of(self.scene), options)
        if options.solver == "least_squares":
            pairs[:] = fits
        solution = match("mosaic_tiles", "f", members, fits, Gauge.REFERENCE, options)
        return errors(self.scene.mosaic, solution, np.zeros((len(tiles), 3)))

    def told(self, name: str) -> list[str]:
        """Return the lines of the table."""
        return [
            f"{name:<27} {who:<36} {row.rms:10.5g} {row.rms / self.bound:9.2f} {row.cpu / len(row.squares):8.2f}"
            for who, row in self.rows.items()
        ]

    def losses(self, name: str) -> str:
        """Say who is nearer to the truth than we are."""
        own = {who: row.rms for who, row in self.rows.items() if row.ours and "iterative" not in who}
        rest = {who: row.rms for who, row in self.rows.items() if not row.ours}
        if not rest:
            return f"{name}: no peer is installed"
        parts = []
        for who, mine in own.items():
            ahead = [
                f"{peer} by {100 * (mine / error - 1):.0f} %" for peer, error in rest.items() if mine > EQUAL * error
            ]
            nearest = min(rest, key=lambda peer: rest[peer])
            lead = f"ahead of all (the nearest, {nearest}, has {rest[nearest] / mine:.3g} times the error)"
            parts.append(f"{who}: " + (f"behind {', '.join(ahead)}" if ahead else lead))
        return f"{name}: {'; '.join(parts)}"


def fit_type_of(scene: Scene) -> str:
    """Return the fit type of a scene."""
    return "level" if scene.k == 1 else "level+slope"


def our_settings(scene: Scene, settings: dict[str, object]) -> MatchSettings:
    """Return the settings of a row of ours."""
    return settings_for("mosaic_tiles", fit_type_of(scene), **settings)


def peers(tiles: Sequence[Cutout], scene: Scene, pairs: Sequence[PairFit]) -> dict[str, Callable[[], Array]]:
    """Return what the peers that are installed and know the scene's fit type do."""
    k, patient = scene.k, {"niteration": others.PATIENT}
    from_pixels: dict[str, Callable[[], Array]] = {
        "MontagePy": lambda: others.montage(tiles, k, None),
        "MontagePy, 10^6 iterations": lambda: others.montage(tiles, k, None, **patient),
        "reproject (levels alone)": lambda: others.reproject(tiles, None),
        "stcal, mode (levels alone)": lambda: others.stcal(tiles, None, "mode"),
        "stcal, mean (levels alone)": lambda: others.stcal(tiles, None, "mean"),
    }
    from_fits: dict[str, Callable[[], Array]] = {
        "MontagePy, our fits": lambda: others.montage(tiles, k, pairs),
        "MontagePy, our fits, 10^6 iterations": lambda: others.montage(tiles, k, pairs, **patient),
        "reproject, our fits": lambda: others.reproject(tiles, pairs),
        "stcal, our fits": lambda: others.stcal(tiles, pairs),
    }
    settled = k == 1 and not scene.drift  # levels of small mosaics: more iterations change nothing
    work = (from_pixels if scene.from_pixels else {}) | from_fits
    return {
        who: solve
        for who, solve in work.items()
        if others.there(who.replace(",", " ").split()[0])
        and not (settled and "10^6" in who)
        and (k == 1 or who not in {"reproject, our fits", "stcal, our fits"})
    }


def sweeps(scene: Scene, seed: int = 0) -> list[str]:
    """Say how the step's own solver comes near to the answer."""
    rng = np.random.default_rng(seed)
    truth = scene.truth(rng)
    tiles = scene.mosaic.tiles(truth, rng)
    values = scene.mosaic.values(scene.k)
    lines = []
    members, fits = fit_all(tiles, fit_type_of(scene), our_settings(scene, {}))
    for most in SWEEPS:
        tight = {"solver": "iterative", "n_iter": most, "convergence_rel_tol": 1e-12}
        solution = match("mosaic_tiles", "f", members, fits, Gauge.REFERENCE, our_settings(scene, tight))
        left = errors(scene.mosaic, solution, truth)[:, : scene.k].ravel()
        done = f"{solution.status.iterations:>7} sweeps: error {np.sqrt(np.mean((values @ left) ** 2)):9.4g}"
        lines.append(f"{done}, converged: {solution.status.converged}")
    return lines


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="tiles of 64 pixels")
    parser.add_argument("--scene", nargs="*", help="scenes whose names begin like this")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    print(f"{'scene':<27} {'who':<36} {'rms error':>10} {'to bound':>9} {'CPU s':>8}")
    told = []
    for name, scene in scenes(quick=asked.quick).items():
        if asked.scene and not name.startswith(tuple(asked.scene)):
            continue
        table = Table(scene)
        for seed in range(asked.seeds):
            table.add(seed)
        print("\n".join(table.told(name)), flush=True)
        told.append(table.losses(name))
        if scene.drift:
            told += [f"{name}, levelmatch, iterative:", *sweeps(scene)]
    print("\n".join(["", "Where we lose:", *told]))


if __name__ == "__main__":
    main()
