"""`levelmatch log`: the MLflow record of a finished run, sent later by the same code that sends it at once.

What the record is made of is kept in LEVELMATCH_HOME whenever a run is recorded, one small file for each output folder.
"""

import gzip
import hashlib
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import cloup
from pydantic import ValidationError

from flows.cli import OK, TROUBLE, clean_errors
from flows.home import Home, prepare_environment
from flows.options import examples, type_of_path
from flows.summary import Summary
from levelmatch_core.errors import UsageError
from levelmatch_core.images.exposure import Inventory
from levelmatch_core.matching.corrections import FieldMatch
from levelmatch_core.pipeline import Request, RunResult
from levelmatch_core.products.folder import RUN, note_in_log
from levelmatch_core.products.runrecord import RunRecord, json_bytes
from levelmatch_core.products.undo import finished_record
from levelmatch_core.records import Record

if TYPE_CHECKING:
    from flows.tracking import FlowFacts

logger = logging.getLogger(__name__)


class KeptFacts(Record):
    """What is known of the flow run, as :class:`flows.tracking.FlowFacts` has it."""

    flow_run_id: str
    name: str
    started: float
    attempt: int = 1


class KeptRun(Record):
    """All that the MLflow record of a run is made of."""

    request: Request
    inventory: Inventory
    matches: tuple[FieldMatch, ...]
    record: RunRecord
    seconds: float
    summary: Summary
    facts: KeptFacts

    @property
    def result(self) -> RunResult:
        """The run's result, as it was."""
        return RunResult(self.request, self.inventory, self.matches, self.record, changed=True, seconds=self.seconds)


def keep(home: Home, result: RunResult, summary: Summary, facts: "FlowFacts") -> None:
    """Keep what the record of a run is made of; a disk that takes it not costs that, and is said."""
    kept = KeptRun(
        request=result.request,
        inventory=result.inventory,
        matches=result.matches,
        record=result.record,
        seconds=result.seconds,
        summary=summary,
        facts=KeptFacts(**vars(facts)),
    )
    place = place_of(home, result.request.output)
    temporary = place.with_suffix(f".{os.getpid()}.part")
    try:
        place.parent.mkdir(mode=0o700, exist_ok=True)
        temporary.write_bytes(gzip.compress(json_bytes(kept.to_json()), compresslevel=4, mtime=0))
        temporary.replace(place)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        logger.warning("%s: %s; `levelmatch log` cannot send this run's record later", place, error.strerror or error)


def place_of(home: Home, output: Path) -> Path:
    """Return where the record of an output's last run is kept."""
    return home.root / "records" / f"{output_id(output)}.json.gz"


def output_id(output: Path) -> str:
    """Return the digest by which the runs of one output folder are found: a path may hold any sign, a filter not."""
    return hashlib.sha256(str(output.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def kept_run(home: Home, folder: Path) -> KeptRun:
    """Return what was kept of the run that made an output.

    Raises
    ------
    UsageError
        If the folder is no finished output, or nothing, or another run, is kept of it.
    """
    record = finished_record(folder)
    place = place_of(home, folder)
    again = "run it again with the same settings: nothing is done twice, and the record is sent"
    try:
        kept = KeptRun.model_validate_json(gzip.decompress(place.read_bytes()))
    except (OSError, EOFError, ValueError, ValidationError) as error:
        why = "holds no record of" if isinstance(error, FileNotFoundError) else "holds a damaged record of"
        message = f"LEVELMATCH_HOME {home.root} {why} the run that made {folder}; {again}"
        raise UsageError(message) from error
    if kept.record != record:
        message = f"{folder / RUN}: not of the run that LEVELMATCH_HOME {home.root} holds a record of; {again}"
        raise UsageError(message)
    return kept


@cloup.command(
    name="log", short_help="Send a finished run's record to MLflow.", epilog=examples("levelmatch log matched")
)
@cloup.argument("folder", type=type_of_path, metavar="DIR", help="The output of a finished run.")
def log(folder: Path) -> None:
    """Send the record of the run that made DIR to MLflow, where that was out of reach when the run ended.

    The store is the one that MLFLOW_TRACKING_URI names, else that of LEVELMATCH_HOME. A record that is there already
    is left alone, one that is there in part is made whole.

    Exit code: 0 the record is there; 1 the store is out of reach; 2 DIR is no finished output, or nothing is known of
    its run.
    """
    with clean_errors():
        home = prepare_environment()
        kept = kept_run(home, folder)
        from flows.tracking import FlowFacts, Tracker  # noqa: PLC0415 - MLflow takes seconds to import

        tracking = Tracker(home).send(kept.result, kept.summary, FlowFacts(**dict(kept.facts)))
        if tracking.lost:
            cloup.echo(tracking.lost, err=True)
            sys.exit(TROUBLE)
        if tracking.new:
            note_in_log(folder, {"mlflow_run": tracking.run_id})
    cloup.echo(f"MLflow: run {tracking.run_id} in {tracking.store}{'' if tracking.new else ' (was there)'}")
    sys.exit(OK)
