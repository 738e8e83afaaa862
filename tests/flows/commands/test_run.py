"""What `run` and its `--dry-run` refuse, and what the end of a run names."""

import os
import shutil

import pytest
from click.testing import CliRunner

from flows.cli import main
from flows.commands.console import report
from flows.summary import summarize
from levelmatch_core.errors import OutputFolderError
from levelmatch_core.pipeline import Request, run
from levelmatch_core.products.output.checks import check_folder
from levelmatch_core.products.output.folder import OutputFolder
from levelmatch_core.runners import PlainRunner
from levelmatch_core.settings import MatchSettings
from levelmatch_core.simulate import SimulatedProgram, simulate
from levelmatch_core.sky.store import CutoutStore


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("program") / "in"
    simulate(folder, SimulatedProgram.of(tiles=(2, 1), dithers=1, size=96, stars=5, overlap=0.4))
    return folder


@pytest.fixture(scope="module")
def finished(program, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    request = Request(inputs=(program,), output=folder / "out", settings=MatchSettings(preset="best"))
    return run(request, CutoutStore(folder / "store"), PlainRunner)


def dry_run(*arguments):
    return CliRunner().invoke(main, ["run", *map(str, arguments), "--dry-run"])


def unusable(program, tmp_path, kind):
    """Return an output folder that cannot be used, for a reason."""
    out = tmp_path / "out"
    if kind == "an input":
        return program
    if kind == "around the input":
        return program.parent
    out.mkdir()
    if kind == "foreign files":
        (out / "notes.txt").write_text("mine")
    elif kind == "a file":
        return (out / "file").touch() or out / "file"
    elif kind == "below a file":
        (out / "file").touch()
        return out / "file" / "deeper"
    return out


@pytest.mark.parametrize("kind", ["an input", "around the input", "foreign files", "a file", "below a file"])
def test_a_dry_run_finds_what_a_run_would_refuse(program, tmp_path, kind):
    out = unusable(program, tmp_path, kind)
    before = sorted(path for path in tmp_path.rglob("*"))
    done = dry_run(program, "-o", out)
    assert done.exit_code == 2
    assert "output folder" in done.output
    with pytest.raises(OutputFolderError) as real, OutputFolder.open(out, MatchSettings(), [program]):
        pass
    with pytest.raises(OutputFolderError) as checked:
        check_folder(out, MatchSettings(), [program])
    if kind != "below a file":  # where the operating system speaks
        assert str(checked.value) == str(real.value)
    assert sorted(path for path in tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_dry_run_finds_that_a_folder_may_not_be_written_to(program, tmp_path):
    tmp_path.chmod(0o500)
    assert "no permission" in dry_run(program, "-o", tmp_path / "out").output


def test_no_permission_is_told(program, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OutputFolderError, match="no permission to write"):
        check_folder(tmp_path / "out", MatchSettings(), [program])


def test_a_dry_run_refuses_the_output_of_other_settings(program, finished):
    out = finished.request.output
    assert dry_run(program, "-o", out).exit_code == 0
    done = dry_run(program, "-o", out, "--set", "sigma=5")
    assert done.exit_code == 2
    assert "sigma was 3.0, now 5.0" in done.output
    assert dry_run(program, "-o", out, "--set", "sigma=5", "--set", "overwrite=true").exit_code == 0


@pytest.mark.parametrize("options", [("--dry-run",), ()])
def test_a_folder_without_images_ends_with_one_and_writes_nothing(tmp_path, options):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.txt").write_text("no image")
    command = ["run", str(tmp_path / "in"), "-o", str(tmp_path / "out"), *options]
    done = CliRunner().invoke(main, command, env={"LEVELMATCH_HOME": str(tmp_path / "home")})
    assert done.exit_code == 1  # as README has it
    assert "no *.fits" in done.output
    assert not (tmp_path / "out").exists()


def test_the_end_of_a_run_names_report_and_explain(finished, capsys):
    summary = summarize(finished, peak_memory=1.0)
    report(summary)
    out = finished.request.output
    shown = capsys.readouterr().out
    assert f"report:  {out / 'report.html'}\n" in shown
    assert f"in words: levelmatch explain {out}\n" in shown
    assert (out / "report.html").is_file()


def test_a_chain_never_reads_zero_after(finished, capsys, caplog, program, tmp_path):
    """One pair, which nothing tests: what the solve leaves of it says nothing."""
    report(summarize(finished, peak_memory=1.0))
    shown = capsys.readouterr().out
    with caplog.at_level("INFO", logger="levelmatch_core"):
        out = tmp_path / "out"
        shutil.copytree(program, tmp_path / "in")
        request = Request(inputs=(tmp_path / "in",), output=out, settings=MatchSettings(figures="none"))
        run(request, CutoutStore(tmp_path / "store"), PlainRunner)
    told = CliRunner().invoke(main, ["explain", str(out)]).output
    for text in (shown, caplog.text, told):
        assert " 0 after" not in text
        assert "became 0" not in text
        assert "nothing tests" in text


def test_a_part_of_a_name_finds_settings():
    done = CliRunner().invoke(main, ["settings", "rms"])
    assert done.exit_code == 0
    assert done.output.startswith("rms_sig_limit = 2.0")
    assert CliRunner().invoke(main, ["settings", "no_such_thing"]).exit_code == 2
