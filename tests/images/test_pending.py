"""Files that somebody still writes to: left for the next run, by name, and no failure."""

import shutil

import pytest

from levelmatch_core.errors import AllPendingError, NoInputError
from levelmatch_core.images.contents import source_file
from levelmatch_core.images.inventory import take_inventory
from levelmatch_core.settings import MatchSettings
from levelmatch_core.simulate import SimulatedProgram, simulate
from tests.folders import age


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("program") / "in"
    simulate(folder, SimulatedProgram(instrument="miri", tiles=(2, 1), dithers=2, size=64))
    return folder


@pytest.fixture
def files(program, tmp_path):
    """Four exposures, written a day ago."""
    shutil.copytree(program, tmp_path / "in")
    found = sorted((tmp_path / "in").glob("*.fits"))
    for path in found:
        age(path, 86400)
    return found


def names(failures):
    return [failure.name for failure in failures]


def test_a_file_that_changed_a_moment_ago_waits(files):
    settings = MatchSettings(settle_seconds=60)
    age(files[1], 10)
    files[2].write_bytes(files[2].read_bytes()[:5000])  # truncated, for it is being written
    found = take_inventory([files[0].parent], settings)
    assert names(found.pending) == [files[1].name, files[2].name]
    assert "settle_seconds (60)" in found.pending[0].reason
    assert not found.failures
    assert sum(len(field.exposures) for field in found.fields) == 2


def test_a_file_that_has_settled_is_taken_or_fails(files):
    files[2].write_bytes(files[2].read_bytes()[:5000])
    age(files[2], 61)
    found = take_inventory([files[0].parent], MatchSettings(settle_seconds=60))
    assert names(found.failures) == [files[2].name]
    assert not found.pending


def test_a_time_to_come_is_no_sign_of_writing(files):
    age(files[0], -3600)
    assert not take_inventory([files[0].parent], MatchSettings(settle_seconds=60)).pending


@pytest.mark.parametrize("procs", [1, 2])
def test_a_file_that_changes_while_it_is_read_waits_whatever_the_settings(files, monkeypatch, procs):
    file_digests = source_file.file_digests

    def growing(path):
        if path.name == files[3].name:
            with path.open("ab") as file:
                file.write(bytes(2880))
        return file_digests(path)

    monkeypatch.setattr(source_file, "file_digests", growing)
    found = take_inventory([files[0].parent], MatchSettings(procs=procs))
    assert names(found.pending) == [files[3].name]
    assert "changed while it was read" in found.pending[0].reason


def test_nothing_but_pending_files_is_no_input(files):
    for path in files:
        age(path, 1)
    with pytest.raises(AllPendingError, match="Pending"):
        take_inventory([files[0].parent], MatchSettings(settle_seconds=60))
    age(files[0], 120)
    files[0].write_bytes(files[0].read_bytes()[:5000])
    age(files[0], 120)
    with pytest.raises(NoInputError, match="truncated") as caught:
        take_inventory([files[0].parent], MatchSettings(settle_seconds=60))
    assert not isinstance(caught.value, AllPendingError)  # to wait does not help
