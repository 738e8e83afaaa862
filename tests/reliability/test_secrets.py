"""Passwords of addresses and keys of the environment: in no log, parameter, artifact, record or output."""

import subprocess
import sys
from pathlib import Path

import pytest

from flows.home import prepare_environment

REPOSITORY = Path(__file__).resolve().parents[2]
SECRETS = {"hunter2": "MLflow's password", "hunter3": "Prefect's password", "hunter4": "Prefect's auth string"}
TOLD = """
import flows.orchestration.environment, mlflow.telemetry.utils, prefect.settings
from prefect._internal.analytics.enabled import is_telemetry_enabled
print(prefect.settings.PREFECT_SERVER_ANALYTICS_ENABLED.value(), is_telemetry_enabled())
print(mlflow.telemetry.utils.is_telemetry_disabled())
"""


def holding(folder, secrets):
    """Return which files below a folder hold a secret, and which."""
    return {
        (str(path.relative_to(folder)), secret)
        for path in folder.rglob("*")
        if path.is_file()
        for secret in secrets
        if secret.encode() in path.read_bytes()
    }


@pytest.mark.slow
@pytest.mark.parametrize("mlflow_is", ["there", "out of reach"])
def test_secrets_reach_nothing_that_is_written(reliability, undisturbed, world, tmp_path, mlflow_is):
    """With MLflow there, and with its errors, which name its address."""
    url = world.environment["PREFECT_API_URL"]
    world.environment["PREFECT_API_URL"] = url.replace("http://", "http://me:hunter3@")
    world.environment["PREFECT_API_AUTH_STRING"] = "admin:hunter4"
    if mlflow_is == "there":
        server = reliability.mlflow(tmp_path)
        world.environment["MLFLOW_TRACKING_URI"] = server.url.replace("http://", "http://me:hunter2@")
    else:
        world.environment["MLFLOW_TRACKING_URI"] = "http://me:hunter2@127.0.0.1:9"
    try:
        assert world.run() == 0, world.said
    finally:
        if mlflow_is == "there":
            reliability.kill_tree(server.process)
    assert reliability.digests(world.out) == undisturbed.files
    assert ("is lost" in world.said) is (mlflow_is == "out of reach")
    assert "Prefect cannot be used" not in world.said
    assert holding(tmp_path, SECRETS) == set()  # home, output, what was said, MLflow's store and its server's log
    (tmp_path / "probe").write_text("it would be found: hunter2")
    assert holding(tmp_path, SECRETS) == {("probe", "hunter2")}


def test_dependencies_send_no_telemetry_by_default(reliability, tmp_path):
    quiet = {"LEVELMATCH_HOME": str(tmp_path / "home")}
    bare = {name: value for name, value in reliability.bare().items() if name not in {"DO_NOT_TRACK", "CI"}}
    done = subprocess.run(
        [sys.executable, "-c", TOLD], env=bare | quiet, cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False", "True"]


def test_what_the_user_set_stays(tmp_path):
    mine = {"LEVELMATCH_HOME": str(tmp_path / "home"), "PREFECT_SERVER_ANALYTICS_ENABLED": "true"}
    prepare_environment(mine)
    assert mine["PREFECT_SERVER_ANALYTICS_ENABLED"] == "true"
    assert mine["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert mine["DO_NOT_TRACK"] == "true"
    assert int(mine["MLFLOW_HTTP_REQUEST_TIMEOUT"]) <= 10
