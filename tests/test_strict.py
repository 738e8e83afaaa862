"""The setting `strict`: the first failure ends the run, and nothing that was there is harmed."""

import pytest

from levelmatch_core.errors import NoUsablePixelsError, StrictError
from levelmatch_core.jobs.job import failure_of
from levelmatch_core.pipeline import Request, run
from levelmatch_core.runners import PlainRunner
from levelmatch_core.settings import MatchSettings
from levelmatch_core.simulate import SimulatedProgram, simulate
from levelmatch_core.sky.store import CutoutStore
from tests.folders import contents


def request(tmp_path, **settings):
    return Request(
        inputs=(tmp_path / "in",), output=tmp_path / "out", settings=MatchSettings(figures="none", **settings)
    )


@pytest.fixture
def exposures(tmp_path):
    simulate(tmp_path / "in", SimulatedProgram(instrument="miri", tiles=(2, 1), dithers=2, size=64))
    return sorted((tmp_path / "in").glob("*.fits"))


def test_a_broken_file_ends_a_strict_run_and_leaves_the_outputs(tmp_path, exposures):
    store = CutoutStore(tmp_path / "store")
    assert run(request(tmp_path, strict=True), store, PlainRunner).complete
    before = contents(tmp_path / "out")
    exposures[0].write_bytes(exposures[0].read_bytes()[:5000])
    with pytest.raises(StrictError, match=exposures[0].name):
        run(request(tmp_path, strict=True), store, PlainRunner)
    assert contents(tmp_path / "out") == before
    assert not run(request(tmp_path), store, PlainRunner).complete


def test_a_failing_job_ends_a_strict_run(tmp_path, exposures):
    class Failing(PlainRunner):
        def __call__(self, jobs, title):
            found = super().__call__(jobs, title)
            bad = NoUsablePixelsError("every pixel is masked")
            return [
                failure_of(job, bad) if job.label == exposures[1].name else one
                for job, one in zip(jobs, found, strict=True)
            ]

    store = CutoutStore(tmp_path / "store")
    with pytest.raises(StrictError, match=f"{exposures[1].name}, cutout: every pixel is masked"):
        run(request(tmp_path, strict=True), store, Failing)
    assert not (tmp_path / "out" / "run.json").exists()
    found = run(request(tmp_path), store, Failing)
    assert [failure.name for failure in found.failures] == [exposures[1].name]
