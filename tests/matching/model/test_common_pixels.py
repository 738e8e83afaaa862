"""A pixel that n members see enters n (n - 1)/2 pairs, and tells n - 1 differences: what weight its pairs keep."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import shapely

from levelmatch_core.matching.model.common_pixels import kept_weights
from levelmatch_core.matching.model.facing import NOT_FACING
from levelmatch_core.matching.model.problem import build
from levelmatch_core.sky.cutouts import Cutout
from tests.matching.fakes import NO_REJECTION, fit_all, grid_positions, make_cutout, settings_for

SIZE = 100


class Exact:
    """Square members of white noise: the pairs, and the exact errors of levels for any weights of the pairs."""

    def __init__(self, positions: Sequence[tuple[float, float]]) -> None:
        at = np.array(positions, dtype=float)
        self.outlines = tuple(shapely.box(x, y, x + SIZE, y + SIZE) for x, y in at.tolist())
        x, y = (np.unique(np.concatenate([side, side + SIZE])) for side in at.T)
        cells: list[tuple[list[int], float]] = []
        for left, right in pairwise(x):
            for low, high in pairwise(y):
                inside = (at[:, 0] <= left) & (at[:, 0] + SIZE >= right)
                inside &= (at[:, 1] <= low) & (at[:, 1] + SIZE >= high)
                cells.append((np.flatnonzero(inside).tolist(), float((right - left) * (high - low))))
        n = len(at)
        self.fisher = np.zeros((n, n))
        pixels = np.zeros((n, n))
        for seen, area in cells:
            pixels[np.ix_(seen, seen)] += area
            if seen:
                self.fisher[np.ix_(seen, seen)] += area * (np.eye(len(seen)) - 1 / len(seen))
        self.first, self.second = np.nonzero(np.triu(pixels, 1))
        self.pixels = pixels[self.first, self.second]
        number = np.full((n, n), -1)
        number[self.first, self.second] = number[self.second, self.first] = np.arange(len(self.first))
        self.covariance = np.zeros((len(self.first), len(self.first)))
        for seen, area in cells:
            for one in seen:
                mine = [(number[one, other], 1 if other < one else -1) for other in seen if other != one]
                for p, sign in mine:
                    for q, other_sign in mine:
                        self.covariance[p, q] += sign * other_sign * area / self.pixels[p] / self.pixels[q]
        self.design = np.zeros((len(self.first), n))
        self.design[np.arange(len(self.first)), self.first] = -1
        self.design[np.arange(len(self.first)), self.second] = 1

    @property
    def kept(self) -> np.ndarray:
        middles = np.array(
            [
                shapely.intersection(self.outlines[i], self.outlines[j]).centroid.coords[0]
                for i, j in zip(self.first, self.second, strict=True)
            ]
        )
        places = np.repeat(middles[:, None], 2, axis=1)
        return kept_weights(self.outlines, NOT_FACING, self.first, self.second, places, self.pixels / 2)

    def error(self, weights: np.ndarray | None = None) -> float:
        """Return the rms of the levels, a constant taken out: with weights of the pairs (matrix: all covariances)."""
        matrix = np.linalg.pinv(self.covariance, rcond=1e-9, hermitian=True) if weights is None else np.diag(weights)
        there = np.linalg.pinv(self.design.T @ matrix @ self.design, rcond=1e-11, hermitian=True)
        through = there @ self.design.T @ matrix
        return float(np.sqrt(np.trace(through @ self.covariance @ through.T) / len(there)))

    @property
    def bound(self) -> float:
        return float(np.sqrt(np.trace(np.linalg.pinv(self.fisher, rcond=1e-11, hermitian=True)) / len(self.fisher)))


def test_two_members_and_a_strip_keep_all() -> None:
    """No pixel is in two pairs; the only overlap of two is not even looked at."""
    assert Exact([(0, 0), (60, 0)]).kept == pytest.approx([1.0])
    assert Exact([(70 * i, 0) for i in range(5)]).kept == pytest.approx(np.ones(4))


@pytest.mark.parametrize("members", [3, 4, 7])
def test_members_on_top_of_each_other_keep_two_of_n(members: int) -> None:
    """The information of pixels that n see is that of all pairs with 2/n of the weight each."""
    on_top = Exact([(0, 0)] * members)
    assert on_top.kept == pytest.approx(np.full(members * (members - 1) // 2, 2 / members))


def test_a_small_overlap_is_judged_by_its_centroid() -> None:
    """A corner of 2 by 2 % of a tile has no sample point in it; as one of 15 % it keeps what its size says."""
    for overlap in (2.0, 15.0):
        positions = [(x * (SIZE - overlap), y * (SIZE - overlap)) for y in (0, 1) for x in (0, 1)]
        mosaic = Exact(positions)
        corner = mosaic.pixels < 1.5 * overlap**2
        assert np.count_nonzero(corner) == 2
        side, small = SIZE * overlap, overlap**2
        assert mosaic.kept[corner] == pytest.approx(1.5 * small / (2 * side + small), rel=0.02)


@pytest.mark.parametrize("overlap", [0.05, 0.15, 0.23, 0.35])
def test_levels_of_tiles_are_nearly_those_of_all_covariances(overlap: float) -> None:
    """Pairs taken for independent lose 3 to 6 % to the bound of the pixels; to all covariances, 0 to 0.6 % are left."""
    mosaic = Exact(grid_positions(6, 6, SIZE, overlap))
    before, after, best = (
        mosaic.error(mosaic.pixels) / mosaic.bound,
        mosaic.error(mosaic.pixels * mosaic.kept) / mosaic.bound,
        mosaic.error() / mosaic.bound,
    )
    assert 1.025 < before < 1.07
    assert 1.0 <= best <= after < best + 0.008


def test_it_is_never_worse_than_to_take_pairs_for_independent() -> None:
    """Members wherever they are: it gains 0.1 to 3 %."""
    rng = np.random.default_rng(3)
    layouts = [rng.integers(0, spread, (count, 2)).tolist() for count in (4, 9, 20) for spread in (10, 50, 200)]
    layouts += [np.column_stack([np.arange(12) * 40, rng.integers(0, 12, 12)]).tolist()]
    for layout in layouts:
        members = Exact(layout)
        if np.linalg.matrix_rank(members.fisher, tol=1e-6) < len(layout) - 1:
            continue
        assert members.error(members.pixels * members.kept) < 1.0005 * members.error(members.pixels)


def four_that_share_a_corner() -> list[Cutout]:
    rng = np.random.default_rng(1)
    places = enumerate(grid_positions(2, 2, 64, 0.3))
    return [make_cutout(f"m{i}", rng.standard_normal((64, 64)), x, y) for i, (x, y) in places]


def test_what_pairs_disagree_by_is_their_own() -> None:
    """With an excess scatter far above their noise, pairs in a corner are as good as if none shared a pixel."""
    options = settings_for(weight_method="error", **NO_REJECTION)
    problem = build(*fit_all(four_that_share_a_corner(), "level", options), "level", [], options)
    assert problem.evened().weights == pytest.approx(problem.weights)
    kept = [problem.evened(scatter).weights / problem.apart for scatter in (0.0, 0.05, 10.0)]
    assert kept[2] == pytest.approx(np.ones(len(problem.rms)), rel=0.01)
    assert np.all(kept[0] < kept[1])
    assert np.all(kept[1] < kept[2])
    part = problem.part(np.array([0, 1, 3]))
    assert len(part.apart) == len(part.weights) == 3


def test_only_weights_by_error_and_shared_noise_follow_it() -> None:
    members, fits = fit_all(four_that_share_a_corner(), "level", settings_for(**NO_REJECTION))
    own = [fit.model_copy(update={"shared": 0.0}) for fit in fits]
    for method, told in (("error", True), ("npix", False), ("rms", False), ("equal", False)):
        options = settings_for(weight_method=method)
        shared, alone = (build(members, given, "level", [], options).weights for given in (fits, own))
        part = shared / alone
        assert bool(part.max() < 0.95) is told
        assert told or part == pytest.approx(np.ones(len(fits)))
