"""The cost of resampling against scipy's, measured in one run: ratios only mean something."""

import sys
import time
from collections.abc import Callable

import numpy as np
import pytest
from astropy.wcs import WCS
from scipy.ndimage import map_coordinates

from levelmatch_core.sky.grid import Grid
from levelmatch_core.sky.pixelmap import grid_to_image, place
from levelmatch_core.sky.resample import bilinear


def cpu(work: Callable[[], object]) -> float:
    """The least CPU time of some tries: the rest is other people's noise."""
    times = []
    for _ in range(5):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


@pytest.mark.full
@pytest.mark.parametrize("size", [512, 2048])
def test_map_and_interpolation_cost_less_than_scipys_interpolation(make_wcs: Callable[..., WCS], size: int) -> None:
    grid = Grid(ra=83.0, dec=-5.0, angle=0.0, scale=0.1)
    shape = (size, size)
    wcs = make_wcs(shape, angle=2.0, scale=0.1, distortion=1e-6)
    rng = np.random.default_rng(0)
    data = rng.normal(size=shape).astype(np.float32)
    variance = data**2
    box = place(grid, wcs, (0, size), (0, size)).box

    def ours() -> object:
        placement = place(grid, wcs, (0, size), (0, size))
        return bilinear(data, variance, grid_to_image(grid, wcs, shape, placement.box), placement.box)

    x, y = grid_to_image(grid, wcs, shape, box).on(box)

    def theirs() -> object:
        return [map_coordinates(image, [y, x], order=1, cval=np.nan) for image in (data, variance)]

    ours(), theirs()
    fast, slow = cpu(ours), cpu(theirs)
    sys.stdout.write(
        f"\n{size}: maps and both planes {fast:.4f} CPU s, scipy's two passes {slow:.4f}: {fast / slow:.2f}\n"
    )
    assert fast < 0.5 * slow
