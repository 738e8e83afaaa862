"""Freed memory goes back to the system, where the C library can do that."""

import ctypes

import numpy as np
import psutil
import pytest

from levelmatch_core.memory import give_back


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library has no malloc_trim")
def test_what_lies_below_something_small_is_given_back():
    process = psutil.Process()
    large, small = [], []
    for _ in range(2000):  # 100 kB each: too small to be mapped by themselves
        large.append(np.ones(12_500))
        small.append(np.ones(200))
    large.clear()
    before = process.memory_info().rss
    give_back()
    assert before - process.memory_info().rss > 100e6
    assert len(small) == 2000
