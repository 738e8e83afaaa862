"""What runs levelmatch as a service: image, Compose, systemd, Slurm, Kubernetes, each judged by a tool of its own."""

import importlib
import inspect
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import prefect
import pytest
import yaml
from prefect.utilities.templating import apply_values, find_placeholders

from levelmatch_core.simulate import SimulatedProgram, simulate
from tests.folders import contents
from tests.servers import free_port

DEPLOYMENTS = Path(__file__).resolve().parents[2] / "deployments"
UNITS = sorted((DEPLOYMENTS / "systemd").glob("*.service"))
VARIABLE = re.compile(r"\$\{(\w+)(?::[?-][^}]*)?\}")


def tool(name):
    """Return the path of a command of this environment or this machine, or skip the test."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:/usr/bin:/bin")
    if found is None:
        pytest.skip(f"no {name} here: what it would judge is only read")
    return found


def judged(*words):
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_image_passes_a_linter():
    assert not judged(tool("hadolint"), "--no-color", str(DEPLOYMENTS / "Dockerfile"))


def test_the_image_copies_what_is_there_and_installs_the_tested_versions_and_runs_as_nobody():
    lines = (DEPLOYMENTS / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    ignored = (DEPLOYMENTS / "Dockerfile.dockerignore").read_text().split()
    for line in lines:
        if line.startswith("COPY ") and "--from" not in line:
            for source in shlex.split(line)[1:-1]:
                assert (DEPLOYMENTS.parent / source).exists(), source
                assert [one for one in ignored if one == f"!{source}" or one.startswith(f"!{source}/")], source
    (install,) = [line for line in lines if "pip install" in line]
    assert "--constraint deployments/constraints.txt" in install
    assert [line for line in lines if line.startswith("USER ")] == ["USER 1000"]


def composed():
    return yaml.safe_load((DEPLOYMENTS / "compose.yaml").read_text())


def test_compose_fits_its_schema():
    judged(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(DEPLOYMENTS / "compose.yaml"))


def test_compose_listens_on_the_loopback_and_cannot_write_exposures():
    services = composed()["services"]
    assert set(services) == {"database", "prefect", "mlflow", "worker", "deploy"}
    assert {port for one in services.values() for port in one.get("ports", [])} == {
        "127.0.0.1:4200:4200",
        "127.0.0.1:5000:5000",
    }
    for name in ("worker", "deploy"):
        read_only = {mount["target"] for mount in services[name]["volumes"] if mount.get("read_only")}
        assert {VARIABLE.sub(r"\1", target) for target in read_only} == {"LEVELMATCH_DATA", "/programs"}
        # the same paths as on the machine, whose commands then find what the runs name
        assert all(mount["source"] == mount["target"] for mount in services[name]["volumes"] if "$" in mount["source"])
    for name, service in services.items():
        for other, condition in service.get("depends_on", {}).items():
            assert condition["condition"] == "service_healthy", name
            assert services[other]["healthcheck"]["test"][0] == "CMD"


def test_compose_asks_for_each_variable_that_it_needs():
    text = (DEPLOYMENTS / "compose.yaml").read_text()
    needed = set(re.findall(r"\$\{(\w+)", text))
    told = text.partition("name: levelmatch")[0]
    assert all(name in told for name in needed)
    asked = {found[1] for found in re.finditer(r"\$\{(\w+):\?", text)}
    assert asked == needed - {"LEVELMATCH_USER"}, "the others have a default"


def test_the_units_pass_systemds_own_check(tmp_path):
    command = tool("systemd-analyze")
    (tmp_path / "levelmatch.env").write_text((DEPLOYMENTS / "systemd" / "levelmatch.env").read_text())
    for unit in UNITS:
        text = unit.read_text().replace("/opt/levelmatch/bin", str(Path(sys.executable).parent))
        (tmp_path / unit.name).write_text(text)
    told = judged(command, "verify", "--man=no", *(str(tmp_path / unit.name) for unit in UNITS))
    assert not [line for line in told.splitlines() if "levelmatch" in line]


def test_the_units_listen_on_the_loopback_and_know_their_variables():
    assert {unit.stem for unit in UNITS} == {"levelmatch-prefect", "levelmatch-mlflow", "levelmatch-worker"}
    lines = (DEPLOYMENTS / "systemd" / "levelmatch.env").read_text().splitlines()
    known = {line.partition("=")[0]: line.partition("=")[2] for line in lines if line and not line.startswith("#")}
    for unit in UNITS:
        text = unit.read_text().replace("\\\n", " ")
        (start,) = [shlex.split(line.partition("=")[2]) for line in text.splitlines() if line.startswith("ExecStart=")]
        assert {name for word in start for name in VARIABLE.findall(word)} <= set(known)
        if unit.stem != "levelmatch-worker":
            assert start[start.index("--host") + 1] == "127.0.0.1"
        assert "EnvironmentFile=/etc/levelmatch.env" in text
        assert "ProtectSystem=strict" in text
    assert all("127.0.0.1" in value for name, value in known.items() if "://" in value), "addresses of this machine"
    assert known["LEVELMATCH_HOME"] == "/var/lib/levelmatch"
    writable = [line for unit in UNITS for line in unit.read_text().splitlines() if "ReadWritePaths=" in line]
    assert writable == [f"ReadWritePaths={known['LEVELMATCH_OUTPUT']}"]


def test_every_service_of_prefect_admits_its_own_pages_and_programs_only():
    unit = (DEPLOYMENTS / "systemd" / "levelmatch-prefect.service").read_text().replace("\\\n", " ")
    (start,) = [shlex.split(line) for line in unit.splitlines() if line.startswith("ExecStart=")]
    prefect_service = composed()["services"]["prefect"]
    for words in (start, prefect_service["command"]):
        module, _, name = words[words.index("--factory") + 1].partition(":")
        assert inspect.isfunction(getattr(importlib.import_module(module), name))
        assert [word for word in words if word.startswith("--app-dir")], "else the current folder comes first"
    # how the other services ask for it
    asked = {one["environment"].get("PREFECT_API_URL") for one in composed()["services"].values()} - {None}
    assert asked == {f"http://{prefect_service['environment']['LEVELMATCH_PREFECT_NAMES']}:4200/api"}


def test_every_service_of_mlflow_is_without_its_assistant():
    unit = (DEPLOYMENTS / "systemd" / "levelmatch-mlflow.service").read_text().replace("\\\n", " ")
    (start,) = [shlex.split(line) for line in unit.splitlines() if line.startswith("ExecStart=")]
    assert start[start.index("--app-name") + 1] == "levelmatch"
    assert "--app-name=levelmatch" in composed()["services"]["mlflow"]["command"]
    project = tomllib.loads((DEPLOYMENTS.parent / "pyproject.toml").read_text())["project"]
    module, _, name = project["entry-points"]["mlflow.app"]["levelmatch"].partition(":")
    # MLflow calls what is a function, and serves what is none
    assert inspect.isfunction(getattr(importlib.import_module(module), name))


@pytest.fixture(scope="module")
def slurm():
    pytest.importorskip("dask_jobqueue", reason="no dask-jobqueue: pip install 'levelmatch[dask,services]'")
    return DEPLOYMENTS / "dask_on_slurm.py"


def test_a_slurm_job_asks_for_what_was_asked(slurm, tmp_path):
    asked = {"--jobs": "8", "--cores": "4", "--memory": "16GB", "--walltime": "04:00:00", "--interface": "lo"}
    words = [sys.executable, str(slurm), *(word for pair in asked.items() for word in pair), "--show"]
    environ = {**os.environ, "DASK_CONFIG": str(tmp_path), "DASK_TEMPORARY_DIRECTORY": str(tmp_path)}
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, env=environ, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {"#SBATCH --cpus-per-task=4", "#SBATCH --mem=15G", "#SBATCH -t 04:00:00"} <= set(done.stdout.splitlines())
    assert re.search(r"dask_worker tcp://\S+ .*--nthreads 1 .*--nworkers 4 ", done.stdout)


@pytest.mark.full
def test_the_workers_of_such_a_cluster_match_to_the_same_bytes(slurm, tmp_path):
    """With jobs that run here: dask-jobqueue's own stand-in for Slurm."""
    simulate(tmp_path / "in", SimulatedProgram.of(instrument="generic", tiles=(2, 2), size=96))
    environ = {**os.environ, "DASK_TEMPORARY_DIRECTORY": str(tmp_path), "LEVELMATCH_HOME": str(tmp_path / "home")}
    words = [sys.executable, "-u", str(slurm), "--here", "--jobs", "2", "--port", str(free_port())]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environ, cwd=tmp_path) as cluster:
        try:
            settings = shlex.split(cluster.stdout.readline())
            assert settings[0] == "--set"
            matched(tmp_path, environ, "by_dask", *settings)
        finally:
            cluster.send_signal(signal.SIGINT)
            assert cluster.wait(60) == 0
    matched(tmp_path, {**environ, "LEVELMATCH_HOME": str(tmp_path / "other")}, "here")
    assert contents(tmp_path / "by_dask" / "tiles") == contents(tmp_path / "here" / "tiles")


def matched(folder, environ, output, *settings):
    command = [str(Path(sys.executable).parent / "levelmatch"), "run", str(folder / "in"), "-o", str(folder / output)]
    words = [*command, "--set", "figures=none", *settings]
    done = subprocess.run(words, capture_output=True, text=True, timeout=400, check=False, env=environ, cwd=folder)
    assert done.returncode == 0, done.stderr


def job_template():
    return json.loads((DEPLOYMENTS / "kubernetes" / "job-template.json").read_text())


def test_the_job_template_is_prefects_own_with_volumes():
    metadata = Path(prefect.__file__).parent / "server/api/collections_data/views/aggregate-worker-metadata.json"
    theirs = json.loads(metadata.read_text())["prefect-kubernetes"]["kubernetes"]["default_base_job_configuration"]
    ours = job_template()
    variables = ours["variables"]["properties"]
    assert set(variables) - set(theirs["variables"]["properties"]) == {
        f"{name}_{what}" for name in ("data", "output", "home") for what in ("claim", "path")
    }
    assert set(theirs["variables"]["properties"]) <= set(variables)
    assert set(ours["job_configuration"]) == set(theirs["job_configuration"])
    used = {each.name for each in find_placeholders(ours["job_configuration"])}
    assert used <= set(variables)


def test_a_job_of_the_template_is_one_of_kubernetes():
    schemas = pytest.importorskip("kubernetes_validate", reason="no kubernetes-validate: the manifest is only read")
    template = job_template()
    defaults = {
        name: each["default"] for name, each in template["variables"]["properties"].items() if "default" in each
    }
    manifest = apply_values(template["job_configuration"]["job_manifest"], defaults, remove_notset=True)
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    container["env"] = [{"name": "LEVELMATCH_HOME", "value": "/levelmatch"}]  # as the worker turns it into a list
    schemas.validate(manifest, "1.31", strict=True)
    mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}
    assert mounts == {"/data": True, "/products": False, "/levelmatch": False}


def test_no_image_is_asked_of_a_named_host():
    """Images are named without the registry that has them."""
    images = re.findall(r"^FROM (\S+)", (DEPLOYMENTS / "Dockerfile").read_text(), re.MULTILINE)
    images += [service["image"] for service in composed()["services"].values() if "image" in service]
    assert images
    for image in images:
        first, _, rest = image.partition("/")
        assert not rest or "." not in first, image
