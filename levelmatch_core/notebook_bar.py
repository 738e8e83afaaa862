"""Progress in a notebook: a bar a step, where Jupyter runs this process."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import import_module
from typing import Any

from levelmatch_core.jobs.job import Job, JobRunner

STEPS = 20
"""Number of times that a bar moves."""


def shown(each: JobRunner) -> JobRunner:
    """Return a runner that shows its progress, in a notebook; elsewhere the runner itself."""
    return _ShownRunner(each) if in_notebook() else each


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    module = sys.modules.get("IPython")  # a kernel has imported it
    shell = module.get_ipython() if module is not None and hasattr(module, "get_ipython") else None
    return shell is not None and hasattr(shell, "kernel")


@dataclass(frozen=True)
class _ShownRunner:
    """Runs jobs in batches, and moves a bar after each."""

    each: JobRunner

    def __call__(self, jobs: Sequence[Job], title: str) -> list[Any]:
        """Run all jobs, and return the results in their order."""
        ipython = import_module("IPython.display")  # which only a kernel has
        results: list[Any] = []
        if not jobs:
            return results
        handle = ipython.display(ipython.HTML(_bar(title, 0, len(jobs))), display_id=True)
        size = -(-len(jobs) // STEPS)
        for start in range(0, len(jobs), size):
            results += self.each(jobs[start : start + size], title)
            handle.update(ipython.HTML(_bar(title, len(results), len(jobs))))
        handle.update(ipython.HTML(""))
        return results


def _bar(title: str, done: int, total: int) -> str:
    return f'<progress value="{done}" max="{total}"></progress> {escape(title)}: {done} of {total}'
