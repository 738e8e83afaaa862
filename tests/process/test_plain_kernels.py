"""What numpy does where nothing is compiled yet has the bytes of the compiled passes over pixels."""

import numpy as np
import pytest

from levelmatch_core.images.contents import blanks
from levelmatch_core.matching.measure import block_kernels, difference_kernels, gain, huber, psf_kernels
from levelmatch_core.process.small_work import CompiledWhenLarge
from levelmatch_core.sky import interpolation, isolated_pixels, kernels, lone_pixels, spline, stack_kernels
from levelmatch_core.sky.robust import clipping_kernels
from levelmatch_core.sky.robust.clipping import ALL
from tests.process.test_small_work import arrays_of, bytes_of, copied

MODULES = (
    *(blanks, block_kernels, difference_kernels, gain, huber, psf_kernels),
    *(clipping_kernels, interpolation, isolated_pixels, kernels, lone_pixels, spline, stack_kernels),
)
SHIFTS = np.array([(0, 1), (1, -1), (2, 2), (1, 0)])


def an_image(rng, shape, dtype, bad=0.0):
    """Return an image as kernels are compiled for, some pixels of which are no numbers."""
    image = (100 + rng.normal(size=shape) + 50 * (rng.random(shape) < 0.02)).astype(dtype)
    image[rng.random(shape) < bad] = np.nan
    if bad:
        image[rng.random(shape) < 0.01] = np.inf
        image[: rng.integers(3)] = np.nan
    return kernels.as_compiled(image)


def drawn(seed, *, tiny=False):  # noqa: PLR0915 - a list of arguments
    """Return functions and arguments, different ones for each seed; tiny ones have one to six rows and columns."""
    rng = np.random.default_rng(seed)
    dtype = np.float32 if seed % 3 else np.float64
    bad = 0.1 * (seed % 2)
    ny, nx = (int(size) for size in rng.integers(1, 90, 2)) if seed % 4 else (70, 1100)
    nx += 6
    if tiny:
        ny, nx = (int(size) for size in rng.integers(1, 7, 2))
    first, second = (an_image(rng, (ny + 5, nx + 5), dtype, bad) for _ in range(2))
    box = (*(int(corner) for corner in rng.integers(0, 5, 4)), ny, nx)
    cut = (*rng.normal(0, 0.3, 3).tolist(), *((-2.0, 3.0) if seed != 2 else (5.0, 4.0)))
    plane, limit = tuple(rng.normal(0, 0.3, 3).tolist()), 1.3
    cuts = ALL if seed == 1 else (0.1, -1.5, -0.2, 0.3, 1.4)
    kept = np.empty(ny * nx + 1)
    step = int(rng.integers(1, 4))
    values, places = np.zeros((6, ny * nx)), np.zeros(ny * nx, np.int64)
    unequal = kernels.as_compiled(second * (3 if seed % 5 == 3 else 1))
    ordered = np.sort(rng.normal(size=rng.integers(20, 3000)))
    flat = rng.normal(size=rng.integers(1, 9000)).astype(np.float64)
    nothing = kernels.as_compiled(np.empty((0, 0), dtype))
    rows, columns = (int(size) for size in rng.integers(1, 7, 2)) if tiny else (40, 60)
    source = an_image(rng, (rows, columns), dtype, bad)
    variance = an_image(rng, (rows, columns), dtype, bad) if seed % 2 else nothing
    target = np.empty((ny, nx), dtype) if seed % 2 else np.empty((0, 0), dtype)
    pieces, lattice = np.empty((0,) * 5), np.empty(4)
    positions = np.stack([rng.uniform(-2, columns + 1, (ny, nx)), rng.uniform(-2, rows + 1, (ny, nx))])
    if seed % 3 == 0:
        cells = 1 + seed % 4, 2 + seed % 3
        pieces, positions = rng.normal(size=(*cells, 4, 4, 2)) * 0.1, np.empty((0,) * 3)
        pieces[:, :, 3, 3], pieces[:, :, 3, 2, 0], pieces[:, :, 2, 3, 1] = 20.0, 0.5, 0.5
        lattice = np.array([-3.0, 31.3, -4.0, 27.1])
    total, count = rng.normal(size=(ny + 9, nx + 9)), rng.integers(1, 5, (ny + 9, nx + 9), np.int32)
    empty, data = np.empty((0, 0)), second[:ny, :nx]
    flags = (rng.random(first.shape) < 0.05).astype(np.uint8)
    ends = np.zeros((ny, 3), np.int64)
    sample = np.array([-1.5, -0.2, 0.3, 1.4])
    left = (int(ordered.size), 0, 0, 0.0, 0.0)
    where = (pieces, lattice, positions, (-3.0, 2.0))
    mean = rng.normal(size=(ny + 4, nx + 4))
    mean[rng.random(mean.shape) < bad] = np.nan
    pixels = np.stack([rng.integers(0, size, 300) for size in (ny, nx)], axis=1)
    out = rng.normal(size=(ny, nx)).astype(dtype)
    out[rng.random(out.shape) < bad] = np.nan
    structure = kernels.as_compiled(
        np.kron(rng.normal(size=(25, 280)), np.ones((4, 4)))[: ny + 5, : nx + 5].astype(dtype)
    )
    parts, weights = rng.normal(size=(1 + seed % 7, ny + 4, nx)), rng.uniform(0.1, 1, 1 + seed % 7)
    parts[rng.random(parts.shape) < 0.05] += 5.0
    parts[rng.random(parts.shape) < 2 * bad] = np.nan
    parts[:, :, min(3, nx - 1)] = np.nan
    medians = np.empty(parts.shape[1:])
    stack_kernels.medians.plain(parts, medians)
    spread = rng.uniform(0, 1, parts.shape) if seed % 2 else np.empty((0, 0, 0))
    averages = np.zeros((ny, nx)), np.zeros((ny, nx)), np.zeros((ny, nx), np.int32)
    spiky = first.copy()
    spiky[rng.random(spiky.shape) < 0.02] += 300 * (-1) ** seed
    return [
        (isolated_pixels.flag_wild, (kernels.as_compiled(spiky), 1.0, np.zeros_like(flags))),
        (isolated_pixels.flag_wild, (kernels.as_compiled(spiky[:ny, :nx]), 1.0, np.zeros((ny, nx), np.uint8))),
        (spline.fill, (first, flags if seed % 4 else np.ones_like(flags), np.empty((ny + 9, nx + 9)))),
        (spline.sharpen, (rng.normal(size=(rows + 4, columns + 4)), *where, out, np.abs(target))),
        (stack_kernels.medians, (parts, np.empty(parts.shape[1:]))),
        (
            stack_kernels.robust_mean,
            (parts, spread, medians, weights / 3, weights, np.zeros(parts.shape, np.uint8), *averages, weights.copy()),
        ),
        (psf_kernels.mean_image, (first, second, box, plane, np.empty(mean.shape))),
        (
            psf_kernels.common_structure,
            (structure, structure, (0, 0, 0, 0, ny, nx), step, 0.1, np.zeros((400, 2), np.int64), np.zeros(400)),
        ),
        (
            psf_kernels.regressors,
            (
                first,
                second,
                box,
                plane,
                mean,
                SHIFTS,
                pixels,
                *(np.empty((300, *more)) for more in ((9,), ())),
                np.empty(300, np.bool_),
            ),
        ),
        (psf_kernels.normal_equations, (rng.normal(size=(300, 9)), rng.normal(size=300), rng.random(300))),
        (psf_kernels.take_out, (second, box, mean, SHIFTS, rng.normal(size=8), np.empty((ny, nx), dtype))),
        (difference_kernels.sift_difference, (first, second, box, (0.8, 0.6), cuts, kept)),
        (difference_kernels.plane_sums, (first, second, box, cut)),
        (difference_kernels.mask_sums, (first, second, box, cut)),
        (huber.huber_sums, (first, second, box, cut, plane, limit)),
        (block_kernels.block_statistics, (first, second, box, cut, plane, (11, 4 + seed), limit)),
        *([(gain.regressed, (first, unequal, box, (*cut[:3], -1e3, 1e3), step, values, places))] if nx > 6 else []),
        (clipping_kernels.sift, (flat, cuts, kept if kept.size > flat.size else np.empty(flat.size + 1))),
        (clipping_kernels.clip_sample, (ordered, (-2.5, 2.4), 3.0, 5)),
        (clipping_kernels.clip_sifted, (ordered, left, (0.1, *sample.tolist()), (-2.5, 2.4), 3.0, 5)),
        (kernels.spline_box, (rng.normal(size=(2, 3, 4, 4, 3)), sample, 1.5, -2.0, np.empty((3, ny, nx)))),
        (kernels.row_ends, (data, ends)),
        (kernels.add_part, (data, data, (3, 4), np.array(plane), total, total.copy(), total.copy(), count)),
        (kernels.add_part, (data, data, (3, 4), np.array(plane), total, empty, empty, count)),
        (kernels.share, (data, (3, 4), count)),
        (
            interpolation.bilinear_kernel,
            (source, variance, pieces, lattice, positions, (-3.0, 2.0), np.empty((ny, nx), dtype), target, ends),
        ),
        (blanks.blank_out, (second.copy(), rng.random(second.shape) < 0.1, dtype(140))),
        (blanks.blank_out, (second.copy(), np.zeros((1, 1), np.bool_), dtype(140))),
        (lone_pixels.flag_lone, (first, flags, (1.0, 5.0, 0.5), step, np.zeros_like(flags))),
    ]


@pytest.mark.parametrize(("seed", "tiny"), [(seed, seed >= 12) for seed in range(60)])
def test_numpy_and_compiled_code_give_the_same_bytes(seed, tiny):
    for function, arguments in drawn(seed, tiny=tiny):
        compiled, plain = copied(arguments), copied(arguments)
        expected = bytes_of_all(function.compiled(*compiled))
        with np.errstate(divide="raise", over="ignore", invalid="ignore"):
            assert bytes_of_all(function.plain(*plain)) == expected, function.__name__
        if function.__name__ in {"sift", "sift_difference"}:  # the work space beyond what is kept
            at = int(float.fromhex(expected[0] if function.__name__ == "sift" else expected[0][0]))
            compiled, plain = ((*given[:-1], given[-1][:at]) for given in (compiled, plain))
        assert bytes_of_all(arrays_of(compiled)) == bytes_of_all(arrays_of(plain)), function.__name__


def test_every_function_that_numpy_replaces_is_among_those_compared():
    compared = {id(function) for function, _ in drawn(0)}
    every = {id(each) for module in MODULES for each in vars(module).values() if isinstance(each, CompiledWhenLarge)}
    assert every - {id(spline.prefilter)} <= compared


def bytes_of_all(found):
    """Return numbers and arrays with all of their bytes, and all that is no number as one."""
    if isinstance(found, tuple):
        return [bytes_of_all(each) for each in found]
    if isinstance(found, np.ndarray):
        return bytes_of(np.where(np.isnan(found), np.nan, found) if found.dtype.kind == "f" else found)
    return None if found is None else float(found).hex()
