"""A clock that goes back during a run, and between runs: what is decided by content is decided as ever."""

import os
import shutil
import subprocess
import sys
import time

import pytest

from flows.home import Home
from flows.retention.files import entries

SHIFTED = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long shift(void) {
    char text[32] = "0";
    int file = open(getenv("SHIFT"), O_RDONLY | O_CLOEXEC);
    if (file >= 0) { if (read(file, text, 31) < 0) text[0] = 0; close(file); }
    return atol(text);
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(clock, now);
    if (!failed && clock == CLOCK_REALTIME) now->tv_sec += shift();
    return failed;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *now) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (now) *now = exact.tv_sec;
    return exact.tv_sec;
}
"""
"""The clock of the day, off by what a file says, and no other clock: as one that is set."""


@pytest.fixture
def clock(tmp_path, world):
    """Return what sets the clock of a world's commands, in seconds from the true time, also while they run."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no clock can be set here: there is no C compiler")
    library, file = tmp_path / "clock.so", tmp_path / "shift"
    (tmp_path / "clock.c").write_text(SHIFTED)
    words = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(tmp_path / "clock.c"), "-ldl"]
    subprocess.run(words, check=True)

    def set_to(seconds):
        file.with_suffix(".new").write_text(f"{seconds}\n")
        file.with_suffix(".new").replace(file)

    set_to(0)
    world.environment |= {"LD_PRELOAD": str(library), "SHIFT": str(file)}
    words = [sys.executable, "-c", "import datetime, time; print(time.time(), datetime.datetime.now().timestamp())"]
    set_to(-172800)
    told = subprocess.run(words, env=os.environ | world.environment, capture_output=True, text=True, check=True).stdout
    assert all(abs(float(each) - time.time() + 172800) < 60 for each in told.split())
    set_to(0)
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
