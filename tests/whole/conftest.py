"""The whole way without the workflow engine, for every test that needs it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from levelmatch_core.pipeline import Request, RunResult, run
from levelmatch_core.runners import PlainRunner
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.store import CutoutStore
from levelmatch_core.workers import Threads

Match = Callable[..., RunResult]


@pytest.fixture
def level_match(tmp_path: Path) -> Match:
    """Return a function that matches `inputs` into `output`, with one cutout store a test."""
    store = CutoutStore(tmp_path / "store")

    def call(*inputs: Path, output: Path | None = None, **settings: object) -> RunResult:
        chosen = MatchSettings.from_mapping({"figures": "none", **settings})
        request = Request(inputs=inputs, output=output or tmp_path / "out", settings=chosen)
        return run(request, store, lambda workspace: PlainRunner(workspace, Threads(chosen.procs)))

    return call
