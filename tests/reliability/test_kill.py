"""Kill a run anywhere, and run it again: the bytes of an undisturbed run, and nothing left behind."""

import random
from pathlib import Path

import pytest

CI, FULL = 5, 30


def finished_work(world):
    """Return what was whole when the run died: corrected files and stored cutouts that have their record."""
    tiles = [path for path in (world.out / "tiles").glob("*") if not path.name.startswith(".")]
    stored = [path for path in world.home.glob("cutouts/??/*.npy") if path.with_suffix(".json").exists()]
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in tiles + stored}


MOMENTS = [
    *(pytest.param(moment, CI, marks=pytest.mark.slow) for moment in range(CI)),
    *(pytest.param(moment, FULL, marks=pytest.mark.full) for moment in range(FULL)),
]


@pytest.mark.parametrize(("moment", "moments"), MOMENTS)
def test_killed_and_run_again(reliability, undisturbed, tmp_path: Path, moment, moments):
    inputs = undisturbed.world.inputs
    before = reliability.digests(inputs)
    world = undisturbed.fresh(tmp_path / "world")
    rng = random.Random(moment)  # noqa: S311 - no secret
    at = round(undisturbed.events * (moment + 0.5) / moments)
    assert reliability.kill_at(world, at, rng.uniform(0, 0.05)), "it had ended before it could be killed"
    done = finished_work(world)
    assert world.run() == 0, world.said
    assert reliability.digests(world.out) == undisturbed.files
    assert world.left_over() == []
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in done} == done
    assert reliability.digests(inputs) == before


@pytest.mark.full
@pytest.mark.parametrize("delay", [0.0, 0.2, 0.5, 1.0])
def test_killed_while_mlflow_is_told(reliability, undisturbed, tmp_path: Path, delay):
    world = undisturbed.fresh(tmp_path / "world")
    reliability.kill_at(world, undisturbed.events, delay)
    assert world.run() == 0, world.said
    assert reliability.digests(world.out) == undisturbed.files
    assert world.left_over() == []


@pytest.mark.full
def test_killed_again_and_again(reliability, undisturbed, tmp_path: Path):
    world = undisturbed.fresh(tmp_path / "world")
    for share in (0.2, 0.4, 0.6, 0.8):
        reliability.kill_at(world, round(undisturbed.events * share), 0.0)
    assert world.run() == 0, world.said
    assert reliability.digests(world.out) == undisturbed.files
    assert world.left_over() == []


@pytest.mark.full
def test_stored_results_that_were_cut_short_are_made_anew(reliability, undisturbed, tmp_path: Path):
    world = undisturbed.fresh(tmp_path / "world")
    assert world.run() == 0, world.said
    results = [path for path in (world.home / "results").rglob("*") if path.is_file()]
    assert results
    for number, path in enumerate(sorted(results)):
        raw = path.read_bytes()
        path.write_bytes(raw[: (0, len(raw) // 2, len(raw) - 1)[number % 3]])
    for path in world.out.rglob("*"):
        if path.is_file():
            path.unlink()
    assert world.run() == 0, world.said
    assert reliability.digests(world.out) == undisturbed.files
