"""Errors of the sums of all stages, against pixels propagated one by one, and against the errors of a single stage."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import shapely

from levelmatch_core.matching.model.problem import Problem, shift
from levelmatch_core.matching.uncertainty.component import sigmas
from levelmatch_core.matching.uncertainty.exposure_noise import pair_errors
from levelmatch_core.matching.uncertainty.propagation import Lattice, Solved, mosaic_levels, total_errors
from levelmatch_core.matching.uncertainty.scene import Exposures, MatchedGroup

SIZE = 24
NOISE = np.array([1.0, 1.6, 0.8])
PLACES = np.array([[0, 0], [3, 2], [-2, 4], [17, 1], [19, -2], [15, 3]])
"""Two tiles of three dithers: x, y of the first pixels."""


def all_errors(stages: Sequence[Sequence[Solved]], exposures: Exposures, seed: int = 0) -> np.ndarray:
    return np.concatenate(list(total_errors(stages, exposures, seed=seed)), axis=2)


def boxes(places: np.ndarray) -> np.ndarray:
    return np.array([shapely.box(x - 0.5, y - 0.5, x + SIZE - 0.5, y + SIZE - 0.5) for x, y in places], dtype=object)


def centres(places: np.ndarray) -> np.ndarray:
    return places + (SIZE - 1) / 2


def seen(places: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return (E, P) which exposures hold which pixels."""
    inside = (x >= places[:, :1]) & (x < places[:, :1] + SIZE)
    return inside & (y >= places[:, 1:]) & (y < places[:, 1:] + SIZE)


class Pixels:
    """Least squares of every pair's plane, as explicit maps from the noise of every pixel of every exposure."""

    def __init__(self, places: np.ndarray) -> None:
        self.places = places
        self.size = len(places) * SIZE**2

    def pair(self, first: Sequence[int], second: Sequence[int], total: np.ndarray, k: int, scale: float) -> tuple:
        """Return centroid, moments, plane (k, pixels) of second - first, of stacks less their errors so far."""
        everywhere = np.arange(-10, 60)
        x, y = (grid.ravel() for grid in np.meshgrid(everywhere, everywhere))
        fixed = seen(self.places, x, y)
        use = fixed[list(first)].any(axis=0) & fixed[list(second)].any(axis=0)
        x, y, fixed = x[use], y[use], fixed[:, use]
        middle = np.array([x.mean(), y.mean()])
        basis = np.stack([np.ones(len(x)), (x - middle[0]) / scale, (y - middle[1]) / scale], axis=1)[:, :k]
        values = np.zeros((len(x), self.size))
        for side, members in ((-1.0, first), (1.0, second)):
            count = fixed[list(members)].sum(axis=0)
            for one in members:
                rows = np.flatnonzero(fixed[one])
                at = (y[rows] - self.places[one, 1]) * SIZE + x[rows] - self.places[one, 0]
                values[rows, one * SIZE**2 + at] += side * NOISE[one % 3] / count[rows]
                there = np.stack(
                    [np.ones(len(rows)), *(np.stack([x, y])[:, rows] - centres(self.places)[one][:, None])]
                )
                values[rows] -= side / count[rows][:, None] * (there.T @ total[one])
        moments = basis.T @ basis / len(x)
        return middle, moments, np.linalg.solve(moments, basis.T @ values / len(x)), len(x), np.mean(values**2, 0).sum()


def group(pixels: Pixels, parts: list[tuple[int, ...]], total: np.ndarray, k: int, fixed: int | None) -> tuple:
    """Return a component of all pairs of its members, and the maps of its pairs' errors (K, k, pixels)."""
    scale = SIZE / 2
    pairs = [(i, j) for i in range(len(parts)) for j in range(i + 1, len(parts))]
    found = [pixels.pair(parts[i], parts[j], total, k, scale) for i, j in pairs]
    noise_only = [pixels.pair(parts[i], parts[j], 0 * total, k, scale) for i, j in pairs]
    weights = np.array([n / square for *_, n, square in noise_only])
    outlines = [shapely.union_all(boxes(pixels.places[list(part)])).convex_hull for part in parts]
    middle = np.array([centres(pixels.places[list(part)]).mean(axis=0) for part in parts])
    problem = Problem(
        names=tuple(map(str, range(len(parts)))),
        centres=middle,
        outlines=tuple(outlines),
        scale=scale,
        fixed=np.arange(len(parts)) == (-1 if fixed is None else fixed),
        first=np.array([i for i, _ in pairs]),
        second=np.array([j for _, j in pairs]),
        centroids=np.array([each[0] for each in found]),
        delta=np.zeros((len(pairs), k)),
        moments=np.array([each[1] for each in found]),
        weights=weights,
        n_used=np.array([float(each[3]) for each in found]),
        rms=np.sqrt([each[4] for each in noise_only]),
        variance=1 / weights,
        shared=np.ones(len(pairs)),
    )
    return problem, np.array([each[2] for each in found])


def solved(problem: Problem, errors: np.ndarray) -> np.ndarray:
    """Return (N, k, pixels) the corrections that errors of the pairs (K, k, pixels) make: dense least squares."""
    n, k, pairs = len(problem.names), problem.k, len(problem.rms)
    design = np.zeros((pairs, k, n, k))
    for pair in range(pairs):
        design[pair, :, problem.first[pair]] -= problem.shifts(0)[pair]
        design[pair, :, problem.second[pair]] += problem.shifts(1)[pair]
    weight = problem.weights[:, None, None] * problem.moments
    free = np.flatnonzero(np.repeat(~problem.fixed, k))
    flat = design.reshape(pairs * k, n * k)[:, free]
    weighted = np.einsum("pab,pbn->pan", weight, design.reshape(pairs, k, n * k)).reshape(pairs * k, n * k)[:, free]
    found = np.zeros((n * k, errors.shape[-1]))
    found[free] = np.linalg.pinv(flat.T @ weighted) @ weighted.T @ errors.reshape(pairs * k, -1)
    corrections = found.reshape(n, k, -1)
    if problem.mean_gauge:
        common = np.broadcast_to(problem.centres.mean(axis=0), problem.centres.shape)
        mean = np.einsum("nab,nbp->ap", shift(problem.centres, common, problem.scale, k), corrections) / n
        corrections = corrections - np.einsum("nab,bp->nap", shift(common, problem.centres, problem.scale, k), mean)
    return corrections


def add(total: np.ndarray, problem: Problem, parts: list[tuple[int, ...]], corrections: np.ndarray, at: np.ndarray):
    for part, centre, correction in zip(parts, problem.centres, corrections, strict=True):
        for one in part:
            total[one, 0] += correction[0]
            if problem.k == 3:
                total[one, 0] += (at[one] - centre) / problem.scale @ correction[1:]
                total[one, 1:] += correction[1:] / problem.scale


@pytest.mark.slow
@pytest.mark.parametrize(("k_dithers", "k_mosaic"), [(1, 1), (1, 3), (3, 3)])
def test_totals_are_those_of_every_pixel(k_dithers: int, k_mosaic: int) -> None:
    pixels = Pixels(PLACES)
    at = centres(PLACES)
    nothing = np.zeros((6, 3, pixels.size))
    exact = nothing.copy()
    stages: list[list[Solved]] = [[], []]
    for tile in ([(0,), (1,), (2,)], [(3,), (4,), (5,)]):
        problem, errors = group(pixels, tile, nothing, k_dithers, None)
        add(exact, problem, tile, solved(problem, errors), at)
        stages[0].append(Solved(MatchedGroup(problem, tuple(tile))))
    tiles = [(0, 1, 2), (3, 4, 5)]
    problem, errors = group(pixels, tiles, exact, k_mosaic, 0)
    add(exact, problem, tiles, solved(problem, errors), at)
    stages[1].append(Solved(MatchedGroup(problem, tuple(tiles))))
    exposures = Exposures(boxes(PLACES), at, NOISE[np.arange(6) % 3])
    found = all_errors(stages, exposures)
    expected, seen_ = exact @ exact.transpose(0, 2, 1), found @ found.transpose(0, 2, 1)
    sigma = np.sqrt(np.einsum("naa->na", expected))
    there = sigma > 0
    np.testing.assert_allclose(np.sqrt(np.einsum("naa->na", seen_))[there], sigma[there], rtol=0.05)
    # between exposures, too
    levels, likely = exact[:, 0] @ exact[:, 0].T, found[:, 0] @ found[:, 0].T
    size = np.sqrt(np.outer(np.diag(levels), np.diag(levels)))
    np.testing.assert_allclose(likely / size, levels / size, atol=0.06)


def test_an_error_that_all_dithers_share_moves_the_stack_by_as_much() -> None:
    pixels = Pixels(PLACES)
    nothing = np.zeros((6, 3, pixels.size))
    tiles = [(0, 1, 2), (3, 4, 5)]
    problem, _ = group(pixels, tiles, nothing, 3, 0)
    exposures = Exposures(boxes(PLACES), centres(PLACES), NOISE[np.arange(6) % 3])
    carried = pair_errors([MatchedGroup(problem, tuple(tiles))], exposures)[0].carried
    plane = np.array([2.0, 0.01, -0.03])
    common = np.zeros((6, 3))
    common[3:] = plane
    common[3:, 0] += (centres(PLACES)[3:] - problem.centroids[0]) @ plane[1:]
    expected = -problem.moments[0] @ (plane * [1, problem.scale, problem.scale])
    np.testing.assert_allclose(carried @ common.ravel(), expected, rtol=1e-9)
    common[:3], common[3:] = common[3:], 0
    common[:3, 0] = plane[0] + (centres(PLACES)[:3] - problem.centroids[0]) @ plane[1:]
    np.testing.assert_allclose(carried @ common.ravel(), -expected, rtol=1e-9)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("fixed", [None, 2])
def test_one_stage_has_the_errors_that_its_solve_states(k: int, fixed: int | None) -> None:
    pixels = Pixels(PLACES)
    singles = [(one,) for one in range(6)]
    problem, _ = group(pixels, singles, np.zeros((6, 3, pixels.size)), k, fixed)
    exposures = Exposures(boxes(PLACES), centres(PLACES), NOISE[np.arange(6) % 3])
    found = all_errors([[Solved(MatchedGroup(problem, tuple(singles)))]], exposures)
    stated = sigmas(problem) / np.array([1, problem.scale, problem.scale])[:k]
    np.testing.assert_allclose(np.sqrt(np.sum(found**2, axis=2))[:, :k], stated, rtol=0.03)


def test_draws_agree_with_what_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = Pixels(PLACES)
    singles = [(one,) for one in range(6)]
    problem, _ = group(pixels, singles, np.zeros((6, 3, pixels.size)), 3, 0)
    exposures = Exposures(boxes(PLACES), centres(PLACES), NOISE[np.arange(6) % 3])
    stages = [[Solved(MatchedGroup(problem, tuple(singles)))]]
    exact = np.sqrt(np.sum(all_errors(stages, exposures) ** 2, axis=2))
    monkeypatch.setattr("levelmatch_core.matching.uncertainty.propagation.EXACT", 0)
    drawn = all_errors(stages, exposures, seed=3)
    there = exact > 0
    np.testing.assert_allclose(np.sqrt(np.sum(drawn**2, axis=2))[there], exact[there], rtol=0.15)
    np.testing.assert_array_equal(drawn, all_errors(stages, exposures, seed=3))


def test_the_map_of_errors_is_that_of_the_mean_of_what_covers_a_point() -> None:
    rng = np.random.default_rng(4)
    errors = rng.standard_normal((6, 3, 50)) * [[[1.0], [0.02], [0.03]]]
    at = centres(PLACES)
    lattice = Lattice(x0=-20.0, y0=-10.0, step=4.0, shape=(11, 18))
    exposures = Exposures(boxes(PLACES), at, np.ones(6))
    found = (mosaic_levels(exposures, lattice) @ errors.reshape(18, 50)).reshape(11, 18, 50)
    for row, column in ((4, 6), (5, 8), (6, 10), (4, 12)):
        x, y = lattice.x0 + column * lattice.step, lattice.y0 + row * lattice.step
        fixed = np.flatnonzero(shapely.contains_xy(exposures.outlines, x, y))
        assert len(fixed)
        values = [errors[one, 0] + (np.array([x, y]) - at[one]) @ errors[one, 1:] for one in fixed]
        np.testing.assert_allclose(found[row, column], np.mean(values, axis=0))
    assert not found[0, 0].any()
    assert np.count_nonzero(found.any(axis=2)) > 40


def test_what_pairs_show_beyond_noise_is_theirs_alone_and_their_members() -> None:
    """Four exposures on top of each other: by hand for a complete graph, with the mean gauge."""
    pixels = Pixels(PLACES[[0, 0, 0, 0]])
    parts = [(0,), (1,), (2,), (3,)]
    problem, _ = group(pixels, parts, np.zeros((4, 3, pixels.size)), 1, None)
    exposures = Exposures(boxes(pixels.places), centres(pixels.places), np.ones(4))
    variance = []
    for structure in (np.zeros(0), np.full(6, 0.04)):
        changed = replace(problem, structure=structure, weights=np.ones(6))
        errors = all_errors([[Solved(MatchedGroup(changed, tuple(parts)))]], exposures)
        variance.append(np.sum(errors[:, 0] ** 2, axis=1))
    # a pair's own: 3/16 of its variance; a member's: half of the variance, less the mean over four
    assert variance[1] - variance[0] == pytest.approx(np.full(4, 0.04 * (3 / 16 + 0.5 * 3 / 4)))
