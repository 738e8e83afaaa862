"""Expressions that explode, files that are no files, tables of absurd depth and numbers: refused soon, and by name."""

import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from astropy.table import Table

from levelmatch_core.errors import NoInputError, OutputFolderError, SettingsError, UsageError
from levelmatch_core.images.inventory import take_inventory
from levelmatch_core.instrument_tables import read_table
from levelmatch_core.pipeline import Request, RunResult, run
from levelmatch_core.products.corrected.reapply import apply_solution
from levelmatch_core.products.corrected.undo import undo
from levelmatch_core.products.corrected.verify import verify
from levelmatch_core.products.explain import explain
from levelmatch_core.runners import PlainRunner
from levelmatch_core.settings import MatchSettings
from levelmatch_core.simulate import SimulatedProgram, simulate
from levelmatch_core.sky.store import CutoutStore

SETTINGS = MatchSettings.from_mapping({"figures": "none"})
PATIENCE = 30


@pytest.fixture(autouse=True)
def _soon() -> Iterator[None]:
    """End a test that hangs."""

    def stop(*_: object) -> None:
        message = f"not done in {PATIENCE} s"
        raise TimeoutError(message)

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(PATIENCE)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished output, beside its input. To be read only."""
    root = tmp_path_factory.mktemp("hostile")
    simulate(root / "in", SimulatedProgram(instrument="miri", tiles=(2, 1), dithers=2, size=64))
    assert match(root).complete
    return root


@pytest.fixture
def place(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(finished, tmp_path / "place")
    return tmp_path / "place"


def match(root: Path) -> RunResult:
    request = Request(inputs=(root / "in",), output=root / "out", settings=SETTINGS)
    return run(request, CutoutStore(root / "store"), PlainRunner)


# -- expressions -------------------------------------------------------------------------------------------------------
EXPLOSIVE = ["^(a+)+$", "(a|aa)+$", r"^(\w+\s?)*$", "(x+x+)+y", "((a*)*)*b"]


@pytest.mark.parametrize("pattern", EXPLOSIVE)
def test_an_expression_that_explodes_does_not_hang(tmp_path: Path, pattern: str) -> None:
    name = "a" * 60 + "x" * 60 + "!.fits"
    simulate(tmp_path / "in", SimulatedProgram(instrument="miri", tiles=(1, 1), dithers=1, size=64))
    next((tmp_path / "in").glob("*.fits")).rename(tmp_path / "in" / name)
    table = tmp_path / "table.toml"
    table.write_text(f"name = 'camera'\n[header]\nTELESCOP = ['JWST']\n[tile]\npattern = '{pattern}'\n")
    with pytest.raises(NoInputError, match="names no tile"):
        take_inventory([tmp_path / "in"], SETTINGS, group_by=pattern + "$none")
    settings = MatchSettings.from_mapping({"instruments": [str(table)]})
    assert take_inventory([tmp_path / "in"], settings).fields


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("(((a{500}){500}){500})", "repetition"),
        ("(" * 5000 + ")" * 5000, "10000 characters"),
        ("(", "missing"),
        (r"(a)\1", r"\\1"),
        ("(?=a)b", "RE2"),
    ],
)
def test_an_expression_that_cannot_be_used_is_refused(tmp_path: Path, pattern: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        take_inventory([tmp_path], SETTINGS, group_by=pattern)
    table = tmp_path / "table.toml"
    table.write_text(f"name = 'camera'\n[header]\nTELESCOP = ['X']\n[tile]\npattern = '{pattern}'\n")
    with pytest.raises(SettingsError, match="pattern"):
        read_table(table)


# -- files that are none -----------------------------------------------------------------------------------------------
def fifo(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    here = os.open(".", os.O_RDONLY)
    os.chdir(path.parent)  # a socket's address is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.fchdir(here)
        os.close(here)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


KINDS: list[tuple[Callable[[Path], None], str]] = [(fifo, "FIFO"), (unix_socket, "socket"), (device, "device")]


@pytest.mark.parametrize(("make", "named"), KINDS)
def test_as_input(place: Path, make: Callable[[Path], None], named: str) -> None:
    make(place / "in" / "odd.fits")
    result = match(place)
    (failure,) = result.failures
    assert failure.name == "odd.fits"
    assert named in failure.reason
    with pytest.raises(UsageError, match=named):
        take_inventory([place / "in" / "odd.fits"], SETTINGS)


def test_a_link_to_nowhere_is_named(place: Path) -> None:
    (place / "in" / "odd.fits").symlink_to(place / "missing.fits")
    (failure,) = match(place).failures
    assert failure.name == "odd.fits"
    assert "No such file" in failure.reason


@pytest.mark.parametrize(("make", "named"), KINDS)
def test_an_input_that_becomes_one(place: Path, monkeypatch: Any, make: Callable[[Path], None], named: str) -> None:
    from levelmatch_core import pipeline  # noqa: PLC0415 - to be patched

    victim = min((place / "in").glob("*.fits"))
    shutil.rmtree(place / "store")
    listed = pipeline.inventory_of

    def swapped(*request: Any) -> Any:
        inventory = listed(*request)
        victim.unlink()
        make(victim)
        return inventory

    monkeypatch.setattr(pipeline, "inventory_of", swapped)
    (failure,) = match(place).failures
    assert failure.name == victim.name
    assert named in failure.reason


@pytest.mark.parametrize(("make", "named"), KINDS)
@pytest.mark.parametrize("name", ["tiles/*.fits", "run.json", "corrections.ecsv", "pairs.ecsv", "log.json"])
def test_in_the_output(place: Path, make: Callable[[Path], None], named: str, name: str) -> None:
    out = place / "out"
    victim = min(out.glob(name))
    victim.unlink()
    make(victim)
    with pytest.raises(OutputFolderError):
        match(place)
    try:
        found = [mismatch.file for mismatch in verify(out).mismatches]
    except OutputFolderError as error:
        found = [name for name in ("run.json",) if named in str(error) or name in str(error)]
    assert victim.name == "log.json" or victim.relative_to(out).as_posix() in found
    if name == "tiles/*.fits":
        (failure,) = undo(out, place / "back").failures
        assert named in failure.reason
    elif name in {"run.json", "corrections.ecsv"}:
        with pytest.raises(UsageError):
            undo(out, place / "back")
        assert not (place / "back").exists()
    if name in {"run.json", "pairs.ecsv"}:
        with pytest.raises(UsageError):
            explain(out)
    assert not victim.is_file()


@pytest.mark.parametrize(("make", "named"), KINDS)
def test_as_what_the_user_names(place: Path, make: Callable[[Path], None], named: str) -> None:
    odd = place / "odd.json"
    make(odd)
    with pytest.raises(SettingsError, match=named):
        MatchSettings.load(odd, ())
    with pytest.raises(UsageError, match=named):
        take_inventory([odd], SETTINGS)
    with pytest.raises(UsageError, match=named):
        take_inventory([place / "in"], SETTINGS, group_by=odd)
    with pytest.raises(SettingsError, match=named):
        read_table(odd)
    with pytest.raises(UsageError, match=named):
        apply_solution(odd, [place / "in"], place / "new")
    assert not (place / "new").exists()


# -- depth and numbers -------------------------------------------------------------------------------------------------
DEEP = ["[" * 100_000, '{"a":' * 100_000, '{"schema_version": 1, "files": ' + "[" * 50_000 + "]" * 50_000 + "}"]


@pytest.mark.parametrize("text", DEEP)
def test_run_json_of_absurd_depth(place: Path, text: str) -> None:
    out = place / "out"
    for name in ("run.json", "unfinished.json"):
        was = (out / name).read_bytes() if (out / name).exists() else None
        (out / name).write_text(text)
        with pytest.raises(OutputFolderError, match=name):
            match(place)
        if was is None:
            (out / name).unlink()
        else:
            for look in (verify, explain, lambda folder: undo(folder, place / "back")):
                with pytest.raises(OutputFolderError):
                    look(out)
            (out / name).write_bytes(was)
    assert not (place / "back").exists()
    (place / "deep.json").write_text(text)
    with pytest.raises(UsageError, match="no association"):
        take_inventory([place / "deep.json"], SETTINGS)


def apply_refuses(place: Path, why: str) -> None:
    """Hold that the table of an output is not applied, and that nothing is written."""
    with pytest.raises(UsageError, match=why):
        apply_solution(place / "out" / "corrections.ecsv", [place / "in"], place / "new")
    assert not (place / "new").exists()


def test_a_table_of_absurd_depth(place: Path) -> None:
    path = place / "out" / "corrections.ecsv"
    text = path.read_text()
    path.write_text(text.replace("# meta:", "# meta: " + "[" * 5000, 1))
    apply_refuses(place, "corrections")


@pytest.mark.parametrize("value", [1e300, -1e300, 1e31, float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("column", ["level", "mosaic_tiles_level", "slope_x", "dithers_slope_y", "x0", "local_sky"])
def test_absurd_numbers_in_a_table(place: Path, column: str, value: float) -> None:
    path = place / "out" / "corrections.ecsv"
    table = Table.read(path, format="ascii.ecsv")
    table[column][1] = value
    table.write(path, format="ascii.ecsv", overwrite=True)
    apply_refuses(place, r"corrections\.ecsv")
    with pytest.raises(UsageError, match=r"corrections\.ecsv"):
        undo(place / "out", place / "back")
    assert not (place / "back").exists()


@pytest.mark.parametrize("entry", ["scale", "ra", "dec", "angle"])
def test_absurd_grids_in_a_table(place: Path, entry: str) -> None:
    path = place / "out" / "corrections.ecsv"
    table = Table.read(path, format="ascii.ecsv")
    for grid in table.meta["grids"].values():
        grid["record"][entry] = 1e300
    table.write(path, format="ascii.ecsv", overwrite=True)
    apply_refuses(place, "grid")
