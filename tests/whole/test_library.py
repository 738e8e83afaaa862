"""levelmatch as a library: the snippet that the documentation shows, and the types that come out."""

import subprocess
import sys

import numpy as np
import pytest
from astropy import units as u

from levelmatch_core import LevelMatch, MatchSettings, match_levels
from levelmatch_core.errors import UsageError
from levelmatch_core.simulate import SimulatedProgram, simulate

SNIPPET = """
from levelmatch_core import MatchSettings, match_levels

result = match_levels("exposures", output="matched", settings=MatchSettings(figures="none"))

table = result.corrections_table()          # astropy Table: exposure, status, level, sigma_level, ...
seams = result.pairs_table()["residual"]    # what is left of every pair's difference
name = table["exposure"][0]
print(f"{name}: {result.level(name):.3f} +- {result.level_error(name):.3f}")

mosaic = result.mosaic()                    # NDData with wcs, mask, uncertainty and unit
sky = mosaic.wcs.pixel_to_world(0, 0)
"""
"""The example of the README's section on library use."""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("program") / "exposures"
    folder.mkdir()
    truth = simulate(folder, SimulatedProgram.of(tiles=(2, 1), dithers=2, size=128, stars=20))
    return folder, truth


def test_the_documented_snippet_runs(program, monkeypatch, capsys):
    folder, _ = program
    monkeypatch.chdir(folder.parent)
    names = {}
    exec(compile(SNIPPET, "README", "exec"), names)  # noqa: S102 - our own example, above
    assert "MJy / sr +- " in capsys.readouterr().out
    assert names["seams"].unit == u.MJy / u.sr
    assert names["mosaic"].unit == u.MJy / u.sr
    assert names["mosaic"].data[~names["mosaic"].mask].size > 10_000
    assert names["mosaic"].uncertainty is not None
    assert (folder.parent / "matched" / "run.json").is_file()


def test_levels_are_the_truth_and_nothing_is_written_without_an_output(program, tmp_path, monkeypatch):
    folder, truth = program
    monkeypatch.chdir(tmp_path)
    result = match_levels(str(folder))
    assert isinstance(result, LevelMatch)
    assert result.complete
    assert result.output is None
    assert list(tmp_path.iterdir()) == []
    found = np.array([result.level(one.name).value for one in truth.exposures])
    true = np.array([one.plane.level for one in truth.exposures])
    assert np.std(found - true) < 0.01
    assert np.std(true) > 1
    with pytest.raises(UsageError, match="give an output folder"):
        result.mosaic()
    with pytest.raises(UsageError, match="no exposure 'x'"):
        result.level("x")
    with pytest.raises(AttributeError):
        result.output = tmp_path


def test_several_inputs_and_a_cache(program, tmp_path):
    folder, _ = program
    files = sorted(folder.glob("*.fits"))
    first = match_levels(files, cache=tmp_path / "cache")
    held = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    second = match_levels(files[::-1], cache=tmp_path / "cache", settings=MatchSettings(procs=2))
    assert held == {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert first.corrections == second.corrections


def test_importing_is_cheap_and_names_are_there():
    code = (
        "import sys, levelmatch_core; "
        "assert not {'numpy', 'astropy', 'matplotlib'} & set(sys.modules), 'heavy'; "
        "[getattr(levelmatch_core, name) for name in levelmatch_core.__all__]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    import levelmatch_core  # noqa: PLC0415 - the package itself

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = levelmatch_core.nothing
