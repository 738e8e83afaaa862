"""What the notebooks' kernels start with: `%%sh` shows what a command prints as one piece, and why it failed."""

import subprocess

from IPython.core.getipython import get_ipython


def sh(line: str, cell: str) -> None:
    """Run the cell in a shell. Jupyter's own passes output on in pieces of 100 characters, and progress with it.

    Raises
    ------
    RuntimeError
        If a command fails, with what it said.
    """
    del line
    done = subprocess.run(["sh", "-e", "-c", cell], capture_output=True, text=True, check=False)  # noqa: S603, S607
    print(done.stdout, end="")
    if done.returncode:
        message = f"exit code {done.returncode}\n{done.stderr}"
        raise RuntimeError(message)


get_ipython().register_magic_function(sh, "cell")
