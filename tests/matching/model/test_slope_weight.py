"""Where planes do not describe what pairs show, levels count more than slopes: steps are small, planes hardly worse."""

from dataclasses import replace

import numpy as np
import pytest
import shapely

from levelmatch_core.matching.match import match
from levelmatch_core.matching.model import problem as problems
from levelmatch_core.matching.model.problem import Problem
from levelmatch_core.matching.results import Gauge, Solution
from levelmatch_core.matching.uncertainty.component import uncertainties
from levelmatch_core.sky.cutouts import Cutout
from tests.matching.fakes import NO_REJECTION, fit_all, grid_positions, make_cutout, settings_for

SIZE = 64


def curved(seed: int) -> list[Cutout]:
    """Nine tiles over a smooth sky, each with a background of its own that is curved."""
    rng = np.random.default_rng(seed)
    v, u = np.mgrid[:SIZE, :SIZE] / SIZE - 0.5
    cutouts = []
    for number, (x0, y0) in enumerate(grid_positions(3, 3, SIZE, 0.2)):
        a, b, c, d, e, f = rng.normal(0, (1, 1, 1, 1, 1, 1))
        background = a + b * u + c * v + d * u * u + e * u * v + f * v * v
        cutouts.append(make_cutout(f"m{number}", background + 0.05 * rng.standard_normal((SIZE, SIZE)), x0, y0))
    return cutouts


def solved(cutouts: list[Cutout]) -> Solution:
    options = settings_for("mosaic_tiles", "level+slope", weight_method="error", slope_prior="off", **NO_REJECTION)
    return match("mosaic_tiles", "f", *fit_all(cutouts, "level+slope", options), Gauge.MEAN, options)


def steps_and_errors(cutouts: list[Cutout]) -> tuple[float, float]:
    """Return the mean squares of the seams' levels, and over pixels of what the planes leave, one plane taken out."""
    found = solved(cutouts)
    seams = np.mean([pair.residual**2 for pair in found.pairs])
    rows, left = [], []
    for cutout, one in zip(cutouts, found.members, strict=True):
        y, x = np.mgrid[:SIZE:8, :SIZE:8]
        x, y = x + cutout.record.x0, y + cutout.record.y0
        left.append((cutout.data[::8, ::8] - one.plane(x, y)).ravel())
        rows.append(np.stack([np.ones(x.size), x.ravel(), y.ravel()], axis=1))
    design, values = np.concatenate(rows), np.concatenate(left)
    return float(seams), float(np.mean((values - design @ np.linalg.lstsq(design, values, rcond=None)[0]) ** 2))


def test_steps_are_smaller_and_planes_hardly_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    programs = [curved(seed) for seed in range(6)]
    lighter = np.sqrt(np.mean([steps_and_errors(one) for one in programs], axis=0))
    monkeypatch.setattr(problems, "SLOPE_WEIGHT", 1.0)
    equal = np.sqrt(np.mean([steps_and_errors(one) for one in programs], axis=0))
    assert lighter[0] < 0.75 * equal[0]
    assert lighter[1] < 1.05 * equal[1]


def _noisy(seed: int) -> Problem:
    """Return four members on a square, all pairs of which overlap, with random moments."""
    rng = np.random.default_rng(seed)
    first, second = np.triu_indices(4, 1)
    slopes = rng.standard_normal((6, 2, 2))
    moments = np.zeros((6, 3, 3))
    moments[:, 0, 0] = 1
    moments[:, 1:, 1:] = slopes @ slopes.transpose(0, 2, 1) + 0.1 * np.eye(2)
    variance = rng.uniform(0.5, 2, 6)
    return Problem(
        names=tuple("abcd"),
        centres=np.array([(0.0, 0), (30, 0), (0, 30), (30, 30)]),
        outlines=tuple(shapely.box(x, y, x + 40, y + 40) for x, y in ((0, 0), (30, 0), (0, 30), (30, 30))),
        scale=20.0,
        fixed=np.zeros(4, dtype=bool),
        first=first,
        second=second,
        centroids=rng.uniform(10, 50, (6, 2)),
        delta=rng.standard_normal((6, 3)),
        moments=moments,
        weights=1 / variance,
        n_used=np.full(6, 100.0),
        rms=np.ones(6),
        variance=variance,
        shared=np.zeros(6),
    )


def test_errors_are_those_of_the_differences_whatever_slopes_weigh() -> None:
    """Dense algebra: the covariance of the differences is that of the pixels, the weights are the lighter ones."""
    plain = _noisy(3)
    problem = replace(plain.evened(), weights=plain.weights)
    assert problem.slope_weight == problems.SLOPE_WEIGHT
    np.testing.assert_allclose(problem.pixel_moments, plain.moments, rtol=1e-12)
    n, pairs = 4, 6
    design, weight, covariance = (np.zeros(shape) for shape in ((18, 12), (18, 18), (18, 18)))
    shifts = {"first": plain.shifts(0), "second": plain.shifts(1)}
    lighter = np.diag([1.0, problems.SLOPE_WEIGHT, problems.SLOPE_WEIGHT])
    for pair in range(pairs):
        rows = slice(3 * pair, 3 * pair + 3)
        design[rows, 3 * plain.first[pair] : 3 * plain.first[pair] + 3] = -shifts["first"][pair]
        design[rows, 3 * plain.second[pair] : 3 * plain.second[pair] + 3] = shifts["second"][pair]
        weight[rows, rows] = plain.weights[pair] * lighter @ plain.moments[pair]
        covariance[rows, rows] = plain.variance[pair] * np.linalg.inv(plain.moments[pair])
    solve = np.linalg.pinv(design.T @ weight @ design, rcond=1e-10) @ design.T @ weight
    to_gauge = np.stack([plain.to_gauge(unit.reshape(n, 3)).ravel() for unit in np.eye(3 * n)], axis=1)
    total = to_gauge @ solve @ covariance @ solve.T @ to_gauge.T
    found, _ = uncertainties(problem, modes=0)
    np.testing.assert_allclose(found.ravel(), np.sqrt(np.diag(total)), rtol=1e-5)
