"""Fixtures that every room's tests share."""

import atexit
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples in every run, so that a change is judged by what it did; `HYPOTHESIS_PROFILE=explore` looks for new.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("explore", derandomize=False, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

# before Prefect is imported: it reads its environment then, and never the user's own home
_HOME = tempfile.mkdtemp(prefix="levelmatch-tests-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
os.environ["LEVELMATCH_HOME"] = _HOME
for _name in ("PREFECT_API_URL", "PREFECT_HOME", "PREFECT_LOCAL_STORAGE_PATH", "MLFLOW_TRACKING_URI"):
    os.environ.pop(_name, None)
os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"

import flows.orchestration.environment  # noqa: E402, F401 - after the variables, before Prefect

REPOSITORY = Path(__file__).resolve().parents[1]

# Where these are set pytest writes out whole differences: for two long files that takes it hours.
for _name in ("CI", "BUILD_NUMBER"):
    os.environ.pop(_name, None)


def pytest_sessionfinish() -> None:
    """Write what coverage measured here: the processes that pytest-xdist starts end without their final actions."""
    if "COVERAGE_PROCESS_START" in os.environ:
        from coverage import Coverage  # noqa: PLC0415 - only where it measures

        measured = Coverage.current()
        if measured is not None:
            measured.stop()
            measured.save()


def real_data(name: str) -> Path:
    """Return the folder of a real data set, or skip the test and say why."""
    root = Path(os.environ.get("LEVELMATCH_REAL_DATA", REPOSITORY.parent / "shared" / "real"))
    folder = root / name
    if not folder.is_dir():
        pytest.skip(f"no real images at {folder}: set LEVELMATCH_REAL_DATA to the folder that holds {name}/")
    return folder


@pytest.fixture(scope="session")
def real() -> Callable[[str], Path]:
    """Return what gives the folder of a real data set, or skips the test."""
    return real_data


@pytest.fixture(scope="session")
def m17() -> Path:
    """Eight raw 2MASS images of M17."""
    return real_data("m17_2mass")


@pytest.fixture(scope="session", autouse=True)
def _commands_hear_sigint() -> None:
    """Let started commands hear SIGINT though this session, in the background of a script, ignores it: they inherit."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before -m deselects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as fast what is neither slow nor full, so that each tier has a name; what is full may take its time."""
    for item in items:
        if item.get_closest_marker("full"):
            item.add_marker(pytest.mark.timeout(0))
        if not any(item.get_closest_marker(tier) for tier in ("slow", "full")):
            item.add_marker(pytest.mark.fast)
