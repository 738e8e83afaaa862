"""What is put on PyPI: metadata, what a user needs beside the code, and a run from an empty folder."""

import email
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
BUILD = "import sys, build_backend; build_backend.build_{0}(sys.argv[1])"
BACKEND = {**os.environ, "PYTHONPATH": "deployments/packaging"}

pytest.importorskip("setuptools", minversion="77", reason="setuptools is missing: distributions cannot be built here")
pytestmark = pytest.mark.slow  # builds in a copy of the tree


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Return the wheel and the sdist of what is in the repository."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a clone: what belongs to a distribution is not known")
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (REPOSITORY / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((REPOSITORY / name).read_bytes())
    for what in ("wheel", "sdist"):
        subprocess.run(
            [sys.executable, "-c", BUILD.format(what), out], cwd=tree, env=BACKEND, capture_output=True, check=True
        )
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


def test_the_metadata_say_what_it_is_and_where(built):
    with zipfile.ZipFile(built[0]) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith("dist-info/METADATA")]
        metadata = email.message_from_bytes(wheel.read(name))
    urls = dict(each.split(", ") for each in metadata.get_all("Project-URL"))
    assert urls.keys() == {"Source", "Issues", "Changelog", "Documentation"}
    assert urls["Source"] in (REPOSITORY / "CITATION.cff").read_text()
    assert "Topic :: Scientific/Engineering :: Astronomy" in metadata.get_all("Classifier")
    assert "JWST" in metadata["Keywords"]
    text = metadata.get_payload()
    assert "before_after.png" in text
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert links
    assert [link for link in links if not link.startswith("https://")] == []


def test_wheel_and_sdist_hold_what_a_user_needs(built):
    examples = {path.name for path in (REPOSITORY / "deployments" / "examples").glob("*.toml")}
    assert examples
    with zipfile.ZipFile(built[0]) as wheel:
        names = wheel.namelist()
    shared = {Path(name).name for name in names if "/data/share/levelmatch/" in name}
    assert shared == {*examples, "constraints.txt", "README.md", "SERVICES.md", "MACHINES.md"}
    for needed in ("levelmatch_core/STEP.md", "levelmatch_core/py.typed", "levelmatch_core/process/compiled_ahead.txt"):
        assert needed in names
    assert not [name for name in names if name.startswith("tests/")]
    with tarfile.open(built[1]) as sdist:
        inside = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md", "tests/conftest.py"} <= inside
    assert {f"deployments/examples/{name}" for name in examples} <= inside


def test_the_wheel_runs_from_an_empty_folder(built, tmp_path):
    with zipfile.ZipFile(built[0]) as wheel:
        wheel.extractall(tmp_path / "site")  # noqa: S202 - our own
    (tmp_path / "empty").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "LEVELMATCH_HOME": str(tmp_path / "home")}

    def command(*words):
        program = (
            "import levelmatch_core, flows.cli; assert 'site/levelmatch_core' in levelmatch_core.__file__; "
            "flows.cli.main()"
        )
        done = subprocess.run(
            [sys.executable, "-P", "-c", program, *words],
            cwd=tmp_path / "empty",
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout + done.stderr

    command("simulate", "sky", "--tiles", "2x1", "--dithers", "2", "--size", "128")
    assert "matched" in command("run", "sky", "--output", "out")
    assert "jw01234" in command("explain", "out")
    assert {path.name for path in (tmp_path / "empty").iterdir()} == {"sky", "out"}
