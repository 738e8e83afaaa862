"""Levels and planes are at the bound of the pixels, and the bound is what dense algebra over pixels gives."""

import numpy as np
import pytest

from tests.benchmarks.accuracy import Mosaic, Trial, inefficiency, trials

AT_THE_BOUND = 1.10
"""Most that the error may be over the bound of the pixels, in every mode alike."""


def over_bound(found: list[Trial], statistic: str, k: int) -> float:
    return float(np.sqrt(np.mean([trial.modes for trial in found]) / inefficiency(statistic, k)))


def test_the_bound_is_that_of_all_pixels() -> None:
    """The oracle solves for each sky pixel and each tile's plane together."""
    mosaic = Mosaic(side=2, size=10, overlap=0.3, noise=0.5)
    width = max(x for x, _ in mosaic.positions) + 10
    rows = []
    for tile, (x0, y0) in enumerate(mosaic.positions):
        for y in range(10):
            for x in range(10):
                row = np.zeros(12 + width**2)
                row[3 * tile : 3 * tile + 3] = 1, (x - 4.5) / 5, (y - 4.5) / 5
                row[12 + (y0 + y) * width + x0 + x] = 1
                rows.append(row)
    design = np.array(rows) / 0.5
    normal = design.T @ design
    sky = np.diag(1 / np.diag(normal)[12:])
    np.testing.assert_allclose(
        mosaic.fisher(3), normal[:12, :12] - normal[:12, 12:] @ sky @ normal[12:, :12], atol=1e-9
    )


def test_no_unbiased_estimate_from_the_pixels_does_better() -> None:
    """Whatever is measured of pairs: all pixels of sky and all planes, fitted together, scatter by the bound."""
    mosaic, noise = Mosaic(side=3, size=12, overlap=0.25, noise=0.3), np.random.default_rng(2)
    pixels, tiles = np.prod(mosaic.shape), len(mosaic.positions)
    u = (np.arange(12) - 5.5) / 6
    basis = np.stack(np.broadcast_arrays(1.0, u, u[:, None]), axis=-1).reshape(-1, 3)
    for k in (1, 3):
        design = np.zeros((tiles, 144, tiles * k + pixels))
        for tile, (x0, y0) in enumerate(mosaic.positions):
            design[tile, :, tile * k : (tile + 1) * k] = basis[:, :k]
            sky = (y0 + np.arange(12))[:, None] * mosaic.shape[1] + x0 + np.arange(12)
            design[tile, np.arange(144), tiles * k + sky.ravel()] = 1
        best = np.linalg.pinv(design.reshape(tiles * 144, -1), rcond=1e-10)[: tiles * k]
        errors = mosaic.values(k) @ best @ (0.3 * noise.standard_normal((tiles * 144, 4000)))
        assert np.sqrt(np.mean(errors**2)) == pytest.approx(mosaic.bound(k), rel=0.03)


def test_the_bound_of_a_strip_is_that_of_a_chain_of_pairs() -> None:
    """No pixel is seen three times: the pairs' differences hold all that is known, and their chain has closed modes."""
    mosaic = Mosaic(side=20, rows=1, size=32, overlap=0.25, noise=0.7)
    stiffness = 2 - 2 * np.cos(np.pi * np.arange(1, 20) / 20)
    variance = 2 * 0.7**2 / (8 * 32)  # of a pair
    assert mosaic.bound(1) == pytest.approx(np.sqrt(variance * np.sum(1 / stiffness) / 20), rel=1e-9)


def test_the_bound_scales_with_noise_and_size() -> None:
    for k in (1, 3):
        small, large = Mosaic(side=4, size=120, overlap=0.15), Mosaic(side=4, size=480, overlap=0.15, noise=3.0)
        assert large.bound(k) == pytest.approx(3 / 4 * small.bound(k), rel=2e-3)


@pytest.mark.parametrize(
    ("overlap", "levels", "planes"), [(0.15, 0.00589, 0.1012), (0.205, 0.00506, 0.0619), (0.23, 0.00478, 0.0514)]
)
def test_what_the_tiles_of_the_issue_allow(overlap: float, levels: float, planes: float) -> None:
    """0.0048 and 0.062, which a trial had, are the bound at 0.23 and at 0.205; at 0.15 they are 19 and 39 % below."""
    mosaic = Mosaic(overlap=overlap)
    assert mosaic.bound(1) == pytest.approx(levels, rel=2e-3)
    assert mosaic.bound(3) == pytest.approx(planes, rel=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("statistic", ["median", "clipped_mean", "huber"])
@pytest.mark.parametrize("k", [1, 3])
def test_small_mosaics_are_at_the_bound(k: int, statistic: str) -> None:
    found = trials(Mosaic(side=5, size=128), k, 5.0, 20, statistic=statistic)
    assert 0.9 < over_bound(found, statistic, k) < AT_THE_BOUND


@pytest.mark.full
@pytest.mark.parametrize(
    ("overlap", "k", "statistic", "most"),
    [
        (0.15, 1, "clipped_mean", 0.0065),
        (0.15, 3, "clipped_mean", 0.113),
        (0.15, 1, "median", 0.0082),
        (0.21, 1, "clipped_mean", 0.0055),
        (0.21, 3, "clipped_mean", 0.067),
    ],
)
def test_ten_by_ten_tiles_of_512_pixels(overlap: float, k: int, statistic: str, most: float) -> None:
    """`most` is 1.1 times the bound of the pixels (0.00589 and 0.102 at 15 %), which no unbiased estimate can beat."""
    mosaic = Mosaic(side=10, size=512, overlap=overlap)
    found = trials(mosaic, k, 10.0 if k == 1 else 5.0, 10, statistic=statistic)
    assert np.sqrt(np.mean([trial.rms**2 for trial in found])) < most
    if overlap == 0.15:  # wider corners are counted once by each of their six pairs, which costs 1 % more
        assert over_bound(found, statistic, k) < AT_THE_BOUND
