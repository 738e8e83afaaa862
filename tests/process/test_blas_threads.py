"""BLAS has one thread during a job and a solve: rounding depends on their number."""

from types import SimpleNamespace

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from levelmatch_core.jobs.job import Job, Workspace
from levelmatch_core.matching.match import match
from levelmatch_core.matching.uncertainty.field import field_errors, level_covariance
from levelmatch_core.process.blas_threads import one_blas_thread
from levelmatch_core.sky.store import CutoutStore

pytestmark = pytest.mark.fast


def threads():
    return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}


def test_one_until_the_last_solve_is_over():
    """Two threads that solve at once: the one that ends first must not give the other more threads of BLAS."""
    before = threads()
    first, second = one_blas_thread(), one_blas_thread()
    with threadpool_limits(limits=2, user_api="blas"):
        wide = threads()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert threads() == {1}
        second.__exit__(None, None, None)
        assert threads() == wide
    assert threads() == before


def test_one_in_every_job(tmp_path):
    seen = []
    job = SimpleNamespace(place=("t", "dithers"), label="a job", run=lambda _: seen.append(threads()))
    with threadpool_limits(limits=2, user_api="blas"):
        Job.do(job, Workspace(CutoutStore(tmp_path)))
        assert threads() == {2}
    assert seen == [{1}]


@pytest.mark.parametrize("solve", [match, field_errors, level_covariance])
def test_one_from_the_first_line_of_what_the_library_offers(solve):
    """Whoever calls it without a job: the noise of the members is split by a dense solve before anything else."""
    seen = []

    class Told:
        """A sequence that tells when it is first looked at."""

        def __iter__(self):
            seen.append(threads())
            raise StopAsyncIteration

    told = Told()
    arguments = ("dithers", "t", told, [], None, None) if solve is match else (told, {}, None, None)
    with threadpool_limits(limits=2, user_api="blas"), pytest.raises(StopAsyncIteration):
        solve(*arguments)
    assert seen == [{1}]
