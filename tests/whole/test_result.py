"""What a library's result shows of itself: in words, tables, plots, arrays and a notebook."""

import gc
import sys
from html.parser import HTMLParser
from importlib.metadata import version
from types import ModuleType, SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import NDData
from astropy.wcs import WCS

import levelmatch_core
from levelmatch_core import MatchSettings, match_levels
from levelmatch_core.errors import UsageError
from levelmatch_core.simulate import SimulatedProgram, simulate


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("program") / "in"
    truth = simulate(folder, SimulatedProgram.of(tiles=(2, 2), dithers=2, size=96, stars=5, overlap=0.3))
    return folder, truth


@pytest.fixture(scope="module")
def result(program):
    return match_levels(program[0])


@pytest.fixture(scope="module")
def written(program, tmp_path_factory):
    out = tmp_path_factory.mktemp("written") / "out"
    return match_levels(program[0], out, MatchSettings(preset="best", figures="none"))


def test_a_result_says_in_a_line_whether_it_worked(result):
    assert repr(result) == f"<LevelMatch {result.grade.value}: {result.verdict}>"
    assert "8 of 8 exposures are matched" in repr(result)
    assert len(repr(result)) < 400


def test_a_notebook_shows_verdict_picture_and_table(result):
    class Seen(HTMLParser):
        tags: dict[str, int] = {}  # noqa: RUF012 - of this test

        def handle_starttag(self, tag, attrs):
            self.tags[tag] = self.tags.get(tag, 0) + 1
            assert tag != "img" or dict(attrs)["src"].startswith("data:image/png;base64,")

    page = result._repr_html_()
    Seen().feed(page)
    assert result.verdict in page
    assert Seen.tags["img"] == 1
    assert Seen.tags["tr"] == 6


def test_the_mosaic_in_memory_is_the_one_that_is_written(result, written):
    mine, other = result.mosaic(), written.mosaic()
    np.testing.assert_array_equal(mine.data, other.data)
    np.testing.assert_array_equal(mine.uncertainty.array, other.uncertainty.array)
    np.testing.assert_array_equal(result.images().before, written.images().before)
    assert mine.unit == other.unit == u.MJy / u.sr
    np.testing.assert_allclose(mine.wcs.wcs_pix2world(3, 5, 0), other.wcs.wcs_pix2world(3, 5, 0), rtol=1e-12)
    with pytest.raises(UsageError, match="fields: f770w"):
        result.mosaic("f1000w")


def test_pixels_go_with_the_result(program):
    result = match_levels(sorted(program[0].glob("*.fits"))[:2])
    folder = result.pixels.store.root
    assert folder.is_dir()
    del result
    gc.collect()
    assert not folder.exists()


def test_covariance_is_that_of_the_errors(result):
    names, covariance = result.covariance()
    assert names == tuple(one.exposure.name for one in result.corrections)
    assert covariance.unit == (u.MJy / u.sr) ** 2
    np.testing.assert_allclose(covariance, covariance.T)
    errors = [result.level_error(name).value for name in names]
    np.testing.assert_allclose(np.sqrt(np.diag(covariance)).value, errors, rtol=1e-9)
    assert np.linalg.eigvalsh(covariance.value).min() > -1e-12
    # dithers of one tile move together with it, and the reference's mean does not move
    one = np.array([correction.exposure.tile for correction in result.corrections])
    reference = next(c.exposure.tile for c in result.corrections if str(c.status) == "reference")
    assert np.abs(covariance.value[np.ix_(one == reference, one == reference)].sum()) < 1e-12
    other = next(tile for tile in one if tile != reference)
    first, second = np.flatnonzero(one == other)
    assert covariance.value[first, second] != 0


def test_errors_of_differences_by_the_covariance_are_those_of_many_skies(tmp_path):
    """Of 20 programs: the scatter of the difference of two tiles is what the covariance says."""
    pulls = []
    for seed in range(20):
        folder = tmp_path / f"{seed}"
        options = {"tiles": (2, 1), "dithers": 1, "size": 64, "stars": 0, "nebula": 0, "overlap": 0.4}
        truth = simulate(folder, SimulatedProgram.of(**options, seed=seed))
        result = match_levels(folder, settings=MatchSettings(match_psf=False))
        names, covariance = result.covariance()
        true = {one.name: one.plane.level for one in truth.exposures}
        apart = [result.level(name).value - true[name] for name in names]
        weights = np.array([1.0, -1.0])
        pulls.append(float(weights @ apart / np.sqrt(weights @ covariance.value @ weights)))
    assert 0.5 < np.sqrt(np.mean(np.square(pulls))) < 1.6


def test_the_summary_has_few_columns(program, result):
    table = result.summary_table()
    assert table.colnames == ["exposure", "tile", "status", "level", "sigma"]
    assert table["level"].unit == table["sigma"].unit == u.MJy / u.sr
    true = {one.name: one.plane.level for one in program[1].exposures}
    apart = np.array([row["level"] - true[row["exposure"]] for row in table])
    assert np.std(apart) < 0.02
    sloped = match_levels(program[0], settings=MatchSettings(fit_type_mosaic_tiles="level+slope")).summary_table()
    assert sloped.colnames[5:] == ["slope_x", "slope_y"]
    assert len(sloped.colnames) == 7


def test_plots_return_their_axes(result):
    mpl.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415 - after the backend

    before, after = result.plot()
    assert (before.get_title(), after.get_title()) == ("f770w: before", "f770w: after")
    levels = result.plot("levels")
    assert "MJy/sr" in levels.get_ylabel()
    _, own = plt.subplots()
    assert result.plot("residuals", axes=own) is own
    assert sum(bar.get_height() for bar in own.patches) > 0
    _, pair = plt.subplots(1, 2)
    assert result.plot(axes=pair) == tuple(pair)
    with pytest.raises(UsageError, match="expected mosaic, levels, residuals"):
        result.plot("seams")
    with pytest.raises(UsageError, match="expected two axes"):
        result.plot(axes=own)
    plt.close("all")


@pytest.mark.parametrize("fit_type", ["level", "level+slope"])
def test_an_array_is_corrected_as_its_file_is(program, tmp_path, fit_type):
    settings = MatchSettings(fit_type_mosaic_tiles=fit_type, figures="none")
    result = match_levels(program[0], tmp_path / "out", settings)
    name = result.corrections[-1].exposure.name
    with fits.open(program[0] / name) as hdus, fits.open(tmp_path / "out" / "tiles" / name) as done:
        data, corrected = hdus["SCI"].data, done["SCI"].data
        wcs = WCS(hdus["SCI"].header)
    flat = result.corrected(data, name)
    assert type(flat) is np.ndarray
    np.testing.assert_allclose(flat[data != 0], corrected[data != 0], atol=1e-5)  # JWST's blank zeros stay in files
    again = result.corrected(NDData(data, wcs=wcs, unit="MJy/sr"), name)
    np.testing.assert_allclose(again.data, flat, atol=1e-6)
    with pytest.raises(UsageError, match=r"of shape \(3, 3\); expected \(96, 97\)"):
        result.corrected(np.zeros((3, 3)), name)


def test_an_array_with_slopes_whose_file_has_gone_needs_a_wcs(program):
    images = []
    for path in sorted(program[0].glob("*.fits"))[:6]:
        with fits.open(path) as hdus:
            images.append(NDData(hdus["SCI"].data.copy(), wcs=WCS(hdus["SCI"].header), unit="MJy/sr"))
    result = match_levels(images, settings=MatchSettings(fit_type_mosaic_tiles="level+slope"))
    name = next(one.exposure.name for one in result.corrections if not one.total.is_level)
    with pytest.raises(UsageError, match=r"its file is not there any more.*NDData with a wcs"):
        result.corrected(images[0].data, name)


def test_the_package_says_its_version_and_its_names():
    assert levelmatch_core.__version__ == version("levelmatch")
    assert {"match_levels", "LevelMatchStep", "MatchSettings", "LevelMatch", "__version__"} <= set(dir(levelmatch_core))


def test_progress_shows_as_a_bar_in_a_notebook(program, monkeypatch):
    shown = []
    handle = SimpleNamespace(update=shown.append)
    display = ModuleType("IPython.display")
    display.HTML, display.display = str, lambda page, **_: shown.append(page) or handle
    kernel = ModuleType("IPython")
    kernel.get_ipython, kernel.display = lambda: SimpleNamespace(kernel=True), display
    monkeypatch.setitem(sys.modules, "IPython", kernel)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    result = match_levels(program[0])
    assert result.complete
    assert any('<progress value="8" max="8">' in page and "cutouts" in page for page in shown)
    assert shown[-1] == ""
    kernel.get_ipython = SimpleNamespace  # a terminal's IPython
    shown.clear()
    assert match_levels(program[0]).corrections == result.corrections
    assert shown == []
