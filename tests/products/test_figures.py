import hashlib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from astropy.io import fits

from levelmatch_core.matching.measure.pair_fit import Difference
from levelmatch_core.products.blocks import block_mean
from levelmatch_core.products.drawings.mosaic_views import views_of_file
from levelmatch_core.products.drawings.style import distinct, short
from levelmatch_core.products.figures import MAX_PAIRS, choose_pairs, draw_figures
from levelmatch_core.products.figures.mosaic import draw_mosaic
from levelmatch_core.products.figures.pair import draw_pair
from levelmatch_core.products.manifest import OutputFile
from levelmatch_core.settings import MatchSettings


class Folder:
    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, name: str, writer: Any) -> OutputFile:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        writer(path)
        return OutputFile(name=name, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def difference(pair: Any) -> Difference:
    rng = np.random.default_rng(3)
    plane = pair.fit.plane
    y, x = np.mgrid[:30, :90]
    data = plane(x + plane.x0 - 45, y + plane.y0 - 15) + rng.normal(0, 0.1, (30, 90))
    data[:5, :5] = np.nan
    return Difference(data, np.isfinite(data), int(plane.x0) - 45, int(plane.y0) - 15, int(np.isfinite(data).sum()))


@pytest.fixture
def mosaic(tmp_path: Path, make: Any) -> Path:
    rng = np.random.default_rng(4)
    image = rng.normal(5, 0.1, (255, 320)).astype("f4")
    image[:40, :40] = np.nan
    header = fits.Header(make.grid.header_cards(2000, 3000))
    header["BUNIT"] = make.unit
    stepped = image + np.where(np.arange(320) > 160, 3, 0).astype("f4")
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(image, header, name="SCI"), fits.ImageHDU(stepped, header, name="BEFORE")]
    fits.HDUList(hdus).writeto(tmp_path / "mosaic.fits")
    return tmp_path / "mosaic.fits"


def draw(match: Any, root: Path, mosaic: Path | None = None, *, pairs: int = 2) -> list[OutputFile]:
    images = [(stage.stage, pair, difference(pair)) for stage, pair in choose_pairs(match)][:pairs]
    return draw_figures(match, images, MatchSettings(max_points=500), Folder(root), mosaic=mosaic)


def test_figures_are_the_same_whatever_a_users_settings_and_these_stay(make: Any, tmp_path: Path, mosaic: Path) -> None:
    match = make.match()
    plain = draw(match, tmp_path / "plain", mosaic)
    with mpl.rc_context({"text.usetex": True, "font.size": 40.0, "axes.facecolor": "red", "savefig.dpi": 7}):
        styled = draw(match, tmp_path / "styled", mosaic)
        assert (mpl.rcParams["text.usetex"], mpl.rcParams["font.size"]) == (True, 40.0)
    assert styled == plain


@pytest.mark.parametrize("planes", [False, True])
def test_all_figures_are_there_and_the_same_each_time(make: Any, tmp_path: Path, mosaic: Path, planes: bool) -> None:
    match = make.match(planes=planes, history=True)
    first = draw(match, tmp_path / "a", mosaic)
    names = [Path(file.name).stem.removeprefix("f770w_") for file in first]
    assert names[:5] == ["mosaic", "overlaps", "residuals", "mosaic_tiles_delta", "convergence"]
    assert names[5:] == ["pair_01", "pair_02"]
    for file in first:
        path = tmp_path / "a" / file.name
        if path.suffix == ".svg":
            root = ET.fromstring(path.read_bytes())  # noqa: S314 - our own
            assert len({each.tag for each in root.iter()}) > 4
            assert not [each for each in root.iter() for value in each.attrib.values() if "://" in value]
            continue
        assert path.read_bytes().startswith(b"\x89PNG")
        image = mpl.image.imread(path)
        assert min(image.shape[:2]) > 200
        assert image[..., :3].std() > 0.02
        assert b"Software" not in path.read_bytes()
    assert draw(match, tmp_path / "b", mosaic) == first


def test_what_has_nothing_to_show_is_left_out(make: Any, tmp_path: Path) -> None:
    lone = make.match(1, 1)
    assert draw(lone, tmp_path) == []
    names = [Path(file.name).stem for file in draw(make.match(), tmp_path, pairs=0)]
    assert "f770w_convergence" not in names
    assert "f770w_mosaic" not in names


def test_an_image_without_any_contrast_can_be_drawn(tmp_path: Path, mosaic: Path) -> None:
    for value in (0.0, 7.0):
        with fits.open(mosaic, mode="update") as hdus:
            hdus["SCI"].data[50:] = value
            hdus["BEFORE"].data[:] = value
        draw_mosaic(tmp_path / "flat.png", mosaic, "flat")


def test_a_pair_without_scatter_can_be_drawn(make: Any, tmp_path: Path) -> None:
    match = make.match(2, 1, reject=0)
    (stage, pair), *_ = choose_pairs(match)
    still = pair.model_copy(update={"fit": pair.fit.model_copy(update={"rms": 0.0})})
    one = np.full((1, 1), pair.fit.plane.level)
    solution = stage.solutions[0]
    draw_pair(tmp_path / "p.png", solution, still, Difference(one, np.isfinite(one), 0, 0, 1), unit="", max_points=10)


def test_many_tiles_are_drawn_with_few_names(make: Any, tmp_path: Path) -> None:
    match = make.match(12, 8)
    images = draw_figures(match, [], MatchSettings(), Folder(tmp_path))
    assert {Path(file.name).stem for file in images} == {
        "f770w_overlaps",
        "f770w_residuals",
        "f770w_mosaic_tiles_delta",
    }


def test_a_rejected_pair_is_drawn_even_where_all_are(make: Any, tmp_path: Path) -> None:
    match = make.match(reject=7)
    assert len(choose_pairs(match)) == 7
    assert len(draw(match, tmp_path, pairs=1)) == 3 + 1


def test_the_worst_pairs_are_chosen_from_both_kinds(make: Any) -> None:
    chosen = [pair for _, pair in choose_pairs(make.match(6, 6, reject=20))]
    assert len(chosen) == MAX_PAIRS
    assert sum(pair.rejected is not None for pair in chosen) == MAX_PAIRS // 2
    used = [pair.residual_rms for pair in chosen if pair.rejected is None]
    assert used == sorted(used, reverse=True)
    every = make.match(6, 6, reject=20).stages[1].solutions[0].pairs
    assert used[0] == max(pair.residual_rms for pair in every if pair.rejected is None)


def test_blocks_are_averaged_without_what_is_missing() -> None:
    image = np.arange(35.0).reshape(5, 7)
    image[0, 0] = np.nan
    image[4, 6] = np.nan
    small = block_mean(image, 2)
    assert small.shape == (3, 4)
    assert small[0, 0] == np.mean([1, 7, 8])
    assert small[1, 1] == np.mean([16, 17, 23, 24])
    assert np.isnan(small[2, 3])
    np.testing.assert_array_equal(block_mean(image, 1), image)


def test_names_are_cut_to_where_they_differ() -> None:
    names = [f"jw01234{n:03d}001_02101_00001_mirimage_cal.fits" for n in range(3)]
    assert distinct(names) == ["jw01234000001", "jw01234001001", "jw01234002001"]
    assert distinct(["a_1.fits", "a_2.fits"]) == ["1", "2"]
    assert distinct(["same"]) == ["same"]
    assert len(short("x" * 100, 24)) == 24
    assert short("a$b$c") == r"a\$b\$c"


def test_the_change_is_what_was_subtracted_and_the_stretch_shows_steps_of_the_sky(make: Any, mosaic: Path) -> None:
    """A step of a third of the sky's scatter beside stars a thousand times brighter, as in M17's 2MASS images."""
    with fits.open(mosaic, mode="update") as hdus:
        rng = np.random.default_rng(5)
        rows, columns = rng.integers(50, 255, 2000), rng.integers(50, 320, 2000)
        for name in ("SCI", "BEFORE"):
            hdus[name].data[rows, columns] += 600
        hdus["BEFORE"].data[:] = hdus["SCI"].data + np.where(np.arange(320) > 160, 0.03, 0)
    views, _, unit = views_of_file(mosaic, 900, make.match())
    assert unit == make.unit
    assert views.limit == pytest.approx(0.03, rel=0.01)
    assert np.nanmax(views.change) - np.nanmin(views.change) == pytest.approx(0.03, rel=0.01)
    sky = float(views.norm(0.03)) - float(views.norm(0.0))
    assert sky > 0.03  # some eight of the 255 shades
    before, after, change = views.shades
    for shades in (before, after):
        assert np.nanpercentile(shades, 50) > 0.1
    assert np.nanmin(change) >= -1e-6
    assert np.nanmax(change) <= 1 + 1e-6


def test_outlines_lie_where_the_members_are(make: Any, mosaic: Path) -> None:
    match = make.match()
    views, wcs, _ = views_of_file(mosaic, 80, match)
    outlines = [member.cutout.outline for member in match.stages[-1].members]
    assert len(views.outlines) == len(outlines)
    for there, outline in zip(views.outlines, outlines, strict=True):
        sky = match.grid.wcs().wcs_pix2world(outline, 0)
        np.testing.assert_allclose(np.array(there), wcs.wcs_world2pix(sky, 0), atol=1e-3)


def test_a_mosaic_that_did_not_change_says_so_in_place_of_a_scale_of_rounding(mosaic: Path) -> None:
    with fits.open(mosaic, mode="update") as hdus:
        hdus["BEFORE"].data[:] = hdus["SCI"].data + np.float32(4.0)
    views, _, _ = views_of_file(mosaic, 900)
    assert views.limit == 0
    assert np.nanmax(np.abs(views.shades[2] - 0.5)) == 0
