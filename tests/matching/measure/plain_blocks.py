"""The statistics of blocks in plain numpy, beside which the compiled ones are tested."""

import numpy as np

from levelmatch_core.matching.measure.block_kernels import FULL, BlockFindings, of_blocks
from levelmatch_core.process.small_work import interpreted


def table_of(counts: np.ndarray, means: np.ndarray, **more: np.ndarray) -> np.ndarray:
    """Return (blocks, 5) sums of blocks with these means and, if given, `squares`, `cubes` and `winsorised`."""
    nothing = np.zeros(len(counts))
    further = [more.get(name, nothing) for name in ("squares", "cubes", "winsorised")]
    return np.stack([counts, counts * means, *further], axis=1)


def blocks_of(table: np.ndarray, side: int, across: int) -> BlockFindings:
    """Return what the kernel says of blocks of which there are `across` in a row."""
    return BlockFindings(*interpreted(of_blocks)(table, side, side * (across - 1)))


def plain_blocks(table: np.ndarray, side: int, across: int) -> BlockFindings:
    """Return the same as :func:`blocks_of`."""
    full = np.flatnonzero(table[:, 0] >= FULL * side**2)
    counts, sums, squares, cubes, winsorised = table[full].T
    means, squares, cubes, weight = sums / counts, squares / counts, cubes / counts, counts / counts.sum()
    seconds = (squares - means**2) * counts / (counts - 1)
    thirds = (cubes - 3 * means * squares + 2 * means**3) * counts**2 / ((counts - 1) * (counts - 2))
    design = np.stack([np.ones(len(full)), side * (full % across), side * (full // across)], axis=1)
    root = np.sqrt(counts)
    coefficients = np.linalg.lstsq(root[:, None] * design, root * means, rcond=None)[0]
    plane = design @ coefficients
    return BlockFindings(
        pixels=table[:, 0].sum(),
        residual=table[:, 1].sum(),
        number=len(full),
        weight=counts.sum(),
        variance=jackknife(weight, means),
        robust=jackknife(weight, winsorised / counts),
        second=weight @ seconds,
        third=weight @ thirds,
        third_error=np.sqrt(jackknife(weight, thirds)),
        explained=counts @ (plane - weight @ plane) ** 2,
        left=counts @ (means - plane) ** 2,
        slope_x=coefficients[1],
        slope_y=coefficients[2],
    )


def jackknife(weight: np.ndarray, values: np.ndarray) -> float:
    """Return the variance of the weighted mean of values from their scatter."""
    number = len(values)
    return float(weight**2 @ (values - weight @ values) ** 2) * number / (number - 1)
