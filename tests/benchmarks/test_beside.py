"""Beside the peers on the same tiles: the errors that the benchmark's table tells, on small tiles, and on strips."""

import numpy as np
import pytest

from tests.benchmarks import others
from tests.benchmarks.beside import Scene, Table, scenes, sweeps

BEST = "levelmatch, error weights, mean"


def solved(scene: Scene, seeds: int) -> Table:
    table = Table(scene)
    for seed in range(seeds):
        table.add(seed)
    return table


@pytest.fixture
def only_reproject(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the others to the full tests: reproject is a dependency, and always there."""
    monkeypatch.setattr(others, "there", lambda package: package == "reproject")


@pytest.mark.slow
@pytest.mark.usefixtures("only_reproject")
def test_small_levels_are_no_worse_than_those_of_reproject() -> None:
    table = solved(scenes(quick=True)["levels 10x10"], 6)
    ours = table.rows[BEST].rms
    peers = {who: row.rms for who, row in table.rows.items() if not row.ours}
    assert set(peers) == {"reproject (levels alone)", "reproject, our fits"}
    assert all(ours < error for error in peers.values()), peers
    assert ours < 1.2 * table.bound
    assert "ahead of all" in table.losses("levels").split(BEST)[1]


@pytest.mark.slow
@pytest.mark.usefixtures("only_reproject")
def test_strips_hang_together_and_peers_that_sweep_are_far_off() -> None:
    """A strip that lost a pair to chance would fall in two, at any level to each other."""
    scene = scenes(quick=True)["strip 400x1 with drift"]
    table = solved(scene, 3)
    for who in (BEST, "levelmatch, as it comes"):
        assert table.rows[who].rms < 1.6 * table.bound  # the median's loss, and chance: a strip has few modes
    assert table.rows["reproject, our fits"].rms > 10 * table.bound
    assert "behind" not in table.losses("strip")


def test_half_steps_are_slow_on_strips_and_say_so() -> None:
    lines = sweeps(scenes(quick=True)["strip 400x1 with drift"])
    errors = [float(line.split("error")[1].split(",")[0]) for line in lines]
    assert errors[0] > 10 * errors[-1]
    assert "converged: False" in lines[0]
    assert "converged: True" in lines[-1]


@pytest.mark.full
def test_a_strip_of_400_tiles_is_lost_by_nobody_less() -> None:
    table = solved(scenes()["strip 400x1 with drift"], 3)
    ours = table.rows[BEST].rms
    assert ours < 1.6 * table.bound
    assert all(ours < 1.02 * row.rms for row in table.rows.values() if not row.ours)
    assert table.rows["reproject, our fits"].rms > 100 * ours


@pytest.mark.full
@pytest.mark.parametrize("name", ["levels 10x10", "planes 10x10", "planes 5x5, bright nebula"])
def test_512_pixel_tiles_beside_montage(name: str) -> None:
    if not others.there("MontagePy"):
        pytest.skip("MontagePy is not installed: the extra `peers`")
    table = solved(scenes()[name], 2)
    montage = min(row.rms for who, row in table.rows.items() if who.startswith("MontagePy") and "our fits" not in who)
    assert table.rows[BEST].rms < 0.95 * montage
    assert np.isfinite(montage)
