"""File systems that are read-only, from the start or all of a sudden: a clear refusal or end, and nothing lost."""

import os
import signal
import subprocess
import time
from contextlib import contextmanager

import pytest

from flows.home import Home

HERE = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
ALL_BUT = 'mount --bind "$0" "$0" && mount -o remount,ro,bind / && exec "$@"'


def namespace(script, place):
    """Return the words before a command that sees a file system so mounted, alone."""
    place.mkdir(parents=True, exist_ok=True)
    words = ["unshare", "--mount", "sh", "-c", script, str(place)]
    try:
        done = subprocess.run([*words, "true"], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        pytest.skip(f"nothing can be mounted read-only here: {error}")
    if done.returncode:
        pytest.skip(f"nothing can be mounted read-only here (root may): {done.stderr.strip()}")
    return words


@pytest.fixture
def command(reliability, tmp_path):
    """Return what runs the command with a part of this test's folder, or all but it, read-only."""

    def run(script, place, *words, **more):
        environment = reliability.bare() | {"LEVELMATCH_HOME": str(tmp_path / "home")} | more
        return subprocess.run(
            [*namespace(script, place), *reliability.command, *map(str, words)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )

    return run


def below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize("part", ["", "cutouts", "results", "prefect", "mlflow"])
def test_a_home_that_is_read_only_is_refused_before_any_work(program, command, tmp_path, part):
    home = Home(tmp_path / "home").make()
    before = below(home.root)
    done = command(HERE, home.root / part, "run", program, "--output", tmp_path / "out")
    assert done.returncode == 2, done.stderr
    refusal = f"{home.root / part}: it cannot be written to; choose a folder that you may write to"
    assert done.stderr == f"levelmatch: LEVELMATCH_HOME {refusal}\n"
    assert below(home.root) == before
    assert not (tmp_path / "out").exists()


def test_a_home_that_cannot_be_made_is_refused(program, command, tmp_path):
    disk = tmp_path / "disk"
    done = command(HERE, disk, "run", program, "--output", tmp_path / "out", LEVELMATCH_HOME=str(disk / "home"))
    assert done.returncode == 2
    assert "Read-only file system; choose a folder that you may write to" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_store_of_a_read_only_home_is_shown_and_kept(command, tmp_path):
    home = Home(tmp_path / "home").make()
    (home.cutouts / "aa").mkdir()
    (home.cutouts / "aa" / "one.npy").write_bytes(bytes(1000))
    assert "stored:  1 files" in command(HERE, home.root, "cache").stdout
    done = command(HERE, home.root, "cache", "--shrink-to", "0")
    assert (done.returncode, done.stdout) == (2, "")
    assert (home.cutouts / "aa" / "one.npy").exists()


@pytest.mark.parametrize("name", ["disk", "disk/new/deep"])
def test_an_output_that_is_read_only_is_refused(program, command, tmp_path, name):
    done = command(HERE, tmp_path / "disk", "run", program, "--output", tmp_path / name)
    assert done.returncode == 2
    assert "output folder" in done.stderr
    assert "choose another folder" in done.stderr
    assert below(tmp_path / "disk") == []
    assert not (tmp_path / "home").exists()


@pytest.mark.full  # every kernel is compiled anew
def test_all_but_home_and_output_may_be_read_only(reliability, undisturbed, server, command, tmp_path):
    """As in a container whose image, and whose mounted data, nobody writes to."""
    world = undisturbed.fresh(tmp_path / "world")
    (world.root / "tmp").mkdir()
    words = ("run", world.inputs, "--output", world.out, "--program", "p", *world.options)
    done = command(
        ALL_BUT, world.root, *words, LEVELMATCH_HOME=str(world.home), TMPDIR=str(world.root / "tmp"), **server
    )
    assert done.returncode == 0, done.stderr
    assert reliability.digests(world.out) == undisturbed.files
    assert [line for line in done.stderr.splitlines() if "cannot" in line] == []


@contextmanager
def disk(place):
    place.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=1g,mode=700", "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no disk can be mounted here (root may): {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def turn(place, how):
    """Mount a disk anew, and return whether the system did: it refuses while a file is open for writing."""
    words = ["mount", "-o", f"remount,{how}", str(place)]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def turn_under(process, place):
    """Make the disk of a run read-only, which goes on by small steps while it has a file open: it may not outrun us."""
    while True:
        os.killpg(process.pid, signal.SIGSTOP)
        done = turn(place, "ro")
        os.killpg(process.pid, signal.SIGCONT)
        if done:
            return
        assert process.poll() is None, "it ended before the disk turned read-only"
        time.sleep(0.001)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["out", "home/cutouts"])
def test_a_disk_that_turns_read_only_ends_the_run_and_costs_nothing(reliability, undisturbed, world, part):
    """The system does that after an error of the disk."""
    place = world.root / part
    with disk(place):
        process = world.start()
        while process.poll() is None and not any(place.rglob("[!.]*.npy" if "cutouts" in part else "[!.]*.fits")):
            time.sleep(0.002)
        turn_under(process, place)
        assert process.wait(300) == 1, world.said
        assert "cannot be written: Read-only file system; make it writable and run again" in world.said
        assert "Traceback" not in world.said
        assert turn(place, "rw")
        assert world.run() == 0, world.said
        assert reliability.digests(world.out) == undisturbed.files
        assert world.left_over() == []
