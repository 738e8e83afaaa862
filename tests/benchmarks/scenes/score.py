"""What levelmatch, least squares of means and an oracle make of a scene: rms of the levels' errors."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from levelmatch_core import MatchSettings, match_levels
from levelmatch_core.sky.grid import Grid
from levelmatch_core.sky.pixelmap import grid_to_image, place
from levelmatch_core.sky.resample import bilinear
from tests.benchmarks.scenes.program import MIDDLE, SCALE, Truth

Array = NDArray[np.float64]

GRID = Grid(ra=MIDDLE[0], dec=MIDDLE[1], angle=25.0, scale=3600 * SCALE)


def error(levels: Sequence[float], truth: Sequence[Truth]) -> float:
    """Return the rms of the levels' errors, one constant taken out."""
    return float(np.std(np.array(levels) - [one.level for one in truth]))


def ours(folder: Path, truth: Sequence[Truth], settings: MatchSettings) -> tuple[float, float]:
    """Return the error of levelmatch, and its rms pull against the zero of the reference."""
    found = match_levels(folder, settings=settings)
    by_name = {one.exposure.path.name: one for one in found.corrections}
    mine = [by_name[one.name] for one in truth]
    levels = np.array([one.total.level for one in mine])
    wrong = levels - [one.level for one in truth]
    sigma = np.array([one.sigma[0] for one in mine])
    reference = np.array([str(one.status) == "reference" for one in mine])
    pulls = (wrong - wrong[reference].mean())[~reference] / sigma[~reference]
    return error(levels.tolist(), truth), float(np.sqrt(np.mean(pulls**2)))


def oracle(truth: Sequence[Truth]) -> float:
    """Return the error of least squares of means over noise alone: no sky at all."""
    return error(of_means([_cutout(one.noise, one) for one in truth]), truth)


def dense(images: Sequence[Array], truth: Sequence[Truth]) -> float:
    """Return the error of least squares of the differences' means, all pixels in."""
    return error(of_means([_cutout(image, one) for image, one in zip(images, truth, strict=True)]), truth)


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
