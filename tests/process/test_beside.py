"""A process beside a command does what it is asked for, and ends with the command."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="there is no such process here"
)

BEGIN = """
import os, signal, sys, time
from functools import partial
from levelmatch_core.process.beside import process_beside, working_beside
"""


def told(program):
    """Return the lines that a program prints, in a process without threads."""
    done = subprocess.run([sys.executable, "-c", BEGIN + program], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_it_is_another_process_and_what_it_raises_is_raised_here():
    program = """
with working_beside() as helper:
    assert helper is process_beside()
    print(helper.ask(os.getpid).result() != os.getpid())
    try:
        helper.ask(partial(os.stat, "/nowhere")).result()
    except FileNotFoundError as error:
        print(error.filename)
    print(helper.ask(partial(divmod, 7, 2)).result()[0])
print(process_beside())
"""
    assert told(program) == ["True", "/nowhere", "3", "None"]


def test_what_was_begun_is_done_once():
    program = """
with working_beside() as helper:
    helper.begin(partial(os.urandom, 8))
    helper.begin(partial(os.urandom, 9))
    begun = helper._begun[next(iter(helper._begun))]
    print(helper.ask(partial(os.urandom, 8)).result() == begun.result(), len(helper._begun))
    print(helper.ask(partial(os.urandom, 8)).result() == begun.result())
"""
    assert told(program) == ["True", "1", "False"]


def test_what_a_lost_process_does_not_do_is_done_here():
    program = """
with working_beside() as helper:
    os.kill(helper._number, signal.SIGKILL)
    print(helper.ask(os.getpid).result() == os.getpid(), helper.ask(os.getpid).result() == os.getpid())
    print(helper.ask(partial(divmod, 7, 2)).result()[1])
"""
    assert told(program) == ["True", "True", "1"]


def test_nothing_is_waited_for_at_the_end():
    program = """
started = time.monotonic()
with working_beside() as helper:
    helper.begin(partial(time.sleep, 30))
    later = helper.ask(os.getpid)
    number = helper._number
print(later.cancelled(), os.path.exists(f"/proc/{number}"), time.monotonic() - started < 10)
"""
    assert told(program) == ["True", "False", "True"]


@pytest.mark.parametrize("wanted", [True, False])
def test_one_processor_has_enough_to_do(wanted):
    program = f"""
os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:{1 if wanted else 2}])
with working_beside(wanted={wanted}) as helper:
    print(helper)
"""
    assert told(program) == ["None"]


def test_a_process_with_threads_is_not_forked():
    program = """
import threading
for _ in range(2):
    threading.Thread(target=time.sleep, args=(2,), daemon=True).start()
with working_beside() as helper:
    print(helper)
"""
    assert told(program) == ["None"]


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_the_command_however_that_ends(number, busy):
    program = f"""
with working_beside() as helper:
    helper.begin(partial(time.sleep, 60)) if {busy} else None
    print(helper._number, flush=True)
    time.sleep(60)
"""
    command = subprocess.Popen([sys.executable, "-c", BEGIN + program], stdout=subprocess.PIPE, text=True)
    helper = int(command.stdout.readline())
    os.kill(helper, signal.SIGINT)  # a terminal's, which the command hears
    os.kill(command.pid, 0)
    command.send_signal(number)
    command.wait()
    command.stdout.close()
    end = time.monotonic() + 10
    while time.monotonic() < end and is_running(helper):
        time.sleep(0.02)
    assert not is_running(helper)


def is_running(number):
    """Return whether a process runs; one that nobody waits for in a container stays as a zombie."""
    try:
        return Path(f"/proc/{number}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
