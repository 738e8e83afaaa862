"""The command, as a user starts it: exit codes, messages, files."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from functools import partial
from pathlib import Path

import click
import pytest

from flows.cli import main
from flows.commands.run import _request
from levelmatch_core.settings import MatchSettings

COMMAND = [sys.executable, "-c", "from flows.cli import main; main()"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """One home for all commands of this file: making Prefect's database takes longer than the work."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    return kept | {"LEVELMATCH_HOME": str(tmp_path_factory.mktemp("home")), "COLUMNS": "100"}


@pytest.fixture
def levelmatch(environment):
    def call(*arguments, **variables):
        return subprocess.run(
            [*COMMAND, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            cwd=Path(__file__).resolve().parents[2],
            env=environment | variables,
        )

    return call


# -- before any engine starts ------------------------------------------------------------------------------------------
def test_help_names_the_commands(levelmatch):
    answer = levelmatch("--help")
    assert answer.returncode == 0
    assert {"run", "simulate", "demo"} <= set(answer.stdout.split())


def test_help_imports_nothing_heavy(environment):
    code = (
        "import sys\nfrom flows.cli import main\ntry: main(['run', '--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'numpy', 'astropy', 'prefect', 'mlflow', 'pydantic'} & set(sys.modules)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert answer.stdout.splitlines()[-1] == "[]"


def test_the_version_is_shown(levelmatch):
    assert "0." in levelmatch("--version").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "rms_sig_limt=3"], "did you mean rms_sig_limit"),
        (["--set", "sigma=-1"], "sigma"),
        (["--set", "sigma"], "NAME=VALUE"),
        (["--config", "nowhere.toml"], "nowhere.toml"),
        (["--workers", "0"], "--workers"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(levelmatch, small_program, tmp_path, arguments, said):
    answer = levelmatch("run", small_program, "--output", tmp_path / "out", *arguments)
    assert answer.returncode == 2
    assert said in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not (tmp_path / "out").exists()


def test_set_wins_over_the_settings_file(tmp_path):
    config = tmp_path / "settings.toml"
    config.write_text("sigma = 4.0\nnpixels = 9\n")
    options = {"config": config, "assignments": ("sigma=5",), "workers": 2, "band": "F770W", "preset": None}
    options |= {"program": "p", "recursive": False, "group_by": None, "prune": False}
    request = _request((tmp_path,), tmp_path / "out", options)
    assert (request.settings.sigma, request.settings.npixels, request.settings.procs) == (5.0, 9, 2)
    assert request.settings.band == "F770W"


def test_an_input_that_is_not_there_is_bad_usage(levelmatch, tmp_path):
    answer = levelmatch("run", tmp_path / "nowhere", "--output", tmp_path / "out")
    assert answer.returncode == 2
    assert "nowhere" in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", [("run", "", "-o", "out"), ("run", "in", "-o", ""), ("undo", ""), ("deploy", "")])
def test_a_variable_without_a_value_is_not_the_current_folder(command, tmp_path, monkeypatch, capsys):
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(command)
    assert end.value.code == 2
    assert "a path without a letter" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [tmp_path / "in"]


def test_no_files_is_no_input(levelmatch, tmp_path):
    (tmp_path / "in").mkdir()
    answer = levelmatch("run", tmp_path / "in", "--output", tmp_path / "out")
    assert answer.returncode == 1
    assert "*.fits" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not (tmp_path / "out").exists()


def test_a_foreign_output_folder_is_refused(levelmatch, small_program, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    answer = levelmatch("run", small_program, "--output", tmp_path / "out")
    assert answer.returncode == 2
    assert "thesis.tex" in answer.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_simulate_writes_a_program(levelmatch, tmp_path):
    answer = levelmatch(
        "simulate", tmp_path / "in", "--instrument", "generic", "--tiles", "2x1", "--size", 64, "--seed", 3
    )
    assert answer.returncode == 0, answer.stderr
    assert len(list((tmp_path / "in").glob("*.fits"))) == 2
    assert (tmp_path / "in" / "truth.json").exists()
    again = levelmatch("simulate", tmp_path / "in", "--instrument", "generic")
    assert again.returncode == 2
    assert "empty" in again.stderr


@pytest.mark.parametrize("tiles", ["3", "axb", "0x2", "3x"])
def test_simulate_refuses_tiles_that_are_none(levelmatch, tmp_path, tiles):
    answer = levelmatch("simulate", tmp_path / "in", "--tiles", tiles)
    assert answer.returncode == 2
    assert "tiles" in answer.stderr
    assert not (tmp_path / "in").exists()


# -- whole runs --------------------------------------------------------------------------------------------------------
@pytest.fixture
def served(levelmatch, server):
    """The command with the session's server, which saves starting one each time."""
    return partial(levelmatch, PREFECT_API_URL=server)


@pytest.mark.slow
def test_a_run_ends_well_and_again_with_nothing_to_do(served, small_program, tmp_path):
    out = tmp_path / "out"
    answer = served("run", small_program, "--output", out, "--program", "orion", "--workers", 2)
    assert answer.returncode == 0, answer.stderr
    assert "4 of 4 exposures are matched" in answer.stdout
    assert "MJy/sr" in answer.stdout
    assert str(out) in answer.stdout
    assert "MLflow" in answer.stdout
    assert "cutouts: 4 done" in answer.stderr  # plain lines where there is no terminal
    assert "Traceback" not in answer.stderr
    assert len(list((out / "tiles").iterdir())) == 4
    again = served("run", small_program, "--output", out, "--program", "orion")
    assert again.returncode == 0, again.stderr
    assert "nothing changed" in again.stdout
    assert "checked again" in again.stdout
    quiet = served("run", small_program, "--output", out, "--log-level", "error")
    assert quiet.returncode == 0
    assert not quiet.stderr
    refused = served("run", small_program, "--output", out, "--set", "sigma=4")
    assert refused.returncode == 2
    assert "sigma was 3.0, now 4.0" in refused.stderr


@pytest.mark.slow
def test_a_broken_file_is_named_and_the_rest_is_done(served, small_program, tmp_path):
    folder = tmp_path / "in"
    shutil.copytree(small_program, folder)
    broken = max(folder.glob("*.fits"))
    broken.write_bytes(b"SIMPLE  = this is not FITS")
    answer = served("run", folder, "--output", tmp_path / "out")
    assert answer.returncode == 3, answer.stderr
    named = [line for line in answer.stderr.splitlines() if line.startswith(f"{broken.name}: failed: ")]
    assert len(named) == 1
    assert len(named[0]) > len(f"{broken.name}: failed: ")
    assert "Traceback" not in answer.stderr
    assert json.loads((tmp_path / "out" / "run.json").read_text())["partial"]


@pytest.mark.slow
def test_a_pending_exposure_is_exit_code_3_and_named_in_the_left_out_table(served, server, small_program, tmp_path):
    folder = tmp_path / "in"
    shutil.copytree(small_program, folder)
    for path in folder.glob("*.fits"):
        os.utime(path, (time.time() - 86400,) * 2)
    waiting = min(folder.glob("*.fits"))
    os.utime(waiting)
    options = ("--set", "settle_seconds=3600", "--set", "figures=none", "--program", "pending program")
    answer = served("run", folder, "--output", tmp_path / "out", *options)
    assert answer.returncode == 3, answer.stderr
    assert f"{waiting.name}: pending: " in answer.stderr
    assert "1 pending" in answer.stdout
    found = asked(server, "/artifacts/filter", {"artifacts": {"key": {"any_": ["pending-program-left-out"]}}})
    rows = [row for artifact in found for row in json.loads(artifact["data"])]
    assert [(row["name"], row["status"], row["tile"]) for row in rows] == [
        (waiting.name, "pending", f"{waiting.name[:19]}_mirimage")
    ]
    (run,) = asked(server, "/flow_runs/filter", {"flow_runs": {"id": {"any_": [found[0]["flow_run_id"]]}}})
    assert (run["state"]["type"], run["state"]["name"]) == ("COMPLETED", "Incomplete")
    os.utime(waiting, (time.time() - 86400,) * 2)
    assert served("run", folder, "--output", tmp_path / "out", *options).returncode == 0


def asked(server, path, body):
    """Return the answer of Prefect's API."""
    request = urllib.request.Request(  # noqa: S310 - http on loopback
        f"{server}{path}", data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - as above
        return json.loads(answer.read())


@pytest.mark.slow
def test_no_usable_exposure_is_no_input(served, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.fits").write_bytes(b"no FITS at all")
    answer = served("run", tmp_path / "in", "--output", tmp_path / "out")
    assert answer.returncode == 1, answer.stderr
    assert "a.fits" in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.slow
def test_a_band_that_none_has_is_bad_usage(served, small_program, tmp_path):
    answer = served("run", small_program, "--output", tmp_path / "out", "--band", "F1130W")
    assert answer.returncode == 2, answer.stderr
    assert "F1130W".lower() in answer.stderr.lower()
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_tracking_server_out_of_reach_costs_the_record_only(served, small_program, tmp_path):
    answer = served("run", small_program, "--output", tmp_path / "out", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert answer.returncode == 0, answer.stderr
    assert "lost" in answer.stderr
    assert (tmp_path / "out" / "run.json").exists()


@pytest.mark.slow
def test_the_demo_recovers_the_truth(levelmatch, tmp_path):
    answer = levelmatch("demo", "--output", tmp_path / "demo")
    assert answer.returncode == 0, answer.stderr
    (line,) = [line for line in answer.stdout.splitlines() if line.startswith("truth:")]
    rms = float(line.split("recovered to ")[1].split()[0])
    assert 0 < rms < 0.005
    for named in ("figures", "corrections.ecsv", "mlflow ui"):
        assert named in answer.stdout
    assert levelmatch("demo", "--output", tmp_path / "demo").returncode == 0  # once more, on the same folder


# -- help, settings, completion ----------------------------------------------------------------------------------------
def test_every_command_has_a_place_in_the_help_and_a_short_text_that_is_not_cut(levelmatch):
    shown = levelmatch("--help").stdout
    commands = shown.partition("Match:")[2].partition("Examples:")[0]
    assert {line.split()[0] for line in commands.splitlines() if line.startswith("  ")} == set(
        main.list_commands(click.Context(main))
    )
    assert "..." not in commands


def test_options_come_in_groups_with_examples(levelmatch):
    shown = levelmatch("run", "--help").stdout
    places = [shown.index(title) for title in ("Results:", "Which input:", "Settings (", "How to run:", "Examples:")]
    assert places == sorted(places)


@pytest.mark.parametrize("name", sorted(main.list_commands(click.Context(main))))
def test_the_examples_of_the_help_are_commands_that_parse(name):
    command = main.get_command(click.Context(main), name)
    for line in (command.epilog or "").splitlines():
        words = shlex.split(line.partition("|")[0].partition("  in ")[0])
        if words[:1] == ["levelmatch"]:
            called = main.get_command(click.Context(main), words[1])
            called.make_context(words[1], words[2:])  # raises on bad usage; nothing runs


def test_settings_are_listed_with_defaults_and_told_by_name(levelmatch):
    listed = levelmatch("settings").stdout
    assert len(listed.splitlines()) == len(MatchSettings.model_fields)
    assert "rms_sig_limit = 2.0" in listed
    told = levelmatch("settings", "statistic").stdout
    assert "median | clipped_mean | huber" in told
    assert "pair's difference" in told
    refused = levelmatch("settings", "rms_sig_limt")
    assert refused.returncode == 2
    assert "did you mean rms_sig_limit" in refused.stderr


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("levelmatch ver", "verify"),
        ("levelmatch run --dry", "--dry-run"),
        ("levelmatch run --set rms_s", "rms_sig_limit="),
        ("levelmatch run --set weight_method=e", "weight_method=error"),
        ("levelmatch settings min_a", "min_area_percent"),
    ],
)
def test_bash_completes(environment, typed, offered):
    words = typed.split()
    answer = subprocess.run(
        [sys.executable, "-c", "from flows.cli import main; main(prog_name='levelmatch')"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parents[2],
        env=environment
        | {"_LEVELMATCH_COMPLETE": "bash_complete", "COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1)},
    )
    assert offered in [line.partition(",")[2] for line in answer.stdout.splitlines()]


def test_the_completion_script_is_one_that_bash_reads(levelmatch):
    script = levelmatch("completion", "bash").stdout
    assert "_LEVELMATCH_COMPLETE=bash_complete" in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
