"""The home: its owner's alone, and refused before anything is made where its path cannot be used."""

import os
import stat
from pathlib import Path

import pytest

from flows.home import Home
from levelmatch_core.errors import UsageError


@pytest.mark.parametrize("character", ["#", "?", "%", "'", '"', "\\", "\n", "\x1b"])
def test_a_path_that_databases_cannot_name_is_refused_before_anything_is_made(tmp_path: Path, character: str) -> None:
    root = tmp_path / "homes" / f"a{character}b" / "home"
    with pytest.raises(UsageError, match="LEVELMATCH_HOME"):
        Home(root).make()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["ü", "a b", "a+b", "a&b=c", "a@b:c", "$HOME", "~x", "日本"])
def test_other_paths_are_taken(tmp_path: Path, name: str) -> None:
    home = Home(tmp_path / name / "home").make()
    assert home.prefect.is_dir()


def test_files_are_their_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        home = Home(tmp_path / "home").make()
        (home.results / "result").write_text("{}")
        (home.artifacts / "deep").mkdir()
        (home.artifacts / "deep" / "file").write_text("x")
        (home.prefect / "profiles.toml").write_text("")
        outside = tmp_path / "outside"
        outside.write_text("not the home's")
        (home.results / "link").symlink_to(outside)
        home.make()
    finally:
        os.umask(before)
    for path in (home.root, *home.root.rglob("*")):
        if not path.is_symlink():
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 or path == home.artifacts / "deep", path
    assert stat.S_IMODE(outside.stat().st_mode) == 0o644
    assert (home.prefect / "prefect.db").is_file()
