"""Runs in a folder full of traps: modules beside the data that bear the names of those that are imported."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.found_here import tell_settings
from levelmatch_core.errors import UsageError
from levelmatch_core.simulate import SimulatedProgram, simulate

REPOSITORY = Path(__file__).resolve().parents[2]

MODULES = (
    *("secrets", "logging", "json", "sitecustomize", "usercustomize", "multiprocessing", "uvicorn", "numpy", "astropy"),
    *("flows", "levelmatch_core", "prefect", "mlflow", "numba", "matplotlib", "asgi_lifespan", "aiosqlite", "yaml"),
)
SPRING = "import pathlib; pathlib.Path({0!r}).open('a').write({1!r} + '\\n')\n"
LOGGING = """
version: 1
handlers:
  evil:
    (): subprocess.getoutput
    cmd: touch {sprung}
root:
  handlers: [evil]
"""


@pytest.fixture
def traps(tmp_path):
    """A folder with data and traps, each of which writes its name into a file when it is sprung."""
    here, sprung = tmp_path / "here", tmp_path / "sprung"
    simulate(here / "in", SimulatedProgram(instrument="miri", tiles=(1, 1), dithers=2, size=64))
    for name in MODULES:
        (here / f"{name}.py").write_text(SPRING.format(str(sprung), name))
    for package in ("flows", "levelmatch_core", "prefect", "mlflow", "multiprocessing"):
        (here / package).mkdir()
        (here / package / "__init__.py").write_text(SPRING.format(str(sprung), f"{package}/"))
    (here / ".env").write_text(f"PREFECT_LOGGING_SETTINGS_PATH={here}/logging.yml\nPREFECT_SERVER_LOGGING_LEVEL=INFO\n")
    (here / "logging.yml").write_text(LOGGING.format(sprung=sprung))
    (here / "matplotlibrc").write_text(
        "text.usetex: True\nfont.size: 40\nsvg.hashsalt: evil\nbackend: module://secrets\n"
    )
    (here / ".numba_config.yaml").write_text(f"cache_dir: {here}/cache\ndisable_jit: 1\n")
    return here, sprung


def environ(tmp_path, **more):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_", "PYTHON"))}
    return kept | {"LEVELMATCH_HOME": str(tmp_path / "home")} | more


WORDS = {
    "run": ("run", "in", "--output", "out", "--set", "runner=processes", "--workers", "2"),
    "sweep": ("sweep", "in", "--output", "out", "--grid", "rms_sig_limit=2,3"),
}


def held(command, tmp_path, traps, words, **more):
    here, sprung = traps
    done = subprocess.run(
        [*command, *words], cwd=here, env=environ(tmp_path, **more), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not sprung.exists(), sprung.read_text()
    assert not (here / "cache").exists()
    assert f"Prefect takes settings from {here}/.env: PREFECT_SERVER_LOGGING_LEVEL; " in done.stderr
    assert done.stderr.count("takes settings from") == 1


@pytest.mark.slow
@pytest.mark.parametrize("what", WORDS)
def test_no_trap_is_sprung(tmp_path, traps, what):
    held([str(Path(sys.executable).parent / "levelmatch")], tmp_path, traps, WORDS[what])


@pytest.mark.slow
def test_nor_by_the_servers(tmp_path, traps):
    here, sprung = traps
    ports = []
    for _ in range(2):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(str(probe.getsockname()[1]))
    words = [
        str(Path(sys.executable).parent / "levelmatch"),
        "ui",
        "--prefect-port",
        ports[0],
        "--mlflow-port",
        ports[1],
    ]
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(words, cwd=here, env=environ(tmp_path), stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 300
        while "Ctrl-C stops both" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.5)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
    assert not sprung.exists(), sprung.read_text()


@pytest.mark.full
def test_an_installed_wheel_springs_none(tmp_path, traps):
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(source)], check=True)
    subprocess.run(
        [*pip, "wheel", str(source), "--no-deps", "--no-build-isolation", "-w", str(tmp_path)], check=True, cwd=tmp_path
    )
    wheel = next(tmp_path.glob("*.whl"))
    subprocess.run([*pip, "install", "--no-deps", "--target", str(tmp_path / "site"), str(wheel)], check=True)
    command = [sys.executable, str(tmp_path / "site" / "bin" / "levelmatch")]
    held(command, tmp_path, traps, WORDS["run"], PYTHONPATH=str(tmp_path / "site"))


def test_a_redirection_is_told_with_its_address_and_without_its_secrets(tmp_path, caplog):

    (tmp_path / ".env").write_text("OTHER=1\nprefect_api_url='http://me:secret@far.example/api'\nPREFECT_HOME=/tmp/x\n")
    (tmp_path / "pyproject.toml").write_text("[tool.prefect.server]\nlogging_level = 'INFO'\n")
    (tmp_path / "prefect.toml").write_text("[api]\nkey = 'hidden'\n")
    (tmp_path / "matplotlibrc").write_text("savefig.dpi: 10\n")
    tell_settings(tmp_path, frozenset({"PREFECT_HOME"}))
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3
    assert f"{tmp_path}/.env: PREFECT_API_URL=http://far.example/api; " in lines[0]
    assert f"{tmp_path}/prefect.toml: api.key; " in lines[1]
    assert f"{tmp_path}/pyproject.toml: server.logging_level; " in lines[2]
    assert "matplotlib" not in caplog.text  # our figures do without it
    assert "secret" not in caplog.text
    assert "hidden" not in caplog.text


@pytest.mark.fast
@pytest.mark.parametrize("name", [".env", "prefect.toml", "pyproject.toml", ".numba_config.yaml"])
def test_a_pipe_among_the_files_that_change_settings_is_refused(tmp_path, name):
    os.mkfifo(tmp_path / name)
    words = [sys.executable, "-c", "from flows.cli import main; main()", "run", str(tmp_path), "--output", "out"]
    done = subprocess.run(
        words, cwd=tmp_path, env=environ(tmp_path), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2, done.stderr
    assert f"{tmp_path / name}: is a pipe (FIFO), expected a regular file" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]  # no home and no output was made


@pytest.mark.fast
@pytest.mark.parametrize("name", [".env", "prefect.toml", "pyproject.toml"])
def test_such_a_file_that_is_not_utf_8_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"#\xff\n")
    with pytest.raises(UsageError, match=r"not UTF-8 \(byte 1\)"):
        tell_settings(tmp_path, frozenset())


@pytest.mark.fast
def test_a_folder_of_such_a_name_is_none_of_them(tmp_path):
    (tmp_path / ".env").mkdir()
    tell_settings(tmp_path, frozenset())
