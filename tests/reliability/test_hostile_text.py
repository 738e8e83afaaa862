"""Text from files is hostile: it is shown on terminals, in logs and on pages, and steers none of them."""

import ast
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st

from flows.tracking.markdown import code, escaped
from levelmatch_core.process.log_context import log_context, logger_of
from levelmatch_core.simulate import SimulatedProgram, simulate
from levelmatch_core.text.plain_text import lines_of, one_line

REPOSITORY = Path(__file__).resolve().parents[2]
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]")


@given(st.text())
def test_nothing_steers_and_nothing_is_lost(text):
    assert not STEERING.search(lines_of(text))
    shown = one_line(text)
    assert not STEERING.search(shown)
    assert "\n" not in shown
    assert one_line(shown) == shown
    shown.encode()
    if text.isascii() and text.isprintable():
        assert shown == text


def test_what_it_looks_like():
    assert one_line("a\x1b[2Jb\nc\x9b\u202e") == r"a\x1b[2Jb\nc\x9b\u202e"
    assert one_line(os.fsdecode(b"m31\xff.fits")) == r"m31\xff.fits"
    assert one_line("M 31, 0.5 µJy (größer)") == "M 31, 0.5 µJy (größer)"
    assert lines_of("a\n\tb\x07") == "a\n\tb\\x07"


@given(st.text(st.sampled_from("ab ![]()<>`*_#|\\&;:/.@~$w\n\x1b"), max_size=40))
def test_in_markdown_it_stays_text(text):
    """A piece of Markdown has no sign left that begins anything, but behind a backslash."""
    bare = re.sub(r"\\[!-/:-@\[-`{-~]", "x", escaped(text))  # a letter: what stood around it does not come together
    assert not re.search(r"[\\`*_\[\]<>#!|~&$@]|://", bare)
    inside = code(text)
    fence = re.match("`+", inside)[0]
    assert fence not in inside[len(fence) : -len(fence)]
    assert "|" not in inside
    assert "\n" not in inside


def test_a_log_line_is_one_line_with_its_traceback_made_plain(caplog):
    logger = logger_of("levelmatch_core.trial")
    with log_context("tile\x1b[31m", "solve"):
        try:
            raise ValueError("evil\x1b]0;title\x07")  # noqa: EM101, TRY301 - a test
        except ValueError:
            logger.exception("%s: failed", "a\nERROR forged")
    record = caplog.records[0]
    assert record.getMessage() == r"[tile\x1b[31m, solve] a\nERROR forged: failed"
    assert not STEERING.search(logging.Formatter().format(record))


def modules(*folders):
    return [path for folder in folders for path in sorted((REPOSITORY / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", modules("flows", "levelmatch_core"), ids=lambda path: path.stem)
def test_all_that_logs_or_prints_does_so_by_these_functions(path):
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    named = {ast.unparse(call.func) + "(" + ast.unparse(call.args[0]) + ")" for call in calls if call.args}
    assert "logging.getLogger(__name__)" not in named or path.stem == "log_context"
    printed = {name for name in named if name.startswith(("print(", "click.echo(", "cloup.echo("))}
    own = {"console", "settings", "completion"}  # and what holds no text of a file
    assert not printed or path.stem in own, printed


@pytest.fixture
def hostile(tmp_path):
    """A program whose names, unit and filter do what they can."""
    folder = tmp_path / "in\x1b[2J"
    simulate(folder, SimulatedProgram(instrument="generic", tiles=(1, 1), dithers=2, size=64))
    files = sorted(folder.glob("*.fits"))
    for number, path in enumerate(files):
        content = path.read_bytes().replace(b"'MJy/sr", b"'\x1b[31mJ")
        path.rename(folder / f"![i](x)\x1b]0;title\x07\u202e{number}.fits").write_bytes(content)
    broken = folder / "broken\nlevelmatch: all is well.fits"
    broken.write_bytes(b"SIMPLE  = \x1b[2J" + b"x" * 3000)
    header = fits.Header()
    header["LVLSTAT"] = "matched"
    fits.PrimaryHDU(header=header).writeto(folder / "matched\x1b[8m.fits")
    return folder


@pytest.mark.slow
def test_no_command_sends_it_to_the_terminal(tmp_path, hostile, reliability):
    home = {"LEVELMATCH_HOME": str(tmp_path / "home")}
    command = [str(Path(sys.executable).parent / "levelmatch")]
    out = str(tmp_path / "out\x1b[5m")
    for words in (
        ["run", str(hostile), "--output", out, "--dry-run"],
        ["run", str(hostile), "--output", out, "--set", "figures=none", "--program", "p\x1b[1m"],
        ["explain", out],
        ["verify", out],
        ["undo", out, "--output", str(tmp_path / "back\x1b")],
        ["run", str(hostile), "--output", out, "--set", "reference=\x1b[7mno"],
        ["run", str(tmp_path / "none\x1b[2J"), "--output", out],
    ):
        done = subprocess.run(
            [*command, *words], env=reliability.bare() | home, capture_output=True, check=False, cwd=tmp_path
        )
        said = (done.stdout + done.stderr).decode()
        assert said.strip(), words
        assert not STEERING.search(said.replace("\r\n", "\n")), (words, said)
        assert not re.search("^levelmatch: all is well", said, re.MULTILINE), (words, said)
