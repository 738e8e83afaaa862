"""What `levelmatch deploy` tells before it deploys: all that will be different, and programs that share an output."""

from uuid import uuid4

import pytest
from prefect.client.schemas.responses import DeploymentResponse

from flows.orchestration.program_changes import changes_on_server, shared_outputs
from flows.orchestration.programs import ROOT, Program
from levelmatch_core.errors import UsageError

ENVIRON = {"DATA": "/data", "LEVELMATCH_HOME": "/state"}
SCHEDULE = '[[schedule]]\ncron = "30 6 * * *"\n'


def program(folder, text="", name="m33", output="/products/m33"):
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}.toml"
    file.write_text(f'inputs = ["$DATA/m33"]\noutput = "{output}"\n{text}')
    return Program.load(file)


def on_server(found, environ=ENVIRON):
    """Return a program as Prefect's server gives it."""
    entry = found.deployment()
    text = str(environ["DATA"]), str(environ["LEVELMATCH_HOME"])
    env = {name: value.replace("{{ $LEVELMATCH_HOME }}", text[1]) for name, value in _env(entry).items()}
    inputs = [path.replace("{{ $DATA }}", text[0]) for path in entry["parameters"]["inputs"]]
    return DeploymentResponse.model_validate(
        {
            "id": uuid4(),
            "flow_id": uuid4(),
            "name": found.name,
            "tags": entry["tags"],
            "parameters": {**entry["parameters"], "inputs": inputs},
            "schedules": [
                {"schedule": {"cron": each.cron, "timezone": each.timezone}, "active": True} for each in found.schedule
            ],
            "global_concurrency_limit": {
                "id": uuid4(),
                "name": found.name,
                "limit": found.concurrency,
                "active_slots": 0,
            },
            "concurrency_options": {"collision_strategy": "CANCEL_NEW"},
            "work_pool_name": found.work_pool,
            "job_variables": {"env": env},
            "pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}],
        }
    )


def _env(entry):
    return entry["work_pool"]["job_variables"]["env"]


def changes(found, known, environ=ENVIRON, alerts=()):
    return "; ".join(changes_on_server(found, known, environ, alerts))


def test_what_is_the_same_is_no_change(tmp_path):
    found = program(tmp_path, SCHEDULE)
    assert not changes(found, on_server(found))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[settings]\nrms_sig_limit = 3.0\n", "rms_sig_limit was 2.0, now 3.0"),
        # these change no result, but what is drawn, when a file is taken and how a run ends
        ('[settings]\nfigures = "none"\n', "figures was 'all', now 'none'"),
        ("[settings]\nsettle_seconds = 120\n", "settle_seconds was 0.0, now 120.0"),
        ("[settings]\nstrict = true\n", "strict was False, now True"),
        ('[settings]\npreset = "pjpipe"\n', "weight_method was"),
        ('[[alert]]\non = ["failed"]\nto = "webhook/x"\n', "alerts was none, now failed: to webhook/x"),
        (SCHEDULE, "schedule was none, now 30 6 * * * UTC"),
    ],
)
def test_every_change_of_a_program_is_told(tmp_path, text, told):
    known = on_server(program(tmp_path))
    assert told in changes(program(tmp_path, text), known)


def test_another_home_or_place_of_the_code_is_told(tmp_path):
    found = program(tmp_path)
    known = on_server(found)
    told = changes(found, known, {**ENVIRON, "LEVELMATCH_HOME": "/elsewhere"})
    assert "LEVELMATCH_HOME was '/state', now '/elsewhere'" in told
    known.pull_steps[0]["prefect.deployments.steps.set_working_directory"]["directory"] = "/opt/old"
    assert f"code was '/opt/old', now '{ROOT}'" in changes(found, known)


def test_an_alert_that_was_removed_is_told(tmp_path):
    found = program(tmp_path)
    assert changes(found, on_server(found), alerts=["failed: to webhook/x"]) == (
        "alerts was failed: to webhook/x, now none"
    )


def test_two_scheduled_programs_that_would_undo_each_other_are_refused(tmp_path):
    one = program(tmp_path / "one", SCHEDULE)
    two = program(
        tmp_path / "two", f"[settings]\nsigma = 4\n{SCHEDULE}", name="ngc598", output="/products/../products/m33"
    )
    with pytest.raises(UsageError, match=r"ngc598: level_match/m33 writes to .* \(sigma was 3.0, now 4.0\)"):
        shared_outputs([one, two], {}, ENVIRON)
    # a program file that was renamed and edited, while its deployment is still on the server
    with pytest.raises(UsageError, match=r"remove that one: prefect deployment delete level_match/m33$"):
        shared_outputs([two], {"level_match/m33": on_server(one)}, ENVIRON)


def test_a_program_that_is_started_by_hand_may_share_an_output_and_that_is_told(tmp_path):
    one, two = program(tmp_path / "one", SCHEDULE), program(tmp_path / "two", "recursive = true\n", name="by hand")
    (told,) = shared_outputs([one, two], {}, ENVIRON)
    assert "recursive was None, now True" in told
    same = program(tmp_path / "three", "", name="m33-backfill")
    assert shared_outputs([same], {"level_match/m33": on_server(one)}, ENVIRON) == []
    apart = program(tmp_path / "four", SCHEDULE, name="m31", output="/products/m31")
    assert shared_outputs([apart], {"level_match/m33": on_server(one)}, ENVIRON) == []
