"""Leaving a pair out, without a solve, against leaving it out and solving again."""

import numpy as np
import pytest

from levelmatch_core.matching.match import match
from levelmatch_core.matching.model_selection import leave_one_pair_out
from levelmatch_core.matching.results import Gauge, PairFit
from levelmatch_core.sky.plane import Plane
from tests.matching.fakes import (
    NO_REJECTION,
    make_cutout,
    member,
    settings_for,
)

LENGTHS = (1.0, 1e-2, 1e-2)


def trial(k, seed, edges, n):
    """Return pairs' planes, moments and weights of a random problem."""
    rng = np.random.default_rng(seed)
    measured = []
    for first, second in edges:
        x0, y0 = rng.uniform(0, 300, 2)
        pixels = np.column_stack([np.ones(500), rng.normal(0, 30, 500), rng.normal(0, 20, 500)])
        delta = rng.normal(0, 1, 3) * LENGTHS if k == 3 else np.array([rng.normal(), 0, 0])
        measured.append((first, second, x0, y0, delta, pixels.T @ pixels, rng.uniform(0.5, 2)))
    assert n == 1 + max(second for _, second, *_ in measured)
    return measured


def row(pair, n, k):
    first, second, x0, y0, *_ = pair
    look = np.eye(3)
    look[0, 1:] = x0, y0
    block = np.zeros((k, n * k))
    block[:, second * k : (second + 1) * k] = look[:k, :k]
    block[:, first * k : (first + 1) * k] = -look[:k, :k]
    return block


def solved(measured, n, k):
    """Return (n, k) coefficients about the origin, member 0 held: dense weighted least squares."""
    design = np.vstack([np.linalg.cholesky(p[5][:k, :k] * p[6] / 500).T @ row(p, n, k) for p in measured])
    wanted = np.concatenate([np.linalg.cholesky(p[5][:k, :k] * p[6] / 500).T @ p[4][:k] for p in measured])
    free = np.linalg.lstsq(design[:, k:], wanted, rcond=None)[0]
    return np.concatenate([np.zeros(k), free]).reshape(n, k)


def solution(measured, n, k, *, rejected=()):
    """Return what `match` makes of the pairs, each with its weight's error, which no other pair shares."""
    fit_type = "level" if k == 1 else "level+slope"
    names = [f"m{number}" for number in range(n)]
    members = [member(make_cutout(name, np.zeros((40, 40)))) for name in names]
    fits = []
    for number, (first, second, x0, y0, delta, moments, weight) in enumerate(measured):
        fits.append(PairFit(
            first=names[first], second=names[second], npix=500, n_used=500, moments=tuple(moments.ravel()),
            rms=100.0 if number in rejected else 1.0,
            plane=Plane(level=delta[0], slope_x=delta[1], slope_y=delta[2], x0=x0, y0=y0), stderr=weight**-0.5,
            correlation=1.0, shared=0.0, extent=(1.0, 1.0), linear=(1.0, 1.0), converged=True,
        ))  # fmt: skip
    options = settings_for(
        "mosaic_tiles", fit_type, weight_method="error", slope_prior="off", **NO_REJECTION | {"rms_sig_limit": 2.0}
    )
    return match("mosaic_tiles", "all", members, fits, Gauge.REFERENCE, options)


RING = [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (0, 4), (3, 4), (2, 4)]


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_what_leaving_out_and_solving_again_gives(k, seed):
    measured = trial(k, seed, RING, 5)
    squares = []
    for number, pair in enumerate(measured):
        others = solved(measured[:number] + measured[number + 1 :], 5, k)
        left = pair[4][:k] - row(pair, 5, k) @ others.ravel()
        squares.append(left @ pair[5][:k, :k] @ left / 500)
    found = leave_one_pair_out([solution(measured, 5, k)])
    assert (found.tested, found.used) == (8, 8)
    assert found.rms == pytest.approx(np.sqrt(np.mean(squares)), rel=1e-6)


def test_a_bridge_is_not_tested_and_a_rejected_pair_is_not_used():
    measured = trial(1, 5, [*RING, (4, 5)], 6)
    found = leave_one_pair_out([solution(measured, 6, 1, rejected={0})])
    assert (found.tested, found.used) == (7, 8)


def test_nothing_to_test():
    assert leave_one_pair_out([]).rms == 0.0
    measured = trial(1, 5, [(0, 1)], 2)
    found = leave_one_pair_out([solution(measured, 2, 1)])
    assert (found.rms, found.tested, found.used) == (0.0, 0, 1)
