"""What levelmatch, its peers, least squares of means and an oracle make of a scene: rms of the levels' errors."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from levelmatch_core import MatchSettings, match_levels
from levelmatch_core.matching.corrections import Status
from levelmatch_core.products.grade import Grade
from levelmatch_core.sky.cutouts import Cutout
from levelmatch_core.sky.grid import Grid
from levelmatch_core.sky.pixelmap import grid_to_image, place
from levelmatch_core.sky.resample import bilinear
from tests.benchmarks import others
from tests.benchmarks.scenes.program import MIDDLE, SCALE, Truth
from tests.matching.fakes import make_cutout

Array = NDArray[np.float64]

GRID = Grid(ra=MIDDLE[0], dec=MIDDLE[1], angle=25.0, scale=3600 * SCALE)


@dataclass(frozen=True)
class Found:
    """What levelmatch makes of a scene, and what it says of it."""

    error: float
    """Rms of the levels' errors, one constant a component taken out."""
    pull: float
    """Rms over exposures of error over stated error, relative to the reference of the component."""
    grade: Grade
    components: int


def error(levels: Sequence[float], truth: Sequence[Truth]) -> float:
    """Return the rms of the levels' errors, one constant taken out."""
    return float(np.std(np.array(levels) - [one.level for one in truth]))


def ours(folder: Path, truth: Sequence[Truth], settings: MatchSettings) -> Found:
    """Return what levelmatch makes of the exposures in a folder."""
    result = match_levels(folder, settings=settings)
    by_name = {one.exposure.path.name: one for one in result.corrections}
    mine = [by_name[one.name] for one in truth]
    wrong = np.array([one.total.level for one in mine]) - [one.level for one in truth]
    sigma = np.array([one.sigma[0] for one in mine])
    is_reference = np.array([one.status is Status.REFERENCE for one in mine])
    component = np.array([-number if one.component is None else one.component for number, one in enumerate(mine)])
    left, pulls = np.zeros(len(mine)), []
    for part in np.unique(component):
        inside = component == part
        left[inside] = wrong[inside] - wrong[inside].mean()
        zero, others_ = inside & is_reference, inside & ~is_reference
        if zero.any():
            pulls += ((wrong[others_] - wrong[zero].mean()) / sigma[others_]).tolist()
    pull = float(np.sqrt(np.mean(np.square(pulls)))) if pulls else float("nan")
    return Found(float(np.sqrt(np.mean(left**2))), pull, result.grade, len(np.unique(component)))


def oracle(truth: Sequence[Truth]) -> float:
    """Return the error of least squares of means over noise alone: no sky at all."""
    return error(of_means([_cutout(one.noise, one) for one in truth]), truth)


def dense(images: Sequence[Array], truth: Sequence[Truth]) -> float:
    """Return the error of least squares of the differences' means, all pixels in."""
    return error(of_means([_cutout(image, one) for image, one in zip(images, truth, strict=True)]), truth)


def peers(images: Sequence[Array], truth: Sequence[Truth]) -> dict[str, float]:
    """Return the errors of the peers that are installed, on the same bilinear cutouts."""
    tiles: list[Cutout] = []
    for number, (image, one) in enumerate(zip(images, truth, strict=True)):
        data, x0, y0 = _cutout(image, one)
        tiles.append(make_cutout(f"e{number:04d}", data, x0, y0))
    found = {}
    if others.there("MontagePy"):
        found["Montage"] = error(others.montage(tiles, 1, None)[:, 0].tolist(), truth)
    if others.there("stcal"):
        found["skymatch"] = error(others.stcal(tiles, None, "median")[:, 0].tolist(), truth)
    return found


def of_means(cutouts: Sequence[tuple[Array, int, int]]) -> list[float]:
    """Solve for levels by the means of all pairs' differences, weighed by their pixels."""
    rows, values = [], []
    for (i, (a, ax, ay)), (j, (b, bx, by)) in itertools.combinations(enumerate(cutouts), 2):
        x0, y0 = max(ax, bx), max(ay, by)
        x1, y1 = min(ax + a.shape[1], bx + b.shape[1]), min(ay + a.shape[0], by + b.shape[0])
        if x1 <= x0 or y1 <= y0:
            continue
        left = b[y0 - by : y1 - by, x0 - bx : x1 - bx] - a[y0 - ay : y1 - ay, x0 - ax : x1 - ax]
        left = left[np.isfinite(left)]
        if left.size > 100:
            weight = np.sqrt(left.size) / np.std(left)
            row = np.zeros(len(cutouts))
            row[i], row[j] = -weight, weight
            rows.append(row)
            values.append(weight * left.mean())
    found: list[float] = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0].tolist()
    return found


def _cutout(image: Array, one: Truth) -> tuple[Array, int, int]:
    size = image.shape[0]
    box = place(GRID, one.wcs, (0, size), (0, size)).box
    data = bilinear(image, None, grid_to_image(GRID, one.wcs, image.shape, box), box).data
    return np.asarray(data, dtype=float), box.x0, box.y0
