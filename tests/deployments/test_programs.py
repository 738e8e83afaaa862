"""Program files: what they say, what is refused, and that prefect.yaml holds what they say."""

import asyncio
import json
import shlex
import subprocess
from datetime import UTC, datetime, timedelta
from itertools import pairwise, takewhile
from pathlib import Path
from uuid import uuid4

import pytest
import yaml
from prefect.client.schemas.objects import BlockDocument
from prefect.server.schemas.schedules import CronSchedule
from prefect.settings import Settings

from flows.commands.deploy import prefect_yaml
from flows.orchestration.automations import alert_automation, silence_automation
from flows.orchestration.programs import Program, load_programs, refuse_trouble
from levelmatch_core.errors import SettingsError, UsageError
from levelmatch_core.process.versions import levelmatch_version

DEPLOYMENTS = Path(__file__).resolve().parents[2] / "deployments"


def program(folder, text):
    file = folder / "trial.toml"
    file.write_text(text)
    return Program.load(file)


def test_prefect_yaml_is_what_the_program_files_say():
    assert (DEPLOYMENTS / "prefect.yaml").read_text() == prefect_yaml(load_programs([DEPLOYMENTS / "examples"]))


def test_the_examples_that_come_with_levelmatch():
    found = {each.name: each for each in load_programs([DEPLOYMENTS / "examples"])}
    assert set(found) == {"jwst-miri", "jwst-miri-sweep", "jwst-nircam-short", "twomass"}
    assert found["jwst-miri"].settings["recombine_lyot"]
    assert found["jwst-nircam-short"].settings["combine_nircam_short"]
    assert found["twomass"].schedule[0].interval == 21600
    assert found["jwst-miri-sweep"].entrypoint == "flows/sweep.py:sweep"
    assert {each.concurrency for each in found.values()} == {1}
    assert all(each.schedule or each.grid for each in found.values())


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('inputs = []\noutput = "/o"', "inputs"),
        ('inputs = ["/i"]', "output"),
        ('inputs = ["/i"]\noutput = "/o"\n[settings]\nsigmaa = 3', "did you mean sigma"),
        ('inputs = ["/i"]\noutput = "/o"\n[settings]\nsigma = -1', "sigma"),
        ('inputs = ["/i"]\noutput = "/o"\n[grid]\nsigma = [3, "x"]', "sigma"),
        ('inputs = ["/i"]\noutput = "/o"\n[[schedule]]\ncron = "61 * * * *"', "cron"),
        ('inputs = ["/i"]\noutput = "/o"\n[[schedule]]\ntimezone = "UTC"', "either cron or interval"),
        ('inputs = ["/i"]\noutput = "/o"\n[[schedule]]\ncron = "0 1 * * *"\ntimezone = "Mars/Base"', "time zone"),
        ('inputs = ["/i"]\noutput = "/o"\nwhen_busy = "never"', "when_busy"),
        ('inputs = ["/i"]\noutput = "/o"\n[[alert]]\non = ["sad"]\nto = "slack-webhook/ops"', "alert.0.on"),
        ('inputs = ["/i"]\noutput = "/o"\n[[alert]]\non = []\nto = "slack-webhook/ops"', "alert.0.on"),
        ('inputs = ["/i"]\noutput = "/o"\n[[alert]]\non = ["late"]\nto = "https://x.example"', "alert.0.to"),
        ('inputs = ["/i"]\noutput = "/cost$"', r"trial.toml: /cost\$: a \$ that begins no variable is written \$\$"),
        ("inputs = [", "trial.toml"),
    ],
)
def test_what_is_wrong_in_a_program_file_is_named(tmp_path, text, named):
    with pytest.raises(SettingsError, match=named) as caught:
        program(tmp_path, text)
    assert "trial.toml" in str(caught.value)


def test_missing_variables_and_folders_are_named(tmp_path):
    found = program(tmp_path, 'inputs = ["$DATA/in", "${OTHER}/in"]\noutput = "$DATA/sub/out"')
    with pytest.raises(UsageError, match=r"DATA is not set.*OTHER is not set"):
        refuse_trouble([found], {})
    environ = {"DATA": str(tmp_path), "OTHER": str(tmp_path)}
    trouble = found.check(environ)
    assert len(trouble) == 3
    assert f"there is no input {tmp_path}/in" in trouble[0]
    assert f"there is no folder {tmp_path}/sub" in trouble[2]
    (tmp_path / "in").mkdir()
    (tmp_path / "sub").mkdir()
    refuse_trouble([found], environ)


def test_a_relative_folder_or_an_output_that_is_an_input_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    found = program(tmp_path, f'inputs = ["in", "{tmp_path}/in"]\noutput = "{tmp_path}/in"')
    assert any("relative" in line for line in found.check({}))
    assert any("is an input" in line for line in found.check({}))


def test_a_pattern_is_no_input_and_a_mark_of_an_editor_no_error(tmp_path):
    file = tmp_path / "trial.toml"
    file.write_bytes(b"\xef\xbb\xbf" + f'inputs = ["{tmp_path}/*.fits"]\r\noutput = "{tmp_path}/o$$"\r\n'.encode())
    found = Program.load(file)
    (trouble,) = found.check({})
    assert trouble.endswith("*.fits; inputs are folders and files, and no patterns")
    assert found.deployment()["parameters"]["output"] == f"{tmp_path}/o$"


def test_inputs_may_lie_elsewhere(tmp_path):
    found = program(tmp_path, f'inputs = ["s3://$BUCKET/stage2", "https://example.org/a/"]\noutput = "{tmp_path}/out"')
    assert found.check({}) == ["trial: the variable BUCKET is not set"]
    assert found.check({"BUCKET": "stpubdata"}) == []
    assert found.deployment()["parameters"]["inputs"] == ["s3://{{ $BUCKET }}/stage2", "https://example.org/a/"]


def test_a_deployment_pins_its_reference_and_runs_one_at_a_time(tmp_path):
    found = program(tmp_path, 'inputs = ["$A/i"]\noutput = "${A}/o"\n[settings]\nreference = "tile 3"').deployment()
    assert found["parameters"]["settings"] == {"preset": "best", "reference": "tile 3"}
    assert found["parameters"]["inputs"] == ["{{ $A }}/i"]
    assert found["parameters"]["output"] == "{{ $A }}/o"
    assert found["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}


def test_a_folder_without_programs_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no program file.*deployments/examples"):
        load_programs([tmp_path])


def test_files_and_folders_are_read_together_and_a_name_stands_for_one_program(tmp_path):
    text, folder = 'inputs = ["/i"]\noutput = "/o"', tmp_path / "more"
    folder.mkdir()
    for file in (tmp_path / "m33.toml", tmp_path / "left.toml", folder / "m31.toml"):
        file.write_text(text)
    found = load_programs([tmp_path / "m33.toml", folder])
    assert [(each.name, each.file) for each in found] == [("m31", folder / "m31.toml"), ("m33", tmp_path / "m33.toml")]
    (folder / "m33.toml").write_text(text)
    with pytest.raises(UsageError, match="one name for two programs"):
        load_programs([tmp_path / "m33.toml", folder])


def test_each_deployment_checks_its_own_file_first(tmp_path):
    place = tmp_path / "my programs"
    place.mkdir()
    file = place / "trial.toml"
    program(place, 'inputs = ["/i"]\noutput = "/o"')
    (deployment,) = yaml.safe_load(prefect_yaml(load_programs([file])))["deployments"]
    ((step,),) = [each.values() for each in deployment["build"]]
    assert shlex.split(step["script"]) == ["levelmatch", "deploy", "--check", str(file)]


def test_alerts_hear_the_events_of_their_states_in_their_program_only(tmp_path):
    text = '[[alert]]\non = ["quarantined", "late"]\nto = "{}"\n'
    found = program(tmp_path, 'inputs = ["/i"]\noutput = "/o"\n' + text.format("slack-webhook/ops"))
    (alert,), deployment = found.alert, uuid4()
    block = BlockDocument(id=uuid4(), block_schema_id=uuid4(), block_type_id=uuid4(), name="ops")
    made = alert_automation(found, 1, alert, deployment, block).model_dump(mode="json")
    assert set(made["trigger"]["expect"]) == {"prefect.flow-run.Quarantined", "prefect.flow-run.Late"}
    assert made["trigger"]["match_related"]["prefect.resource.id"] == f"prefect.deployment.{deployment}"
    assert made["owner_resource"] == f"prefect.deployment.{deployment}"
    assert [each["type"] for each in made["actions"]] == ["send-notification"]
    hook = alert.model_copy(update={"to": "webhook/ops"})
    made = alert_automation(found, 1, hook, deployment, block).model_dump(mode="json")
    assert [each["type"] for each in made["actions"]] == ["call-webhook"]


def test_a_silent_run_crashes_after_two_of_the_heartbeats_that_deployments_send(tmp_path):
    found = program(tmp_path, 'inputs = ["/i"]\noutput = "/o"').deployment()
    beat = int(found["work_pool"]["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
    made = silence_automation()
    assert made.trigger.within.total_seconds() == 2 * beat
    assert made.trigger.match_related.root["prefect.resource.id"] == f"prefect.tag.{found['tags'][0]}"


@pytest.mark.parametrize("zone", ["America/New_York", "Europe/Madrid"])
@pytest.mark.parametrize("month", [(2027, 3), (2026, 10)])
@pytest.mark.parametrize("cron", ["30 2 * * *", "30 1 * * *", "0 2 * * *"])
def test_a_night_has_one_run_also_when_clocks_change(tmp_path, zone, month, cron):
    """By Prefect's own scheduler, which asks again and again what comes next."""
    text = f'inputs = ["/in"]\noutput = "/out"\n[[schedule]]\ncron = "{cron}"\ntimezone = "{zone}"\n'
    (told,) = program(tmp_path, text).deployment()["schedules"]
    schedule = CronSchedule(cron=told["cron"], timezone=told["timezone"])
    start = datetime(*month, 10 if month[1] == 3 else 22, tzinfo=UTC)

    async def runs():
        asked = (start + timedelta(hours=hour) for hour in range(20 * 24))
        return {date.astimezone(UTC) for now in asked for date in await schedule.get_dates(n=1, start=now)}

    gaps = [(later - sooner).total_seconds() / 3600 for sooner, later in pairwise(sorted(asyncio.run(runs())))]
    assert len(gaps) >= 18
    assert all(23 <= gap <= 25 for gap in gaps), gaps


def test_a_deployment_tells_its_runs_where_all_is(tmp_path):
    found = program(tmp_path, 'inputs = ["/i"]\noutput = "/o"').deployment()["work_pool"]["job_variables"]["env"]
    assert found["LEVELMATCH_HOME"] == "{{ $LEVELMATCH_HOME }}"
    assert found["PREFECT_RESULTS_LOCAL_STORAGE_PATH"] == "{{ $LEVELMATCH_HOME }}/results"
    assert found["LEVELMATCH_DEPLOYED_BY"] == levelmatch_version()
    assert found["PREFECT_LOGGING_EXTRA_LOGGERS"] == "levelmatch_core,flows"
    assert found["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"


@pytest.mark.parametrize("theirs", ["PREFECT_LOCAL_STORAGE_PATH", "PREFECT_RESULTS_LOCAL_STORAGE_PATH"])
def test_a_worker_of_another_home_runs_a_program_in_the_programs(tmp_path, monkeypatch, theirs):
    """Prefect's worker hands its own settings on, each under its first name."""
    found = program(tmp_path, 'inputs = ["/i"]\noutput = "/o"').deployment()["work_pool"]["job_variables"]["env"]
    monkeypatch.setenv(theirs, "/other/results")
    of_worker = Settings().to_environment_variables(exclude_unset=True)
    for name, value in {**of_worker, **found}.items():
        monkeypatch.setenv(name, value.replace("{{ $LEVELMATCH_HOME }}", "/ours"))
    assert Settings().results.local_storage_path == Path("/ours/results")


STUB = """#!/bin/sh
for word in "$@"; do printf '%s\\037' "$word"; done >> "$CALLS"
echo >> "$CALLS"
"""


@pytest.mark.parametrize("dropped", ["", "program", "when_busy"])
def test_the_backfill_of_the_guide_starts_a_run_a_night(tmp_path, dropped):
    """As it stands there, with commands that only note how they were called; a program need not have all keys."""
    guide = (DEPLOYMENTS / "README.md").read_text().partition("### Backfill")[2]
    lines = takewhile(lambda line: not line.startswith("###"), guide.splitlines())
    script = "\n".join(line for line in lines if line.startswith("    "))
    for name in ("levelmatch", "prefect"):
        (tmp_path / name).write_text(STUB)
        (tmp_path / name).chmod(0o755)
    lines = (DEPLOYMENTS / "examples" / "jwst-miri.toml").read_text().splitlines()
    kept = [line for line in lines if not dropped or not line.startswith(dropped)]
    (tmp_path / "m33.toml").write_text("\n".join(kept))
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin", "CALLS": str(tmp_path / "calls")}
    subprocess.run(["sh", "-euc", script], cwd=tmp_path, env=environ, check=True, timeout=30)
    found = Program.load(tmp_path / "m33-backfill.toml")
    assert (found.when_busy, found.schedule) == ("wait", ())
    assert found.settings == Program.load(tmp_path / "m33.toml").settings
    deploy, *runs = [line.split("\x1f")[:-1] for line in (tmp_path / "calls").read_text().splitlines()]
    assert deploy == ["deploy", "m33-backfill.toml"]
    assert len(runs) == 7
    assert runs[0][:3] == ["deployment", "run", "level_match/m33-backfill"]
    parameters = [dict(word.split("=", 1) for word in run if "=" in word) for run in runs]
    assert json.loads(parameters[1]["inputs"]) == ["/data/m33/2026-11-02"]
    assert parameters[6]["output"] == "/products/m33-2026-11-07"
