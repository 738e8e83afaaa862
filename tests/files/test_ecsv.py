"""Tables that are written in blocks are those that astropy writes at once, with the memory of a block."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.table import MaskedColumn, Table

from levelmatch_core.files.ecsv import BLOCK, read_ecsv, write_ecsv


def table(rows: int) -> Table:
    random = np.random.default_rng(rows)
    found = Table()
    found["name"] = np.array([f"exposure {number}" for number in range(rows)], dtype=str)
    found["empty"] = np.array(["" if number % 3 else "-" for number in range(rows)], dtype=str)
    found["level"] = random.standard_normal(rows)
    found["level"].unit = u.MJy / u.sr
    found["level"][: rows // 3] = np.nan
    found["component"] = MaskedColumn(np.arange(rows) % 7, mask=np.arange(rows) % 5 == 0)
    found["used"] = random.random(rows) < 0.5
    found.meta["table"] = "a test"
    return found


@pytest.mark.parametrize("rows", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
def test_blocks_make_the_text_that_astropy_writes_at_once(tmp_path: Path, rows: int) -> None:
    one = table(rows)
    write_ecsv(tmp_path / "blocks.ecsv", one)
    one.write(tmp_path / "whole.ecsv", format="ascii.ecsv")
    assert (tmp_path / "blocks.ecsv").read_bytes() == (tmp_path / "whole.ecsv").read_bytes()
    back = read_ecsv(tmp_path / "blocks.ecsv")
    assert list(back["name"]) == list(one["name"])
    np.testing.assert_array_equal(back["level"], one["level"])


def test_texts_that_astropy_would_change_come_back_from_any_block(tmp_path: Path) -> None:
    one = table(2 * BLOCK + 3)
    one["note"] = np.array([f"# {n}\n" if n == 2 * BLOCK else f" {n}" for n in range(len(one))], dtype=str)
    write_ecsv(tmp_path / "odd.ecsv", one)
    assert list(read_ecsv(tmp_path / "odd.ecsv")["note"]) == list(one["note"])


def test_text_is_not_held_whole(tmp_path: Path) -> None:
    one = Table({f"c{number}": np.random.default_rng(number).standard_normal(12 * BLOCK) for number in range(20)})
    write_ecsv(tmp_path / "first.ecsv", one[:10])  # what is imported for it is no matter of its rows
    tracemalloc.start()
    try:
        write_ecsv(tmp_path / "long.ecsv", one)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    size = (tmp_path / "long.ecsv").stat().st_size
    assert size > 4e6
    assert peak < 4 * size  # at once: eight times
