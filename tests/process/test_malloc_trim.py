"""Freed memory goes back to the system, where the C library can do that."""

import ctypes
import subprocess
import sys

import pytest

SCRIPT = """
import numpy as np, psutil
from levelmatch_core.process.malloc_trim import trim_memory

def held():
    return psutil.Process().memory_info().rss

before = held()
large, small = [], []
for _ in range(2000):  # 100 kB each: too small to be mapped by themselves
    large.append(np.ones(12_500))
    small.append(np.ones(200))
large.clear()
freed = held()
trim_memory()
print((freed - before) / 1e6, (held() - before) / 1e6, len(small))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library has no malloc_trim")
def test_what_lies_below_something_small_is_given_back():
    # In a process of its own: where others have left gaps in the heap, the large ones lie side by side and go by
    # themselves.
    printed = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout
    freed, given_back, small = map(float, printed.split())
    assert freed > 150
    assert given_back < 50
    assert small == 2000
