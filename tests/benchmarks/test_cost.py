"""Bounds on time beside the floor, on what the whole command adds, and on memory."""

import ast
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from levelmatch_core.simulate import SimulatedProgram, simulate
from tests.benchmarks.command import COMMAND, LIBRARY, NEW, Bench
from tests.benchmarks.memory import exposure, tiles
from tests.benchmarks.speed import PROGRAMS, measure


def code_in_strings() -> Iterator[tuple[str, str, str]]:
    """Yield a file, a module of ours and a name in it, of what code that is given to other processes imports."""
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            with suppress(SyntaxError):
                for one in ast.walk(ast.parse(text)):
                    if isinstance(one, ast.ImportFrom) and (one.module or "").startswith(("flows", "levelmatch_core")):
                        yield from ((path.name, one.module or "", each.name) for each in one.names)


@pytest.mark.fast
def test_what_benchmarks_give_to_other_processes_is_there() -> None:
    """Nothing else runs the benchmark of the command at each change: its names went stale with their modules."""
    found = list(code_in_strings())
    assert ("command.py", "flows.tracking.tracker", "Tracker") in found
    for file, module, name in found:
        assert hasattr(import_module(module), name) or find_spec(f"{module}.{name}"), (file, module, name)


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """The command on 1,024 exposures of 256 pixels, with Prefect and without it; before tests that delete files."""
    place = tmp_path_factory.mktemp("thousand")
    simulate(place / "in", SimulatedProgram.of(tiles=(16, 16), dithers=4, size=256))
    bench = Bench(place / "in", place)
    for _ in range(9):
        bench.compare()
    return bench


@pytest.mark.full
def test_a_thousand_exposures_are_a_few_hundred_tasks_which_take_less_than_a_tenth(thousand: Bench) -> None:
    assert 20 < thousand.task_runs < 400
    assert 0.01 < thousand.told < 0.1  # Prefect's import alone is more than that


@pytest.mark.full
def test_with_prefect_the_command_takes_a_tenth_longer_at_most(thousand: Bench) -> None:
    """It is 7 to 10 % on two processors; more where thousands of files were deleted in the minutes before."""
    assert thousand.orchestration < 0.1


@pytest.mark.full
@pytest.mark.parametrize("program", PROGRAMS)
def test_the_library_costs_at_most_twice_the_floor(program: str) -> None:
    timing = measure(PROGRAMS[program], rounds=2)
    assert timing.ratio <= 2.0


@pytest.mark.full
def test_an_exposure_costs_at_most_ten_times_its_image(tmp_path: Path) -> None:
    found = exposure(tmp_path, 2048)
    assert max(found.values()) <= 10.0
    assert max(found.values()) > 1.0  # it was measured


@pytest.mark.full
def test_memory_is_bounded_by_workers(tmp_path: Path) -> None:
    hundred, many = tiles(tmp_path, 10, 512), tiles(tmp_path, 20, 512)
    assert many <= 1.1 * hundred
    assert max(hundred, many) < 1500


@pytest.mark.full
def test_the_command_costs_ten_seconds_more_than_the_library(tmp_path: Path) -> None:
    simulate(tmp_path / "in", SimulatedProgram.of(tiles=(2, 2), dithers=4, size=512))
    bench = Bench(tmp_path / "in", tmp_path)
    for _ in range(3):
        bench.round()
    best = bench.best
    assert best[COMMAND].wall <= 10 + 1.1 * best[LIBRARY].wall
    assert best[NEW].wall <= 18 + 1.1 * best[LIBRARY].wall
    assert best[LIBRARY].cpu <= 2
    assert best[COMMAND].cpu <= 15
