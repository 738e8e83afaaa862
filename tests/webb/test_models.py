"""Corrected files in the hands of stdatamodels: nothing changed but the image, and what is said of the background."""

import numpy as np
import pytest
import yaml
from astropy.io import fits

from levelmatch_core import MatchSettings, match_levels
from levelmatch_core.images.inventory import take_inventory
from levelmatch_core.products.corrected.jwst_background import with_background, with_background_as
from levelmatch_core.products.corrected.undo import undo
from levelmatch_core.products.corrected.verify import verify
from levelmatch_core.products.explain import explain
from tests.webb.conftest import PROGRAM
from tests.webb.files import write_webb

LVL = " LVL"
OURS = {"level": 1.5, "method": "levelmatch", "subtracted": True}


def flat(model, *, but=()):
    """Return all values of a model by name, but for the WCS and some parts; our own cards by their keyword.

    Numbers to 11 digits: stdatamodels takes them from the header once any of its cards is new, and that has 15.
    """
    found = {}
    for name, value in model.to_flat_dict(include_arrays=False).items():
        if name.startswith("extra_fits") or name == "meta.wcs" or any(part in name for part in but):
            continue
        found[name] = float(f"{value:.11g}") if isinstance(value, float) else value
    for hdu, parts in model.extra_fits.instance.items() if hasattr(model, "extra_fits") else ():
        found |= {f"{hdu} {card[0]}": card[1:] for card in parts.get("header", ())}
    arrays = ("data", "err", "dq", "var_poisson", "var_rnoise", "var_flat")
    return found | {name: np.asarray(getattr(model, name)).tobytes() for name in arrays if name not in but}


def matched(folder, out, **settings):
    chosen = {"figures": "none", "fit_type_mosaic_tiles": "level+slope", **settings}
    return match_levels(folder, out, MatchSettings.from_mapping(chosen))


@pytest.fixture(scope="module")
def plain(webb, tmp_path_factory):
    out = tmp_path_factory.mktemp("plain") / "out"
    return out, matched(webb[0], out)


def test_corrected_files_open_with_every_other_value_unchanged(webb, plain):
    from stdatamodels.jwst import datamodels

    folder, levels = webb
    out, result = plain
    x, y = np.array([3.0, 200.0]), np.array([5.0, 100.0])
    for name in levels:
        with datamodels.open(folder / name) as came, datamodels.open(out / "tiles" / name) as went:
            assert isinstance(went, datamodels.ImageModel)
            ours, theirs = flat(went, but=("data",)), flat(came, but=("data",))
            assert len(theirs) > 80
            assert {key: value for key, value in ours.items() if LVL not in key} == theirs
            assert sum(LVL in key for key in ours) == 10
            np.testing.assert_array_equal(np.stack(went.meta.wcs(x, y)), np.stack(came.meta.wcs(x, y)))
            assert went.data.dtype == came.data.dtype
            seen = went.dq == 0
            change = (came.data - went.data)[seen]
            assert np.median(change) == pytest.approx(result.level(name).value, abs=0.05)
            assert not hasattr(went.meta.background, "level") or went.meta.background.level is None


def test_a_corrected_file_says_what_was_subtracted_where_that_is_asked_for(webb, plain, tmp_path):
    from stdatamodels.jwst import datamodels

    folder, levels = webb
    out = tmp_path / "out"
    result = matched(folder, out, write_background=True)
    assert verify(out).mismatches == ()
    assert "a default skymatch step stops with an error" in explain(out)
    for name in levels:
        with fits.open(out / "tiles" / name, checksum=True) as hdus:
            level = hdus["SCI"].header["LVLLEVEL"]
            cards = hdus[0].header
            assert (cards["BKGLEVEL"], cards["BKGSUB"], cards["BKGMETH"]) == (level, True, "levelmatch")
            tree = hdus["ASDF"].data["ASDF_METADATA"].tobytes()
        assert level == pytest.approx(result.level(name).value, abs=1.0)
        text = tree[: tree.find(b"\n...\n")]
        assert text.count(b"background: {") == 1
        with datamodels.open(out / "tiles" / name) as went, datamodels.open(plain[0] / "tiles" / name) as other:
            assert went.meta.background.instance == {"level": level, "method": "levelmatch", "subtracted": True}
            ours, theirs = (flat(one, but=("background",)) for one in (went, other))
            assert {k: v for k, v in ours.items() if LVL not in k} == {k: v for k, v in theirs.items() if LVL not in k}
            np.testing.assert_array_equal(np.stack(went.meta.wcs([10], [20])), np.stack(other.meta.wcs([10], [20])))
    assert undo(out, tmp_path / "back").complete
    for name in levels:
        with fits.open(tmp_path / "back" / name) as back, fits.open(folder / name) as came:
            for one, other in zip(back, came, strict=True):
                assert one.header.tostring() == other.header.tostring()
                if one.name != "SCI" and one.data is not None:
                    assert one.data.tobytes() == other.data.tobytes()


@pytest.mark.usefixtures("packages")
def test_a_background_that_was_not_subtracted_is_told_and_replaced(tmp_path):
    """As where skymatch ran with subtract=False: resample would subtract that level after the match."""
    from stdatamodels.jwst import datamodels

    levels = write_webb(
        tmp_path / "in", PROGRAM, background={"level": 3.25, "subtracted": False, "method": "match"}, suffix="crf"
    )
    assert any(
        "computed and not subtracted" in note for note in take_inventory([tmp_path / "in"], MatchSettings()).notes
    )
    out = tmp_path / "out"
    matched(tmp_path / "in", out, write_background=True)
    for name in levels:
        with datamodels.open(out / "tiles" / name) as went:
            level = fits.getval(out / "tiles" / name, "LVLLEVEL", "SCI")
            assert went.meta.background.instance == {"level": level, "method": "levelmatch", "subtracted": True}
    assert undo(out, tmp_path / "back").complete
    for name in levels:
        with fits.open(tmp_path / "back" / name) as back, fits.open(tmp_path / "in" / name) as came:
            assert back[0].header.tostring() == came[0].header.tostring()
            assert back["ASDF"].data.tobytes() == came["ASDF"].data.tobytes()


@pytest.mark.usefixtures("packages")
def test_what_was_subtracted_before_counts(tmp_path):
    levels = write_webb(tmp_path / "in", PROGRAM, background={"level": 3.25, "subtracted": True, "method": "match"})
    matched(tmp_path / "in", tmp_path / "out", write_background=True)
    for name in levels:
        cards = fits.getheader(tmp_path / "out" / "tiles" / name)
        level = fits.getval(tmp_path / "out" / "tiles" / name, "LVLLEVEL", "SCI")
        assert cards["BKGLEVEL"] == pytest.approx(level + 3.25, rel=1e-8)


@pytest.mark.parametrize(
    "text",
    [
        "--- !core/asdf-1.1.0\nmeta:\n  a: 1\n  wcs: !x {b: [1, 2]}\ndata: 1\n",
        "--- !core/asdf-1.1.0\nmeta:\n  a: Müller €\n  background: {level: 3.0, subtracted: false}\n  z: 1\ndata: 1\n",
        "--- !x\nmeta:\n  background:\n    level: 3.0\n    polynomial_info:\n    - {degree: [1, 1]}\n\n  z: 1\n",
        "--- !core/asdf-1.1.0\nmeta: {a: 1, background: {}, z: 1}\n",
        "--- !core/asdf-1.1.0\nmeta: {a: 1, z: 1}\n",
        "--- !core/asdf-1.1.0\nmeta:\n  a: 1\n  background: null\n",
    ],
)
def test_a_tree_changes_where_it_must_and_comes_back_to_the_letter(text):
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("", lambda loader, _, node: loader.construct_mapping(node, deep=True))
    expected = yaml.load(text, Loader)  # noqa: S506 - a safe loader that takes any tag
    expected["meta"]["background"] = {**(expected["meta"].get("background") or {}), **OURS}
    changed, before = with_background(text, OURS)
    assert yaml.load(changed, Loader) == expected  # noqa: S506 - as above
    assert with_background_as(changed, before) == text


def test_a_tree_without_meta_stays():
    assert with_background("--- !x\ndata: 1\n", OURS) == ("--- !x\ndata: 1\n", None)
