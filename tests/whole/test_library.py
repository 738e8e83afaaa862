"""levelmatch as a library: the snippet that the documentation shows, and the types that come out."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, NDData, VarianceUncertainty
from astropy.wcs import WCS

from levelmatch_core import LevelMatch, MatchSettings, match_levels
from levelmatch_core.errors import UsageError
from levelmatch_core.simulate import SimulatedProgram, simulate

REPOSITORY = Path(__file__).resolve().parents[2]


def examples(page):
    """Return the blocks of Python that a page shows."""
    return re.findall(r"```python\n(.*?)```", (REPOSITORY / page).read_text(encoding="utf-8"), re.DOTALL)


FILES, IMAGES = examples("deployments/docs/api.md")
"""The examples of the page on the library; README has the first one."""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("program") / "exposures"
    folder.mkdir()
    truth = simulate(folder, SimulatedProgram.of(tiles=(2, 1), dithers=2, size=128, stars=20))
    return folder, truth


def test_readme_and_the_page_on_the_library_have_the_same_example():
    assert examples("README.md") == [FILES]


def test_the_documented_snippet_runs(program, monkeypatch, capsys):
    folder, _ = program
    monkeypatch.chdir(folder.parent)
    names = {}
    exec(compile(FILES, "api.md", "exec"), names)  # noqa: S102 - our own example
    assert "MJy / sr +- " in capsys.readouterr().out
    assert names["seams"].unit == u.MJy / u.sr
    assert names["mosaic"].unit == u.MJy / u.sr
    assert names["mosaic"].data[~names["mosaic"].mask].size > 10_000
    assert names["mosaic"].uncertainty is not None
    assert (folder.parent / "matched" / "run.json").is_file()


def test_the_documented_example_of_images_in_memory_runs(program, monkeypatch):
    folder, truth = program
    monkeypatch.chdir(folder.parent)
    names = {}
    exec(compile(IMAGES, "api.md", "exec"), names)  # noqa: S102 - our own example
    result, flat = names["result"], names["flat"]
    true = {one.file: one.plane.level for one in truth.exposures}
    found = np.array([result.level(f"shot{number}.fits").value for number in range(1, len(true) + 1)])
    # flags are not read from CCDData.read: a few wild pixels are left in
    assert np.std(found - [true[name] for name in sorted(true)]) < 0.05
    assert all(isinstance(image, CCDData) and image.unit == u.MJy / u.sr for image in flat)
    for number, (image, came) in enumerate(zip(flat, names["images"], strict=True)):
        change = came.data - image.data
        np.testing.assert_allclose(change[np.abs(came.data) < 1e3], found[number], atol=1e-3)


def test_images_in_memory_with_mask_uncertainty_and_slopes(program):
    folder, truth = program
    images = []
    for path in sorted(folder.glob("*.fits")):
        with fits.open(path) as hdus:
            wcs = WCS(hdus["SCI"].header)
            mask = (hdus["DQ"].data & 513) > 0
            error = VarianceUncertainty(hdus["ERR"].data.astype(float) ** 2)
            images.append(NDData(hdus["SCI"].data.copy(), error, mask, wcs, unit="MJy/sr", meta={"FILTER": "F770W"}))
    names = [f"image{number:03d}.fits" for number in range(1, len(images) + 1)]
    true = [one.plane.level for one in sorted(truth.exposures, key=lambda one: one.file)]
    result = match_levels(images)
    found = [result.level(name).value for name in names]
    assert np.std(np.subtract(found, true)) < 0.01
    assert max(result.level_error(name).value for name in names) > 0
    sloped = match_levels(images, settings=MatchSettings(fit_type_mosaic_tiles="level+slope"))
    assert any(not one.total.is_level for one in sloped.corrections)
    for name, image in zip(names, images, strict=True):
        flat = sloped.corrected(image, name)
        assert type(flat) is NDData
        assert flat.mask is image.mask
        change = (image.data - flat.data)[~image.mask]
        assert np.median(change) == pytest.approx(sloped.level(name).value, abs=0.05)
        assert (np.ptp(change) > 1e-3) is not sloped.correction(name).total.is_level


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (NDData(np.zeros((3, 4, 5)), unit="adu"), "expected a two-dimensional image"),
        (NDData(np.zeros((4, 5)), unit="adu"), "expected a celestial"),
        (NDData(np.zeros((4, 5)), wcs=WCS(naxis=2)), "expected a celestial"),
    ],
)
def test_images_without_place_are_refused(image, reason):
    with pytest.raises(UsageError, match=rf"image001\.fits: .*{reason}"):
        match_levels(image)


def test_a_correction_of_another_unit_or_without_place_is_refused(program):
    result = match_levels(program[0], settings=MatchSettings(fit_type_mosaic_tiles="level+slope"))
    sloped = next(one.exposure.name for one in result.corrections if not one.total.is_level)
    with pytest.raises(UsageError, match="the image in adu"):
        result.corrected(NDData(np.zeros((128, 128)), unit="adu"), sloped)
    with pytest.raises(UsageError, match="give the image its wcs"):
        result.corrected(NDData(np.zeros((128, 128)), unit="MJy/sr"), sloped)


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
    assert result.mosaic().unit == u.MJy / u.sr  # in memory
    with pytest.raises(UsageError, match="no exposure 'x'"):
        result.level("x")
    with pytest.raises(AttributeError):
        result.output = tmp_path


def test_several_inputs_and_a_cache(program, tmp_path):
    folder, _ = program
    files = sorted(folder.glob("*.fits"))
    first = match_levels(files, cache=tmp_path / "cache")
    held = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    second = match_levels(files[::-1], cache=tmp_path / "cache", settings=MatchSettings(preset="best", procs=2))
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
