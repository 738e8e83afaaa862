"""A survey of the whole sky that is killed twice goes on to the bytes of an undisturbed run."""

from pathlib import Path

import pytest

from levelmatch_core.simulate import SkySurvey, simulate_survey


def stored(world) -> dict[str, tuple[int, int]]:
    """Return the finished cutouts, and what tells whether they were made anew."""
    found = {}
    for path in world.home.glob("cutouts/??/*.npy"):
        if path.with_suffix(".json").exists():
            found[path.name] = (path.stat().st_ino, path.stat().st_mtime_ns)
    return found


@pytest.mark.full
@pytest.mark.parametrize("count", [24, 300, 1000])
def test_killed_at_a_third_and_at_two_thirds(reliability, server, tmp_path: Path, count: int) -> None:
    simulate_survey(tmp_path / "in", SkySurvey(exposures=count, size=40))
    options = ("--set", "figures='none'", "--workers", "2")
    plain = reliability.world(tmp_path / "plain", tmp_path / "in", options, dict(server))
    assert plain.run() == 0, plain.said
    expected, events, cutouts = reliability.digests(plain.out), plain.events(), stored(plain)
    assert len(cutouts) > 1.5 * count  # most exposures are on two patches or more
    world = reliability.world(tmp_path / "killed", tmp_path / "in", options, dict(server))
    done: dict[str, tuple[int, int]] = {}
    for third in (1, 2):
        assert reliability.kill_at(world, events * third // 3, 0.0), "it had ended before it could be killed"
        now = stored(world)
        assert {name: now[name] for name in done} == done
        done = now
        assert len(done) > 0
    assert world.run() == 0, world.said
    assert reliability.digests(world.out) == expected
    now = stored(world)
    assert now.keys() == cutouts.keys()
    assert {name: now[name] for name in done} == done
    assert world.left_over() == []
