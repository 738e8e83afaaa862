"""The MLflow record of a run: one MLflow run per flow run, written after the computation, with explicit run ids."""

import hashlib
import shlex
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from alembic.util.exc import CommandError
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from flows.home import Home
from flows.interruption import farewell
from flows.new_databases.making import make_mlflows
from flows.secrets import without_secrets
from flows.summary import FlowFacts, Summary, Tracking
from flows.tracking.comparison import (
    PAGES,
    coverage_of,
    dataset,
    ordered,
    pages_of,
    run_name,
    table_of_runs,
    view_of_runs,
    write_csv,
)
from flows.tracking.markdown import code, escaped
from flows.tracking.metrics import (
    Measures,
    glossary,
    matrix_files,
    measures,
    pair_columns,
    parameters,
    units_of,
)
from flows.tracking.outbox import keep, output_id, record_path
from levelmatch_core.matching.corrections import FieldMatch
from levelmatch_core.pipeline import RunResult
from levelmatch_core.process.log_context import logger_of
from levelmatch_core.process.versions import levelmatch_version
from levelmatch_core.products.report import REPORT

logger = logger_of(__name__)

_BATCH = 1000  # the largest number of metrics that a server accepts at once
_PARAMETERS = 100
_REFERENCES = 20

_KIND = "custom_model_development"
"""MLflow's name for experiments with parameters and metrics; their pages show these instead of language models."""

_LONGEST_NOTE = 7500
"""Largest length of a description: MLflow accepts 8,000 characters."""

_PATIENCE = 300.0
"""Time limit for recording a run, seconds."""

_FAULTS = (MlflowException, SQLAlchemyError, CommandError, sqlite3.Error, OSError)
"""Errors of a store; a database of a later version of MLflow is alembic's."""

_WHOLE = "levelmatch.recorded"
"""Tag of a run whose record is complete; its value is the number of the attempt."""


class Tracker:
    """Writes to a tracking store.

    Parameters
    ----------
    home
        Determines the store, and the folder of artifacts that are not kept by a server.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._uri = home.tracking_uri
        self._local = urlsplit(self._uri).scheme not in {"http", "https"}

    def log(self, result: RunResult, summary: Summary, facts: FlowFacts) -> Tracking:
        """Record a run, or tag the last run of this output as checked if nothing changed.

        A run that ends quarantined, and one that is retried, have a record of their own in any case. If the store is
        unreachable, only the record is lost, which the result reports.
        """
        checked = not result.changed and not summary.quarantined and facts.attempt == 1
        if not checked or not record_path(self._home, result.request.output).exists():
            keep(self._home, result, summary, facts)
        return self._attempt(result, summary, facts, checked=checked)

    def send(self, result: RunResult, summary: Summary, facts: FlowFacts) -> Tracking:
        """Record a run that ended earlier, in the same way as :meth:`log`; existing records are left alone."""
        return self._attempt(result, summary, facts, again=True)

    def _attempt(
        self, result: RunResult, summary: Summary, facts: FlowFacts, *, checked: bool = False, again: bool = False
    ) -> Tracking:
        run: Run | None = None
        try:
            client = self._client()
            experiment = self._experiment(client, result.request.program)
            if checked:
                run = _last_of(client, experiment, result.request.output)
                if run is not None:
                    client.set_tag(run.info.run_id, "levelmatch.checked", f"{_now()} by flow run {facts.flow_run_id}")
                    return self._tracking(run, new=False)
            if again:
                run = _run_of(client, experiment, facts)
                if run is not None and run.data.tags.get(_WHOLE) == str(facts.attempt):
                    return self._tracking(run, new=False)
            with _killed_if_interrupted(client, lambda: self._open(client, experiment, result, facts)) as run:
                self._write(client, run, result, summary, facts)
        except _FAULTS as error:
            what = f"the MLflow record of this run{f' {run.info.run_id}, in part,' if run else ''} is lost"
            lost = (
                f"{what}: {self._plain(error)} (store {without_secrets(self._uri)}); "
                f"`levelmatch log {shlex.quote(str(result.request.output))}` sends it later"
            )
            logger.warning("%s; the outputs are complete", lost)
            return Tracking(store=without_secrets(self._uri), lost=lost)
        return self._tracking(run, new=True)

    def make_store(self) -> None:
        """Create a missing local store. Errors are ignored here, and reported when there is something to record."""
        if self._local:
            with suppress(*_FAULTS):
                self._client()

    def log_failure(
        self, program: str, facts: FlowFacts, reason: str, settings: Mapping[str, object], tags: Mapping[str, str]
    ) -> Tracking | None:
        """Record a failed run with its settings and the reason; return None if the store is unreachable."""
        content = {
            **tags,
            "levelmatch.program": program,
            "levelmatch.failed": reason[:_LONGEST_NOTE],
            "levelmatch.version": levelmatch_version(),
            "mlflow.note.content": f"**Failed: {escaped(reason)[:_LONGEST_NOTE]}**",
            "prefect.flow_run_id": facts.flow_run_id,
            "prefect.flow_run_name": facts.name,
            "prefect.tags": ", ".join(facts.tags),
        }
        band = settings.get("band")
        try:
            client = self._client()
            experiment = self._experiment(client, program)
            name, began = run_name(program, str(band) if band else None, facts), round(facts.started * 1000)
            opening = partial(client.create_run, experiment, start_time=began, tags=content, run_name=name)
            with _killed_if_interrupted(client, opening) as run:
                client.log_batch(run.info.run_id, params=[Param(name, str(value)) for name, value in settings.items()])
                client.set_terminated(run.info.run_id, "FAILED")
        except _FAULTS as error:
            logger.warning("the MLflow record of the failed run %s is lost: %s", facts.name, self._plain(error))
            return None
        return self._tracking(run, new=True)

    def add(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Add tags to a recorded run; if the store is unreachable, they are lost."""
        try:
            self._client().log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
        except _FAULTS as error:
            logger.warning("tags of the MLflow run %s are lost: %s", run_id, self._plain(error))

    def _plain(self, error: BaseException) -> str:
        """Return the message of an error in one line, without user and password of the store's address."""
        text = without_secrets((str(error).strip() or type(error).__name__).splitlines()[0])
        secrets = urlsplit(self._uri).netloc.rpartition("@")[0]
        for secret in filter(None, (secrets, secrets.partition(":")[2])):
            text = text.replace(secret, "...")
        return text[:400]

    def _client(self) -> "_Client":
        """Return a client whose store exists: a local store and its schema are created by one process at a time."""
        if not self._local:
            return _Client(tracking_uri=self._uri)
        with self._home.alone("mlflow"):
            make_mlflows(self._home)
            client = _Client(tracking_uri=self._uri)
            client.search_experiments(max_results=1)
        return client

    def _experiment(self, client: MlflowClient, program: str) -> str:
        """Return the id of the program's experiment, which is created if necessary, or restored if it was deleted.

        Its description is set unless the user has written another one.
        """
        known = client.get_experiment_by_name(program)
        if known is None:
            place = (self._home.artifacts / hashlib.sha256(program.encode()).hexdigest()[:16]).as_uri()
            try:
                created = client.create_experiment(program, artifact_location=place if self._local else None)
                known = client.get_experiment(created)
            except MlflowException:  # another run of the program was faster
                known = client.get_experiment_by_name(program)
                if known is None:
                    raise
        if known.lifecycle_stage == "deleted":
            client.restore_experiment(known.experiment_id)
        number = str(known.experiment_id)
        tags = {"mlflow.note.content": glossary(table_of_runs(number)), "mlflow.experimentKind": _KIND}
        for name, value in {**tags, **view_of_runs()}.items():
            if name not in known.tags:
                client.set_experiment_tag(number, name, value)
        return number

    def _open(self, client: MlflowClient, experiment: str, result: RunResult, facts: FlowFacts) -> Run:
        """Return the run of this flow run: that of an earlier attempt, else a new one."""
        found = _run_of(client, experiment, facts)
        if found is not None:
            client.set_terminated(found.info.run_id, "RUNNING")
            return found
        request = result.request
        tags = {
            "levelmatch.program": request.program,
            "levelmatch.band": request.settings.band or "all",
            "levelmatch.output": str(request.output),
            "levelmatch.output_id": output_id(request.output),
            "levelmatch.grade": result.record.grade.value,
            "levelmatch.version": levelmatch_version(),
            "levelmatch.instruments": ", ".join(sorted({match.field.instrument for match in result.matches})),
            "prefect.flow_run_id": facts.flow_run_id,
            "prefect.flow_run_name": facts.name,
            "prefect.tags": ", ".join(facts.tags),
        }
        name = run_name(request.program, request.settings.band, facts)
        return client.create_run(experiment, start_time=round(facts.started * 1000), tags=tags, run_name=name)

    def _write(self, client: MlflowClient, run: Run, result: RunResult, summary: Summary, facts: FlowFacts) -> None:
        run_id = run.info.run_id
        settings = parameters(result.request.settings)
        listed = [Param(name, value) for name, value in settings.items() if name not in run.data.params]
        for start in range(0, len(listed), _PARAMETERS):
            client.log_batch(run_id, params=listed[start : start + _PARAMETERS])
        client.log_inputs(run_id, datasets=[dataset(result)])
        found = measures(result, summary)
        found = replace(found, metrics=ordered({**found.metrics, **coverage_of(result)}))
        self._write_metrics(client, run_id, found, facts, round((facts.started + result.seconds) * 1000))
        tags = {
            "mlflow.note.content": description(summary),
            "levelmatch.unit": ", ".join(sorted(units_of(summary))),
            "levelmatch.partial": str(summary.partial).lower(),
            "levelmatch.reference": references(summary),
            "levelmatch.numbers_left_out": str(found.left_out),
            "levelmatch.tries": str(facts.attempt),
            "levelmatch.settings_changed": result.record.changed_settings,
        }
        client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
        self._write_files(client, run_id, result, facts)
        client.set_tag(run_id, _WHOLE, str(facts.attempt))
        client.set_terminated(run_id, "FAILED" if summary.quarantined else "FINISHED")

    def _write_metrics(self, client: MlflowClient, run_id: str, found: Measures, facts: FlowFacts, now: int) -> None:
        """Write metrics with the attempt as their step, and series only once: a rerun never repeats the same steps.

        `now` is the end of the run, milliseconds: a number that is sent again is identical for the store.
        """
        metrics = [Metric(name, value, now, facts.attempt - 1) for name, value in found.metrics.items()]
        for name, steps in found.series.items():
            key = name
            if facts.attempt > 1:
                before = [metric.value for metric in client.get_metric_history(run_id, name)]
                if before == list(steps):
                    continue
                key = f"{name}.try_{facts.attempt}" if before else name
            metrics += [Metric(key, value, now, step) for step, value in enumerate(steps)]
        for start in range(0, len(metrics), _BATCH):
            client.log_batch(run_id, metrics=metrics[start : start + _BATCH])

    def _write_files(self, client: MlflowClient, run_id: str, result: RunResult, facts: FlowFacts) -> None:
        again = f"_try_{facts.attempt}" if facts.attempt > 1 else ""  # log_table would append
        there = {file.path for file in client.list_artifacts(run_id, "tables")}
        for name, columns in zip(("pairs", "rejected_pairs"), pair_columns(result), strict=True):
            if f"tables/{name}{again}.json" not in there:
                client.log_table(run_id, columns, f"tables/{name}{again}.json")
        folder = result.request.output
        for name in ("run.json", "pairs.ecsv", "corrections.ecsv"):
            client.log_artifact(run_id, str(folder / name))
        with tempfile.TemporaryDirectory() as scratch:
            write_csv(folder, Path(scratch))
            client.log_artifacts(run_id, scratch, "tables")
        for file in result.record.files:
            if file.name == REPORT:
                client.log_artifact(run_id, str(folder / file.name))
            if file.name.startswith("figures/"):
                client.log_artifact(run_id, str(folder / file.name), Path(file.name).parent.as_posix())
        for match in result.matches:
            with tempfile.TemporaryDirectory() as scratch:
                for name, content in matrix_files(match):
                    Path(scratch, name).write_bytes(content)
                _picture_matrices(match, Path(scratch))
                client.log_artifacts(run_id, scratch, "matrices")

    def _tracking(self, run: Run, *, new: bool) -> Tracking:
        run_id, experiment = run.info.run_id, run.info.experiment_id
        server = pages_of(self._home, self._uri)
        return Tracking(
            store=without_secrets(self._uri),
            run_id=run_id,
            experiment_id=experiment,
            url=f"{server}/#/experiments/{experiment}/runs/{run_id}?{PAGES}",
            new=new,
        )


def _picture_matrices(match: FieldMatch, scratch: Path) -> None:
    """Draw the matrices of each stage, in addition to their numbers."""
    # imported here: matplotlib is slow to import, and a run without changes draws nothing
    from levelmatch_core.products.drawings.files import matrices_file  # noqa: PLC0415

    for stage in match.stages:
        content = matrices_file(match, stage)
        if content is not None:
            (scratch / f"{match.field.name}.{stage.stage}.svg").write_bytes(content)


def description(summary: Summary) -> str:
    """Return the description of the run as Markdown: verdict, problems, and the results of each field."""
    fields = [
        f"| {escaped(each.field)} | {each.before:.4g} | {each.after:.4g} | {escaped(each.unit or 'data unit')} "
        f"| {each.used} | {sum(each.rejected.values())} | {each.components} |"
        for each in summary.residuals
        if each.used
    ]
    table = [
        "| field | rms before | rms after | unit | pairs used | rejected | components |",
        "|---|---|---|---|---|---|---|",
    ]
    lines = [
        f"**Grade: {escaped(summary.told)}**",
        "",
        escaped(summary.verdict),
        "",
        *([*table, *fields, ""] if fields else []),
        f"Outputs: {code(summary.output)}",
    ]
    text = "\n".join(lines)[:_LONGEST_NOTE]
    told = [f"- {escaped(f'{problem.name}: {problem.status}: {problem.reason}')}" for problem in summary.problems]
    shown = _fitting(told, _LONGEST_NOTE - len(text))
    more = [f"- and {len(told) - len(shown)} more, in run.json"] if len(shown) < len(told) else []
    return "\n".join([text, "", *shown, *more]).strip()


def _fitting(lines: list[str], room: int) -> list[str]:
    """Return the first lines, at most 50, that fit into `room` characters, leaving space for one more."""
    shown: list[str] = []
    for line in lines[:50]:
        room -= len(line) + 1
        if room < 100:
            break
        shown.append(line)
    return shown


def references(summary: Summary) -> str:
    """Return the first few reference tiles, field by field; `?` marks a provisional one."""
    shown = [part.shown_reference for field in summary.fields for part in field.components if part.reference]
    return ", ".join([*shown[:_REFERENCES], *([f"and {len(shown) - _REFERENCES} more"] if shown[_REFERENCES:] else [])])


class _Client(MlflowClient):
    """A client whose calls are made one by one, with a time limit for all together: a store may answer, but slowly.

    Attributes
    ----------
    one_by_one
        The lock that each call holds: a local store refuses what is written while another thread writes.
    """

    def __init__(self, tracking_uri: str) -> None:
        self.one_by_one = threading.RLock()
        self._end = time.monotonic() + _PATIENCE
        super().__init__(tracking_uri=tracking_uri)

    def __getattribute__(self, name: str) -> Any:  # noqa: ANN401 - whatever a client has
        found = super().__getattribute__(name)
        if name.startswith("_") or not callable(found):
            return found

        def call(*arguments: object, **named: object) -> object:
            with self.one_by_one:
                if time.monotonic() > self._end:
                    message = f"the store is too slow: not done in {_PATIENCE:.0f} s"
                    raise TimeoutError(message)
                return found(*arguments, **named)

        return call


@contextmanager
def _killed_if_interrupted(client: _Client, opening: Callable[[], Run]) -> Iterator[Run]:
    """Open a run for the context; if this process is interrupted in it, the run is ended, and nothing more written."""
    run: Run | None = None

    def end() -> None:
        client.one_by_one.acquire()  # waits for a run that is being opened, or written; never released
        if run is not None:
            client.set_terminated(run.info.run_id, "KILLED")

    with farewell(end):
        with client.one_by_one:
            run = opening()
        yield run


def _run_of(client: MlflowClient, experiment: str, facts: FlowFacts) -> Run | None:
    found = client.search_runs(
        [experiment], f"tags.`prefect.flow_run_id` = '{facts.flow_run_id}'", max_results=1, order_by=["start_time"]
    )
    return found[0] if found else None


def _last_of(client: MlflowClient, experiment: str, output: Path) -> Run | None:
    found = client.search_runs(
        [experiment],
        f"tags.`levelmatch.output_id` = '{output_id(output)}'",
        max_results=1,
        order_by=["attributes.start_time DESC"],
    )
    return found[0] if found else None


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


__all__ = ["Tracker", "description", "output_id"]
