"""How often Python looks for rubbish: Prefect, MLflow and the rest make a million lasting objects when imported."""

import atexit
import gc

YOUNG = 50_000
"""New objects before a look at the young ones; Python's own 700 costs a tenth of the CPU time of the imports."""


def collect_rarely() -> None:
    """Look for rubbish less often from now on: before the imports, which leave none."""
    gc.set_threshold(YOUNG, 20, 20)


def pass_over_imports() -> None:
    """Take what is there by now for lasting: no later look goes through it again."""
    gc.freeze()


def end_at_once() -> None:
    """Look for no rubbish when the process ends, which gives all its memory back: half a second, after a large run."""
    atexit.register(gc.freeze)
