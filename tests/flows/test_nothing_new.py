"""That nothing is new is said only where it is so: whatever a run reads or writes, and whatever it was asked for."""

import logging
import os
import shutil
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
from click.testing import CliRunner

import flows
from flows.cli import main
from flows.commands.console import lines_of_result
from flows.nothing_new import Question
from flows.orchestration.log_lines import ONCE, hearing
from flows.summary import Tracking, Unmatched, summarize
from levelmatch_core.pipeline import Request, run
from levelmatch_core.process import versions
from levelmatch_core.process.log_context import logger_of
from levelmatch_core.process.versions import levelmatch_version
from levelmatch_core.products.output.folder import state_left
from levelmatch_core.runners import PlainRunner
from levelmatch_core.settings import MatchSettings
from levelmatch_core.simulate import SimulatedProgram, simulate
from levelmatch_core.sky.store import CutoutStore

BEST = MatchSettings(preset="best")
OPTIONS = {"program": "levelmatch", "recursive": False, "group_by": None, "prune": False}
RUN = "0123456789abcdef"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A program and its output, with the summary of the run."""
    folder = tmp_path_factory.mktemp("finished")
    simulate(folder / "in", SimulatedProgram.of(tiles=(2, 1), dithers=1, size=96, stars=5, overlap=0.4))
    result = run(
        Request(inputs=(folder / "in",), output=folder / "out", settings=BEST),
        CutoutStore(folder / "store"),
        PlainRunner,
    )
    tracking = Tracking(store="sqlite", run_id=RUN)
    summary = summarize(result, peak_memory=1.0).model_copy(update={"tracking": tracking, "executed": {"cutouts": 2}})
    return folder, summary


@pytest.fixture
def place(finished, tmp_path, monkeypatch):
    """A copy of both, in a home that has both records; nothing was touched for an hour."""
    for name in ("in", "out"):
        shutil.copytree(finished[0] / name, tmp_path / name)
    home = tmp_path / "home"
    (home / "mlflow").mkdir(parents=True)
    (home / "prefect").mkdir()
    (home / "prefect" / "prefect.db").write_bytes(b"SQLite")
    with closing(sqlite3.connect(home / "mlflow" / "mlflow.db")) as store, store:
        store.execute("CREATE TABLE runs (run_uuid TEXT, lifecycle_stage TEXT)")
        store.execute("INSERT INTO runs VALUES (?, 'active')", (RUN,))
    for name in [name for name in os.environ if name.startswith(("PREFECT_", "MLFLOW_", "LEVELMATCH_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LEVELMATCH_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def asked(place, settings=BEST, inputs=("in",), output="out", **options):
    return Question.of([place / name for name in inputs], place / output, settings, OPTIONS | options)


def ended(summary, output):
    """Return the summary of a run that let its output go as it lies there now."""
    return summary.model_copy(update={"left": state_left(output)})


def kept(place, summary, **asking):
    """Ask, and leave the note of a run that ended now, as if it had been asked for an hour later."""
    question = asked(place, **asking)
    question = replace(question, begun=time.time() + 3600)
    question.keep(ended(summary, question.output), ["a line"], ["warning: a warning"])
    return question


def test_nothing_new_is_said_with_all_that_the_run_said(finished, place):
    assert asked(place).answer() is None
    kept(place, finished[1])
    last = asked(place).answer()
    assert (last.lines, last.warnings, last.grade) == (("a line",), ("warning: a warning",), finished[1].grade)
    assert all(path.stat().st_mode & 0o077 == 0 for path in (place / "home" / "last_runs").iterdir())


def same_bytes_and_times(path):
    """Change a byte of a file, and give it the size and the times that it had."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-3000] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def first(folder):
    return min(path for path in folder.rglob("*.fits"))


CHANGES = {
    "an input with its old time": lambda place: same_bytes_and_times(first(place / "in")),
    "an input replaced by a copy": lambda place: Path(shutil.copy2(first(place / "in"), place / "copy")).replace(
        first(place / "in")
    ),
    "an input gone": lambda place: first(place / "in").unlink(),
    "an input that cannot be read": lambda place: first(place / "in").chmod(0),
    "another input": lambda place: shutil.copy2(first(place / "in"), place / "in" / "more.fits"),
    "something beside the inputs": lambda place: (place / "in" / "weights.dat").write_text("1"),
    "a corrected file with its old time": lambda place: same_bytes_and_times(first(place / "out")),
    "a corrected file gone": lambda place: first(place / "out").unlink(),
    "run.json gone": lambda place: (place / "out" / "run.json").unlink(),
    "the report gone": lambda place: (place / "out" / "report.html").unlink(),
    "a new file in the output": lambda place: (place / "out" / "tiles" / "note").write_text("mine"),
    "the output gone": lambda place: shutil.rmtree(place / "out"),
    "the output moved and made anew": lambda place: shutil.copytree(
        (place / "out").rename(place / "old"), place / "out"
    ),
    "Prefect's record gone": lambda place: (place / "home" / "prefect" / "prefect.db").unlink(),
    "Prefect's record damaged": lambda place: (place / "home" / "prefect" / "prefect.db").write_bytes(b"x" * 9000),
    "MLflow's record gone": lambda place: (place / "home" / "mlflow" / "mlflow.db").unlink(),
    "MLflow's record damaged": lambda place: (place / "home" / "mlflow" / "mlflow.db").write_bytes(b"x" * 9000),
    "the home gone": lambda place: shutil.rmtree(place / "home"),
    "the home open to all": lambda place: (place / "home").chmod(0o777),
    "Prefect redirected by a profile": lambda place: (place / "home" / "prefect" / "profiles.toml").write_text(""),
    "Prefect redirected by the folder": lambda place: (place / ".env").write_text("PREFECT_API_URL=http://a/api"),
}


def test_no_note_is_left_where_a_further_change_of_the_output_would_not_show(finished, place, monkeypatch):
    """Times of some file systems have steps of seconds."""
    real = os.stat

    def coarse(path, *rest, **options):
        found = real(path, *rest, **options)
        times = {"st_mtime": int(found.st_mtime), "st_ctime": int(found.st_ctime)}
        times |= {f"{name}_ns": time * 10**9 for name, time in times.items()}
        return os.stat_result(found[:10], times)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", coarse)
        kept(place, finished[1])
        assert asked(place).answer() is None
        patch.setattr(time, "time", lambda now=time.time: now() + 3)
        kept(place, finished[1])
        assert asked(place).answer() is not None


@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_is_noticed(finished, place, kind):
    kept(place, finished[1])
    assert asked(place).answer() is not None
    CHANGES[kind](place)
    assert asked(place).answer() is None


def test_a_run_deleted_in_mlflow_is_noticed(finished, place):
    kept(place, finished[1])
    with closing(sqlite3.connect(place / "home" / "mlflow" / "mlflow.db")) as store, store:
        store.execute("UPDATE runs SET lifecycle_stage = 'deleted'")
    assert asked(place).answer() is None


@pytest.mark.parametrize(
    "other",
    [
        {"settings": MatchSettings(preset="pjpipe")},
        {"settings": MatchSettings(preset="best", sigma=4.0)},
        {"settings": MatchSettings(preset="best", procs=3)},
        {"program": "orion"},
        {"recursive": True},
        {"prune": True},
        {"group_by": "m33"},
        {"output": "in"},
    ],
    ids=str,
)
def test_another_question_is_not_answered(finished, place, other):
    kept(place, finished[1])
    assert asked(place, **other).answer() is None


@pytest.mark.parametrize("name", ["PREFECT_API_URL", "MLFLOW_TRACKING_URI", "PREFECT_API_DATABASE_CONNECTION_URL"])
def test_records_elsewhere_hear_of_every_run(finished, place, monkeypatch, name):
    kept(place, finished[1])
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert asked(place) is None


def test_addresses_are_always_asked(place):
    assert Question.of(["s3://bucket/in", place / "in"], place / "out", BEST, OPTIONS) is None


@pytest.mark.parametrize("name", ["MLFLOW_EXPERIMENT_NAME", "PREFECT_RESULTS_LOCAL_STORAGE_PATH", "LEVELMATCH_OTHER"])
def test_another_environment_is_another_question(finished, place, monkeypatch, name):
    kept(place, finished[1])
    monkeypatch.setenv(name, "x")
    assert asked(place).answer() is None


def test_tables_of_settings_and_of_tiles_are_read(finished, place):
    for name in ("levels.csv", "tiles.csv"):
        (place / name).write_text("exposure,level\n")
    asking = {"settings": MatchSettings(levels=place / "levels.csv"), "group_by": str(place / "tiles.csv")}
    for name in ("levels.csv", "tiles.csv"):
        kept(place, finished[1], **asking)
        assert asked(place, **asking).answer() is not None
        (place / name).write_text("exposure,levels\n")
        assert asked(place, **asking).answer() is None


def test_folders_within_count_where_they_are_searched(finished, place):
    (place / "in" / "deep").mkdir()
    for recursive in (False, True):
        kept(place, finished[1], recursive=recursive)
        assert asked(place, recursive=recursive).answer() is not None
        (place / "in" / "deep" / f"{recursive}.dat").write_text("1")
        assert (asked(place, recursive=recursive).answer() is None) == recursive


def test_members_of_associations_are_read(finished, place):
    (place / "else").mkdir()
    member = Path(shutil.copy2(first(place / "in"), place / "else" / "a_cal.fits"))
    text = '{"products": [{"members": [{"expname": "../else/a_cal.fits", "exptype": "science"}]}]}'
    (place / "in" / "asn.json").write_text(text)
    kept(place, finished[1], inputs=["in/asn.json"])
    assert asked(place, inputs=["in/asn.json"]).answer() is not None
    same_bytes_and_times(member)
    assert asked(place, inputs=["in/asn.json"]).answer() is None
    (place / "in" / "asn.json").write_text("{")
    assert asked(place, inputs=["in/asn.json"]) is None


@pytest.mark.parametrize(
    "change",
    [
        {"complete": False},
        {"problems": (Unmatched(name="a", status="failed", reason="it is damaged"),)},
        {"tracking": None},
        {"tracking": Tracking(store="sqlite", run_id=RUN, lost="the record is lost")},
        {"tracking": Tracking(store="sqlite", run_id="another")},
        {"executed": {}, "cached": {}},  # done without Prefect
    ],
    ids=str,
)
def test_a_run_that_did_not_end_well_leaves_no_note(finished, place, change):
    kept(place, finished[1].model_copy(update=change))
    assert not (place / "home" / "last_runs").exists()


def test_inputs_that_change_during_the_run_or_just_before_leave_no_note(finished, place):
    question, summary = asked(place), ended(finished[1], place / "out")
    question.keep(summary, [], [])  # the copies were made a moment ago
    assert asked(place).answer() is None
    question = replace(question, begun=time.time() + 3600)
    same_bytes_and_times(first(place / "in"))
    question.keep(summary, [], [])
    assert asked(place).answer() is None


@pytest.mark.parametrize("kind", ["a corrected file with its old time", "a corrected file gone", "the report gone"])
def test_an_output_that_changes_before_the_records_are_made_leaves_no_note(finished, place, kind):
    question, summary = replace(asked(place), begun=time.time() + 3600), ended(finished[1], place / "out")
    CHANGES[kind](place)
    question.keep(summary, [], [])
    assert asked(place).answer() is None
    question.keep(ended(summary, place / "out"), [], [])
    assert asked(place).answer() is not None
    (place / "out" / "log.json").write_text("{}")  # the ids of the run come into it after the run has let it go
    question.keep(ended(summary, place / "out"), [], [])
    assert asked(place).answer() is not None


def test_an_older_module_in_the_place_of_another_is_noticed(finished, place, tmp_path, monkeypatch):
    package = tmp_path / "program"
    package.mkdir()
    for name in ("__init__.py", "newest.py", "other.py"):
        (package / name).write_text("")
    os.utime(package / "other.py", (1, 1))
    monkeypatch.setattr(flows, "__file__", str(package / "__init__.py"))
    kept(place, finished[1])
    assert asked(place).answer() is not None
    (package / "older.py").write_text("#")
    os.utime(package / "older.py", (2, 2))
    (package / "older.py").replace(package / "other.py")
    assert asked(place).answer() is None


@pytest.mark.parametrize("name", ["levelmatch", "numpy", "astropy"])
def test_another_version_is_noticed(finished, place, monkeypatch, name):
    kept(place, finished[1])
    levelmatch_version.cache_clear()
    monkeypatch.setattr(versions, "version", lambda one: "0.0" if one == name else version(one))
    try:
        assert asked(place).answer() is None
    finally:
        levelmatch_version.cache_clear()


@pytest.fixture
def note(finished, place):
    """The note that a run left."""
    kept(place, finished[1])
    (path,) = (place / "home" / "last_runs").iterdir()
    return path


def test_a_pipe_in_the_place_of_the_note_does_not_hang(place, note):
    note.unlink()
    os.mkfifo(note, 0o600)
    assert asked(place).answer() is None


@pytest.mark.parametrize(
    "damage", [lambda text: text[:-9], lambda text: text.replace("a line", "a lime"), lambda _: ""]
)
def test_a_damaged_note_is_none(place, note, damage):
    note.write_text(damage(note.read_text()))
    assert asked(place).answer() is None


def test_a_note_that_others_may_write_is_none(place, note):
    note.chmod(0o660)
    assert asked(place).answer() is None


def test_a_note_that_no_run_renews_goes(finished, place, note):
    os.utime(note, (0, 0))
    shutil.copytree(place / "out", place / "other")
    kept(place, finished[1], output="other")
    assert note not in set((place / "home" / "last_runs").iterdir())


def test_warnings_are_heard_but_for_those_of_one_run():
    logger = logger_of("levelmatch_core.any")
    heard: list[str] = []
    with hearing(heard):
        logger.info("a file")
        logger.warning("%d files left out", 3)
        logger.warning("compiles", extra=ONCE)
        logging.getLogger("elsewhere").warning("other")
    assert heard == ["warning: 3 files left out"]


@pytest.mark.parametrize(("required", "code"), [(None, 0), ("fair", 0), ("good", 4)])
def test_the_command_says_it_and_asks_for_the_grade(finished, place, required, code):
    summary = finished[1].model_copy(update={"changed": False, "grade": type(finished[1].grade).FAIR})
    question = replace(asked(place), begun=time.time() + 3600)
    question.keep(ended(summary, place / "out"), lines_of_result(summary), ["warning: 3 files are left out"])
    words = ["run", str(place / "in"), "-o", str(place / "out"), *(["--require", required] if required else [])]
    told = CliRunner().invoke(main, words)
    assert told.exit_code == code, told.output
    assert "nothing changed" in told.stdout
    assert "nothing is new since the run of" in told.stdout
    assert "warning: 3 files are left out" in told.stderr
    assert ("--require asks for good" in told.stderr) == (code == 4)
    assert not CliRunner().invoke(main, [*words, "--log-level", "error"]).stderr.startswith("warning")


def test_settings_from_files_of_the_folder_are_told_again(finished, place, caplog):
    (place / ".env").write_text("PREFECT_SERVER_LOGGING_LEVEL=INFO")
    kept(place, finished[1])
    told = CliRunner().invoke(main, ["run", str(place / "in"), "-o", str(place / "out")])
    assert told.exit_code == 0, told.output
    assert "a line" in told.stdout
    assert f"Prefect takes settings from {place}/.env" in caplog.text
