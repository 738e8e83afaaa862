"""Alerts that programs ask for, sent by Prefect's automations to a webhook on the loopback."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from tests.folders import age

ALERT = '[[alert]]\non = ["quarantined", "doubtful"]\nto = "webhook/{name}"\n'


def automations(server):
    return {each["name"]: each for each in server.ask("POST", "/automations/filter", {})}


@pytest.mark.slow
def test_an_alert_to_a_block_that_does_not_exist_is_refused_before_anything_is_deployed(
    prefect_server, programs, tmp_path
):
    (programs / "mute.toml").write_text((programs / "small.toml").read_text() + ALERT.format(name="nobody"))
    (programs / "small.toml").unlink()
    done = prefect_server.cli("deploy", "--programs", str(programs), DATA=str(tmp_path / "data"))
    assert done.returncode == 2
    assert "mute: no block webhook/nobody on Prefect's server" in done.stderr
    assert prefect_server.ask("POST", "/deployments/filter", {"deployments": {"name": {"any_": ["mute"]}}}) == []


@pytest.fixture
def told(programs, tmp_path):
    """The program `told`, with an alert."""
    file = (programs / "small.toml").rename(programs / "told.toml")
    file.write_text(file.read_text() + "sigma = 3.125\n" + ALERT.format(name="loopback"))
    return {"programs": str(programs), "data": str(tmp_path / "data")}


def deploy(server, told):
    done = server.cli("deploy", "--programs", told["programs"], DATA=told["data"])
    assert done.returncode == 0, done.stderr
    assert "level_match/told: by hand; quarantined, doubtful: webhook/loopback" in done.stdout
    return done.stdout


@pytest.mark.slow
def test_ends_that_a_program_names_are_told(prefect_server, told, worker, listener, tmp_path):
    assert worker.poll() is None
    deploy(prefect_server, told)
    assert {"told: alert 1", "levelmatch: a silent flow run has crashed"} <= set(automations(prefect_server))
    doubtful = prefect_server.ended(prefect_server.start("level_match/told"))
    assert doubtful["state"]["name"] == "Doubtful"  # single pairs, which nothing tests
    heard = listener.waits_for("Doubtful")
    assert heard["program"] == "told"
    assert heard["flow_run"] == doubtful["id"]
    assert heard["message"] == doubtful["state"]["message"]
    broken = max((tmp_path / "data" / "in").glob("*.fits"))
    broken.write_bytes(broken.read_bytes()[:5000])
    quarantined = prefect_server.ended(prefect_server.start("level_match/told"))
    assert listener.waits_for("Quarantined")["flow_run"] == quarantined["id"]
    assert f"{broken.name}: truncated" in listener.waits_for("Quarantined")["text"]
    # a server whose SQLite database is busy may repeat one, under the same event
    told = {each["event"]: each["state"] for each in listener.heard}
    assert list(told.values()) == ["Doubtful", "Quarantined"]


@pytest.mark.full
def test_late_failed_and_incomplete_are_told_too_and_a_command_hears_each_once(
    prefect_server, programs, alongside, listener, tmp_path
):
    """The command is that of `levelmatch alerts`, in a process of its own."""
    log, script = tmp_path / "told", tmp_path / "tell.sh"
    script.write_text(f"#!/bin/sh\ncat >> {log}\necho >> {log}\n")
    script.chmod(0o755)
    words = [str(Path(sys.executable).parent / "levelmatch"), "alerts", "--name", "tell", "--port", "0", str(script)]
    data, states = tmp_path / "data", ["late", "failed", "incomplete"]
    text = 'work_pool = "alerts"\n' + (programs / "small.toml").read_text()
    (programs / "small.toml").unlink()
    more = "".join(f'[[alert]]\non = {json.dumps(states)}\nto = "webhook/{name}"\n' for name in ("loopback", "tell"))
    gone = tmp_path / "data" / "gone"
    shutil.copytree(data / "in", gone)
    (programs / "waits.toml").write_text(text + "sigma = 3.0625\nsettle_seconds = 1e6\n" + more)
    (programs / "gone.toml").write_text(text.replace("$DATA/in", "$DATA/gone").replace("/out", "/gone-out") + more)
    for path in sorted((data / "in").glob("*.fits"))[:-1]:
        age(path, 2e6)  # the last one is still being written
    with alongside(words, prefect_server.environ, tmp_path / "alerts.log"):
        ready = (tmp_path / "alerts.log").read_text
        prefect_server.wait_for(lambda: 'alerts to = "webhook/tell"' in ready(), "levelmatch alerts")
        done = prefect_server.cli("deploy", "--programs", str(programs), DATA=str(data))
        assert done.returncode == 0, done.stderr
        shutil.rmtree(gone)
        waits, fails = (prefect_server.start(f"level_match/{name}") for name in ("waits", "gone"))
        # no worker yet: both
        prefect_server.wait_for(lambda: listener.runs_told("Late") == {waits, fails}, "an alert on each late run")
        worker = ["prefect", "worker", "start", "--pool", "alerts", "--type", "process"]
        with alongside([sys.executable, "-m", *worker], prefect_server.environ, tmp_path / "worker.log"):
            ends = {prefect_server.ended(run)["state"]["name"] for run in (waits, fails)}
        assert ends == {"Incomplete", "Failed"}
        assert listener.waits_for("Incomplete")["flow_run"] == waits
        assert listener.waits_for("Failed")["flow_run"] == fails
        events = {each["event"] for each in listener.heard}

        def told():
            found = [json.loads(line) for line in log.read_text().splitlines() if line] if log.exists() else []
            return found if {each["event"] for each in found} >= events else None

        found = prefect_server.wait_for(told, "what the command was told")
    assert len(found) == len({each["event"] for each in found}) == 4
    assert {each["state"] for each in found} == {"Late", "Failed", "Incomplete"}
    assert all(each["url"].endswith(each["flow_run"]) for each in found)


@pytest.mark.full
@pytest.mark.usefixtures("listener")
def test_a_second_deploy_makes_no_second_alert_and_leaves_off_what_is_switched_off(prefect_server, told):
    deploy(prefect_server, told)
    number = automations(prefect_server)["told: alert 1"]["id"]
    prefect_server.ask("PATCH", f"/automations/{number}", {"enabled": False})
    assert "told: nothing changes on the server" in deploy(prefect_server, told)
    block = prefect_server.ask("GET", "/block_types/slug/webhook/block_documents/name/loopback")["id"]
    prefect_server.ask("DELETE", f"/block_documents/{block}")
    done = prefect_server.cli("deploy", "--programs", told["programs"], "--dry-run", DATA=told["data"])
    assert done.returncode == 2
    assert "told: no block webhook/loopback" in done.stderr
    found = prefect_server.ask("POST", "/automations/filter", {})
    assert [each["enabled"] for each in found if each["name"] == "told: alert 1"] == [False]
    assert len({each["name"] for each in found}) == len(found)
