"""Alerts that programs ask for, sent by Prefect's automations to a webhook on the loopback."""

import pytest

pytestmark = pytest.mark.slow

ALERT = '[[alert]]\non = ["quarantined", "doubtful"]\nto = "webhook/{name}"\n'


def automations(server):
    return {each["name"]: each for each in server.ask("POST", "/automations/filter", {})}


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
    # a server whose SQLite database is busy may repeat one
    assert list(dict.fromkeys(each["state"] for each in listener.heard)) == ["Doubtful", "Quarantined"]


@pytest.mark.full
@pytest.mark.usefixtures("listener")
def test_a_second_deploy_makes_no_second_alert_and_leaves_off_what_is_switched_off(prefect_server, told):
    deploy(prefect_server, told)
    number = automations(prefect_server)["told: alert 1"]["id"]
    prefect_server.ask("PATCH", f"/automations/{number}", {"enabled": False})
    deploy(prefect_server, told)
    found = prefect_server.ask("POST", "/automations/filter", {})
    assert [each["enabled"] for each in found if each["name"] == "told: alert 1"] == [False]
    assert len({each["name"] for each in found}) == len(found)
