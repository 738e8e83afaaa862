"""Which files are taken from files and folders, and what they are called."""

import itertools
import os
from pathlib import Path

import pytest

from levelmatch_core.errors import NoInputError, UsageError
from levelmatch_core.images.finding import find_files


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def shown(
    *inputs: Path, step_ext: str | None = None, recursive: bool = False, exclude: tuple[Path, ...] = ()
) -> list[str]:
    return [name for _, name in find_files(inputs, step_ext=step_ext, recursive=recursive, exclude=exclude)]


def test_folders_are_searched_for_fits_only(tmp_path: Path) -> None:
    taken = ["a.fits.gz", "b.fits", "c.FITS.fz", "d.fit", "e.fits.bz2", "f.fts", "g.fits.Z", "h.fit.gz", "i.FTS.BZ2"]
    touch(tmp_path, *taken, "fits", "j.fits.zip", "k.fits.txt", "l.fitsx", ".h.fits", "s/g.fits", ".s/i.fits")
    (tmp_path / "folder.fits").mkdir()
    os.mkfifo(tmp_path / "pipe.fits")
    (tmp_path / "nowhere.fits").symlink_to(tmp_path / "missing")
    (tmp_path / "itself.fits").symlink_to(tmp_path / "itself.fits")
    named = ["itself.fits", "nowhere.fits", "pipe.fits"]  # which the inventory leaves out with their reasons
    assert shown(tmp_path) == sorted([*taken, *named])
    assert shown(tmp_path, recursive=True) == sorted([*taken, *named, "s/g.fits"])


def test_step_ext_holds_for_folders_only(tmp_path: Path) -> None:
    touch(tmp_path, "a_cal.fits", "a_crf.fits", "b_cal.fits.gz", "cal.fits", "a_xcal.fits", "odd.dat")
    assert shown(tmp_path, step_ext="cal") == ["a_cal.fits", "b_cal.fits.gz"]
    assert shown(tmp_path, tmp_path / "odd.dat", step_ext="crf") == ["a_crf.fits", "odd.dat"]


def test_the_output_folder_is_never_input(tmp_path: Path) -> None:
    touch(tmp_path, "a.fits", "out/tiles/a.fits", "outer/b.fits")
    out = tmp_path / "out"
    assert shown(tmp_path, recursive=True, exclude=(out,)) == ["a.fits", "outer/b.fits"]
    (tmp_path / "link").symlink_to(out)
    for inside in (out, out / "tiles", out / "tiles" / "a.fits", tmp_path / "link"):
        with pytest.raises(UsageError, match="lies in the output folder"):
            shown(inside, exclude=(out,))


def test_a_file_is_taken_once_however_it_is_reached(tmp_path: Path) -> None:
    touch(tmp_path, "s/a.fits", "b.fits")
    (tmp_path / "link.fits").symlink_to(tmp_path / "b.fits")
    inputs = [tmp_path, tmp_path / "s", tmp_path / "s" / "a.fits", tmp_path / "s" / ".." / "b.fits"]
    results = {tuple(shown(*order, recursive=True)) for order in itertools.permutations(inputs)}
    assert results == {("a.fits", "b.fits")}


def test_colliding_names_get_their_folders_name_and_then_a_number(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.fits", "b/x.fits", "c/b/x.fits", "b/y.fits", "d/s/x.fits")
    inputs = [tmp_path / "a", tmp_path / "b", tmp_path / "c/b", tmp_path / "d"]
    results = {tuple(shown(*order, recursive=True)) for order in itertools.permutations(inputs)}
    assert results == {("a/x.fits", "b-2/x.fits", "b/x.fits", "s/x.fits", "y.fits")}


def test_a_prefixed_name_does_not_take_anothers(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.fits", "b/x.fits", "c/a/x.fits")
    names = shown(tmp_path / "a", tmp_path / "b", tmp_path / "c", recursive=True)
    assert names == ["a-2/x.fits", "a/x.fits", "b/x.fits"]


@pytest.mark.parametrize(
    "name", ["with space.fits", "ümläut 星.fits", "quote'\".fits", "star*[1].fits", "new\nline.fits"]
)
def test_odd_names(tmp_path: Path, name: str) -> None:
    touch(tmp_path, name)
    assert find_files([str(tmp_path)], step_ext=None, recursive=False) == [(tmp_path / name, name)]


def test_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "s/a.fits")
    monkeypatch.chdir(tmp_path)
    assert find_files(["s"], step_ext=None, recursive=False) == [(tmp_path / "s" / "a.fits", "a.fits")]


def test_missing_and_empty_inputs(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone: no such file or folder"):
        shown(tmp_path / "gone")
    with pytest.raises(NoInputError, match=r"no \*_cal\.fits \(or \.fit, \.fts; .*\) found: .*not searched"):
        shown(tmp_path, step_ext="cal")
    with pytest.raises(NoInputError, match="no input was given"):
        shown()


@pytest.mark.parametrize(
    ("name", "what"),
    [("r0000101001_wfi01_cal.asdf", "ASDF is not read"), ("sw1_sk.img", "rename them if they are FITS")],
)
def test_files_of_other_names_are_told_of(tmp_path: Path, name: str, what: str) -> None:
    touch(tmp_path, name)
    with pytest.raises(NoInputError, match=f"1 other files are there, {name} the first: {what}"):
        shown(tmp_path)
