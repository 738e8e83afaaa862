"""A clock that goes back during a run, and between runs: what is decided by content is decided as ever."""

import os
import time
from pathlib import Path

import pytest

from flows.commands.cache import entries
from flows.home import Home

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


@pytest.fixture
def clock(tmp_path, world):
    """Return what sets the clock of a world's commands, in seconds from the true time, also while they run."""
    if not LIBRARIES:
        pytest.skip("no clock can be set here: Debian's libfaketime is not installed")
    file = tmp_path / "clock"

    def set_to(seconds):
        file.with_suffix(".new").write_text(f"{seconds:+d}\n")
        file.with_suffix(".new").replace(file)

    set_to(0)
    world.environment |= {
        "LD_PRELOAD": str(LIBRARIES[0]),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # which no system sets back
        "NO_FAKE_STAT": "1",
    }
    return set_to


@pytest.mark.slow
@pytest.mark.parametrize("step", [-172800, 172800])
def test_a_clock_that_jumps_in_mid_run(reliability, undisturbed, world, clock, step):
    process = world.start()
    while process.poll() is None and world.events() < undisturbed.events // 2:
        time.sleep(0.005)
    clock(step)
    assert process.wait(300) == 0, world.said
    assert "Traceback" not in world.said
    assert reliability.digests(world.out) == undisturbed.files
    before = {path: path.stat().st_mtime_ns for path in world.out.rglob("*")}
    clock(0)
    assert world.run() == 0, world.said
    assert {path: path.stat().st_mtime_ns for path in world.out.rglob("*")} == before


def test_what_was_stored_in_the_future_is_not_old(tmp_path):
    from click.testing import CliRunner  # noqa: PLC0415

    from flows.cli import main  # noqa: PLC0415

    home = Home(tmp_path / "home").make()
    path = home.cutouts / "aa" / "one.npy"
    path.parent.mkdir()
    path.write_bytes(bytes(1000))
    os.utime(path, (time.time() + 172800,) * 2)
    words = ["cache", "--older-than", "1s"]
    done = CliRunner().invoke(main, words, env={"LEVELMATCH_HOME": str(home.root)})
    assert done.exit_code == 0, done.output
    assert len(entries(home)) == 1
    assert "not used for 0.0 days" in done.output
