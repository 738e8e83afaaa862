"""Associations as inputs, of the library and of the command."""

import json
import os
import subprocess
import sysconfig
from pathlib import Path

import pytest

from levelmatch_core import MatchSettings, match_levels
from levelmatch_core.errors import UsageError
from levelmatch_core.images.associations import science_members
from levelmatch_core.images.inventory import find_files, take_inventory
from levelmatch_core.images.storage.remote import local_inputs
from levelmatch_core.simulate import SimulatedProgram, simulate


def write_asn(path, *products):
    members = [[{"expname": name, "exptype": kind} for name, kind in product] for product in products]
    path.write_text(json.dumps({"asn_type": "image3", "products": [{"name": "x", "members": m} for m in members]}))
    return path


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("program") / "in"
    simulate(folder, SimulatedProgram.of(tiles=(2, 1), dithers=2, size=128, stars=20))
    names = sorted(path.name for path in folder.glob("*.fits"))
    science = [(name, "science") for name in names[:3]]
    write_asn(folder / "asn.json", [*science, (names[3], "background")], [science[0], ("gone.fits", "background")])
    return folder, names


def test_the_science_members_are_taken_once(program, caplog):
    folder, names = program
    result = match_levels(folder / "asn.json", settings=MatchSettings(step_ext="crf"))
    assert [one.exposure.name for one in result.corrections] == names[:3]
    assert "left out, for they are not science: 2 background" in caplog.text
    files = find_files([folder, folder / "asn.json"], step_ext=None, recursive=False)
    assert [name for _, name in files] == names


def test_members_may_lie_elsewhere(program, tmp_path):
    folder, names = program
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / names[0]).write_bytes((folder / names[0]).read_bytes())
    asn = write_asn(tmp_path / "asn.json", [(f"deep/{names[0]}", "SCIENCE"), (str(folder / names[1]), "science")])
    assert [name for _, name in find_files([asn], step_ext=None, recursive=False)] == names[:2]


@pytest.mark.slow
def test_the_command_takes_an_association(program, tmp_path):
    folder, names = program
    command = Path(sysconfig.get_path("scripts")) / "levelmatch"
    arguments = ["run", folder / "asn.json", "--output", tmp_path / "out", "--set", "figures=none"]
    environment = {**os.environ, "LEVELMATCH_HOME": str(tmp_path / "home")}
    done = subprocess.run([command, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out" / "tiles").iterdir()) == names[:3]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "no association"),
        ("[]", "no association"),
        ('{"products": [{"members": [{"expname": 3, "exptype": "science"}]}]}', "3 is no text"),
        ('{"products": [{"members": [{"expname": "a.fits", "exptype": "background"}]}]}', "it has 1 background"),
        ('{"products": []}', "none at all"),
        ('{"products": [{"members": [{"expname": "gone.fits", "exptype": "science"}]}]}', r"1 of its 1 .*gone\.fits"),
    ],
)
def test_a_faulty_association_is_refused(tmp_path, text, reason):
    path = tmp_path / "asn.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=reason):
        science_members(path)


def test_members_may_be_known_to_be_missing(program, tmp_path):
    folder, names = program
    asn = write_asn(tmp_path / "asn.json", [(str(folder / names[0]), "science"), ("./deep/../gone.fits", "science")])
    missing = local_inputs([asn], tmp_path, absent=True).missing
    assert [one.path.name for one in missing] == ["gone.fits"]
    inventory = take_inventory([asn], MatchSettings(), missing=missing)
    assert [(one.name, one.error) for one in inventory.failures] == [("gone.fits", "MissingInputError")]
    assert [one.name for field in inventory.fields for one in field.exposures] == names[:1]


def test_a_member_in_the_output_is_refused(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.fits").touch()
    asn = write_asn(tmp_path / "asn.json", [("out/a.fits", "science")])
    with pytest.raises(UsageError, match="lies in the output folder"):
        find_files([asn], step_ext=None, recursive=False, exclude=[tmp_path / "out"])
