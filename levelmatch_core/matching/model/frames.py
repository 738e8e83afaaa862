"""Planes of members whose grids differ: how a pair sees them on the grid of its patch.

A member's plane lies on the grid of its home, about its own centre. On another tangent plane it is no plane any more,
but a pair measures nothing except the plane that fits it best over the overlap. That fit is linear in the member's
coefficients, and is taken here over the nine points of a Gauss-Legendre rule in the rectangle that has the overlap's
second moments (the fit of a quadratic surface over a rectangle is then exact, and that of a cubic one, too). Where both
members are at home on the patch of the pair nothing is approximated.

What remains is due to overlaps that are no rectangles: below a thousandth of the change of the plane over an exposure,
for exposures of up to 15 degrees at any place of the sky (tests/matching/test_frames.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from levelmatch_core.matching.model.facing import numbers_of, spread_out
from levelmatch_core.matching.results import Member
from levelmatch_core.process.compilation import njit
from levelmatch_core.sky.grid import Grid

Array = NDArray[np.float64]
Index = NDArray[np.int64]

Views = tuple[Array, Array]
"""(K, 2, 2) centroid of each pair on the grid of either member; where members are on several grids, (K, 2, 2, 2) the
matrix that takes steps on the grid of either member to steps on that of the pair (else empty)."""

NODES = np.array([-(0.6**0.5), 0.0, 0.6**0.5])
"""Gauss-Legendre points of [-1, 1]."""
NODE_WEIGHTS = np.array([5.0, 8.0, 5.0]) / 18.0
THINNEST = 1 / 12
"""Variance of a position within an overlap along either axis is at least that within a pixel."""


def _none(*shape: int) -> Array:
    return np.zeros(shape)


@dataclass(frozen=True)
class Frames:
    """How K pairs see the planes of their members; empty where all of N members are on one grid."""

    on_map: Array = field(default_factory=lambda: _none(0, 2))
    """(N, 2) centres of the members on a map of all grids."""
    places: Array = field(default_factory=lambda: _none(0, 2, 2))
    """(K, 2, 2) x, y of each pair's centroid on the grid of its first and of its second member."""
    turns: Array = field(default_factory=lambda: _none(0, 2, 2, 2))
    """(K, 2, 2, 2) the matrix that takes the slopes of either member to slopes on the grid of the pair."""

    def __post_init__(self) -> None:
        for value in (self.on_map, self.places, self.turns):
            value.flags.writeable = False

    def __bool__(self) -> bool:
        return len(self.on_map) > 0

    def views(self, centroids: Array) -> Views:
        """Return where members see the centroids (K, 2) of pairs, and how they see steps from there."""
        if not self:
            return np.repeat(centroids[:, None], 2, axis=1), self.turns.copy()
        return self.places.copy(), np.ascontiguousarray(np.linalg.inv(self.turns.swapaxes(2, 3)))

    @property
    def crosses(self) -> NDArray[np.bool_]:
        """(K,) whether a member of the pair is at home on another grid."""
        return np.asarray((self.turns != np.eye(2)).any(axis=(1, 2, 3)))

    def part(self, members: Index, pairs: NDArray[np.bool_]) -> "Frames":
        """Return the frames of a subset of the members and of the pairs."""
        return Frames(self.on_map[members], self.places[pairs], self.turns[pairs]) if self else self


ONE_FRAME = Frames()
"""All members are on one grid."""


def frames_of(members: Sequence[Member], centroids: Array, moments: Array, first: Index, second: Index) -> Frames:
    """Return how pairs see the planes of their members.

    Parameters
    ----------
    members
        N members.
    centroids, moments
        (K, 2) and (K, 3, 3) of the pixels used, on the grid of the pair's patch.
    first, second
        (K,) the members of each pair.
    """
    grids = [member.grid for member in members]
    if not grids or grids[0] is None:
        return ONE_FRAME
    centres = np.array([member.cutout.centre for member in members])
    places, turns = _seen_by_pairs(members, centroids, moments, np.stack([first, second], axis=1))
    return Frames(spread_out(centres, grids, grids[0].scale), places, turns)


def _seen_by_pairs(members: Sequence[Member], centroids: Array, moments: Array, ends: Index) -> tuple[Array, Array]:
    grids = [member.grid for member in members]
    number, by_name = numbers_of(grids), np.array([member.patch for member in members])
    home = np.where(by_name[ends[:, 0]] <= by_name[ends[:, 1]], ends[:, 0], ends[:, 1])
    places = np.repeat(centroids[:, None], 2, axis=1)
    turns = np.broadcast_to(np.eye(2), (len(ends), 2, 2, 2)).copy()
    keys = number[home][:, None] * len(members) + number[ends]
    crossing = np.argwhere(number[home][:, None] != number[ends])
    order = np.argsort(keys[tuple(crossing.T)], kind="stable")
    crossing = crossing[order]
    starts = np.flatnonzero(np.diff(keys[tuple(crossing.T)], prepend=-1))
    for one in np.split(crossing, starts[1:]) if len(crossing) else ():
        pair, side = one.T
        here, there = grids[home[pair[0]]], grids[ends[pair[0], side[0]]]
        assert here is not None  # noqa: S101 - members have grids all or none
        assert there is not None  # noqa: S101
        places[pair, side], turns[pair, side] = seen_between(here, there, centroids[pair], moments[pair, 1:, 1:])
    return places, turns


def seen_between(grid: Grid, home: Grid, middles: Array, spread: Array) -> tuple[Array, Array]:
    """Return the affine map from one grid to another that fits the true one best over areas, for planes to be seen.

    Parameters
    ----------
    grid
        Where the areas lie.
    home
        Where planes lie that are to be seen on `grid`.
    middles, spread
        (M, 2) middle and (M, 2, 2) covariance of the positions in each area, pixels of `grid`.

    Returns
    -------
    places
        (M, 2) where the middle lies on `home`, as planes have it: their mean over the area is their value there.
    turns
        (M, 2, 2) the matrix from slopes on `home` to slopes on `grid`.
    """
    values, axes = np.linalg.eigh(spread)
    values = np.maximum(values, THINNEST)
    half = np.sqrt(3 * values)
    nodes = np.stack(np.meshgrid(NODES, NODES), axis=-1).reshape(-1, 2)
    weights = np.outer(NODE_WEIGHTS, NODE_WEIGHTS).ravel()
    steps = nodes * half[:, None, :]
    points = middles[:, None] + np.einsum("mab,mqb->mqa", axes, steps)
    seen = np.moveaxis(home.to_pixel(*grid.to_sky(points[..., 0], points[..., 1])), 0, -1)
    along = np.einsum("q,mqb,mqc->mbc", weights, steps, seen) / values[:, :, None]
    return np.einsum("q,mqc->mc", weights, seen), np.einsum("mab,mbc->mac", axes, along)


@njit(nogil=True, cache=True, inline="always")
def from_centroid(views: Views, pair: int, side: int, x: float, y: float) -> tuple[float, float]:
    """Return the step from the centroid of a pair to a point of a member's grid, on the grid of the pair."""
    places, back = views
    right, up = x - places[pair, side, 0], y - places[pair, side, 1]
    if len(back):
        turn = back[pair, side]
        return turn[0, 0] * right + turn[0, 1] * up, turn[1, 0] * right + turn[1, 1] * up
    return right, up
