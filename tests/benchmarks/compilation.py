"""What a first run compiles, and how long that takes; `--write` lists it for `levelmatch_core.process.compile_ahead`.

Run: python -m tests.benchmarks.compilation [--write]
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp(prefix="levelmatch-numba-")  # before numba is imported

import numpy as np
from numba.core import event, types
from scipy.ndimage import gaussian_filter

from levelmatch_core import MatchSettings, match_levels
from levelmatch_core.matching.measure.crowds import smoothed
from levelmatch_core.matching.measure.psf_match import psf_matched
from levelmatch_core.process.compile_ahead import LIST, turn_of
from levelmatch_core.process.small_work import everything_compiled
from levelmatch_core.simulate import SimulatedProgram, simulate
from levelmatch_core.sky.kernels import as_compiled

HEAD = """\
# What a first run compiles, from its own calls: turn, module, function, types of arguments.
# Written by `python -m tests.benchmarks.compilation --write`.
"""


class Entries(event.Listener):
    """Records what is compiled, apart from what is compiled on the way."""

    def __init__(self):
        self.depth, self.seconds, self.found, self.begun = 0, 0.0, {}, 0.0

    def on_start(self, _event):
        if self.depth == 0:
            self.begun = time.process_time()
        self.depth += 1

    def on_end(self, compiled):
        self.depth -= 1
        function = compiled.data["dispatcher"].py_func
        if self.depth == 0 and function.__module__.startswith("levelmatch_core"):
            spent = time.process_time() - self.begun
            self.seconds += spent
            self.found[function.__module__, function.__name__, self.text(compiled.data["args"])] = spent

    @staticmethod
    def text(arguments):
        return f"({''.join(f'{text_of(each)}, ' for each in arguments)})"


def text_of(kind) -> str:
    """Return a type as `compile_entry` reads it."""
    if isinstance(kind, types.NamedTuple):
        own = kind.instance_class
        return (
            f"NamedTuple(({''.join(f'{text_of(part)}, ' for part in kind)}), of({own.__module__!r}, {own.__name__!r}))"
        )
    return repr(kind)


def recorded() -> Entries:
    """Match two small programs, with and without errors, as a first user would, and return what was compiled."""
    entries = Entries()
    listener = event.install_listener("numba:compile", entries)
    with tempfile.TemporaryDirectory() as scratch, listener, everything_compiled():
        for instrument, tiles, dithers in (("miri", (2, 2), 2), ("generic", (3, 2), 1)):
            folder = Path(scratch) / instrument
            options = {"tiles": tiles, "dithers": dithers, "size": 128, "stars": 20, "overlap": 0.4}
            simulate(folder, SimulatedProgram.of(instrument=instrument, **options))
            for fit_type in ("level", "level+slope"):
                settings = MatchSettings(
                    preset="best", figures="none", fit_type_dithers=fit_type, fit_type_mosaic_tiles=fit_type
                )
                match_levels(folder, Path(scratch) / f"{instrument}_{fit_type}", settings)
        match_psfs()
    return entries


def match_psfs() -> None:
    """Smooth two images of a crowd, and match their PSFs, which the programs are too small for."""
    rng = np.random.default_rng(0)
    crowd = np.where(rng.random((200, 200)) < 0.02, 100.0, 0.0)
    images = (gaussian_filter(crowd, width) + rng.normal(0, 0.01, crowd.shape) for width in (1.0, 1.3))
    first, second = (as_compiled(image.astype(np.float32)) for image in images)
    smoothed(first, second, (0, 0, 0, 0, *crowd.shape))
    assert psf_matched(first, second, (0, 0, 0, 0, *crowd.shape), (0.0, 0.0, 0.0), 0.1) is not None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    seen = recorded()
    for (module, function, _), spent in sorted(seen.found.items(), key=lambda item: -item[1]):
        print(f"{spent:6.2f} s  {module}.{function}")
    print(f"{seen.seconds:6.2f} s of CPU for {len(seen.found)} entries")
    if options.write:
        longest = sorted(seen.found, key=lambda entry: -seen.found[entry])
        lines = "\n".join(" ".join((turn_of(*entry[:2]), *entry)) for entry in longest)
        LIST.write_text(f"{HEAD}{lines}\n", encoding="utf-8")
