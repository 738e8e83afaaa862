"""A combination of a sweep written into a program file."""

import json
import tomllib

import pytest
from click.testing import CliRunner

from flows.commands.sweep import promote
from flows.orchestration.programs import Program
from flows.orchestration.promotion import promotion
from flows.tracking.ranking import Combination, Ranking
from levelmatch_core.errors import SettingsError, UsageError
from levelmatch_core.settings import MatchSettings

TEXT = """\
# The best program of all.
inputs = ["/i"]   # where they lie
output = "/o"

[settings]
sigma = 3.5          # as agreed in March
rms_sig_limit = 2.0  # to be swept
figures = "summary"

[[schedule]]
cron = "30 6 * * *"  # the morning after
"""

BARE = f"{TEXT.partition('[settings]')[0]}[[schedule]]{TEXT.partition('[[schedule]]')[2]}"
"""Without settings."""

COMMON = {"preset": "best", "sigma": 3.5, "figures": "none"}


@pytest.fixture
def sweep(tmp_path):
    """A finished sweep of two settings, of which one changed nothing, and one combination failed."""
    rows = [
        Combination(values={"rms_sig_limit": limit, "npixels": pixels}, seam=limit, tested=4, used=9)
        for limit in (1.5, 3.0)
        for pixels in (3, 5)
    ]
    rows.append(Combination(values={"rms_sig_limit": 9.0, "npixels": 3}, failed="no"))
    ranking = Ranking.of("m33", "abc", ("rms_sig_limit", "npixels"), rows)
    folder = tmp_path / "sweep"
    record = json.loads(RECORD)
    for row in rows:
        place = folder / f"rms_sig_limit={row.values['rms_sig_limit']},npixels={row.values['npixels']}"
        place.mkdir(parents=True)
        settings = MatchSettings.from_mapping({**COMMON, **row.values}).model_dump(mode="json")
        (place / "run.json").write_text(json.dumps({**record, "settings": settings}))
    (folder / "ranking.json").write_text(json.dumps(ranking.to_json()))
    return folder


RECORD = json.dumps(
    {
        "schema_version": 1,
        "levelmatch": "0",
        "libraries": {},
        "program": "m33",
        "band": None,
        "settings": {},
        "inputs": [],
        "fields": [],
        "counts": {},
        "failures": [],
        "notes": [],
        "partial": False,
        "files": [],
    }
)


@pytest.fixture
def program(tmp_path):
    file = tmp_path / "m33.toml"
    file.write_text(TEXT)
    return file


@pytest.mark.parametrize(("mark", "end"), [("", "\r\n"), ("\ufeff", "\n"), ("\ufeff", "\r\n")])
@pytest.mark.parametrize("before", [TEXT, BARE])
def test_line_ends_and_the_mark_of_an_editor_stay(sweep, program, mark, end, before):
    """Also of the lines that are new."""
    program.write_bytes((mark + before.replace("\n", end)).encode())
    promotion(sweep, 3, program).write()
    after = program.read_bytes().decode()
    assert after.startswith(mark + "# The best program")
    assert after.count(end) == after.count("\n") == len(after.splitlines())
    assert Program.load(program).settings["rms_sig_limit"] == 3.0


def test_comments_and_order_stay_and_only_what_differs_changes(sweep, program):
    found = promotion(sweep, 3, program)
    assert found.after == TEXT.replace("rms_sig_limit = 2.0  # to be swept", "rms_sig_limit = 3.0  # to be swept")
    assert "-rms_sig_limit = 2.0  # to be swept" in found.difference
    assert "+rms_sig_limit = 3.0  # to be swept" in found.difference
    assert program.read_text() == TEXT
    found.write()
    assert Program.load(program).settings["rms_sig_limit"] == 3.0
    assert promotion(sweep, 3, program).difference == ""
    assert [path.name for path in program.parent.iterdir() if path.name.startswith(".")] == []


def test_ties_and_settings_without_effect_are_told(sweep, program):
    notes = promotion(sweep, 2, program).notes
    assert notes == (
        "rank 2 ties with 1: nothing in the sweep tells them apart",
        "npixels changed nothing in the sweep",
    )


def test_settings_common_to_a_sweep_are_part_of_its_combinations(sweep, program):
    program.write_text(TEXT.replace("sigma = 3.5 ", "sigma = 5.0 "))
    after = tomllib.loads(promotion(sweep, 1, program).after)["settings"]
    assert after == {"sigma": 3.5, "rms_sig_limit": 1.5, "figures": "summary"}


def test_a_file_without_settings_gets_some(sweep, program):
    program.write_text('inputs = ["/i"]\noutput = "/o"\n')
    found = promotion(sweep, 1, program)
    found.write()
    assert Program.load(program).chosen.rms_sig_limit == 1.5
    assert Program.load(program).chosen.sigma == 3.5


@pytest.mark.parametrize(
    ("rank", "harm", "refused"),
    [
        (6, None, (UsageError, "5 combinations")),
        (5, None, (UsageError, "failed")),
        (1, lambda sweep, _: (sweep / "ranking.json").unlink(), (UsageError, "finished sweep")),
        (1, lambda sweep, _: (sweep / "ranking.json").write_text("{"), (UsageError, "not the ranking")),
        (1, lambda _, program: program.write_text(TEXT + "[grid]\nsigma = [1, 2]\n"), (SettingsError, "sweep itself")),
        (1, lambda _, program: program.unlink(), (SettingsError, "m33.toml")),
    ],
)
def test_what_cannot_be_promoted_is_refused_and_nothing_is_written(sweep, program, rank, harm, refused):
    if harm is not None:
        harm(sweep, program)
    before = program.read_text() if program.exists() else None
    with pytest.raises(refused[0], match=refused[1]):
        promotion(sweep, rank, program)
    assert (program.read_text() if program.exists() else None) == before


def test_the_command_shows_the_difference_and_writes(sweep, program):
    shown = CliRunner().invoke(promote, [str(sweep), str(program), "--dry-run"])
    assert shown.exit_code == 0, shown.output
    assert "+rms_sig_limit = 1.5  # to be swept" in shown.output
    assert program.read_text() == TEXT
    done = CliRunner().invoke(promote, [str(sweep), str(program)])
    assert "levelmatch deploy" in done.output
    assert Program.load(program).settings["rms_sig_limit"] == 1.5
    assert CliRunner().invoke(promote, [str(sweep), str(program), "--rank", "9"]).exit_code == 2
