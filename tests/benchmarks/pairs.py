"""What finding pairs costs against the number of footprints: on the sky, on a grid, and as fields that hang together.

Run it as `python -m tests.benchmarks.pairs [--most 100000]`: CPU seconds and, below, the slope of their logarithm from
the first size to the last: 1 is linear.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np

from levelmatch_core.images.wcs.footprint import connected_sets, touching_pairs
from levelmatch_core.matching.pairs import candidate_pairs
from levelmatch_core.matching.results import Member
from tests.benchmarks.surveys import survey

SIZES = (1000, 3000, 10_000, 30_000, 100_000)


def footprints(n: int, seed: int = 0) -> np.ndarray:
    """Return (n, 4, 2) RA and Dec of squares of 0.05 degrees that overlap by 15 %, in four surveys apart, turned."""
    rng = np.random.default_rng(seed)
    side = int(np.ceil(np.sqrt(n / 4)))
    number = np.arange(n)
    survey_, place = number % 4, number // 4
    x, y = place % side, place // side
    dec = -15 + 0.0425 * (y - side / 2) + rng.normal(0, 1e-3, n)
    ra = 90.0 * survey_ + 20 + 0.0425 * (x - side / 2) / np.cos(np.radians(dec)) + rng.normal(0, 1e-3, n)
    angle = rng.uniform(0, 2 * np.pi, n)[:, None] + np.pi / 4 + np.pi / 2 * np.arange(4)
    half = 0.025 * np.sqrt(2)
    across = half * np.cos(angle) / np.cos(np.radians(dec))[:, None]
    return np.stack([ra[:, None] + across, dec[:, None] + half * np.sin(angle)], axis=2)


def cost(work: Callable[[], object], rounds: int = 2) -> float:
    """Return the least CPU seconds of some rounds."""
    spent = []
    for _ in range(rounds):
        started = time.process_time()
        work()
        spent.append(time.process_time() - started)
    return min(spent)


def on_the_sky(n: int) -> Callable[[], object]:
    """Find what touches on the sky."""
    outlines = footprints(n)
    return lambda: touching_pairs(outlines)


def as_fields(n: int) -> Callable[[], object]:
    """Find the sets that hang together."""
    pairs = touching_pairs(footprints(n))
    return lambda: list(connected_sets(n, pairs))


def on_the_grid(n: int) -> Callable[[], object]:
    """Find the pairs of a group's members."""
    members: list[Member] = survey("scans", n).records(pairs=False)[0]
    return lambda: candidate_pairs(members)


WHAT = {"footprints on the sky": on_the_sky, "pairs of a group": on_the_grid, "fields": as_fields}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=SIZES[-1])
    sizes = [size for size in SIZES if size <= parser.parse_args().most]
    print(f"{'CPU s':<24}" + "".join(f"{size:>9}" for size in sizes) + "    slope")
    for name, make in WHAT.items():
        spent = [cost(make(size)) for size in sizes]
        slope = np.log(spent[-1] / spent[0]) / np.log(sizes[-1] / sizes[0])
        print(f"{name:<24}" + "".join(f"{value:>9.3f}" for value in spent) + f"{slope:>9.2f}", flush=True)


if __name__ == "__main__":
    main()
