"""A quicker numba gives the same machine code."""

import os
import subprocess
import sys

import pytest

CODE = """
import re, sys
from levelmatch_core.matching.measure import huber
from levelmatch_core.process.compile_ahead import listed_kernels, types_of
from levelmatch_core.process.quicker_numba import quicken
from levelmatch_core.sky.robust import clipping_kernels
if sys.argv[1] == "quick":
    assert quicken()
for entry in listed_kernels():
    if entry.function in ("huber_sums", "clip_sample", "sift"):
        kernel = getattr(sys.modules[entry.module], entry.function).compiled
        kernel.compile(types_of(entry.arguments))
        (text,) = kernel.inspect_asm().values()
        names = {}  # functions are counted in the order in which they are made
        name = r"[\\w$.]*levelmatch[\\w$.]*|\\b\\d{9,}\\b"
        print(re.sub(name, lambda one: names.setdefault(one[0], f"<{len(names)}>"), text))
"""


@pytest.mark.slow  # three kernels, twice
def test_the_machine_code_is_the_same(tmp_path):
    def compiled(how):
        environ = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / how)}
        words = [sys.executable, "-c", CODE, how]
        return subprocess.run(words, env=environ, capture_output=True, text=True, check=True).stdout

    plain = compiled("plain")
    assert plain.count("\n") > 1000
    assert compiled("quick") == plain
