"""A server that Prefect starts by itself is gone after a script that called a flow was killed."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest

SCRIPT = """
import os, sys
from levelmatch_core.jobs.products import WriteJob
def wait(*_):
    print("writing", flush=True)
    import time; time.sleep(600)
WriteJob.run = wait
if __name__ == "__main__":
    from flows.level_match import level_match
    level_match(inputs=[sys.argv[1]], output=sys.argv[2])
"""


def alive(process):
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_prefects_own_server_ends_with_a_script(tmp_path, small_program, how):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, str(script), str(small_program), str(tmp_path / "out")],
            env={**kept, "LEVELMATCH_HOME": str(tmp_path / "home")},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    for line in process.stdout:
        if "writing" in line:
            break
    family = psutil.Process(process.pid).children(recursive=True)
    assert [each for each in family if "uvicorn" in " ".join(each.cmdline())], (tmp_path / "log").read_text()
    process.send_signal(how)
    if how == signal.SIGTERM:  # Prefect ends the flow, whose thread still works
        time.sleep(2)
        process.kill()
    process.wait(60)
    process.stdout.close()
    deadline = time.monotonic() + 20
    while any(alive(each) for each in family):
        assert time.monotonic() < deadline, [each.cmdline() for each in family if alive(each)]
        time.sleep(0.2)
