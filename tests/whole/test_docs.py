"""The doors that others build on say what they take, give and raise, in numpydoc's form."""

import importlib
import inspect
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
STEP = tuple(f"pjpipe_step/{part}" for part in ("step", "deltas", "images", "results"))
DOORS = ("library", "match_result", "settings", *STEP, "pipeline", "nddata", "instrument_tables")


def public_callables(module):
    for name, thing in vars(module).items():
        if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(thing):
            yield name, thing
        elif inspect.isclass(thing):
            for part, method in vars(thing).items():
                if not part.startswith("_") and inspect.isfunction(method):
                    yield f"{name}.{part}", method


def documented(text):
    """Return the names in the section Parameters."""
    section = re.search(r"Parameters\n-+\n(.*?)(?=\n\n\w+\n-+\n|\Z)", text, re.DOTALL)
    lines = section[1].splitlines() if section else []
    heads = [line.split(":")[0] for line in lines if line and not line[0].isspace()]
    return {name.strip(" *") for head in heads for name in head.split(",")}


@pytest.mark.parametrize("door", DOORS)
def test_every_parameter_is_described(door):
    lacking = []
    for name, function in public_callables(importlib.import_module(f"levelmatch_core.{door}".replace("/", "."))):
        text = inspect.getdoc(function) or ""
        taken = {each for each in inspect.signature(function).parameters if each not in {"self", "cls"}}
        if not text:
            lacking.append(name)
        elif "Parameters\n" in text and documented(text) != taken:
            lacking.append(f"{name}: {sorted(documented(text) ^ taken)}")
    assert lacking == []


def test_what_is_raised_is_said():
    command = [Path(sysconfig.get_path("scripts")) / "ruff", "check", "--isolated", "--preview", "--no-cache"]
    rules = ["--select", "D1,D4,DOC402,DOC501", "--ignore", "D105,D107", "--target-version", "py311"]
    convention = ["--config", "lint.pydocstyle.convention = 'numpy'"]
    convention += ["--config", "lint.per-file-ignores = {'pjpipe_step/*.py' = ['DOC501']}"]  # its private parts
    files = [REPOSITORY / "levelmatch_core" / f"{door}.py" for door in DOORS]
    done = subprocess.run([*command, *rules, *convention, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
