"""Tiles by expression and by table."""

from pathlib import Path

import pytest

from levelmatch_core.errors import DataError, UsageError
from levelmatch_core.images.grouping import grouping

ECSV = """# %ECSV 1.0
# ---
# datatype:
# - {name: file, datatype: string}
# - {name: tile, datatype: string}
file tile
"a b.fits" 007
sub/c.fits T2
"""


def test_the_first_group_or_the_whole_match_is_the_tile() -> None:
    assert grouping(r"s(\d{3})")("aK_s135_80.fits") == "135"
    assert grouping(r"s\d{3}")("aK_s135_80.fits") == "s135"
    assert grouping(r"^(\w+)/")("night/x.fits") == "night"


@pytest.mark.parametrize("pattern", [r"q\d+", r"x(q)?", r"x*?"])
def test_no_tile_is_a_failure_of_that_file(pattern: str) -> None:
    with pytest.raises(DataError, match=r"x1\.fits: group_by .* names no tile"):
        grouping(pattern)("x1.fits")


def test_a_bad_expression_is_refused() -> None:
    with pytest.raises(UsageError, match="neither an existing file nor a regular expression"):
        grouping("a(b")


@pytest.mark.parametrize(
    "text",
    [
        "file,tile\na b.fits,007\nsub/c.fits,T2\n",
        "tile,file\n007,a b.fits\nT2,sub/c.fits\n",
        "a b.fits,007\nsub/c.fits,T2\n",
        'file tile\n"a b.fits" 007\nsub/c.fits T2\n',
        '"a b.fits" 007\nsub/c.fits T2\n',
        "File\tTile\na b.fits\t007\nsub/c.fits\tT2\n",
        ECSV,
    ],
    ids=["csv", "swapped", "bare csv", "blanks", "bare blanks", "tabs", "ecsv"],
)
def test_tables(tmp_path: Path, text: str) -> None:
    path = tmp_path / "groups.txt"
    path.write_text(text, encoding="utf-8")
    tile_of = grouping(path)
    assert tile_of("a b.fits") == tile_of("deep/a b.fits") == "007"
    assert tile_of("sub/c.fits") == "T2"
    with pytest.raises(DataError, match=r"d\.fits: group_by table groups\.txt names no tile for it; add a row"):
        tile_of("d.fits")


@pytest.mark.parametrize(
    "text", ["", "a,b,c\n1,2,3\n", "one column\nonly\nhere x y\n", "file,tile\nx.fits,1\nx.fits,2\n", "\x00\x01\xff"]
)
def test_tables_that_cannot_be_used(tmp_path: Path, text: str) -> None:
    path = tmp_path / "groups.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=r"groups\.csv"):
        grouping(path)
