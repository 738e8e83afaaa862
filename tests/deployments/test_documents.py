"""What the documents say is so: commands and options exist, settings are all there, links lead somewhere, pages run."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import click
import pytest

import levelmatch_core
from flows.cli import main
from flows.commands.sweep import grid_of
from flows.settings_help import described
from levelmatch_core.settings import MatchSettings

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "deployments" / "docs"
DOCUMENTS = sorted(
    (
        *(
            REPOSITORY / name
            for name in (
                "README.md",
                "deployments/README.md",
                "deployments/SERVICES.md",
                "deployments/MACHINES.md",
                ".github/CONTRIBUTING.md",
            )
        ),
        *(REPOSITORY / "levelmatch_core" / name for name in ("STEP.md", "matching/MODEL.md")),
        *DOCS.rglob("*.md"),
    )
)
BY_DOCUMENT = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=[str(path.relative_to(REPOSITORY)) for path in DOCUMENTS]
)
FENCED = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)


@cache
def pages():
    """Return the module that writes pages from the code."""
    spec = importlib.util.spec_from_file_location("docs_pages", DOCS / "pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def invocations(text):
    """Return all calls of the command that a document shows, as lists of words: in blocks, and in the text's code."""
    blocks = "\n".join(FENCED.findall(text)).replace("\\\n", " ")
    lines = re.findall(r"^ *(levelmatch [a-z].*)$", blocks, re.MULTILINE)
    lines += re.findall(r"^ {4,}(levelmatch [a-z].*)$", FENCED.sub("", text).replace("\\\n", " "), re.MULTILINE)
    lines += re.findall(r"`(levelmatch [a-z][^`]*)`", FENCED.sub("", text))
    return [shlex.split(line, comments=True) for line in lines]


def assignments(text):
    """Return all settings that a document gives by `--set` or `--grid`, in calls and alone; NAME=VALUE is none."""
    return re.findall(r"--(?:set|grid) ['\"]?([a-z]\w*=[^\s`'\"]+)", text)


def options_of(command):
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


@BY_DOCUMENT
def test_every_command_and_option_that_a_document_shows_exists(document):
    for _, name, *words in invocations(document.read_text(encoding="utf-8")):
        command = main.get_command(click.Context(main), name)
        assert command is not None, f"levelmatch {name}"
        given = [word.partition("=")[0] for word in words if word.startswith("-")]
        unknown = set(given) - options_of(command) - {"-h", "--help"}
        assert not unknown, f"levelmatch {name}: {unknown}"


@BY_DOCUMENT
def test_every_setting_that_a_document_gives_is_valid(document):
    for assignment in assignments(document.read_text(encoding="utf-8")):
        for name, values in grid_of([assignment]).items():
            for value in values:
                if str(value).endswith(".toml"):  # a file of the reader's own
                    assert name in MatchSettings.model_fields
                else:
                    MatchSettings.from_mapping({name: value} | ({"runner": "dask"} if name == "scheduler" else {}))


def test_the_search_for_commands_finds_what_is_wrong():
    """The tests above would see a command, an option or a setting that does not exist."""
    found = invocations("`levelmatch fly`\n```sh\nlevelmatch run IN \\\n    --output OUT --wings   # x --not\n```\n")
    assert found == [["levelmatch", "run", "IN", "--output", "OUT", "--wings"], ["levelmatch", "fly"]]
    assert assignments("`--set wing=1` --grid a=1,2 --set NAME=VALUE") == ["wing=1", "a=1,2"]
    shown = [each for path in DOCUMENTS for each in invocations(path.read_text(encoding="utf-8"))]
    assert {"run", "explain", "sweep", "promote", "deploy", "cache", "undo"} <= {name for _, name, *_ in shown}


def test_every_setting_is_on_its_page_with_both_presets():
    page = pages().settings_page()
    entries = dict(re.findall(r"^### `(\w+)`\n\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL))
    assert sorted(entries) == sorted(MatchSettings.model_fields)
    for one in described():
        text = entries[one.name].replace("\\", "")
        assert one.meaning in text
        assert f"`{one.default}`" in text
        assert f"`{one.best}`" in text
        assert all(f"`{choice}`" in text for choice in one.choices.split(" | ") if choice)
    assert "<!-- every setting -->" in (DOCS / "settings.md").read_text(encoding="utf-8")


def test_every_command_is_on_its_page_with_all_options():
    page = pages().commands_page()
    entries = dict(re.findall(r"^### levelmatch ([\w-]+)\n\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL))
    context = click.Context(main)
    assert sorted(entries) == main.list_commands(context)
    for name, text in entries.items():
        shown = {option for option in options_of(main.get_command(context, name)) if option.startswith("-")}
        assert all(option in text for option in shown), name
    assert "<!-- every command -->" in (DOCS / "commands.md").read_text(encoding="utf-8")


def test_the_page_on_the_library_has_all_that_the_library_exports():
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    described = set(re.findall(r"^\.\. auto(?:class|function):: (\w+)", page, re.MULTILINE))
    assert set(levelmatch_core.__all__) - {"__version__"} <= described


def whole(page):
    """Return a page with what it includes."""
    text = page.read_text(encoding="utf-8")
    included = re.findall(r"```\{include\} (\S+)", text)
    return "\n".join([text, *((page.parent / name).read_text(encoding="utf-8") for name in included)])


@BY_DOCUMENT
def test_every_link_leads_to_a_file_and_to_a_heading(document):
    text = FENCED.sub("", document.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        place = document.parent / name if name else document
        assert place.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", FENCED.sub("", whole(place)), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}, target


@BY_DOCUMENT
def test_every_file_that_a_document_names_exists(document):
    text = document.read_text(encoding="utf-8")
    for name in re.findall(r"`((?:tests|levelmatch_core|flows|deployments)/[\w./-]+\.(?:py|toml|md|txt|yaml))", text):
        assert (REPOSITORY / name).exists() or name.endswith("m33.toml"), name
    for name in re.findall(r"python -m (tests(?:\.[a-z_]+)+)(?![.\w])", text):
        place = REPOSITORY / name.replace(".", "/")
        assert place.with_suffix(".py").exists() or (place / "__main__.py").exists(), name


@BY_DOCUMENT
def test_a_document_names_no_place_of_the_machine_that_it_was_written_on(document):
    text = document.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.])/(?:tmp|work|root)/", text)
    assert set(re.findall(r"https?://(\w[\w.-]*)", text)) <= {"127.0.0.1"}


def test_numbers_that_readme_repeats_are_those_of_the_pages():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    section = text.partition("## Accuracy and cost\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    pages = "".join((DOCS / name).read_text(encoding="utf-8") for name in ("accuracy.md", "speed.md"))
    assert len(rows) > 10
    assert all(row in pages for row in rows)


def test_every_page_is_in_the_contents():
    listed = set()
    for block in re.findall(r"```\{toctree\}(.*?)```", (DOCS / "index.md").read_text(encoding="utf-8"), re.DOTALL):
        listed |= {line for line in block.split("\n") if line and not line.startswith(":") and "}" not in line}
    assert listed == {
        str(path.relative_to(DOCS).with_suffix("")) for path in DOCS.rglob("*.md") if path.name != "index.md"
    }


def cells_of(page):
    """Return the Python of a page's cells, without those that are commands or show files."""
    cells = re.findall(
        r"^```\{code-cell\} python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    cells = ["\n".join(line for line in cell.splitlines() if not line.startswith(":tags:")) for cell in cells]
    return "\n".join(cell for cell in cells if "%%sh" not in cell and "IPython" not in cell)


@pytest.mark.slow
def test_the_smallest_notebook_runs_and_planes_are_better_than_levels(tmp_path):
    """With the stand-in for M17; the whole site, with all notebooks, is a step of its own in CI."""
    environment = {name: value for name, value in os.environ.items() if name != "LEVELMATCH_REAL_DATA"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", cells_of(DOCS / "tutorials" / "m17.md")],
        cwd=tmp_path,
        env=environment | {"MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "this page shows the stand-in in 8 images" in done.stdout
    found = re.findall(r"([\d.]+) MJy/sr rms before and ([\d.]+) after", done.stdout)
    (before, levels), (_, planes) = ((float(one), float(other)) for one, other in found)
    assert planes < levels / 5 < before / 20
