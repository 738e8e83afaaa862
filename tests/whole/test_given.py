"""What the user knows beforehand: levels, locked tiles, rules for pairs, a survey image, regions; against the truth."""

import json
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from levelmatch_core.errors import SettingsError
from levelmatch_core.images.given import Given, PairRule
from levelmatch_core.matching.corrections import Status
from levelmatch_core.matching.match import match
from levelmatch_core.matching.results import Gauge
from levelmatch_core.products.explain import explain
from levelmatch_core.simulate import SimulatedProgram, Truth, simulate
from tests.matching.fakes import make_cutout, member, settings_for

NOISE = 0.1


def program(folder: Path, **options: object) -> dict[str, float]:
    """Write a program of levels and return the true level of each tile."""
    values = {"instrument": "generic", "tiles": (3, 2), "size": 96, "stars": 5, "noise": NOISE, "seed": 2, **options}
    simulate(folder, SimulatedProgram.of(**values))
    return {true.name: true.plane.level for true in Truth.load(folder).exposures}


def table(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def found(result) -> dict[str, float]:
    return {one.exposure.name: one.stages["mosaic_tiles"].level for one in result.corrections}


@pytest.fixture
def six(tmp_path) -> dict[str, float]:
    return program(tmp_path / "in")


def test_given_levels_fix_the_zero(six, tmp_path, level_match):
    a, b = "tile_001.fits", "tile_006.fits"
    levels = table(
        tmp_path / "levels.csv",
        f"# from the backgrounds\ntile, level, error\n{a}, {six[a] + 0.02}, 0.01\n{b}, {six[b] - 0.02}, 0.01\n",
    )
    result = level_match(tmp_path / "in", levels=str(levels), weight_method="error")
    corrections = found(result)
    # two levels of equal error, 0.02 too high and too low: their mean is right
    assert {name: pytest.approx(six[name], abs=0.012) for name in six} == corrections
    assert all(one.status is Status.MATCHED for one in result.corrections)
    assert {one.reference for one in result.corrections} == {""}
    assert {one.local_sky for one in result.corrections} == {0.0}
    # both errors in quadrature over 2, and a little for the pairs
    sigmas = [one.sigma[0] for one in result.corrections]
    assert min(sigmas) > 0.9 * 0.01 / np.sqrt(2)
    assert max(sigmas) < 0.012
    record = json.loads((result.request.output / "run.json").read_text())
    assert (
        "the levels that the user gave of 2 of its 6 members"
        in record["fields"][0]["components"][0]["reference_reason"]
    )
    assert len(record["given"]["levels"]) == 64


def test_a_level_without_error_and_locked_tiles_are_held_exactly(six, tmp_path, level_match):
    levels = table(tmp_path / "levels.csv", "tile,level,error\ntile_002.fits,5.25,0\n")
    result = level_match(tmp_path / "in", levels=str(levels))
    corrections = found(result)
    assert corrections["tile_002.fits"] == 5.25
    shift = 5.25 - six["tile_002.fits"]
    assert {name: pytest.approx(six[name] + shift, abs=0.02) for name in six} == corrections
    held = {one.exposure.name: one for one in result.corrections}["tile_002.fits"]
    assert (held.status, held.sigma[0]) == (Status.REFERENCE, 0.0)
    locked = level_match(tmp_path / "in", output=tmp_path / "out2", locked=["tile_002.fits", "tile_005.fits"])
    corrections = found(locked)
    assert (corrections["tile_002.fits"], corrections["tile_005.fits"]) == (0.0, 0.0)
    assert "locked by the user" in explain(locked.request.output)


def test_planes_take_levels_too(tmp_path, level_match):
    program(tmp_path / "in", planes=True, overlap=0.3)
    levels = table(tmp_path / "levels.csv", "tile,level,error\ntile_001.fits,3,0.001\n")
    result = level_match(tmp_path / "in", levels=str(levels), fit_type_mosaic_tiles="level+slope")
    assert result.complete
    assert found(result)["tile_001.fits"] == pytest.approx(3.0, abs=0.001)


@pytest.mark.usefixtures("six")
def test_forbidden_and_forced_pairs(tmp_path, level_match):
    rules = table(
        tmp_path / "pairs.csv",
        "first,second,action\ntile_001.fits,tile_002.fits,forbid\ntile_005.fits,tile_001.fits,force\n",
    )
    result = level_match(tmp_path / "in", pairs=str(rules))
    pairs = {(row["first"], row["second"]): row for row in Table.read(result.request.output / "pairs.ecsv")}
    gone = pairs["tile_001.fits", "tile_002.fits"]
    assert (gone["used"], gone["reason"], gone["weight"]) == (False, "forbidden by the user", 0.0)
    assert np.isfinite(gone["level"])
    assert pairs["tile_001.fits", "tile_005.fits"]["used"]  # a corner, which is too short unless it is forced
    plain = level_match(tmp_path / "in", output=tmp_path / "plain")
    reasons = {(row["first"], row["second"]): row["reason"] for row in Table.read(tmp_path / "plain" / "pairs.ecsv")}
    assert reasons["tile_001.fits", "tile_005.fits"] == "overlap too short"
    assert plain.complete


def test_a_tie_joins_what_the_pairs_do_not(six, tmp_path, level_match):
    """The middle column is forbidden to the left one: two components, until a tie relates them."""
    forbidden = "".join(f"tile_00{a}.fits,tile_00{b}.fits,forbid,,\n" for a, b in ((1, 2), (4, 5), (1, 5), (2, 4)))
    head = "first,second,action,difference,error\n"
    apart = level_match(tmp_path / "in", pairs=str(table(tmp_path / "a.csv", head + forbidden)))
    assert {one.component for one in apart.corrections} == {1, 2}
    difference = six["tile_001.fits"] - six["tile_006.fits"]
    tie = f"tile_006.fits,tile_001.fits,tie,{difference},0.05\n"
    tied = level_match(
        tmp_path / "in", output=tmp_path / "tied", pairs=str(table(tmp_path / "b.csv", head + forbidden + tie))
    )
    assert {one.component for one in tied.corrections} == {1}
    corrections = found(tied)
    shift = corrections["tile_002.fits"] - six["tile_002.fits"]
    assert {name: pytest.approx(six[name] + shift, abs=0.02) for name in six} == corrections
    sigma = {one.exposure.name: one.sigma[0] for one in tied.corrections}
    reference = next(one.exposure.name for one in tied.corrections if one.status is Status.REFERENCE)
    far = "tile_001.fits" if reference not in {"tile_001.fits", "tile_004.fits"} else "tile_003.fits"
    assert sigma[far] == pytest.approx(0.05, rel=0.05)


def test_a_tie_joins_tiles_without_a_pair(tmp_path, level_match):
    true = program(tmp_path / "in", tiles=(2, 1))
    a, b = sorted(true)
    rules = f"first,second,action,difference,error\n{a},{b},tie,7.5,0.25\n"
    with_pair = level_match(tmp_path / "in", pairs=str(table(tmp_path / "a.csv", rules)))
    assert found(with_pair)[b] - found(with_pair)[a] == pytest.approx(true[b] - true[a], abs=0.1)  # pairs weigh more
    members = [member(make_cutout(name, np.zeros((9, 9)), x)) for name, x in (("a", 0), ("b", 50))]
    tie = Given(rules=(PairRule(first="a", second="b", action="tie", difference=7.5, error=0.25),))
    solution = match("mosaic_tiles", "f", members, [], Gauge.REFERENCE, settings_for(), (), tie)
    assert len(solution.components) == 1
    assert abs(solution.members[0].plane.level - solution.members[1].plane.level) == pytest.approx(7.5)
    assert max(one.sigma[0] for one in solution.members) == pytest.approx(0.25)


def test_a_survey_image_gives_the_zero(six, tmp_path, level_match):
    """A wide image of the same sky, without any level: all corrections are then the true ones, to the last constant."""
    inputs = tmp_path / "in"
    one = level_match(inputs, output=tmp_path / "plain", do_local_subtraction=False)
    with fits.open(one.request.output / f"mosaic_{one.matches[0].field.name}.fits") as hdus:
        image = next(hdu for hdu in hdus if hdu.header.get("NAXIS") == 2)
        reference = next(c.exposure.name for c in one.corrections if c.status is Status.REFERENCE)
        header = WCS(image.header).to_header()
        header["BUNIT"], header["FILTER"] = "MJy/sr", "k"
        fits.writeto(tmp_path / "survey.fits", np.float32(image.data - six[reference]), header)
    result = level_match(inputs, anchor_image=str(tmp_path / "survey.fits"), figures="summary")
    assert {name: pytest.approx(six[name], abs=0.03) for name in six} == found(result)
    assert sorted(path.name for path in (result.request.output / "tiles").iterdir()) == sorted(six)
    assert "the anchor image" in explain(result.request.output)
    pairs = Table.read(result.request.output / "pairs.ecsv")
    assert sum("anchor:survey.fits" in (row["first"], row["second"]) for row in pairs) == 6
    assert "anchor:survey.fits" not in set(Table.read(result.request.output / "corrections.ecsv")["exposure"])
    with fits.open(result.request.output / f"mosaic_{result.matches[0].field.name}.fits") as hdus:
        assert hdus["COVERAGE"].data.max() <= 4
    with fits.open(tmp_path / "survey.fits", mode="update") as hdus:
        hdus[0].header["BUNIT"] = "DN"
    with pytest.raises(SettingsError, match=r"anchor_image .*DN; expected one image in MJy/sr"):
        level_match(inputs, output=tmp_path / "out3", anchor_image=str(tmp_path / "survey.fits"))


@pytest.mark.parametrize("kind", ["regions", "mask"])
def test_excluded_sky_is_not_measured(kind, tmp_path, level_match):
    """A ghost covers most of the overlap of two tiles, in one of them: the median is spoilt, unless it is left out."""
    folder = tmp_path / "in"
    true = program(folder, tiles=(2, 1), overlap=0.3)
    victim = folder / "tile_001.fits"
    with fits.open(victim, mode="update") as hdus:
        wcs = WCS(hdus[0].header)
        y, x = np.mgrid[:96, :96]
        hdus[0].data[(x - 81) ** 2 + (y - 48) ** 2 < 40**2] += 20
        ra, dec = wcs.all_pix2world(81, 48, 0)
    truth = true["tile_002.fits"] - true["tile_001.fits"]

    def difference(**settings: object) -> float:
        name = "out" + "-".join(settings)
        levels = found(level_match(folder, output=tmp_path / name, **settings))
        return levels["tile_002.fits"] - levels["tile_001.fits"]

    assert abs(difference() - truth) > 1
    path = tmp_path / "exclude"
    if kind == "regions":
        path = table(path.with_suffix(".reg"), f'# DS9\nicrs\ncircle({ra},{dec},41")\n')
    else:
        path = path.with_suffix(".fits")
        header = wcs.to_header(relax=True)
        fits.writeto(path, ((x - 81) ** 2 + (y - 48) ** 2 < 41**2).astype(np.uint8), header)
    assert difference(exclude_regions=str(path)) == pytest.approx(truth, abs=0.02)


@pytest.mark.parametrize(
    ("settings", "text", "expected"),
    [
        ({"locked": ["tile_01.fits"]}, "", "'tile_01.fits' is no tile of the input; tiles: tile_001"),
        ({"levels": "t.csv"}, "tile,level,error\ntile_01.fits,1,1\n", "no tile of the input; tiles: tile_001"),
        ({"levels": "t.csv"}, "tile,level\ntile_001.fits,1\n", "no column error"),
        ({"levels": "t.csv"}, "tile,level,error\ntile_001.fits,x,1\n", "row 1: level is 'x', expected a number"),
        ({"levels": "t.csv"}, "tile,level,error\ntile_001.fits,1,-1\n", "a negative error"),
        ({"levels": "missing.csv"}, "", "cannot be read"),
        ({"pairs": "t.csv"}, "first,second,action\ntile_001.fits,tile_001.fits,force\n", "two different tiles"),
        ({"pairs": "t.csv"}, "first,second,action\ntile_001.fits,tile_002.fits,loose\n", "force, forbid, tie"),
        ({"pairs": "t.csv"}, "first,second,action\ntile_001.fits,tile_002.fits,tie\n", "difference is '', expected"),
        ({"exclude_regions": "missing.reg"}, "", "cannot be read"),
        ({"anchor_image": "missing.fits"}, "", "cannot be"),
    ],
)
def test_what_cannot_be_used_is_refused_before_any_work(settings, text, expected, tmp_path, level_match):
    program(tmp_path / "in", tiles=(2, 1))
    (tmp_path / "t.csv").write_text(text)
    chosen = {name: value if name == "locked" else str(tmp_path / value) for name, value in settings.items()}
    with pytest.raises(SettingsError, match=expected):
        level_match(tmp_path / "in", **chosen)
    assert not (tmp_path / "out" / "tiles").exists()
