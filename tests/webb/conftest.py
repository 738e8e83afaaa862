"""A small program as JWST's pipeline writes it, for the tests of this room."""

import pytest

from levelmatch_core.simulate import SimulatedProgram
from tests.webb.files import write_webb

PROGRAM = SimulatedProgram.of(tiles=(2, 1), dithers=2, size=256, stars=60)


@pytest.fixture(scope="session")
def packages():
    """Skip a test where what writes and reads JWST's files is missing."""
    for package in ("asdf", "gwcs", "stdatamodels"):
        pytest.importorskip(package, reason=f"{package} is missing: install the extra, levelmatch[jwst]")


@pytest.fixture(scope="session")
def webb(tmp_path_factory, packages):  # noqa: ARG001 - it skips
    """Return a folder of four `_cal` files and their true levels."""
    folder = tmp_path_factory.mktemp("webb")
    return folder, write_webb(folder, PROGRAM)
