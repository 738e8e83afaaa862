"""No run takes the only good copy away: what was corrected before stays when its input is gone or damaged."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from flows.summary import STALE, summarize
from levelmatch_core.errors import OutputFolderError
from levelmatch_core.jobs.products import WriteJob
from levelmatch_core.pipeline import Request, run
from levelmatch_core.products.corrected.undo import undo
from levelmatch_core.products.corrected.verify import verify
from levelmatch_core.products.explain import explain
from levelmatch_core.products.stale import prune
from levelmatch_core.runners import PlainRunner
from levelmatch_core.settings import MatchSettings
from levelmatch_core.sky.store import CutoutStore
from tests.folders import contents
from tests.reliability.places import Place


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def removed(path: Path) -> None:
    path.unlink()


def without_wcs(path: Path) -> None:
    with fits.open(path, mode="update") as hdus:
        del hdus["SCI"].header["CTYPE1"]


def emptied(path: Path) -> None:
    with fits.open(path, mode="update") as hdus:
        hdus["SCI"].data[:] = np.nan


LOSSES = [truncated, removed, without_wcs, emptied]


def gives_back(place: Place, victim: Path, back: Path) -> None:
    """Hold that undo gives the input of a stale product back, to rounding."""
    found = undo(place.out, back)
    assert victim.name in {file.name for file in found.files}
    with fits.open(back / victim.name) as given, fits.open(place.originals / victim.name) as was:
        assert set(given["SCI"].header) == set(was["SCI"].header)
        np.testing.assert_allclose(given["SCI"].data, was["SCI"].data, rtol=0, atol=2e-6)
        np.testing.assert_array_equal(given["ERR"].data, was["ERR"].data)


@pytest.mark.parametrize("lose", LOSSES)
def test_a_product_whose_input_is_lost_stays(place: Place, tmp_path: Path, lose: Callable[[Path], None]) -> None:
    assert place.match().complete
    victim = place.files[0]
    with fits.open(place.tile(victim.name)) as hdus:
        pixels = hdus["SCI"].data.copy()
    lose(victim)
    result = place.match()
    assert not result.complete
    (stale,) = result.record.stale
    assert stale.name == f"tiles/{victim.name}"
    assert victim.name in stale.reason
    assert json.loads((place.out / "run.json").read_bytes())["stale"][0]["name"] == stale.name
    with fits.open(place.tile(victim.name)) as hdus:
        assert hdus["SCI"].header["LVLPART"] is True
        np.testing.assert_array_equal(hdus["SCI"].data, pixels)
    assert verify(place.out).mismatches == ()
    gives_back(place, victim, tmp_path / "back")
    # so it is however often a run comes by, and nothing changes any more
    again = place.match()
    assert again.record.stale == result.record.stale
    assert not again.changed


def test_a_stale_product_is_fresh_once_its_input_is_back(place: Place) -> None:
    assert place.match().complete
    apart = ("log.json", "run.json")  # run.json tells that the zero was another one meanwhile
    before = contents(place.out, leave_out=apart)
    victim = place.files[0]
    raw = victim.read_bytes()
    victim.unlink()
    assert place.match().record.stale
    victim.write_bytes(raw)
    result = place.match()
    assert result.complete
    assert result.record.stale == ()
    assert contents(place.out, leave_out=apart) == before


def test_two_are_lost_one_after_the_other_and_on_another_grid(place: Place, tmp_path: Path) -> None:
    assert place.match().complete
    first, second, *_ = place.files
    first.unlink()
    place.match()
    second.unlink()
    result = place.match()
    assert [one.name for one in result.record.stale] == [f"tiles/{first.name}", f"tiles/{second.name}"]
    assert verify(place.out).mismatches == ()
    gives_back(place, first, tmp_path / "back")
    gives_back(place, second, tmp_path / "back")


def test_products_whose_writing_fails_stay(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert place.match().complete
    victim = place.files[0]

    def fails(job: WriteJob, workspace: object, write: object = WriteJob.run) -> object:
        if job.product == victim.name:
            message = "the disk is gone"
            raise OSError(message)
        return write(job, workspace)  # type: ignore[operator]

    monkeypatch.setattr(WriteJob, "run", fails)
    result = place.match()
    (stale,) = result.record.stale
    assert "the disk is gone" in stale.reason
    gives_back(place, victim, tmp_path / "back")


def test_a_product_with_other_settings_stays_too(place: Place, tmp_path: Path) -> None:
    assert place.match().complete
    victim = place.files[0]
    victim.unlink()
    result = place.match(overwrite=True, sigma=4.0)
    assert [one.name for one in result.record.stale] == [f"tiles/{victim.name}"]
    gives_back(place, victim, tmp_path / "back")


def test_pruning_takes_it(place: Place) -> None:
    assert place.match().complete
    first, second, *_ = place.files
    first.unlink()
    place.match()
    assert [product.name for product in prune(place.out)] == [f"tiles/{first.name}"]
    assert prune(place.out) == ()
    assert not place.tile(first.name).exists()
    assert not (place.out / "stale.ecsv").exists()
    assert verify(place.out).mismatches == ()
    second.unlink()
    result = place.match(prune=True)
    assert result.complete
    assert not place.tile(second.name).exists()


def test_a_run_that_was_killed_loses_no_row(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Between the tables, where the old one is gone and run.json still names the old products."""
    assert place.match().complete
    victim = place.files[0]
    victim.unlink()
    for name in ("corrections.ecsv", "pairs.ecsv"):
        with monkeypatch.context() as patch:
            import levelmatch_core.products.output.folder as output  # noqa: PLC0415 - for this patch

            put = output.put

            def killed(root: Path, made: str, *rest: object, stop: str = name, put: Any = put, **more: object) -> Any:
                if made == stop:
                    raise KeyboardInterrupt
                return put(root, made, *rest, **more)

            patch.setattr(output, "put", killed)
            with pytest.raises(KeyboardInterrupt):
                place.match()
    result = place.match()
    assert [one.name for one in result.record.stale] == [f"tiles/{victim.name}"]
    assert not (place.out / "tiles" / ".edited").exists()
    gives_back(place, victim, tmp_path / "back")


def test_rows_are_those_that_a_file_was_made_by(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A run of other settings was killed after its corrected files and before its tables: no table tells of them."""
    assert place.match().complete
    other = {"fit_type_mosaic_tiles": "level+slope", "fit_type_dithers": "level+slope", "overwrite": True}
    with monkeypatch.context() as patch:
        patch.setattr("levelmatch_core.pipeline.write_corrections", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            place.match(**other)
    victim = place.files[0]
    victim.unlink()
    result = place.match(**other)
    assert [one.name for one in result.record.stale] == [f"tiles/{victim.name}"]
    assert "no table says what was subtracted" in caplog.text
    back = undo(place.out, tmp_path / "back")
    assert [failure.name for failure in back.failures] == [victim.name]
    assert not (tmp_path / "back" / victim.name).exists()
    assert place.match(**other).record.stale == result.record.stale


def test_an_input_that_another_was_copied_over_is_the_lost_one(place: Place, tmp_path: Path) -> None:
    assert place.match().complete
    first, second, *_ = place.files
    first.write_bytes(second.read_bytes())
    result = place.match()
    assert [one.name for one in result.record.stale] == [f"tiles/{first.name}"]
    assert f"the same bytes as {second.name}, which is used" in result.record.stale[0].reason
    gives_back(place, first, tmp_path / "back")


def test_undo_gives_back_what_it_can_without_the_table_of_stale_files(place: Place, tmp_path: Path) -> None:
    assert place.match().complete
    first, *others = place.files
    first.unlink()
    place.match()
    (place.out / "stale.ecsv").unlink()
    back = undo(place.out, tmp_path / "back")
    assert {file.name for file in back.files} == {path.name for path in others}
    assert [failure.name for failure in back.failures] == [first.name]
    assert verify(place.out).mismatches != ()
    assert [one.name for one in place.match().record.stale] == [f"tiles/{first.name}"]


@pytest.mark.parametrize("full", [True, False])
def test_a_folder_in_the_place_of_a_tile(place: Place, *, full: bool) -> None:
    """It is somebody's: it stays, and the run says what it lacks."""
    assert place.match().complete
    victim = place.files[0]
    place.tile(victim.name).unlink()
    place.tile(victim.name).mkdir()
    if full:
        (place.tile(victim.name) / "notes.txt").write_text("mine")
        with pytest.raises(OutputFolderError, match="did not make"):
            place.match()
        return
    result = place.match()
    assert [one.name for one in result.failures] == [victim.name]
    assert [one.gone for one in result.record.stale] == [True]
    victim.unlink()
    for _ in range(2):
        assert [one.gone for one in place.match().record.stale] == [True]
    assert place.tile(victim.name).is_dir()


# -- edited by somebody ------------------------------------------------------------------------------------------------
def edit(path: Path) -> bytes:
    raw = bytearray(path.read_bytes())
    raw[-3000] ^= 0xFF
    path.write_bytes(raw)
    return bytes(raw)


def test_an_edited_tile_is_kept_aside_and_named(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    assert place.match().complete
    name = place.files[0].name
    good = place.tile(name).read_bytes()
    mine = edit(place.tile(name))
    result = place.match()
    assert result.complete
    assert place.tile(name).read_bytes() == good
    assert (place.out / "tiles" / ".edited" / name).read_bytes() == mine
    assert f"tiles/.edited/{name}" in caplog.text
    assert json.loads((place.out / "log.json").read_bytes())["edited"] == [f"tiles/.edited/{name}"]
    assert verify(place.out).mismatches == ()
    # another one does not take its place, and no run takes either away
    other = edit(place.tile(name))[:-1] + b"x"
    place.tile(name).write_bytes(other)
    assert place.match().complete
    kept = {path.read_bytes() for path in (place.out / "tiles" / ".edited").iterdir()}
    assert kept == {mine, other}
    assert not place.match().changed


@pytest.mark.slow
def test_an_edited_tile_is_kept_aside_by_processes(place: Place) -> None:
    assert place.match(runner="processes", procs=2).complete
    name = place.files[0].name
    mine = edit(place.tile(name))
    from levelmatch_core.workers import worker_pool  # noqa: PLC0415 - for this test

    chosen = MatchSettings.from_mapping({"figures": "none", "runner": "processes", "procs": 2})
    request = Request(inputs=(place.inputs,), output=place.out, settings=chosen)
    with worker_pool(chosen) as pool:
        run(request, CutoutStore(place.out.parent / "store"), lambda workspace: PlainRunner(workspace, pool))
    assert (place.out / "tiles" / ".edited" / name).read_bytes() == mine


def test_an_edited_tile_without_its_input_is_named_until_it_is_pruned(
    place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert place.match().complete
    victim = place.files[0]
    raw = victim.read_bytes()
    mine = edit(place.tile(victim.name))
    victim.unlink()
    edited = f"tiles/.edited/{victim.name}"
    for _ in range(3):
        result = place.match()
        assert not result.complete
        (stale,) = result.record.stale
        assert (stale.name, stale.edited, stale.gone) == (f"tiles/{victim.name}", edited, False)
        assert stale.inputs == (victim.name,)
        assert f"{victim.name}: is not among the inputs any more" in stale.reason
        assert edited in stale.fate
        assert (place.out / edited).read_bytes() == mine
        assert verify(place.out).mismatches == ()
    assert "undo cannot give its input back" in caplog.text
    assert not result.changed
    assert edited in explain(place.out)
    assert edited in next(one.reason for one in summarize(result, peak_memory=0).problems if one.status == STALE)
    back = undo(place.out, tmp_path / "back")
    (failure,) = back.failures
    assert failure.name == f"tiles/{victim.name}"
    assert edited in failure.reason
    assert not (tmp_path / "back" / victim.name).exists()
    # it is over once the input is back, and the edit stays
    victim.write_bytes(raw)
    assert place.match().complete
    assert undo(place.out, tmp_path / "whole").complete
    # or once it is pruned
    place.tile(victim.name).write_bytes(mine + b"x")
    victim.unlink()
    assert not place.match().complete
    (pruned,) = prune(place.out)
    assert pruned.edited == f"tiles/.edited/2-{victim.name}"
    assert verify(place.out).mismatches == ()
    assert place.match().complete
    assert (place.out / edited).read_bytes() == mine
    assert (place.out / pruned.edited).read_bytes() == mine + b"x"


def test_an_edit_that_is_taken_away_is_told(place: Place) -> None:
    assert place.match().complete
    victim = place.files[0]
    edit(place.tile(victim.name))
    victim.unlink()
    (stale,) = place.match().record.stale
    (place.out / stale.edited).unlink()
    assert [one.file for one in verify(place.out).mismatches] == [stale.edited]
    result = place.match()
    assert [(one.edited, one.gone) for one in result.record.stale] == [("", True)]
    assert verify(place.out).mismatches == ()


def test_pruning_takes_nothing_that_somebody_edited(place: Place) -> None:
    """Neither the run's option nor the command: the edit is not what the run wrote."""
    assert place.match().complete
    first, second, *_ = place.files
    mine = edit(place.tile(first.name))
    first.unlink()
    assert place.match(prune=True).complete
    assert (place.out / "tiles" / ".edited" / first.name).read_bytes() == mine
    assert json.loads((place.out / "log.json").read_bytes())["edited"] == [f"tiles/.edited/{first.name}"]
    second.unlink()
    place.match()
    other = edit(place.tile(second.name))
    (pruned,) = prune(place.out)
    assert pruned.edited == f"tiles/.edited/{second.name}"
    assert (place.out / pruned.edited).read_bytes() == other


def test_a_tile_that_is_gone_with_its_input_is_named(place: Place, tmp_path: Path) -> None:
    assert place.match().complete
    victim = place.files[0]
    place.tile(victim.name).unlink()
    victim.unlink()
    for _ in range(2):
        (stale,) = place.match().record.stale
        assert (stale.name, stale.edited, stale.gone) == (f"tiles/{victim.name}", "", True)
        assert f"{victim.name}: is not among the inputs any more" in stale.reason
    assert verify(place.out).mismatches == ()
    assert [one.name for one in undo(place.out, tmp_path / "back").failures] == [stale.name]
    assert prune(place.out) == (stale,)
    assert place.match().complete


def test_what_a_killed_run_wrote_is_nobodys_edit(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    assert place.match().complete
    shutil.copy(place.files[0], place.inputs / "jw09999.fits")
    with fits.open(place.inputs / "jw09999.fits", mode="update") as hdus:
        hdus["SCI"].data += 3
        hdus[0].header["FILENAME"] = "jw09999.fits"
    with monkeypatch.context() as patch:
        patch.setattr("levelmatch_core.pipeline.write_corrections", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            place.match(sigma=4.0, overwrite=True)
    (place.inputs / "jw09999.fits").unlink()
    place.match(sigma=5.0, overwrite=True)
    assert not (place.out / "tiles" / ".edited").exists()
    assert not list(place.out.rglob(".levelmatch-*"))


def test_undo_names_what_no_table_tells(place: Place, tmp_path: Path) -> None:
    assert place.match().complete
    record = json.loads((place.out / "run.json").read_bytes())
    table = Table.read(place.out / "corrections.ecsv", format="ascii.ecsv")
    victim = place.files[0].name
    table[table["file"] != victim].write(place.out / "corrections.ecsv", format="ascii.ecsv", overwrite=True)
    assert record["files"]
    found = undo(place.out, tmp_path / "back")
    assert [failure.name for failure in found.failures] == [victim]
    assert not found.complete
