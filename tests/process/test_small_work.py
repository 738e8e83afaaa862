"""What has little to do is interpreted, to the same bytes as where it is compiled."""

import subprocess
import sys
import threading

import numpy as np
import pytest

from levelmatch_core.matching import graph_kernels, loop_closure
from levelmatch_core.matching.model import common_pixels, design, sample_points
from levelmatch_core.matching.uncertainty import packed_roots, pair_noise, sampling
from levelmatch_core.matching.uncertainty.scene import Scene
from levelmatch_core.process import small_work
from levelmatch_core.process.compilation import njit
from levelmatch_core.process.ending import ending
from levelmatch_core.process.small_work import CompiledWhenLarge, compiled_when_large, everything_compiled, interpreted


@njit()
def twice(value):
    return 2 * value


@pytest.fixture
def doubled():
    @compiled_when_large(lambda value: value)
    @njit()
    def made(value):
        return twice(value) + 1

    return made


def test_a_function_is_interpreted_until_it_has_had_much_to_do(doubled, monkeypatch):
    monkeypatch.setattr(small_work, "MOST_PASSES", 10)
    assert [doubled(4), doubled(6)] == [9, 13]
    assert not doubled.compiled.signatures
    assert doubled(1) == 3
    assert len(doubled.compiled.signatures) == 1
    assert doubled(1) == 3


def test_where_all_is_to_be_compiled_nothing_is_interpreted(doubled):
    with everything_compiled():
        assert doubled(1) == 3
    assert doubled.compiled.signatures


def test_the_work_waits_where_the_process_is_about_to_exit(doubled):
    done = threading.Event()
    thread = threading.Thread(target=lambda: (doubled(1), done.set()), daemon=True)  # it waits for ever
    ending.set()
    try:
        thread.start()
        assert not done.wait(0.2)
    finally:
        ending.clear()
    assert doubled(1) == 3
    assert thread.is_alive()


CALL = """
import numpy as np
from levelmatch_core.matching.graph_kernels import bridge_flags
ends = np.arange(3), np.arange(1, 4)
if {warm}:
    bridge_flags.compiled(4, *ends)
else:
    bridge_flags(4, *ends)
    print(len(bridge_flags.compiled.signatures), sum(bridge_flags.compiled.stats.cache_hits.values()))
"""


def test_compiled_code_is_used_once_it_is_there(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))

    def told(*, warm):
        words = [sys.executable, "-c", CALL.format(warm=warm)]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()

    assert told(warm=False) == "0 0"
    assert told(warm=True) == ""
    assert told(warm=False) == "1 1"


def drawn(seed):
    """Return arguments of every function that is interpreted where it has little to do."""
    rng = np.random.default_rng(seed)
    n, k = 7, 1 if seed % 2 else 3
    first, second = np.triu_indices(n, 1)
    pairs, points = len(first), 12 if seed > 2 else 40  # with fewer points than pairs, and more
    tree = np.flatnonzero(first == 0)
    turns = rng.normal(size=(pairs if seed % 3 == 2 else 0, 2, 2, 2))
    places = rng.normal(size=(len(turns), 2, 2))
    geometry = (first, second, rng.normal(size=(n, 2)), rng.normal(size=(pairs, 2)), places, turns, 3.7)
    unit = np.asarray(sample_points.spread_evenly(points))
    corners = rng.uniform(0, 2, (n, 2))
    shapes = sample_points.shapes_of([box_at(x, y) for x, y in corners])
    views = rng.normal(size=(pairs, 2, 2)), turns
    ends = np.stack([first, second], axis=1)
    adjacent = graph_kernels.neighbours.compiled(n, first, second)
    matched = rng.normal(size=(pairs, 2, k, k))
    starts, packed = pair_noise._by_member.compiled(unit, shapes, adjacent, first, views, 3.7, matched)
    scene = Scene(
        unit,
        shapes,
        rng.uniform(1, 2, n),
        (np.arange(n + 1), np.arange(n)),
        np.ones(n),
        (np.arange(n + 1), np.arange(n)),
        np.ones(n),
        adjacent,
        first,
        views,
        np.full(pairs, 3.7),
    )
    rows = k * np.arange(pairs + 1)
    of_three = rng.normal(size=(pairs, 2, 3, 3))
    weighted = rng.normal(size=(pairs, k, k))
    variance = rng.uniform(1, 4, pairs)
    return [
        (graph_kernels.neighbours, (n, first, second)),
        (graph_kernels.bridge_flags, (n, first[::3].copy(), second[::3].copy())),
        (loop_closure._spanned, (n, first, second, variance)),
        (loop_closure._closed, (n, first, second, variance, tree, np.setdiff1d(np.arange(pairs), tree))),
        (design.normal_blocks, (geometry, weighted + weighted.transpose(0, 2, 1))),
        (design.pair_residuals, (geometry, rng.normal(size=(pairs, k)), rng.normal(size=(n, k)))),
        (design.to_members, (geometry, rng.normal(size=(pairs, k)), rng.normal(size=(n, k)))),
        (packed_roots.as_rows, (adjacent[0], adjacent[2], (starts, packed, points), k)),
        (common_pixels._parts, (unit, shapes, adjacent, first, views[0], rng.uniform(1, 2, pairs))),
        (pair_noise._inside, (unit, shapes, ends, ends[:, ::-1].copy(), views, 3.7, k)),
        (pair_noise._by_member, (unit, shapes, adjacent, first, views, 3.7, matched)),
        (sampling.sums, (scene, adjacent[0])),
        (sampling.roots, (scene, adjacent[0], of_three, rng.random(pairs) < 0.8, rows)),
    ]


def box_at(x, y):
    import shapely  # noqa: PLC0415 - slow to import

    return shapely.affinity.rotate(shapely.box(x, y, x + 1.5, y + 1.2), 7 * x)


def bytes_of(found):
    if isinstance(found, tuple):
        return [bytes_of(each) for each in found]
    return None if found is None else (str(found.dtype), found.shape, np.ascontiguousarray(found).tobytes())


def copied(value):
    if isinstance(value, tuple):
        parts = [copied(each) for each in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value.copy() if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize("seed", range(6))
def test_interpreted_and_compiled_give_the_same_bytes(seed):
    for function, arguments in drawn(seed):
        assert isinstance(function, CompiledWhenLarge)
        compiled = copied(arguments)
        expected = bytes_of(function.compiled(*compiled))
        for plain in (interpreted(function.compiled), function.plain):
            one = copied(arguments)
            with np.errstate(divide="raise", over="ignore", invalid="ignore"):
                assert bytes_of(plain(*one)) == expected, function.__name__
            assert bytes_of(arrays_of(one)) == bytes_of(arrays_of(compiled)), function.__name__


def arrays_of(arguments):
    """Return the arrays among arguments, which may have been changed in place."""
    found = ()
    for each in arguments:
        found += arrays_of(each) if isinstance(each, tuple) else ((each,) if isinstance(each, np.ndarray) else ())
    return found


def test_every_function_that_is_interpreted_is_among_those_compared():
    compared = {id(function) for function, _ in drawn(0)}
    modules = graph_kernels, loop_closure, design, common_pixels, packed_roots, pair_noise, sampling
    every = {id(each) for module in modules for each in vars(module).values() if isinstance(each, CompiledWhenLarge)}
    assert every <= compared


@pytest.mark.parametrize("seed", range(4))
def test_noise_of_stacks_is_sampled_alike(seed):
    """A point of an exposure counts in the pairs of its dithers, and in those of its stack with its weight there."""
    rng = np.random.default_rng(seed)
    shapes = sample_points.shapes_of([box_at(x, y) for x, y in rng.uniform(0, 1.5, (6, 2))])
    first, second = np.array([0, 1, 0, 3, 4, 6]), np.array([1, 2, 2, 4, 5, 7])
    begin, stacked = np.concatenate([np.arange(7), [9, 12]]), np.concatenate([np.arange(6), np.arange(6)])
    scene = Scene(
        sample_points.spread_evenly(50),
        shapes,
        rng.uniform(1, 2, 6),
        (np.arange(0, 13, 2), np.array([one for e in range(6) for one in (e, 6 + e // 3)])),
        rng.uniform(0.5, 1, 12),
        (begin, stacked),
        rng.uniform(0.5, 1, 12),
        graph_kernels.neighbours.compiled(8, first, second),
        first,
        (rng.normal(size=(6, 2, 2)), rng.normal(size=(6 if seed % 2 else 0, 2, 2, 2))),
        rng.uniform(1, 2, 6),
    )
    degree = np.diff(scene.adjacent[0])[scene.members[1]]
    start = np.concatenate([[0], np.cumsum(degree)])[scene.members[0]]
    rows = np.concatenate([[0], np.cumsum([3, 3, 3, 1, 1, 3])])
    matched = rng.normal(size=(6, 2, 3, 3))
    matched[5] = np.inf if seed == 3 else matched[5]
    for function, arguments in (
        (sampling.sums, (scene, start)),
        (sampling.roots, (scene, start, matched, rng.random(6) < 0.8, rows)),
    ):
        with np.errstate(divide="raise", over="ignore", invalid="ignore"):
            assert bytes_of(function.plain(*arguments)) == bytes_of(function.compiled(*arguments)), function.__name__
