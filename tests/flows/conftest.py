"""One embedded Prefect server a session, and a home of its own for every test."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_LOCAL_STORAGE_PATH, temporary_settings
from prefect.testing.utilities import prefect_test_harness

from flows.home import Home
from levelmatch_core.simulate import SimulatedProgram, simulate


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """Prefect's embedded server with a database of its own; its address."""
    with prefect_test_harness(server_startup_timeout=180):
        yield str(PREFECT_API_URL.value())


@pytest.fixture
def home(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:  # noqa: ARG001 - it runs
    """A home with nothing in it: no cutouts, no stored results, no MLflow store."""
    monkeypatch.setenv("LEVELMATCH_HOME", str(tmp_path / "home"))
    made = Home.of().make()
    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: made.results}):
        yield made


@pytest.fixture(scope="session")
def small_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four small MIRI exposures of two tiles. To be read only."""
    folder = tmp_path_factory.mktemp("program") / "input"
    simulate(folder, SimulatedProgram(instrument="miri", tiles=(2, 1), dithers=2, size=128))
    return folder


@pytest.fixture(autouse=True)
def loggers_as_they_were() -> Iterator[None]:
    """Give the loggers back as they were."""
    levels = {name: logging.getLogger(name).level for name in ("levelmatch_core", "flows")}
    yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
