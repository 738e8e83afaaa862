"""Simulated programs whose levels are known: how well the whole way finds them, read from the files that it wrote."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from levelmatch_core.errors import SolveError
from levelmatch_core.jobs.science import ErrorsJob
from levelmatch_core.matching.corrections import Status
from levelmatch_core.pipeline import RunResult
from levelmatch_core.simulate import Recovery, SimulatedProgram, Truth, score, simulate
from tests.folders import contents

PROGRAMS: Mapping[str, tuple[dict[str, object], dict[str, object], float]] = {
    "miri levels": ({"instrument": "miri", "size": 512}, {}, 0.0005),
    "miri planes": (
        {"instrument": "miri", "size": 512, "planes": True},
        {"fit_type_dithers": "level+slope", "fit_type_mosaic_tiles": "level+slope"},
        0.003,
    ),
    "miri lyot": ({"instrument": "miri", "size": 1024, "lyot": True}, {"recombine_lyot": True}, 0.001),
    "nircam short": ({"instrument": "nircam_short", "size": 512}, {"combine_nircam_short": True}, 0.001),
}
"""Program, settings, and the bound on the rms error of the exposures' corrections (noise 0.1), data unit."""


def recover(program: SimulatedProgram, folder: Path, result: RunResult) -> Recovery:
    """Return the error of a match, one free constant (or sky plane) a component taken out."""
    truth = Truth.load(folder)
    halves = {true.name for true in truth.exposures}
    components = {}
    for correction in result.corrections:
        name = correction.exposure.name
        wanted = [name] if name in halves else [half for half in halves if half.split("@")[0] == name]
        components.update(dict.fromkeys(wanted, f"{correction.field} {correction.component}"))
    return score(truth, result.request.output / "tiles", folder, components, planes=program.planes)


def errors_of(name: str, seeds: range, tmp_path: Path, level_match) -> list[float]:
    options, settings, _ = PROGRAMS[name]
    found = []
    for seed in seeds:
        program = SimulatedProgram.of(tiles=(2, 2), dithers=4, noise=0.1, seed=seed, **options)
        folder = tmp_path / f"in{seed}"
        simulate(folder, program)
        result = level_match(folder, output=tmp_path / f"out{seed}", **settings)
        assert result.complete, result.failures
        recovery = recover(program, folder, result)
        assert recovery.components == 1
        found.append(recovery.rms)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_truth_is_recovered(name, tmp_path, level_match):
    bound = PROGRAMS[name][2]
    assert np.median(errors_of(name, range(1), tmp_path, level_match)) < bound


@pytest.mark.full
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_truth_is_recovered_ten_seeds(name, tmp_path, level_match):
    bound = PROGRAMS[name][2]
    found = errors_of(name, range(10), tmp_path, level_match)
    print(f"{name}: median {np.median(found):.5f}, worst {max(found):.5f}, bound {bound}")  # noqa: T201 - the log
    assert np.median(found) < bound


def small(**options: object) -> SimulatedProgram:
    """Return a program that is matched in a second."""
    return SimulatedProgram.of(**{"tiles": (2, 1), "dithers": 2, "size": 128, "stars": 20, **options})


def times(folder: Path) -> dict[Path, int]:
    """Return when each file was last written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_workers_and_a_second_run_change_no_byte(tmp_path, level_match):
    folder = tmp_path / "in"
    simulate(folder, small())
    first = level_match(folder, output=tmp_path / "one", procs=1)
    level_match(folder, output=tmp_path / "two", procs=2)
    one = contents(tmp_path / "one")
    assert one == contents(tmp_path / "two")
    assert first.changed
    stamps = times(tmp_path / "one")
    again = level_match(folder, output=tmp_path / "one", procs=1)
    assert not again.changed
    assert stamps == times(tmp_path / "one")


def test_a_new_exposure_resamples_only_itself(tmp_path, level_match, monkeypatch):
    from levelmatch_core.jobs import science  # noqa: PLC0415 - patched here

    folder = tmp_path / "in"
    simulate(folder, small(tiles=(3, 1)))
    held_back = max(folder.glob("*.fits"))
    elsewhere = held_back.rename(tmp_path / held_back.name)
    level_match(folder)
    elsewhere.rename(held_back)
    resampled = []
    real = science.make_cutout

    def spy(exposure, grid, settings, store, *further):
        before = store.size()
        record = real(exposure, grid, settings, store, *further)
        if store.size() != before:
            resampled.append(exposure.file)
        return record

    monkeypatch.setattr(science, "make_cutout", spy)
    level_match(folder)
    assert resampled == [held_back.name]


def test_where_the_errors_of_the_sums_fail_those_of_the_stages_are_added(
    tmp_path: Path, level_match: Callable[..., RunResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    simulate(tmp_path / "in", SimulatedProgram.of(tiles=(2, 1), dithers=2, size=96, stars=5, overlap=0.4))

    def broken(_job: ErrorsJob, _workspace: object) -> None:
        message = "no errors"
        raise SolveError(message)

    monkeypatch.setattr(ErrorsJob, "run", broken)
    result = level_match(tmp_path / "in")
    (match,) = result.matches
    assert [failure.reason for failure in match.failures] == ["no errors"]
    found = {one.status for one in match.corrections}
    assert found == {Status.MATCHED, Status.REFERENCE}
    for one in match.corrections:
        assert one.sigma[0] == pytest.approx(np.hypot.reduce([own[0] for own in one.stage_sigmas.values()]))
    assert max(one.sigma[0] for one in match.corrections) > 0
