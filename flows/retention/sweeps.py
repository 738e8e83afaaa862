"""Records of sweeps in MLflow that ended long ago; the last one of each program that has a result stays."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run

from flows.secrets import without_secrets
from levelmatch_core.errors import LevelMatchError

_PAGE = 500
_AT_ONCE = 100
"""Number of runs that MLflow's own command is given at once."""


class RetentionError(LevelMatchError):
    """Records could not be removed."""


@dataclass(frozen=True)
class OldSweeps:
    """What was found: the runs of sweeps that may go, and the ids of sweeps that are as old and stay."""

    runs: tuple[Run, ...]
    sweeps: int
    kept: tuple[str, ...]


def old_sweeps(uri: str, before: float) -> OldSweeps:
    """Return the records of sweeps whose runs all ended before a Unix time."""
    client = MlflowClient(uri)
    sweeps: dict[tuple[str, str], list[Run]] = {}
    for run in _of_sweeps(client):
        sweeps.setdefault((run.info.experiment_id, run.data.tags["sweep_id"]), []).append(run)
    return outdated(sweeps, before)


def outdated(sweeps: Mapping[tuple[str, str], Sequence[Run]], before: float) -> OldSweeps:
    """Return which sweeps may go, given the runs of each by experiment and sweep."""
    runs: list[Run] = []
    gone, kept, seen = 0, [], set()
    for (experiment, sweep), its in sorted(sweeps.items(), key=lambda each: _last(each[1]), reverse=True):
        is_last_result = experiment not in seen and any(run.info.status == "FINISHED" for run in its)
        if is_last_result:
            seen.add(experiment)
        if _last(its) >= before * 1000:
            continue
        if is_last_result:
            kept.append(sweep)
        else:
            gone += 1
            runs += its
    return OldSweeps(tuple(runs), gone, tuple(kept))


def delete_runs(uri: str, runs: Sequence[Run]) -> str:
    """Delete runs; those of a local store with their rows and files.

    Returns
    -------
    What is left to do where only the server's own machine can free the space, '' if nothing.

    Raises
    ------
    RetentionError
        If MLflow's own command fails.
    """
    client = MlflowClient(uri)
    for run in runs:
        client.delete_run(run.info.run_id)
    if not runs:
        return ""
    if not uri.startswith("sqlite:"):
        return "their rows and files go by `mlflow gc --backend-store-uri DATABASE` on the machine of the server"
    for start in range(0, len(runs), _AT_ONCE):
        ids = ",".join(run.info.run_id for run in runs[start : start + _AT_ONCE])
        where = ["--backend-store-uri", uri, "--tracking-uri", uri]
        words = [sys.executable, "-m", "mlflow", "gc", *where, "--run-ids", ids]
        done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603 - our words
        if done.returncode:
            message = f"mlflow gc: {without_secrets((done.stderr + done.stdout).strip().splitlines()[-1])}"
            raise RetentionError(message)
    return ""


def _last(runs: Sequence[Run]) -> float:
    """Return when the last of some runs ended, milliseconds; one that has not ended is of no age."""
    return max(float("inf") if run.info.end_time is None else run.info.end_time for run in runs)


def _of_sweeps(client: MlflowClient) -> Iterator[Run]:
    experiments = [each.experiment_id for each in _all(client.search_experiments)]
    for experiment in experiments:
        yield from _all(client.search_runs, [experiment], filter_string="tags.sweep_id LIKE '%'")


def _all(search: Callable[..., Any], *rest: object, **options: object) -> Iterator[Any]:
    """Yield what MLflow gives page by page."""
    token = None
    while True:
        page = search(*rest, max_results=_PAGE, page_token=token, **options)
        yield from page
        token = page.token
        if not token:
            return
