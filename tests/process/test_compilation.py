"""Kernels where compiled code cannot be kept."""

from numba.core.caching import FunctionCache

from levelmatch_core.process import compilation


def double(value):
    return 2 * value


def test_a_kernel_works_where_its_code_cannot_be_kept(monkeypatch, caplog):
    class Nowhere(FunctionCache._impl_class):
        _locator_classes = ()

    monkeypatch.setattr(FunctionCache, "_impl_class", Nowhere)
    compilation._warn_once.cache_clear()
    kernels = [compilation.njit(cache=True)(double) for _ in range(2)]
    assert [kernel(4) for kernel in kernels] == [8, 8]
    assert caplog.text.count("set NUMBA_CACHE_DIR to a folder of your own") == 1
