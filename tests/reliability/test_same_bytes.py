"""The same bytes, whatever the hash seed, the locale, the time zone, the number of workers or the order of inputs."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from levelmatch_core import MatchSettings, match_levels
from levelmatch_core.simulate import SimulatedProgram, simulate
from tests.folders import contents

REPOSITORY = Path(__file__).resolve().parents[2]
CODE = """
import locale, pathlib, sys
locale.setlocale(locale.LC_ALL, "")
from levelmatch_core.pipeline import Request, run
from levelmatch_core.runners import PlainRunner
from levelmatch_core.workers import Threads
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.store import CutoutStore
root, workers, *inputs = sys.argv[1:]
root = pathlib.Path(root)
settings = MatchSettings.from_mapping({"procs": int(workers), "figures": "summary", "fit_type_dithers": "level+slope"})
request = Request(inputs=tuple(map(pathlib.Path, inputs)), output=root / "out", settings=settings)
run(request, CutoutStore(root / "store"), lambda workspace: PlainRunner(workspace, Threads(int(workers))))
"""
WORLDS = {
    "hash seed": {"PYTHONHASHSEED": "4242"},
    "time zone": {"TZ": "Pacific/Chatham"},
    "locale": {"LC_ALL": "C", "LANG": "C"},
    "other locale": {"LC_ALL": "tr_TR.UTF-8", "LANGUAGE": "tr"},
    "workers": {},
    "order": {},
    "umask and threads": {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
}


def files_of(root, inputs, workers=1, **variables):
    environment = {**os.environ, "PYTHONHASHSEED": "1", "TZ": "UTC", **variables}
    if "LC_ALL" in variables and variables["LC_ALL"] != "C":  # one that is not installed is the C locale
        environment["LC_ALL"] = variables["LC_ALL"] if _installed(variables["LC_ALL"]) else "C.UTF-8"
    subprocess.run(
        [sys.executable, "-c", CODE, str(root), str(workers), *map(str, inputs)],
        check=True,
        env=environment,
        cwd=REPOSITORY,
        timeout=300,
    )
    return contents(root / "out")


def _installed(name):
    listed = subprocess.run(["locale", "-a"], capture_output=True, text=True, check=False).stdout
    return name.lower().replace("-", "") in listed.lower().replace("-", "")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("same") / "in"
    simulate(folder, SimulatedProgram(instrument="miri", tiles=(2, 2), dithers=2, size=96))
    return sorted(folder.glob("*.fits"))


@pytest.fixture(scope="module")
def expected(inputs, tmp_path_factory):
    return files_of(tmp_path_factory.mktemp("expected"), inputs)


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS)
def test_the_same_bytes(inputs, expected, tmp_path, world):
    given = list(inputs)
    if world == "order":
        random.Random(3).shuffle(given)  # noqa: S311 - no secret
        assert given != inputs
    files = files_of(tmp_path, given, 3 if world == "workers" else 1, **WORLDS[world])
    assert sorted(files) == sorted(expected)
    assert [name for name in files if files[name] != expected[name]] == []
    assert {"corrections.ecsv", "pairs.ecsv", "run.json"} < set(files)


@pytest.mark.slow
def test_the_library_writes_what_the_command_writes(reliability, undisturbed, tmp_path):
    """The command ran two workers under Prefect, the library one in a loop."""
    match_levels(undisturbed.world.inputs, tmp_path / "out", MatchSettings(figures="none"), program="p")
    assert reliability.digests(tmp_path / "out") == undisturbed.files


def test_the_seed_is_in_the_record_and_says_all(inputs, tmp_path):
    """The iterative solver draws points from each pair's plane: its seed, and nothing else, says which."""
    files = {}
    for name, seed in (("one", 5), ("same", 5), ("other", 6)):
        settings = MatchSettings(
            figures="none", solver="iterative", fit_type_mosaic_tiles="level+slope", n_iter=50, seed=seed
        )
        match_levels(inputs, tmp_path / name, settings, cache=tmp_path / "cache")
        files[name] = contents(tmp_path / name)
        assert json.loads(files[name]["run.json"])["settings"]["seed"] == seed
    assert files["one"] == files["same"]
    assert files["one"]["corrections.ecsv"] != files["other"]["corrections.ecsv"]
