"""Simulated surveys as graphs of tiles, with known levels: what the solvers are measured on, without any pixels.

Tiles are squares of 100 pixels; the difference of a pair is that of the true planes about its overlap's middle, with
noise as 1 sigma a pixel makes it.
"""

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from levelmatch_core.matching.model.problem import Problem
from levelmatch_core.matching.results import Member, PairFit
from levelmatch_core.sky.cutouts import CutoutRecord, StoredArray
from levelmatch_core.sky.plane import Plane

SIZE = 100
"""Pixels along a tile."""
KINDS = ("grid", "strips", "scans", "chain")
"""Four neighbours; long strips that few pairs tie together; scans of the sky with eight neighbours; one strip alone."""
CORRELATION = 2.0
"""Pixels an independent pixel."""


@dataclass(frozen=True)
class Survey:
    """Tiles, pairs and truth."""

    centres: NDArray[np.float64]
    """(N, 2) middle of each tile, pixels."""
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    boxes: NDArray[np.float64]
    """(K, 4) overlap: x0, y0, width, height."""
    truth: NDArray[np.float64]
    """(N, 3) level, and slopes over half a tile."""
    delta: NDArray[np.float64]
    """(K, 3) measured second - first, slopes over half a tile, about the overlap's middle."""

    @property
    def moments(self) -> NDArray[np.float64]:
        """(K, 3, 3) mean of [1, x, y] outer itself over the overlap, lengths in half tiles."""
        out = np.zeros((len(self.first), 3, 3))
        out[:, 0, 0] = 1.0
        out[:, [1, 2], [1, 2]] = self.boxes[:, 2:] ** 2 / 12 / (SIZE / 2) ** 2
        return out

    def problem(self, k: int, *, fixed: int | None = None) -> Problem:
        """Return the arrays that the solvers take, every pair counting by its inverse variance."""
        n, pairs = len(self.centres), len(self.first)
        pixels = self.boxes[:, 2] * self.boxes[:, 3]
        variance = 2 * CORRELATION / pixels
        half = SIZE / 2
        return Problem(
            names=tuple(f"{i:07d}" for i in range(n)),
            centres=self.centres,
            outlines=tuple(shapely.box(*(self.centres - half).T, *(self.centres + half).T)),
            scale=half,
            fixed=np.arange(n) == (-1 if fixed is None else fixed),
            first=self.first,
            second=self.second,
            centroids=self.boxes[:, :2] + self.boxes[:, 2:] / 2,
            delta=np.ascontiguousarray(self.delta[:, :k]),
            moments=np.ascontiguousarray(self.moments[:, :k, :k]),
            weights=1 / variance,
            n_used=pixels,
            rms=np.full(pairs, np.sqrt(2.0)),
            variance=variance,
            shared=np.full(pairs, 0.64),
        )

    def records(self, *, pairs: bool = True) -> tuple[list[Member], list[PairFit]]:
        """Return the same as :func:`levelmatch_core.matching.match.match` takes it, or the members alone."""
        array = StoredArray(file="none.npy", sha256="0" * 64)
        members = []
        for number, (x, y) in enumerate((self.centres - (SIZE - 1) / 2).round().astype(int).tolist()):
            name = f"{number:07d}"
            corners = ((x - 0.5, y - 0.5), (x + 99.5, y - 0.5), (x + 99.5, y + 99.5), (x - 0.5, y + 99.5))
            cutout = CutoutRecord(
                name=name,
                array=array,
                x0=x,
                y0=y,
                shape=(SIZE, SIZE),
                has_variance=False,
                n_valid=SIZE * SIZE,
                noise_gain=1 / CORRELATION,
                axis_angle=0.0,
                extent=(SIZE, SIZE),
                outline=corners,
            )
            members.append(Member(name=name, exposures=(name,), cutout=cutout, tile=name, groups={}))
        fits: list[PairFit] = []
        if not pairs:
            return members, fits
        slopes = self.delta[:, 1:] / (SIZE / 2)
        moments = self.moments * np.array([1, SIZE / 2, SIZE / 2])[:, None] * np.array([1, SIZE / 2, SIZE / 2])
        for pair, (i, j) in enumerate(zip(self.first.tolist(), self.second.tolist(), strict=True)):
            x0, y0, width, height = self.boxes[pair].tolist()
            n = round(width * height)
            level, (slope_x, slope_y) = float(self.delta[pair, 0]), slopes[pair].tolist()
            plane = Plane(level=level, slope_x=slope_x, slope_y=slope_y, x0=x0 + width / 2, y0=y0 + height / 2)
            fits.append(
                PairFit(
                    first=members[i].name,
                    second=members[j].name,
                    npix=n,
                    n_used=n,
                    plane=plane,
                    moments=tuple((n * moments[pair]).ravel().tolist()),
                    rms=float(np.sqrt(2.0)),
                    stderr=float(np.sqrt(2 * CORRELATION / n)),
                    correlation=CORRELATION,
                    shared=0.64,
                    extent=(width, height),
                    linear=(width / SIZE, height / SIZE),
                    converged=True,
                )
            )
        return members, fits


def survey(kind: str, n: int, *, seed: int = 0, slope: float = 0.3, overlap: float = 0.15) -> Survey:
    """Return about n tiles.

    Parameters
    ----------
    kind
        One of `KINDS`.
    n
        Tiles.
    seed
        Of levels, slopes and noise.
    slope
        Standard deviation of the true slopes, middle to edge, in units of a pixel's noise.
    overlap
        Part of a tile's side that its neighbour covers.
    """
    rows = {"strips": max(2, round((n / 25) ** 0.5)), "chain": 1}.get(kind, max(2, round(n**0.5)))
    columns = max(2, n // rows)
    number = np.arange(rows * columns).reshape(rows, columns)
    step = SIZE * (1 - overlap)
    y, x = np.indices(number.shape)
    centres = np.stack([x.ravel(), y.ravel()], axis=1) * step
    beside = [(number[:, :-1], number[:, 1:])]
    if kind == "strips":  # each strip is tied to the next at every tenth tile
        beside.append((number[:-1, ::10], number[1:, ::10]))
    else:
        beside.append((number[:-1], number[1:]))
    if kind == "scans":
        beside += [(number[:-1, :-1], number[1:, 1:]), (number[:-1, 1:], number[1:, :-1])]
    first, second = (np.concatenate([pair[side].ravel() for pair in beside]) for side in (0, 1))
    first, second = np.minimum(first, second), np.maximum(first, second)
    low = np.maximum(centres[first], centres[second]) - SIZE / 2
    size = np.minimum(centres[first], centres[second]) + SIZE / 2 - low
    middle = low + size / 2
    rng = np.random.default_rng(seed)
    truth = rng.standard_normal((rows * columns, 3)) * [10.0, slope, slope]

    def seen(members: NDArray[np.int64]) -> NDArray[np.float64]:
        away = (middle - centres[members]) / (SIZE / 2)
        return np.concatenate(
            [truth[members, :1] + np.sum(away * truth[members, 1:], axis=1)[:, None], truth[members, 1:]], axis=1
        )

    sigma = np.sqrt(2 * CORRELATION / size.prod(axis=1))
    noise = rng.standard_normal((len(first), 3)) * sigma[:, None]
    noise[:, 1:] /= size / np.sqrt(12) / (SIZE / 2)
    return Survey(
        centres=centres,
        first=first,
        second=second,
        boxes=np.concatenate([low, size], axis=1),
        truth=truth,
        delta=seen(second) - seen(first) + noise,
    )
