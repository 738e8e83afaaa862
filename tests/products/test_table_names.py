"""Every name that a file system holds comes back from every table, read by astropy itself."""

import json
from pathlib import Path
from typing import Any

import pytest
from astropy.table import Table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from levelmatch_core.products.tables import read_corrections, read_pairs, write_corrections, write_pairs

# what Linux lets a name hold, less what is no UTF-8 (which the inventory refuses by name)
NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12)


def written(make: Any, path: Path, name: str) -> Any:
    """Return a solved field of which one exposure is called `name`, and the tables of it."""
    match = make.match()
    old = match.corrections[0].exposure.name
    text = match.model_dump_json()
    renamed = type(match).model_validate_json(text.replace(f'"{old}"', json.dumps(name)))
    write_corrections(path / "corrections.ecsv", [renamed])
    write_pairs(path / "pairs.ecsv", [renamed])
    return renamed


@pytest.mark.slow
@given(name=st.one_of(NAMES.map(lambda stem: f"{stem}.fits"), NAMES))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_name_comes_back_from_the_tables(make: Any, tmp_path_factory: Any, name: str) -> None:
    folder = tmp_path_factory.mktemp("names")
    match = written(make, folder, name)
    expected = [correction.exposure.name for correction in match.corrections]
    plain = Table.read(folder / "corrections.ecsv", format="ascii.ecsv")
    assert [str(value) for value in plain["exposure"]] == expected
    assert [str(value) for value in plain["file"]] == [correction.exposure.file for correction in match.corrections]
    pairs = Table.read(folder / "pairs.ecsv", format="ascii.ecsv")
    fits = [pair.fit for solution in match.stages[1].solutions for pair in solution.pairs]
    assert [(str(row["first"]), str(row["second"])) for row in pairs] == [(fit.first, fit.second) for fit in fits]
    own = read_corrections(folder / "corrections.ecsv")
    assert own["exposure"].tolist() == expected
    assert own["exposure"].dtype.kind == "U"
    assert read_pairs(folder / "pairs.ecsv")["first"].tolist() == [fit.first for fit in fits]


@pytest.mark.parametrize("name", ["#1.fits", " a.fits", "a.fits ", 'a"b.fits', "a\\b.fits", "a\nb.fits", "\x85", '""'])
def test_names_that_were_lost(make: Any, tmp_path: Path, name: str) -> None:
    match = written(make, tmp_path, name)
    plain = Table.read(tmp_path / "corrections.ecsv", format="ascii.ecsv")
    assert [str(value) for value in plain["exposure"]] == [each.exposure.name for each in match.corrections]


def test_a_table_of_ordinary_names_is_of_plain_text(make: Any, tmp_path: Path) -> None:
    write_corrections(tmp_path / "corrections.ecsv", [make.match()])
    assert Table.read(tmp_path / "corrections.ecsv", format="ascii.ecsv")["exposure"].dtype.kind == "U"
