"""What a first run needs is compiled beside its start: the list is right, and the children end with the command."""

import importlib
import io
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from levelmatch_core.process import compile_ahead
from levelmatch_core.process.compile_ahead import (
    FEW_BYTES,
    FEW_FILES,
    CompileAhead,
    compiling_ahead,
    listed_kernels,
    turn_of,
    types_of,
)
from levelmatch_core.process.small_work import dispatcher_of


def test_every_entry_of_the_list_is_a_compiled_function_with_as_many_arguments():
    """Where this fails, kernels have changed: `python -m tests.benchmarks.compilation --write` makes the list anew."""
    listed = list(listed_kernels())
    assert len(listed) > 30
    assert len(set(listed)) == len(listed)
    for turn, module, function, arguments in listed:
        dispatcher = dispatcher_of(getattr(importlib.import_module(module), function))
        assert len(types_of(arguments)) == dispatcher.py_func.__code__.co_argcount, (module, function)
        assert turn == turn_of(module, function)


def test_nothing_is_started_where_something_was_compiled_before(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    (tmp_path / "stack_kernels.robust_mean-7.py311.nbi").touch()
    with compiling_ahead(FEW_FILES + 1, FEW_BYTES + 1) as ahead:
        assert ahead is None


@pytest.mark.parametrize(
    ("files", "size", "is_large"),
    [(FEW_FILES, FEW_BYTES, False), (FEW_FILES + 1, FEW_BYTES, True), (FEW_FILES, FEW_BYTES + 1, True)],
)
def test_nothing_is_compiled_ahead_of_a_small_run(tmp_path, monkeypatch, files, size, is_large):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(compile_ahead, "_started", Child)
    with compiling_ahead(files, size) as ahead:
        assert (ahead is not None) is is_large


def test_what_a_run_needs_at_once_comes_first():
    turns = {entry.function: entry.turn for entry in listed_kernels()}
    kernels = ("bilinear_kernel", "huber_sums", "add_part", "_neighbours", "sums")
    assert [turns[each] for each in kernels] == ["0", "0", "1", "2", "2"]


def test_what_is_compiled_for_every_run_imports_no_astropy():
    modules = {entry.module for entry in listed_kernels() if entry.turn != "2"}
    code = f"import sys, {', '.join(sorted(modules))}; print('astropy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"  # it takes longer than the other imports of the children


class Child:
    """A child process that has told that it is ready."""

    def __init__(self, *arguments):
        self.arguments, self.stdout, self.stdin = arguments, io.BytesIO(), io.BytesIO()
        self.killed = False

    def kill(self):
        self.killed = True

    def wait(self):
        pass


@pytest.mark.parametrize(("files", "expected"), [(FEW_FILES, [()]), (FEW_FILES + 1, [(), ("rest",)])])
def test_what_the_graph_needs_is_compiled_for_many_files(monkeypatch, files, expected):
    started = []
    monkeypatch.setattr(compile_ahead, "_started", lambda *words: started.append(Child(*words)) or started[-1])
    ahead = CompileAhead()
    ahead.wait(files)
    assert [each.arguments for each in started] == expected
    assert not any(each.killed for each in started)
    ahead.stop()
    assert all(each.killed for each in started)


@pytest.mark.full  # two children compile for ten seconds
def test_the_command_goes_on_when_what_it_needs_at_once_is_there(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    ahead = CompileAhead()
    ahead.wait(1)
    try:
        kept = {file.name.split(".")[1].split("-")[0] for file in tmp_path.rglob("*.nbi")}
        at_once = {entry.function for entry in listed_kernels() if entry.turn == "0"}
        assert at_once <= kept
        assert not kept & {"sums", "roots", "bridge_flags"}
    finally:
        ahead.stop()


COMPILE = """
from levelmatch_core.process.compile_ahead import compile_entry, listed_kernels
from levelmatch_core.sky.kernels import row_ends
(entry,) = (one for one in listed_kernels() if one.function == "row_ends")
assert compile_entry(entry)
import numpy as np
row_ends = row_ends.compiled
row_ends(np.zeros((20, 20), np.float32), np.zeros((20, 3), np.int64))
print(sum(row_ends.stats.cache_misses.values()), sum(row_ends.stats.cache_hits.values()), len(row_ends.signatures))
"""


def test_what_is_compiled_ahead_is_what_a_run_calls(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}

    def told():
        done = subprocess.run(
            [sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    assert told() == "1 0 1"
    assert told() == "0 1 1"


START = """
import time
from levelmatch_core.process.compile_ahead import CompileAhead
ahead = CompileAhead()
print(ahead._process.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.slow  # the children take seconds to start
@pytest.mark.parametrize("how", ["kill", "stop"])
def test_the_children_end_with_the_command(tmp_path, how):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    program = START if how == "kill" else START.replace("time.sleep(60)", "input(); ahead.stop(); time.sleep(60)")
    with subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        first = int(parent.stdout.readline())
        own = {first}
        patience = time.monotonic() + 60
        while len(own) < 2 and time.monotonic() < patience:
            own |= children_of(first)
            time.sleep(0.2)
        assert len(own) > 1
        if how == "kill":
            parent.kill()
        else:
            parent.stdin.write("\n")
            parent.stdin.flush()
        patience = time.monotonic() + 20
        while any(alive(each) for each in own) and time.monotonic() < patience:
            time.sleep(0.2)
        assert [each for each in own if alive(each)] == []
        parent.kill()


def children_of(process):
    try:
        return {int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()}
    except OSError:
        return set()


def alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
