"""`levelmatch simulate` does what its options say, or refuses them."""

import json

import pytest
from click.testing import CliRunner

from flows.cli import main


def simulated(folder, *options):
    return CliRunner().invoke(main, ["simulate", str(folder), *options])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--instrument", "generic", "--dithers", "2"), "a generic program has one exposure a tile"),
        (("--lyot", "--size", "800"), "--size 900 or more"),
        (("--lyot", "--instrument", "generic", "--size", "1024"), "only miri has a Lyot window"),
        (("--first", "3"), "give --all-sky N, too"),
        (("--all-sky", "100", "--tiles", "2x2"), "--tiles: not for a survey"),
        (("--all-sky", "5"), "exposures=5"),
    ],
)
def test_what_would_not_be_shown_is_refused(tmp_path, options, expected):
    done = simulated(tmp_path / "in", *options)
    assert done.exit_code == 2
    assert expected in " ".join(done.output.split())
    assert not (tmp_path / "in").exists()


def test_dithers_are_those_of_the_instrument_or_as_asked(tmp_path):
    small = ("--tiles", "1x1", "--size", "64")
    for options, count in ((("--instrument", "generic"), 1), (("--dithers", "2"), 2), ((), 4)):
        folder = tmp_path / f"{count}"
        assert simulated(folder, *options, *small).exit_code == 0
        assert len(json.loads((folder / "truth.json").read_text())["exposures"]) == count


def test_a_survey_may_be_made_in_part_with_the_same_files(tmp_path):
    whole, part = tmp_path / "whole", tmp_path / "part"
    assert simulated(whole, "--all-sky", "12", "--size", "32").exit_code == 0
    assert simulated(part, "--all-sky", "12", "--first", "2", "--size", "32").exit_code == 0
    names = sorted(path.name for path in part.glob("*.fits"))
    assert names == ["sky_00001.fits", "sky_00002.fits"]
    assert len(list(whole.glob("*.fits"))) == 12
    assert all((part / name).read_bytes() == (whole / name).read_bytes() for name in names)
